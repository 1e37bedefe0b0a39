// What is done with the model: it is opened and checked, and it writes stories. Independent of page and worker.

import { Network, tensorsOf } from "./network.js";
import { candidates, draw, likeliest, logSumExp, randomNumbers } from "./sampling.js";
import { TextStream, Tokenizer } from "./tokenizer.js";

/** Shown to the user as it is. */
export class Problem extends Error {}

export class Session {
  /** contents: the page's data; weights: the bytes of a safetensors file; kernel: of kernel.wasm, null without it. */
  constructor(contents, weights, kernel) {
    this.contents = contents;
    if (crc32(weights) !== contents.weights.crc32) throw new Problem("its weights are damaged: copy or export it again");
    this.tokenizer = new Tokenizer(contents.tokenizer);
    this.network = new Network(contents.config, tensorsOf(weights), kernel);
  }

  /** The ids of a prompt, with those that every text begins with. */
  encodePrompt(prompt) {
    return [...this.tokenizer.prefix, ...this.tokenizer.encode(prompt)];
  }

  isEnd(id) {
    return this.contents.end_tokens.includes(id);
  }

  /** The likeliest tokens after `ids`: `most`, or up to an end token or the context. Yields after each step. */
  *greedy(ids, most) {
    const found = [];
    const room = Math.min(most, this.contents.config.context - ids.length);
    yield* this.read(ids);
    while (found.length < room) {
      const id = likeliest(this.network.logits);
      found.push(id);
      if (this.isEnd(id) || found.length === room) break;
      this.network.step(id);
      yield;
    }
    return found;
  }

  /** Begin with `ids`; the logits are those after the last. Yields after each step. */
  *read(ids) {
    this.network.reset();
    for (const [i, id] of ids.entries()) {
      this.network.step(id, i === ids.length - 1);
      yield;
    }
  }

  /** Compare this page with the checkpoint. Yields after each step; throws a Problem for a difference. */
  *check() {
    const { texts, prompt, tokens } = this.contents.check;
    for (const { text, ids } of texts) {
      if (String(this.tokenizer.encode(text)) !== String(ids)) throw new Problem(`it reads ${JSON.stringify(text)} differently`);
    }
    const found = yield* this.greedy(prompt, tokens.length);
    const wrong = tokens.findIndex((id, i) => id !== found[i]);
    if (wrong >= 0) throw new Problem(`of the ${tokens.length} tokens that the model writes first, number ${wrong + 1} differs`);
  }

  /** Write a story; `emit` is called as the server's stream is read: start, then pieces. Returns the final object. */
  *write(request, emit) {
    const begun = performance.now();
    const ids = this.encodePrompt(sanitised(request.prompt));
    const room = this.contents.config.context - ids.length;
    if (ids.length === this.tokenizer.prefix.length) throw new Problem("nothing is left of the beginning after removing spaces and control characters");
    if (room < 1) throw new Problem(`the beginning has ${ids.length} tokens, and this model reads ${this.contents.config.context}: shorten it`);
    const story = new Story(this, request, ids, room);
    emit("start", story.start);
    yield* this.read(ids);
    let first = null;
    for (;;) {
      const ended = story.next(emit);
      first ??= performance.now();
      if (ended) return { ...story.start, ...story.end(ended), ...speed(story, begun, first) };
      this.network.step(story.ids.at(-1));
      yield;
    }
  }
}

function speed({ tokens }, begun, first) {
  const seconds = (performance.now() - begun) / 1000;
  return { seconds, tokens_per_second: tokens / seconds, first_token_seconds: (first - begun) / 1000 };
}

/** A story that is being written. */
class Story {
  constructor(session, request, ids, room) {
    this.session = session;
    this.request = request;
    this.ids = [...ids];
    this.text = "";
    this.tokens = 0;
    this.stream = new TextStream(session.tokenizer);
    this.random = randomNumbers(request.seed);
    this.settings = session.contents.info.presets[request.preset] ?? settingsOf(request);
    const most = Math.min(request.max_tokens, room);
    const { model, seed } = request;
    this.start = { model, seed, settings: this.settings, prompt_tokens: ids.length, max_tokens: most, clamped: most < request.max_tokens };
    this.startPiece();
  }

  startPiece() {
    this.piece = { tokens: 0, logprob: 0, alternatives: [] };
  }

  /** Choose one more token; returns why the story ends, or null. */
  next(emit) {
    const { logits } = this.session.network;
    const id = draw(candidates(logits, this.ids, this.settings), this.random());
    if (this.request.alternatives) this.note(logits, id);
    if (this.session.isEnd(id)) return "stop";
    this.ids.push(id);
    this.tokens++;
    this.piece.tokens++;
    const token = this.stream.push(id);
    if (token) this.emitPiece(token, emit);
    return this.tokens === this.start.max_tokens ? "length" : null;
  }

  emitPiece(token, emit) {
    const { tokens, logprob, alternatives } = this.piece;
    const sure = this.request.alternatives ? { probability: Math.exp(logprob), alternatives } : {};
    emit("piece", { token, tokens, at: performance.now(), ...sure });
    this.text += token;
    this.startPiece();
  }

  /** The model's own probabilities, before the settings: of the token, and at the start of a piece of the likeliest. */
  note(logits, id) {
    const normaliser = logSumExp(logits);
    this.piece.logprob += logits[id] - normaliser;
    if (this.piece.tokens > 0) return;
    const all = { temperature: 1, top_k: this.request.alternatives, top_p: 1, repetition_penalty: 1 };
    const { ids } = candidates(logits, [], all);
    this.piece.alternatives = ids.slice(0, this.request.alternatives).map((other) => {
      const probability = Math.exp(logits[other] - normaliser);
      return this.session.isEnd(other) ? { text: "", probability, end: true } : { text: this.stream.peek(other) || "\ufffd", probability };
    });
  }

  end(reason) {
    return { finish_reason: reason, text: this.text, new_tokens: this.tokens };
  }
}

function settingsOf({ temperature, top_k, top_p, repetition_penalty }) {
  return { temperature, top_k, top_p, repetition_penalty };
}

/** Without control characters other than line ends and tabs, and without what is no character; as the server does. */
export function sanitised(prompt) {
  const lines = prompt.replace(/\r\n?/g, "\n");
  return lines.replace(/[\0-\x08\x0b-\x1f\x7f-\x9f\ufffd]|\p{Surrogate}/gu, "").trim();
}

/** The checksum of zlib. */
export function crc32(bytes) {
  const table = Int32Array.from({ length: 256 }, (_, i) => {
    for (let bit = 0; bit < 8; bit++) i = i & 1 ? (i >>> 1) ^ 0xedb88320 : i >>> 1;
    return i;
  });
  let crc = -1;
  for (let i = 0; i < bytes.length; i++) crc = table[(crc ^ bytes[i]) & 255] ^ (crc >>> 8);
  return ~crc >>> 0;
}
