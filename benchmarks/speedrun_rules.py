"""The rules of the contest in docs/speedrun.md: tracks, what a recipe may say, its seeds, and which runs count."""

import hashlib
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


sys.path.insert(0, str(Path(__file__).parent.parent))

from recipe_runs import TokenizerOfSize, as_option

from tinystories.checkpoint.loading import new_model
from tinystories.config.recipe import read_recipe
from tinystories.errors import UserError
from tinystories.provenance import hash_files
from tinystories.run_files import PROVENANCE, Run
from tinystories.training.environment import flops_per_token


@dataclass(frozen=True)
class Track:
    """flops: the most `training_flops` of a run. goal: in bits per byte; `below_first`: below the first record."""

    flops: float
    parameters: int | None = None
    goal: float | None = None
    below_first: float | None = None


TRACKS = {
    "XS": Track(1.05e14, below_first=0.10),
    "S": Track(4.2e14, goal=0.66),
    "M": Track(1.7e15, goal=0.60),
    "1M": Track(4.2e14, parameters=1_050_000, goal=0.80),
}
DATA = {  # sha256 of the files of every track
    "train_file": "b62049ef4b309cfe39ec2af468e49934b53cc4085eacd19a28a3734ca2fc4d70",
    "validation_file": "b352cac86ec735325ed4575325b75364e18bcd268cdfbf876e3eed55ea43f0ab",
}
SCORED = {"eval_stories": 6456, "eval_bytes": 5_142_625}  # the whole validation file, as every run must have scored it
NOT_OF_A_RECIPE = {"output_dir", "overwrite_output_dir", "data_cache_dir", "disable_tqdm", "seed", "data_seed", *DATA}
REFUSED = {  # keys, and why a contest run has none of them
    "skip_guards": "every run is checked by its guards",
    "model_name_or_path": "what another model has learned is outside of the budget",
    "tokenizer_name": "the tokenizer is trained on the track's text",
    "dataset_name": "the text is the track's",
    "num_sample_stories": "the text is the track's",
    "streaming": "the text is read whole",
    "resume": "a run of the contest is whole",
    "resume_from_checkpoint": "a run of the contest is whole",
    "push_to_hub": "a run of the contest publishes nothing",
    "num_train_epochs": "max_steps says what the budget buys",
}


def read_keys(path: Path) -> dict[str, Any]:
    """The keys that the recipe gives, without files and seeds.

    Raises:
        UserError: a recipe that cannot be read, or one with a key that is refused.
    """
    recipe = read_recipe([str(path)])
    keys = {key: recipe.values[key] for key in sorted(recipe.given - NOT_OF_A_RECIPE)}
    return as_json(refuse_keys(keys, str(path)))


def refuse_keys(keys: dict[str, Any], where: str) -> dict[str, Any]:
    for key, reason in REFUSED.items():
        if keys.get(key):
            raise UserError(f"{where}: {key} is not allowed in the contest: {reason}", f"leave {key} out")
    return keys


def as_json(keys: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(keys, default=str))


def flops_of_step(keys: dict[str, Any]) -> int:
    """`training_flops` of a step with a full batch."""
    recipe = read_recipe([word for key, value in keys.items() for word in (f"--{key}", as_option(value))])
    with torch.device("meta"):
        model = new_model(recipe.model, TokenizerOfSize(recipe.tokenizer.vocab_size), recipe.data.block_size)
    rows = recipe.training.per_device_train_batch_size * recipe.training.gradient_accumulation_steps
    return rows * recipe.data.block_size * flops_per_token(model, recipe.data.block_size)


def fitting_steps(keys: dict[str, Any], track: Track) -> int:
    """The most steps with full batches that the budget allows."""
    return int(track.flops // flops_of_step(keys))


def refuse_budget(keys: dict[str, Any], track: Track, where: str) -> None:
    """Raises UserError: max_steps is absent, or larger than the budget allows."""
    steps, most = keys.get("max_steps"), fitting_steps(keys, track)
    if steps is None or not 0 < steps <= most:
        raise UserError(f"{where}: max_steps is {steps}, and the budget of {track.flops:.3g} FLOPs allows {most}")


def refuse_data(files: dict[str, Path]) -> dict[str, Any]:
    """The data of the provenance. UserError: a file that is not the track's."""
    found = {}
    for role, path in files.items():
        if not path.is_file():
            raise UserError(f"{role}: there is no file {path}")
        found[role] = {"source": path.name, **hash_files([path])}
        if found[role]["sha256"] != DATA[role]:
            raise UserError(
                f"{role} {path} is not the track's: its sha256 begins with {found[role]['sha256'][:8]}, not "
                f"{DATA[role][:8]}"
            )
    return found


def seed_of(*parts: Any) -> int:
    """Follows from what is compared, so that nobody can pick it: track, both recipes, side and number of the pair."""
    text = json.dumps(parts, sort_keys=True)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") % 2**31


def refuse_run(
    folder: Path, track: Track, code: tuple[str | None, bool | None], scored: dict[str, int] = SCORED
) -> None:
    """Raises UserError: the finished run in `folder` does not count. code: commit and uncommitted changes."""
    run = Run(folder)
    results, recipe, environment = dict(run.results or {}), dict(run.recipe or {}), dict(run.environment or {})
    lines = folder / PROVENANCE
    sessions = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()] if lines.exists() else []
    commits = {(session.get("commit"), session.get("uncommitted_changes")) for session in sessions}
    spent, parameters = results.get("training_flops"), environment.get("parameters")
    score = results.get("eval_bits_per_byte")
    reasons = [
        (not isinstance(score, float) or not math.isfinite(score), f"its score is {score}"),
        (recipe.get("skip_guards") is not False, "it ran without guards"),
        (spent is None, "its training_flops are not known"),
        (spent is not None and spent > track.flops, f"it spent {spent or 0:.4g} FLOPs of {track.flops:.4g}"),
        (
            track.parameters is not None and not (parameters and parameters <= track.parameters),
            f"it has {parameters} parameters, and the track allows {track.parameters}",
        ),
        (commits != {code}, f"it was made with other code: {sorted(map(str, commits))}, and the referee has {code}"),
        *((results.get(key) != value, f"{key} is {results.get(key)}, not {value}") for key, value in scored.items()),
    ]
    for is_so, reason in reasons:
        if is_so:
            raise UserError(f"the run {folder.name} does not count: {reason}")
