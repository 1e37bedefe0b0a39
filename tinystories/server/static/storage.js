// The history in the browser's storage: bounded, and shared by all tabs of this server. Whatever is damaged in it is
// dropped. A page that was opened from a file stores nothing: such pages share one storage, and could read all of it.

export const MOST_STORIES = 100;
const MOST_LETTERS = 1_000_000; // browsers give a site a few million
const KEY = "stories";
const EXAMPLE = {
  ...{ id: "", at: "", prompt: "", model: "", preset: "", seed: 0, most: 0, tidy: false, outcome: "", said: "" },
  ...{ raw: "", tidied: "", reading: 0, read: 0, written: 0, speed: 0, clamped: false, allowed: 0 },
  settings: { temperature: 0, top_k: 0, top_p: 0, repetition_penalty: 0 },
  continued: [{ seed: 0, after: 0, shortened: false }],
};

let works = location.protocol !== "file:";

/** The stored stories, oldest first, or null where nothing can be stored. */
export function load() {
  if (!works) return null;
  try {
    return entriesOf(localStorage.getItem(KEY)).map(recordOf);
  } catch {
    works = false; // storage may be disabled
    return null;
  }
}

function entriesOf(text) {
  try {
    const entries = JSON.parse(text ?? "[]");
    return Array.isArray(entries) ? entries.filter((entry) => isLike(entry, EXAMPLE)) : [];
  } catch {
    return [];
  }
}

/** Whether a value has the types of the example. */
function isLike(value, example) {
  if (Array.isArray(example)) return Array.isArray(value) && value.every((each) => isLike(each, example[0]));
  if (typeof example !== "object") return typeof value === typeof example;
  const keys = Object.keys(example);
  return typeof value === "object" && value !== null && keys.every((key) => isLike(value[key], example[key]));
}

/** Store the newest of the records that there is room for, and return them: all of them where none can be stored. */
export function save(records) {
  let newest = records.slice(-MOST_STORIES);
  const sizes = newest.map((record) => JSON.stringify(entryOf(record)).length);
  let size = sizes.reduce((sum, each) => sum + each, 0);
  for (; size > MOST_LETTERS && newest.length > 1; newest = newest.slice(1)) size -= sizes.shift();
  for (let stored = newest; works; stored = stored.slice(Math.ceil(stored.length / 2))) {
    try {
      localStorage.setItem(KEY, JSON.stringify(stored.map(entryOf)));
      return stored;
    } catch {
      works = stored.length > 1; // full of something else, or disabled
    }
  }
  return newest;
}

/** `listener` is called when another tab has changed the stories. */
export function onStored(listener) {
  addEventListener("storage", ({ key }) => (key === KEY || key === null) && listener());
}

/** What is stored of a record: all but the probabilities, which are large. */
function entryOf(record) {
  const { id, at, request, model, seed, outcome, said, raw, text, read, written, continued } = record;
  const answer = record.final ?? record.start ?? {};
  return {
    ...{ id, at, prompt: request.prompt, model, preset: request.preset ?? "", seed, most: request.max_tokens },
    ...{ tidy: request.tidy, outcome, said, raw, tidied: text === raw ? "" : text, read, written, continued },
    reading: record.reading.length, // it is the end of the story
    ...{ speed: answer.tokens_per_second ?? 0, clamped: answer.clamped ?? false, allowed: answer.max_tokens ?? 0 },
    settings: answer.settings ?? {},
  };
}

function recordOf(entry) {
  const { prompt, preset, most, tidy, tidied, speed, clamped, allowed, ...rest } = entry;
  const settings = Object.fromEntries(Object.keys(EXAMPLE.settings).map((name) => [name, entry.settings[name]]));
  const how = preset ? { preset } : settings;
  const request = { prompt, model: rest.model, max_tokens: most, seed: rest.seed, ...how, alternatives: 0, tidy };
  const start = { settings, clamped, max_tokens: allowed };
  const final = speed ? { ...start, new_tokens: rest.written, tokens_per_second: speed } : null;
  const reading = entry.reading ? (prompt + entry.raw).slice(-entry.reading) : "";
  return { ...rest, request, start, final, text: tidied || entry.raw, reading, pieces: [] };
}
