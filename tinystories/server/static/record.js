// A record has everything about one story: its request and its answer. This module renders it as words and as JSON.

import { $ } from "./page.js";
import { modelName } from "./server.js";
import { OWN } from "./settings.js";

/** Added later: `start` and `final`, the first and last object of the answer, or `problem`, why there is no last one. */
export function newRecord(request) {
  return { request, model: request.model, seed: request.seed, text: "", pieces: [], tokens: 0, outcome: null };
}

export function wholeText({ request, text }) {
  return request.prompt + text;
}

/** How a story ended, in words. */
export function ending({ outcome, problem, start, final, pieces }) {
  const most = (final ?? start)?.max_tokens;
  const clamped = (final ?? start)?.clamped ? ": after this beginning, the model can read no more" : "";
  const partial = pieces.length ? " The text above is not the whole story." : "";
  return {
    stop: "The end.",
    length: `Cut off at ${most} tokens, before its end${clamped}.`,
    timeout: "The server's time was up before the end of the story.",
    cancelled: "The server stopped it before its end.",
    stopped: pieces.length ? "You stopped it here." : "You stopped it before its first word.",
    failed: `${problem?.message}${partial}`,
  }[outcome] ?? `It ended: ${outcome}.`;
}

/** The facts beneath a story: model, preset, seed, speed. */
export function facts({ request, model, seed, final }) {
  const list = [modelName(model), request.preset ?? OWN];
  if (seed !== undefined) list.push(`seed ${seed}`);
  if (final) list.push(`${final.new_tokens} tokens`, `${final.tokens_per_second?.toFixed(0)} tokens/s`);
  if (final?.first_token_seconds) list.push(`first token in ${Number((1000 * final.first_token_seconds).toPrecision(2))} ms`);
  // a line may break between two facts, but not within one
  return list.map((fact) => fact.replaceAll(" ", "\u00a0")).join(" · ");
}

export function settingsInWords({ final, start }) {
  const settings = Object.entries((final ?? start)?.settings ?? {});
  return settings.map(([name, value]) => `${$(name)?.labels[0].textContent.toLowerCase() ?? name} ${value}`).join(", ");
}

/** The content of a .json file: everything that is needed to generate the story again. */
export function asJson(record) {
  const { request, model, seed, text, outcome, final, start, at } = record;
  return {
    prompt: request.prompt,
    text,
    model,
    seed,
    preset: request.preset ?? null,
    settings: (final ?? start)?.settings,
    max_tokens: (final ?? start)?.max_tokens,
    tidy: request.tidy,
    finish_reason: outcome,
    error: record.problem?.message,
    new_tokens: final?.new_tokens,
    seconds: final?.seconds,
    tokens_per_second: final?.tokens_per_second,
    written: at,
    pieces: request.alternatives ? record.pieces : undefined,
  };
}

export function asText(object) {
  return JSON.stringify(object, null, 2) + "\n";
}
