"""Fit a scaling law to small runs, predict a larger run, train it, and see whether it lands in the interval.

    python benchmarks/scaling.py --train_file train.txt --validation_file valid.txt --jobs 10
    python benchmarks/scaling.py --train_file train.txt --validation_file valid.txt --quick --work_dir runs/quick
    python benchmarks/scaling.py --render

The runs of the fit (RUNGS) are trained first, `--jobs` at a time; then the law is fitted, and what predicting needs of
it is written to tinystories/checks/scaling_law.json. Then `check_run.py --predict` predicts the run that is held out
(HELD_OUT), which has more weights and sees more text than any of the fit; the prediction is in the record before that
run begins. It is trained alone, so that its seconds compare. Runs that are finished in the work folder are not
repeated, so the command can be stopped and started again. Writes docs/results/scaling.json, docs/scaling.md and the
figure; --render makes law, document and figure from the record. --quick trains tiny runs on a few stories, to see that
everything works, and writes all of that into the work folder.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch


sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent))

from recipe_runs import Run, as_option, first_stories, train
from scaling_fit import SIMPLER, Point, error_of_left_out, fit, leave_one_out, left_out
from scaling_page import claims, draw, page

from tinystories.checkpoint.loading import new_model
from tinystories.checks.prediction import FIT, WIDTH, Plan, commonest, plan, read_fit
from tinystories.config.recipe import read_recipe
from tinystories.data.corpus import load_corpus
from tinystories.data.tokenizer import read_tokenizer
from tinystories.provenance import Stopwatch, hash_files, provenance
from tinystories.training.budget import planned_steps


ROOT = Path(__file__).parent.parent
RECORD = ROOT / "docs" / "results" / "scaling.json"
DOCUMENT = ROOT / "docs" / "scaling.md"
FIGURE = ROOT / "docs" / "figures" / "scaling.svg"
FAMILY = {  # what all runs share; a recipe that differs in one of these gets a wider interval or no prediction
    "optimizer": "muon",
    "muon_momentum": 0.9,
    "lr_scheduler_type": "warmup_stable_decay",
    "lr_scheduler_kwargs": {"num_decay_steps": 0.2, "decay_type": "1-sqrt"},
    "warmup_steps": 0.05,
    "weight_decay": 0.1,
    "max_grad_norm": 1.0,
    "resid_pdrop": 0.0,
}
RATES = {"muon_learning_rate": 8e-3, "learning_rate": 8e-3}  # at WIDTH
SETTINGS = {  # what does not change the score
    "block_size": 512,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 64,
    "eval_strategy": "no",
    "save_strategy": "no",
    "logging_steps": 100,
}


def shape(width: int, layers: int, vocabulary: int) -> dict[str, int]:
    """Keys of a network: heads of 32, and feed-forward blocks of 2.75 times the width, as tinystories-cpu has."""
    inner = round(2.75 * width / 32) * 32
    sizes = {"hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers}
    return sizes | {"num_attention_heads": max(2, width // 64), "vocab_size": vocabulary}


@dataclass(frozen=True)
class Rung:
    """One recipe of the ladder. stories: the first of the training text, None: all."""

    name: str
    shape: dict[str, int]
    steps: int
    stories: int | None = None
    seeds: tuple[int, ...] = (1,)


TINY, SMALL, MIDDLE = shape(64, 2, 512), shape(96, 4, 1024), shape(128, 5, 2048)
FEW = 894  # stories: a sixteenth of the text, to be repeated more often
RUNGS = [
    *(Rung(f"tiny-{steps}", TINY, steps) for steps in (137, 274, 549)),
    *(Rung(f"small-{steps}", SMALL, steps) for steps in (137, 549)),
    Rung("small-274", SMALL, 274, seeds=(1, 2, 3)),
    Rung("small-4k-274", SMALL | {"vocab_size": 4096}, 274),
    *(Rung(f"middle-{steps}", MIDDLE, steps) for steps in (137, 274)),
    *(Rung(f"tiny-few-{steps}", TINY, steps, FEW) for steps in (137, 549)),
    *(Rung(f"small-few-{steps}", SMALL, steps, FEW) for steps in (137, 549)),
    Rung("middle-few-274", MIDDLE, 274, FEW),
]
HELD_OUT = Rung("held-out", shape(192, 4, 4096), 600)  # three times the cost of the largest of the fit
VALIDATION = 1_000  # stories, the first, on which every run is scored
QUICK = [
    Rung(f"quick-{layers}-{width}-{steps}-{stories}", shape(width, layers, 300 + width), steps, stories)
    for width, layers in ((32, 1), (48, 2), (64, 2))
    for steps, stories in ((15, 300), (30, 300), (60, 300), (30, 100))
]
QUICK_HELD_OUT = Rung("quick-held-out", shape(96, 2, 420), 80, 400)


@dataclass
class Experiment:
    """The rungs, the keys that all runs have, and where things are written."""

    rungs: list[Rung]
    held_out: Rung
    common: dict[str, Any]
    work_dir: Path
    jobs: int
    record: Path
    fitted: Path

    def run(self) -> dict[str, Any]:
        """Train, fit, predict, train what was predicted. Returns the record, which is written before the last part."""
        began = Stopwatch()
        rungs = sorted(self.rungs, key=lambda rung: -rung.steps)  # long ones first, so that none runs last and alone
        runs = [run for rung in rungs for run in self.named(rung)]
        results = train([run for run, _ in runs], self.work_dir, self.jobs)
        record: dict[str, Any] = {
            "family": FAMILY,
            "rates": RATES,
            "settings": SETTINGS,
            "profile": commonest(load_corpus(read_recipe(as_options(runs[0][0].keys)).data).train["text"]),
            "runs": [self.described(run, rung, results[run.name]) for run, rung in runs],
        }
        record["checks"] = checks(record)
        write_fit(record, self.fitted)
        [(held_out, rung)] = self.named(self.held_out)
        record["prediction"] = self.predict(held_out)
        self.write(record, began)  # the prediction is written before the run begins
        [result] = train([held_out], self.work_dir).values()
        record["held_out"] = self.described(held_out, rung, result)
        self.write(record, began)
        return record

    def named(self, rung: Rung) -> list[tuple[Run, Rung]]:
        return [(Run(f"{rung.name}-seed{seed}", keys(rung, seed) | self.common), rung) for seed in rung.seeds]

    def described(self, run: Run, rung: Rung, result: dict[str, Any]) -> dict[str, Any]:
        """One entry of the record."""
        folder = self.work_dir / run.name
        recipe = read_recipe([str(folder / "recipe.json")])
        data = json.loads((folder / "data_report.json").read_text(encoding="utf-8"))
        with torch.device("meta"):
            model = new_model(recipe.model, read_tokenizer(str(folder)), recipe.data.block_size)
        _, epochs = planned_steps(recipe.training, data["packing"]["rows"])
        found = plan(recipe, model, data, epochs)
        return {
            "name": rung.name,
            "seed": run.keys["seed"],
            "bits_per_byte": result["bits_per_byte"],
            "plan": asdict(found),
            "shape": rung.shape,
            "all_parameters": result["parameters"],
            "embedding": len(read_tokenizer(str(folder))) * rung.shape["hidden_size"],
            "bytes_seen": round(found.bytes_seen),
            "unique_tokens": data["packing"]["tokens"],
            "tokens": result["tokens"],
            "steps": rung.steps,
            "training_flops": result["training_flops"],
            "train_seconds": result["train_seconds"],
            "stories_scored": result["stories"],
            "device": result["device"],
        }

    def predict(self, run: Run) -> dict[str, Any]:
        """What check_run.py says of a recipe before it is trained."""
        recipe, found = self.work_dir / "held-out.json", self.work_dir / "prediction.json"
        write_json(recipe, run.keys | {"output_dir": str(self.work_dir / run.name)})
        command = [sys.executable, "check_run.py", recipe, "--predict", "--fit", self.fitted, "--output_file", found]
        subprocess.run([str(word) for word in command], cwd=ROOT, check=True)
        result = json.loads(found.read_text(encoding="utf-8"))
        return {"score": result["prediction"], "time": result["estimate"]}

    def write(self, record: dict[str, Any], began: Stopwatch) -> None:
        files = {role: Path(self.common[f"{role}_file"]) for role in ("train", "validation")}
        data = {role: {"source": path.name, **hash_files([path])} for role, path in files.items()}
        seeds = sorted({run["seed"] for run in record["runs"]})
        origin = {"provenance": provenance(began, seeds, data)}
        write_json(self.record, origin | record | claims(record))


def keys(rung: Rung, seed: int) -> dict[str, Any]:
    """The recipe of one run, without its data."""
    rates = {name: rate * (WIDTH / rung.shape["hidden_size"]) ** 0.5 for name, rate in RATES.items()}
    limits = {"max_steps": rung.steps, "seed": seed}
    limits |= {} if rung.stories is None else {"max_train_samples": rung.stories}
    return FAMILY | rates | SETTINGS | rung.shape | limits


def points(runs: list[dict[str, Any]]) -> list[Point]:
    """The runs of each rung as one point, in the order of the record."""
    scores: dict[str, list[float]] = {}
    plans = {}
    for run in runs:
        scores.setdefault(run["name"], []).append(run["bits_per_byte"])
        plans[run["name"]] = Plan(**run["plan"])
    return [Point(plans[name], tuple(found)) for name, found in scores.items()]


def checks(record: dict[str, Any]) -> dict[str, Any]:
    """What intervals hold that were not fitted to it, for each rung and the largest network; errors of simpler laws."""
    known = points(record["runs"])
    names = list(dict.fromkeys(run["name"] for run in record["runs"]))
    largest = max(point.plan.parameters for point in known)
    small = [point for point in known if point.plan.parameters < largest]
    others = [name for name, point in zip(names, known, strict=True) if point.plan.parameters == largest]
    errors = {name: error_of_left_out(known, fixed) for name, fixed in {"the law": {}, **SIMPLER}.items()}
    return {
        "errors_of_left_out": errors,
        "each_by_the_others": dict(zip(names, leave_one_out(known), strict=True)),
        "largest_by_the_rest": dict(zip(others, left_out(small, [p for p in known if p not in small]), strict=True)),
    }


def write_fit(record: dict[str, Any], path: Path) -> None:
    """What predicting needs of the record."""
    found = fit(points(record["runs"]))
    rounded = {"law": np.round(found.law, 6).tolist(), "draws": np.round(found.draws, 5).tolist()}
    rounded |= {"residual": round(found.residual, 6), "seeds": round(found.seeds, 6)}
    values = asdict(found) | rounded | {"family": record["family"], "profile": record["profile"]}
    lines = [f" {json.dumps(name)}: {json.dumps(value)}" for name, value in values.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def as_options(values: dict[str, Any]) -> list[str]:
    return [word for key, value in values.items() for word in (f"--{key}", as_option(value))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--train_file", type=Path, help="a .txt file of stories")
    parser.add_argument("--validation_file", type=Path, help="the same format, held-out stories")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--work_dir", type=Path, default=ROOT / "runs" / "scaling", help="run folders and logs")
    parser.add_argument("--quick", action="store_true", help="tiny runs; everything is written into the work folder")
    parser.add_argument("--render", action="store_true", help="train nothing: fit and document from the record")
    given = parser.parse_args()
    work_dir = given.work_dir.resolve()
    folder = work_dir if given.quick else None
    record = RECORD if folder is None else folder / RECORD.name
    fitted = FIT if folder is None else folder / FIT.name
    if not given.render:
        if not (given.train_file and given.validation_file):
            parser.error("--train_file and --validation_file are needed")
        work_dir.mkdir(parents=True, exist_ok=True)
        held_out_stories = first_stories(
            given.validation_file, VALIDATION, work_dir / f"first-{VALIDATION}-stories.txt"
        )
        common = {"train_file": given.train_file, "validation_file": held_out_stories}
        common = {name: str(path.resolve()) for name, path in common.items()} | {
            "data_cache_dir": str(work_dir / "cache")
        }
        rungs, held_out = (QUICK, QUICK_HELD_OUT) if given.quick else (RUNGS, HELD_OUT)
        Experiment(rungs, held_out, common, work_dir, given.jobs, record, fitted).run()
    render(record, fitted, folder)


def render(record: Path, fitted: Path, folder: Path | None) -> None:
    """Write fit, document and figure. folder: where the two are written, None: into docs."""
    values = json.loads(record.read_text(encoding="utf-8"))
    write_fit(values, fitted)
    text = page(DOCUMENT.read_text(encoding="utf-8"), values, read_fit(fitted))
    (DOCUMENT if folder is None else folder / DOCUMENT.name).write_text(text, encoding="utf-8", newline="\n")
    draw(values, read_fit(fitted), FIGURE if folder is None else folder / FIGURE.name)


if __name__ == "__main__":
    main()
