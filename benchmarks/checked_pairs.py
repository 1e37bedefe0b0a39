"""How many minimal pairs are bad: pairs for a reader to judge, and the verdicts on record found again in the data.

    python benchmarks/checked_pairs.py --data valid.txt                    the verdicts on record: bad pairs by rule
    python benchmarks/checked_pairs.py --data valid.txt --sample out.json  pairs to judge, with their text

docs/results/minimal_pairs_checked.json holds the verdicts by hash, without a text of the data. Give the data that it
names: a pair that is not found again is an error.
"""

import argparse
import json
import random
import sys
from dataclasses import asdict
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parent.parent))

from tinystories.config.keys import DataArguments
from tinystories.console import run_command
from tinystories.data.corpus import read_files
from tinystories.errors import UserError
from tinystories.evaluation.estimates import Estimate
from tinystories.evaluation.minimal_pairs.pairs import NUMBER, Pair, build_pairs, shares


RECORD = Path(__file__).parent.parent / "docs" / "results" / "minimal_pairs_checked.json"


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Bad pairs among the minimal pairs.")
    parser.add_argument("--data", required=True, help="the held-out stories that the pairs are made of")
    parser.add_argument("--sample", help="write pairs to judge to this JSON file")
    arguments = parser.parse_args(argv)
    stories, _ = read_files(arguments.data, DataArguments())
    pairs = build_pairs(stories, NUMBER)
    if arguments.sample:
        rows = [asdict(pair) | {"digest": pair.digest} for pair in sample_to_check(pairs)]
        Path(arguments.sample).write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"{arguments.sample}: {len(rows)} pairs")
        return
    for rule, bad in label_noise(RECORD, pairs).items():
        print(f"{rule:24} {round(bad.value * bad.number):2} of {bad.number} are bad ({bad.low:.1%} to {bad.high:.1%})")


def sample_to_check(pairs: list[Pair], number: int = 50, seed: int = 50) -> list[Pair]:
    """The pairs for a reader to judge: at most `number` of each rule."""
    by_rule: dict[str, list[Pair]] = {}
    for pair in pairs:
        by_rule.setdefault(pair.rule, []).append(pair)
    drawn = random.Random(seed)
    return [pair for found in by_rule.values() for pair in drawn.sample(found, min(number, len(found)))]


def label_noise(checked: str | Path, pairs: list[Pair]) -> dict[str, Estimate]:
    """The share of pairs, by rule, that the reader in the file `checked` found bad; all of them must be in `pairs`.

    Raises:
        UserError: a pair in the file is not in `pairs`, which come from other data, or another seed or number.
    """
    known = {pair.digest: pair.rule for pair in pairs}
    verdicts: dict[str, list[bool]] = {}
    for verdict in json.loads(Path(checked).read_text(encoding="utf-8"))["pairs"]:
        if known.get(verdict["digest"]) != verdict["rule"]:
            raise UserError(f"{checked}: {verdict['digest']} is not a pair of {verdict['rule']} in this data")
        verdicts.setdefault(verdict["rule"], []).append(not verdict["good_is_better"])
    return shares(verdicts)


if __name__ == "__main__":
    run_command(main)
