"""Compare optimizers, schedules and initializations of the residual projections at equal tokens, three seeds each.

    python benchmarks/optimizers.py --train_file train.txt --validation_file valid.txt
    python benchmarks/optimizers.py --render

Each run is a process of run_clm.py. Runs that are already in docs/results/optimizers.json are not repeated, so the
command can be stopped and started again. First a sweep with one seed finds the learning rates; then three other seeds
compare. Writes the record, the tables of docs/experiments.md and, with matplotlib, docs/figures/optimizers.svg;
--render trains nothing and writes tables and figure from the record.
"""

import argparse
import json
import os
import subprocess
import sys
from itertools import islice, product
from pathlib import Path
from statistics import mean, median


sys.path.insert(0, str(Path(__file__).parent.parent))

from tinystories.provenance import Stopwatch, hash_files, provenance


ROOT = Path(__file__).parent.parent
RECORD = ROOT / "docs" / "results" / "optimizers.json"
FIGURE = ROOT / "docs" / "figures" / "optimizers.svg"
DOCUMENT = ROOT / "docs" / "experiments.md"
RECIPE = {
    "vocab_size": 1024,
    "block_size": 256,
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "max_steps": 450,
    "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 32,
    "warmup_steps": 0.05,
    "max_grad_norm": 1.0,
    "torch_compile": True,
    "eval_strategy": "steps",
    "eval_steps": 90,
    "max_eval_samples": 300,
    "save_strategy": "no",
    "logging_steps": 90,
    "disable_tqdm": True,
    "use_cpu": True,
}
SCHEDULES = {
    "cosine to 10 %": ("cosine_with_min_lr", {"min_lr_rate": 0.1}),
    "linear to 0": ("linear", {}),
    "stable, last 20 % to 0": ("warmup_stable_decay", {"num_decay_steps": 0.2, "decay_type": "1-sqrt"}),
}
SWEEP_SEED, SEEDS = 0, (1, 2, 3)
FIRST_RATES = (4e-3, 8e-3, 1.6e-2)
COSINE = "cosine to 10 %"
# does the best rate depend on the width?
WIDER = {"hidden_size": 128, "intermediate_size": 384, "num_attention_heads": 4}
RESULTS = ("bits_per_byte", "stories", "tokens", "train_seconds", "curve", "cpu_seconds")
Choice = tuple[str, str, str]  # optimizer, schedule, residual_init


class Experiment:
    """The record, and the runs that it still lacks."""

    def __init__(self, train_file: str, validation_file: str, work_dir: Path):
        self.files, self.work_dir = {"train_file": train_file, "validation_file": validation_file}, work_dir
        begun = json.loads(json.dumps({"recipe": RECIPE, "schedules": SCHEDULES}))
        self.began = Stopwatch()
        self.record = read_record() or self.origin() | begun | {"threads": threads(), "runs": []}
        if any(self.record[name] != begun[name] for name in begun):
            sys.exit(f"{RECORD} was made with another recipe: move it away to start a new record")

    def origin(self) -> dict[str, dict]:
        """Of a record that begins now."""
        data = {role: {"source": Path(path).name, **hash_files([Path(path)])} for role, path in self.files.items()}
        return {"provenance": provenance(self.began, [SWEEP_SEED, *SEEDS], data)}

    def run(self, choice: Choice, keys: dict[str, float], seed: int) -> dict:
        """The record of one run with these recipe keys; trains it if it is not recorded yet."""
        optimizer, schedule, residual_init = choice
        settings = {"optimizer": optimizer, "schedule": schedule, "residual_init": residual_init, **keys, "seed": seed}
        for run in self.record["runs"]:
            if {name: value for name, value in run.items() if name not in RESULTS} == settings:
                return run
        name = "-".join(str(value) for value in settings.values()).replace(" ", "_").replace("%", "percent")
        lr_scheduler_type, lr_scheduler_kwargs = SCHEDULES[schedule]
        values = RECIPE | self.files | keys | {"optimizer": optimizer, "residual_init": residual_init, "seed": seed}
        values |= {"lr_scheduler_type": lr_scheduler_type, "lr_scheduler_kwargs": json.dumps(lr_scheduler_kwargs)}
        values |= {"output_dir": self.work_dir / name, "data_cache_dir": self.work_dir / "cache"}
        options = [word for key, value in values.items() for word in (f"--{key}", str(value))]
        print(name, flush=True)
        with (self.work_dir / f"{name}.log").open("w", encoding="utf-8") as log:
            command = [sys.executable, "run_clm.py", *options, "--overwrite_output_dir"]
            before = os.times()
            subprocess.run(command, check=True, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
            after = os.times()
        cpu = after.children_user + after.children_system - before.children_user - before.children_system
        run = settings | read_result(self.work_dir / name) | {"cpu_seconds": round(cpu, 1)}
        print(f"    {run['bits_per_byte']:.4f} bits per byte", flush=True)
        self.record["runs"].append(run)
        write_record(self.record)
        return run

    def best(self, choices: list[tuple[Choice, dict[str, float]]], seeds: tuple[int, ...]) -> tuple:
        """The choice with the lowest mean, after the missing runs: seed by seed, so that a stop leaves equal counts."""
        scores = {index: [] for index in range(len(choices))}
        for seed, index in product(seeds, scores):
            scores[index].append(self.run(*choices[index], seed)["bits_per_byte"])
        return choices[min(scores, key=lambda index: mean(scores[index]))]

    def tune(self, optimizer: str, key: str, fixed: dict[str, float]) -> dict[str, float]:
        """The best learning rate, in factors of two, extended until the best is neither the first nor the last."""
        values = list(FIRST_RATES)
        while True:
            sweep = [((optimizer, COSINE, "normal"), fixed | {key: value}) for value in values]
            _, found = self.best(sweep, (SWEEP_SEED,))
            if found[key] == values[0]:
                values.insert(0, values[0] / 2)
            elif found[key] == values[-1]:
                values.append(values[-1] * 2)
            else:
                return found

    def run_all(self) -> None:
        adamw = self.tune("adamw", "learning_rate", {})
        rates = {"adamw": adamw, "muon": self.tune("muon", "muon_learning_rate", adamw)}
        choices = [((optimizer, schedule, "normal"), rates[optimizer]) for schedule in SCHEDULES for optimizer in rates]
        (optimizer, schedule, _), found = self.best(choices, SEEDS)
        self.best([((optimizer, schedule, init), found) for init in ("zero", "depth_scaled")], SEEDS)
        self.tune("muon", "muon_learning_rate", adamw | WIDER)


def read_record() -> dict | None:
    return json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else None


def write_record(record: dict) -> None:
    """One run on each line, for readable diffs."""
    head = "".join(f"  {json.dumps(name)}: {json.dumps(record[name])},\n" for name in record if name != "runs")
    runs = ",\n".join(f"    {json.dumps(run)}" for run in record["runs"])
    RECORD.write_text(f'{{\n{head}  "runs": [\n{runs}\n  ]\n}}\n', encoding="utf-8")


def threads() -> str:
    return os.environ.get("OMP_NUM_THREADS", "all")


def read_result(folder: Path) -> dict:
    """The final score, and the curve of scores on a sample of stories: pairs of (tokens seen, bits per byte)."""
    results = json.loads((folder / "all_results.json").read_text(encoding="utf-8"))
    history = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    rows = [row for row in history if "eval_bits_per_byte" in row]
    return {
        "bits_per_byte": results["eval_bits_per_byte"],
        "stories": results["eval_stories"],
        "tokens": results["num_input_tokens_seen"],
        "train_seconds": round(results["train_runtime"], 1),
        "curve": [[row["num_input_tokens_seen"], round(row["eval_bits_per_byte"], 4)] for row in rows],
    }


def compared(runs: list[dict]) -> list[list[dict]]:
    """The runs of the comparison, grouped by choice, best mean first."""
    groups: dict[Choice, list[dict]] = {}
    for run in runs:
        if not is_sweep(run):
            groups.setdefault((run["optimizer"], run["schedule"], run["residual_init"]), []).append(run)
    return sorted(groups.values(), key=lambda group: mean(run["bits_per_byte"] for run in group))


def rates(run: dict) -> list[float]:
    return [run[key] for key in ("muon_learning_rate", "learning_rate") if key in run]


def as_text(rates: list[float]) -> str:
    return " and ".join(f"{rate:g}" for rate in rates)


def width(run: dict) -> int:
    return run.get("hidden_size", RECIPE["hidden_size"])


def is_sweep(run: dict) -> bool:
    return run["seed"] == SWEEP_SEED


def tables(runs: list[dict]) -> str:
    """The comparison, its CPU time and the sweep, as Markdown."""
    seeds = " | ".join(f"seed {seed}" for seed in SEEDS)
    lines = [f"| optimizer | schedule | residual init | learning rate | {seeds} | mean |", "|---" * 8 + "|"]
    for group in compared(runs):
        first, scores = group[0], [run["bits_per_byte"] for run in group]
        cells = [first["optimizer"], first["schedule"], first["residual_init"].replace("_", " "), as_text(rates(first))]
        cells += [*(f"{score:.4f}" for score in scores), f"**{mean(scores):.4f}**"]
        lines.append(f"| {' | '.join(cells)} |")
    seconds = {
        optimizer: median(run["cpu_seconds"] for run in runs if run["optimizer"] == optimizer and not is_sweep(run))
        for optimizer in ("adamw", "muon")
    }
    lines += [
        "",
        f"CPU time of a whole run, median: {seconds['adamw']:.0f} s with adamw, {seconds['muon']:.0f} s with muon.",
        "",
    ]
    lines += [f"The sweep: {COSINE}, seed {SWEEP_SEED}.", ""]
    lines += ["| width | optimizer | learning rate | bpb |", "|---" * 4 + "|"]
    swept = sorted((width(run), run["optimizer"], rates(run), run["bits_per_byte"]) for run in runs if is_sweep(run))
    lines += [f"| {wide} | {name} | {as_text(values)} | {score:.4f} |" for wide, name, values, score in swept]
    return "\n".join(lines)


def with_tables(document: str, runs: list[dict]) -> str:
    """The document with new tables between the markers."""
    begin, end = "<!-- optimizers: tables -->\n", "<!-- optimizers: end -->"
    before, rest = document.split(begin)
    return f"{before}{begin}\n{tables(runs)}\n\n{end}{rest.split(end)[1]}"


def draw(runs: list[dict]) -> None:
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        sys.exit("no figure: matplotlib is missing (python -m pip install matplotlib)")
    plt.rcParams["svg.hashsalt"] = "optimizers"  # equal data give an identical file
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), width_ratios=(2, 3), layout="constrained")
    groups = compared(runs)
    for place, group in enumerate(groups):
        first, scores = group[0], [run["bits_per_byte"] for run in group]
        colour = {"adamw": "tab:blue", "muon": "tab:orange"}[first["optimizer"]]
        left.plot(scores, [place] * len(scores), "o", color=colour, alpha=0.5)
        left.plot(mean(scores), place, "|", color="black", markersize=14)
        style = {"normal": dict(zip(SCHEDULES, ("-", "--", ":"), strict=True))[first["schedule"]]}
        points = [mean(values) for values in zip(*([bpb for _, bpb in run["curve"]] for run in group), strict=True)]
        tokens = [seen / 1e6 for seen, _ in first["curve"]]
        right.plot(tokens, points, style.get(first["residual_init"], "-."), color=colour, label=label(first))
    left.set_yticks(range(len(groups)), [label(group[0]) for group in groups])
    left.invert_yaxis()
    left.set_xlabel("bits per byte at the end, seeds and mean")
    right.set(xlabel="million tokens", ylabel=f"bits per byte, {RECIPE['max_eval_samples']} stories")
    right.legend(fontsize="small")
    figure.savefig(FIGURE, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))


def label(run: dict) -> str:
    init = "" if run["residual_init"] == "normal" else f", {run['residual_init'].replace('_', ' ')}"
    return f"{run['optimizer']}, {run['schedule']}{init}"


def render() -> None:
    runs = read_record()["runs"]
    if DOCUMENT.exists():
        DOCUMENT.write_text(with_tables(DOCUMENT.read_text(encoding="utf-8"), runs), encoding="utf-8")
    draw(runs)


def first_stories(path: str, number: int, copy: Path) -> str:
    """Copy the first stories of a .txt file, in which each ends with <|endoftext|>."""
    stories = Path(path).read_text(encoding="utf-8").split("<|endoftext|>")
    copy.write_text("".join(f"{story}<|endoftext|>" for story in islice(stories, number)), encoding="utf-8")
    return str(copy)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--train_file", help="a .txt file in which each story ends with <|endoftext|>")
    parser.add_argument("--validation_file", help="the same format, held-out stories")
    parser.add_argument("--validation_stories", type=int, default=1000, help="stories in the final score")
    parser.add_argument("--work_dir", type=Path, default=ROOT / "runs" / "optimizers", help="run folders and logs")
    parser.add_argument("--render", action="store_true", help="train nothing: write tables and figure from the record")
    arguments = parser.parse_args()
    if not arguments.render:
        if not (arguments.train_file and arguments.validation_file):
            parser.error("--train_file and --validation_file are needed")
        work_dir = arguments.work_dir.resolve()
        work_dir.mkdir(parents=True, exist_ok=True)
        held_out = first_stories(arguments.validation_file, arguments.validation_stories, work_dir / "validation.txt")
        Experiment(str(Path(arguments.train_file).resolve()), held_out, work_dir).run_all()
    render()


if __name__ == "__main__":
    main()
