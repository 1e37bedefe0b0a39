// The stories of this visit, in the memory of the page only: nothing is stored.

import { showColumns } from "./compare.js";
import { showLength } from "./validation.js";
import { $, fromTemplate } from "./page.js";
import { asJson, asText, facts, settingsInWords, wholeText } from "./record.js";
import { restore } from "./settings.js";
import { copy, download } from "./share.js";
import { newViews, showEnding, showStory, write } from "./story.js";

const records = []; // newest last

export function remember(record) {
  records.push(record);
  const number = records.length;
  const entry = fromTemplate("entry-template");
  const find = (selector) => entry.querySelector(selector);
  write({ paragraph: find(".opening") }, record.request.prompt.replace(/\s+/g, " "), "beginning");
  write({ paragraph: find(".opening") }, record.text.slice(0, 200).replace(/\s+/g, " "), "generated");
  find(".facts").textContent = `${facts(record)} · ${settingsInWords(record)} · ${record.said}`;
  find(".open").onclick = () => openAgain(record);
  find(".copy").onclick = (event) => copy(wholeText(record), event.target);
  find(".text").onclick = () => download(`story-${number}.txt`, "text/plain", wholeText(record) + "\n");
  find(".json").onclick = () => download(`story-${number}.json`, "application/json", asText(asJson(record)));
  for (const [name, label] of Object.entries({ text: "Download as .txt", json: "Download as .json" })) {
    find(`.${name}`).setAttribute("aria-label", label);
  }
  $("entries").prepend(entry);
  $("history").hidden = false;
  $("count").textContent = String(number);
}

export function downloadAll() {
  download("stories.json", "application/json", asText(records.map(asJson)));
}

/** Show the story again, and put its settings into the form. */
function openAgain(record) {
  restore(record);
  showLength();
  $("compare").checked = false;
  showColumns();
  const [view] = newViews([record.request]);
  showStory(view, record);
  showEnding(view, record);
  view.sheet.focus();
}
