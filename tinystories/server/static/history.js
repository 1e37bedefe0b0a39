// The stories that were written here: the list below the page, kept in the browser.

import { showColumns } from "./compare.js";
import { fold } from "./composer.js";
import { $, fromTemplate, say } from "./page.js";
import { asJson, asJsonFile, asTextFile, facts, settingsInWords, wholeText } from "./record.js";
import { restore } from "./settings.js";
import { copy, download } from "./share.js";
import { load, MOST_STORIES, onStored, save } from "./storage.js";
import { newViews, showEnding, showStory, write } from "./story.js";
import { showLength } from "./validation.js";

let records = []; // oldest first
let deleted = []; // those that Undo brings back

export function openHistory() {
  refresh();
  onStored(() => {
    refresh();
    showHistory();
  });
  showHistory();
  $("download-all").onclick = () => download("stories.json", "application/json", asJsonFile(records.map(asJson)));
  $("delete-all").onclick = deleteAll;
  $("undo").onclick = undo;
}

/** Add a story, or the continuation of one. */
export function remember(record) {
  refresh();
  records = save([...records.filter(({ id }) => id !== record.id), record]);
  deleted = [];
  showHistory();
}

/** Take over what other tabs have stored. The page's own records have more in them: the probabilities. */
function refresh() {
  const stored = load();
  if (!stored) return;
  const own = new Map(records.map((record) => [record.id + record.at, record]));
  records = stored.map((record) => own.get(record.id + record.at) ?? record);
}

function deleteAll() {
  refresh();
  deleted = records;
  records = save([]);
  showHistory();
  say(`${deleted.length} stories deleted.`);
  $("undo").focus();
}

function undo() {
  refresh();
  records = save([...deleted, ...records]);
  deleted = [];
  showHistory();
  $("delete-all").focus();
}

function showHistory() {
  $("entries").replaceChildren(...records.map(entryFor).reverse());
  $("history").hidden = !records.length && !deleted.length;
  $("history-actions").hidden = !records.length;
  $("deleted").hidden = !deleted.length;
  $("deleted-count").textContent = `${deleted.length} ${deleted.length === 1 ? "story" : "stories"} deleted.`;
  $("count").textContent = String(records.length);
  $("kept").textContent = load()
    ? `The newest ${MOST_STORIES}, kept in this browser only.`
    : "Only this page has them: closing or reloading it deletes them.";
}

function entryFor(record, index) {
  const entry = fromTemplate("entry-template");
  const find = (selector) => entry.querySelector(selector);
  const name = `story-${index + 1}`;
  write({ paragraph: find(".opening") }, record.request.prompt.replace(/\s+/g, " "), "beginning");
  write({ paragraph: find(".opening") }, record.text.slice(0, 200).replace(/\s+/g, " "), "generated");
  find(".facts").textContent = `${facts(record)} · ${settingsInWords(record)} · ${record.said}`;
  find(".open").onclick = () => openAgain(record);
  find(".copy").onclick = (event) => copy(wholeText(record), event.target);
  find(".text").onclick = () => download(`${name}.txt`, "text/plain", asTextFile(record));
  find(".json").onclick = () => download(`${name}.json`, "application/json", asJsonFile(asJson(record)));
  return entry;
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
  fold();
  scrollTo(0, 0);
  view.sheet.focus();
}
