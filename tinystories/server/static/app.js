// The page: asks the server for stories, reads them as they are written, and shows how they came about.
// Everything that comes from the server goes in as text (textContent), never as HTML: a <script> in a story is a word.

const FEWEST_TOKENS = 50; // what the page offers, within what the server allows
const MOST_TOKENS = 500;
const MOST_COLUMNS = 4;
const ALTERNATIVES = 5;
const OWN = "own settings";
const BEGINNINGS = [
  "Once upon a time, there was a little fox who",
  "One rainy day, Lily found a",
  "The dragon was afraid of",
  "Tom and his dog went to the sea.",
];
const SURENESS = [0.01, 0.05, 0.2]; // below the first: a surprise; from the last on: sure

const $ = (id) => document.getElementById(id);
const form = $("form");
const prompt = $("prompt");
const tip = $("tip");

let info = null; // what /api/info said
let connecting = null; // the promise of a connection that is being waited for
let running = null; // the AbortController of the stories that are being written
const history = []; // the records of this visit, newest last
const thoughts = new WeakMap(); // a word on the page -> the pieces it is made of

/* ---- small helpers ---- */

function make(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

function fromTemplate(id) {
  return $(id).content.firstElementChild.cloneNode(true);
}

function fillSelect(select, options) {
  const before = select.value;
  select.replaceChildren(...options.map(([value, text]) => make("option", { value, textContent: text })));
  if (options.some(([value]) => value === before)) select.value = before;
}

function say(text) {
  $("announcement").textContent = text;
}

function pause(seconds) {
  return new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
}

function percent(share) {
  if (share < 0.001) return "under 0.1 %";
  if (share > 0.995) return "over 99 %";
  return `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;
}

function seedByChance() {
  const [lowest, highest] = info.bounds.seed;
  const number = crypto.getRandomValues(new Uint32Array(1))[0] % 1_000_000; // six digits can be read out
  return Math.min(Math.max(number, lowest), highest);
}

/* ---- light and dark ---- */

const systemIsDark = matchMedia("(prefers-color-scheme: dark)");

function rememberedTheme() {
  try {
    return localStorage.getItem("theme");
  } catch {
    return null; // storage may be switched off; the page works without
  }
}

function showTheme(theme = rememberedTheme()) {
  if (theme) document.documentElement.dataset.theme = theme;
  const dark = theme ? theme === "dark" : systemIsDark.matches;
  $("theme").setAttribute("aria-pressed", String(dark));
}

function switchTheme() {
  const theme = $("theme").getAttribute("aria-pressed") === "true" ? "light" : "dark";
  showTheme(theme);
  try {
    localStorage.setItem("theme", theme);
  } catch {
    // not remembered, then
  }
}

/* ---- the server: is it there, and what does it offer? ---- */

function showState(state, text) {
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
        offer(answer);
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
function connect() {
  connecting ??= waitForServer().finally(() => (connecting = null));
  return connecting;
}

/** Show what the server offers. What a person has already chosen stays. */
function offer(answer) {
  const first = info === null;
  info = answer;
  const parameters = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
  $("badge").textContent = `${info.model} · ${parameters.format(info.parameters)} parameters · ${info.device}`;
  showState("ready", "ready");
  fillSelect($("model"), modelOptions());
  $("model-field").hidden = info.models.length < 2;
  fillSelect($("preset"), presetOptions());
  for (const [name, [lowest, highest]] of Object.entries(info.bounds)) {
    if ($(name)?.type === "number") Object.assign($(name), { min: lowest, max: highest });
  }
  const tokens = $("max_tokens");
  tokens.max = Math.min(MOST_TOKENS, info.bounds.max_tokens[1]);
  tokens.min = Math.min(Math.max(FEWEST_TOKENS, info.bounds.max_tokens[0]), tokens.max);
  if (first) {
    tokens.value = Math.min(Math.max(info.defaults.max_tokens, tokens.min), tokens.max);
    $("preset").value = info.default_preset;
    showPreset();
  }
  for (const column of $("columns").children) fillColumn(column);
  $("learn").hidden = checkpointsToLearnFrom().length < 2;
  showLength();
}

function modelOptions() {
  return info.models.map(({ id, step }) => [id, step === null ? id : `step ${step.toLocaleString("en")}`]);
}

function modelName(id) {
  return Object.fromEntries(modelOptions())[id] ?? id;
}

function presetOptions() {
  return [...Object.keys(info.presets), OWN].map((name) => [name, name]);
}

/* ---- settings ---- */

/** The names of the settings that a preset decides. */
function sampling() {
  return Object.keys(info.presets[info.default_preset]);
}

function showPreset() {
  const preset = info?.presets[$("preset").value];
  for (const [name, value] of Object.entries(preset ?? {})) $(name).value = value;
  showSettings();
}

function showSettings() {
  if (!info) return;
  const chosen = info.presets[$("preset").value];
  if (!chosen || sampling().some((name) => $(name).valueAsNumber !== chosen[name])) $("preset").value = OWN;
  const seed = $("seed").value;
  $("summary").textContent = `${$("preset").value}, ${$("max_tokens").value} tokens${seed ? `, seed ${seed}` : ""}`;
  $("tidy").disabled = $("thinking").checked;
}

/** The number field that holds what the server would refuse, if there is one. */
function wrongField() {
  const wrong = ({ validity: v }) => v.valueMissing || v.badInput || v.rangeUnderflow || v.rangeOverflow;
  return [...form.querySelectorAll("input[type=number]")].find(wrong);
}

/** Say what keeps a story from being asked for; true if something does. */
function mistakeSaid() {
  const field = wrongField();
  if (!info) showProblem("The server is not ready yet.");
  else if (!prompt.value.trim()) showProblem("Type a beginning first.", prompt);
  else if (field) showProblem(`${field.labels[0].textContent} must be between ${field.min} and ${field.max}.`, field);
  else showProblem("");
  return !$("problem").hidden;
}

/** Say what is wrong where it is wrong: right below the field. */
function showProblem(text, field = null) {
  const problem = $("problem");
  problem.textContent = text;
  problem.hidden = !text;
  for (const input of form.querySelectorAll("[aria-invalid]")) input.removeAttribute("aria-invalid");
  if (text) say(text);
  if (field?.closest("p")) field.closest("p").append(problem);
  else prompt.after(problem);
  if (!field) return;
  if (field !== prompt) $("settings").open = true; // what is closed cannot be focused
  field.setAttribute("aria-invalid", "true");
  field.setAttribute("aria-errormessage", problem.id);
  field.focus();
}

function showLength() {
  const most = info?.bounds.prompt[1] ?? Infinity;
  const length = [...prompt.value].length; // as the server counts: an emoji is one character
  $("length").hidden = length <= most;
  $("length").textContent = `${length.toLocaleString("en")} characters; ${most.toLocaleString("en")} are the most.`;
}

function chosenSeed() {
  return $("seed").value ? $("seed").valueAsNumber : seedByChance();
}

/** What is asked of the server, for a model and a preset (or the fields themselves). */
function requestFor(model, preset, seed) {
  const request = { prompt: prompt.value.trim(), model, max_tokens: $("max_tokens").valueAsNumber, seed };
  if (preset === OWN) for (const name of sampling()) request[name] = $(name).valueAsNumber;
  else request.preset = preset;
  return withThoughts(request);
}

/** Thinking is about the words as they were written: tidied ones would not fit it. */
function withThoughts(request) {
  const thinking = $("thinking").checked;
  return { ...request, alternatives: thinking ? ALTERNATIVES : 0, tidy: $("tidy").checked && !thinking };
}

/* ---- side by side ---- */

function addColumn(model, preset) {
  const column = fromTemplate("column-template");
  fillColumn(column);
  column.querySelector(".model").value = model;
  column.querySelector(".preset").value = preset;
  $("columns").append(column);
  showColumns();
}

function fillColumn(column) {
  fillSelect(column.querySelector(".model"), modelOptions());
  fillSelect(column.querySelector(".preset"), presetOptions());
}

function showColumns() {
  if (!info) return;
  $("side").hidden = !$("compare").checked;
  const columns = $("columns").children;
  if (columns.length === 0 && $("compare").checked) {
    for (const preset of Object.keys(info.presets).slice(0, 2)) addColumn(info.model, preset);
  }
  for (const column of columns) column.querySelector(".remove").hidden = columns.length < 3;
  $("add").hidden = columns.length >= MOST_COLUMNS;
}

/** Up to four models of one training, evenly spread over the logarithm of its steps: at first a model learns fastest. */
function checkpointsToLearnFrom() {
  const ladder = info.models.filter(({ step }) => step !== null);
  if (ladder.length < MOST_COLUMNS) return [...ladder, ...info.models.filter(({ step }) => step === null)];
  const height = ladder.map(({ step }) => Math.log(Math.max(step, 1)));
  const chosen = new Set();
  for (let i = 0; i < MOST_COLUMNS; i++) {
    const wanted = height[0] + ((height.at(-1) - height[0]) * i) / (MOST_COLUMNS - 1);
    const free = [...ladder.keys()].filter((index) => !chosen.has(index));
    chosen.add(free.sort((a, b) => Math.abs(height[a] - wanted) - Math.abs(height[b] - wanted))[0]);
  }
  return [...chosen].sort((a, b) => a - b).map((index) => ladder[index]);
}

function watchItLearn() {
  $("columns").replaceChildren();
  for (const { id } of checkpointsToLearnFrom()) addColumn(id, info.default_preset);
}

/** The requests of all columns: the same beginning and the same seed. */
function requestsSideBySide() {
  const seed = chosenSeed();
  const chosen = (column, what) => column.querySelector(what).value;
  return [...$("columns").children].map((column) => requestFor(chosen(column, ".model"), chosen(column, ".preset"), seed));
}

/* ---- reading the stream ---- */

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

class Refusal extends Error {
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

/** Ask for a story; `on.start`, `on.piece` are told what comes. Returns the final object, and throws where there is none. */
async function ask(request, signal, on) {
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

/* ---- one story: asked for, shown as it comes, finished ---- */

/** Write stories, each into its sheet, all at once. */
async function run(jobs) {
  running = new AbortController();
  showRunning(true);
  bringIntoView(jobs[0].view.sheet);
  say(jobs.length > 1 ? `Writing ${jobs.length} stories.` : "Writing the story.");
  const records = await Promise.all(jobs.map(({ view, request }) => tell(view, request, running.signal)));
  running = null;
  showRunning(false);
  const whose = (record) => (records.length > 1 ? `${modelName(record.model)}: ` : "");
  say(records.map((record) => whose(record) + record.said).join(" "));
}

async function tell(view, request, signal) {
  const record = { request, model: request.model, seed: request.seed, text: "", pieces: [], tokens: 0, outcome: null };
  begin(view, record);
  try {
    const final = await ask(request, signal, {
      start: (start) => started(view, record, start),
      piece: (piece) => addPiece(view, record, piece),
    });
    Object.assign(record, { outcome: final.finish_reason, final, seed: final.seed, text: final.text ?? record.text });
  } catch (error) {
    failed(record, error);
  }
  record.at = new Date();
  finish(view, record);
  if (record.pieces.length || record.outcome === "stop") remember(record);
  return record;
}

function begin(view, record) {
  showStory(view, record);
  view.body.setAttribute("aria-busy", "true");
  view.note.textContent = "Waiting for its turn…";
}

function started(view, record, start) {
  Object.assign(record, { start, seed: start.seed, model: start.model ?? record.model });
  view.note.textContent = "Writing…";
}

function addPiece(view, record, piece) {
  const now = performance.now();
  record.since ??= now;
  record.pieces.push(piece);
  record.text += piece.token;
  if (record.pieces.length > 1) record.tokens += piece.tokens ?? 1; // the first one only starts the clock
  const rate = record.tokens / ((now - record.since) / 1000);
  view.note.textContent = Number.isFinite(rate) ? `Writing… ${rate.toFixed(rate < 10 ? 1 : 0)} tokens/s` : "Writing…";
  writePiece(view, piece);
}

function failed(record, error) {
  record.outcome = "failed";
  if (error.name === "AbortError") record.outcome = "stopped";
  else if (error instanceof Refusal) record.problem = error;
  else if (error instanceof SyntaxError) record.problem = new Refusal("The server's answer could not be read.");
  else record.problem = new Refusal("The connection to the server was lost.", { status: 503 });
}

function finish(view, record) {
  record.said = ending(record);
  if (!record.request.alternatives || record.request.tidy) showStory(view, record);
  view.body.removeAttribute("aria-busy");
  showEnding(view, record);
  if (record.problem?.status === 503) {
    showState("unreachable", "unreachable");
    connect();
  }
  if (record.problem?.wait && record.problem.status === 429) countDown(view, record);
}

/** How a story ended, in words. */
function ending({ outcome, problem, start, final, pieces }) {
  const most = (final ?? start)?.max_tokens;
  const partial = pieces.length ? " What it had written stays, but is not the whole story." : "";
  return {
    stop: "The end.",
    length: `Cut off at ${most} tokens, before its end${(final ?? start)?.clamped ? ": more has no room beside this beginning" : ""}.`,
    timeout: "The server's time was up before the end of the story.",
    cancelled: "The server stopped it before its end.",
    stopped: pieces.length ? "You stopped it here." : "You stopped it before its first word.",
    failed: `${problem?.message}${partial}`,
  }[outcome] ?? `It ended: ${outcome}.`;
}

/** The facts beneath a story: model, preset, seed, speed. */
function facts({ request, model, seed, final }) {
  const list = [modelName(model), request.preset ?? OWN];
  if (seed !== undefined) list.push(`seed ${seed}`);
  if (final) list.push(`${final.new_tokens} tokens`, `${final.tokens_per_second?.toFixed(0)} tokens/s`);
  return list.map((fact) => fact.replaceAll(" ", "\u00a0")).join(" · "); // a line may end between two facts, not inside one
}

function showEnding(view, record) {
  const bad = record.outcome === "failed" || record.outcome === "timeout";
  view.note.replaceChildren(
    make("span", { className: bad ? "problem" : "ending", textContent: record.said }),
    record.text ? make("span", { className: "facts", textContent: facts(record) }) : "",
  );
  view.sheet.dataset.outcome = record.outcome;
  view.row.hidden = !record.text;
  view.legend.hidden = !view.words.length;
}

/** How long to wait, second by second; a reader of the screen is told once, when it is over. */
async function countDown(view, record) {
  const clock = view.note.appendChild(make("span", { className: "countdown" }));
  for (let left = record.problem.wait; left > 0; left--) {
    clock.textContent = `Try again in ${left} s.`;
    await pause(1);
    if (!clock.isConnected) return; // another story is shown here by now
  }
  clock.textContent = "You can try again now.";
  if (!running) say("You can try again now.");
}

/* ---- a story on the page ---- */

/** New sheets of paper in the place of the old ones: what is written on. */
function newViews(requests) {
  const views = requests.map(() => newView());
  $("stories").replaceChildren(...views.map(({ sheet }) => sheet));
  $("stories").dataset.count = views.length;
  $("empty").hidden = true;
  if (requests.length > 1) views.forEach((view, i) => entitle(view, requests[i]));
  return views;
}

/** On a small screen the form fills it: what is being written must be seen. */
function bringIntoView(sheet) {
  if (sheet.getBoundingClientRect().top > innerHeight / 2) sheet.scrollIntoView();
}

function newView() {
  const sheet = fromTemplate("sheet-template");
  const find = (selector) => sheet.querySelector(selector);
  const view = { sheet, body: find(".story"), note: find(".note"), legend: find(".legend"), row: find(".row") };
  find(".copy").onclick = (event) => copy(wholeText(view.record), event.target);
  find(".read").onclick = () => openReader(view.record);
  find(".again").onclick = () => again(view);
  return view;
}

function entitle(view, request) {
  const title = view.sheet.querySelector(".title");
  title.textContent = `${modelName(request.model)}, ${request.preset ?? OWN}`;
  title.hidden = false;
}

function showStory(view, record) {
  Object.assign(view, { record, paragraph: null, word: null, words: [] });
  view.body.replaceChildren();
  view.row.hidden = view.legend.hidden = true;
  delete view.sheet.dataset.outcome;
  write(view, record.request.prompt, "beginning");
  if (!record.text) return;
  if (record.request.alternatives) for (const piece of record.pieces) writePiece(view, piece);
  else write(view, record.text, "told");
}

/** Add text to a story; each of its lines is a paragraph. */
function write(view, text, className) {
  text.split(/\r\n|\r|\n/).forEach((line, number) => {
    if (number > 0) view.paragraph = null;
    if (line) paragraphOf(view).append(make("span", { className, textContent: line }));
  });
}

function paragraphOf(view) {
  view.paragraph ??= view.body.appendChild(make("p", { dir: "auto" }));
  return view.paragraph;
}

function writePiece(view, piece) {
  if (piece.probability === undefined) return write(view, piece.token, "told");
  // a piece that begins with a space begins a word; any other one goes on with the word before it
  const [, before, core, after] = piece.token.match(/^(\s*)(.*?)(\s*)$/s);
  if (before) endWord(view, before);
  if (core) writeWord(view, piece, core);
  if (after) endWord(view, after);
}

function endWord(view, space) {
  view.word = null;
  write(view, space, "told");
}

function writeWord(view, piece, text) {
  if (!view.word) {
    view.word = make("span", { className: "told word", tabIndex: view.words.length ? -1 : 0 });
    paragraphOf(view).append(view.word);
    view.words.push(view.word);
    thoughts.set(view.word, []);
  }
  view.word.append(text);
  const pieces = thoughts.get(view.word);
  pieces.push(piece);
  view.word.dataset.sure = SURENESS.filter((limit) => probabilityOf(pieces) >= limit).length;
}

function probabilityOf(pieces) {
  return pieces.reduce((product, piece) => product * piece.probability, 1);
}

function wholeText({ request, text }) {
  return request.prompt + text;
}

/* ---- what it was thinking: a tip for each word ---- */

let tipped = null; // the word whose tip is open
let leaving = 0; // the timer that closes it after the pointer has left: one can move onto the tip

function showTip(word) {
  clearTimeout(leaving);
  if (word === tipped) return;
  hideTip();
  tipped = word;
  word.setAttribute("aria-describedby", "tip");
  tip.replaceChildren(...tipLines(word.textContent, thoughts.get(word)));
  tip.hidden = false;
  placeTip(word);
}

function hideTip() {
  clearTimeout(leaving);
  tipped?.removeAttribute("aria-describedby");
  tipped = null;
  tip.hidden = true;
}

function leaveTip() {
  clearTimeout(leaving);
  leaving = setTimeout(() => tipped !== document.activeElement && hideTip(), 200);
}

/** Beneath the word, or above it where there is no room; never over the edge of the page. */
function placeTip(word) {
  const place = word.getClientRects()[0];
  const { offsetWidth: width, offsetHeight: height } = tip;
  const right = document.documentElement.clientWidth - width - 8;
  const above = place.bottom + height + 8 > innerHeight && place.top > height + 8;
  tip.style.left = `${scrollX + Math.max(8, Math.min(place.left, right))}px`;
  tip.style.top = `${scrollY + (above ? place.top - height - 4 : place.bottom + 4)}px`;
}

function tipLines(text, pieces) {
  const lines = [make("p", {}, make("b", { textContent: text }), ` ${percent(probabilityOf(pieces))}`)];
  if (pieces.length > 1) {
    const parts = pieces.map((piece) => `${piece.token.trim()} ${percent(piece.probability)}`);
    lines.push(make("p", { className: "small", textContent: `in ${parts.length} pieces: ${parts.join(", ")}` }));
  }
  lines.push(make("p", { className: "small", textContent: "What could have come here:" }), bars(pieces[0]));
  return lines;
}

function bars({ token, probability, alternatives = [] }) {
  const all = alternatives.some(({ text }) => text === token)
    ? alternatives
    : [...alternatives, { text: token, probability }];
  const joins = !/^\s/.test(token);
  const list = make("ul");
  for (const { text, probability: share, end } of all) {
    const bar = make("span", { className: "bar" });
    bar.style.setProperty("--share", share);
    const item = make("li", {}, make("span", { textContent: end ? "(the end)" : shown(text, joins) }), bar, percent(share));
    if (text === token && !end) item.className = "chosen";
    list.append(item);
  }
  return list;
}

/** A token as a person would write it: a line's end by name, and a mark on what would have joined the word before. */
function shown(text, joins) {
  if (!text.trim()) return text.includes("\n") ? "(new line)" : "(space)";
  return !joins && /^[\p{L}\p{N}]/u.test(text) ? `…${text}` : text.trim();
}

/** From word to word with the arrow keys; the story is one stop for Tab. */
function moveFrom(word, key) {
  const words = [...word.closest(".story").querySelectorAll(".word")];
  const index = words.indexOf(word);
  const to = {
    ArrowRight: words[index + 1],
    ArrowLeft: words[index - 1],
    ArrowDown: wordInNextLine(word, words.slice(index + 1)),
    ArrowUp: wordInNextLine(word, words.slice(0, index).reverse()),
    Home: words[0],
    End: words.at(-1),
  }[key];
  to?.focus();
}

/** Of the words that follow in a direction: the one of the next line that stands nearest. */
function wordInNextLine(word, following) {
  const { left, top, height } = word.getBoundingClientRect();
  const away = following.map((other) => [other, other.getBoundingClientRect()]);
  const next = away.filter(([, place]) => Math.abs(place.top - top) > height / 2);
  const line = next.filter(([, place]) => Math.abs(place.top - next[0][1].top) < height / 2);
  return line.sort(([, a], [, b]) => Math.abs(a.left - left) - Math.abs(b.left - left))[0]?.[0];
}

function wordFocused(word) {
  for (const other of word.closest(".story").querySelectorAll(".word[tabindex='0']")) other.tabIndex = -1;
  word.tabIndex = 0;
  showTip(word);
}

/* ---- copy, download, read ---- */

async function copy(text, button) {
  const name = button.textContent;
  const copied = await toClipboard(text);
  say(copied ? "Copied." : "Copying did not work.");
  button.textContent = copied ? "Copied" : "Not copied";
  await pause(1.5);
  button.textContent = name;
}

async function toClipboard(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // without https, and not on the machine itself, a browser has no clipboard but this one
    const area = make("textarea", { value: text, className: "hidden" });
    const before = document.activeElement;
    document.body.append(area);
    area.select();
    const copied = document.execCommand("copy");
    area.remove();
    before?.focus();
    return copied;
  }
}

function download(name, type, text) {
  const address = URL.createObjectURL(new Blob([text], { type }));
  make("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

/** What a .json holds of a story: all that is needed to have it again. */
function asJson(record) {
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

function openReader(record) {
  const view = { body: $("page"), paragraph: null };
  view.body.replaceChildren();
  write(view, record.request.prompt, "beginning");
  write(view, record.text, "told");
  hideTip();
  $("reader").showModal();
  view.body.focus();
  $("reader").scrollTop = 0;
}

/* ---- the history of the visit ---- */

function remember(record) {
  history.push(record);
  const number = history.length;
  const entry = fromTemplate("entry-template");
  const find = (selector) => entry.querySelector(selector);
  write({ paragraph: find(".opening") }, record.request.prompt.replace(/\s+/g, " "), "beginning");
  write({ paragraph: find(".opening") }, record.text.slice(0, 200).replace(/\s+/g, " "), "told");
  find(".facts").textContent = `${facts(record)} · ${settingsInWords(record)} · ${record.said}`;
  find(".open").onclick = () => openAgain(record);
  find(".copy").onclick = (event) => copy(wholeText(record), event.target);
  find(".text").onclick = () => download(`story-${number}.txt`, "text/plain", wholeText(record) + "\n");
  find(".json").onclick = () => download(`story-${number}.json`, "application/json", asText(asJson(record)));
  for (const [name, label] of Object.entries({ text: "Download as .txt", json: "Download as .json" })) {
    find(`.${name}`).setAttribute("aria-label", label);
  }
  $("entries").prepend(entry);
  $("history").hidden = false;
  $("count").textContent = String(number);
}

function asText(object) {
  return JSON.stringify(object, null, 2) + "\n";
}

function settingsInWords({ final, start }) {
  const settings = Object.entries((final ?? start)?.settings ?? {});
  return settings.map(([name, value]) => `${$(name)?.labels[0].textContent.toLowerCase() ?? name} ${value}`).join(", ");
}

/** The story on the page, and in the form what it was made with. */
function openAgain(record) {
  const { request, seed } = record;
  prompt.value = request.prompt;
  showLength();
  $("compare").checked = false;
  $("model").value = request.model;
  $("preset").value = request.preset ?? OWN;
  $("max_tokens").value = request.max_tokens;
  $("seed").value = seed ?? "";
  for (const [name, value] of Object.entries((record.final ?? record.start)?.settings ?? {})) $(name).value = value;
  if (!request.alternatives) $("tidy").checked = request.tidy;
  showSettings();
  showColumns();
  const [view] = newViews([request]);
  showStory(view, record);
  showEnding(view, record);
  view.sheet.focus();
}

/* ---- the buttons and keys ---- */

function generate() {
  if (running || mistakeSaid()) return;
  const one = () => [requestFor($("model").value, $("preset").value, chosenSeed())];
  const requests = $("compare").checked ? requestsSideBySide() : one();
  const views = newViews(requests);
  run(requests.map((request, i) => ({ view: views[i], request })));
}

/** The same story from the same seed. */
function again(view) {
  const { request, seed } = view.record;
  const tidy = request.tidy && !$("thinking").checked;
  if (!running) run([{ view, request: { ...withThoughts(request), tidy, seed } }]);
}

function showRunning(on) {
  document.body.classList.toggle("running", on);
  const [shown, gone] = on ? [$("stop"), $("generate")] : [$("generate"), $("stop")];
  const focused = document.activeElement;
  shown.hidden = false;
  gone.hidden = true;
  // whoever pressed a button that is gone now goes on at the one in its place
  if (focused === gone || focused.matches(".again")) shown.focus();
}

function keyPressed(event) {
  if (event.key === "Escape") {
    if (tipped) hideTip();
    else if (!$("reader").open) running?.abort();
  } else if (event.target.matches?.(".word") && /^(Arrow|Home|End)/.test(event.key)) {
    event.preventDefault();
    moveFrom(event.target, event.key);
  } else if (event.target === prompt && event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    generate();
  }
}

function choose(beginning) {
  prompt.value = beginning;
  showLength();
  prompt.focus();
}

function start() {
  showTheme();
  systemIsDark.addEventListener("change", () => showTheme());
  $("theme").onclick = switchTheme;
  for (const beginning of BEGINNINGS) {
    const button = make("button", { type: "button", textContent: beginning.replace(/\w$/, "$& …"), onclick: () => choose(beginning) });
    $("beginnings").append(make("li", {}, button));
  }
  form.onsubmit = (event) => {
    event.preventDefault();
    generate();
  };
  $("stop").onclick = () => running?.abort();
  document.addEventListener("keydown", keyPressed);
  prompt.oninput = showLength;
  $("settings").oninput = (event) => (event.target.id === "preset" ? showPreset() : showSettings());
  $("thinking").onchange = showSettings;
  $("compare").onchange = showColumns;
  $("new-seed").onclick = () => {
    if (info) $("seed").value = seedByChance();
    showSettings();
  };
  $("add").onclick = () => addColumn(info.model, info.default_preset);
  $("learn").onclick = watchItLearn;
  $("columns").onclick = (event) => {
    if (!event.target.matches(".remove")) return;
    event.target.closest("li").remove();
    showColumns();
    $("add").focus();
  };
  $("download-all").onclick = () => download("stories.json", "application/json", asText(history.map(asJson)));
  $("leave").onclick = () => $("reader").close();
  $("stories").addEventListener("mouseover", (event) => {
    if (event.target.matches(".word")) showTip(event.target);
    else leaveTip();
  });
  $("stories").addEventListener("mouseleave", leaveTip);
  $("stories").addEventListener("focusin", (event) => event.target.matches(".word") && wordFocused(event.target));
  $("stories").addEventListener("focusout", hideTip);
  tip.addEventListener("mouseenter", () => clearTimeout(leaving));
  tip.addEventListener("mouseleave", leaveTip);
  connect();
}

start();
