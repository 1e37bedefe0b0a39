// Beginnings of our own: some to choose from, and one that is drawn where none was typed.

import { $, make } from "./page.js";

const OFFERED = [
  "Once upon a time, there was a little fox who",
  "One rainy day, Lily found a",
  "The dragon was afraid of",
  "Tom and his dog went to the sea.",
];
const SURPRISES = [
  ...OFFERED,
  "One morning, a small bear could not find",
  "There was a big box in the garden. Sam wanted to",
  "Mia had a red kite. One windy day",
  "In a tall tree lived a bird who did not like to",
  "Ben and his sister saw a light in the woods.",
  "The old boat was sad because",
  "\u201cMom, look!\u201d said Anna. There was",
  "A snail wanted to win the race, so",
  "Every night, the moon told the cat",
  "Grandma had a secret in her kitchen. It was",
  "One day, it began to rain",
  "A frog and a mouse wanted to cross the river.",
];

let drawn = null; // the last surprise

/** Offer some beginnings; `choose` is called with the one that is clicked. */
export function offerBeginnings(choose) {
  for (const beginning of OFFERED) {
    const textContent = beginning.replace(/\w$/, "$& …");
    const button = make("button", { type: "button", textContent, onclick: () => choose(beginning) });
    $("beginnings").append(make("li", {}, button));
  }
}

/** Fill an empty field with a beginning, not the same one twice in a row. */
export function surprise() {
  if ($("prompt").value.trim()) return;
  const others = SURPRISES.filter((beginning) => beginning !== drawn);
  drawn = others[crypto.getRandomValues(new Uint32Array(1))[0] % others.length];
  $("prompt").value = drawn;
}

/** The field is empty again if a surprise was left as it was, so that the next story is another surprise. */
export function forgetSurprise() {
  if ($("prompt").value === drawn) $("prompt").value = "";
}
