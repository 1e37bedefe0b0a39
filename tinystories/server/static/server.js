// The connection to the server, and its models, presets and bounds, none of which are written into the page.

import { $, pause, say } from "./page.js";

export let info = null; // the answer of /api/info
let connecting = null; // the promise of a connection in progress
let listen = () => {}; // called with each answer of /api/info

/** `listener` is called with each answer of /api/info; its argument is true the first time. */
export function onInfo(listener) {
  listen = listener;
}

export function showState(state, text) {
  $("state").dataset.state = state;
  $("state").textContent = text;
}

/** The answer of /api/info, or null while the model is being loaded. */
async function askForInfo() {
  // answers 200 even while the model is being loaded, so that the browser logs no error
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

/** Retry until the server is ready; at most one such loop at a time. */
export function connect() {
  connecting ??= waitForServer().finally(() => (connecting = null));
  return connecting;
}

/** Store and show the answer of /api/info, then call the listener. */
function take(answer) {
  const first = info === null;
  info = answer;
  const parameters = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
  $("badge").textContent = `${info.model} · ${parameters.format(info.parameters)} parameters · ${info.device}`;
  showState("ready", "ready");
  listen(first);
}

export function modelOptions() {
  return info.models.map(({ id, step }) => [id, step === null ? id : `step ${step.toLocaleString("en")}`]);
}

export function modelName(id) {
  return Object.fromEntries(modelOptions())[id] ?? id;
}
