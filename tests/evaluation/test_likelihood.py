"""Likelihood of stories with intervals, for any causal model and tokenizer; metrics/bits_per_byte."""

import math
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from helpers.runs import ROOT, mistake
from tinystories.checkpoint.loading import load_checkpoint
from tinystories.evaluation.likelihood import likelihood
from tinystories.evaluation.scoring import (
    continuation_nll,
    nll_of_rows,
    perplexity,
    score,
    score_from_tokens,
    scoring_rows,
    trainer_metrics,
)


TEXTS = ["Mia had a red hat. It was the best.", "Zoë ran.", "A fox saw an owl " * 6, "x"]
STORIES = datasets.Dataset.from_dict({"text": TEXTS})


class Reader(torch.nn.Module):
    """A model whose predictions depend on every token so far."""

    device = torch.device("cpu")

    def __init__(self, vocabulary: int, context: int = 32):
        super().__init__()
        torch.manual_seed(0)
        self.config = SimpleNamespace(max_position_embeddings=context)
        self.embedding = torch.nn.Embedding(vocabulary, 8)
        self.output = torch.nn.Linear(8, vocabulary)

    def forward(self, input_ids):
        assert input_ids.shape[1] <= self.config.max_position_embeddings
        return SimpleNamespace(logits=self.output(torch.tanh(self.embedding(input_ids).cumsum(1) / 3)))


def bytes_tokenizer(normalizer=None, **special) -> PreTrainedTokenizerFast:
    """A tokenizer with one token a byte and the special tokens of `special`."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    if normalizer:
        backend.normalizer = normalizer
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


@torch.no_grad()
def nats(model, ids, first: int, block_size: int, stride: int) -> list[float]:
    """The nats of each token, in the first window that contains it."""
    found = []
    for place in range(first, len(ids)):
        start = 0
        while place >= start + block_size:
            start += stride
        logits = model(torch.tensor([ids[start:place]])).logits[0, -1].double()
        found.append(-logits.log_softmax(-1)[ids[place]].item())
    return found


@pytest.mark.parametrize("stride", [None, 1, 5, 31])
@pytest.mark.parametrize(
    "special",
    [{"bos_token": "<s>", "eos_token": "</s>"}, {"eos_token": "</s>", "pad_token": "</s>"}, {"pad_token": "<p>"}],
    ids=["BOS and EOS", "EOS that is PAD too", "neither"],
)
def test_every_token_once(special, stride):
    """Every token after the first is scored exactly once, with any special tokens and stride."""
    tokenizer = bytes_tokenizer(**special)
    model = Reader(len(tokenizer))
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    begin = [token for token in (eos if bos is None else bos,) if token is not None]
    text_nats = end_nats = tokens = size = 0
    for text in TEXTS:
        ids = [*begin, *tokenizer(text, add_special_tokens=False)["input_ids"], *([] if eos is None else [eos])]
        found = nats(model, ids, 1, 32, stride or 16)
        tokens += len(found)
        end = found.pop() if eos is not None else 0.0
        text_nats, end_nats, size = text_nats + sum(found), end_nats + end, size + len(text.encode()) - (not begin)
    result = likelihood(model, tokenizer, STORIES, stride, batch_size=3)
    assert (result["tokens"], result["bytes"], result["stride"]) == (tokens, size, stride or 16)
    assert result["loss"].value == pytest.approx((text_nats + end_nats) / tokens, rel=1e-5)
    assert result["bits_per_byte"].value == pytest.approx((text_nats + end_nats) / math.log(2) / size, rel=1e-5)
    assert result["text_bits_per_byte"].value == pytest.approx(text_nats / math.log(2) / size, rel=1e-5)
    assert result["share_not_given_back"] == 0


def test_estimates_equal_score():
    """The estimates equal `score`, and their intervals contain them."""
    tokenizer = bytes_tokenizer(bos_token="<s>", eos_token="</s>")
    model = Reader(len(tokenizer))
    result = likelihood(model, tokenizer, STORIES)
    whole = score(model, scoring_rows(STORIES, tokenizer, 32)).as_dict()
    for name in ("loss", "perplexity", "bits_per_byte", "text_bits_per_byte", "article_loss", "other_loss"):
        estimate = result[name]
        assert estimate.value == pytest.approx(whole[name]), name
        assert estimate.low <= estimate.value <= estimate.high and estimate.low < estimate.high, name
    assert result["bits_per_byte"].number == len(TEXTS)


def test_articles():
    """The loss of articles is the mean over the letters of a, an and the, in whatever window, and of nothing else."""
    tokenizer = bytes_tokenizer(bos_token="<s>", eos_token="</s>")
    model, articles, others = Reader(len(tokenizer)), [], []
    texts = ["The cat-a-log was an apple's. Then a", "the " * 12 + "end", "Anna can't theorize: it's a's."]
    letters = ["The an a".replace(" ", ""), "the" * 12, ""]
    for text, expected in zip(texts, letters, strict=True):
        found = nats(model, [tokenizer.bos_token_id, *tokenizer(text)["input_ids"], tokenizer.eos_token_id], 1, 32, 16)
        words = {place for i in range(len(text)) for place in article_letters(text, i)}
        assert "".join(text[place] for place in sorted(words)) == expected
        articles += [value for place, value in enumerate(found) if place in words]
        others += [value for place, value in enumerate(found) if place not in words]
    whole = score(model, scoring_rows(datasets.Dataset.from_dict({"text": texts}), tokenizer, 32))
    assert whole.article_tokens == len(articles) == 6 + 36
    assert whole.article_loss == pytest.approx(np.mean(articles), rel=1e-5)
    assert whole.other_loss == pytest.approx(np.mean(others), rel=1e-5)


def article_letters(text: str, start: int) -> range:
    """The letters of an article that begins at `start`, found without a regular expression."""
    joins = "'-"
    for word in ("the", "an", "a"):
        end = start + len(word)
        before, after = text[start - 1 : start] if start else " ", text[end : end + 1] or " "
        apart = not any(letter.isalpha() or letter in joins for letter in (before, after))
        if apart and text[start:end].lower() == word:
            return range(start, end)
    return range(0)


def test_metrics_of_the_trainer():
    """The rows of training stories follow those of held-out ones; the gap is the loss of these minus that of those."""
    tokenizer = bytes_tokenizer(bos_token="<s>", eos_token="</s>")
    model = Reader(len(tokenizer))
    held_out = scoring_rows(STORIES, tokenizer, 32)
    trained = scoring_rows(datasets.Dataset.from_dict({"text": ["zzz zzz", "Q" * 40]}), tokenizer, 32)
    none = scoring_rows(STORIES.select([]), tokenizer, 32)
    nll = [row for rows in (held_out, trained) for row in nll_of_rows(model, rows.rows)]
    metrics = trainer_metrics(SimpleNamespace(predictions=nll), held_out, trained)
    first, second = score(model, held_out), score(model, trained)
    assert metrics["loss"] == pytest.approx(first.loss) != pytest.approx(second.loss)
    assert metrics["train_loss"] == pytest.approx(second.loss)
    assert metrics["gap"] == pytest.approx(first.loss - second.loss)
    assert metrics["article_tokens"] == first.article_tokens
    alone = trainer_metrics(SimpleNamespace(predictions=nll[: len(held_out.rows)]), held_out, none)
    assert alone == {name: value for name, value in metrics.items() if name not in ("train_loss", "gap")}


def test_sums_in_float64():
    """The nats of a long story do not lose its last tokens to rounding."""
    rows = scoring_rows(datasets.Dataset.from_dict({"text": ["x" * 1000]}), bytes_tokenizer(bos_token="<s>"), 2000)
    values = np.ones(1001, dtype=np.float32)
    values[1] = 2**26
    assert score_from_tokens([values], rows).loss == (2**26 + 999) / 1000


def test_windows():
    """Longest first; bytes, ends and articles belong to their stories; the last window ends with the story."""
    tokenizer = bytes_tokenizer(bos_token="<s>", eos_token="</s>")
    rows = scoring_rows(STORIES, tokenizer, 32, stride=20)
    sizes = [len(row["input_ids"]) for row in rows.rows]
    assert sizes == sorted(sizes, reverse=True) and max(sizes) == 32
    assert rows.story_bytes.tolist() == [len(text.encode()) for text in TEXTS]
    assert sorted(row["story"] for row in rows.rows if row["ends"]) == [0, 1, 2, 3]
    for row in rows.rows:
        assert row["ends"] == (row["input_ids"][-1] == tokenizer.eos_token_id)
        assert set(tokenizer.decode(row["input_ids"][row["articles"]]).lower()) <= set("athen")
    assert rows.finds_articles and rows.num_bytes == sum(rows.story_bytes) and rows.stride == 20


def test_dropout_is_off():
    """A model that comes from training is scored without its dropout."""
    tokenizer = bytes_tokenizer(bos_token="<s>")
    rows, model = scoring_rows(STORIES, tokenizer, 32), Reader(len(tokenizer))
    plain = score(model, rows)
    model.output = torch.nn.Sequential(torch.nn.Dropout(0.5), model.output).train()
    assert score(model, rows) == plain


@pytest.mark.parametrize(("loss", "expected"), [(0.0, 1.0), (2.0, math.exp(2)), (699.9, math.exp(699.9))])
def test_perplexity(loss, expected):
    assert perplexity(loss) == expected and perplexity(700.0) == perplexity(1e9) == math.inf


@pytest.mark.parametrize("stride", [0, -1, 32, 100])
def test_bad_stride(stride):
    """A stride that skips tokens or does not advance is refused."""
    tokenizer = bytes_tokenizer(bos_token="<s>")
    assert "stride must be between 1 and 31" in mistake(likelihood, Reader(300), tokenizer, STORIES, stride)


def test_slow_tokenizer():
    """A tokenizer that cannot map letters to tokens gives no article losses, and everything else."""
    tokenizer = ByT5Tokenizer(extra_ids=0)
    result = likelihood(Reader(len(tokenizer)), tokenizer, STORIES)
    assert result["article_loss"] is None and result["other_loss"] is None
    assert result["tokens"] == sum(len(text.encode()) + 1 for text in TEXTS)


def test_lossy_tokenizer():
    """Stories that the tokenizer does not decode to their own text are counted."""
    tokenizer = bytes_tokenizer(normalizers.Lowercase(), bos_token="<s>")
    assert likelihood(Reader(len(tokenizer)), tokenizer, STORIES)["share_not_given_back"] == 3 / 4


def test_continuations_add_up():
    """The nats of a text are those of its parts, each in its context."""
    tokenizer = bytes_tokenizer(bos_token="<s>")
    model = Reader(len(tokenizer), context=512)
    whole, first = continuation_nll(model, tokenizer, ["", ""], ["One day. It rained.", "One day."])
    (second,) = continuation_nll(model, tokenizer, ["One day."], [" It rained."])
    assert whole == pytest.approx(first + second, rel=1e-5)
    ids = [tokenizer.bos_token_id, *tokenizer("One day. It rained.")["input_ids"]]
    assert second == pytest.approx(sum(nats(model, ids, 9, 512, 256)), rel=1e-5)


def test_long_context():
    """A context that is too long loses its beginning; a text that is too long is scored completely."""
    tokenizer = bytes_tokenizer(bos_token="<s>")
    model = Reader(len(tokenizer), context=16)
    far, other = continuation_nll(model, tokenizer, ["z" * 50 + "aaaaaaaaaa", "z" * 50 + "aaaaaaaaac"], [" bbbbb"] * 2)
    ids = tokenizer("aaaaaaaaaa bbbbb")["input_ids"]
    assert far == pytest.approx(sum(nats(model, ids, 10, 16, 8)), rel=1e-5)
    assert other != pytest.approx(far)
    (long,) = continuation_nll(model, tokenizer, ["a"], ["b" * 40])
    assert np.isfinite(long) and long > 0


@pytest.mark.slow
def test_evaluate_module(untrained_checkpoint):
    """metrics/bits_per_byte loads into the library evaluate and gives our numbers."""
    import evaluate  # takes seconds to import, and only this test needs it

    metric = evaluate.load(str(ROOT / "metrics" / "bits_per_byte"))
    texts = ["Story 7. one two three.", "Story 8. one two three four."]
    result = metric.compute(predictions=texts, model_id=str(untrained_checkpoint))
    ours = likelihood(*load_checkpoint(str(untrained_checkpoint)), datasets.Dataset.from_dict({"text": texts}))
    assert result["bits_per_byte"] == pytest.approx(ours["bits_per_byte"].value)
    assert result["low"] <= result["bits_per_byte"] <= result["high"]
    assert result["text_bits_per_byte"] == pytest.approx(ours["text_bits_per_byte"].value)
