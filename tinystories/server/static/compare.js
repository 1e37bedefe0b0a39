// Side by side: columns of models and presets that generate the same story.

import { $, fillSelect, fromTemplate } from "./page.js";
import { info, modelOptions } from "./server.js";
import { chosenSeed, presetOptions, requestFor } from "./settings.js";

const MOST_COLUMNS = 4;

/** Show the models and presets of the server. Existing choices stay. */
export function offerColumns() {
  for (const column of $("columns").children) fillColumn(column);
  $("learn").hidden = checkpointsToLearnFrom().length < 2;
}

export function addColumn(model, preset) {
  const column = fromTemplate("column-template");
  fillColumn(column);
  column.querySelector(".model").value = model;
  column.querySelector(".preset").value = preset;
  $("columns").append(column);
  showColumns();
}

function fillColumn(column) {
  fillSelect(column.querySelector(".model"), modelOptions());
  fillSelect(column.querySelector(".preset"), presetOptions());
}

export function removeColumn(column) {
  column.remove();
  showColumns();
  $("add").focus();
}

export function showColumns() {
  if (!info) return;
  $("side").hidden = !$("compare").checked;
  const columns = $("columns").children;
  if (columns.length === 0 && $("compare").checked) {
    for (const preset of Object.keys(info.presets).slice(0, 2)) addColumn(info.model, preset);
  }
  for (const column of columns) column.querySelector(".remove").hidden = columns.length < 3;
  $("add").hidden = columns.length >= MOST_COLUMNS;
}

/** Up to four models of a run, evenly spaced over the logarithm of the steps, as it learns fastest at first. */
function checkpointsToLearnFrom() {
  const ladder = info.models.filter(({ step }) => step !== null);
  if (ladder.length < MOST_COLUMNS) return [...ladder, ...info.models.filter(({ step }) => step === null)];
  const height = ladder.map(({ step }) => Math.log(Math.max(step, 1)));
  const chosen = new Set();
  for (let i = 0; i < MOST_COLUMNS; i++) {
    const wanted = height[0] + ((height.at(-1) - height[0]) * i) / (MOST_COLUMNS - 1);
    const free = [...ladder.keys()].filter((index) => !chosen.has(index));
    chosen.add(free.sort((a, b) => Math.abs(height[a] - wanted) - Math.abs(height[b] - wanted))[0]);
  }
  return [...chosen].sort((a, b) => a - b).map((index) => ladder[index]);
}

export function watchItLearn() {
  $("columns").replaceChildren();
  for (const { id } of checkpointsToLearnFrom()) addColumn(id, info.default_preset);
}

/** One request for each column, all with the same beginning and seed. */
export function requestsSideBySide() {
  const seed = chosenSeed();
  const chosen = (column, what) => column.querySelector(what).value;
  const request = (column) => requestFor(chosen(column, ".model"), chosen(column, ".preset"), seed);
  return [...$("columns").children].map(request);
}
