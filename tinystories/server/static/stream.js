// The protocol: sends one request and parses the events of its answer. Independent of the page.

/** The events of a text/event-stream as [name, data] pairs. Chunks may end anywhere, even within a character. */
export async function* eventsOf(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let name = "message";
  let data = [];
  try {
    for (let done = false; !done; ) {
      const chunk = await reader.read();
      done = chunk.done;
      // a carriage return at the end of a chunk may be the first half of a line end
      const lines = (rest + (chunk.value ?? "")).split(done ? /\r\n|\n|\r/ : /\r\n|\n|\r(?!$)/);
      rest = lines.pop();
      for (const line of lines) {
        const [, field, value] = line.match(/^([^:]*):? ?(.*)$/s);
        if (line === "") {
          if (data.length) yield [name, data.join("\n")];
          [name, data] = ["message", []];
        } else if (field === "data") data.push(value);
        else if (field === "event") name = value;
        // a comment has an empty field name; other fields are ignored
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // cancelling a stream that failed rejects
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
  const text = answer.error ?? `the server answered ${response.status}`;
  const wait = Number.parseInt(response.headers.get("Retry-After"), 10) || 0;
  // the page counts down what the server's words say at the end
  const reason = wait && response.status === 429 ? text.replace(/[:;,.] try again .*$/, "") : text;
  return new Refusal(sentence(reason), { status: response.status, wait, field: answer.field });
}

function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1).replace(/\.?$/, ".");
}

/** Request a story; calls `on.start` and `on.piece`. Returns the final object, and throws if there is none. */
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
    if (name === "error") throw new Refusal(sentence(message.error));
    if (name === "start") on.start(message);
    else if (message.finish_reason) return message;
    else if (message.token !== undefined) on.piece(message);
  }
  throw new Refusal("The stream ended before the story was complete.");
}
