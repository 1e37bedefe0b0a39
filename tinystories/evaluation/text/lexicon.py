"""Make the word list of determiners.py by counting words in stories. No word is chosen by hand.

A singular count noun often follows "a" or "an", its plural occurs too, and it is hardly ever bare. The rule itself
decides what is bare: a word that is bare too often in people's stories ("cake", "school", or "play", which is mostly a
verb) would give false alarms and is left out.
"""

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

from tinystories.evaluation.text.determiners import ARTICLES, POSSESSIVES, Lexicon, judged_nouns, tokens


MIN_AFTER_A = 10
MIN_PLURAL = 3
MIN_MODIFYING = 5
MIN_MODIFYING_SHARE = 0.01  # of a word's occurrences: "happy" reaches it, "was" does not
MIN_JUDGED = 20
MAX_BARE = 0.01
MAX_CAPITALS = 0.2  # of a word's occurrences: more means a name, such as "Mom"
IRREGULAR = {
    "man": "men",
    "woman": "women",
    "child": "children",
    "mouse": "mice",
    "foot": "feet",
    "tooth": "teeth",
    "goose": "geese",
    "person": "people",
    "policeman": "policemen",
    "fireman": "firemen",
    "snowman": "snowmen",
}


def build_lexicon(stories: Iterable[str]) -> Lexicon:
    """The word list that the counts over `stories` give."""
    stories = list(stories)
    rows = [[word for word, _ in tokens(story)] for story in stories]
    total = Counter(word for row in rows for word in row)
    after_a = Counter(word for row in rows for before, word in pairwise(row) if before.lower() in ("a", "an"))
    plurals = {word: plural(word) for word, times in after_a.items() if times >= MIN_AFTER_A and word.islower()}
    candidates = {
        word
        for word, form in plurals.items()
        if total[form] >= MIN_PLURAL and total[word.capitalize()] <= MAX_CAPITALS * total[word]
    }
    followers = candidates | {plurals[word] for word in candidates}
    modifiers = _modifiers(rows, followers, total)
    modifiers |= _modifiers(rows, modifiers, total)  # such as "very" before "old"
    nouns = _hardly_ever_bare(stories, Lexicon(frozenset(candidates), frozenset(followers), frozenset(modifiers)))
    return Lexicon(nouns, frozenset(followers), frozenset(modifiers))


def plural(noun: str) -> str:
    """The plural: dogs, foxes, ladies, wolves, and the irregular ones that stories use."""
    if noun in IRREGULAR:
        return IRREGULAR[noun]
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return noun[:-1] + "ies"
    if noun.endswith(("lf", "af")):
        return noun[:-1] + "ves"
    return noun + ("es" if noun.endswith(("s", "x", "z", "ch", "sh")) else "s")


def _modifiers(rows: list[list[str]], heads: set[str], total: Counter[str]) -> set[str]:
    """Words that often stand between an article or possessive and one of the `heads`."""
    between: Counter[str] = Counter()
    for row in rows:
        for first, middle, last in zip(row, row[1:], row[2:], strict=False):
            between[middle] += last in heads and first.lower() in ARTICLES | POSSESSIVES
    return {
        word
        for word, times in between.items()
        if word.isalpha() and word.islower() and times >= max(MIN_MODIFYING, MIN_MODIFYING_SHARE * total[word])
    }


def _hardly_ever_bare(stories: list[str], candidates: Lexicon) -> frozenset[str]:
    """The nouns of `candidates` that are judged often enough in `stories` and hardly ever bare."""
    judged: Counter[str] = Counter()
    bare: Counter[str] = Counter()
    for story in stories:
        for place, is_bare in judged_nouns(story, candidates):
            word = tokens(story[place : place + 50])[0][0]
            judged[word] += 1
            bare[word] += is_bare
    return frozenset(word for word, times in judged.items() if times >= MIN_JUDGED and bare[word] <= MAX_BARE * times)
