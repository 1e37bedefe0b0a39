// A link to a story's settings: they stand after the # of the address, which is sent to nobody. Whoever opens it gets the
// same settings, and with the same model and seed the same story. Nothing in a link is trusted.

import { $ } from "./page.js";
import { info } from "./server.js";
import { OWN, showPreset, showSettings } from "./settings.js";

const MARK = "#story?";
const NUMBERS = ["temperature", "top_k", "top_p", "repetition_penalty", "max_tokens", "seed"];

/** Of a story that was continued, the link is to what came before. */
export function linkTo({ request, seed, model, start, final }) {
  const { prompt, preset = OWN, max_tokens, tidy } = request;
  const settings = (final ?? start)?.settings;
  const fields = { prompt, model, preset, ...settings, max_tokens, seed, tidy: Number(tidy) };
  return location.href.split("#")[0] + MARK + new URLSearchParams(fields);
}

/** Put the settings of the page's address into the form; returns whether it had any, and says what was left out. */
export function openLink() {
  if (!location.hash.startsWith(MARK)) return false;
  const fields = new URLSearchParams(location.hash.slice(MARK.length));
  window.history.replaceState(null, "", location.pathname + location.search); // once is enough
  const taken = ["prompt", "model", "preset", ...NUMBERS, "tidy"].filter((name) => fields.has(name));
  const refused = taken.filter((name) => !takeField(name, fields.get(name)));
  showSettings();
  const left = refused.map((name) => $(name).labels[0].textContent.trim().toLowerCase()).join(", ");
  $("linked").textContent =
    "These are the settings of a story that was shared with you. Press the button to read it." +
    (left ? ` Left out, because this page does not have or allow it: ${left}. The story may be another one.` : "");
  $("linked").hidden = false;
  return true;
}

/** Whether a value of the link is allowed, and now in its field. */
function takeField(name, value) {
  const field = $(name);
  if (name === "prompt") {
    const length = [...value].length;
    if (length > info.bounds.prompt[1]) return false;
  } else if (name === "tidy") {
    if (value !== "0" && value !== "1") return false;
    field.checked = value === "1";
    return true;
  } else if (NUMBERS.includes(name)) {
    if (!isAllowed(field, value)) return false;
  } else if (![...field.options].some((option) => option.value === value)) return false;
  field.value = value;
  if (name === "preset") showPreset(); // the numbers that follow are in its place
  return true;
}

function isAllowed({ min, max, step }, value) {
  const number = Number(value);
  const form = step.includes(".") ? /^\d{1,3}(\.\d{1,9})?$/ : /^\d{1,16}$/;
  return form.test(value) && number >= Number(min) && number <= Number(max);
}
