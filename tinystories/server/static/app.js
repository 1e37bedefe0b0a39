// The page: requests stories from the server and shows them while they are generated.
// Data flows one way: settings.js makes a request from the form, stream.js sends it, writing.js makes a record of the
// answer, and story.js and history.js show it. This module connects them to buttons and keys; no module imports it.

import { addColumn, offerColumns, removeColumn, requestsSideBySide, showColumns, watchItLearn } from "./compare.js";
import { downloadAll } from "./history.js";
import { reportInvalid, showLength } from "./validation.js";
import { $, make } from "./page.js";
import { openReader } from "./reader.js";
import { wholeText } from "./record.js";
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
import { copy } from "./share.js";
import { newViews, viewOf } from "./story.js";
import { startTheme } from "./theme.js";
import { hideTip, moveFrom, tipped, watchWords } from "./probabilities.js";
import { run, running, stop } from "./writing.js";

const BEGINNINGS = [
  "Once upon a time, there was a little fox who",
  "One rainy day, Lily found a",
  "The dragon was afraid of",
  "Tom and his dog went to the sea.",
];

function showInfo(first) {
  offerSettings(first);
  offerColumns();
  showLength();
}

function submit() {
  if (running || reportInvalid()) return;
  const one = () => [requestFor($("model").value, $("preset").value, chosenSeed())];
  const requests = $("compare").checked ? requestsSideBySide() : one();
  const views = newViews(requests);
  run(requests.map((request, i) => ({ view: views[i], request })));
}

/** The same story from the same seed. */
function again(view) {
  const { request, seed } = view.record;
  const tidy = request.tidy && !$("probabilities").checked;
  if (!running) run([{ view, request: { ...withAlternatives(request), tidy, seed } }]);
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

function sheetClicked({ target: button }) {
  if (button.matches(".copy")) copy(wholeText(viewOf(button).record), button);
  else if (button.matches(".read")) openReader(viewOf(button).record);
  else if (button.matches(".again")) again(viewOf(button));
}

function columnsClicked({ target: button }) {
  if (button.matches(".remove")) removeColumn(button.closest("li"));
}

function choose(beginning) {
  $("prompt").value = beginning;
  showLength();
  $("prompt").focus();
}

function showBeginnings() {
  for (const beginning of BEGINNINGS) {
    const textContent = beginning.replace(/\w$/, "$& …");
    const button = make("button", { type: "button", textContent, onclick: () => choose(beginning) });
    $("beginnings").append(make("li", {}, button));
  }
}

function listen() {
  $("form").onsubmit = (event) => {
    event.preventDefault();
    submit();
  };
  document.addEventListener("keydown", keyPressed);
  $("prompt").oninput = showLength;
  $("stop").onclick = stop;
  $("settings").oninput = (event) => (event.target.id === "preset" ? showPreset() : showSettings());
  $("probabilities").onchange = showSettings;
  $("new-seed").onclick = newSeed;
  $("compare").onchange = showColumns;
  $("add").onclick = () => addColumn(info.model, info.default_preset);
  $("learn").onclick = watchItLearn;
  $("columns").onclick = columnsClicked;
  $("stories").onclick = sheetClicked;
  $("download-all").onclick = downloadAll;
  $("leave").onclick = () => $("reader").close();
}

startTheme();
showBeginnings();
listen();
watchWords();
onInfo(showInfo);
connect();
