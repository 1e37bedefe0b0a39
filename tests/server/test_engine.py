"""Many stories written together are what each would be alone: the batcher against transformers' own `generate`."""

import time

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
from helpers.serving import untrained, written_alone
from tinystories.generation.presets import PRESETS
from tinystories.server import model_pool
from tinystories.server.arguments import ServerArguments
from tinystories.server.continuous_batching import ContinuousBatcher, QueuedRequest
from tinystories.server.events import Failed, Finished, GenerationRequest, Piece, Started
from tinystories.server.fair_queue import FairQueue
from tinystories.server.model_pool import ModelPool, find_checkpoints
from tinystories.server.sampling import Sampler, Settings


NEUTRAL = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0}
ARGUMENTS = ServerArguments(device="cpu", max_running=4)


class Asked:
    """A request and everything it was told."""

    def __init__(self, prompt: str, seed: int, settings: dict, max_tokens: int = 40, **wish):
        self.events: list = []
        self.wish = GenerationRequest("", prompt, Settings(**settings), max_tokens, seed, **wish)
        self.request = QueuedRequest(self.wish, self.events.append, time.monotonic() + 600)

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, Piece))


def write(batcher: ContinuousBatcher, asked: list[Asked]) -> None:
    """All of them, as many at a time as there is room for, each joining when another has left."""
    waiting = list(asked)
    while waiting or batcher.stories:
        while waiting and len(batcher.stories) < batcher.batch.limit:
            batcher.join(waiting.pop(0).request)
        batcher.step()


@pytest.fixture(scope="module")
def checkpoint(counting_run, tmp_path_factory):
    return untrained(counting_run, tmp_path_factory.mktemp("untrained"))


@pytest.fixture(scope="module")
def batcher(checkpoint):
    pool = ModelPool(str(checkpoint), ARGUMENTS)
    return pool.batcher(pool.default)


def test_stories_written_together_are_those_that_generate_writes_alone(batcher, checkpoint):
    """Guards: rows that see each other, positions that slip when a story joins or leaves, shared random numbers."""
    settings = [*PRESETS.values(), NEUTRAL, NEUTRAL | {"temperature": 2.0, "top_k": 3}]
    prompts = ("Story 7. one two", "nine", "Story 1. " + "one two three four five " * 5)
    asked = [
        Asked(prompt, seed, each, max_tokens=10 + 7 * seed) for seed, each in enumerate(settings) for prompt in prompts
    ]
    write(batcher, asked)
    for each in asked:
        wish = each.wish
        expected = written_alone(checkpoint, wish.prompt, wish.seed, wish.max_tokens, **vars(wish.settings))
        assert each.text == each.events[-1].text == expected, wish
        assert isinstance(each.events[0], Started)


def test_a_trained_model_ends_its_story(counting_run):
    pool = ModelPool(str(counting_run), ARGUMENTS)
    asked = Asked("Story 7. one two", 1, NEUTRAL | {"temperature": 0})
    write(pool.batcher(pool.default), [asked])
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
def test_other_architectures_are_served_as_truly(config, counting_run, tmp_path):
    """Guards: what holds for our own attention only. A sliding window ends the story where it would begin to slide."""
    tokenizer = AutoTokenizer.from_pretrained(counting_run, trust_remote_code=True)
    tokenizer.save_pretrained(tmp_path)
    config.vocab_size, config.eos_token_id, config.pad_token_id = len(tokenizer), tokenizer.eos_token_id, None
    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").unlink(missing_ok=True)
    pool = ModelPool(str(tmp_path), ARGUMENTS)
    batcher = pool.batcher(pool.default)
    asked = [Asked("Story 7. one two", seed, NEUTRAL, max_tokens=30) for seed in range(6)]
    write(batcher, asked)
    for each in asked:
        started = each.events[0]
        assert started.max_tokens == min(30, batcher.batch.context - started.prompt_tokens)
        expected = written_alone(tmp_path, each.wish.prompt, each.wish.seed, started.max_tokens, **NEUTRAL)
        assert each.text == expected


def test_pieces_are_whole_characters_and_account_for_every_token(batcher):
    """Guards: text streamed byte by byte, where a fox becomes four question marks."""
    asked = [Asked("🦊 naïve 🦊", seed, NEUTRAL, max_tokens=100, alternatives=3) for seed in range(8)]
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


def test_the_likeliest_word_has_the_probability_that_is_shown(counting_run):
    """Guards: probabilities of a neighbour, or of the sampling settings instead of the model."""
    pool = ModelPool(str(counting_run), ARGUMENTS)
    asked = Asked("Story 7. one two", 1, PRESETS["balanced"] | {"temperature": 0.1}, alternatives=2, max_tokens=3)
    write(pool.batcher(pool.default), [asked])
    pieces = [event for event in asked.events if isinstance(event, Piece)]
    for piece in pieces:
        assert piece.alternatives[0].text == piece.text
        assert piece.alternatives[0].probability == pytest.approx(piece.probability, rel=1e-5)
        assert piece.probability > 0.5


@pytest.mark.parametrize("stop", [(" four",), ("e fo",), ("r five s", "nothing"), (" three",)])
def test_a_stop_sequence_ends_the_story_before_it_and_nothing_of_it_is_told(stop, counting_run):
    """Guards: a sequence that is cut in two by the tokens and slips through."""
    pool = ModelPool(str(counting_run), ARGUMENTS)
    batcher = pool.batcher(pool.default)
    asked = Asked("Story 7. one two", 1, NEUTRAL | {"temperature": 0}, stop=stop)
    write(batcher, [asked])
    whole = " three four five six seven eight nine ten."
    assert asked.text == asked.events[-1].text == whole[: whole.index(stop[0])]
    assert asked.events[-1].finish_reason == "stop"


def test_what_may_begin_a_stop_sequence_is_told_once_it_does_not(counting_run):
    pool = ModelPool(str(counting_run), ARGUMENTS)
    asked = Asked("Story 7. one two", 1, NEUTRAL | {"temperature": 0}, stop=(" ten!",))
    write(pool.batcher(pool.default), [asked])
    assert asked.text == " three four five six seven eight nine ten."


def test_a_story_cancelled_or_too_late_ends_and_the_others_do_not_notice(batcher, checkpoint):
    settings, prompt = NEUTRAL, "Story 7. one two"
    asked = [Asked(prompt, seed, settings, max_tokens=30) for seed in range(4)]
    for each in asked:
        batcher.join(each.request)
    for _ in range(10):
        batcher.step()
    asked[0].request.cancelled = True
    asked[2].request.deadline = 0.0
    while batcher.stories:
        batcher.step()
    assert [each.events[-1].finish_reason for each in asked] == ["cancelled", "length", "timeout", "length"]
    for each in (asked[1], asked[3]):
        assert each.text == written_alone(checkpoint, prompt, each.wish.seed, 30, **settings)


def test_a_story_that_fails_is_the_only_one(batcher, checkpoint, monkeypatch):
    """Guards: one client's settings, on which the sampler breaks, that end everybody's story."""
    asked = [Asked("Story 7. one two", seed, NEUTRAL, max_tokens=20) for seed in range(3)]
    draw = Sampler.next_token

    def breaks_for_one(self, ids, logits):
        if self.generator.initial_seed() == 1 and len(ids) > 12:
            raise RuntimeError("probability tensor contains nan")
        return draw(self, ids, logits)

    monkeypatch.setattr(Sampler, "next_token", breaks_for_one)
    write(batcher, asked)
    assert isinstance(asked[1].events[-1], Failed)
    for each in (asked[0], asked[2]):
        assert each.text == written_alone(checkpoint, each.wish.prompt, each.wish.seed, 20, **NEUTRAL)


def test_only_so_many_models_are_open_and_none_that_is_at_work_is_closed(counting_run, tmp_path, monkeypatch):
    """Guards: memory that grows with every checkpoint that somebody asks for."""
    monkeypatch.setattr(model_pool, "OPEN_AT_ONCE", 2)
    for step in (1, 2, 3):
        untrained(counting_run, tmp_path / f"checkpoint-{step}")
    pool = ModelPool(str(tmp_path), ARGUMENTS)
    assert pool.default == "checkpoint-3"
    pool.batcher("checkpoint-3")
    busy = pool.batcher("checkpoint-1")
    busy.join(Asked("Story", 1, NEUTRAL, max_tokens=3).request)
    assert pool.has_room_for("checkpoint-1") and not pool.has_room_for("checkpoint-2")
    while busy.stories:
        busy.step()
    assert pool.has_room_for("checkpoint-2")
    pool.batcher("checkpoint-2")
    assert list(pool.batchers) == ["checkpoint-3", "checkpoint-2"]


def test_a_prompt_is_text_whatever_it_says(batcher):
    """Guards: a typed end of text that ends the story. Other people's tokenizers know it where ours does not."""
    plain = Tokenizer(models.BPE())
    plain.pre_tokenizer, plain.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["</s>"], initial_alphabet=alphabet)
    plain.train_from_iterator(["one two three"], trainer)
    other = PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="</s>")
    assert other.eos_token_id in other("</s> one")["input_ids"]
    for each in (batcher, ContinuousBatcher(batcher.model, other, 1)):
        for name in ("<|endoftext|>", "</s>", *each.tokenizer.all_special_tokens):
            ids = each.encode(f"{name} one")
            assert each.tokenizer.decode(ids, skip_special_tokens=True) == f"{name} one"
            assert not set(ids[1:]) & set(each.tokenizer.all_special_ids)


def test_what_does_not_fit_the_context_is_clamped_or_said(counting_run, tmp_path):
    pool = ModelPool(str(untrained(counting_run, tmp_path / "small", context=32)), ARGUMENTS)
    batcher = pool.batcher(pool.default)
    fits, fills, too_long = (Asked("one " * words, 1, NEUTRAL, max_tokens=500) for words in (2, 29, 100))
    write(batcher, [fits, fills, too_long])
    for each in (fits, fills):
        assert each.events[0].clamped
        assert each.events[0].prompt_tokens + each.events[0].max_tokens == 32
        assert isinstance(each.events[-1], Finished)
    assert isinstance(too_long.events[0], Failed)
    assert "and this model reads 32: shorten it" in too_long.events[0].error


def test_models_that_cannot_be_served_say_why_in_one_line(counting_run, tmp_path):
    def refusal(folder) -> str:
        pool = ModelPool(str(folder), ARGUMENTS)
        return mistake(pool.batcher, pool.default)

    assert "cannot open" in refusal(tmp_path / "absent")
    broken = untrained(counting_run, tmp_path / "nan")
    model = AutoModelForCausalLM.from_pretrained(broken)
    model.lm_head.weight.data.fill_(float("nan"))
    model.save_pretrained(broken)
    assert "cannot serve" in refusal(broken)
    other = untrained(counting_run, tmp_path / "other")
    tokenizer = AutoTokenizer.from_pretrained(other, trust_remote_code=True)
    tokenizer.add_tokens([f"word{i}" for i in range(100)])
    tokenizer.save_pretrained(other)
    assert "do not belong together" in refusal(other)
    assert "device" in mistake(ModelPool, str(other), ServerArguments(device="toaster"))


def test_the_checkpoints_of_a_run_can_be_chosen(counting_run, tmp_path):
    found = find_checkpoints(str(counting_run))
    assert [(entry.id, entry.step) for entry in found] == [
        ("run", None),
        ("checkpoint-50", 50),
        ("checkpoint-100", 100),
    ]
    untrained(counting_run, tmp_path / "checkpoint-9")
    untrained(counting_run, tmp_path / "checkpoint-10")
    assert [entry.id for entry in find_checkpoints(str(tmp_path))] == ["checkpoint-10", "checkpoint-9"]
    assert [entry.id for entry in find_checkpoints("someone/model")] == ["someone/model"]


def test_clients_take_turns_and_the_queue_has_an_end():
    """Guards: one client's ten requests before everybody else's first."""
    turns = FairQueue(limit=5)
    for client, item in (("a", 1), ("a", 2), ("a", 3), ("b", 4), ("c", 5)):
        assert turns.put(client, item)
    assert not turns.put("d", 6)
    turns.remove(2)
    assert len(turns) == 4
    assert turns.take(lambda item: item > 3) == 4
    assert [turns.take(lambda item: True) for _ in range(4)] == [1, 5, 3, None]
