// The fields of the form: what the server offers goes in, the request for a story comes out.

import { $, fillSelect } from "./page.js";
import { info, modelOptions } from "./server.js";

export const OWN = "own settings";
const FEWEST_TOKENS = 50; // what the page offers, within what the server allows
const MOST_TOKENS = 500;
const ALTERNATIVES = 5;

/** Show what the server offers. What a person has already chosen stays. */
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
  if (!first) return;
  tokens.value = Math.min(Math.max(info.defaults.max_tokens, tokens.min), tokens.max);
  $("preset").value = info.default_preset;
  showPreset();
}

export function presetOptions() {
  return [...Object.keys(info.presets), OWN].map((name) => [name, name]);
}

/** The names of the settings that a preset decides. */
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
  $("tidy").disabled = $("thinking").checked;
}

function seedByChance() {
  const [lowest, highest] = info.bounds.seed;
  const number = crypto.getRandomValues(new Uint32Array(1))[0] % 1_000_000; // six digits can be read out
  return Math.min(Math.max(number, lowest), highest);
}

export function chosenSeed() {
  return $("seed").value ? $("seed").valueAsNumber : seedByChance();
}

export function newSeed() {
  if (info) $("seed").value = seedByChance();
  showSettings();
}

/** What is asked of the server, for a model and a preset (or the fields themselves). */
export function requestFor(model, preset, seed) {
  const request = { prompt: $("prompt").value.trim(), model, max_tokens: $("max_tokens").valueAsNumber, seed };
  if (preset === OWN) for (const name of sampling()) request[name] = $(name).valueAsNumber;
  else request.preset = preset;
  return withThoughts(request);
}

/** Thinking is about the words as they were written: tidied ones would not fit it. */
export function withThoughts(request) {
  const thinking = $("thinking").checked;
  return { ...request, alternatives: thinking ? ALTERNATIVES : 0, tidy: $("tidy").checked && !thinking };
}

/** Put into the form what a story was made with. */
export function restore({ request, seed, final, start }) {
  $("prompt").value = request.prompt;
  $("model").value = request.model;
  $("preset").value = request.preset ?? OWN;
  $("max_tokens").value = request.max_tokens;
  $("seed").value = seed ?? "";
  for (const [name, value] of Object.entries((final ?? start)?.settings ?? {})) $(name).value = value;
  if (!request.alternatives) $("tidy").checked = request.tidy;
  showSettings();
}
