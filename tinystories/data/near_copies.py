"""Near-copies between two sets of stories: other case, punctuation or first words, a half, one word in seven changed.

A story is reduced to its letters and digits, in small letters, and to the set of hashes of its windows of WINDOW bytes,
of which a fraction chosen by hash is kept, the same one in every story (sampled n-gram containment). Windows that
several of some random training stories have are common phrases and do not count. What two stories share is the number
of windows that both have, divided by that of the story with fewer.

How much two stories share that are no copies depends on the text. So some training stories are searched in the others
as well: in an honest split the held-out stories resemble the training stories as these resemble one another.
benchmarks/near_copies.py measures the threshold, docs/results/near_copies.json holds the result.

Every training story is read once, in batches; memory holds the windows of the stories that are searched.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import datasets
import numpy as np
import regex

from tinystories.data.readers import STORIES_PER_BATCH
from tinystories.progress import progress_bar


WINDOW = 12  # bytes: two or three English words
FEWEST = 16  # windows of a story that is searched; a shorter one shares much with many by chance
KEPT_WINDOWS = 2**20  # of a small corpus more than an eighth of the windows are kept
CONTROLS = 300  # random training stories searched in the others
BACKGROUND = 2000  # random training stories, in which ...
COMMON = 4  # ... a common phrase occurs more than this often
NEAR_COPY = 0.28  # share of the windows; people's different stories share less (docs/results/near_copies.json)
CERTAIN = 0.85  # a near-copy, however much the stories of this text resemble one another

NOT_LETTERS = bytes(byte for byte in range(128) if not chr(byte).isalnum())
NOT_WORD = regex.compile(r"[^\p{L}\p{M}\p{N}]+")  # a mark is most of a syllable in Hindi
BASE = 0x9E3779B97F4A7C15


@dataclass
class Likeness:
    """What each searched story shares with the training story that is most like it.

    share: shape (searched stories,); NaN for a story with too few windows of its own.
    most_like: index of that training story.
    control: the same share of random training stories and the others.
    pairs: (training story, searched story, share) of all pairs that share at least NEAR_COPY, in three arrays.
    """

    share: np.ndarray
    most_like: np.ndarray
    control: np.ndarray
    pairs: tuple[np.ndarray, np.ndarray, np.ndarray]

    @property
    def threshold(self) -> float:
        """The share above which two stories of this text are near-copies."""
        usual = float(np.nanquantile(self.control, 0.99)) if np.isfinite(self.control).any() else 0.0
        return min(max(NEAR_COPY, 1.2 * usual), CERTAIN)

    def near_copies(self) -> np.ndarray:
        """Indices of the searched stories of which training has a near-copy, the most alike first."""
        order = np.argsort(-np.nan_to_num(self.share), kind="stable")
        return order[self.share[order] > self.threshold]

    def copied_by(self) -> np.ndarray:
        """Indices of the training stories that are near-copies of a searched story."""
        return np.unique(self.pairs[0][self.pairs[2] > self.threshold])


def search_copies(
    train: datasets.Dataset, searched: list[str], train_hashes: np.ndarray, rng: np.random.Generator, controls: int
) -> Likeness:
    """Search each of `searched` in all of `train`, and so many random training stories in the others.

    train_hashes: equal for copies of one story (`story_hashes`), with which a control is not compared.
    """
    own = np.sort(rng.choice(len(train), min(controls, len(train)), replace=False))
    background = np.sort(rng.choice(len(train), min(BACKGROUND, len(train)), replace=False))
    step = _step(train)
    index = _Index([*searched, *train.select(own)["text"]], train.select(background), step)
    number = len(index.sizes)
    best, most_like = np.zeros(number), np.zeros(number, dtype=np.int64)
    alike: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    starts = range(0, len(train), STORIES_PER_BATCH)
    bar = progress_bar(starts, desc="searching for near-copies", unit=" thousand stories")
    for start, batch in zip(bar, train.iter(STORIES_PER_BATCH), strict=True):
        story, found, share = index.shares(batch["text"])
        story += start
        control = found >= len(searched)
        itself = np.zeros(len(story), dtype=bool)
        itself[control] = train_hashes[story[control]] == train_hashes[own[found[control] - len(searched)]]
        story, found, share = story[~itself], found[~itself], share[~itself]
        order = np.argsort(share, kind="stable")  # of several pairs of one story the last assignment remains
        order = order[share[order] > best[found[order]]]
        best[found[order]], most_like[found[order]] = share[order], story[order]
        near = (share >= NEAR_COPY) & (found < len(searched))
        alike.append((story[near], found[near], share[near]))
    best[index.sizes < FEWEST] = np.nan
    near_stories, near_found, near_shares = (np.concatenate(column) for column in zip(*alike, strict=True))
    pairs = near_stories, near_found, near_shares
    return Likeness(best[: len(searched)], most_like[: len(searched)], best[len(searched) :], pairs)


def _step(train: datasets.Dataset) -> int:
    """One window in so many is kept: 1, 2, 4 or 8."""
    sample = train.select(np.linspace(0, len(train) - 1, min(200, len(train))).astype(int))["text"]
    windows = sum(map(len, sample)) / len(sample) * len(train)
    return next((step for step in (8, 4, 2) if windows / step >= KEPT_WINDOWS), 1)


class _Index:
    """The windows of the searched stories: `windows` (sorted, distinct), and the stories that have each."""

    def __init__(self, searched: list[str], background: datasets.Dataset, step: int):
        self.step = step
        windows, stories = distinct_windows(searched, step)
        order = np.argsort(windows, kind="stable")
        windows, stories = windows[order], stories[order]
        distinct = np.unique(windows)
        times = np.zeros(len(distinct), dtype=np.int64)
        for batch in background.iter(STORIES_PER_BATCH):
            at, _ = _look_up(distinct, distinct_windows(batch["text"], step)[0])
            times += np.bincount(at, minlength=len(distinct))
        self.common = distinct[times > COMMON]
        rare = ~np.isin(windows, self.common)
        self.stories = stories[rare]
        self.windows, self.first, self.number = np.unique(windows[rare], return_index=True, return_counts=True)
        self.sizes = np.bincount(self.stories, minlength=len(searched))

    def shares(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of all pairs that share a window: index of the text, index of the searched story, what they share."""
        windows, text = distinct_windows(texts, self.step)
        sizes = np.bincount(text, minlength=len(texts))
        sizes -= np.bincount(text[_look_up(self.common, windows)[1]], minlength=len(texts))
        at, hits = _look_up(self.windows, windows)
        text, number = text[hits], self.number[at]
        places = np.repeat(self.first[at] - np.cumsum(number) + number, number) + np.arange(number.sum())
        pairs = np.repeat(text, number) * len(self.sizes) + self.stories[places]
        pairs, shared = np.unique(pairs, return_counts=True)
        text, searched = pairs // len(self.sizes), pairs % len(self.sizes)
        smaller = np.minimum(sizes[text], self.sizes[searched])
        enough = smaller >= FEWEST
        return text[enough], searched[enough], shared[enough] / smaller[enough]


def _look_up(known: np.ndarray, windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For those of `windows` that are in `known` (sorted): the index in `known`, and the index in `windows`."""
    if not len(known):
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    at = np.minimum(np.searchsorted(known, windows), len(known) - 1)
    hits = np.flatnonzero(known[at] == windows)
    return at[hits], hits


def distinct_windows(texts: list[str], step: int) -> tuple[np.ndarray, np.ndarray]:
    """The distinct kept windows of each text: their hashes, uint64, and the index of the text of each."""
    letters = list(_letters(texts))
    lengths = np.array([len(text) for text in letters])
    hashes = _window_hashes(np.frombuffer(b"".join(letters), dtype=np.uint8))
    places = np.flatnonzero(hashes % np.uint64(step) == 0)
    ends = np.cumsum(lengths)
    text = np.searchsorted(ends, places, side="right")
    inside = places + WINDOW <= ends[text]
    hashes, text = hashes[places[inside]], text[inside]
    order = np.lexsort((hashes, text))
    hashes, text = hashes[order], text[order]
    new = np.ones(len(hashes), dtype=bool)
    new[1:] = (hashes[1:] != hashes[:-1]) | (text[1:] != text[:-1])
    return hashes[new], text[new]


def _letters(texts: list[str]) -> Iterator[bytes]:
    for text in texts:
        text = text.lower()
        yield text.encode().translate(None, NOT_LETTERS) if text.isascii() else NOT_WORD.sub("", text).encode()


def _window_hashes(letters: np.ndarray) -> np.ndarray:
    """A hash of each window of WINDOW = 8 + 4 bytes: polynomials modulo 2**64, by doubling, and mixed."""
    hashes = letters.astype(np.uint64) + np.uint64(1)
    four = hashes
    for width in (1, 2, 4):
        hashes = hashes[:-width] * np.uint64(pow(BASE, width, 2**64)) + hashes[width:]
        four = hashes if width == 2 else four
    hashes = hashes[:-4] * np.uint64(pow(BASE, 4, 2**64)) + four[8:]
    hashes ^= hashes >> np.uint64(29)
    hashes *= np.uint64(0xBF58476D1CE4E5B9)
    return hashes ^ hashes >> np.uint64(32)
