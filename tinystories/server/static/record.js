// A record has everything about one story: its request and its answer. This module renders it as words and as JSON.

import { $ } from "./page.js";
import { modelName } from "./server.js";
import { OWN } from "./settings.js";

/**
 * Added later: `start` and `final`, the first and last object of the answer, or `problem`, why there is no last one.
 * raw, text: the story without its beginning, as it was generated, and as it is shown (perhaps tidied). reading, read:
 * the text that the model has read and written, and its tokens. written: tokens of `raw`. continued: of each time that
 * it was continued, the seed, after how many characters of `raw`, and whether the model read less than before.
 */
export function newRecord(request) {
  const id = [...crypto.getRandomValues(new Uint32Array(2))].map((number) => number.toString(36)).join("");
  const empty = { raw: "", text: "", reading: "", read: 0, written: 0, pieces: [], continued: [], outcome: null };
  return { id, request, model: request.model, seed: request.seed, ...empty };
}

export function wholeText({ request, text }) {
  return request.prompt + text;
}

/** How a story ended, in words. */
export function ending({ outcome, problem, start, final, text, continued }) {
  const most = (final ?? start)?.max_tokens;
  const clamped = (final ?? start)?.clamped ? ": after this beginning, the model can read no more" : "";
  const tokens = continued.length ? `after ${most} more` : `at ${most}`;
  const partial = text ? " The text above is not the whole story." : "";
  return {
    stop: "The end.",
    length: `Cut off ${tokens} tokens, before its end${clamped}.`,
    timeout: "The server's time was up before the end of the story.",
    cancelled: "The server stopped it before its end.",
    stopped: text ? "You stopped it here." : "You stopped it before its first word.",
    failed: `${problem?.message}${partial}`,
  }[outcome] ?? `It ended: ${outcome}.`;
}

/** Where a story comes from: model, preset, seed. */
export function origin(record) {
  return joined(originOf(record));
}

/** The facts beneath a story: its origin and its speed. */
export function facts(record) {
  const { final, written } = record;
  const list = originOf(record);
  if (final) list.push(`${written} tokens`);
  if (final?.tokens_per_second) list.push(`${final.tokens_per_second.toFixed(0)} tokens/s`);
  const first = final?.first_token_seconds;
  if (first) list.push(`first token in ${Number((1000 * first).toPrecision(2))} ms`);
  return joined(list);
}

function originOf({ request, model, seed, continued }) {
  const list = [modelName(model), request.preset ?? OWN];
  if (seed !== undefined) list.push(`seed ${seed}`);
  if (continued.length) list.push(continued.length === 1 ? "continued" : `continued ${continued.length} times`);
  if (continued.some(({ shortened }) => shortened)) list.push("without its beginning");
  return list;
}

/** A line may break between two facts, but not within one. */
function joined(facts) {
  return facts.map((fact) => fact.replaceAll(" ", "\u00a0")).join(" · ");
}

export function settingsInWords({ final, start }) {
  const settings = Object.entries((final ?? start)?.settings ?? {});
  return settings.map(([name, value]) => `${$(name)?.labels[0].textContent.toLowerCase() ?? name} ${value}`).join(", ");
}

/** The content of a .txt file: the story, and below it the settings. */
export function asTextFile(record) {
  const { request, seed, continued } = record;
  const again = continued.length ? `, continued with the seeds ${continued.map((part) => part.seed).join(", ")}` : "";
  const settings = `${modelName(record.model)}, ${request.preset ?? OWN}: ${settingsInWords(record)}`;
  return `${wholeText(record)}\n\n--\n${settings}, ${request.max_tokens} tokens at most, seed ${seed}${again}\n`;
}

/** The content of a .json file: everything that is needed to generate the story again. */
export function asJson(record) {
  const { request, model, seed, text, outcome, final, start, at, continued } = record;
  return {
    prompt: request.prompt,
    text,
    model,
    seed,
    preset: request.preset ?? null,
    settings: (final ?? start)?.settings,
    max_tokens: request.max_tokens,
    tidy: request.tidy,
    continued: continued.length ? continued : undefined,
    finish_reason: outcome,
    error: record.problem?.message,
    new_tokens: record.written,
    seconds: final?.seconds,
    tokens_per_second: final?.tokens_per_second,
    written: at,
    pieces: request.alternatives ? record.pieces : undefined,
  };
}

export function asJsonFile(object) {
  return JSON.stringify(object, null, 2) + "\n";
}
