// In the place of the server's module of this name: a request goes to the model in this page.

import { checked, requestStory } from "./model.js";
import { info } from "./server.js";

export class Refusal extends Error {}

/** Write a story; calls `on.start` and `on.piece`. Returns the final object, and throws if there is none. */
export async function ask(request, signal, on) {
  const length = [...request.prompt].length;
  const most = info.bounds.prompt[1];
  if (length > most) throw new Refusal(`The beginning has ${length} characters, and the most is ${most}: shorten it.`);
  await Promise.race([checked, aborted(signal)]).catch((error) => {
    throw signal.aborted ? error : new Refusal(`This page cannot be used: ${error.message}.`);
  });
  let stop;
  const finished = new Promise((resolve, reject) => {
    stop = requestStory(request, ({ type, events, final, text }) => {
      if (type === "events") for (const [name, data] of events) on[name](data);
      else if (type === "final") resolve(final);
      else reject(new Refusal(sentence(text)));
    });
  });
  try {
    return await Promise.race([finished, aborted(signal)]);
  } finally {
    stop();
  }
}

function sentence(text) {
  return `${text[0].toUpperCase()}${text.slice(1)}.`;
}

/** Rejects when the user stops the story. */
function aborted(signal) {
  return new Promise((_, reject) => {
    if (signal.aborted) reject(signal.reason);
    else signal.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
}
