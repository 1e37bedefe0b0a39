// Stories that are being generated: each is requested, shown, finished and added to the history; all can be stopped.

import { remember } from "./history.js";
import { $, make, pause, say } from "./page.js";
import { ending, newRecord } from "./record.js";
import { connect, modelName, showState } from "./server.js";
import { showEnding, showStory, writePiece } from "./story.js";
import { ask, Refusal } from "./stream.js";

export let running = null; // the AbortController of the current stories

/** Generate stories at the same time, each in its sheet. */
export async function run(jobs) {
  running = new AbortController();
  showRunning(true);
  bringIntoView(jobs[0].view.sheet);
  say(jobs.length > 1 ? `Writing ${jobs.length} stories.` : "Writing the story.");
  const records = await Promise.all(jobs.map(({ view, request }) => generate(view, request, running.signal)));
  running = null;
  showRunning(false);
  const whose = (record) => (records.length > 1 ? `${modelName(record.model)}: ` : "");
  say(records.map((record) => whose(record) + record.said).join(" "));
}

export function stop() {
  running?.abort();
}

function showRunning(on) {
  document.body.classList.toggle("running", on);
  const [shown, gone] = on ? [$("stop"), $("generate")] : [$("generate"), $("stop")];
  const focused = document.activeElement;
  shown.hidden = false;
  gone.hidden = true;
  // the focus moves from a button that is hidden now to the one in its place
  if (focused === gone || focused.matches(".again")) shown.focus();
}

/** Scroll to the story: on a small screen, the form may fill it. */
function bringIntoView(sheet) {
  if (sheet.getBoundingClientRect().top > innerHeight / 2) sheet.scrollIntoView();
}

async function generate(view, request, signal) {
  const record = newRecord(request);
  begin(view, record);
  try {
    const final = await ask(request, signal, {
      start: (start) => started(view, record, start),
      piece: (piece) => addPiece(view, record, piece),
    });
    Object.assign(record, { outcome: final.finish_reason, final, seed: final.seed, text: final.text ?? record.text });
  } catch (error) {
    failed(record, error);
  }
  record.at = new Date();
  finish(view, record);
  if (record.pieces.length || record.outcome === "stop") remember(record);
  return record;
}

function begin(view, record) {
  showStory(view, record);
  view.body.setAttribute("aria-busy", "true");
  view.note.textContent = "Waiting for its turn…";
}

function started(view, record, start) {
  Object.assign(record, { start, seed: start.seed, model: start.model ?? record.model });
  view.note.textContent = "Writing…";
}

function addPiece(view, record, piece) {
  const now = piece.at ?? performance.now(); // a page with the model in it says when, as its pieces come in groups
  record.since ??= now;
  record.pieces.push(piece);
  record.text += piece.token;
  if (record.pieces.length > 1) record.tokens += piece.tokens ?? 1; // the first piece only starts the clock
  const rate = record.tokens / ((now - record.since) / 1000);
  view.note.textContent = Number.isFinite(rate) ? `Writing… ${rate.toFixed(rate < 10 ? 1 : 0)} tokens/s` : "Writing…";
  writePiece(view, piece);
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
  if (record.problem?.wait && record.problem.status === 429) countDown(view, record);
}

/** Count the seconds to wait down; screen readers announce only the end. */
async function countDown(view, record) {
  const clock = view.note.appendChild(make("span", { className: "countdown" }));
  for (let left = record.problem.wait; left > 0; left--) {
    clock.textContent = `Try again in ${left} s.`;
    await pause(1);
    if (!clock.isConnected) return; // another story is shown
  }
  clock.textContent = "You can try again now.";
  if (!running) say("You can try again now.");
}
