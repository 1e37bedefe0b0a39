// The server: is it there, and what does it offer? Everything about models, presets and bounds is asked of it.

import { $, pause, say } from "./page.js";

export let info = null; // what /api/info said
let connecting = null; // the promise of a connection that is being waited for
let offer = () => {}; // is called each time the server has said what it offers

/** Whom to tell what the server offers; with true the first time. */
export function onOffer(listener) {
  offer = listener;
}

export function showState(state, text) {
  $("state").dataset.state = state;
  $("state").textContent = text;
}

/** What /api/info says, or null while the model is being loaded. */
async function askForInfo() {
  // this address answers 200 while a model is loaded: asking it first keeps the browser's console free of errors
  const live = await (await fetch("health/live")).json();
  if (live.ready === false) return null;
  const response = await fetch("api/info");
  return response.ok ? response.json() : null;
}

async function waitForServer() {
  let waited = false;
  for (let wait = 1; ; wait = Math.min(2 * wait, 15)) {
    try {
      const answer = await askForInfo();
      if (answer) {
        take(answer);
        if (waited) say("The server is ready.");
        return;
      }
      showState("loading", "loading the model…");
    } catch {
      showState("unreachable", "unreachable");
    }
    waited = true;
    await pause(wait);
  }
}

/** Ask until the server is ready; at most one such wait at a time. */
export function connect() {
  connecting ??= waitForServer().finally(() => (connecting = null));
  return connecting;
}

/** Keep and show what the server said, then tell those who wait for it. */
function take(answer) {
  const first = info === null;
  info = answer;
  const parameters = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
  $("badge").textContent = `${info.model} · ${parameters.format(info.parameters)} parameters · ${info.device}`;
  showState("ready", "ready");
  offer(first);
}

export function modelOptions() {
  return info.models.map(({ id, step }) => [id, step === null ? id : `step ${step.toLocaleString("en")}`]);
}

export function modelName(id) {
  return Object.fromEntries(modelOptions())[id] ?? id;
}
