// "Watch it learn": one beginning and one seed at every checkpoint of a run, on a slider.

import { $, pause, say } from "./page.js";
import { info, modelName } from "./server.js";
import { chosenSeed, requestFor } from "./settings.js";
import { newViews, showEnding, showStory } from "./story.js";
import { newJob, running, session, stop } from "./writing.js";

const SHOWN_BY_ITSELF = 5; // checkpoints; the slider has them all
const LOOKED_AT = 1.5; // seconds, before the next one

let lesson = null; // models, their requests and complete records, and the view

/** The models of the run in the order of training, the finished one last; none where there are no steps. */
function checkpointsOfRun() {
  const steps = info.models.filter(({ step }) => step !== null).sort((a, b) => a.step - b.step);
  return steps.length ? [...steps, ...info.models.filter(({ step }) => step === null)] : [];
}

export function offerLearning() {
  $("learn").hidden = checkpointsOfRun().length < 2;
}

/** The checkpoints that are shown by themselves, spread over the logarithm of the step: it learns fastest at first. */
export function milestones(steps) {
  const heights = steps.map((step) => Math.log(Math.max(step ?? Infinity, 1)));
  const known = heights.filter(Number.isFinite);
  const chosen = new Set([0, steps.length - 1]);
  for (let i = 1; i < SHOWN_BY_ITSELF - 1; i++) {
    const wanted = known[0] + ((known.at(-1) - known[0]) * i) / (SHOWN_BY_ITSELF - 1);
    const free = [...steps.keys()].filter((index) => !chosen.has(index));
    if (free.length) chosen.add(free.sort((a, b) => Math.abs(heights[a] - wanted) - Math.abs(heights[b] - wanted))[0]);
  }
  return [...chosen].sort((a, b) => a - b);
}

/** Write the story at some checkpoints, one after the other, until it is stopped, the slider is moved or one fails. */
export async function watchItLearn() {
  const models = checkpointsOfRun();
  const seed = chosenSeed();
  const requests = models.map(({ id }) => requestFor(id, $("preset").value, seed));
  const [view] = newViews([requests[0]]);
  lesson = { models, requests, records: [], view };
  view.sheet.addEventListener("click", ({ target }) => target.matches("button") && stop()); // it is looked at
  $("learning").hidden = false;
  $("step").max = models.length - 1;
  say("Writing at several checkpoints.");
  scrollTo(0, 0);
  await session((generate, signal) => showMilestones(lesson, generate, signal));
}

async function showMilestones(own, generate, signal) {
  const shown = [];
  for (const index of milestones(own.models.map(({ step }) => step))) {
    if (index > 0) await pause(LOOKED_AT, signal);
    if (signal.aborted) break;
    $("step").value = index;
    nameStep(own.models[index]);
    shown.push(await writeAt(own, index, generate));
    if (!isComplete(shown.at(-1))) break;
  }
  return shown;
}

async function writeAt({ view, requests, records }, index, generate) {
  const record = await generate(newJob(view, requests[index], false));
  if (isComplete(record)) records[index] = record;
  return record;
}

function isComplete({ outcome }) {
  return outcome === "stop" || outcome === "length";
}

function nameStep({ id, step }) {
  const name = step === null ? "finished" : modelName(id);
  $("step-name").textContent = name;
  $("step").setAttribute("aria-valuetext", name);
}

/** The slider was moved: what is being written ends, and the story there is shown, or written. */
export async function moveToStep() {
  const own = lesson;
  const index = $("step").valueAsNumber;
  nameStep(own.models[index]);
  await stop();
  if (own !== lesson || index !== $("step").valueAsNumber || $("learning").hidden || running) return;
  if (!own.records[index]) return session(async (generate) => [await writeAt(own, index, generate)]);
  showStory(own.view, own.records[index]);
  showEnding(own.view, own.records[index]);
}
