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
from tinystories.evaluation.scoring import continuation_nll, score, scoring_rows


TEXTS = ["Mia had a red hat. It was the best.", "Zoë ran.", "A fox saw an owl " * 6, "x"]
STORIES = datasets.Dataset.from_dict({"text": TEXTS})


class Reader(torch.nn.Module):
    """What it predicts depends on every token read so far."""

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
    """One token a byte, and the special tokens that are named."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    if normalizer:
        backend.normalizer = normalizer
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


@torch.no_grad()
def nats(model, ids, first: int, block_size: int, stride: int) -> list[float]:
    """Token by token, each in the first window that holds it."""
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
def test_every_token_after_the_first_is_scored_once_whatever_special_tokens_there_are(special, stride):
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


def test_estimates_agree_with_the_score_and_their_intervals_hold_them():
    tokenizer = bytes_tokenizer(bos_token="<s>", eos_token="</s>")
    model = Reader(len(tokenizer))
    result = likelihood(model, tokenizer, STORIES)
    whole = score(model, scoring_rows(STORIES, tokenizer, 32)).as_dict()
    for name in ("loss", "perplexity", "bits_per_byte", "text_bits_per_byte", "article_loss", "other_loss"):
        estimate = result[name]
        assert estimate.value == pytest.approx(whole[name]), name
        assert estimate.low <= estimate.value <= estimate.high and estimate.low < estimate.high, name
    assert result["bits_per_byte"].number == len(TEXTS)


@pytest.mark.parametrize("stride", [0, -1, 32, 100])
def test_a_stride_that_leaves_gaps_or_stands_still_is_refused(stride):
    tokenizer = bytes_tokenizer(bos_token="<s>")
    assert "stride must be between 1 and 31" in mistake(likelihood, Reader(300), tokenizer, STORIES, stride)


def test_a_tokenizer_that_cannot_place_letters_leaves_articles_out_and_nothing_else():
    tokenizer = ByT5Tokenizer(extra_ids=0)
    result = likelihood(Reader(len(tokenizer)), tokenizer, STORIES)
    assert result["article_loss"] is None and result["other_loss"] is None
    assert result["tokens"] == sum(len(text.encode()) + 1 for text in TEXTS)


def test_stories_that_the_tokenizer_does_not_give_back_are_counted():
    tokenizer = bytes_tokenizer(normalizers.Lowercase(), bos_token="<s>")
    assert likelihood(Reader(len(tokenizer)), tokenizer, STORIES)["share_not_given_back"] == 3 / 4


def test_a_text_costs_what_its_parts_cost_one_after_the_other():
    tokenizer = bytes_tokenizer(bos_token="<s>")
    model = Reader(len(tokenizer), context=512)
    whole, first = continuation_nll(model, tokenizer, ["", ""], ["One day. It rained.", "One day."])
    (second,) = continuation_nll(model, tokenizer, ["One day."], [" It rained."])
    assert whole == pytest.approx(first + second, rel=1e-5)
    ids = [tokenizer.bos_token_id, *tokenizer("One day. It rained.")["input_ids"]]
    assert second == pytest.approx(sum(nats(model, ids, 9, 512, 256)), rel=1e-5)


def test_what_stands_too_far_before_a_text_is_left_out_and_no_part_of_the_text_is():
    tokenizer = bytes_tokenizer(bos_token="<s>")
    model = Reader(len(tokenizer), context=16)
    far, other = continuation_nll(model, tokenizer, ["z" * 50 + "aaaaaaaaaa", "z" * 50 + "aaaaaaaaac"], [" bbbbb"] * 2)
    ids = tokenizer("aaaaaaaaaa bbbbb")["input_ids"]
    assert far == pytest.approx(sum(nats(model, ids, 10, 16, 8)), rel=1e-5)
    assert other != pytest.approx(far)
    (long,) = continuation_nll(model, tokenizer, ["a"], ["b" * 40])
    assert np.isfinite(long) and long > 0


def test_bits_per_byte_loads_into_evaluate_and_equals_ours(counting_run):
    import evaluate  # slow to import, and needed here alone

    metric = evaluate.load(str(ROOT / "metrics" / "bits_per_byte"))
    texts = ["Story 7. one two three.", "Story 8. one two three four."]
    result = metric.compute(predictions=texts, model_id=str(counting_run))
    ours = likelihood(*load_checkpoint(str(counting_run)), datasets.Dataset.from_dict({"text": texts}))
    assert result["bits_per_byte"] == pytest.approx(ours["bits_per_byte"].value)
    assert result["low"] <= result["bits_per_byte"] <= result["high"]
    assert result["text_bits_per_byte"] == pytest.approx(ours["text_bits_per_byte"].value)
