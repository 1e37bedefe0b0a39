"""Metrics by a critic, a language model that was trained on people's stories.

Metrics of words and sentences do not see a character who changes name or sex, an ending that is missing, or the second
half of another story. A model that has learnt to write stories does: these things are unlikely to it.

The critic must not be the model that is measured: a model finds its own texts likely. White space is read as single
spaces, so that paragraphs do not count. Of a text longer than the critic's context, only what fits is read.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tinystories.evaluation.estimates import Estimate, mean, ratio
from tinystories.evaluation.scoring import begin_of_story, context_length
from tinystories.evaluation.text.names import names_in
from tinystories.evaluation.text.samples import Sample
from tinystories.evaluation.text.words import WORD, first_words, half_way
from tinystories.progress import progress_bar


OTHER_PROMPTS = 3
HEAD = 20  # words
BATCH = 16
COUNTERPARTS = {"he": ("she",), "she": ("he",), "him": ("her",), "her": ("him", "his"), "his": ("her",)}
COUNTERPARTS |= {"himself": ("herself",), "herself": ("himself",)}

Pair = tuple[str, str]  # a context and the text after it


@dataclass(frozen=True)
class Scored:
    """What the critic found in one text after its context.

    nats, expected: of the text, and what the critic expected before it saw each token (the entropy of its prediction).
    second: nats of the second half of the text.
    end: the probability that a story ends where the text ends.
    pronouns: for each he or she, how probable it is among the two.
    """

    nats: float = 0.0
    expected: float = 0.0
    second: float = 0.0
    end: float = 0.0
    pronouns: tuple[float, ...] = ()


@dataclass
class Critic:
    """A model and its tokenizer. `facts` identify it for reader and cache; `known` is what was scored before."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    facts: dict[str, Any] = field(default_factory=dict)
    known: dict[Pair, Scored] = field(default_factory=dict)
    tokens: dict[str, int | None] = field(default_factory=dict)

    def score(self, pairs: Sequence[Pair]) -> list[Scored]:
        """Score the text of each pair; no pair is scored twice."""
        plain = [_plain(pair) for pair in pairs]
        new = sorted(set(plain) - self.known.keys(), key=lambda pair: (-len("".join(pair)), pair))
        for start in progress_bar(range(0, len(new), BATCH), desc="reading stories"):
            batch = new[start : start + BATCH]
            self.known |= zip(batch, self._score(batch), strict=True)
        return [self.known[pair] for pair in plain]

    @torch.inference_mode()
    def _score(self, pairs: list[Pair]) -> list[Scored]:
        begin = begin_of_story(self.tokenizer)
        limit = context_length(self.model) - len(begin)
        whole = self.tokenizer(["".join(pair) for pair in pairs], add_special_tokens=False, return_offsets_mapping=True)
        rows = [[*begin, *ids[:limit]] for ids in whole["input_ids"]]
        padded = torch.zeros(len(rows), max(map(len, rows)) or 1, dtype=torch.long)
        for i, row in enumerate(rows):
            padded[i, : len(row)] = torch.tensor(row)
        logits = self.model(input_ids=padded.to(self.model.device)).logits
        return [
            self._one(pair, row[len(begin) :], [end for _, end in places[:limit]], found[: len(row)])
            for pair, row, places, found in zip(pairs, rows, whole["offset_mapping"], logits, strict=True)
        ]

    def _one(self, pair: Pair, ids: list[int], ends: list[int], logits: torch.Tensor) -> Scored:
        """ends: the letter of context + text at which each token ends."""
        first = 1 if len(logits) == len(ids) else 0  # without BOS, the first token is not predicted
        scored = [i for i in range(first, len(ids)) if ends[i] > len(pair[0])]
        if not scored:
            return Scored()
        found = torch.log_softmax(logits.float(), dim=-1)
        before = found[[i - first for i in scored]]  # the predictions of the scored tokens
        nats = -before.gather(-1, torch.tensor([[ids[i]] for i in scored], device=found.device))[:, 0].double()
        half = len(pair[0] + half_way(pair[1])[0])
        second = nats[[ends[i] > half for i in scored]].sum()
        expected = -(before.exp() * before).double().sum()
        row_of = {ends[i]: (ids[i], before[row]) for row, i in enumerate(scored)}
        end = found[-1, self.tokenizer.eos_token_id].exp()
        pronouns = self._pronouns(pair, row_of)
        return Scored(float(nats.sum()), float(expected), float(second), float(end), pronouns)

    def _pronouns(self, pair: Pair, row_of: dict[int, tuple[int, torch.Tensor]]) -> tuple[float, ...]:
        """row_of: by the letter at which a token ends, the token and the log probabilities before it."""
        shares = []
        for word in WORD.finditer("".join(pair)):
            if word[0].lower() not in COUNTERPARTS or word.end() not in row_of:
                continue
            token, row = row_of[word.end()]
            others = [one.capitalize() if word[0][0].isupper() else one for one in COUNTERPARTS[word[0].lower()]]
            ids = [self._one_token(one) for one in (word[0], *others)]
            if ids[0] == token and None not in ids:
                shares.append(float(torch.softmax(row[ids], dim=0)[0]))
        return tuple(shares)

    def _one_token(self, word: str) -> int | None:
        """The token of a word after a space; None if it is several."""
        if word not in self.tokens:
            with_word, without = self.tokenizer([f"a {word}", "a"], add_special_tokens=False)["input_ids"]
            self.tokens[word] = with_word[-1] if len(with_word) == len(without) + 1 else None
        return self.tokens[word]


def surprise(samples: list[Sample], critic: Critic) -> Estimate | None:
    """The nats of the texts over those that the critic expected, less 1: 0 for what it would write itself."""
    scored = critic.score([(sample.prompt, sample.text) for sample in samples])
    found = ratio([one.nats for one in scored], [one.expected for one in scored])
    return found and Estimate(found.value - 1, found.low - 1, found.high - 1, found.number)


def coherence(samples: list[Sample], critic: Critic) -> Estimate | None:
    """Share of the nats of the second half that the critic saves if it has read all before it."""
    alone = [one.nats for one in critic.score([("", half_way(sample.text)[1]) for sample in samples])]
    after = [one.second for one in critic.score([(sample.prompt, sample.text) for sample in samples])]
    return ratio(np.subtract(alone, after), alone)


def prompt_fit(samples: list[Sample], critic: Critic) -> Estimate | None:
    """Share of other prompts after which the first words of a text are less likely than after its own."""
    prompts = list(dict.fromkeys(sample.prompt for sample in samples))
    if len(prompts) < 2:
        return None
    heads = [first_words(sample.text, HEAD) for sample in samples]
    own = critic.score([(sample.prompt, head) for sample, head in zip(samples, heads, strict=True)])
    wins = np.zeros(len(samples))
    steps = range(1, min(OTHER_PROMPTS, len(prompts) - 1) + 1)
    for step in steps:
        others = [prompts[(prompts.index(sample.prompt) + step) % len(prompts)] for sample in samples]
        scored = critic.score(list(zip(others, heads, strict=True)))
        wins += [float(a.nats < b.nats) + 0.5 * (a.nats == b.nats) for a, b in zip(own, scored, strict=True)]
    return mean(list(wins / len(steps)))


def ending(samples: list[Sample], critic: Critic) -> Estimate | None:
    """Mean probability that a story ends where the text ends; 0 for a text that was cut."""
    scored = critic.score([(sample.prompt, sample.text) for sample in samples])
    return mean([one.end * sample.ended for one, sample in zip(scored, samples, strict=True)])


def characters(samples: list[Sample], critic: Critic) -> Estimate | None:
    """Mean over each he or she (how probable it is among the two) and each name of the second half (was it before?)."""
    scored = critic.score([(sample.prompt, sample.text) for sample in samples])
    found = [[*one.pronouns, *introductions(sample)] for one, sample in zip(scored, samples, strict=True)]
    return ratio([sum(one) for one in found], [len(one) for one in found])


def introductions(sample: Sample) -> list[float]:
    """1 for each different name in the second half of the text that occurs before it, 0 for each other one."""
    first, second = half_way(sample.text)
    before = set(re.findall(r"\w+", sample.prompt + first))
    return [float(name in before) for name in sorted(names_in(second))]


def _plain(pair: Pair) -> Pair:
    """The pair with single spaces; a space between the two belongs to the text."""
    context, text = (" ".join(part.split()) for part in pair)
    spaced = pair[0][-1:].isspace() or pair[1][:1].isspace()
    return context, f" {text}" if spaced and context and text else text
