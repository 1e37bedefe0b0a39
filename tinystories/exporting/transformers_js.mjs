// Opens an exported folder with transformers.js and answers questions about it: token ids, logits, greedy tokens.
// In node it answers lines of JSON on stdin (transformers_js.py); a page imports `openModel`.

/** library: the module of transformers.js. parent, name: where the folder is, and how it is called. */
export async function openModel(library, parent, name, dtype, eosTokenId, options = {}) {
  const { AutoModelForCausalLM, AutoTokenizer, Tensor, env } = library;
  env.localModelPath = parent;
  env.allowLocalModels = true;
  env.allowRemoteModels = env.useFSCache = env.useBrowserCache = false;
  const tokenizer = await AutoTokenizer.from_pretrained(name);
  const model = await AutoModelForCausalLM.from_pretrained(name, { dtype, ...options });
  const row = (values) => new Tensor("int64", BigInt64Array.from(values, BigInt), [1, values.length]);
  const inputs = (ids) => ({ input_ids: row(ids), attention_mask: row(ids.map(() => 1)) });
  return {
    open: () => null,
    encode: (text) => tokenizer.encode(text, { add_special_tokens: false }),
    decode: (ids) => tokenizer.decode(ids, { skip_special_tokens: true }),
    /** Float32Array of ids.length rows of the size of the vocabulary. */
    logits: async (ids) => (await model(inputs(ids))).logits.data,
    greedy: async (ids, maxNewTokens) => {
      const greedy = { do_sample: false, repetition_penalty: 1 }; // not as the preset of the model
      const settings = { ...greedy, max_new_tokens: maxNewTokens, eos_token_id: eosTokenId };
      const every = await model.generate({ ...inputs(ids), ...settings });
      return Array.from(every.data, Number).slice(ids.length);
    },
  };
}

async function answerLines([libraryFolder, folder, dtype, eosTokenId]) {
  const [{ createRequire }, { basename, dirname, join }, { createInterface }] = await Promise.all(
    ["node:module", "node:path", "node:readline"].map((name) => import(name)),
  );
  let library;
  try {
    library = createRequire(join(libraryFolder, "package.json"))(libraryFolder);
  } catch (error) {
    console.error(String(error));
    process.exit(1);
  }
  console.log(library.env.version);
  const session_options = { intraOpNumThreads: 1, interOpNumThreads: 1 };
  const place = [dirname(folder), basename(folder)];
  const opened = openModel(library, ...place, dtype, JSON.parse(eosTokenId), { session_options });
  opened.catch(() => {}); // is answered below
  for await (const line of createInterface({ input: process.stdin })) {
    const [name, ...values] = JSON.parse(line);
    try {
      let value = await (await opened)[name](...values);
      if (value instanceof Float32Array)
        value = Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString("base64");
      console.log(JSON.stringify({ value }));
    } catch (error) {
      console.log(JSON.stringify({ error: String(error) }));
    }
  }
}

if (typeof process !== "undefined" && process.versions?.node) await answerLines(process.argv.slice(2));
