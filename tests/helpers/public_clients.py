"""Calls of public clients against a running server, as a table: OpenAI's, litellm, LangChain, llm and lm-eval.

    python run_server.py runs/demo --requests_per_minute 1000 --client_share 1
    cd tests && python -m helpers.public_clients http://127.0.0.1:7779

It imports nothing of this project, so that it can run in an environment that has the clients and not the server. A
client that is not installed is left out, and named. The exit status is 1 if a call fails.
"""

import argparse
import importlib.util
import sys
from collections.abc import Callable, Iterator


PROMPT = "Once upon a time, a little fox"
SHORT = {"max_tokens": 12, "seed": 1}


class Failure(Exception):
    """What an answer should have been."""


def check(holds: object, what: str) -> None:
    if not holds:
        raise Failure(what)


def openai_calls(url: str, model: str) -> Iterator[tuple[str, Callable[[], None]]]:
    from openai import OpenAI

    client = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)

    def same_by_every_way() -> None:
        whole = client.completions.create(model=model, prompt=[PROMPT, "One day"], n=2, **SHORT)
        parts = client.completions.create(model=model, prompt=PROMPT, stream=True, **SHORT)
        messages = [{"role": "user", "content": PROMPT}]
        chat = client.chat.completions.create(model=model, messages=messages, **SHORT)
        first = whole.choices[0].text
        check(len({choice.text for choice in whole.choices}) == 4, "four different stories")
        check("".join(part.choices[0].text for part in parts) == first, "the streamed story is the same")
        check(chat.choices[0].message.content == first, "chat continues in the same way")

    def scored_text() -> None:
        found = client.completions.create(model=model, prompt=PROMPT, echo=True, logprobs=1, max_tokens=0)
        logprobs = found.choices[0].logprobs
        check(found.choices[0].text == PROMPT and None not in logprobs.token_logprobs, "each token has a logprob")

    yield "completions: list, n, stream; chat", same_by_every_way
    yield "completions: echo, logprobs, max_tokens 0", scored_text
    yield "models: list, retrieve", lambda: check(client.models.retrieve(model) in list(client.models.list()), "listed")


def litellm_calls(url: str, model: str) -> Iterator[tuple[str, Callable[[], None]]]:
    import litellm

    common = {"api_base": f"{url}/v1", "api_key": "none", "max_tokens": 12, "seed": 1}
    messages = [{"role": "user", "content": PROMPT}]

    def chat() -> str:
        return litellm.completion(model=f"openai/{model}", messages=messages, **common).choices[0].message.content

    def stream() -> None:
        parts = litellm.completion(model=f"openai/{model}", messages=messages, stream=True, **common)
        text = "".join(part.choices[0].delta.content or "" for part in parts)
        check(text == chat(), "the streamed answer is the same")

    def text() -> None:
        name = f"text-completion-openai/{model}"
        found = litellm.text_completion(model=name, prompt=PROMPT, **common)
        check(found.choices[0].text == chat(), "the text completion is the same")

    yield "completion (chat)", lambda: check(chat(), "an answer")
    yield "completion, stream", stream
    yield "text_completion", text


def langchain_calls(url: str, model: str) -> Iterator[tuple[str, Callable[[], None]]]:
    from langchain_openai import ChatOpenAI, OpenAI

    common = {"base_url": f"{url}/v1", "api_key": "none", "model": model, "max_tokens": 12, "seed": 1, "temperature": 1}
    text, chat = OpenAI(**common), ChatOpenAI(**common)
    prompts = [PROMPT, "One day", "There was a cat"]

    def batch() -> None:
        found = text.batch(prompts)
        check(found == [text.invoke(prompt) for prompt in prompts], "each answer is that of its prompt alone")

    def stream() -> None:
        check("".join(text.stream(PROMPT)) == text.invoke(PROMPT), "the streamed text is the same")
        streamed = "".join(str(part.content) for part in chat.stream(PROMPT))
        check(streamed == chat.invoke(PROMPT).content, "the streamed answer is the same")

    def chat_batch() -> None:
        found = [answer.content for answer in chat.batch(prompts)]
        check(found == text.batch(prompts), "the answers of chat are those of the prompts")

    yield "OpenAI.batch, invoke", batch
    yield "stream", stream
    yield "ChatOpenAI.batch", chat_batch


def llm_calls(url: str, model: str) -> Iterator[tuple[str, Callable[[], None]]]:
    from llm.default_plugins.openai_models import Chat, Completion

    def ask(kind: type, **options) -> str:
        found = kind(model, model_name=model, api_base=f"{url}/v1", **options)
        found.needs_key, found.key = None, "none"
        return found.prompt(PROMPT, max_tokens=12, seed=1).text()

    yield "chat", lambda: check(ask(Chat), "an answer")
    yield "completion", lambda: check(ask(Completion), "a text")


def lm_eval_calls(url: str, model: str) -> Iterator[tuple[str, Callable[[], None]]]:
    from lm_eval.api.instance import Instance
    from lm_eval.models.openai_completions import LocalChatCompletion

    def generate() -> None:
        lm = LocalChatCompletion(base_url=f"{url}/v1/chat/completions", model=model, max_retries=1)
        asked = lm.apply_chat_template([{"role": "user", "content": PROMPT}])
        settings = {"until": ["\n\n"], "max_gen_toks": 12}
        (found,) = lm.generate_until([Instance("generate_until", {}, (asked, settings), 0)])
        check(found, "an answer")

    yield "local-chat-completions, generate_until", generate


CLIENTS = {
    "openai": openai_calls,
    "litellm": litellm_calls,
    "langchain_openai": langchain_calls,
    "llm": llm_calls,
    "lm_eval": lm_eval_calls,
}


def main() -> int:
    parser = argparse.ArgumentParser(description="Try the calls of public clients against a server.")
    parser.add_argument("url", help="of the server, such as http://127.0.0.1:7779")
    parser.add_argument("--model", default=None, help="default: the first that the server names")
    given = parser.parse_args()
    model = given.model or first_model(given.url)
    failed = 0
    for client, calls in CLIENTS.items():
        if importlib.util.find_spec(client) is None:
            print(f"{client:18} not installed")
            continue
        for name, call in calls(given.url, model):
            try:
                call()
                result = "passed"
            except Exception as error:  # of any client, each has its own
                failed += 1
                result = f"failed: {type(error).__name__}: {error}"
            print(f"{client:18} {name:45} {result}")
    return 1 if failed else 0


def first_model(url: str) -> str:
    import json
    import urllib.request

    with urllib.request.urlopen(f"{url}/v1/models") as answer:
        return json.load(answer)["data"][0]["id"]


if __name__ == "__main__":
    sys.exit(main())
