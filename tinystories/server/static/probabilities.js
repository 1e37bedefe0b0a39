// The probabilities of the model: a tip for each word with its alternatives, by pointer and by keyboard.

import { $, make } from "./page.js";
import { probabilityOf, piecesOf } from "./story.js";

const tip = $("tip");
export let tipped = null; // the word whose tip is open
let leaving = 0; // the timer that closes it after the pointer has left, which leaves time to move onto the tip

/** Show the tip of the word that has the pointer or the focus. */
export function watchWords() {
  const stories = $("stories");
  stories.addEventListener("mouseover", (event) => {
    if (event.target.matches(".word")) showTip(event.target);
    else leaveTip();
  });
  stories.addEventListener("mouseleave", leaveTip);
  stories.addEventListener("focusin", (event) => event.target.matches(".word") && wordFocused(event.target));
  stories.addEventListener("focusout", hideTip);
  tip.addEventListener("mouseenter", () => clearTimeout(leaving));
  tip.addEventListener("mouseleave", leaveTip);
  addEventListener("resize", () => tipped && placeTip(tipped)); // a phone is turned
}

function wordFocused(word) {
  for (const other of word.closest(".story").querySelectorAll(".word[tabindex='0']")) other.tabIndex = -1;
  word.tabIndex = 0;
  showTip(word);
}

function showTip(word) {
  clearTimeout(leaving);
  if (word === tipped) return;
  hideTip();
  tipped = word;
  word.setAttribute("aria-describedby", "tip");
  tip.replaceChildren(...tipLines(word.textContent, piecesOf.get(word)));
  tip.hidden = false;
  placeTip(word);
}

export function hideTip() {
  clearTimeout(leaving);
  tipped?.removeAttribute("aria-describedby");
  tipped = null;
  tip.hidden = true;
}

function leaveTip() {
  clearTimeout(leaving);
  leaving = setTimeout(() => tipped !== document.activeElement && hideTip(), 200);
}

/** Place the tip below the word, or above it if there is no room; never beyond the edge of the page. */
function placeTip(word) {
  const place = word.getClientRects()[0];
  const { offsetWidth: width, offsetHeight: height } = tip;
  const right = document.documentElement.clientWidth - width - 8;
  const above = place.bottom + height + 8 > innerHeight && place.top > height + 8;
  tip.style.left = `${scrollX + Math.max(8, Math.min(place.left, right))}px`;
  tip.style.top = `${scrollY + (above ? place.top - height - 4 : place.bottom + 4)}px`;
}

function tipLines(text, pieces) {
  const lines = [make("p", {}, make("b", { textContent: text }), ` ${percent(probabilityOf(pieces))}`)];
  if (pieces.length > 1) {
    const parts = pieces.map((piece) => `${piece.token.trim()} ${percent(piece.probability)}`);
    lines.push(make("p", { className: "small", textContent: `in ${parts.length} pieces: ${parts.join(", ")}` }));
  }
  lines.push(make("p", { className: "small", textContent: "What could have come here:" }), bars(pieces[0]));
  return lines;
}

function bars({ token, probability, alternatives = [] }) {
  const all = alternatives.some(({ text }) => text === token)
    ? alternatives
    : [...alternatives, { text: token, probability }];
  const joins = !/^\s/.test(token);
  const list = make("ul");
  for (const { text, probability: share, end } of all) {
    const bar = make("span", { className: "bar" });
    bar.style.setProperty("--share", share);
    const name = make("span", { textContent: end ? "(the end)" : shown(text, joins) });
    const item = make("li", {}, name, bar, percent(share));
    if (text === token && !end) item.className = "chosen";
    list.append(item);
  }
  return list;
}

/** A readable token: line ends by name, and "…" before what would have continued the previous word. */
function shown(text, joins) {
  if (!text.trim()) return text.includes("\n") ? "(new line)" : "(space)";
  return !joins && /^[\p{L}\p{N}]/u.test(text) ? `…${text}` : text.trim();
}

function percent(share) {
  if (share < 0.001) return "under 0.1 %";
  if (share > 0.995) return "over 99 %";
  return `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;
}

/** Move the focus from word to word with the arrow keys; the story is one stop for Tab. */
export function moveFrom(word, key) {
  const words = [...word.closest(".story").querySelectorAll(".word")];
  const index = words.indexOf(word);
  const to = {
    ArrowRight: words[index + 1],
    ArrowLeft: words[index - 1],
    ArrowDown: wordInNextLine(word, words.slice(index + 1)),
    ArrowUp: wordInNextLine(word, words.slice(0, index).reverse()),
    Home: words[0],
    End: words.at(-1),
  }[key];
  to?.focus();
}

/** The nearest word in the next line, given the words in one direction. */
function wordInNextLine(word, following) {
  const { left, top, height } = word.getBoundingClientRect();
  const away = following.map((other) => [other, other.getBoundingClientRect()]);
  const next = away.filter(([, place]) => Math.abs(place.top - top) > height / 2);
  const line = next.filter(([, place]) => Math.abs(place.top - next[0][1].top) < height / 2);
  return line.sort(([, a], [, b]) => Math.abs(a.left - left) - Math.abs(b.left - left))[0]?.[0];
}
