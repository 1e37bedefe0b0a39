"""What the saved weights must be: whole, those that the records say, and moved by the training."""

import zlib
from pathlib import Path

import numpy as np

from tinystories.errors import GuardError
from tinystories.evaluation.second_path import read_weights, stored_dtypes
from tinystories.run_files import Run, checkpoints, step_of
from tinystories.training.guards.records import plain


Weights = dict[str, np.ndarray]

STORED_AS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}  # as safetensors names them


def check_whole(folder: str | Path, weights: Weights, dtype: str = "float32") -> str:
    """Every weight is a finite number stored as `dtype`, not rounded before, and no matrix or norm is all zeros."""
    formats = stored_dtypes(folder)
    if formats != {STORED_AS.get(dtype)}:
        raise GuardError(f"the weights in {folder} are stored as {', '.join(sorted(formats))}, and should be {dtype}")
    rounded = []
    for name, weight in weights.items():
        if not np.isfinite(weight).all():
            raise GuardError(f"{name} in {folder} holds numbers that are not finite")
        if not weight.any() and "o_proj" not in name and "down_proj" not in name:  # residual_init zero
            raise GuardError(f"{name} in {folder} is all zeros")
        if weight.ndim > 1:
            rounded.append(not (np.ascontiguousarray(weight).view(np.uint32) & 0xFFFF).any())
    if all(rounded) and dtype == "float32":
        raise GuardError(f"the weights in {folder} were rounded to bfloat16 before they were saved")
    return f"{len(weights)} tensors, {sum(weight.size for weight in weights.values()):,} finite {dtype} numbers"


def check_equal(weights: Weights, others: Weights, found: str, expected: str) -> str:
    """Tensor by tensor; `others` may have tied weights more."""
    for name, weight in weights.items():
        other = others.get(name)
        if other is None or not np.array_equal(weight, np.asarray(other)):
            raise GuardError(f"{name} in {found} is not that of {expected}")
    return f"those of {expected}"


def check_kept(run: Run, weights: Weights) -> str:
    """The weights in a run folder are those of its best checkpoint, or of its last step."""
    recipe, state = plain(run.recipe), plain(run.state)
    best = state.get("best_global_step") if recipe.get("load_best_model_at_end") else None
    step = best if best is not None else state.get("global_step")
    checkpoint = run.run_folder / f"checkpoint-{step}"
    if run.run_folder != run.folder or not checkpoint.is_dir():
        return f"of step {step}"
    words = "the best checkpoint" if best is not None else "the last step"
    return check_equal(weights, read_weights(checkpoint), str(run.folder), f"{words}, {checkpoint.name}")


def marks(weights: Weights) -> dict[str, int]:
    """A checksum of each tensor."""
    return {name: zlib.crc32(np.ascontiguousarray(weight).tobytes()) for name, weight in weights.items()}


def check_moved(before: dict[str, int], weights: Weights, since: str) -> str:
    """Where some weights have moved, all have."""
    after = marks(weights)
    still = [name for name in after if before.get(name) == after[name]]
    if still and len(still) < len(after):
        others = f" and {len(still) - 1} others" if len(still) > 1 else ""
        raise GuardError(
            f"{still[0]}{others} did not change since {since}, while {len(after) - len(still)} other tensors did: "
            "frozen, or no gradient reaches them"
        )
    return f"all {len(after)} tensors changed since {since}"


def check_learned(folder: str | Path, run: Run, weights: Weights) -> str:
    """No layer is as it began: compared with the first checkpoint of the run, and norms with the ones they begin as."""
    ones = [name for name, weight in weights.items() if weight.ndim == 1 and (weight == 1).all()]
    norms = [name for name, weight in weights.items() if weight.ndim == 1]
    if ones and len(ones) < len(norms):
        raise GuardError(
            f"{ones[0]} in {folder} is 1 everywhere as before training, while other norms have changed: it was frozen"
        )
    kept = [path for path in checkpoints(run.run_folder) if path != run.folder]
    last = plain(run.state).get("global_step", 0)
    if not kept or step_of(kept[0]) + 10 > last:
        return "compared with no earlier checkpoint"
    return check_moved(marks(read_weights(kept[0])), weights, kept[0].name)
