"""The files of a run: their names, how they are read, and what is said of one that is missing or damaged."""

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any

from tinystories.atomic import is_sealed


DATA_REPORT = "data_report.json"
REPORT = "report"
SAMPLES = "samples.jsonl"


def read_json(path: Path) -> Any:
    """None where there is no such file, or one that was not written to its end."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def whole(value: Any) -> Any:
    """500.0, as `eval_steps: 500` is read, as the 500 that was written."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def checkpoints(folder: Path, complete: bool = True) -> list[Path]:
    """The checkpoint-N folders of a run, in the order of their steps; all of them, or those that are complete."""
    found = [path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted((path for path in found if path.is_dir() and (is_sealed(path) or not complete)), key=step_of)


def step_of(checkpoint: str | Path) -> int:
    return int(Path(checkpoint).name.removeprefix("checkpoint-"))


EVALUATIONS = "evaluations.jsonl"
EVALUATIONS_TABLE = "evaluations.csv"


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a .jsonl file that a run writes; without one that a kill or a power cut left unfinished."""
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and "step" in row:
            rows.append(row)
    return rows


def spread(rows: list, number: int) -> list:
    """At most `number` of `rows`: the first, the last, and closer together towards the first, where most is learned."""
    if len(rows) <= number:
        return rows
    places = {0, len(rows) - 1}
    ratio = len(rows) ** (1 / (number - 1))
    places |= {min(len(rows) - 1, round(ratio**i) - 1) for i in range(number)}
    return [rows[place] for place in sorted(places)]


ENVIRONMENT = "environment.json"
LIBRARIES = ("torch", "transformers", "tokenizers", "datasets", "accelerate")
CARD = "README.md"
NEEDED = (
    CARD,
    "config.json",
    "generation_config.json",
    "configuration_tinystories.py",
    "modeling_tinystories.py",
    "tokenizer.json",
    "tokenizer_config.json",
    "model*.safetensors",
)
RECORDS = ("recipe.json", "data_report.json", "trainer_state.json")
WRITTEN_BY_A_RUN = (
    *NEEDED,
    *RECORDS,
    "generation_config_*.json",
    "model.safetensors.index.json",
    "*_results.json",
    "samples.jsonl",
    "evaluations.jsonl",
    "evaluations.csv",
    "environment.json",
    "evaluation.json",
)
NEVER_PUBLISHED = ("stopped_at_step_*.jsonl",)  # a run writes them too; they quote the training data
PUBLISHED = (*WRITTEN_BY_A_RUN, "LICENSE*")  # and nothing else that may lie in the folder
_LOCAL_PATHS = {"train_file", "validation_file", "output_dir", "data_cache_dir", "best_model_checkpoint"}
_PATHS_OR_NAMES = {"tokenizer_name", "model_name_or_path", "source", "deepspeed", "fsdp_config", "accelerator_config"}
_STORY_FILES = (".txt", ".jsonl", ".csv", ".parquet")


def without_local_paths(value: Any, key: str = "") -> Any:
    """A record of a run, `key` of a larger one, with the names of files and folders instead of where they are."""
    if isinstance(value, dict):  # first_bad quotes a file
        return {name: without_local_paths(item, name) for name, item in value.items() if name != "first_bad"}
    if isinstance(value, list):
        return [without_local_paths(item) for item in value]
    local = isinstance(value, str) and (
        key in _LOCAL_PATHS
        or (key in _PATHS_OR_NAMES and (Path(value).exists() or value.startswith((".", "~", "/", "\\"))))
        or (key == "source" and value.endswith(_STORY_FILES))
    )
    return PureWindowsPath(value).name if local else value  # which knows both kinds of slashes


@dataclass
class Records:
    """What the run wrote down beside the weights; None where it is not known."""

    recipe: dict[str, Any] | None = None
    step: int | None = None
    planned_steps: int | None = None
    tokens_seen: int | None = None
    dataset: str | None = None
    tokenizer_size: int | None = None
    bits_per_byte: float | None = None
    validation_key: str | None = None  # of its validation stories, see corpus.dataset_key
    evaluations: list[float] = field(default_factory=list)  # losses, in the order of the steps


def read_records(checkpoint: str, revision: str | None) -> Records:
    """What stands beside the weights, or in the run folder above a checkpoint-N."""
    folder = Path(checkpoint)
    above = str(folder.parent) if folder.name.startswith("checkpoint-") else checkpoint
    state, results = (_record(checkpoint, name, revision) for name in ("trainer_state.json", "all_results.json"))
    recipe, report = (_record(above, name, revision) for name in ("recipe.json", "data_report.json"))
    history = [row for row in state.get("log_history", []) if isinstance(row, dict) and "eval_loss" in row]
    return Records(
        recipe=recipe or None,
        step=state.get("global_step"),
        planned_steps=state.get("max_steps"),
        tokens_seen=state.get("num_input_tokens_seen"),
        dataset=report.get("train", {}).get("source"),
        tokenizer_size=report.get("tokenizer", {}).get("vocab_size"),
        bits_per_byte=results.get("eval_bits_per_byte"),
        validation_key=report.get("began_with", {}).get("validation"),
        evaluations=[row["eval_loss"] for row in history],
    )


def _record(checkpoint: str, name: str, revision: str | None) -> dict[str, Any]:
    from transformers.utils import cached_file  # heavy, and needed for Hub ids alone

    try:
        record = json.loads(Path(cached_file(checkpoint, name, revision=revision)).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):  # missing, damaged, or not on the Hub
        return {}
    return record if isinstance(record, dict) else {}


EVALUATION = "evaluation.json"  # written by run_evaluation.py


def read_facts(folder: str | Path) -> dict[str, Any] | None:
    """What the files of a checkpoint, or of the run folder above it, say of it; None where no run made it."""
    folder = Path(folder)
    above = folder.parent if folder.name.startswith("checkpoint-") else folder
    recipe, data = read_json(above / "recipe.json"), read_json(above / DATA_REPORT)
    state = read_json(folder / "trainer_state.json")
    if recipe is None or data is None or state is None:
        return None
    results, step = read_json(folder / "all_results.json") or {}, state["global_step"]
    evaluations = [row for row in read_lines(above / EVALUATIONS) if row["step"] <= step]
    final = {key.removeprefix("eval_"): value for key, value in results.items() if key.startswith("eval_")}
    history = [row for row in state["log_history"] if "eval_bits_per_byte" in row]
    return {
        "recipe": recipe,
        "data": data,
        "step": step,
        "epoch": state["epoch"],
        "best_step": state["best_global_step"] if recipe.get("load_best_model_at_end") else None,
        "tokens_seen": state["num_input_tokens_seen"],
        "last_evaluation": history[-1] if history else None,
        "evaluated_stories": min(data["validation_stories"], recipe.get("max_eval_samples") or math.inf),
        "final": final if "bits_per_byte" in final else None,
        "curve": evaluations,
        "elapsed_seconds": results.get("elapsed_seconds"),
        "environment": read_json(above / ENVIRONMENT),
        "samples": [row for row in read_lines(above / SAMPLES) if row["step"] <= step],
        "evaluation": read_json(folder / EVALUATION),
    }
