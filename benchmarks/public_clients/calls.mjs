// Calls of one public JavaScript client against a running server, a JSON line for each: its name, and what was wrong.
//
//     node calls.mjs openai http://127.0.0.1:7779 boxed
//
// benchmarks/clients.py copies this file beside the packages that it installs, and starts the server.

const PROMPT = "Once upon a time, a little fox";
const messages = [{ role: "user", content: PROMPT }];
const [client, url, model] = process.argv.slice(2);
const baseURL = `${url}/v1`;

function check(holds, what) {
  if (!holds) throw new Error(`expected ${what}`);
}

/** The continuation of the prompt, asked for without any client. */
async function told() {
  const body = JSON.stringify({ model, prompt: PROMPT, max_tokens: 12, seed: 1 });
  const headers = { "Content-Type": "application/json" };
  const answer = await fetch(`${baseURL}/completions`, { method: "POST", headers, body });
  return (await answer.json()).choices[0].text;
}

async function openaiCalls() {
  const { default: OpenAI } = await import("openai");
  const openai = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0 });
  const common = { model, max_tokens: 12, seed: 1 };
  const story = await told();
  return {
    models: async () => {
      const names = [];
      for await (const each of openai.models.list()) names.push(each.id);
      check(names.includes(model) && (await openai.models.retrieve(model)).id === model, "the model listed");
    },
    completions: async () => {
      const whole = await openai.completions.create({ ...common, prompt: PROMPT });
      check(whole.choices[0].text === story, "the story");
    },
    "chat, streaming": async () => {
      const whole = await openai.chat.completions.create({ ...common, messages });
      check(whole.choices[0].message.content === story && whole.usage.completion_tokens === 12, "the story");
      let text = "";
      let usage = null;
      const options = { stream: true, stream_options: { include_usage: true } };
      for await (const part of await openai.chat.completions.create({ ...common, messages, ...options })) {
        text += part.choices[0]?.delta.content ?? "";
        usage = part.usage ?? usage;
      }
      check(text === story && usage?.completion_tokens === 12, "the same, streamed, with its usage");
    },
  };
}

async function sdkCalls() {
  const { generateText, streamText } = await import("ai");
  const { createOpenAICompatible } = await import("@ai-sdk/openai-compatible");
  const provider = createOpenAICompatible({ name: "stories", baseURL, apiKey: "none", includeUsage: true });
  const common = { maxOutputTokens: 12, seed: 1, maxRetries: 0 };
  const story = await told();
  return {
    completions: async () => {
      const { text } = await generateText({ model: provider.completionModel(model), prompt: PROMPT, ...common });
      check(text, "a text");
    },
    "chat, streaming": async () => {
      const whole = await generateText({ model: provider.chatModel(model), messages, ...common });
      check(whole.text === story && whole.usage.outputTokens === 12, "the story");
      const stream = streamText({ model: provider.chatModel(model), messages, ...common });
      let text = "";
      for await (const part of stream.textStream) text += part;
      check(text === story && (await stream.usage).outputTokens === 12, "the same, streamed, with its usage");
    },
  };
}

const calls = await { openai: openaiCalls, "ai-sdk": sdkCalls }[client]();
for (const [call, run] of Object.entries(calls)) {
  let problem = null;
  try {
    await run();
  } catch (error) {
    problem = String(error).split("\n")[0].slice(0, 300);
  }
  console.log(JSON.stringify({ call, problem }));
}
