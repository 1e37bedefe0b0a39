"""Make the word list of the article metrics from training stories, and measure the rule on held-out stories.

    python benchmarks/count_nouns.py --train_file train.txt --validation_file valid.txt

Writes tinystories/evaluation/text/determiners.json and docs/results/determiners.json. To measure the rule, one in ten
articles of held-out stories is dropped, one at a time. It counts as found if its noun is bare now and was not before.
Unchanged stories give the false alarms. `--keep_list` measures the present list and writes no new one.
"""

import argparse
import json
import re
import sys
from pathlib import Path

import numpy as np


sys.path.insert(0, str(Path(__file__).parent.parent))

from tinystories.config.keys import DataArguments
from tinystories.console import run_command
from tinystories.data.corpus import read_files
from tinystories.evaluation.estimates import share
from tinystories.evaluation.text.determiners import MAX_MODIFIERS, judged_nouns, lexicon, tokens
from tinystories.evaluation.text.lexicon import build_lexicon


ROOT = Path(__file__).parent.parent
ARTICLE = re.compile(r"\b([Aa]n?|[Tt]he) (?=\w)")
DROPPED = 0.1


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Make and measure the word list of the article metrics.")
    parser.add_argument("--train_file", required=True)
    parser.add_argument("--validation_file", required=True)
    parser.add_argument("--max_stories", type=int, default=1500, help="held-out stories to measure on")
    parser.add_argument("--keep_list", action="store_true", help="measure only")
    arguments = parser.parse_args(argv)
    train, _ = read_files(arguments.train_file, DataArguments())
    validation, _ = read_files(arguments.validation_file, DataArguments())
    if not arguments.keep_list:
        lists = {name: sorted(words) for name, words in build_lexicon(train["text"])._asdict().items()}
        write_json(ROOT / "tinystories" / "evaluation" / "text" / "determiners.json", lists)
        lexicon.cache_clear()
    stories = validation["text"][: arguments.max_stories]
    result = {
        "training_stories": len(train),
        "held_out_stories": len(stories),
        "words_in_lists": {name: len(words) for name, words in lexicon()._asdict().items()},
        "false_alarms_share_of_judged_nouns": false_alarms(stories),
        **recall(stories),
    }
    print(json.dumps(result, indent=2))
    write_json(ROOT / "docs" / "results" / "determiners.json", result)


def write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8", newline="\n")


def false_alarms(stories: list[str]) -> dict:
    bare = [is_bare for story in stories for _, is_bare in judged_nouns(story, lexicon())]
    return share(sum(bare), len(bare)).as_dict()


def recall(stories: list[str]) -> dict:
    """The share of dropped articles that the rule found: of all, and of those right before a noun of the list."""
    random = np.random.default_rng(0)
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


if __name__ == "__main__":
    run_command(main)
