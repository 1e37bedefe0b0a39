// Stories that are being generated: each is requested, shown, finished and added to the history; all can be stopped.

import { fold } from "./composer.js";
import { continuation, nextReading } from "./continuing.js";
import { countDown, endCountdown } from "./countdown.js";
import { remember } from "./history.js";
import { $, say } from "./page.js";
import { ending, newRecord } from "./record.js";
import { connect, modelName, showState } from "./server.js";
import { newViews, showEnding, showStory, writePiece } from "./story.js";
import { ask, Refusal } from "./stream.js";

export let running = null; // the AbortController of the current stories
let last = Promise.resolve(); // the end of the stories that were started last

/** Generate new stories at the same time, each in a sheet of its own, or all in the views that are given. */
export function writeStories(requests, views = newViews(requests)) {
  say(requests.length > 1 ? `Writing ${requests.length} stories.` : "Writing the story.");
  scrollTo(0, 0);
  return session((generate) => Promise.all(requests.map((request, i) => generate(newJob(views[i], request)))));
}

/** Continue a story where it ended. */
export function continueStory(view) {
  const { record } = view;
  const { whole } = nextReading(record);
  const request = continuation(record);
  record.raw = record.text = record.raw.trimEnd();
  record.continued.push({ seed: request.seed, after: record.raw.length, shortened: !whole });
  say("Continuing the story.");
  return session(async (generate) => [await generate({ view, record, request, keep: true })]);
}

/** keep: whether the story is added to the history. */
export function newJob(view, request, keep = true) {
  return { view, record: newRecord(request), request, keep };
}

/** End the stories; resolves when they have ended. */
export function stop() {
  running?.abort();
  return last;
}

/** Do `work` while the page shows "Stop": a function of one that generates a story, and of the signal to stop. */
export function session(work) {
  last = inSession(work);
  return last;
}

async function inSession(work) {
  running = new AbortController();
  const { signal } = running;
  fold();
  endCountdown();
  showRunning(true);
  try {
    tell(await work((job) => generate(job, signal), signal));
  } finally {
    running = null;
    showRunning(false);
  }
}

/** Announce how the stories ended, and count down where there were too many. */
function tell(records) {
  const whose = (record) => (records.length > 1 ? `${modelName(record.model)}: ` : "");
  say(records.map((record) => whose(record) + record.said).join(" "));
  const wait = Math.max(...records.map(({ problem }) => (problem?.status === 429 ? problem.wait : 0)));
  if (wait) countDown(wait);
}

function showRunning(on) {
  document.body.classList.toggle("running", on);
  const focused = document.activeElement;
  const [shown, gone] = on ? [$("stop"), $("new")] : [$("new"), $("stop")];
  shown.hidden = false;
  gone.hidden = true;
  // the focus moves from a button that is hidden now to the one in its place
  if (focused === gone || focused === document.body || !focused.checkVisibility()) shown.focus({ preventScroll: true });
}

async function generate({ view, record, request, keep }, signal) {
  begin(view, record, request);
  try {
    const final = await ask(request, signal, {
      start: (start) => started(view, record, start),
      piece: (piece) => addPiece(view, record, piece),
    });
    ended(record, final);
  } catch (error) {
    failed(record, error);
  }
  record.at = new Date().toISOString();
  finish(view, record);
  if (keep && (record.raw || record.outcome === "stop")) remember(record);
  return record;
}

function begin(view, record, request) {
  const part = { before: record.raw, tokensBefore: record.written, since: null, tokens: 0 };
  Object.assign(record, { part, reading: request.prompt, read: 0, problem: null, final: null });
  showStory(view, record);
  view.body.setAttribute("aria-busy", "true");
  view.note.textContent = "Waiting for its turn…";
}

function started(view, record, start) {
  Object.assign(record, { start, model: start.model ?? record.model, read: start.prompt_tokens ?? 0 });
  view.note.textContent = "Writing…";
}

function addPiece(view, record, piece) {
  const { part } = record;
  const now = piece.at ?? performance.now(); // a page with the model in it says when, as its pieces come in groups
  const tokens = piece.tokens ?? 1;
  if (part.since === null) part.since = now;
  else part.tokens += tokens; // the first piece only starts the clock
  record.pieces.push(piece);
  for (const name of ["raw", "text", "reading"]) record[name] += piece.token;
  for (const name of ["written", "read"]) record[name] += tokens;
  const rate = part.tokens / ((now - part.since) / 1000);
  view.note.textContent = Number.isFinite(rate) ? `Writing… ${rate.toFixed(rate < 10 ? 1 : 0)} tokens/s` : "Writing…";
  writePiece(view, piece);
}

function ended(record, final) {
  const { before, tokensBefore } = record.part;
  Object.assign(record, { outcome: final.finish_reason, final, written: tokensBefore + final.new_tokens });
  if (final.text !== undefined) record.text = before + final.text;
}

function failed(record, error) {
  record.outcome = "failed";
  if (error.name === "AbortError") record.outcome = "stopped";
  else if (error instanceof Refusal) record.problem = error;
  else if (error instanceof SyntaxError) record.problem = new Refusal("The server's answer could not be read.");
  else record.problem = new Refusal("The connection to the server was lost.", { status: 503 });
}

function finish(view, record) {
  record.said = ending(record);
  if (!record.request.alternatives || record.request.tidy) showStory(view, record);
  view.body.removeAttribute("aria-busy");
  showEnding(view, record);
  if (record.problem?.status === 503) {
    showState("unreachable", "unreachable");
    connect();
  }
  if (record.problem?.field) connect(); // the server may have been started anew, with another model
}
