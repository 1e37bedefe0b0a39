"""Stories generated in a batch are those that transformers' own `generate` gives alone; model pool and queue."""

import copy
import random
import sys
import time
from dataclasses import replace

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
)

from helpers.runs import mistake
from helpers.serving import counting_tokenizer, untrained, written_alone
from tinystories.checkpoint.loading import load_checkpoint
from tinystories.generation.presets import PRESETS
from tinystories.generation.sampler import Sampler, Settings
from tinystories.server import continuous_batching, model_pool
from tinystories.server.active_story import QueuedRequest
from tinystories.server.arguments import ServerArguments
from tinystories.server.continuous_batching import READ_AT_ONCE, ContinuousBatcher
from tinystories.server.events import Echo, Failed, Finished, GenerationRequest, Piece, Started
from tinystories.server.fair_queue import FairQueue
from tinystories.server.model_pool import ModelPool, find_checkpoints


NEUTRAL = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0}
ARGUMENTS = ServerArguments(device="cpu", max_running=4)


class Recorded:
    """A request and the events of its story."""

    def __init__(self, prompt: str | tuple[int, ...], seed: int, settings: dict, max_tokens: int = 40, **others):
        self.events: list = []
        self.request = GenerationRequest("", prompt, Settings(**settings), max_tokens, seed, **others)
        self.queued = QueuedRequest(self.request, self.events.append, time.monotonic() + 600)

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, Piece))


def write(batcher: ContinuousBatcher, stories: list[Recorded]) -> None:
    """Generate all stories, as many at a time as there are rows; each joins when another has left."""
    waiting = list(stories)
    while waiting or batcher.stories:
        while waiting and len(batcher.stories) < batcher.decoder.slots:
            batcher.join(waiting.pop(0).queued)
        batcher.step()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return untrained(tmp_path_factory.mktemp("untrained"))


@pytest.fixture(scope="module")
def batcher(checkpoint):
    pool = ModelPool(str(checkpoint), ARGUMENTS)
    return pool.batcher(pool.default)


def test_batch_equals_generate(batcher, checkpoint):
    """Guards: rows that see each other, positions that shift when a story joins or leaves, shared random numbers."""
    settings = [*PRESETS.values(), NEUTRAL, NEUTRAL | {"temperature": 2.0, "top_k": 3}]
    prompts = ("Story 7. one two", "nine", "Story 1. " + "one two three four five " * 5)
    asked = [
        Recorded(prompt, seed, each, max_tokens=10 + 7 * seed)
        for seed, each in enumerate(settings)
        for prompt in prompts
    ]
    write(batcher, asked)
    for each in asked:
        request = each.request
        expected = written_alone(checkpoint, request.prompt, request.seed, request.max_tokens, **vars(request.settings))
        assert each.text == each.events[-1].text == expected, request
        assert isinstance(each.events[0], Started)


def test_same_bits_beside_others(batcher):
    """Guards: numbers that depend on how many stories share a step, or on when a prompt was read."""
    prompts = ("nine", "Story 1. " + "one two three " * 40, "Story 7. one two", "🦊")

    def asked(number: int) -> Recorded:
        return Recorded(prompts[number % 4], number, NEUTRAL, 8 + 5 * number, alternatives=2, echo=number % 2 == 0)

    together = [asked(number) for number in range(9)]
    write(batcher, together)
    for number, each in enumerate(together):
        alone = asked(number)
        write(batcher, [alone])
        found, expected = (
            [replace(e, seconds=0) if isinstance(e, Finished) else e for e in story.events] for story in (each, alone)
        )
        assert found == expected, number


def test_long_prompt_between_tokens(checkpoint):
    """Guards: a long prompt, which is read in one go, delays the next token of all others."""
    pool = ModelPool(str(checkpoint), ARGUMENTS)
    batcher = pool.batcher(pool.default)
    running = Recorded("nine", 1, NEUTRAL | {"top_k": 50}, max_tokens=100, alternatives=1)
    batcher.join(running.queued)
    batcher.step()
    parts = 4
    long = Recorded((5,) * (parts * READ_AT_ONCE - 1), 2, NEUTRAL, max_tokens=1, alternatives=1)
    batcher.join(long.queued)
    for part in range(1, parts + 1):
        before = len(batcher.stories[0].ids)
        batcher.step()
        assert len(batcher.stories[0].ids) == before + 1, "the other story goes on"
        assert isinstance(long.events[-1], Finished) == (part == parts)


@pytest.mark.parametrize("others", [{"dtype": "float64"}, {}], ids=["float64", "no onnxruntime"])
def test_without_onnxruntime(others, checkpoint, monkeypatch):
    """PyTorch computes the same stories."""
    if not others:
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
    pool = ModelPool(str(checkpoint), ServerArguments(device="cpu", max_running=2, **others))
    batcher = pool.batcher(pool.default)
    assert batcher.dtype == "float64"
    asked = [Recorded("Story 1. " + "one two " * 50 * seed, seed, NEUTRAL, max_tokens=9) for seed in range(3)]
    write(batcher, asked)
    for each in asked:
        assert each.text == written_alone(checkpoint, each.request.prompt, each.request.seed, 9, **NEUTRAL)


@pytest.fixture(scope="module")
def trained(counting_run):
    pool = ModelPool(str(counting_run), ARGUMENTS)
    return pool.batcher(pool.default)


@pytest.mark.slow
def test_end_of_story(trained):
    """A trained model ends its story, with the reason `stop`."""
    asked = Recorded("Story 7. one two", 1, NEUTRAL | {"temperature": 0})
    write(trained, [asked])
    assert asked.text == " three four five six seven eight nine ten."
    assert asked.events[-1].finish_reason == "stop"


SMALL = {
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
}
OTHERS = {
    "llama": LlamaConfig(**SMALL),
    "gpt2": GPT2Config(n_layer=2, n_embd=32, n_head=2, n_positions=128),
    "mistral": MistralConfig(**SMALL, sliding_window=24),
}


@pytest.mark.parametrize("config", OTHERS.values(), ids=OTHERS)
def test_other_architectures(config, tmp_path):
    """Guards: what holds for our own attention only. A story ends where a sliding window would begin to slide."""
    tokenizer = copy.deepcopy(counting_tokenizer())
    tokenizer.save_pretrained(tmp_path)
    config.vocab_size, config.eos_token_id, config.pad_token_id = len(tokenizer), tokenizer.eos_token_id, None
    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").unlink(missing_ok=True)
    pool = ModelPool(str(tmp_path), ARGUMENTS)
    batcher = pool.batcher(pool.default)
    asked = [Recorded("Story 7. one two", seed, NEUTRAL, max_tokens=30) for seed in range(6)]
    write(batcher, asked)
    for each in asked:
        started = each.events[0]
        assert started.max_tokens == min(30, batcher.decoder.context - started.prompt_tokens)
        expected = written_alone(tmp_path, each.request.prompt, each.request.seed, started.max_tokens, **NEUTRAL)
        assert each.text == expected


def test_pieces_are_complete_characters(batcher):
    """Guards: text streamed byte by byte, in which a fox becomes four question marks. The pieces count every token."""
    asked = [Recorded("🦊 naïve 🦊", seed, NEUTRAL, max_tokens=100, alternatives=3) for seed in range(8)]
    write(batcher, asked)
    for each in asked:
        pieces = [event for event in each.events if isinstance(event, Piece)]
        finished = each.events[-1]
        each.text.encode("utf-8")
        assert not any(piece.text.endswith("\ufffd") for piece in pieces)
        assert sum(piece.tokens for piece in pieces) <= finished.new_tokens
        for piece in pieces:
            assert 0 < piece.probability <= 1
            assert len(piece.alternatives) == 3
            assert sum(other.probability for other in piece.alternatives) <= 1 + 1e-6


@pytest.mark.slow
def test_probabilities(trained):
    """Guards: probabilities of another token, or after the sampling settings instead of the model's own."""
    asked = Recorded("Story 7. one two", 1, PRESETS["balanced"] | {"temperature": 0.1}, alternatives=2, max_tokens=3)
    write(trained, [asked])
    pieces = [event for event in asked.events if isinstance(event, Piece)]
    for piece in pieces:
        assert piece.alternatives[0].token.text == piece.text
        assert piece.alternatives[0].probability == pytest.approx(piece.probability, rel=1e-5)
        assert piece.probability > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("stop", [(" four",), ("e fo",), ("r five s", "nothing"), (" three",)])
def test_stop_sequence(stop, trained):
    """It ends the story, and nothing of it is emitted. Guards: a sequence that is split by the tokens is missed."""
    asked = Recorded("Story 7. one two", 1, NEUTRAL | {"temperature": 0}, stop=stop)
    write(trained, [asked])
    whole = " three four five six seven eight nine ten."
    assert asked.text == asked.events[-1].text == whole[: whole.index(stop[0])]
    assert asked.events[-1].finish_reason == "stop"


@pytest.mark.slow
def test_beginning_of_a_stop_sequence(trained):
    """Text that may begin a stop sequence is emitted once it does not."""
    asked = Recorded("Story 7. one two", 1, NEUTRAL | {"temperature": 0}, stop=(" ten!",))
    write(trained, [asked])
    assert asked.text == " three four five six seven eight nine ten."


def test_prompts_of_any_tokens(batcher):
    """Guards: ids that are no text, cut off within a character, on which decoding fails."""
    draw = random.Random(0)
    vocabulary = len(batcher.tokenizer)
    asked = []
    for seed in range(60):
        ids = tuple(draw.randrange(vocabulary) for _ in range(draw.randrange(1, 30)))
        asked.append(Recorded(ids, seed, NEUTRAL, max_tokens=seed % 4, echo=seed % 2 == 0, alternatives=seed % 3))
    write(batcher, asked)
    for each in asked:
        finished = each.events[-1]
        assert isinstance(finished, Finished), finished
        told = [event for event in each.events if isinstance(event, Piece)]
        echoed = [piece for event in each.events if isinstance(event, Echo) for piece in event.pieces]
        scored = [token for piece in (*echoed, *told) for token in piece.scored] + list(finished.rest)
        given = len(each.request.prompt) if each.request.echo else 0
        ended = finished.finish_reason == "stop"
        assert len(scored) == (given + finished.new_tokens + ended) * (each.request.alternatives > 0)
        if each.request.echo and finished.new_tokens == 0:
            text = "".join(piece.text for piece in echoed)
            whole = batcher.tokenizer.decode(each.request.prompt, skip_special_tokens=True)
            assert whole.startswith(text) and not whole[len(text) :].strip("\ufffd")


def test_scores_of_a_long_prompt(batcher, checkpoint, monkeypatch):
    """Guards: parts of a prompt that do not fit together."""
    model, _ = load_checkpoint(str(checkpoint))
    ids = tuple(random.Random(1).randrange(3, len(batcher.tokenizer)) for _ in range(40))
    whole = model(torch.tensor([batcher.encode(ids)])).logits[0].log_softmax(-1)
    for tokens in (2, 7, 39, 40, 41, 42, 1000):
        monkeypatch.setattr(continuous_batching, "READ_AT_ONCE", tokens)
        asked = Recorded(ids, 1, NEUTRAL, max_tokens=0, echo=True, alternatives=3)
        write(batcher, [asked])
        pieces = [*asked.events[1].pieces, Piece("", 0, asked.events[-1].rest)]
        found = [token.logprob for piece in pieces for token in piece.scored]
        assert found == pytest.approx([whole[i, token].item() for i, token in enumerate(ids)], abs=1e-5)


def test_cancelled_and_late_stories(batcher, checkpoint):
    """They end; the other stories of the batch are not changed."""
    settings, prompt = NEUTRAL, "Story 7. one two"
    asked = [Recorded(prompt, seed, settings, max_tokens=30) for seed in range(4)]
    for each in asked:
        batcher.join(each.queued)
    for _ in range(10):
        batcher.step()
    asked[0].queued.cancelled = True
    asked[2].queued.deadline = 0.0
    while batcher.stories:
        batcher.step()
    assert [each.events[-1].finish_reason for each in asked] == ["cancelled", "length", "timeout", "length"]
    for each in (asked[1], asked[3]):
        assert each.text == written_alone(checkpoint, prompt, each.request.seed, 30, **settings)


def test_failing_story(batcher, checkpoint, monkeypatch):
    """Guards: settings of one client on which the sampler fails end every story of the batch."""
    temperatures = (1.0, 0.9, 1.0)
    asked = [
        Recorded("Story 7. one two", seed, NEUTRAL | {"temperature": each}, max_tokens=20)
        for seed, each in enumerate(temperatures)
    ]
    draw = Sampler.next_token

    def breaks_for_one(self, ids, logits):
        if self.settings.temperature == 0.9 and len(ids) > 12:
            raise RuntimeError("probability tensor contains nan")
        return draw(self, ids, logits)

    monkeypatch.setattr(Sampler, "next_token", breaks_for_one)
    write(batcher, asked)
    assert isinstance(asked[1].events[-1], Failed)
    for each in (asked[0], asked[2]):
        assert each.text == written_alone(checkpoint, each.request.prompt, each.request.seed, 20, **NEUTRAL)


def test_number_of_open_models(tmp_path, monkeypatch):
    """Guards: memory that grows with every requested checkpoint, and the closing of a model that is generating."""
    monkeypatch.setattr(model_pool, "OPEN_AT_ONCE", 2)
    for step in (1, 2, 3):
        untrained(tmp_path / f"checkpoint-{step}")
    pool = ModelPool(str(tmp_path), ARGUMENTS)
    assert pool.default == "checkpoint-3"
    pool.batcher("checkpoint-3")
    busy = pool.batcher("checkpoint-1")
    busy.join(Recorded("Story", 1, NEUTRAL, max_tokens=3).queued)
    assert pool.has_room_for("checkpoint-1") and not pool.has_room_for("checkpoint-2")
    while busy.stories:
        busy.step()
    assert pool.has_room_for("checkpoint-2")
    pool.batcher("checkpoint-2")
    assert list(pool.batchers) == ["checkpoint-3", "checkpoint-2"]


def test_special_tokens_in_a_prompt(batcher):
    """Guards: a typed end token that ends the story. Other tokenizers parse it where ours does not."""
    plain = Tokenizer(models.BPE())
    plain.pre_tokenizer, plain.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["</s>"], initial_alphabet=alphabet)
    plain.train_from_iterator(["one two three"], trainer)
    other = PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="</s>")
    assert other.eos_token_id in other("</s> one")["input_ids"]
    for each in (batcher, ContinuousBatcher(batcher.decoder, other, set())):
        for name in ("<|endoftext|>", "</s>", *each.tokenizer.all_special_tokens):
            ids = each.encode(f"{name} one")
            assert each.tokenizer.decode(ids, skip_special_tokens=True) == f"{name} one"
            assert not set(ids[1:]) & set(each.tokenizer.all_special_ids)


def test_context(tmp_path):
    """max_tokens is clamped to the context; a prompt that leaves no room is an error."""
    pool = ModelPool(str(untrained(tmp_path / "small", context=32)), ARGUMENTS)
    batcher = pool.batcher(pool.default)
    fits, fills, too_long = (Recorded("one " * words, 1, NEUTRAL, max_tokens=500) for words in (2, 29, 100))
    write(batcher, [fits, fills, too_long])
    for each in (fits, fills):
        assert each.events[0].clamped
        assert each.events[0].prompt_tokens + each.events[0].max_tokens == 32
        assert isinstance(each.events[-1], Finished)
    assert isinstance(too_long.events[0], Failed)
    assert "and this model reads 32: shorten it" in too_long.events[0].error


def test_unservable_models(tmp_path):
    """One line each: absent, with NaN weights, with another tokenizer, on an unknown device."""

    def refusal(folder) -> str:
        pool = ModelPool(str(folder), ARGUMENTS)
        return mistake(pool.batcher, pool.default)

    assert "no folder" in refusal(tmp_path / "absent")
    broken = untrained(tmp_path / "nan")
    model = AutoModelForCausalLM.from_pretrained(broken)
    model.lm_head.weight.data.fill_(float("nan"))
    model.save_pretrained(broken)
    assert "holds numbers that are not finite" in refusal(broken)
    other = untrained(tmp_path / "other")
    tokenizer = AutoTokenizer.from_pretrained(other, trust_remote_code=True)
    tokenizer.add_tokens([f"word{i}" for i in range(100)])
    tokenizer.save_pretrained(other)
    assert "do not belong together" in refusal(other)
    assert "device" in mistake(ModelPool, str(other), ServerArguments(device="toaster"))


@pytest.mark.slow
def test_find_checkpoints(counting_run, tmp_path):
    """The run itself, then its checkpoints by step; a Hub id has one entry."""
    found = find_checkpoints(str(counting_run))
    assert [(entry.id, entry.step) for entry in found] == [
        ("run", None),
        ("checkpoint-50", 50),
        ("checkpoint-100", 100),
    ]
    untrained(tmp_path / "checkpoint-9")
    untrained(tmp_path / "checkpoint-10")
    assert [entry.id for entry in find_checkpoints(str(tmp_path))] == ["checkpoint-10", "checkpoint-9"]
    assert [entry.id for entry in find_checkpoints("someone/model")] == ["someone/model"]


def test_fair_queue():
    """Guards: ten requests of one client before the first of all others. The queue has a limit, and so has a client."""
    queue = FairQueue(limit=5, share=3)
    for client, item in (("a", 1), ("a", 2), ("a", 3), ("b", 4), ("c", 5)):
        assert queue.put(client, item)
    assert not queue.put("d", 6)
    queue.remove(2)
    assert len(queue) == 4
    assert queue.take(lambda item: item > 3) == 4
    assert [queue.put("a", item) for item in (6, 7)] == [True, False], "1, 3 and 6 are all that one client may have"
    assert not queue.put("d", 7, 8) and queue.put("d", 7) and queue.take(lambda item: item == 7) == 7, "all or none"
    assert queue.take(lambda item: item == 6) == 6, "an item that fits does not wait for one that does not"
    assert [queue.take(lambda item: True) for _ in range(4)] == [5, 1, 3, None]
