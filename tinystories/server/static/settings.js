// The fields of the form: filled from the server's models, presets and bounds, and turned into requests.

import { $, fillSelect } from "./page.js";
import { info, modelOptions } from "./server.js";
import { moveSliders } from "./sliders.js";

export const OWN = "own settings";
const FEWEST_TOKENS = 50; // the limits of the page, within those of the server
const MOST_TOKENS = 500;
const ALTERNATIVES = 5;

/** Show the models, presets and bounds of the server. Existing choices stay. */
export function offerSettings(first) {
  fillSelect($("model"), modelOptions());
  $("model-field").hidden = info.models.length < 2;
  fillSelect($("preset"), presetOptions());
  for (const [name, [lowest, highest]] of Object.entries(info.bounds)) {
    if ($(name)?.type === "number") Object.assign($(name), { min: lowest, max: highest });
  }
  const tokens = $("max_tokens");
  tokens.max = Math.min(MOST_TOKENS, info.bounds.max_tokens[1]);
  tokens.min = Math.min(Math.max(FEWEST_TOKENS, info.bounds.max_tokens[0]), tokens.max);
  if (!first) return showSettings();
  tokens.value = Math.min(Math.max(info.defaults.max_tokens, tokens.min), tokens.max);
  $("preset").value = info.default_preset;
  showPreset();
}

export function presetOptions() {
  return [...Object.keys(info.presets), OWN].map((name) => [name, name]);
}

/** The names of the settings that belong to a preset. */
function sampling() {
  return Object.keys(info.presets[info.default_preset]);
}

export function showPreset() {
  const preset = info?.presets[$("preset").value];
  for (const [name, value] of Object.entries(preset ?? {})) $(name).value = value;
  showSettings();
}

export function showSettings() {
  if (!info) return;
  const chosen = info.presets[$("preset").value];
  if (!chosen || sampling().some((name) => $(name).valueAsNumber !== chosen[name])) $("preset").value = OWN;
  const seed = $("seed").value;
  $("summary").textContent = `${$("preset").value}, ${$("max_tokens").value} tokens${seed ? `, seed ${seed}` : ""}`;
  $("tidy").disabled = $("probabilities").checked;
  moveSliders();
}

function randomSeed() {
  const [lowest, highest] = info.bounds.seed;
  const number = crypto.getRandomValues(new Uint32Array(1))[0] % 1_000_000; // six digits are easy to pass on
  return Math.min(Math.max(number, lowest), highest);
}

export function chosenSeed() {
  return $("seed").value ? $("seed").valueAsNumber : randomSeed();
}

export function newSeed() {
  if (info) $("seed").value = randomSeed();
  showSettings();
}

/** The request for a model and a preset; for "own settings", with the values of the fields. */
export function requestFor(model, preset, seed) {
  const request = { prompt: $("prompt").value.trim(), model, max_tokens: $("max_tokens").valueAsNumber, seed };
  if (preset === OWN) for (const name of sampling()) request[name] = $(name).valueAsNumber;
  else request.preset = preset;
  return withAlternatives(request);
}

/** Probabilities belong to the words as they were generated, so they exclude tidying. */
export function withAlternatives(request) {
  const probabilities = $("probabilities").checked;
  return { ...request, alternatives: probabilities ? ALTERNATIVES : 0, tidy: $("tidy").checked && !probabilities };
}

/** Put the settings of a story into the form. */
export function restore({ request, seed, final, start }) {
  $("prompt").value = request.prompt;
  $("model").value = info.models.some(({ id }) => id === request.model) ? request.model : info.model;
  $("preset").value = request.preset ?? OWN;
  $("max_tokens").value = request.max_tokens;
  $("seed").value = seed ?? "";
  for (const [name, value] of Object.entries((final ?? start)?.settings ?? {})) $(name).value = value;
  if (!request.alternatives) $("tidy").checked = request.tidy;
  showSettings();
}
