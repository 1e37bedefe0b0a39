"""Room on the disk, asked for before the first step: a run must not learn in its third night that there is none.

    check_disk_room("runs/demo", bytes_needed(model, optimizer_states_per_weight=2, checkpoints=3))

AdamW keeps two states for each weight, Muon one.
"""

import shutil
from pathlib import Path

from torch import nn

from tinystories.errors import UserError


FLOAT32 = 4  # bytes
SMALL_FILES = 2**23  # bytes of a checkpoint that are no numbers of the model: tokenizer, code, log, random state


def checkpoint_bytes(model: nn.Module, optimizer_states_per_weight: int) -> int:
    """Bytes of one checkpoint that can be resumed: the weights, the optimizer's float32 states, the small files."""
    weights = sum(weight.numel() * weight.element_size() for weight in model.parameters())  # tied ones count once
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    return weights + optimizer_states_per_weight * trained * FLOAT32 + SMALL_FILES


def bytes_needed(model: nn.Module, optimizer_states_per_weight: int, checkpoints: int) -> int:
    """Bytes of a run folder that holds so many checkpoints at a time, and at the end a copy of the best weights."""
    return checkpoints * checkpoint_bytes(model, optimizer_states_per_weight) + checkpoint_bytes(model, 0)


def check_disk_room(folder: str | Path, needed: int) -> str:
    """What was found, in words.

    Raises:
        UserError: the disk of `folder`, which need not exist yet, has less than `needed` bytes free.
    """
    place = Path(folder).absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed:
        raise UserError(
            f"{folder}: the run needs {readable(needed)} of disk and {readable(free)} are free; make room, give "
            "another --output_dir, or keep fewer checkpoints (--save_total_limit)"
        )
    return f"needs {readable(needed)}, {readable(free)} are free"


def readable(number_of_bytes: float) -> str:
    """1234567 -> '1.2 MB'."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if number_of_bytes < 1000:
            return f"{number_of_bytes:.3g} {unit}"
        number_of_bytes /= 1000
    return f"{number_of_bytes:,.3g} TB"
