// How a story goes on that is not at its end: what the model reads of it, and with which seed.

import { info } from "./server.js";

const LEAST_ROOM = 50; // tokens: for less, the model rather reads less of the story

export function canContinue({ raw, outcome }) {
  return outcome !== "stop" && raw.trim() !== "";
}

/** The request that continues a story. Each part has a seed of its own, so that the model does not repeat its draws. */
export function continuation(record) {
  const [lowest, highest] = info.bounds.seed;
  const seed = record.seed + record.continued.length + 1;
  const { text: prompt } = nextReading(record);
  return { ...record.request, prompt, seed: seed > highest ? lowest + (seed - highest - 1) : seed };
}

/**
 * What the model reads to continue: `text`, and whether that is `whole`, which means no less than it read before. `room`
 * is the number of tokens that it can write then. Where the story is too long for the model or for one request, the text
 * is its last part, about half of what the model can read.
 */
export function nextReading({ reading, read }) {
  const context = info.bounds.max_tokens[1];
  const longest = info.bounds.prompt[1];
  const letters = [...reading.trimEnd()]; // counted as on the server: an emoji is one character
  const room = context - read;
  if (letters.length <= longest && room >= Math.min(LEAST_ROOM, context / 4)) {
    return { text: letters.join(""), whole: true, room };
  }
  const half = Math.floor((letters.length * context) / (2 * Math.max(read, 1)));
  return { text: lastPart(letters, Math.min(longest, half)), whole: false, room: context / 2 };
}

/** At most `most` letters of the end, from the start of a sentence if one starts in their first half, or of a word. */
function lastPart(letters, most) {
  const part = letters.slice(-most - 1).join(""); // and the letter before, which may be the space before a word
  const sentence = /[.!?]["\u201d]?\s+(?=\S)/.exec(part.slice(0, part.length / 2));
  const cut = sentence ?? /\s+(?=\S)/.exec(part);
  return cut ? part.slice(cut.index + cut[0].length) : letters.slice(-Math.max(most, 1)).join("");
}

/** What Continue will do where it cannot do all that one expects; else "". */
export function limitOfContinuing(record) {
  const { whole, room } = nextReading(record);
  if (!whole) return "The whole story is more than the model reads at once: it continues from the last part.";
  if (room < record.request.max_tokens) return `There is room for ${room} more tokens.`;
  return "";
}
