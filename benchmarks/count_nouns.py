"""Make the word list of the article metrics from training stories, and measure the rule on held-out stories.

    python benchmarks/count_nouns.py --train_file train.txt --validation_file valid.txt

Writes tinystories/evaluation/text/determiners.json and docs/results/determiners.json. To measure the rule, one in ten
articles of held-out stories is dropped, one at a time. It counts as found if its noun is bare now and was not before.
Unchanged stories give the false alarms. `--keep_list` measures the present list and writes no new one.

No word is chosen by hand. A singular count noun often follows "a" or "an", its plural occurs too, and it is hardly ever
bare. The rule itself decides what is bare: a word that is bare too often in people's stories ("cake", "school", or
"play", which is mostly a verb) would give false alarms and is left out.
"""

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np


sys.path.insert(0, str(Path(__file__).parent.parent))

from tinystories.config.keys import DataArguments
from tinystories.console import run_command
from tinystories.data.corpus import read_files
from tinystories.evaluation.estimates import share
from tinystories.evaluation.text.determiners import (
    ARTICLES,
    MAX_MODIFIERS,
    POSSESSIVES,
    Lexicon,
    judged_nouns,
    lexicon,
    tokens,
)
from tinystories.provenance import Stopwatch, hash_files, provenance


ROOT = Path(__file__).parent.parent
ARTICLE = re.compile(r"\b([Aa]n?|[Tt]he) (?=\w)")
DROPPED = 0.1
MIN_AFTER_A = 10
MIN_PLURAL = 3
MIN_MODIFYING = 5
MIN_MODIFYING_SHARE = 0.01  # of a word's occurrences: "happy" reaches it, "was" does not
MIN_JUDGED = 20
MAX_BARE = 0.01
SEED = 0
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


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Make and measure the word list of the article metrics.")
    parser.add_argument("--train_file", required=True)
    parser.add_argument("--validation_file", required=True)
    parser.add_argument("--max_stories", type=int, default=1500, help="held-out stories to measure on")
    parser.add_argument("--keep_list", action="store_true", help="measure only")
    arguments = parser.parse_args(argv)
    began = Stopwatch()
    train, _ = read_files(arguments.train_file, DataArguments())
    validation, _ = read_files(arguments.validation_file, DataArguments())
    if not arguments.keep_list:
        lists = {name: sorted(words) for name, words in build_lexicon(train["text"])._asdict().items()}
        write_json(ROOT / "tinystories" / "evaluation" / "text" / "determiners.json", lists)
        lexicon.cache_clear()
    stories = validation["text"][: arguments.max_stories]
    files = {"train": arguments.train_file, "validation": arguments.validation_file}
    data = {role: {"source": Path(path).name, **hash_files([Path(path)])} for role, path in files.items()}
    result = {
        "training_stories": len(train),
        "held_out_stories": len(stories),
        "words_in_lists": {name: len(words) for name, words in lexicon()._asdict().items()},
        "false_alarms_share_of_judged_nouns": false_alarms(stories),
        **recall(stories),
    }
    print(json.dumps(result, indent=2))
    result = {"provenance": provenance(began, SEED, data)} | result
    write_json(ROOT / "docs" / "results" / "determiners.json", result)


def write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8", newline="\n")


def false_alarms(stories: list[str]) -> dict:
    bare = [is_bare for story in stories for _, is_bare in judged_nouns(story, lexicon())]
    return share(sum(bare), len(bare)).as_dict()


def recall(stories: list[str]) -> dict:
    """The share of dropped articles that the rule found: of all, and of those right before a noun of the list."""
    random = np.random.default_rng(SEED)
    found = {"all_articles": [], "before_a_listed_noun": []}
    for story in stories:
        dropped = [match for match in ARTICLE.finditer(story) if random.random() < DROPPED]
        for match in dropped:
            rest = story[match.end() :]
            was = {len(story) - place for place, is_bare in judged_nouns(story, lexicon()) if is_bare}
            text = story[: match.start()] + rest
            now = {len(text) - place for place, is_bare in judged_nouns(text, lexicon()) if is_bare}
            head = [len(rest) - place for word, place in tokens(rest)[: MAX_MODIFIERS + 1] if word in lexicon().nouns]
            noticed = bool((now - was) & set(head))
            found["all_articles"].append(noticed)
            if tokens(rest)[0][0] in lexicon().nouns:
                found["before_a_listed_noun"].append(noticed)
    return {f"recall_{name}": share(sum(values), len(values)).as_dict() for name, values in found.items()}


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


if __name__ == "__main__":
    run_command(main)
