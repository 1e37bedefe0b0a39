"""Every call of OpenAI's client: its answer is the one that plain torch computes, or it is refused with a reason.

The reference is a loop over the whole text without a cache, in this file: nothing of the server's own generation.
"""

import asyncio
import base64
from collections import Counter
from functools import cached_property

import openai
import pytest
import torch

from helpers.serving import ServerThread, counting_tokenizer
from helpers.untrained import save, untrained_model
from tinystories.checkpoint.loading import load_checkpoint


pytestmark = pytest.mark.slow

CONTEXT = 128
PROMPT = "Story 7. one two"
BYTES = "bytes:"


class Reference:
    """The checkpoint in plain torch: float64 to draw the same tokens, float32 for log-probabilities."""

    def __init__(self, checkpoint):
        self.model, self.tokenizer = load_checkpoint(str(checkpoint))
        self.double = load_checkpoint(str(checkpoint))[0].double()
        self.bos, self.eos = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id

    def ids(self, text: str) -> list[int]:
        """With BOS."""
        return self.tokenizer(text)["input_ids"]

    def text(self, ids: list[int], prompt: str = PROMPT) -> str:
        """What is added to the prompt; a character that is cut off is not shown."""
        whole = self.tokenizer.decode([*self.ids(prompt), *ids], skip_special_tokens=True)
        return whole[len(prompt) :].rstrip("\ufffd")

    @torch.inference_mode()
    def logprobs(self, ids: list[int]) -> torch.Tensor:
        """(tokens, vocabulary): of what follows each token."""
        return self.model(torch.tensor([ids])).logits[0].log_softmax(-1)

    @torch.inference_mode()
    def drawn(self, seed: int, number: int, change=lambda logits, new: logits, prompt: str = PROMPT) -> list[int]:
        """Tokens after the prompt; change: of the logits, given the new tokens so far."""
        generator, ids, new = torch.Generator().manual_seed(seed), self.ids(prompt), []
        for _ in range(number):
            logits = change(self.double(torch.tensor([ids + new])).logits[0, -1].float(), new)
            new.append(int(torch.multinomial(logits.softmax(-1), 1, generator=generator)))
        return new

    @cached_property
    def greedy(self) -> list[int]:
        ids = self.ids(PROMPT)
        for _ in range(12):
            ids.append(int(self.double(torch.tensor([ids])).logits[0, -1].argmax()))
        return ids[len(self.ids(PROMPT)) :]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    tokenizer = counting_tokenizer()
    model = untrained_model(tokenizer, CONTEXT)
    for weight in model.parameters():
        weight.data *= 6 if weight.dim() > 1 else 1  # otherwise what comes next hardly depends on what was before
    model.get_output_embeddings().weight.data[model.config.eos_token_id] = 0  # seldom the next token
    checkpoint = save(model, tokenizer, tmp_path_factory.mktemp("clients") / "run")
    with ServerThread(checkpoint, "--client_share", "1") as server:
        yield server, Reference(checkpoint)
        assert server.load() == {"running": 0, "waiting": 0}
        assert "Traceback" not in server.stop()[1]


@pytest.fixture(scope="module")
def client(served):
    return openai.OpenAI(base_url=f"{served[0].url}/v1", api_key="any", max_retries=0)


@pytest.fixture(scope="module")
def reference(served):
    return served[1]


CALLS = {}


def call(function):
    CALLS[function.__name__] = function
    return function


def complete(client, **fields):
    return client.completions.create(**{"model": "run", "prompt": PROMPT, "max_tokens": 12, "seed": 3} | fields)


def chat(client, *texts: str, **fields):
    """texts: of the user and the assistant in turn."""
    messages = [
        {"role": "assistant" if i % 2 else "user", "content": text} for i, text in enumerate(texts or (PROMPT,))
    ]
    return client.chat.completions.create(
        **{"model": "run", "messages": messages, "max_tokens": 12, "seed": 3} | fields
    )


def check_logprobs(found, expected: torch.Tensor, ids: list[int]) -> None:
    """found: the token_logprobs of `ids`; expected: (tokens, vocabulary)."""
    assert found == pytest.approx(expected.gather(-1, torch.tensor(ids)[:, None])[:, 0].tolist(), abs=1e-4)


def check_tops(tops, expected: torch.Tensor, number: int) -> None:
    """tops: of each token, the log-probabilities of the likeliest tokens."""
    for top, row in zip(tops, expected, strict=True):
        assert sorted(top, reverse=True)[:number] == pytest.approx(row.topk(number).values.tolist(), abs=1e-4)


def bytes_of(tokens: list[str]) -> bytes:
    """Of the names of tokens: text, or its bytes."""
    return b"".join(
        bytes.fromhex(token.removeprefix(BYTES).replace("\\x", "")) if token.startswith(BYTES) else token.encode()
        for token in tokens
    )


# Completions


@call
def string(client, reference):
    found = complete(client)
    assert found.choices[0].text == reference.text(reference.drawn(3, 12))
    assert found.choices[0].finish_reason == "length" and found.object == "text_completion"
    assert found.usage.completion_tokens == 12 and found.usage.prompt_tokens == len(reference.ids(PROMPT))


@call
def list_of_strings(client, reference):
    """Each is the story that its prompt and the seed give alone; the answer keeps their order."""
    prompts = [PROMPT, "nine", "Story 1. three"]
    found = complete(client, prompt=prompts)
    assert [choice.index for choice in found.choices] == [0, 1, 2]
    texts = [reference.text(reference.drawn(3, 12, prompt=prompt), prompt) for prompt in prompts]
    assert [choice.text for choice in found.choices] == texts
    assert found.usage.prompt_tokens == sum(len(reference.ids(prompt)) for prompt in prompts)
    assert found.usage.completion_tokens == 36


@call
def token_ids(client, reference):
    """With BOS and without: the server adds it where it is missing."""
    ids = reference.ids(PROMPT)
    for prompt in (ids, ids[1:]):
        found = complete(client, prompt=prompt)
        assert found.choices[0].text == reference.text(reference.drawn(3, 12))
        assert found.usage.prompt_tokens == len(ids)


@call
def lists_of_token_ids(client, reference):
    prompts = [PROMPT, "nine"]
    found = complete(client, prompt=[reference.ids(PROMPT), reference.ids("nine")[1:]])
    texts = [reference.text(reference.drawn(3, 12, prompt=prompt), prompt) for prompt in prompts]
    assert [choice.text for choice in found.choices] == texts


@call
def beginning_of_a_story(client, reference):
    """An empty prompt is a story from its beginning."""
    text = reference.text(reference.drawn(3, 12, prompt=""), "")
    for prompt in ("", None, [reference.bos], [[]]):
        found = complete(client, prompt=prompt)
        assert found.choices[0].text == text and found.usage.prompt_tokens == 1


@call
def echo(client, reference):
    assert complete(client, echo=True).choices[0].text == PROMPT + reference.text(reference.drawn(3, 12))


@call
def echo_and_nothing_else(client, reference):
    """The log-likelihood of a text: each token, the first one given BOS."""
    ids = reference.ids(PROMPT)
    found = complete(client, echo=True, logprobs=2, max_tokens=0)
    choice, expected = found.choices[0], reference.logprobs(ids)[:-1]
    assert choice.text == PROMPT and found.usage.completion_tokens == 0 and choice.finish_reason == "length"
    check_logprobs(choice.logprobs.token_logprobs, expected, ids[1:])
    check_tops([top.values() for top in choice.logprobs.top_logprobs], expected, 2)
    assert "".join(choice.logprobs.tokens) == PROMPT
    assert all(
        PROMPT[i:].startswith(t) for i, t in zip(choice.logprobs.text_offset, choice.logprobs.tokens, strict=True)
    )


@call
def echo_of_token_ids(client, reference):
    """A BOS that is given is echoed, and has no log-probability; one that the server adds is not."""
    ids = reference.ids("naïve 🦊 one")
    for given in (ids, ids[1:]):
        choice = complete(client, prompt=given, echo=True, logprobs=1, max_tokens=3).choices[0]
        logprobs = choice.logprobs
        assert len(logprobs.tokens) == len(given) + 3 and choice.text.startswith("naïve 🦊 one")
        assert bytes_of(logprobs.tokens[len(given) - len(ids[1:]) : len(given)]) == "naïve 🦊 one".encode()
        check_logprobs(logprobs.token_logprobs[len(given) - len(ids[1:]) : -3], reference.logprobs(ids)[:-1], ids[1:])
        fox = [i for i, token in enumerate(logprobs.tokens[: len(given)]) if token.startswith(BYTES)]
        assert {logprobs.text_offset[i] for i in fox} == {2, 6}, "ï and the fox are several tokens of one character"
        assert (logprobs.token_logprobs[0], logprobs.top_logprobs[0]) == (None, None) or given is not ids
    assert complete(client, prompt=ids, echo=True, logprobs=0, max_tokens=0).choices[0].logprobs.tokens[0] == "<|bos|>"


@call
def end_of_a_story(client, reference):
    """Guards: lm-eval drops the last token, which it takes for the one that it asked for."""
    bias = {str(reference.eos): 100}
    choice = complete(client, logit_bias=bias, echo=True, logprobs=1, max_tokens=1).choices[0]
    assert choice.text == PROMPT and choice.finish_reason == "stop"
    assert choice.logprobs.tokens[-1] == reference.tokenizer.eos_token
    assert len(choice.logprobs.tokens) == len(reference.ids(PROMPT)), "without BOS, with EOS"
    check_logprobs(choice.logprobs.token_logprobs[-1:], reference.logprobs(reference.ids(PROMPT))[-1:], [reference.eos])


@call
def logprobs(client, reference):
    """The model's own, before temperature and penalties. Each token is named, those within a character too."""
    for number in (0, 1, 5):
        choice = complete(client, logprobs=number, temperature=2, max_tokens=40).choices[0]
        new = reference.drawn(3, 40, lambda logits, new: logits / 2)
        expected = reference.logprobs(reference.ids(PROMPT) + new)[len(reference.ids(PROMPT)) - 1 : -1]
        check_logprobs(choice.logprobs.token_logprobs, expected, new)
        assert bytes_of(choice.logprobs.tokens).decode(errors="ignore").startswith(choice.text.partition("\ufffd")[0])
        assert (choice.logprobs.top_logprobs is None) == (number == 0)
        check_tops([top.values() for top in choice.logprobs.top_logprobs or []], expected if number else [], number)


@call
def n(client, reference):
    """Different stories under one seed: those of this seed and of the next ones."""
    found = complete(client, n=3, prompt=[PROMPT, "nine"])
    texts = [
        reference.text(reference.drawn(seed, 12, prompt=prompt), prompt)
        for prompt in (PROMPT, "nine")
        for seed in (3, 4, 5)
    ]
    assert [choice.text for choice in found.choices] == texts and len(set(texts)) == 6
    assert found.usage.prompt_tokens == len(reference.ids(PROMPT)) + len(reference.ids("nine"))
    assert found.usage.completion_tokens == 72


@call
def best_of(client, reference):
    """The stories with the highest mean log-probability; the tokens of the others count."""
    begin, means = len(reference.ids(PROMPT)), {}
    for seed in range(3, 8):
        new = reference.drawn(seed, 12)
        chosen = reference.logprobs(reference.ids(PROMPT) + new)[begin - 1 : -1].gather(-1, torch.tensor(new)[:, None])
        means[reference.text(new)] = chosen.mean().item()
    found = complete(client, n=2, best_of=5)
    assert [choice.text for choice in found.choices] == sorted(means, key=means.get, reverse=True)[:2]
    assert found.choices[0].logprobs is None and found.usage.completion_tokens == 60


@call
def stop(client, reference):
    text = reference.text(reference.drawn(3, 12))
    first, second = text[len(text) // 2 :][:2], text[3:5]
    assert complete(client, stop=first).choices[0].text == text[: text.index(first)]
    several = complete(client, stop=[first, second, "nothing"], n=2)
    for choice, seed in zip(several.choices, (3, 4), strict=True):
        whole = reference.text(reference.drawn(seed, 12))
        places = [whole.index(each) for each in (first, second) if each in whole]
        assert choice.text == (whole[: min(places)] if places else whole)
        assert choice.finish_reason == ("stop" if places else "length")
    assert complete(client, stop=[]).choices[0].text == text


@call
def temperature(client, reference):
    assert complete(client, temperature=0).choices[0].text == reference.text(reference.greedy)
    found = complete(client, temperature=2).choices[0].text
    assert found == reference.text(reference.drawn(3, 12, lambda logits, new: logits / 2))


@call
def top_p(client, reference):
    def nucleus(logits, new):
        values, places = logits.sort(descending=True)
        before = values.softmax(-1).cumsum(-1) - values.softmax(-1)
        logits[places[before >= 0.3]] = -torch.inf
        return logits

    assert complete(client, top_p=0.3).choices[0].text == reference.text(reference.drawn(3, 12, nucleus))


@call
def presence_and_frequency_penalty(client, reference):
    """By the tokens of the story so far; those of the prompt do not count."""

    def change(logits, new):
        for token, count in Counter(new).items():
            logits[token] -= 1.5 + 0.7 * count
        return logits / 0.5

    found = complete(client, presence_penalty=1.5, frequency_penalty=0.7, max_tokens=40, temperature=0.5)
    assert found.choices[0].text == reference.text(reference.drawn(3, 40, change))
    again = complete(client, frequency_penalty=-2, max_tokens=40, temperature=0.05, extra_body={"top_k": 1})
    assert again.choices[0].text != reference.text(reference.drawn(3, 40))


@call
def logit_bias(client, reference):
    """-100 bans, 100 forces, whatever the penalties; between, the number is added."""
    first = reference.greedy[0]
    found = complete(client, logit_bias={str(first): -100}, logprobs=1, temperature=2, max_tokens=60, n=4)
    assert first not in [
        reference.ids(t)[1] for c in found.choices for t in c.logprobs.tokens if not t.startswith(BYTES)
    ]
    word = reference.ids(" three")[1:]
    penalties = {"frequency_penalty": 2, "presence_penalty": 2, "extra_body": {"repetition_penalty": 2.0}}
    forced = complete(client, logit_bias={str(word[0]): 100}, max_tokens=70, **penalties)
    assert forced.choices[0].text == reference.tokenizer.decode(word[:1] * 70)

    def change(logits, new):
        logits[first] += 2.5
        logits[5] -= 1
        return logits

    found = complete(client, logit_bias={str(first): 2.5, "5": -1})
    assert found.choices[0].text == reference.text(reference.drawn(3, 12, change))


@call
def settings_of_this_server(client, reference):
    def change(logits, new):
        ids = list({*reference.ids(PROMPT), *new})
        logits[ids] = torch.where(logits[ids] < 0, logits[ids] * 1.3, logits[ids] / 1.3)
        logits[logits < logits.topk(20).values[-1]] = -torch.inf
        logits[logits.softmax(-1) < 0.5 * logits.softmax(-1).max()] = -torch.inf
        return logits

    found = complete(client, extra_body={"top_k": 20, "min_p": 0.5, "repetition_penalty": 1.3})
    assert found.choices[0].text == reference.text(reference.drawn(3, 12, change))


@call
def values_that_change_nothing(client, reference):
    neutral = {"n": 1, "best_of": 1, "echo": False, "suffix": "", "presence_penalty": 0, "frequency_penalty": 0}
    neutral |= {"logit_bias": {}, "user": "somebody", "stream": False, "stop": None, "logprobs": None}
    text = reference.text(reference.drawn(3, 12))
    assert complete(client, **neutral).choices[0].text == text
    nothing = dict.fromkeys([*neutral, "top_p", "temperature", "stream_options"])
    nothing["extra_body"] = dict.fromkeys(("top_k", "min_p", "repetition_penalty"))
    assert complete(client, **nothing).choices[0].text == text
    assert complete(client, max_tokens=None).usage.completion_tokens == 16


@call
def random_seed(client, reference):
    found = complete(client, n=4, seed=None, max_tokens=30)
    assert len({choice.text for choice in found.choices}) == 4


@call
def stream(client, reference):
    options = {"include_usage": True}
    parts = list(complete(client, stream=True, stream_options=options))
    assert "".join(part.choices[0].text for part in parts[:-1]) == reference.text(reference.drawn(3, 12))
    assert [part.choices[0].finish_reason for part in parts[:-1]] == [None] * (len(parts) - 2) + ["length"]
    assert parts[-1].choices == [] and parts[-1].usage.completion_tokens == 12
    assert len({part.id for part in parts}) == 1


@call
def stream_of_several_choices(client, reference):
    """Guards: texts of one choice in another one; offsets that are counted over all choices."""
    fields = {"prompt": [PROMPT, "nine"], "n": 3, "echo": True, "logprobs": 2, "stop": "e"}
    whole, texts, tokens, offsets, ends = complete(client, **fields), Counter(), {}, {}, {}
    texts = dict.fromkeys(range(6), "")
    for part in complete(client, **fields, stream=True, stream_options={"include_usage": True}):
        for choice in part.choices:
            texts[choice.index] += choice.text
            ends[choice.index] = choice.finish_reason
            if choice.logprobs:
                tokens.setdefault(choice.index, []).extend(choice.logprobs.tokens)
                offsets.setdefault(choice.index, []).extend(choice.logprobs.text_offset)
    for choice in whole.choices:
        assert texts[choice.index] == choice.text and ends[choice.index] == choice.finish_reason
        assert tokens[choice.index] == choice.logprobs.tokens and offsets[choice.index] == choice.logprobs.text_offset
    assert part.usage == whole.usage


# Chat


@call
def chat_message(client, reference):
    found = chat(client)
    assert found.choices[0].message.content == reference.text(reference.drawn(3, 12))
    assert found.choices[0].message.role == "assistant" and found.object == "chat.completion"
    assert found.usage.prompt_tokens == len(reference.ids(PROMPT)), "one BOS, and nothing of a template"


@call
def chat_that_goes_on(client, reference):
    """An answer that is sent back continues what it continued; a special token's name is text."""
    first = chat(client).choices[0].message
    answer = first.model_dump() | {"content": " thr"}
    messages = [{"role": "user", "content": PROMPT}, answer, {"role": "user", "content": " Then\n"}]
    found = client.chat.completions.create(model="run", messages=messages, max_tokens=5, seed=3)
    story = f"{PROMPT} thr Then"
    assert found.choices[0].message.content == reference.text(reference.drawn(3, 5, prompt=story), story)
    typed = chat(client, "<|bos|>one")
    assert typed.usage.prompt_tokens == len(reference.ids("<|bos|>one")) > 4


@call
def chat_of_all_roles_and_parts(client, reference):
    parts = [{"type": "text", "text": "two"}, {"type": "text", "text": " three"}]
    messages = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "developer", "content": "Answer in French."},
        {"role": "user", "content": "Story 7. one "},
        {"role": "user", "content": parts, "name": "somebody"},
    ]
    found = client.chat.completions.create(model="run", messages=messages, max_tokens=12, seed=3)
    story = "Story 7. one two three"
    assert found.choices[0].message.content == reference.text(reference.drawn(3, 12, prompt=story), story)


@call
def chat_stream(client, reference):
    parts = list(chat(client, n=2, stream=True, stream_options={"include_usage": True}))
    for index, seed in enumerate((3, 4)):
        choices = [choice for part in parts for choice in part.choices if choice.index == index]
        assert choices[0].delta.role == "assistant" and choices[-1].finish_reason == "length"
        text = "".join(choice.delta.content or "" for choice in choices)
        assert text == reference.text(reference.drawn(seed, 12))
    assert parts[-1].usage.completion_tokens == 24 and parts[-1].usage.prompt_tokens == len(reference.ids(PROMPT))


@call
def chat_logprobs(client, reference):
    for number in (None, 0, 3, 20):
        found = chat(client, logprobs=True, top_logprobs=number, max_tokens=40).choices[0]
        new = reference.drawn(3, 40)
        expected = reference.logprobs(reference.ids(PROMPT) + new)[len(reference.ids(PROMPT)) - 1 : -1]
        content = found.logprobs.content
        check_logprobs([token.logprob for token in content], expected, new)
        tops = [[top.logprob for top in token.top_logprobs] for token in content]
        assert {len(top) for top in tops} == {number or 0}
        check_tops(tops, expected, number or 0)
        text = b"".join(bytes(token.bytes or []) for token in content).decode(errors="replace")
        assert text.startswith(found.message.content.rstrip("\ufffd"))
    ended = chat(client, logprobs=True, logit_bias={str(reference.eos): 100}).choices[0]
    assert ended.logprobs.content == [] and ended.message.content == "" and ended.finish_reason == "stop"


@call
def chat_settings(client, reference):
    neutral = {"response_format": {"type": "text"}, "tool_choice": "none", "parallel_tool_calls": True, "store": False}
    neutral |= {"metadata": {"a": "b"}, "user": "u"}
    neutral |= {"modalities": ["text"], "service_tier": "auto", "verbosity": "medium", "reasoning_effort": "none"}
    text = reference.text(reference.drawn(3, 12))
    assert chat(client, **neutral, max_completion_tokens=12).choices[0].message.content == text
    for may in ({"tool_choice": "none"}, {"tool_choice": "auto"}, {}):
        message = chat(client, tools=[TOOL], functions=[TOOL["function"]], **may).choices[0].message
        assert message.content == text and not message.tool_calls, "a model may answer without a call"
    several = {"temperature": 0, "stop": [text[5:7]], "n": 2, "logit_bias": {}, "presence_penalty": 0}
    assert len(chat(client, **several).choices) == 2
    short = chat(client, max_tokens=None, max_completion_tokens=4)
    assert short.choices[0].message.content == reference.text(reference.drawn(3, 4))


@call
def chat_to_the_end_of_the_context(client, reference):
    """Without a limit a story goes on to its end, or as far as the model reads."""
    found = chat(client, max_tokens=None, logit_bias={str(reference.eos): -100})
    assert found.usage.total_tokens == CONTEXT and found.choices[0].finish_reason == "length"


# The client


@call
def list_of_models(client, reference):
    assert [model.id for model in client.models.list()] == ["run"]


@call
def one_model(client, reference):
    assert client.models.retrieve("run").id == "run"


@call
def raw_response(client, reference):
    raw = client.completions.with_raw_response.create(model="run", prompt=PROMPT, max_tokens=12, seed=3)
    assert raw.headers["content-type"] == "application/json"
    assert raw.parse().choices[0].text == reference.text(reference.drawn(3, 12))


@call
def streaming_response(client, reference):
    with client.chat.completions.with_streaming_response.create(
        model="run", messages=[{"role": "user", "content": PROMPT}], max_tokens=12, seed=3
    ) as answer:
        assert answer.parse().choices[0].message.content == reference.text(reference.drawn(3, 12))


@call
def other_headers_and_keys(client, reference):
    other = client.with_options(api_key="sk-other", timeout=60, default_headers={"X-Title": "a"}, max_retries=2)
    assert complete(other).choices[0].text == reference.text(reference.drawn(3, 12))


@call
def asynchronous_client(client, reference):
    async def ask():
        async with openai.AsyncOpenAI(base_url=str(client.base_url), api_key="any", max_retries=0) as other:
            asked = (complete(other, seed=seed) for seed in range(4))
            texts = [found.choices[0].text for found in await asyncio.gather(*asked)]
            parts = [part async for part in await chat(other, stream=True)]
            return texts, "".join(part.choices[0].delta.content or "" for part in parts)

    texts, streamed = asyncio.run(ask())
    assert texts == [reference.text(reference.drawn(seed, 12)) for seed in range(4)] and streamed == texts[3]


TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64.b64encode(b"x").decode()}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}
REFUSED = {
    "suffix": (lambda c: complete(c, suffix="end"), 422, "suffix: not supported: this model continues a text"),
    "best_of < n": (lambda c: complete(c, n=3, best_of=2), 422, "best_of: must not be less than n"),
    "best_of streamed": (lambda c: complete(c, best_of=2, stream=True), 422, "best_of: more than n cannot be streamed"),
    "n = 0": (lambda c: complete(c, n=0), 422, "n: must be between 1 and 128"),
    "n = 10^9": (lambda c: complete(c, n=10**9), 422, "n: must be between 1 and 128"),
    "too many stories": (lambda c: complete(c, n=65), 422, "asks for 65 stories, and may ask for 64"),
    "10,000 prompts": (lambda c: complete(c, prompt=["a"] * 10_000), 422, "prompt: must have at most 128 prompts"),
    "no prompts": (lambda c: complete(c, prompt=[]), 422, "prompt: must be a text, a list of texts"),
    "mixed prompts": (lambda c: complete(c, prompt=["a", 1]), 422, "prompt: must be a text, a list of texts"),
    "nested prompts": (lambda c: complete(c, prompt=[[["a"]]]), 422, "token ids are whole numbers from 0"),
    "text in ids": (lambda c: complete(c, prompt=[[1, "a"]]), 422, "token ids are whole numbers from 0"),
    "negative id": (lambda c: complete(c, prompt=[5, -1]), 422, "token ids are whole numbers from 0"),
    "true for an id": (lambda c: complete(c, prompt=[[True]]), 422, "token ids are whole numbers from 0"),
    "fraction for an id": (lambda c: complete(c, prompt=[[1.0]]), 422, "token ids are whole numbers from 0"),
    "unknown id": (lambda c: complete(c, prompt=[[5], [9999]]), 422, "the token ids of this model are 0 to"),
    "enormous id": (lambda c: complete(c, prompt=[10**400]), 422, "token ids are whole numbers from 0"),
    "long ids": (lambda c: complete(c, prompt=[5] * CONTEXT), 422, f"this model reads {CONTEXT}: shorten it"),
    "long echo": (
        lambda c: complete(c, prompt=[5] * CONTEXT, echo=True, logprobs=5, max_tokens=0),
        422,
        f"the prompt has {CONTEXT + 1} tokens",
    ),
    "long text": (lambda c: complete(c, prompt="a" * 2049), 422, "prompt: must have 0 to 2048 characters"),
    "control characters": (lambda c: complete(c, prompt="\0\x1b"), 400, "prompt: it has only control characters"),
    "echo of what is removed": (lambda c: complete(c, prompt="a\r\nb", echo=True), 422, "which cannot be echoed"),
    "echo of a written BOS": (lambda c: complete(c, prompt="<|bos|>a", echo=True), 422, "<|bos|> written out"),
    "logprobs = 10^6": (lambda c: complete(c, logprobs=10**6), 422, "logprobs: must be between 0 and 5"),
    "max_tokens = -1": (lambda c: complete(c, max_tokens=-1), 422, "max_tokens: must be between 0 and 1000000"),
    "temperature": (lambda c: complete(c, temperature=2.01), 422, "temperature: must be between 0 and 2"),
    "penalty": (lambda c: complete(c, frequency_penalty=-2.5), 422, "frequency_penalty: must be between -2 and 2"),
    "min_p": (lambda c: complete(c, extra_body={"min_p": 1.1}), 422, "min_p: must be between 0 and 1"),
    "bias of a word": (lambda c: complete(c, logit_bias={"the": 1}), 422, "logit_bias: a key is not a token id"),
    "bias of -1": (lambda c: complete(c, logit_bias={"-1": 1}), 422, "logit_bias: a key is not a token id"),
    "bias of 1e308": (
        lambda c: complete(c, logit_bias={"5": 1e308}),
        422,
        "logit_bias: must be between -100.0 and 100",
    ),
    "bias of an unknown id": (
        lambda c: complete(c, logit_bias={"9999": 1}),
        422,
        "logit_bias: the token ids of this model",
    ),
    "every token banned": (
        lambda c: complete(c, logit_bias={str(i): -100 for i in range(len(counting_tokenizer()))}),
        422,
        "logit_bias: every token is banned",
    ),
    "stop": (lambda c: complete(c, stop=["a", ""]), 422, "stop: must have 1 to 100 characters"),
    "five stops": (lambda c: complete(c, stop=list("abcde")), 422, "stop: list should have at most 4 items"),
    "unknown field": (lambda c: complete(c, extra_body={"guided_json": {}}), 422, "unknown field guided_json"),
    "unknown model": (lambda c: complete(c, model="gpt-4"), 422, "model: no model has this name"),
    "retrieve": (lambda c: c.models.retrieve("someone/else"), 404, "model: no model has this name"),
    "delete": (lambda c: c.models.delete("run"), 405, "this route answers GET"),
    "tool_choice": (lambda c: chat(c, tools=[TOOL], tool_choice="required"), 422, "tool_choice: not supported"),
    "json": (lambda c: chat(c, response_format={"type": "json_object"}), 422, "response_format: not supported"),
    "schema": (lambda c: chat(c, response_format=SCHEMA), 422, "response_format: not supported"),
    "audio": (lambda c: chat(c, modalities=["text", "audio"]), 422, "modalities: not supported"),
    "reasoning": (lambda c: chat(c, reasoning_effort="high"), 422, "reasoning_effort: not supported"),
    "store": (lambda c: chat(c, store=True), 422, "store: not supported: this server stores nothing"),
    "top_logprobs alone": (lambda c: chat(c, top_logprobs=2), 422, "top_logprobs: needs logprobs: true"),
    "top_logprobs = 21": (
        lambda c: chat(c, logprobs=True, top_logprobs=21),
        422,
        "top_logprobs: must be between 0 and 20",
    ),
    "two limits": (lambda c: chat(c, max_completion_tokens=3), 422, "differs from max_tokens"),
    "no messages": (lambda c: chat(c, messages=[]), 422, "messages: list should have at least 1 item"),
    "empty messages": (lambda c: chat(c, " ", ""), 400, "messages: a story needs a beginning"),
    "image": (lambda c: chat(c, messages=[{"role": "user", "content": [IMAGE]}]), 422, "messages: a part of a message"),
    "tool message": (
        lambda c: chat(c, messages=[{"role": "tool", "content": "a", "tool_call_id": "1"}]),
        422,
        "messages[0].role: ",
    ),
    "long chat": (lambda c: chat(c, "a" * 1500, "b" * 600), 422, "messages: must have 0 to 2048 characters"),
    "embeddings": (
        lambda c: c.embeddings.create(model="run", input="a"),
        404,
        "no such route; of OpenAI's, this server",
    ),
    "moderations": (lambda c: c.moderations.create(input="a"), 404, "no such route"),
    "responses": (lambda c: c.responses.create(model="run", input="a"), 404, "no such route"),
    "batches": (lambda c: c.batches.list(), 404, "no such route"),
    "files": (lambda c: c.files.list(), 404, "no such route"),
    "images": (lambda c: c.images.generate(prompt="a"), 404, "no such route"),
}


@pytest.mark.parametrize("name", CALLS)
def test_call(name, client, reference):
    CALLS[name](client, reference)


@pytest.mark.parametrize(("asked", "status", "reason"), REFUSED.values(), ids=REFUSED)
def test_refused_call(asked, status, reason, client):
    """One line in the form that the client reads, and a status with which it does not try again."""
    with pytest.raises(openai.APIStatusError) as caught:
        asked(client)
    error = caught.value.body
    assert caught.value.status_code == status and reason in error["message"] and "\n" not in error["message"]
    assert set(error) == {"message", "type", "param", "code"} and error["type"] == "invalid_request_error"
