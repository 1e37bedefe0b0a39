// Side by side: columns of models and presets that generate the same story.

import { $, fillSelect, fromTemplate } from "./page.js";
import { info, modelOptions } from "./server.js";
import { chosenSeed, presetOptions, requestFor } from "./settings.js";

const MOST_COLUMNS = 4;

/** Show the models and presets of the server. Existing choices stay. */
export function offerColumns() {
  for (const column of $("columns").children) fillColumn(column);
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

/** One request for each column, all with the same beginning and seed. */
export function requestsSideBySide() {
  const seed = chosenSeed();
  const chosen = (column, what) => column.querySelector(what).value;
  const request = (column) => requestFor(chosen(column, ".model"), chosen(column, ".preset"), seed);
  return [...$("columns").children].map(request);
}
