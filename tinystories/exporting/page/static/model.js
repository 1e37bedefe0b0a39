// The model of this page: its data are elements of the document, and it runs in a worker where the browser allows one.

import { $ } from "./page.js";

const WEIGHTS = "model.safetensors"; // beside the page, where they are not in it

const listeners = new Map(); // number of a request -> the function that gets its messages
let number = 0;
let send = null; // a function that takes a message for the runtime
let settle = null;

/** Resolves once the model has been checked; rejects with the reason if it may not be used. */
export const checked = new Promise((resolve, reject) => (settle = { resolve, reject }));
checked.catch(() => {}); // it is awaited later, or not at all

/** The page's data, or null if they are damaged. */
export function contents() {
  const { textContent: text, dataset } = $("contents");
  return Runtime.crc32(new TextEncoder().encode(text)) === Number(dataset.crc32) ? JSON.parse(text) : null;
}

/** Open and check the model; `progress` is called with the share that has been loaded, if it is not in the page. */
export async function open(data, progress) {
  try {
    await parsed(); // the weights come last in the document
    const weights = $("weights")?.textContent ?? (await fetchWeights(data.weights.bytes, progress));
    send = newRuntime();
    send({ type: "open", contents: data, kernel: $("kernel").textContent, weights });
  } catch (error) {
    settle.reject(error);
  }
  return checked;
}

function parsed() {
  if (document.readyState !== "loading") return Promise.resolve();
  return new Promise((resolve) => document.addEventListener("DOMContentLoaded", resolve));
}

async function fetchWeights(size, progress) {
  if (location.protocol === "file:") {
    throw new Error(
      `a page that was opened from a file may not read ${WEIGHTS} beside it: serve the folder (python -m http.server), ` +
        "or open the page that has the model in it",
    );
  }
  const response = await fetch(WEIGHTS).catch(() => null);
  if (!response?.ok) throw new Error(`${WEIGHTS} could not be loaded: it belongs beside this page`);
  const bytes = new Uint8Array(size);
  let got = 0;
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    if (got + value.length <= size) bytes.set(value, got);
    progress((got += value.length) / size);
  }
  if (got !== size) throw new Error(`${WEIGHTS} has ${got} bytes instead of ${size}: copy it again`);
  return bytes.buffer;
}

/** The function that sends to a worker or, where there is none, to the runtime in this page. */
function newRuntime() {
  try {
    const source = `${$("runtime").textContent}; const receive = Runtime.startRuntime(postMessage); onmessage = ({ data }) => receive(data);`;
    const worker = new Worker(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
    worker.onmessage = ({ data }) => take(data);
    worker.onerror = (event) => take({ type: "problem", text: `an error in this page: ${event.message}` });
    return (message) => worker.postMessage(message, message.weights instanceof ArrayBuffer ? [message.weights] : []);
  } catch {
    return Runtime.startRuntime(take);
  }
}

function take(message) {
  if (message.number !== undefined) listeners.get(message.number)?.(message);
  else if (message.type === "checked") settle.resolve();
  else if (message.type === "problem") settle.reject(new Error(message.text));
}

/** Ask for a story; `listener` gets each message about it. Returns the function that stops it. */
export function requestStory(request, listener) {
  const own = ++number;
  listeners.set(own, listener);
  send({ type: "write", number: own, request });
  return () => {
    listeners.delete(own); // what is on its way is not shown
    send({ type: "stop", number: own });
  };
}
