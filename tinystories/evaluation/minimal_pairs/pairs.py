"""Minimal pairs: a piece of a held-out story and the same piece with one mistake, in the same context.

    {"rule": "article_a_an", "context": "One day, she saw", "good": " an owl.", "bad": " a owl.", "story": "9f3c…"}

A model is right if it gives `good` the higher total log probability after `context`. Log probabilities are not divided
by length:

- Nearly all rules replace words, so both texts have the same number of words. Such a rule takes equally many pairs of
  each direction ("was" right, "were" right) or exchanges pieces between two stories: a model that has learnt nothing is
  right half of the time.
- `article_dropped` makes the bad text shorter and so more likely: a model that has learnt nothing is hardly ever right.

The rules are in rules.py. They make some bad pairs: docs/results/minimal_pairs_checked.json holds a reader's verdicts
on 50 pairs of each rule, without their text; benchmarks/checked_pairs.py finds the pairs again in the data.
"""

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import datasets
import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tinystories.data.corpus import story_hashes
from tinystories.errors import UserError, one_line
from tinystories.evaluation.estimates import Estimate, share
from tinystories.evaluation.minimal_pairs.rules import EXCHANGED, RULES, Change, Sentence, fits, sentences_in_context
from tinystories.evaluation.scoring import continuation_nll
from tinystories.progress import progress_bar


NUMBER = 200
LARGEST_SHARE = 0.1  # at most this share of a group's pairs may have the same key
CONTEXT_SENTENCES = {"next_sentence": 5}  # number of sentences before the changed one; 1 for the other rules
GROUPS = dict.fromkeys(RULES, 2) | {"pronoun_number": 4, "word_order": 5, "next_sentence": 1}  # number of groups
MATCHED = ("tense",)  # each verb is right as often in the past as in the base form
PARTNERS = 50  # try so many pieces, those of nearest length, for an exchange


@dataclass(frozen=True)
class Pair:
    """`good` and `bad` begin with the white space after `context`. `story`: the hash of the story."""

    rule: str
    context: str
    good: str
    bad: str
    story: str
    group: str

    def as_dict(self) -> dict[str, str]:
        return asdict(self)

    @property
    def digest(self) -> str:
        """Short SHA-256 that identifies the pair without showing its text."""
        text = json.dumps([self.rule, self.context, self.good, self.bad])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class _Found:
    """A change and where it was found."""

    rule: str
    story: str
    sentence: Sentence
    change: Change

    def pair(self, new: str | None = None) -> Pair:
        sentence, change = self.sentence, self.change
        earlier = sentence.before[-CONTEXT_SENTENCES.get(self.rule, 1) :]
        start = earlier[0].start if earlier else sentence.start
        place, end = sentence.start + change.start, sentence.start + len(sentence.text)
        context = self.story[start:place].rstrip()
        space = self.story[start + len(context) : place]
        rest = self.story[sentence.start + change.end : end]
        good = space + self.story[place:end]
        digest = hashlib.sha256(self.story.encode()).hexdigest()[:16]
        return Pair(self.rule, context, good, space + (new or change.new or "") + rest, digest, change.group)


def build_pairs(
    stories: datasets.Dataset, number: int = NUMBER, seed: int = 0, rules: Iterable[str] = tuple(RULES)
) -> list[Pair]:
    """At most `number` pairs of each rule from `stories` (column `text`), at most one a story; `seed` decides which.

    If a rule finds too few pairs of one group, it takes fewer of every group, so that the floor stays at one half.
    """
    order = np.lexsort((np.arange(len(stories)), story_hashes(stories, seed)))
    texts, drawn = stories["text"], random.Random(seed)
    chosen = {rule: _Chosen(number, rule) for rule in rules}
    for index in progress_bar(order, desc="finding pairs", unit=" stories"):
        open_rules = [rule for rule, pairs in chosen.items() if not pairs.full]
        if not open_rules:
            break
        story = texts[int(index)]
        parts = [sentence for sentence in sentences_in_context(story) if not sentence.spoken]
        for rule in open_rules:
            found = [_Found(rule, story, sentence, change) for sentence in parts for change in RULES[rule](sentence)]
            if taken := chosen[rule].take(drawn.sample(found, len(found))):
                parts.remove(taken.sentence)  # a sentence gives a pair to one rule only
    return [pair for pairs in chosen.values() for pair in pairs.balanced(number)]


class _Chosen:
    """The changes chosen for one rule, by group."""

    def __init__(self, number: int, rule: str):
        self.number, self.rule = number, rule
        self.groups: dict[str, list[_Found]] = {}
        self.keys: Counter[tuple[str, str]] = Counter()  # (group, key) -> number of changes taken
        self.seen: set[tuple[str, str]] = set()  # (context, good)
        self.most = max(1, round(self._quota * LARGEST_SHARE))

    @property
    def full(self) -> bool:
        quota = GROUPS[self.rule]
        return len(self.groups) == quota and all(len(pairs) >= self._quota for pairs in self.groups.values())

    @property
    def _quota(self) -> int:
        spare = 2 if self.rule in (*EXCHANGED, *MATCHED) else 1  # some will find no partner
        return -(-self.number * spare // GROUPS[self.rule])

    def take(self, found: list[_Found]) -> _Found | None:
        """Keep the first change that is still wanted, and return it."""
        for one in found:
            group = self.groups.setdefault(one.change.group, [])
            pair = one.pair()
            text, key = (pair.context, pair.good), (one.change.group, one.change.key)
            if len(group) < self._quota and self.keys[key] < self.most and text not in self.seen:
                self.keys[key] += 1
                self.seen.add(text)
                group.append(one)
                return one
        return None

    def balanced(self, number: int) -> list[Pair]:
        """At most `number` pairs, equally many of each group."""
        if len(self.groups) < GROUPS[self.rule]:
            return []
        each = number // GROUPS[self.rule]
        if self.rule in EXCHANGED:
            pairs = [_exchange(found) for found in self.groups.values()]
        else:
            groups = self.groups.values()
            pairs = [[one.pair() for one in found] for found in (_matched(groups) if self.rule in MATCHED else groups)]
        each = min(each, *(len(group) for group in pairs), number)
        return [pair for group in pairs for pair in group[:each]]


def _matched(groups: Iterable[list[_Found]]) -> list[list[_Found]]:
    """Equally many of each key in every group: else a model that knows how frequent a form is would be right."""
    groups = list(groups)
    numbers = [Counter(one.change.key for one in found) for found in groups]
    fewest = {key: min(number[key] for number in numbers) for key in numbers[0]}
    matched = []
    for found in groups:
        left, kept = Counter(fewest), []
        for one in found:
            if left[one.change.key] > 0:
                left[one.change.key] -= 1
                kept.append(one)
        matched.append(sorted(kept, key=lambda one: (_rank(one.change.key), one.change.key)))
    return matched


def _rank(key: str) -> str:
    """A key to sort by: not alphabetical, and the same in every group."""
    return hashlib.sha256(key.encode()).hexdigest()


def _exchange(found: list[_Found]) -> list[Pair]:
    """Two changes of nearly equal length exchange their name or sentence: each piece is good once and bad once."""

    def piece(one: _Found) -> str:
        return one.sentence.text[one.change.start : one.change.end]

    def allows(one: _Found, other: _Found) -> bool:
        context = " ".join(earlier.text for earlier in one.sentence.before[-5:])
        return fits(one.rule, piece(other), one.story, context)

    waiting, pairs = sorted(found, key=lambda one: (len(piece(one)), piece(one))), []
    while waiting:
        one = waiting.pop(0)
        for other in waiting[:PARTNERS]:
            if allows(one, other) and allows(other, one):
                waiting.remove(other)
                pairs.append((one.pair(piece(other)), other.pair(piece(one))))
                break
    random.Random(0).shuffle(pairs)
    return [pair for both in pairs for pair in both]


def score_pairs(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: list[Pair], batch_size: int = 32
) -> dict[str, Estimate]:
    """Share of pairs whose good text gets the higher total log probability after its context, by rule.

    `mean_of_rules` weighs every rule equally; its interval treats the rules as fixed and the pairs as sampled.
    """
    if not pairs:
        return {}
    contexts = [pair.context for pair in pairs] * 2
    texts = [*(pair.good for pair in pairs), *(pair.bad for pair in pairs)]
    good, bad = np.split(continuation_nll(model, tokenizer, contexts, texts, batch_size), 2)
    right: dict[str, list[bool]] = {}
    for pair, is_right in zip(pairs, good < bad, strict=True):
        right.setdefault(pair.rule, []).append(bool(is_right))
    results = shares(right)
    return results | {"mean_of_rules": _mean(list(results.values()))}


def shares(answers: dict[str, list[bool]]) -> dict[str, Estimate]:
    """The share of true answers, by rule."""
    shares = {rule: share(sum(given), len(given)) for rule, given in answers.items()}
    return {rule: estimate for rule, estimate in shares.items() if estimate is not None}


def _mean(estimates: list[Estimate]) -> Estimate:
    value = sum(one.value for one in estimates) / len(estimates)
    half = sum(((one.high - one.low) / 2) ** 2 for one in estimates) ** 0.5 / len(estimates)
    number = sum(one.number for one in estimates)
    return Estimate(value, max(0.0, value - half), min(1.0, value + half), number)


def blimp_pairs(folder: str | Path) -> list[Pair]:
    """The pairs of BLiMP (Warstadt et al., 2020) from a folder of its .jsonl files.

    Raises:
        UserError: the folder has no such file, or a line is not a pair.
    """
    files = sorted(Path(folder).glob("*.jsonl"))
    if not files:
        raise UserError(f"{folder}: has no .jsonl files", "give the folder of BLiMP's")
    pairs = []
    for file in files:
        for line, text in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                row = json.loads(text)
                pairs.append(Pair(file.stem, "", row["sentence_good"], row["sentence_bad"], "", ""))
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{file}:{line}: not a pair of BLiMP ({one_line(error)})") from error
    return pairs
