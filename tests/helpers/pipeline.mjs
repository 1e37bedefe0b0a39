// The text-generation pipeline of transformers.js on a folder: greedy, 12 tokens. Prints the texts as JSON.
// Arguments: the folder of the library, the folder of the model, prompts as JSON.
import { createRequire } from "node:module";
import { basename, dirname, join } from "node:path";

const [libraryFolder, folder, prompts] = process.argv.slice(2);
const { pipeline, env } = createRequire(join(libraryFolder, "package.json"))(libraryFolder);
env.localModelPath = dirname(folder);
env.allowRemoteModels = env.useFSCache = false;
const generator = await pipeline("text-generation", basename(folder), { dtype: "fp32" });
const outputs = await generator(JSON.parse(prompts), { max_new_tokens: 12, do_sample: false, repetition_penalty: 1 });
console.log(JSON.stringify(outputs.map(([output]) => output.generated_text)));
