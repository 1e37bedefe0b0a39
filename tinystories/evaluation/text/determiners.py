"""Articles that are left out, and articles too many: two metrics of a text's noun phrases by one rule and a word list.

The word list (determiners.json, made by benchmarks/count_nouns.py out of training stories) names singular count nouns
that people hardly ever write bare, such as "girl" or "ball", and the words that may stand between a determiner and
such a noun. A noun of the list, in lower case, is *judged* where the words before it, back over modifiers, begin with
some other word of the same clause; it is *bare* unless that word is a determiner or a possessive ("Tom's ball").

Not judged, since people write them bare: what follows punctuation ("a cat, dog"), a number, "and", "of", "by" and the
like; what goes before another noun ("garden gate"); and nouns with a capital, which may be names. So some missing
articles are not seen, and the share is of those that are judged; benchmarks/count_nouns.py measures how many are found.

A parser such as spaCy would judge more of them; but a number that depends on what else is installed compares nothing.
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
# After these a bare noun is no mistake, or it is not this rule that could tell.
UNJUDGED = {"and", "or", "nor", "of", "by", "as", "than", "from", "per", "with", "without", "named", "called", "like"}
MAX_MODIFIERS = 3


class Lexicon(NamedTuple):
    nouns: frozenset[str]  # singular count nouns
    followers: frozenset[str]  # nouns of any kind: what stands before one may be part of a compound
    modifiers: frozenset[str]


@cache
def lexicon() -> Lexicon:
    """The word list that every checkpoint is measured with."""
    lists = json.loads((files(__package__) / "determiners.json").read_text(encoding="utf-8"))
    return Lexicon(*(frozenset(lists[name]) for name in Lexicon._fields))


def tokens(text: str) -> list[tuple[str, int]]:
    """Words, punctuation marks and line ends, each with the place where it begins."""
    return [(match[0], match.start()) for match in TOKEN.finditer(text)]


def is_determiner(word: str) -> bool:
    return word.lower() in DETERMINERS or word.endswith(("'s", "\u2019s", "s'"))


def judged_nouns(text: str, lexicon: Lexicon) -> Iterator[tuple[int, bool]]:
    """Place of each noun of `text` that the rule judges, and whether it is bare."""
    row = tokens(text)
    for i, (word, place) in enumerate(row):
        if word not in lexicon.nouns or (i + 1 < len(row) and row[i + 1][0] in lexicon.followers):
            continue
        before = _before_modifiers([token for token, _ in row[max(0, i - MAX_MODIFIERS - 2) : i]], lexicon)
        if before is not None:
            yield place, not is_determiner(before)


def _before_modifiers(before: list[str], lexicon: Lexicon) -> str | None:
    """The word that decides: a determiner, or another word where one should be; None where the rule does not judge."""
    while before and before[-1].lower() in lexicon.modifiers:
        before.pop()
    if not before or not before[-1][0].isalpha() or before[-1].lower() in UNJUDGED:
        return None
    if not is_determiner(before[-1]) and len(before) > 1 and before[-2].lower() in ARTICLES | POSSESSIVES:
        return None  # "the popped ball": a modifier that the list does not know
    return before[-1]


def missing(samples: list[Sample]) -> Estimate | None:
    """Share of the judged nouns that are bare; the prompt is read for what stands before the first word, no more."""
    counts = []
    for sample in samples:
        nouns = judged_nouns(sample.prompt + sample.text, lexicon())
        counts.append([bare for place, bare in nouns if place >= len(sample.prompt)])
    return ratio([sum(bare) for bare in counts], [len(bare) for bare in counts])


def doubled(samples: list[Sample]) -> Estimate | None:
    """Articles that stand right before another article, a possessive or a demonstrative ("the a", "a his"), of 100."""
    wrong, articles = [], []
    for sample in samples:
        row = [word.lower() for word, _ in tokens(sample.text)]
        places = [i for i, word in enumerate(row) if word in ARTICLES]
        after = ARTICLES | POSSESSIVES | {"this", "that", "every", "each"}
        wrong.append(100 * sum(row[i + 1 : i + 2] != [] and row[i + 1] in after for i in places))
        articles.append(len(places))
    return ratio(wrong, articles, one=100.0)
