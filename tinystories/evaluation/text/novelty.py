"""What of a text stands in the training stories: copies, and word sequences that a person could have written.

The training stories are read once and not kept: what is kept is the n-grams of the texts in question, as sorted
64-bit hashes, so the memory is that of the texts (150 bytes a word) and of one batch of stories, whatever the size of
the training data. That some n-gram of a million is taken for seen by chance, in 10**9 words, is one in 20,000.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import NamedTuple

import numpy as np
from tqdm.auto import tqdm

from tinystories.evaluation.estimates import Estimate, mean, ratio, share
from tinystories.evaluation.text.samples import Sample
from tinystories.evaluation.text.words import ngrams, words


ORDERS = range(2, 9)
LONGEST_ORDER = max(ORDERS)
NEAR_COPY = 0.8
STORIES_PER_BATCH = 1000
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Copied:
    """What a text has in common with the training stories.

    seen: order n -> (n-grams of the text that stand in a training story, n-grams of the text).
    longest: words of the longest run that stands in a training story; below 2 it is not looked for, and 0.
    story, story_text: number, from 0, and text of the training story with most of its 8-grams; None if none has any.
    overlap: share of the text's words that stand in a common 8-gram with that story.
    """

    seen: dict[int, tuple[int, int]]
    longest: int
    story: int | None
    story_text: str | None
    overlap: float


def look_up(texts: Iterable[str], training: Iterable[str]) -> dict[str, Copied]:
    """What each text has in common with the training stories, which are read once, in order."""
    search = _Search(sorted(set(texts)))
    number = 0
    for stories in _batches(tqdm(training, desc="comparing with the training stories", delay=2)):
        search.read(stories, number)
        number += len(stories)
    return search.results()


def known_triples(samples: list[Sample], copied: dict[str, Copied]) -> Estimate | None:
    """Share of the word 3-grams that stand in a training story."""
    return _seen(samples, copied, 3)


def seen_eightgrams(samples: list[Sample], copied: dict[str, Copied]) -> Estimate | None:
    """Share of the word 8-grams that stand in a training story."""
    return _seen(samples, copied, 8)


def _seen(samples: list[Sample], copied: dict[str, Copied], n: int) -> Estimate | None:
    counts = [copied[sample.text].seen[n] for sample in samples]
    return ratio([seen for seen, _ in counts], [number for _, number in counts])


def longest_copy(samples: list[Sample], copied: dict[str, Copied]) -> Estimate | None:
    """Mean length in words of the longest run of a text that stands in a training story."""
    return mean([copied[sample.text].longest for sample in samples])


def near_copies(samples: list[Sample], copied: dict[str, Copied]) -> Estimate | None:
    """Share of the texts of which one training story holds at least 80 % of the words, in runs of eight or more."""
    found = [copied[sample.text] for sample in samples]
    judged = [copy for copy in found if copy.seen[LONGEST_ORDER][1]]
    return share(sum(copy.overlap >= NEAR_COPY for copy in judged), len(judged))


class _Words(NamedTuple):
    """The words of several texts in one row: hash of each, and number of the text that holds it."""

    hashes: np.ndarray
    text: np.ndarray

    def ngrams(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Hash of the n-gram that begins at each place, and the places where one does that stays in its text."""
        size = max(0, len(self.hashes) - n + 1)
        value = np.zeros(size, dtype=np.uint64)
        for i in range(n):
            value = value * MULTIPLIER + self.hashes[i : i + size]
            value ^= value >> np.uint64(29)
        places = np.flatnonzero(self.text[:size] == self.text[n - 1 : n - 1 + size])
        return value[places], places


def _hash(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")


class _Search:
    def __init__(self, texts: list[str]):
        self.texts = texts
        self.vocabulary = {word: _hash(word) for word in {word for text in texts for word in words(text)}}
        self.words = self._hashed(texts)
        self.known, self.found = {}, {}
        for n in ORDERS:
            hashes, places = self.words.ngrams(n)
            order = np.argsort(hashes, kind="stable")
            self.known[n] = hashes[order], places[order]
            self.found[n] = np.zeros(len(order), dtype=bool)
        self.common = np.zeros(len(texts), dtype=np.int64)  # different 8-grams in common with the nearest story
        self.run = np.zeros(len(texts), dtype=np.int64)  # longest common run of 8 words or more
        self.nearest: dict[int, tuple[int, str]] = {}

    def _hashed(self, texts: list[str]) -> _Words:
        """0 stands for every word that none of the texts in question has: no run with it can be in common."""
        split = [words(text) for text in texts]
        hashes = np.fromiter((self.vocabulary.get(word, 0) for word in chain.from_iterable(split)), dtype=np.uint64)
        return _Words(hashes, np.repeat(np.arange(len(texts)), [len(text) for text in split]))

    def read(self, stories: list[str], first_number: int) -> None:
        row = self._hashed(stories)
        for n in ORDERS:
            hashes, places = row.ngrams(n)
            known, known_places = self.known[n]
            low = np.searchsorted(known, hashes, side="left")
            hits = np.flatnonzero(known[np.minimum(low, len(known) - 1)] == hashes) if len(known) else []
            if not len(hits):
                return  # what does not share a pair of words shares no longer run
            high = np.searchsorted(known, hashes[hits], side="right")
            count = high - low[hits]
            own = np.repeat(low[hits], count) + _count_up(count)
            self.found[n][own] = True
        pairs = np.repeat(places[hits], count), known_places[own]
        self._follow_runs(*pairs)
        self._count_common(row.text[pairs[0]], pairs[1], stories, first_number)

    def _follow_runs(self, there: np.ndarray, here: np.ndarray) -> None:
        """Common 8-grams that follow each other in both texts are one run, 7 words longer than they are many."""
        order = np.lexsort((here, here - there))
        there, here = there[order], here[order]
        begins = np.flatnonzero(np.append(True, (np.diff(here) != 1) | (np.diff(there) != 1)))
        lengths = np.diff(np.append(begins, len(here))) + LONGEST_ORDER - 1
        np.maximum.at(self.run, self.words.text[here[begins]], lengths)

    def _count_common(self, story: np.ndarray, here: np.ndarray, stories: list[str], first_number: int) -> None:
        story, here = np.unique(np.stack([story, here]), axis=1)
        (text, story), counts = np.unique(np.stack([self.words.text[here], story]), axis=1, return_counts=True)
        order = np.lexsort((-counts, text))
        _, first = np.unique(text[order], return_index=True)
        for pair in order[first]:  # of each text the story of this batch that has most of it
            if counts[pair] > self.common[text[pair]]:
                self.common[text[pair]] = counts[pair]
                self.nearest[int(text[pair])] = first_number + int(story[pair]), stories[story[pair]]

    def results(self) -> dict[str, Copied]:
        counts = {}
        for n in ORDERS:
            owner, number = self.words.text[self.known[n][1]], len(self.texts)
            counts[n] = np.bincount(owner[self.found[n]], minlength=number), np.bincount(owner, minlength=number)
        return {text: self._result(i, text, counts) for i, text in enumerate(self.texts)}

    def _result(self, i: int, text: str, counts: dict[int, tuple[np.ndarray, np.ndarray]]) -> Copied:
        seen = {n: (int(found[i]), int(every[i])) for n, (found, every) in counts.items()}
        longest = max([int(self.run[i]), *(n for n in ORDERS if seen[n][0])], default=0)
        number, story = self.nearest.get(i, (None, None))
        return Copied(seen, longest, number, story, _overlap(text, story) if story else 0.0)


def _overlap(text: str, story: str) -> float:
    """Share of the words of `text` that stand in an 8-gram of `story`."""
    there, sequence = set(ngrams(words(story), LONGEST_ORDER)), words(text)
    covered = np.zeros(len(sequence), dtype=bool)
    for place, ngram in enumerate(ngrams(sequence, LONGEST_ORDER)):
        covered[place : place + LONGEST_ORDER] |= ngram in there
    return float(covered.mean())


def _batches(stories: Iterable[str]) -> Iterator[list[str]]:
    stories = iter(stories)
    while batch := list(islice(stories, STORIES_PER_BATCH)):
        yield batch


def _count_up(counts: np.ndarray) -> np.ndarray:
    """0, 1 … count - 1 for each count, in one row."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
