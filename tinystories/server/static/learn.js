// "Watch it learn": one beginning and one seed at every checkpoint of a run, on a slider.

import { fold } from "./composer.js";
import { $, pause } from "./page.js";
import { info, modelName } from "./server.js";
import { chosenSeed, requestFor } from "./settings.js";
import { newViews, showEnding, showStory } from "./story.js";
import { running, stop, writeStories } from "./writing.js";

const SHOWN_BY_ITSELF = 5; // checkpoints; the slider has them all
const LOOKED_AT = 1.5; // seconds, before the next one

let lesson = null; // models, their requests and finished records, the view, and whether it moves by itself

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

/** Write the story at some checkpoints, one after the other, until the slider is moved or a story does not end. */
export async function watchItLearn() {
  const models = checkpointsOfRun();
  const seed = chosenSeed();
  const requests = models.map(({ id }) => requestFor(id, $("preset").value, seed));
  const own = (lesson = { models, requests, records: [], views: newViews([requests[0]]), moves: true });
  fold();
  $("learning").hidden = false;
  $("step").max = models.length - 1;
  for (const index of milestones(models.map(({ step }) => step))) {
    if (index > 0) await pause(LOOKED_AT);
    if (!own.moves || !isShown(own) || running) return;
    $("step").value = index;
    if (!isComplete(await showCheckpoint(own, index))) return;
  }
}

/** Show the story of a checkpoint: as it was written before, or by writing it. Returns its record. */
async function showCheckpoint({ models, requests, records, views }, index) {
  nameStep(models[index]);
  if (!records[index]) {
    const [record] = await writeStories([requests[index]], { views, keep: false });
    if (isComplete(record)) records[index] = record;
    return record;
  }
  showStory(views[0], records[index]);
  showEnding(views[0], records[index]);
  return records[index];
}

/** Whether the slider is on the page, and about this lesson. */
function isShown(own) {
  return own === lesson && !$("learning").hidden && document.body.classList.contains("folded");
}

function isComplete({ outcome }) {
  return outcome === "stop" || outcome === "length";
}

function nameStep({ id, step }) {
  const name = step === null ? "finished" : modelName(id);
  $("step-name").textContent = name;
  $("step").setAttribute("aria-valuetext", name);
}

/** The slider was moved: the story that is being written there ends first. */
export async function moveToStep() {
  const own = lesson;
  const index = $("step").valueAsNumber;
  own.moves = false;
  nameStep(own.models[index]);
  await stop();
  const stillWanted = isShown(own) && index === $("step").valueAsNumber;
  if (stillWanted && !running) await showCheckpoint(own, index);
}
