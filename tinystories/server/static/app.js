// The page: requests stories from the server and shows them while they are generated.
// Data flows one way: settings.js makes a request from the form, stream.js sends it, writing.js makes a record of the
// answer, and story.js and history.js show it. This module connects them to buttons and keys; no module imports it.

import { offerBeginnings, surprise } from "./beginnings.js";
import { addColumn, offerColumns, removeColumn, requestsSideBySide, showColumns } from "./compare.js";
import { unfold } from "./composer.js";
import { openHistory } from "./history.js";
import { reportInvalid, showLength } from "./validation.js";
import { moveToStep, offerLearning, watchItLearn } from "./learn.js";
import { linkTo, openLink } from "./link.js";
import { $ } from "./page.js";
import { pictureOf } from "./picture.js";
import { openReader } from "./reader.js";
import { asTextFile, origin, wholeText } from "./record.js";
import { connect, info, onInfo } from "./server.js";
import {
  chosenSeed,
  newSeed,
  offerSettings,
  requestFor,
  showPreset,
  showSettings,
  withAlternatives,
} from "./settings.js";
import { copy, download } from "./share.js";
import { addSliders } from "./sliders.js";
import { toggleSharing, viewOf } from "./story.js";
import { startTheme } from "./theme.js";
import { hideTip, moveFrom, tipped, watchWords } from "./probabilities.js";
import { continueStory, running, stop, writeStories } from "./writing.js";

function showInfo(first) {
  offerSettings(first);
  offerColumns();
  offerLearning();
  showLength();
  if (!first) return;
  openHistory();
  takeLink();
}

/** A link with the settings of a story: one press of the focused button writes it. */
function takeLink() {
  if (!info || running || !openLink()) return;
  unfold();
  showLength();
  $("generate").focus();
}

/** The form is in order, and its beginning is not empty. */
function isReady() {
  if (running || reportInvalid()) return false;
  surprise();
  $("linked").hidden = true;
  return true;
}

function submit() {
  if (!isReady()) return;
  const one = () => [requestFor($("model").value, $("preset").value, chosenSeed())];
  writeStories($("compare").checked ? requestsSideBySide() : one());
}

/** The same story from the same seed. */
function again(view) {
  const { request, seed } = view.record;
  const tidy = request.tidy && !$("probabilities").checked;
  if (!running) writeStories([{ ...withAlternatives(request), tidy, seed }], [view]);
}

function keyPressed(event) {
  if (event.key === "Escape") {
    if (tipped) hideTip();
    else if (!$("reader").open) stop();
  } else if (event.target.matches?.(".word") && /^(Arrow|Home|End)/.test(event.key)) {
    event.preventDefault();
    moveFrom(event.target, event.key);
  } else if (event.target === $("prompt") && event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    submit();
  }
}

const onSheet = {
  continue: (view) => running || continueStory(view),
  again,
  copy: ({ record }, button) => copy(wholeText(record), button),
  read: ({ record }) => openReader(record),
  share: toggleSharing,
  link: ({ record }, button) => copy(linkTo(record), button),
  picture: savePicture,
  text: ({ record }) => download("story.txt", "text/plain", asTextFile(record)),
};

function sheetClicked({ target: button }) {
  if (button.matches("button")) onSheet[button.className]?.(viewOf(button), button);
}

async function savePicture({ record, sheet }) {
  const picture = await pictureOf(record.request.prompt, record.text, origin(record), sheet);
  download("story.png", "image/png", picture);
}

function choose(beginning) {
  $("prompt").value = beginning;
  showLength();
  $("prompt").focus();
}

function listenToForm() {
  $("form").onsubmit = (event) => {
    event.preventDefault();
    submit();
  };
  $("prompt").oninput = showLength;
  $("stop").onclick = stop;
  $("new").onclick = ({ detail }) => detail > 1 || unfold(); // a double click is one on Stop, which was in its place
  $("learn").onclick = () => isReady() && watchItLearn();
  $("step").oninput = moveToStep;
  $("settings").oninput = (event) => (event.target.id === "preset" ? showPreset() : showSettings());
  $("probabilities").onchange = showSettings;
  $("new-seed").onclick = newSeed;
  $("compare").onchange = showColumns;
  $("add").onclick = () => addColumn(info.model, info.default_preset);
  $("columns").onclick = ({ target }) => target.matches(".remove") && removeColumn(target.closest("li"));
}

function listen() {
  listenToForm();
  document.addEventListener("keydown", keyPressed);
  addEventListener("hashchange", takeLink);
  $("stories").onclick = sheetClicked;
  $("leave").onclick = () => $("reader").close();
}

startTheme();
addSliders();
offerBeginnings(choose);
listen();
watchWords();
onInfo(showInfo);
connect();
