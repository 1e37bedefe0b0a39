"""Calls of one public Python client against a running server, a JSON line for each: its name, and what was wrong.

    python benchmarks/public_clients/calls.py openai http://127.0.0.1:7779 boxed

It imports nothing of this project, so that it runs in an environment that has the client and not the server.
benchmarks/clients.py makes that environment and starts the server.
"""

import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path


PROMPT = "Once upon a time, a little fox"
MESSAGES = [{"role": "user", "content": PROMPT}]
SHORT = {"max_tokens": 12, "seed": 1}
Calls = Iterator[tuple[str, Callable[[], None]]]


class Failure(Exception):
    """What an answer should have been."""


def check(holds: object, what: str) -> None:
    if not holds:
        raise Failure(f"expected {what}")


def told(url: str, model: str) -> str:
    """The continuation of the prompt, asked for without any client."""
    body = json.dumps({"model": model, "prompt": PROMPT, **SHORT}).encode()
    request = urllib.request.Request(f"{url}/v1/completions", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)["choices"][0]["text"]


def openai_calls(url: str, model: str) -> Calls:
    from openai import OpenAI

    client, story = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0), told(url, model)

    def completions() -> None:
        whole = client.completions.create(model=model, prompt=[PROMPT, "One day"], n=2, **SHORT)
        parts = client.completions.create(model=model, prompt=PROMPT, stream=True, **SHORT)
        check(whole.choices[0].text == story and len(whole.choices) == 4, "the story first, and four in all")
        check("".join(part.choices[0].text for part in parts) == story, "the streamed story to be the same")
        scored = client.completions.create(model=model, prompt=PROMPT, echo=True, logprobs=1, max_tokens=0)
        check(None not in scored.choices[0].logprobs.token_logprobs, "a logprob of each token")

    def chat() -> None:
        whole = client.chat.completions.create(model=model, messages=MESSAGES, **SHORT)
        check(whole.choices[0].message.content == story and whole.usage.completion_tokens == 12, "the story")
        options = {"stream": True, "stream_options": {"include_usage": True}}
        parts = list(client.chat.completions.create(model=model, messages=MESSAGES, **SHORT, **options))
        text = "".join(choice.delta.content or "" for part in parts for choice in part.choices)
        check(text == story and parts[-1].usage == whole.usage, "the same, streamed, with its usage")

    yield "models", lambda: check(client.models.retrieve(model) in list(client.models.list()), "the model listed")
    yield "completions", completions
    yield "chat, streaming", chat


def litellm_calls(url: str, model: str) -> Calls:
    import litellm

    common, story = {"api_base": f"{url}/v1", "api_key": "none", **SHORT}, told(url, model)

    def chat() -> None:
        whole = litellm.completion(model=f"openai/{model}", messages=MESSAGES, **common)
        check(whole.choices[0].message.content == story and whole.usage.completion_tokens == 12, "the story")
        parts = litellm.completion(model=f"openai/{model}", messages=MESSAGES, stream=True, **common)
        check("".join(part.choices[0].delta.content or "" for part in parts) == story, "the same, streamed")

    def text() -> None:
        found = litellm.text_completion(model=f"text-completion-openai/{model}", prompt=PROMPT, **common)
        check(found.choices[0].text == story, "the story")

    def models() -> None:
        request = {"check_provider_endpoint": True, "custom_llm_provider": "openai"}
        found = litellm.get_valid_models(**request, api_base=f"{url}/v1", api_key="none")
        check(any(name.endswith(model) for name in found), f"{model} among {found}")

    yield "models", models
    yield "completions", text
    yield "chat, streaming", chat


def langchain_calls(url: str, model: str) -> Calls:
    from langchain_openai import ChatOpenAI, OpenAI

    common = {"base_url": f"{url}/v1", "api_key": "none", "model": model, "temperature": 1, **SHORT}
    text, chat, story = OpenAI(**common), ChatOpenAI(**common), told(url, model)
    prompts = [PROMPT, "One day", "There was a cat"]

    def completions() -> None:
        check(text.batch(prompts)[0] == story, "the story")
        check("".join(text.stream(PROMPT)) == story, "the same, streamed")

    def chats() -> None:
        found = [answer.content for answer in chat.batch(prompts)]
        check(found == text.batch(prompts), "the answers of chat to be those of the prompts")
        parts = list(chat.stream(PROMPT, stream_usage=True))
        check("".join(str(part.content) for part in parts) == story, "the same, streamed")
        check(any(part.usage_metadata for part in parts), "the usage of a stream")

    yield "completions", completions
    yield "chat, streaming", chats


def llm_calls(url: str, model: str) -> Calls:
    """The command, with its file of other servers' models."""
    story = told(url, model)
    folder = Path(tempfile.mkdtemp())
    entry = [f"- model_id: fox\n  model_name: {model}\n  api_base: {url}/v1\n"]
    entry += [f"- model_id: text\n  model_name: {model}\n  api_base: {url}/v1\n  completion: true\n"]
    (folder / "extra-openai-models.yaml").write_text("".join(entry), encoding="utf-8")

    def llm(*words: str) -> str:
        program = Path(sys.executable).with_name("llm")
        process = subprocess.run(
            [str(program), *words],
            capture_output=True,
            encoding="utf-8",
            env=os.environ | {"LLM_USER_PATH": str(folder)},
        )
        check(process.returncode == 0, f"no error; got {process.stderr.strip()[-200:]}")
        return process.stdout

    options = ("-o", "seed", "1", "-o", "max_tokens", "12")

    def chat() -> None:
        check(llm("-m", "fox", *options, PROMPT).rstrip("\n") == story, "the story")
        check(llm("-m", "fox", "-s", "Be brief.", "--no-stream", *options, PROMPT).rstrip("\n") == story, "the same")
        check(llm("-c", *options, "Then").strip(), "a conversation that goes on")

    yield "models", lambda: check("fox" in llm("models"), "the model listed")
    yield "completions", lambda: check(llm("-m", "text", *options, PROMPT).rstrip("\n") == story, "the story")
    yield "chat, streaming", chat


def huggingface_calls(url: str, model: str) -> Calls:
    from huggingface_hub import InferenceClient

    client, story = InferenceClient(base_url=f"{url}/v1", api_key="none"), told(url, model)

    def chat() -> None:
        whole = client.chat_completion(MESSAGES, model=model, **SHORT)
        check(whole.choices[0].message.content == story, "the story")
        parts = client.chat_completion(MESSAGES, model=model, stream=True, **SHORT)
        check("".join(part.choices[0].delta.content or "" for part in parts) == story, "the same, streamed")

    yield "chat, streaming", chat


def lm_eval_calls(url: str, model: str) -> Calls:
    from lm_eval.api.instance import Instance
    from lm_eval.models.openai_completions import LocalChatCompletion, LocalCompletionsAPI

    def generate() -> None:
        lm = LocalChatCompletion(base_url=f"{url}/v1/chat/completions", model=model, max_retries=1)
        asked = lm.apply_chat_template(MESSAGES)
        settings = {"until": ["\n\n"], "max_gen_toks": 12}
        (found,) = lm.generate_until([Instance("generate_until", {}, (asked, settings), 0)])
        check(found, "an answer")

    def score() -> None:
        lm = LocalCompletionsAPI(
            base_url=f"{url}/v1/completions", model=model, max_retries=1, tokenizer=os.environ["TOKENIZER"]
        )
        pairs = [(PROMPT, " was named Tim."), (PROMPT, " the the of of.")]
        asked = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
        (good, _), (bad, _) = lm.loglikelihood(asked)
        check(bad < good < 0, "words in order to be likelier than words in none")

    yield "local-completions: log-likelihoods", score
    yield "local-chat-completions: generated text", generate


CLIENTS = {
    "openai": openai_calls,
    "litellm": litellm_calls,
    "langchain": langchain_calls,
    "llm": llm_calls,
    "huggingface_hub": huggingface_calls,
    "lm_eval": lm_eval_calls,
}


def main(client: str, url: str, model: str) -> None:
    for name, call in CLIENTS[client](url, model):
        try:
            call()
            problem = None
        except Exception as error:  # of any client, each has its own
            problem = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        print(json.dumps({"call": name, "problem": problem}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
