"""How many mistakes the grammar metric finds, and how many false alarms it gives.

    python benchmarks/grammar_checker.py --validation_file valid.txt

One mistake of one of six kinds is made in each of many sentences of held-out stories. It counts as found if the checker
reports more errors than before. Unchanged stories give the false alarms, since they hardly have errors. Prints the
result and writes docs/results/grammar_checker.json.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np


sys.path.insert(0, str(Path(__file__).parent.parent))

from tinystories.config.keys import DataArguments
from tinystories.console import run_command
from tinystories.data.corpus import read_files
from tinystories.evaluation.estimates import share
from tinystories.evaluation.text.grammar import errors_per_100_words, find_errors
from tinystories.evaluation.text.samples import Sample
from tinystories.evaluation.text.words import split_sentences, split_words
from tinystories.provenance import Stopwatch, hash_files, provenance


RESULTS = Path(__file__).parent.parent / "docs" / "results" / "grammar_checker.json"
SEED = 0
SENTENCE = re.compile(r"[A-Z][a-z ,']+\.")  # without quotations and names inside
SINGULAR = re.compile(r"\b([Hh]e|[Ss]he|[Ii]t) (was|is|has)\b")
WRONG_FORM = {"was": "were", "is": "are", "has": "have"}


def dropped_article(sentence: str, random: np.random.Generator) -> str:
    return re.sub(r" (?:an?|the) ", " ", sentence, count=1)


def a_for_an(sentence: str, random: np.random.Generator) -> str:
    return re.sub(r" (an?) ", lambda match: {"a": " an ", "an": " a "}[match[1]], sentence, count=1)


def agreement(sentence: str, random: np.random.Generator) -> str:
    return SINGULAR.sub(lambda match: f"{match[1]} {WRONG_FORM[match[2]]}", sentence, count=1)


def infinitive_after_to(sentence: str, random: np.random.Generator) -> str:
    return re.sub(r" (wanted|started|tried|loved) to (\w+)", r" \1 to \2ed", sentence, count=1)


def doubled_word(sentence: str, random: np.random.Generator) -> str:
    row = sentence.split()
    place = random.integers(1, len(row) - 1)
    return " ".join([*row[: place + 1], *row[place:]]) if row[place].isalpha() else sentence


def swapped_words(sentence: str, random: np.random.Generator) -> str:
    row = sentence.split()
    place = random.integers(1, len(row) - 2)
    row[place], row[place + 1] = row[place + 1], row[place]
    return " ".join(row)


MISTAKES = (dropped_article, a_for_an, agreement, infinitive_after_to, doubled_word, swapped_words)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Measure the grammar checker on mistakes made on purpose.")
    parser.add_argument("--validation_file", required=True)
    parser.add_argument("--number", type=int, default=200, help="sentences for each kind of mistake, and stories")
    arguments = parser.parse_args(argv)
    began, file = Stopwatch(), Path(arguments.validation_file)
    stories = read_files(arguments.validation_file, DataArguments())[0]["text"]
    # The rules were chosen on the first thousands of stories: measure on later ones.
    stories = stories[len(stories) // 2 + 500 :]
    random = np.random.default_rng(SEED)
    result = {
        "checker": f"harper-py {version('harper-py')}",
        "recall": {kind.__name__: recall(kind, stories, arguments.number, random) for kind in MISTAKES},
        "false_alarms_per_100_words": errors_per_100_words(
            [Sample("", story, True, "human", 0) for story in stories[: arguments.number]]
        ).as_dict(),
    }
    print(json.dumps(result, indent=1))
    data = {"validation": {"source": file.name, **hash_files([file])}}
    result = {"provenance": provenance(began, SEED, data, libraries=["harper-py"])} | result
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8", newline="\n")


def recall(
    kind: Callable[[str, np.random.Generator], str], stories: list[str], number: int, random: np.random.Generator
) -> dict:
    """The share of `number` sentences with this mistake in which the checker reports more errors than without it."""
    found = []
    for sentence in (part.strip() for story in stories for part in split_sentences(story)):
        if not SENTENCE.fullmatch(sentence) or not 6 <= len(split_words(sentence)) <= 20:
            continue
        wrong = kind(sentence, random)
        if wrong != sentence:
            found.append(len(find_errors(wrong)) > len(find_errors(sentence)))
        if len(found) == number:
            break
    return share(sum(found), len(found)).as_dict()


if __name__ == "__main__":
    run_command(main)
