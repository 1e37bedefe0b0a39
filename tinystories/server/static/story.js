// A story on the page: its sheet, its text, and the line below that says how it ended.

import { $, fromTemplate, make } from "./page.js";
import { canContinue, limitOfContinuing } from "./continuing.js";
import { facts } from "./record.js";
import { modelName } from "./server.js";
import { OWN } from "./settings.js";

const SURENESS = [0.01, 0.05, 0.2]; // below the first: a surprise; from the last on: sure
const sheets = new WeakMap(); // an element of a sheet -> its view
export const piecesOf = new WeakMap(); // an element of a word -> its pieces

/** Replace the sheets on the page by new ones, one for each request; returns their views. */
export function newViews(requests) {
  const views = requests.map(() => newView());
  $("stories").replaceChildren(...views.map(({ sheet }) => sheet));
  $("stories").dataset.count = views.length;
  $("empty").hidden = $("learning").hidden = true;
  if (requests.length > 1) views.forEach((view, i) => entitle(view, requests[i]));
  return views;
}

function newView() {
  const sheet = fromTemplate("sheet-template");
  const find = (selector) => sheet.querySelector(selector);
  find(".link").hidden = location.protocol === "file:"; // nobody else can open that address
  const parts = { body: ".story", note: ".note", legend: ".legend", row: ".row", sharing: ".sharing" };
  const view = { sheet };
  for (const [name, selector] of Object.entries(parts)) view[name] = find(selector);
  sheets.set(sheet, view);
  return view;
}

/** The view of the sheet that a button is on. */
export function viewOf(button) {
  return sheets.get(button.closest(".sheet"));
}

function entitle(view, request) {
  const title = view.sheet.querySelector(".title");
  title.textContent = `${modelName(request.model)}, ${request.preset ?? OWN}`;
  title.hidden = false;
}

export function showStory(view, record) {
  Object.assign(view, { record, paragraph: null, word: null, words: [] });
  view.body.replaceChildren();
  view.row.hidden = view.sharing.hidden = view.legend.hidden = true;
  delete view.sheet.dataset.outcome;
  write(view, record.request.prompt, "beginning");
  if (!record.text) return;
  if (record.request.alternatives && record.pieces.length) for (const piece of record.pieces) writePiece(view, piece);
  else write(view, record.text, "generated");
}

export function showEnding(view, record) {
  const bad = record.outcome === "failed" || record.outcome === "timeout";
  const goesOn = canContinue(record);
  view.note.replaceChildren(
    make("span", { className: bad ? "problem" : "ending", textContent: record.said }),
    make("span", { className: "limit", textContent: goesOn ? limitOfContinuing(record) : "" }),
    make("span", { className: "facts", textContent: record.text ? facts(record) : "" }),
  );
  view.sheet.dataset.outcome = record.outcome;
  view.legend.hidden = !view.words.length;
  showButtons(view, record, goesOn);
}

function showButtons({ row }, { text }, goesOn) {
  const find = (name) => row.querySelector(`.${name}`);
  row.hidden = false;
  find("continue").hidden = !goesOn;
  for (const name of ["copy", "read", "share"]) find(name).hidden = !text;
  find("again").textContent = text ? "Again" : "Try again";
  find("share").setAttribute("aria-expanded", "false");
}

/** Show or hide the ways to share a story. */
export function toggleSharing({ row, sharing }) {
  sharing.hidden = !sharing.hidden;
  row.querySelector(".share").setAttribute("aria-expanded", String(!sharing.hidden));
}

/** Append text to a story; each line is a paragraph. */
export function write(view, text, className) {
  text.split(/\r\n|\r|\n/).forEach((line, number) => {
    if (number > 0) view.paragraph = null;
    if (line) paragraphOf(view).append(make("span", { className, textContent: line }));
  });
}

function paragraphOf(view) {
  view.paragraph ??= view.body.appendChild(make("p", { dir: "auto" }));
  return view.paragraph;
}

export function writePiece(view, piece) {
  if (piece.probability === undefined) return write(view, piece.token, "generated");
  // a piece that begins with a space begins a word; any other piece continues the word before it
  const [, before, core, after] = piece.token.match(/^(\s*)(.*?)(\s*)$/s);
  if (before) endWord(view, before);
  if (core) writeWord(view, piece, core);
  if (after) endWord(view, after);
}

function endWord(view, space) {
  view.word = null;
  write(view, space, "generated");
}

function writeWord(view, piece, text) {
  if (!view.word) {
    view.word = make("span", { className: "generated word", tabIndex: view.words.length ? -1 : 0 });
    paragraphOf(view).append(view.word);
    view.words.push(view.word);
    piecesOf.set(view.word, []);
  }
  view.word.append(text);
  const pieces = piecesOf.get(view.word);
  pieces.push(piece);
  view.word.dataset.sure = SURENESS.filter((limit) => probabilityOf(pieces) >= limit).length;
}

export function probabilityOf(pieces) {
  return pieces.reduce((product, piece) => product * piece.probability, 1);
}
