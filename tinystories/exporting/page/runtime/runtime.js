// The model behind messages: in a worker, so that the page does not freeze, or in the page itself where it gets no
// worker. Stories are written one after another, in short slices of time, so that a message can stop them.

import { Problem, Session } from "./session.js";

const SLICE = 16; // milliseconds of work between two messages: a frame of the screen

/** `post` is called with each answer; returns the function to call with each message. */
export function startRuntime(post) {
  const stopped = new Set(); // numbers of requests
  let session = null;
  let last = Promise.resolve(); // the end of the work before

  async function open(message) {
    const { contents, weights } = message;
    session = new Session(contents, typeof weights === "string" ? bytesOf(weights) : new Uint8Array(weights), usable(message.kernel));
    post({ type: "opened", kernel: session.network.usesKernel });
    await drive(session.check());
    post({ type: "checked" });
  }

  async function write({ number, request }) {
    let events = [];
    const flush = () => {
      if (events.length) post({ type: "events", number, events });
      events = [];
    };
    const steps = session.write(request, (name, data) => addEvent(events, name, data));
    const final = await drive(steps, flush, () => stopped.has(number));
    flush();
    if (final) post({ type: "final", number, final });
  }

  async function done(work, message) {
    try {
      await work(message);
    } catch (error) {
      const known = error instanceof Problem;
      post({ type: "problem", number: message.number, text: known ? error.message : `an error in this page: ${error}` });
    }
  }

  return (message) => {
    if (message.type === "stop") stopped.add(message.number);
    else last = last.then(() => done({ open, write }[message.type], message));
  };
}

/** Text without probabilities is sent as one piece: a page takes longer to show a piece than the model to write it. */
function addEvent(events, name, data) {
  const [before, last] = events.at(-1) ?? [];
  if (name !== "piece" || before !== "piece" || data.alternatives) return events.push([name, data]);
  return Object.assign(last, { token: last.token + data.token, tokens: last.tokens + data.tokens, at: data.at });
}

/** The kernel, or null where the browser cannot run it. */
function usable(kernel) {
  const wasm = bytesOf(kernel);
  return typeof WebAssembly === "object" && WebAssembly.validate(wasm) ? wasm : null;
}

/** The bytes of base64; a damaged text is a Problem. */
export function bytesOf(base64) {
  try {
    if (Uint8Array.fromBase64) return Uint8Array.fromBase64(base64);
    const letters = atob(base64);
    const bytes = new Uint8Array(letters.length);
    for (let i = 0; i < bytes.length; i++) bytes[i] = letters.charCodeAt(i);
    return bytes;
  } catch {
    throw new Problem("its weights are damaged: copy or export it again");
  }
}

/**
 * Run a generator to its end, with a pause after each slice of time; `pausing` is called before a pause, `isStopped`
 * after it. Returns the result of the generator, or undefined if it was stopped.
 */
async function drive(steps, pausing = () => {}, isStopped = () => false) {
  let since = performance.now();
  for (;;) {
    const { done, value } = steps.next();
    if (done) return value;
    if (performance.now() - since < SLICE) continue;
    pausing();
    await nextMessage();
    if (isStopped()) return undefined;
    since = performance.now();
  }
}

/** After the messages that have arrived. Unlike a timer, it takes no time of its own. */
function nextMessage() {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });
}
