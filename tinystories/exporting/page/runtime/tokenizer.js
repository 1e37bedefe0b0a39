// Byte-level BPE, as the tokenizers library computes it: a text is cut into pieces, and merges join bytes in a piece.
// What looks like a special token is text. Letters, marks and digits come from the page's own tables, made with that
// library: browsers know different versions of Unicode, and their \s is another set.

const SPACE = "\\p{White_Space}";

/** How a text is cut, by name, with the sets L (letters), M (marks) and N (numbers) as the inside of a class. */
const PIECES = {
  gpt2: ({ L, N }) =>
    `'(?:s|t|re|ve|m|ll|d)| ?[${L}]+| ?[${N}]+| ?[^${SPACE}${L}${N}]+|${SPACE}+(?!\\P{White_Space})|${SPACE}+`,
  // (?i:…) is younger than some browsers; the long s is an s to it
  qwen35: ({ L, M, N }) =>
    `'(?:[sS\u017ftTmMdD]|[rR][eE]|[vV][eE]|[lL]{2})|[^\\r\\n${L}${N}]?[${L}${M}]+|[${N}]` +
    `| ?[^${SPACE}${L}${M}${N}]+[\\r\\n]*|${SPACE}*[\\r\\n]+|${SPACE}+(?!\\P{White_Space})|${SPACE}+`,
};

/** Ranges, each as its distance from the one before and its length - 1, as the inside of a class. */
function characterClass(numbers) {
  const escaped = (code) => `\\u{${code.toString(16)}}`;
  let end = 0;
  let found = "";
  for (let i = 0; i < numbers.length; i += 2) {
    const start = end + numbers[i];
    end = start + numbers[i + 1];
    found += numbers[i + 1] ? `${escaped(start)}-${escaped(end)}` : escaped(start);
  }
  return found;
}

/** The characters that stand for the 256 bytes in a vocabulary: printable ones for themselves, the others from 256 on. */
function byteCharacters() {
  let other = 256;
  const printable = (byte) => (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(printable(byte) ? byte : other++));
}

export class Tokenizer {
  /**
   * tokens: by id, as in tokenizer.json; special: ids that are no text; merges: ids of two tokens after one another, by
   * rank; prefix: ids before a text; pieces: a key of PIECES; classes: its sets.
   */
  constructor({ tokens, special, merges, prefix, pieces, classes }) {
    const sets = Object.fromEntries(Object.entries(classes).map(([name, ranges]) => [name, characterClass(ranges)]));
    this.pattern = new RegExp(PIECES[pieces](sets), "gu");
    this.prefix = prefix;
    const bytes = byteCharacters();
    const ids = new Map(tokens.map((token, id) => [token, id]));
    this.byteIds = bytes.map((character) => ids.get(character));
    const byteOf = new Map(bytes.map((character, byte) => [character, byte]));
    this.bytes = tokens.map((token) => Uint8Array.from(token, (character) => byteOf.get(character)));
    for (const id of special) this.bytes[id] = new Uint8Array();
    this.merges = new Map(); // both ids in one number -> rank
    this.merged = []; // rank -> the new id
    this.number = tokens.length;
    for (let rank = 0; 2 * rank < merges.length; rank++) {
      const [left, right] = merges.slice(2 * rank, 2 * rank + 2);
      this.merges.set(left * this.number + right, rank);
      this.merged.push(ids.get(tokens[left] + tokens[right]));
    }
  }

  /** The ids of a text, without those before it. */
  encode(text) {
    const encoder = new TextEncoder();
    const ids = [];
    for (const [piece] of text.matchAll(this.pattern)) this.encodePiece(encoder.encode(piece), ids);
    return ids;
  }

  /** Merge the pair with the lowest rank, the leftmost first, until there is none; append the ids that are left. */
  encodePiece(bytes, ids) {
    const symbols = Array.from(bytes, (byte) => this.byteIds[byte]);
    const next = symbols.map((_, i) => i + 1);
    const before = symbols.map((_, i) => i - 1);
    const queue = new Queue();
    const offer = (at) => {
      const rank = next[at] < symbols.length ? this.merges.get(symbols[at] * this.number + symbols[next[at]]) : undefined;
      if (rank !== undefined) queue.push(rank * symbols.length + at);
    };
    for (let at = 0; at < symbols.length; at++) offer(at);
    for (let key; (key = queue.pop()) !== undefined; ) {
      const rank = Math.floor(key / symbols.length);
      const at = key % symbols.length;
      const right = next[at];
      if (symbols[at] < 0 || right >= symbols.length) continue;
      const now = this.merges.get(symbols[at] * this.number + symbols[right]);
      if (now === undefined || this.merged[now] !== this.merged[rank]) continue; // one of the two has been merged since
      symbols[at] = this.merged[rank];
      symbols[right] = -1;
      next[at] = next[right];
      if (next[at] < symbols.length) before[next[at]] = at;
      if (before[at] >= 0) offer(before[at]);
      offer(at);
    }
    for (const id of symbols) if (id >= 0) ids.push(id);
  }
}

/** The smallest number first: a binary heap. */
class Queue {
  constructor() {
    this.keys = [];
  }

  push(key) {
    const { keys } = this;
    let at = keys.length;
    for (let parent; at > 0 && keys[(parent = (at - 1) >> 1)] > key; at = parent) keys[at] = keys[parent];
    keys[at] = key;
  }

  pop() {
    const { keys } = this;
    if (keys.length < 2) return keys.pop();
    const first = keys[0];
    const last = keys.pop();
    let at = 0;
    for (let child; (child = 2 * at + 1) < keys.length; at = child) {
      if (keys[child + 1] < keys[child]) child++;
      if (keys[child] >= last) break;
      keys[at] = keys[child];
    }
    keys[at] = last;
    return first;
  }
}

/** Text of tokens as they come: complete characters only. */
export class TextStream {
  constructor(tokenizer) {
    this.tokenizer = tokenizer;
    this.pending = []; // bytes that are not a character yet
    this.decoder = newDecoder();
  }

  push(id) {
    const bytes = this.tokenizer.bytes[id];
    const text = this.decoder.decode(bytes, { stream: true });
    this.pending = text ? [] : [...this.pending, ...bytes];
    return text;
  }

  /** The text that `id` would give now; empty for a part of a character. */
  peek(id) {
    return newDecoder().decode(Uint8Array.from([...this.pending, ...this.tokenizer.bytes[id]]), { stream: true });
  }
}

function newDecoder() {
  return new TextDecoder("utf-8", { ignoreBOM: true }); // U+FEFF is text like any other
}
