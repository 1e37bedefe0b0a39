// Opens an exported page in node, with the page's own code and data, and answers requests: one JSON object a line.
//   node reader.cjs PAGE.html
// It is how an export proves itself where node is installed.

const fs = require("node:fs");
const path = require("node:path");
const readline = require("node:readline");
const vm = require("node:vm");

process.on("uncaughtException", (error) => {
  process.stderr.write(`${error.message}\n`);
  process.exit(1);
});

const file = process.argv[2];
const html = fs.readFileSync(file, "utf-8");

/** The text of the page's element `id`. */
function element(id) {
  return html.match(new RegExp(`<script[^>]* id="${id}"[^>]*>([^]*?)</script>`))?.[1];
}

const { Session, bytesOf, crc32 } = vm.runInThisContext(`${element("runtime")}; Runtime`);
const embedded = element("weights");
const weights = embedded ? bytesOf(embedded) : new Uint8Array(fs.readFileSync(path.join(path.dirname(file), "model.safetensors")));
const session = new Session(JSON.parse(element("contents")), weights, bytesOf(element("kernel")));

function finish(steps) {
  for (;;) {
    const { done, value } = steps.next();
    if (done) return value;
  }
}

function logits(ids) {
  const rows = [];
  session.network.reset();
  for (const id of ids) {
    session.network.step(id);
    rows.push(Buffer.from(Float32Array.from(session.network.logits).buffer));
  }
  return Buffer.concat(rows).toString("base64");
}

const answers = {
  check: () => finish(session.check()) ?? true,
  encode: ({ text }) => session.tokenizer.encode(text),
  greedy: ({ ids, most }) => finish(session.greedy(ids, most)),
  logits: ({ ids }) => logits(ids),
};

readline.createInterface({ input: process.stdin }).on("line", (line) => {
  const request = JSON.parse(line);
  process.stdout.write(`${JSON.stringify(answers[request.do](request))}\n`);
});
