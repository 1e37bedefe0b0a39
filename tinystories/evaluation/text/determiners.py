"""Missing articles and doubled articles: two metrics of noun phrases, by one rule and a word list.

The word list (determiners.json, made by benchmarks/count_nouns.py from training stories) contains singular count nouns
that people hardly ever write without a determiner, such as "girl" or "ball", and the words that may stand between a
determiner and such a noun. Go back from a noun of the list, in lower case, over its modifiers. If another word of the
same clause comes before them, the noun is *judged*. It is *bare* unless that word is a determiner or a possessive.

Not judged, because people write them bare: nouns after punctuation ("a cat, dog"), a number, "and", "of", "by" and the
like; nouns before another noun ("garden gate"); and nouns with a capital, which may be names. So some missing articles
are not found, and the share is of judged nouns only; benchmarks/count_nouns.py measures how many are found.

A parser such as spaCy could judge more nouns, but the numbers would depend on the parser that is installed.
"""

import json
import re
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from tinystories.evaluation.estimates import Estimate, ratio
from tinystories.evaluation.text.samples import Sample


TOKEN = re.compile(r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*|\d+|[^\w\s]|\n")
ARTICLES = {"a", "an", "the"}
POSSESSIVES = {"my", "your", "his", "her", "its", "our", "their", "whose"}
DEMONSTRATIVES = {"this", "that", "each", "every", "another", "either", "neither"}
DETERMINERS = (
    ARTICLES | POSSESSIVES | DEMONSTRATIVES | {"some", "any", "no", "one", "what", "which", "such", "whatever"}
)
# After these words a bare noun may be right.
UNJUDGED = {"and", "or", "nor", "of", "by", "as", "than", "from", "per", "with", "without", "named", "called", "like"}
MAX_MODIFIERS = 3


class Lexicon(NamedTuple):
    nouns: frozenset[str]  # singular count nouns
    followers: frozenset[str]  # nouns, singular and plural: a noun before one may be part of a compound
    modifiers: frozenset[str]


@cache
def lexicon() -> Lexicon:
    """The word list with which every model is measured."""
    lists = json.loads((files(__package__) / "determiners.json").read_text(encoding="utf-8"))
    return Lexicon(*(frozenset(lists[name]) for name in Lexicon._fields))


def tokens(text: str) -> list[tuple[str, int]]:
    """Words, punctuation marks and line ends, each with the index where it begins."""
    return [(match[0], match.start()) for match in TOKEN.finditer(text)]


def is_determiner(word: str) -> bool:
    """Whether `word` is a determiner or a possessive."""
    return word.lower() in DETERMINERS or word.endswith(("'s", "\u2019s", "s'"))


def judged_nouns(text: str, lexicon: Lexicon) -> Iterator[tuple[int, bool]]:
    """The index of each noun in `text` that the rule judges, and whether the noun is bare."""
    row = tokens(text)
    for i, (word, place) in enumerate(row):
        if word not in lexicon.nouns or (i + 1 < len(row) and row[i + 1][0] in lexicon.followers):
            continue
        before = _before_modifiers([token for token, _ in row[max(0, i - MAX_MODIFIERS - 2) : i]], lexicon)
        if before is not None:
            yield place, not is_determiner(before)


def _before_modifiers(before: list[str], lexicon: Lexicon) -> str | None:
    """The word before the modifiers at the end of `before`, which decides; None if the noun is not judged."""
    while before and before[-1].lower() in lexicon.modifiers:
        before.pop()
    if not before or not before[-1][0].isalpha() or before[-1].lower() in UNJUDGED:
        return None
    if not is_determiner(before[-1]) and len(before) > 1 and before[-2].lower() in ARTICLES | POSSESSIVES:
        return None  # "the popped ball": a modifier that is not in the list
    return before[-1]


def missing(samples: list[Sample]) -> Estimate | None:
    """Share of the judged nouns that are bare. The prompt is read as context; its own nouns are not counted."""
    counts = []
    for sample in samples:
        nouns = judged_nouns(sample.prompt + sample.text, lexicon())
        counts.append([bare for place, bare in nouns if place >= len(sample.prompt)])
    return ratio([sum(bare) for bare in counts], [len(bare) for bare in counts])


def doubled(samples: list[Sample]) -> Estimate | None:
    """Articles right before another article, a possessive or a demonstrative ("the a", "a his"), per 100 articles."""
    wrong, articles = [], []
    for sample in samples:
        row = [word.lower() for word, _ in tokens(sample.text)]
        places = [i for i, word in enumerate(row) if word in ARTICLES]
        after = ARTICLES | POSSESSIVES | {"this", "that", "every", "each"}
        wrong.append(100 * sum(row[i + 1 : i + 2] != [] and row[i + 1] in after for i in places))
        articles.append(len(places))
    return ratio(wrong, articles, one=100.0)
