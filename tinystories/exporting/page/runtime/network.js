// The network, one token at a time with a KV cache: RMSNorm, rotary embedding in the half-split convention, grouped
// key/value heads, SwiGLU; all numbers are float32. Every product of a matrix with a vector goes through one function:
// the kernel in WebAssembly, or plain typed arrays where the browser has no SIMD.

/** Rows are padded with zeros to a multiple of four numbers, which the kernel reads at once. */
const padded = (size) => (size + 3) & ~3;
const PAGE = 65536; // bytes of a page of WebAssembly's memory

export class Network {
  /**
   * config: sizes as in config.json, with `inverse_frequencies` of the rotary embedding; tensors: name -> Float32Array;
   * kernel: the bytes of kernel.wasm, or null for plain typed arrays.
   */
  constructor(config, tensors, kernel) {
    this.config = config;
    this.size = 0; // numbers placed so far
    this.tensors = [];
    this.placeWeights();
    this.placeState();
    this.allocate(kernel);
    for (const { name, offset, columns } of this.tensors) this.copyWeight(tensors.get(name), name, offset, columns);
    this.logits = this.floats.subarray(this.scores, this.scores + config.vocab_size);
    this.computeRotation();
    this.length = 0; // tokens read
  }

  place(size) {
    const offset = this.size;
    this.size += padded(size);
    return offset;
  }

  /** The offset of a weight of `rows` x `columns`, each row padded. */
  weight(name, rows, columns) {
    const offset = this.place(rows * padded(columns));
    this.tensors.push({ name, offset, columns });
    return offset;
  }

  placeWeights() {
    const { hidden_size: width, intermediate_size: inner, vocab_size: vocabulary, head_dim: head } = this.config;
    const { num_attention_heads: heads, num_key_value_heads: groups } = this.config;
    this.embedding = this.weight("model.embed_tokens.weight", vocabulary, width);
    this.head = this.config.tied ? this.embedding : this.weight("lm_head.weight", vocabulary, width);
    this.norm = this.weight("model.norm.weight", 1, width);
    this.layers = Array.from({ length: this.config.num_hidden_layers }, (_, i) => {
      const own = (name, rows, columns) => this.weight(`model.layers.${i}.${name}.weight`, rows, columns);
      return {
        attentionNorm: own("input_layernorm", 1, width),
        query: own("self_attn.q_proj", heads * head, width),
        key: own("self_attn.k_proj", groups * head, width),
        value: own("self_attn.v_proj", groups * head, width),
        output: own("self_attn.o_proj", width, heads * head),
        innerNorm: own("post_attention_layernorm", 1, width),
        gate: own("mlp.gate_proj", inner, width),
        up: own("mlp.up_proj", inner, width),
        down: own("mlp.down_proj", width, inner),
      };
    });
  }

  placeState() {
    const { hidden_size: width, intermediate_size: inner, vocab_size: vocabulary, head_dim: head } = this.config;
    const { num_attention_heads: heads, num_key_value_heads: groups, context } = this.config;
    this.residual = this.place(width);
    this.normed = this.place(width);
    this.added = this.place(width);
    this.query = this.place(heads * head);
    this.rotated = this.place(padded(head));
    this.keyValue = this.place(groups * head);
    this.attention = this.place(context);
    this.attended = this.place(heads * head);
    this.gate = this.place(inner);
    this.up = this.place(inner);
    this.scores = this.place(vocabulary);
    for (const layer of this.layers) {
      layer.keys = this.place(groups * context * padded(head)); // [group][position][dimension]
      layer.values = this.place(groups * head * padded(context)); // [group][dimension][position]
    }
  }

  allocate(kernel) {
    const bytes = 4 * this.size;
    this.usesKernel = Boolean(kernel);
    if (!kernel) {
      this.floats = new Float32Array(this.size);
      this.multiply = plainMultiply(this.floats);
      return;
    }
    const memory = new WebAssembly.Memory({ initial: Math.ceil(bytes / PAGE) });
    const { matvec } = new WebAssembly.Instance(new WebAssembly.Module(kernel), { page: { memory } }).exports;
    this.floats = new Float32Array(memory.buffer, 0, this.size);
    this.multiply = (out, w, x, rows, columns, stride) =>
      matvec(4 * out, 4 * w, 4 * x, rows, 4 * columns, 4 * stride);
  }

  copyWeight(tensor, name, offset, columns) {
    if (!tensor) throw new Error(`the weight ${name} is missing`);
    if (columns === padded(columns)) return this.floats.set(tensor, offset);
    for (let row = 0; row * columns < tensor.length; row++) {
      this.floats.set(tensor.subarray(row * columns, (row + 1) * columns), offset + row * padded(columns));
    }
  }

  /** Cosines and sines by position, rounded to float32 where torch rounds. */
  computeRotation() {
    const { inverse_frequencies: frequencies, attention_scaling: scaling, context } = this.config;
    this.cosines = new Float32Array(context * frequencies.length);
    this.sines = new Float32Array(context * frequencies.length);
    for (let position = 0, i = 0; position < context; position++) {
      for (const frequency of frequencies) {
        const angle = Math.fround(position * Math.fround(frequency));
        this.cosines[i] = Math.fround(Math.cos(angle)) * scaling;
        this.sines[i++] = Math.fround(Math.sin(angle)) * scaling;
      }
    }
  }

  reset() {
    this.length = 0;
  }

  /** Read one more token. Afterwards `logits` are those of the next one, if they are `wanted`. */
  step(token, wanted = true) {
    const { hidden_size: width, vocab_size: vocabulary, context } = this.config;
    if (this.length >= context) throw new RangeError(`the context of ${context} tokens is full`);
    const row = this.embedding + token * padded(width);
    this.floats.copyWithin(this.residual, row, row + width);
    for (const layer of this.layers) {
      this.attend(layer);
      this.feedForward(layer);
    }
    this.length++;
    if (!wanted) return;
    this.normalise(this.norm);
    this.product(this.scores, this.head, this.normed, vocabulary, width);
  }

  product(out, w, x, rows, columns) {
    this.multiply(out, w, x, rows, padded(columns), padded(columns));
  }

  /** RMSNorm of the residual stream. */
  normalise(weight) {
    const { floats, residual, normed } = this;
    const { hidden_size: width, rms_norm_eps: eps } = this.config;
    let sum = 0;
    for (let i = 0; i < width; i++) sum += floats[residual + i] ** 2;
    const scale = 1 / Math.sqrt(sum / width + eps);
    for (let i = 0; i < width; i++) floats[normed + i] = floats[weight + i] * Math.fround(floats[residual + i] * scale);
  }

  addToResidual() {
    const { floats, residual, added } = this;
    for (let i = 0; i < this.config.hidden_size; i++) floats[residual + i] += floats[added + i];
  }

  attend(layer) {
    const { hidden_size: width, num_attention_heads: heads, num_key_value_heads: groups, head_dim: head } = this.config;
    this.normalise(layer.attentionNorm);
    this.product(this.query, layer.query, this.normed, heads * head, width);
    this.product(this.keyValue, layer.key, this.normed, groups * head, width);
    for (let group = 0; group < groups; group++) this.rotate(this.keyValue + group * head, this.keysOf(layer, group, this.length));
    this.product(this.keyValue, layer.value, this.normed, groups * head, width);
    this.storeValues(layer);
    for (let i = 0; i < heads; i++) this.attendHead(layer, i, Math.floor((i * groups) / heads));
    this.product(this.added, layer.output, this.attended, width, heads * head);
    this.addToResidual();
  }

  keysOf(layer, group, position) {
    return layer.keys + (group * this.config.context + position) * padded(this.config.head_dim);
  }

  /** Rotate the first dimensions of a head by its position; the others pass. */
  rotate(from, to) {
    const { floats, cosines, sines } = this;
    const half = this.config.inverse_frequencies.length;
    const first = this.length * half;
    for (let i = 0; i < half; i++) {
      const [a, b, cosine, sine] = [floats[from + i], floats[from + half + i], cosines[first + i], sines[first + i]];
      floats[to + i] = a * cosine - b * sine;
      floats[to + half + i] = b * cosine + a * sine;
    }
    for (let i = 2 * half; i < this.config.head_dim; i++) floats[to + i] = floats[from + i];
  }

  storeValues(layer) {
    const { num_key_value_heads: groups, head_dim: head, context } = this.config;
    for (let i = 0; i < groups * head; i++) {
      this.floats[layer.values + i * padded(context) + this.length] = this.floats[this.keyValue + i];
    }
  }

  attendHead(layer, number, group) {
    const { head_dim: head, context } = this.config;
    const length = this.length + 1;
    this.rotate(this.query + number * head, this.rotated);
    this.product(this.attention, this.keysOf(layer, group, 0), this.rotated, length, head);
    this.softmax(this.attention, length, head ** -0.5);
    this.floats.fill(0, this.attention + length, this.attention + padded(length));
    const values = layer.values + group * head * padded(context);
    this.multiply(this.attended + number * head, values, this.attention, head, padded(length), padded(context));
  }

  softmax(at, length, scale) {
    const { floats } = this;
    let most = -Infinity;
    for (let i = at; i < at + length; i++) if (floats[i] > most) most = floats[i];
    let sum = 0;
    for (let i = at; i < at + length; i++) sum += floats[i] = Math.exp((floats[i] - most) * scale);
    for (let i = at; i < at + length; i++) floats[i] /= sum;
  }

  feedForward(layer) {
    const { floats, gate, up } = this;
    const { hidden_size: width, intermediate_size: inner } = this.config;
    this.normalise(layer.innerNorm);
    this.product(gate, layer.gate, this.normed, inner, width);
    this.product(up, layer.up, this.normed, inner, width);
    for (let i = 0; i < inner; i++) floats[gate + i] *= floats[up + i] / (1 + Math.exp(-floats[gate + i]));
    this.product(this.added, layer.down, gate, width, inner);
    this.addToResidual();
  }
}

/** The kernel in plain typed arrays. */
function plainMultiply(floats) {
  return (out, w, x, rows, columns, stride) => {
    for (let row = 0; row < rows; row++, w += stride) {
      let [a, b, c, d] = [0, 0, 0, 0];
      for (let i = 0; i < columns; i += 4) {
        a += floats[w + i] * floats[x + i];
        b += floats[w + i + 1] * floats[x + i + 1];
        c += floats[w + i + 2] * floats[x + i + 2];
        d += floats[w + i + 3] * floats[x + i + 3];
      }
      floats[out + row] = a + b + (c + d);
    }
  };
}

/** The tensors of a safetensors file of float32: name -> Float32Array. */
export function tensorsOf(bytes) {
  const length = Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length)));
  const found = new Map();
  for (const [name, { data_offsets: offsets }] of Object.entries(header)) {
    if (!offsets) continue; // __metadata__
    const [from, to] = offsets.map((offset) => 8 + length + offset);
    const start = bytes.byteOffset + from;
    const buffer = start % 4 ? bytes.slice(from, to).buffer : bytes.buffer;
    found.set(name, new Float32Array(buffer, start % 4 ? 0 : start, (to - from) / 4));
  }
  return found;
}
