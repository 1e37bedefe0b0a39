"""Letters that the tokenizer cuts apart before it merges bytes: no merge joins them again, and every text comes back.

A letter is a grapheme cluster (UAX #29) that holds a letter: a base and its marks, as readers see it. Symbols, such as
an emoji and its variation selector, and joiners, which stand between letters, may be cut.
"""

import logging
from dataclasses import dataclass
from itertools import pairwise

import datasets
import numpy as np
import pyarrow.compute as pc
import regex
from transformers import PreTrainedTokenizerBase

from tinystories.console import command_name
from tinystories.data.readers import STORIES_PER_BATCH
from tinystories.errors import GuardError
from tinystories.training.guards.samples import Sample


logger = logging.getLogger(__name__)

SAMPLE_STORIES = 250
CUT_WARNING, CUT_ERROR = 0.001, 0.01  # shares of the letters
SEVERAL_CODE_POINTS = r"[\p{M}\x{1100}-\x{11FF}]"  # marks, and Korean in parts: in a text without them none can be cut
CLUSTER = regex.compile(r"\X")
LETTER = regex.compile(r"\p{L}")
JOINER = regex.compile(r"\p{Cf}")


@dataclass
class CutLetters:
    """letters: how many were looked at. cut: how many the tokenizer cuts. example: the first, and its pieces."""

    letters: int = 0
    cut: int = 0
    example: str = ""


def check_graphemes(
    tokenizer: PreTrainedTokenizerBase, corpora: list[datasets.Dataset], sample: Sample, fixed: bool = False
) -> str:
    """The tokenizer cuts few letters apart: all stories are searched for letters with marks, some of those are cut.

    fixed: the run cannot have another tokenizer, so that this is a warning.
    """
    marked = [_with_marks(stories) for stories in corpora]
    total, number = sum(map(len, corpora)), sum(map(len, marked))
    if not number:
        return f"no letter of {total:,} stories has marks that could be cut off"
    having = datasets.concatenate_datasets([one.select(places) for one, places in zip(corpora, marked, strict=True)])
    found = cut_letters(tokenizer, sample.texts(having, SAMPLE_STORIES))
    share = found.cut / max(1, found.letters) * number / total
    if not found.cut:
        return f"letters keep their marks ({number:,} of {total:,} stories have some)"
    words = f"the tokenizer cuts {share:.2%} of the letters apart, such as {found.example} ({sample})"
    remedy = (
        f"train a tokenizer with {command_name('tokenizer')}, which keeps letters and marks together; or write the "
        "stories in composed characters (NFC), if the language has them"
    )
    if share > CUT_ERROR and not fixed:
        raise GuardError(f"{words}: no merge joins the pieces, so words of this language never become tokens", remedy)
    if share > CUT_WARNING:
        logger.warning("%s: no merge joins the pieces; %s", words, remedy)
    return words


def _with_marks(stories: datasets.Dataset) -> np.ndarray:
    """The places of the stories in which a letter can have several code points. Reads all of them."""
    found = [np.zeros(0, dtype=bool)]
    for table in stories.with_format("arrow").iter(STORIES_PER_BATCH):
        texts = table["text"]
        other = ~pc.string_is_ascii(texts).to_numpy()  # the search is slow, and in ASCII there are no marks
        other[other] = pc.match_substring_regex(texts.filter(other), SEVERAL_CODE_POINTS).to_numpy()
        found.append(other)
    return np.flatnonzero(np.concatenate(found))


def cut_letters(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> CutLetters:
    """How many letters of `texts` the tokenizer's pre-tokenizer cuts apart, other than before a joiner."""
    backend, found = tokenizer.backend_tokenizer, CutLetters()
    for text in texts:
        if backend.normalizer is not None:
            text = backend.normalizer.normalize_str(text)
        pieces = backend.pre_tokenizer.pre_tokenize_str(text) if backend.pre_tokenizer is not None else []
        cuts = {begin for _, (begin, _) in pieces if not JOINER.match(text, begin)}
        for cluster in CLUSTER.finditer(text):
            if not LETTER.search(cluster[0]):
                continue
            found.letters += 1
            inside = [place for place in range(cluster.start() + 1, cluster.end()) if place in cuts]
            if inside:
                found.cut += 1
                ends = [cluster.start(), *inside, cluster.end()]
                parts = (text[begin:end] for begin, end in pairwise(ends))
                found.example = found.example or f"{cluster[0]!r} into {' and '.join(map(ascii, parts))}"
    return found
