"""What can be measured of a model with a text, without knowing how it was trained. rules.py draws the conclusions.

Losses are in nats per token. Every story is read as BOS + story + EOS, in windows as in evaluation/scoring.py, so
`loss` is the loss of an evaluation. With a tokenizer without BOS a story begins with EOS, as in the training of such
models.
"""

import copy
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from tinystories.data.packing import IGNORED
from tinystories.errors import UserError
from tinystories.evaluation.scoring import article_tokens, begin_of_story, context_length, windows
from tinystories.generation.presets import PRESETS
from tinystories.progress import progress_bar
from tinystories.random_state import keep_random_state


NUMBERS_AT_ONCE = 2**26  # logits of a batch: 256 MB in float32
PROMPT_TOKENS, NEW_TOKENS, SAMPLES = 8, 256, 8
PAIRS_PRIOR = 10  # how many pairs the frequency of a token counts for, in the bigram model
ALPHABET = "Zoë said: “naïve” — 5 €! 🦊\n\t<|endoftext|> 昔々"


@dataclass
class Reading:
    """How well a model predicts a text, in nats per token and probabilities.

    `by_distance`: loss at the same places for the token just read (0), the next (1) and the one after it (2).
    `mean_prediction_loss`: cross-entropy of the text's token frequencies under the average of the model's predictions.
    `pairs_loss`: of a model that counts pairs of tokens in another text of the same kind; see `loss_of_pairs`.
    """

    stories: int
    tokens: int
    loss: float
    bits_per_byte: float
    by_distance: list[float]
    mean_prediction_loss: float
    unigram_entropy: float
    pairs_loss: float
    end_probability: float
    end_median_rank: int
    elsewhere_end_probability: float
    end_frequency: float
    article_loss: float | None
    other_loss: float | None


def encode(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[np.ndarray]:
    """The token ids of each story as BOS + story + EOS, as far as the tokenizer has these."""
    begin = begin_of_story(tokenizer)
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return [np.array([*begin, *ids, *end]) for ids in encoded]


def _articles(texts: list[str], stories: list[np.ndarray], tokenizer: PreTrainedTokenizerBase) -> list[np.ndarray]:
    """Whether each token of the encoded `texts` belongs to an article; see evaluation/scoring.py."""
    encoded = tokenizer(texts, add_special_tokens=False)
    flags = [np.zeros(len(ids), dtype=bool) for ids in stories]
    for i, text in enumerate(texts):
        begins = len(stories[i]) - len(encoded["input_ids"][i]) - (tokenizer.eos_token_id is not None)
        flags[i][[begins + token for token in article_tokens(encoded, i, text)]] = True
    return flags


class _Sums:
    """Sums over the places of a text, added up batch by batch: of each kind of place its values and their number."""

    def __init__(self, vocab_size: int):
        self.nll: dict[Any, float] = {}
        self.counts: dict[Any, int] = {}
        self.prediction = torch.zeros(vocab_size, dtype=torch.float64)
        self.ranks: list[int] = []

    def add(self, name: Any, values: torch.Tensor) -> None:
        self.nll[name] = self.nll.get(name, 0.0) + values.double().sum().item()
        self.counts[name] = self.counts.get(name, 0) + values.numel()

    def mean(self, name: Any) -> float:
        """NaN where there was no such place."""
        return self.nll[name] / self.counts[name] if self.counts.get(name) else math.nan

    def mean_or_none(self, name: Any) -> float | None:
        return self.mean(name) if self.counts.get(name) else None


def vocabulary_of(model: PreTrainedModel) -> int:
    """Tokens that the model knows: rows of its input embedding."""
    embedding = model.get_input_embeddings()
    if not isinstance(embedding, torch.nn.Embedding):
        raise UserError(f"the input embedding of the model is a {type(embedding).__name__}, not a table")
    return embedding.num_embeddings


@torch.inference_mode()
def read_stories(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: list[str], others: list[str] | None = None
) -> Reading:
    """Read `texts`. `others`: stories of the same kind to count pairs in (default: the other half of `texts`)."""
    stories = encode(texts, tokenizer)
    sums = _read(model, tokenizer, texts, stories)
    vocab_size = vocabulary_of(model)
    counts = np.bincount(np.concatenate([ids[1:] for ids in stories]), minlength=vocab_size)
    frequency = torch.from_numpy(counts / counts.sum())
    return Reading(
        stories=len(texts),
        tokens=sums.counts["all"],
        loss=sums.mean("all"),
        bits_per_byte=sums.nll["all"] / math.log(2) / sum(len(text.encode()) for text in texts),
        by_distance=[sums.mean(distance) for distance in range(3)],
        mean_prediction_loss=-(frequency * (sums.prediction / sums.prediction.sum() + 1e-30).log()).sum().item(),
        unigram_entropy=torch.special.entr(frequency).sum().item(),
        pairs_loss=_pairs_loss(stories, None if others is None else encode(others, tokenizer), vocab_size),
        end_probability=sums.mean_or_none("end") or 0.0,
        end_median_rank=int(np.median(sums.ranks)) if sums.ranks else vocab_size,
        elsewhere_end_probability=sums.mean_or_none("elsewhere") or 0.0,
        end_frequency=len(stories) / sums.counts["all"],
        article_loss=sums.mean_or_none("article"),
        other_loss=sums.mean_or_none("other"),
    )


def _read(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: list[str], stories: list[np.ndarray]
) -> _Sums:
    """One pass of the model over the encoded `stories`."""
    context = context_length(model)
    rows: list[dict[str, Any]] = [
        {"input_ids": ids[place], "first_target": first, "articles": articles[place]}
        for ids, articles in zip(stories, _articles(texts, stories, tokenizer), strict=True)
        for place, first in windows(ids, context)
    ]
    rows.sort(key=lambda row: -len(row["input_ids"]))
    vocab_size, eos = vocabulary_of(model), tokenizer.eos_token_id
    sums = _Sums(vocab_size)
    size = max(1, NUMBERS_AT_ONCE // (context * vocab_size))
    for start in progress_bar(range(0, len(rows), size), desc="reading"):
        ids, targets, is_article = _batch(rows[start : start + size])
        log_p = model(input_ids=ids.to(model.device)).logits.float().log_softmax(-1).cpu()
        scored = targets != IGNORED
        nll = -log_p.gather(-1, targets.clamp(min=0)[..., None])[..., 0]
        sums.add("all", nll[scored])
        sums.add("article", nll[scored & is_article])
        sums.add("other", nll[scored & ~is_article])
        three = scored[:, :-1] & scored[:, 1:]  # places with a token before, a next one, and one after it
        for distance, sought in enumerate((ids[:, :-1], targets[:, :-1], targets[:, 1:])):
            sums.add(distance, -log_p[:, :-1].gather(-1, sought.clamp(min=0)[..., None])[..., 0][three])
        sums.prediction += log_p[scored].exp().double().sum(0)
        if eos is not None:
            ends = scored & (targets == eos)
            sums.add("end", log_p[..., eos][ends].exp())
            sums.add("elsewhere", log_p[..., eos][scored & ~ends].exp())
            sums.ranks += (log_p[ends] > log_p[ends][:, eos, None]).sum(-1).add(1).tolist()
    return sums


def _batch(rows: list[dict[str, Any]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token ids, the next token of each (IGNORED: none to score), whether that is of an article; all (rows, length)."""
    length = len(rows[0]["input_ids"])  # the longest come first
    ids, targets = torch.zeros(len(rows), length, dtype=torch.long), torch.full((len(rows), length), IGNORED)
    is_article = torch.zeros(len(rows), length, dtype=torch.bool)
    for i, row in enumerate(rows):
        tokens, first = torch.from_numpy(row["input_ids"].astype(np.int64)), row["first_target"]
        ids[i, : len(tokens)] = tokens
        targets[i, first - 1 : len(tokens) - 1] = tokens[first:]
        is_article[i, : len(tokens) - 1] = torch.from_numpy(row["articles"][1:])
    return ids, targets, is_article


def _pairs_loss(stories: list[np.ndarray], others: list[np.ndarray] | None, vocab_size: int) -> float:
    """Loss of `stories` by pairs counted in `others`, else of each half of `stories` by pairs of the other."""
    if others is not None:
        return loss_of_pairs(others, stories, vocab_size)
    halves = stories[::2], stories[1::2]
    if not halves[1]:
        return math.log(vocab_size)
    tokens = [sum(len(ids) - 1 for ids in half) for half in halves]
    losses = [loss_of_pairs(halves[1 - i], halves[i], vocab_size) for i in range(2)]
    return float(np.average(losses, weights=tokens))


def loss_of_pairs(counted: list[np.ndarray], scored: list[np.ndarray], vocab_size: int) -> float:
    """Nats per token of a bigram model: pairs counted in one text, smoothed by its token frequencies (plus one)."""
    frequency = np.bincount(np.concatenate(counted), minlength=vocab_size) + 1.0
    frequency /= frequency.sum()
    codes = np.concatenate([ids[:-1].astype(np.int64) * vocab_size + ids[1:] for ids in counted])
    pairs, numbers = np.unique(codes, return_counts=True)
    firsts = np.bincount(np.concatenate([ids[:-1] for ids in counted]), minlength=vocab_size)
    before, after = (np.concatenate([ids[part] for ids in scored]) for part in (slice(None, -1), slice(1, None)))
    sought = before.astype(np.int64) * vocab_size + after
    at = np.searchsorted(pairs, sought).clip(max=len(pairs) - 1)
    seen = np.where(pairs[at] == sought, numbers[at], 0)
    return float(-np.log((seen + PAIRS_PRIOR * frequency[after]) / (firsts[before] + PAIRS_PRIOR)).mean())


@dataclass
class Writing:
    """What a model writes with one way of sampling. `loss`: of that, by its own probabilities at temperature 1."""

    loss: float
    repeated: float  # share of runs of four words that occurred before in the same story
    ended: float  # share of the stories, within NEW_TOKENS


@torch.inference_mode()
def write_stories(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: list[str], seed: int = 0
) -> dict[str, Writing]:
    """Continue the first tokens of some of `texts`, with the model's own generation config and with each preset."""
    stories = [ids for ids in encode(texts, tokenizer) if len(ids) > PROMPT_TOKENS + 1][:SAMPLES]
    new_tokens = min(NEW_TOKENS, context_length(model) - PROMPT_TOKENS)
    if not stories or new_tokens < 1:
        return {}
    prompts = torch.from_numpy(np.stack([ids[:PROMPT_TOKENS] for ids in stories])).to(model.device)
    configs = {"its generation_config": copy.deepcopy(model.generation_config)}
    for name, settings in PRESETS.items():
        configs[name] = copy.deepcopy(model.generation_config)
        configs[name].update(do_sample=True, **settings)
    writings: dict[str, Writing] = {}
    for name, config in configs.items():
        config.max_new_tokens, config.max_length = new_tokens, None
        config.eos_token_id = tokenizer.eos_token_id
        config.pad_token_id = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        same = next((earlier for earlier in writings if configs[earlier].to_dict() == config.to_dict()), None)
        writings[name] = writings[same] if same else _write(model, tokenizer, prompts, config, seed)
    return writings


def _write(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: torch.Tensor,
    config: GenerationConfig,
    seed: int,
) -> Writing:
    with keep_random_state(model.device):
        torch.manual_seed(seed)
        # the library does not declare `generate` for PreTrainedModel, though every causal language model has it
        ids = model.generate(  # type: ignore[operator]
            prompts, attention_mask=torch.ones_like(prompts), generation_config=config
        )
    new = ids[:, PROMPT_TOKENS:]
    ends = new == config.eos_token_id
    written = ends.cumsum(-1) - ends.long() == 0  # up to the first EOS and with it
    log_p = model(input_ids=ids).logits.float().log_softmax(-1)[:, PROMPT_TOKENS - 1 : -1]
    nll = -log_p.gather(-1, new[..., None])[..., 0]
    texts = [_decoded(tokenizer, row) for row in ids]
    return Writing(
        loss=nll[written].mean().item(),
        repeated=float(np.mean([repeated_share(text) for text in texts])),
        ended=ends.any(-1).float().mean().item(),
    )


def _decoded(tokenizer: PreTrainedTokenizerBase, ids: torch.Tensor | np.ndarray) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True))  # of one row, so not a list


def repeated_share(text: str, length: int = 4) -> float:
    """Share of the runs of `length` words of a text that have occurred before in it."""
    words = text.split()
    runs = [tuple(words[i : i + length]) for i in range(len(words) - length + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def human_repeated_share(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> float:
    """The `repeated_share` of human stories, cut to the length of those that `write_stories` writes."""
    cut = [ids[: PROMPT_TOKENS + NEW_TOKENS] for ids in encode(texts, tokenizer)]
    return float(np.mean([repeated_share(_decoded(tokenizer, ids)) for ids in cut]))


@torch.inference_mode()
def next_tokens(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str, number: int = 10
) -> list[tuple[str, float]]:
    """The likeliest tokens after `prompt`, and their probabilities."""
    ids = encode([prompt], tokenizer)[0][: None if tokenizer.eos_token_id is None else -1]
    logits = model(input_ids=torch.from_numpy(ids)[None].to(model.device)).logits
    probabilities = logits[0, -1].float().softmax(-1)
    top = probabilities.topk(min(number, len(probabilities)))
    return [(str(tokenizer.decode([i])), p) for i, p in zip(top.indices.tolist(), top.values.tolist(), strict=True)]


def is_lossless(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a text with characters of many kinds is decoded as it was encoded."""
    ids = tokenizer(ALPHABET, add_special_tokens=False)["input_ids"]
    return tokenizer.decode(ids) == ALPHABET
