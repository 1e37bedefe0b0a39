// In the place of the server's module of this name: the model, presets and bounds are data of the page.

import { checked, contents, open } from "./model.js";
import { $, make, say } from "./page.js";

export let info = null; // as the answer of /api/info
let told = () => {};

/** `listener` is called with the page's data; its argument is true, as it is the first time. */
export function onInfo(listener) {
  told = listener;
}

export function showState(state, text) {
  $("state").dataset.state = state;
  $("state").textContent = text;
}

/** Show the page's data, then open the model and check it. */
export async function connect() {
  if (info) return;
  const data = contents();
  if (!data) return showDamage("its data are damaged: copy or export it again");
  info = data.info;
  const parameters = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
  $("badge").textContent = `${info.model} · ${parameters.format(info.parameters)} parameters`;
  $("tidy").closest("p").hidden = true; // it is done by the server
  told(true);
  showState("loading", "opening the model…");
  try {
    await open(data, (share) => showState("loading", `loading the model… ${Math.round(100 * share)} %`));
    await checked;
    showState("ready", "ready");
  } catch (error) {
    showDamage(error.message);
  }
}

/** The model is not the one that was exported, or cannot be opened: said where everybody sees it. */
function showDamage(reason) {
  showState("unreachable", "not usable");
  const text = `This page cannot be used: ${reason}.`;
  $("form").prepend(make("p", { id: "damage", className: "problem", textContent: text }));
  say(text);
}

export function modelOptions() {
  return info.models.map(({ id }) => [id, id]);
}

export function modelName(id) {
  return id;
}
