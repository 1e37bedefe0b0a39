"""A contest of recipes at equal training FLOPs, with a referee that luck does not deceive: docs/speedrun.md.

    python benchmarks/speedrun.py CANDIDATE.yaml --track XS --train_file train.txt --validation_file valid.txt --jobs 14
    python benchmarks/speedrun.py --arms arms.json --track XS --seeds 1 2 3 --train_file ... --validation_file ...
    python benchmarks/speedrun.py --audit --jobs 14
    python benchmarks/speedrun.py --render

The first trains CANDIDATE and the record of its track side by side, in pairs with seeds that follow from both recipes,
until the test of sequential_test.py decides; --first enters the first record of a track, --single one run where more
would take too long. The second is a search: arms.json names the keys that each arm changes of the track's record, or of
CANDIDATE. The third lets the referee judge pairs of runs of one recipe. All write docs/results/speedrun.json and then
docs/speedrun.md, as --render does alone. Finished runs in --work_dir are not repeated.
"""

import argparse
import json
import random
import re
import shutil
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any


sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent))

from recipe_runs import Run, train
from sequential_test import MOST_PAIRS, decide
from speedrun_page import claims, compared, numbers_of, render, scores, spread_of
from speedrun_rules import (
    SCORED,
    TRACKS,
    Track,
    fitting_steps,
    read_keys,
    refuse_budget,
    refuse_data,
    refuse_keys,
    refuse_run,
    seed_of,
)

from tinystories.console import run_command
from tinystories.errors import UserError
from tinystories.provenance import Stopwatch, provenance


ROOT = Path(__file__).parent.parent
RECORD = ROOT / "docs" / "results" / "speedrun.json"
RECIPES = ROOT / "configs" / "speedrun"
FIRST_SEEDS = 3
SPREADS = 3  # standard deviations by which a single run must be better
KEPT = ("bits_per_byte", "training_flops", "parameters", "tokens", "train_seconds", "curve")
AUDIT = Track(1e13)
CONTESTS, REDRAWN = 40, 4000
POOL = 24  # runs of one recipe; a contest draws 2 x MOST_PAIRS of them
AUDITED = {  # a recipe of seconds
    "num_sample_stories": 300,
    "vocab_size": 384,
    "block_size": 64,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_steps": 40,
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 32,
    "learning_rate": 1e-2,
    "warmup_steps": 4,
    "eval_strategy": "no",
    "save_strategy": "no",
    "logging_steps": 20,
    "bf16": False,
    "use_cpu": True,
}


class Contest:
    """The record, the data and the place of the runs of one command."""

    def __init__(self, given: argparse.Namespace, record_file: Path = RECORD):
        self.began, self.given, self.file = Stopwatch(), given, record_file
        self.record = read_record(record_file)
        self.work_dir = given.work_dir.resolve() / (self.began.code[0] or "unknown")[:12]  # other code, other runs
        self.data: dict[str, Any] = {}

    def files(self) -> dict[str, str]:
        """The keys of the data, which is compared with the track's."""
        if not (self.given.train_file and self.given.validation_file):
            raise UserError("--train_file and --validation_file are needed")
        files = {"train_file": self.given.train_file, "validation_file": self.given.validation_file}
        self.data = refuse_data(files)
        return {role: str(path.resolve()) for role, path in files.items()}

    def train(
        self, runs: dict[str, dict[str, Any]], files: dict[str, str], track: Track, scored: dict[str, int] = SCORED
    ) -> dict[str, dict]:
        """Results by name, of runs that count. runs: keys with seed, by name.

        Raises:
            UserError: a run that failed or does not count.
        """
        shared = files | {"data_cache_dir": str(self.work_dir / "cache")}
        found = train([Run(name, keys | shared) for name, keys in runs.items()], self.work_dir, self.given.jobs)
        for name in found:
            refuse_run(self.work_dir / name, track, self.began.code, scored)
        return {name: {"seed": runs[name]["seed"]} | pick(result) for name, result in found.items()}

    def current(self, name: str) -> dict[str, Any] | None:
        """The record of a track."""
        return next((entry for entry in reversed(self.record["records"]) if entry["track"] == name), None)

    def origin(self, seeds: list[int]) -> dict[str, Any]:
        return provenance(self.began, seeds, self.data)

    def write(self, entries: str, entry: dict[str, Any]) -> None:
        self.record[entries].append(entry)
        self.record["provenance"] = entry["provenance"]
        write_record(self.file, self.record)

    def enter_first(self, name: str, keys: dict[str, Any], seeds: int = FIRST_SEEDS) -> dict[str, Any]:
        """The first record of a track, which is compared with nothing."""
        if self.current(name) is not None:
            raise UserError(f"track {name} has a record", "leave --first out")
        runs = {f"{name}-first-{i}": keys | {"seed": seed_of(name, keys, i)} for i in range(seeds)}
        found = list(self.train(runs, self.files(), TRACKS[name]).values())
        return self.entry(name, keys, found, "first" if seeds > 1 else "first, single run")

    def enter_single(self, name: str, keys: dict[str, Any]) -> dict[str, Any]:
        """One run on a large track; the spread is that of track XS."""
        spread, current = self.spread(), self.current(name)
        if current is None:
            return self.enter_first(name, keys, seeds=1) | {"spread": spread}
        (found,) = self.train(
            {f"{name}-single": keys | {"seed": seed_of(name, keys, 0)}}, self.files(), TRACKS[name]
        ).values()
        better = mean(scores(current)) - found["bits_per_byte"]
        entry = self.entry(name, keys, [found], "single run") | {"spread": spread}
        return entry | {"outcome": outcome_of_one(better, spread)}

    def spread(self) -> float:
        """Standard deviation of a seed on track XS."""
        found = spread_of(self.record)
        if found is None:
            raise UserError("track XS has no record with several seeds, whose spread a single run would take", "run XS")
        return found

    def compete(self, name: str, keys: dict[str, Any]) -> dict[str, Any]:
        """Candidate against record, pair by pair, until the test decides."""
        current, files = self.current(name), self.files()
        if current is None:
            raise UserError(f"track {name} has no record yet", "enter one with --first")
        if keys == current["recipe"]:
            raise UserError("the candidate is the record's recipe")
        tried = [
            entry["recipe"] for entry in self.record["attempts"] if entry.get("against_recipe") == current["recipe"]
        ]
        if keys in tried:
            raise UserError("this candidate was judged before, and another run would be another chance")
        sides = {"candidate": keys, "record": current["recipe"]}
        found: dict[str, list[dict]] = {side: [] for side in sides}
        at_once = max(1, self.given.jobs // 2)
        while True:
            pairs = range(len(found["record"]), min(len(found["record"]) + at_once, self.given.most_pairs))
            runs = {
                f"{name}-{seed_of(name, sides)}-{side}-{pair}": recipe | {"seed": seed_of(name, sides, side, pair)}
                for pair in pairs
                for side, recipe in sides.items()
            }
            for run, result in self.train(runs, files, TRACKS[name]).items():
                found["candidate" if "-candidate-" in run else "record"].append(result)
            decision = decide(differences(found), self.given.most_pairs)
            print(f"{len(found['record'])} pairs: {decision}", flush=True)
            if decision.outcome != "open":
                break
        entry = self.entry(name, keys, found["candidate"], "sequential test")
        return entry | vars(decision) | {"against": found["record"], "against_recipe": current["recipe"]}

    def entry(self, name: str, keys: dict[str, Any], runs: list[dict], kind: str) -> dict[str, Any]:
        current = self.current(name)
        return {
            "track": name,
            "kind": kind,
            "outcome": "record",
            "recipe": keys,
            "changed": changed(current["recipe"], keys) if current else {},
            "runs": runs,
            "provenance": self.origin([run["seed"] for run in runs]),
        }

    def search(self, name: str, base: dict[str, Any], arms: dict[str, dict[str, Any]], seeds: list[int]) -> None:
        """Train every arm with the same seeds; an arm that fails is kept as failed. The first arm is compared with.

        The arms have no guards, which take longer than so short a run; a record of what wins has them.
        """
        track, files, failed = TRACKS[name], self.files(), []
        recipes = {arm: arm_of(base, keys, track, arm) for arm, keys in arms.items()}
        shared = files | {"data_cache_dir": str(self.work_dir / "cache"), "skip_guards": True}
        runs = {
            (arm, seed): Run(re.sub(r"\W+", "-", f"{name} search {arm} {seed}"), recipe | shared | {"seed": seed})
            for seed in seeds
            for arm, recipe in recipes.items()
        }
        results = train(list(runs.values()), self.work_dir, self.given.jobs, ended=show, failed=failed)
        found: dict[str, list[dict]] = {arm: [] for arm in arms}
        for (arm, seed), run in runs.items():
            if run.name in results:
                found[arm].append({"seed": seed} | pick(results[run.name]))
        entry = {"track": name, "base": base, "arms": arms, "runs": found, "failed": failed}
        entry["steps"] = {arm: recipe["max_steps"] for arm, recipe in recipes.items()}
        self.write("search", entry | {"provenance": self.origin(seeds)})
        print(search_table(entry))

    def audit(self) -> None:
        """Contests between runs of one recipe, whose seeds alone differ: each record among them is a false one."""
        runs = {f"audit-{i}": AUDITED | {"seed": seed_of("audit", AUDITED, i)} for i in range(POOL)}
        pool = [run["bits_per_byte"] for run in self.train(runs, {}, AUDIT, scored={}).values()]
        self.record["audit"] = audited(pool) | {
            "recipe": AUDITED,
            "scores": pool,
            "provenance": self.origin([run["seed"] for run in runs.values()]),
        }
        self.record["provenance"] = self.record["audit"]["provenance"]
        write_record(self.file, self.record)
        print(f"{self.record['audit']['records']} records in {CONTESTS} contests of equal recipes")


def arm_of(base: dict[str, Any], keys: dict[str, Any], track: Track, name: str) -> dict[str, Any]:
    """The recipe of an arm: null removes a key, and max_steps fits the budget unless the arm gives it.

    Raises:
        UserError: a key that is refused, or a budget that is exceeded.
    """
    recipe = {key: value for key, value in (base | keys).items() if value is not None}
    if "max_steps" not in keys:
        recipe["max_steps"] = fitting_steps(recipe, track)
    refuse_budget(recipe, track, name)
    return refuse_keys(recipe, name)


def audited(pool: list[float]) -> dict[str, Any]:
    """How often the referee finds a record among runs of one recipe.

    Each contest draws its own disjoint pairs from the pool, so that two contests may share runs. The rate over many
    more draws from the same pool shows how much luck is in the number of the first ones.
    """
    draw = random.Random(seed_of("audit draws"))

    def contest() -> str:
        runs = draw.sample(pool, 2 * MOST_PAIRS)
        return decide([record - candidate for record, candidate in zip(runs[::2], runs[1::2], strict=True)]).outcome

    outcomes = [contest() for _ in range(CONTESTS)]
    more = sum(contest() == "record" for _ in range(REDRAWN))
    return {
        "contests": CONTESTS,
        "records": outcomes.count("record"),
        "pool": len(pool),
        "redrawn": REDRAWN,
        "redrawn_share": more / REDRAWN,
        "deviation": stdev(pool),
    }


def show(name: str, result: dict[str, Any]) -> None:
    print(f"{result['bits_per_byte']:.4f} bits per byte  {name}", flush=True)


def outcome_of_one(better: float, spread: float) -> str:
    """Of a single run that is `better` than the record in bits per byte. spread: standard deviation of a seed."""
    return "record" if better > SPREADS * spread else "no record"


def differences(found: dict[str, list[dict]]) -> list[float]:
    pairs = zip(found["record"], found["candidate"], strict=True)
    return [record["bits_per_byte"] - candidate["bits_per_byte"] for record, candidate in pairs]


def pick(result: dict[str, Any]) -> dict[str, Any]:
    return {key: result[key] for key in KEPT}


def changed(before: dict[str, Any], after: dict[str, Any]) -> dict[str, list[Any]]:
    """Keys that differ: [value before, value after], None where there is none."""
    keys = sorted(before.keys() | after.keys())
    return {key: [before.get(key), after.get(key)] for key in keys if before.get(key) != after.get(key)}


def search_table(entry: dict[str, Any]) -> str:
    """A line for each arm, the best first, with its mean difference to the first arm; then what failed."""
    first, runs = next(iter(entry["runs"].items()))
    lines = [f"{mean(run['bits_per_byte'] for run in runs):.4f} bits per byte  {first}"] if runs else []
    lines += [
        "{}  {:18s}  {}  ({} seeds)".format(*numbers_of(arm), arm["tried"], arm["seeds"]) for arm in compared(entry)
    ]
    return "\n".join(lines + [f"failed: {name}" for name in entry["failed"]])


def read_record(path: Path) -> dict[str, Any]:
    empty: dict[str, Any] = {"provenance": {}, "records": [], "attempts": [], "search": [], "audit": None}
    return empty | (json.loads(path.read_text(encoding="utf-8")) if path.exists() else {})


def write_record(path: Path, record: dict[str, Any]) -> None:
    record |= claims(record)
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")


def options(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A contest of recipes at equal training FLOPs.")
    parser.add_argument("candidate", type=Path, nargs="?", help="a recipe")
    parser.add_argument("--track", choices=TRACKS)
    parser.add_argument("--train_file", type=Path)
    parser.add_argument("--validation_file", type=Path)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--work_dir", type=Path, default=ROOT / "runs" / "speedrun", help="run folders and logs")
    parser.add_argument("--most_pairs", type=int, default=MOST_PAIRS, help="after which the record stands")
    parser.add_argument("--first", action="store_true", help="enter the first record of the track")
    parser.add_argument("--single", action="store_true", help="one run, marked as such, with the spread of track XS")
    parser.add_argument("--arms", type=Path, help="search: a JSON file, name of an arm -> keys that it changes")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="of every arm of a search")
    parser.add_argument("--audit", action="store_true", help="contests between runs of one recipe")
    parser.add_argument("--render", action="store_true", help="train nothing: write document and figure")
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    given = options(argv)
    contest = Contest(given)
    if given.audit:
        contest.audit()
    elif not given.render:
        if given.track is None:
            raise UserError("--track is needed")
        take_part(contest, given)
    render(contest.record)


def take_part(contest: Contest, given: argparse.Namespace) -> None:
    name, current = given.track, contest.current(given.track)
    if given.candidate is None and not (given.arms and current):
        raise UserError("a recipe is needed", "give CANDIDATE.yaml")
    keys = read_keys(given.candidate) if given.candidate else current["recipe"]
    if given.arms:
        arms = json.loads(given.arms.read_text(encoding="utf-8"))
        return contest.search(name, keys, arms, given.seeds)
    refuse_budget(keys, TRACKS[name], str(given.candidate))
    kind = contest.enter_single if given.single else contest.enter_first if given.first else contest.compete
    entry = kind(name, keys)
    contest.write("records" if entry["outcome"] == "record" else "attempts", entry)
    print(f"track {name}: {entry['outcome']}, {mean(scores(entry)):.4f} bits per byte")
    recipe = RECIPES / f"{name.lower()}.yaml"
    if entry["outcome"] == "record" and given.candidate.resolve() != recipe:
        shutil.copyfile(given.candidate, recipe)


if __name__ == "__main__":
    run_command(main)
