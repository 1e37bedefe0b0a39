// A story as the server sends it: one request, and the events of its answer. Knows nothing of the page.

/** The events of a text/event-stream: [name, data] pairs. Chunks may end anywhere, even inside a character. */
export async function* eventsOf(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let name = "message";
  let data = [];
  try {
    for (let done = false; !done; ) {
      const chunk = await reader.read();
      done = chunk.done;
      // a return at the very end waits for the next chunk, which may begin with the other half of a line's end
      const lines = (rest + (chunk.value ?? "")).split(done ? /\r\n|\n|\r/ : /\r\n|\n|\r(?!$)/);
      rest = lines.pop();
      for (const line of lines) {
        const [, field, value] = line.match(/^([^:]*):? ?(.*)$/s);
        if (line === "") {
          if (data.length) yield [name, data.join("\n")];
          [name, data] = ["message", []];
        } else if (field === "data") data.push(value);
        else if (field === "event") name = value;
        // a comment has an empty field; other fields mean nothing here
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // what is left unread is not wanted; a stream that failed has nothing to cancel
  }
}

export class Refusal extends Error {
  constructor(text, { status = 0, wait = 0, field = null } = {}) {
    super(text);
    Object.assign(this, { status, wait, field });
  }
}

async function refusalOf(response) {
  const answer = await response.json().catch(() => ({}));
  const text = answer.error ?? `The server answered ${response.status}.`;
  const wait = Number.parseInt(response.headers.get("Retry-After"), 10) || 0;
  return new Refusal(text, { status: response.status, wait, field: answer.field });
}

/** Ask for a story; `on.start`, `on.piece` are told what comes. Returns the final object; throws where there is none. */
export async function ask(request, signal, on) {
  const response = await fetch("generate", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(request),
    signal,
  });
  if (!response.ok) throw await refusalOf(response);
  for await (const [name, data] of eventsOf(response.body)) {
    if (data === "[DONE]") break;
    const message = JSON.parse(data);
    if (name === "error") throw new Refusal(message.error);
    if (name === "start") on.start(message);
    else if (message.finish_reason) return message;
    else if (message.token !== undefined) on.piece(message);
  }
  throw new Refusal("The story broke off: the server ended it without saying why.");
}
