"""Which parts of a text occur in the training stories: copies, and short word sequences that any person might write.

The training stories are read once and not kept. Kept are the n-grams of the texts to look up, as sorted 64-bit hashes:
memory is needed for the texts (150 bytes a word) and one batch of stories, however large the training data. The chance
that hashing makes any of a million n-grams seem to occur in 10**9 words is one in 20,000.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import NamedTuple

import numpy as np

from tinystories.data.readers import STORIES_PER_BATCH
from tinystories.evaluation.estimates import Estimate, mean, ratio, share
from tinystories.evaluation.text.samples import Sample
from tinystories.evaluation.text.words import ngrams, split_words
from tinystories.progress import progress_bar


ORDERS = range(2, 9)
LONGEST_ORDER = max(ORDERS)
NEAR_COPY = 0.8
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Copied:
    """What a text has in common with the training stories.

    seen: order n -> (n-grams of the text that occur in a training story, n-grams of the text).
    longest: length in words of the longest run that occurs in a training story; 0 if that is less than 2.
    story, story_text: index and text of the training story that shares most 8-grams with it; None if none shares any.
    overlap: share of the text's words that are in an 8-gram shared with that story.
    """

    seen: dict[int, tuple[int, int]]
    longest: int
    story: int | None
    story_text: str | None
    overlap: float


def look_up(texts: Iterable[str], training: Iterable[str]) -> dict[str, Copied]:
    """What each text has in common with the training stories. They are read once, in order."""
    search = _Search(sorted(set(texts)))
    number = 0
    for stories in _batches(progress_bar(training, desc="comparing with the training stories")):
        search.read(stories, number)
        number += len(stories)
    return search.results()


def known_triples(samples: list[Sample], copied: dict[str, Copied]) -> Estimate | None:
    """Share of the word 3-grams that occur in a training story."""
    return _seen(samples, copied, 3)


def seen_eightgrams(samples: list[Sample], copied: dict[str, Copied]) -> Estimate | None:
    """Share of the word 8-grams that occur in a training story."""
    return _seen(samples, copied, 8)


def _seen(samples: list[Sample], copied: dict[str, Copied], n: int) -> Estimate | None:
    counts = [copied[sample.text].seen[n] for sample in samples]
    return ratio([seen for seen, _ in counts], [number for _, number in counts])


def longest_copy(samples: list[Sample], copied: dict[str, Copied]) -> Estimate | None:
    """Mean length in words of the longest run of a text that occurs in a training story."""
    return mean([copied[sample.text].longest for sample in samples])


def near_copies(samples: list[Sample], copied: dict[str, Copied]) -> Estimate | None:
    """Share of the texts that have at least 80 % of their words in 8-grams shared with one training story.

    Texts of fewer than eight words are not judged.
    """
    found = [copied[sample.text] for sample in samples]
    judged = [copy for copy in found if copy.seen[LONGEST_ORDER][1]]
    return share(sum(copy.overlap >= NEAR_COPY for copy in judged), len(judged))


class _Words(NamedTuple):
    """The words of several texts in one array: the hash of each, and the index of its text."""

    hashes: np.ndarray
    text: np.ndarray

    def ngrams(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """The hashes of all n-grams that do not cross from one text into the next, and where each begins."""
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
    """Looks up n-grams of `texts` in stories, batch by batch."""

    def __init__(self, texts: list[str]):
        self.texts = texts
        self.vocabulary = {word: _hash(word) for word in {word for text in texts for word in split_words(text)}}
        self.words = self._hashed(texts)
        self.known: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # n -> sorted hashes, place of each n-gram
        self.found: dict[int, np.ndarray] = {}  # n -> whether a story has each of them
        for n in ORDERS:
            hashes, places = self.words.ngrams(n)
            order = np.argsort(hashes, kind="stable")
            self.known[n] = hashes[order], places[order]
            self.found[n] = np.zeros(len(order), dtype=bool)
        self.common = np.zeros(len(texts), dtype=np.int64)  # number of different 8-grams shared with the nearest story
        self.run = np.zeros(len(texts), dtype=np.int64)  # length of the longest common run of 8 words or more
        self.nearest: dict[int, tuple[int, str]] = {}

    def _hashed(self, texts: list[str]) -> _Words:
        """The words of `texts`; 0 for a word that is in none of the texts to look up, and so in no common run."""
        split = [split_words(text) for text in texts]
        hashes = np.fromiter((self.vocabulary.get(word, 0) for word in chain.from_iterable(split)), dtype=np.uint64)
        return _Words(hashes, np.repeat(np.arange(len(texts)), [len(text) for text in split]))

    def read(self, stories: list[str], first_number: int) -> None:
        """Compare with a batch of stories; `first_number`: index of its first story."""
        row = self._hashed(stories)
        for n in ORDERS:
            hashes, places = row.ngrams(n)
            known, known_places = self.known[n]
            low = np.searchsorted(known, hashes, side="left")
            hits = np.flatnonzero(known.take(low, mode="clip") == hashes) if len(known) else np.array([], dtype=np.intp)
            if not len(hits):
                return  # no common n-gram means no common run that is longer
            high = np.searchsorted(known, hashes[hits], side="right")
            count = high - low[hits]
            own = np.repeat(low[hits], count) + _count_up(count)
            self.found[n][own] = True
        pairs = np.repeat(places[hits], count), known_places[own]
        self._follow_runs(*pairs)
        self._count_common(row.text[pairs[0]], pairs[1], stories, first_number)

    def _follow_runs(self, there: np.ndarray, here: np.ndarray) -> None:
        """k common 8-grams in direct succession in both texts are one common run of k + 7 words."""
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
        for pair in order[first]:  # for each text, the story of this batch that shares most 8-grams
            if counts[pair] > self.common[text[pair]]:
                self.common[text[pair]] = counts[pair]
                self.nearest[int(text[pair])] = first_number + int(story[pair]), stories[story[pair]]

    def results(self) -> dict[str, Copied]:
        """By text."""
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
    """Share of the words of `text` that are in an 8-gram of `story`."""
    there, sequence = set(ngrams(split_words(story), LONGEST_ORDER)), split_words(text)
    covered = np.zeros(len(sequence), dtype=bool)
    for place, ngram in enumerate(ngrams(sequence, LONGEST_ORDER)):
        covered[place : place + LONGEST_ORDER] |= ngram in there
    return float(covered.mean())


def _batches(stories: Iterable[str]) -> Iterator[list[str]]:
    stories = iter(stories)
    while batch := list(islice(stories, STORIES_PER_BATCH)):
        yield batch


def _count_up(counts: np.ndarray) -> np.ndarray:
    """0, 1 … count - 1 for each count, in one array."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
