"""The names of the files of a run, which of them are published, and what is taken out of those first."""

import re
from pathlib import Path, PureWindowsPath
from typing import Any


RECIPE = "recipe.json"  # every key of the recipe
DATA_REPORT = "data_report.json"
ENVIRONMENT = "environment.json"
EVALUATIONS = "evaluations.jsonl"
EVALUATIONS_TABLE = "evaluations.csv"
SAMPLES = "samples.jsonl"
PROVENANCE = "provenance.jsonl"  # commit, command, data, machine of each session
LOCK = "run.lock"  # while a run is at work in its folder
STOPPED = "stopped_at_step_*.jsonl"  # the rows at which a guard stopped the run
REPORT = "report"  # a folder
# Beside the weights, so in each checkpoint-N as well:
TRAINER_STATE = "trainer_state.json"
CARD = "README.md"
CURVE = "loss_curve.png"  # the picture of the card
PROGRESS = "progress.json"  # state that a resumed run needs and the Trainer does not save; only in a checkpoint-N
# Beside the weights of a finished run:
ALL_RESULTS = "all_results.json"
TRAIN_RESULTS = "train_results.json"
EVALUATION = "evaluation.json"  # written by run_evaluation.py
EXPORT = "export.json"  # in an export, and in a repository beside its files

LIBRARIES = ("torch", "transformers", "tokenizers", "datasets", "accelerate")  # whose versions a run records

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
RECORDS = (RECIPE, DATA_REPORT, TRAINER_STATE, EVALUATION)  # cleaned of local paths before they are published
WRITTEN_BY_A_RUN = (
    *NEEDED,
    *RECORDS,
    "generation_config_*.json",
    "model.safetensors.index.json",
    "*_results.json",
    SAMPLES,
    EVALUATIONS,
    EVALUATIONS_TABLE,
    ENVIRONMENT,
    CURVE,
)
NEVER_PUBLISHED = (STOPPED, PROVENANCE)  # a run writes them too; they quote the training data, name files
EXPORTED = ("llama/*", "llama2c/*", "page/*", "*.gguf", "Modelfile")  # in a repository, by --with
PUBLISHED = (*WRITTEN_BY_A_RUN, "LICENSE*")  # nothing else in the folder is published


def is_checkpoint(folder: Path) -> bool:
    """Whether this is the name of a checkpoint in a run folder."""
    return re.fullmatch(r"checkpoint-\d+", folder.name) is not None


def step_of(checkpoint: str | Path) -> int:
    return int(Path(checkpoint).name.removeprefix("checkpoint-"))


_LOCAL_PATHS = {
    "train_file",
    "validation_file",
    "output_dir",
    "data_cache_dir",
    "best_model_checkpoint",
    "data",  # of an evaluation
    "leaderboard",
}
_PATHS_OR_NAMES = {
    "critic",  # of an evaluation
    "tokenizer",  # of an evaluation
    "tokenizer_name",
    "model_name_or_path",
    "source",
    "deepspeed",
    "fsdp_config",
    "accelerator_config",
}
_QUOTES = ("first_bad", "doubts")
_STORY_FILES = (".txt", ".jsonl", ".csv", ".tsv", ".parquet")


def without_local_paths(value: Any, key: str = "") -> Any:
    """A record of a run in which the path of a file or folder is replaced by its name; `key`: of `value`, if any.

    `first_bad` and `doubts` are left out, since they quote files.
    """
    if isinstance(value, dict):
        return {name: without_local_paths(item, name) for name, item in value.items() if name not in _QUOTES}
    if isinstance(value, list):
        return [without_local_paths(item) for item in value]
    local = isinstance(value, str) and (
        key in _LOCAL_PATHS
        or (key in _PATHS_OR_NAMES and (Path(value).exists() or value.startswith((".", "~", "/", "\\"))))
        or (key == "source" and value.endswith(_STORY_FILES))
    )
    return PureWindowsPath(value).name if local else value  # PureWindowsPath splits at both kinds of slashes
