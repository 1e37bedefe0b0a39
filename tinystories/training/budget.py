"""What a recipe needs, counted before the run: steps, evaluations, checkpoints and their disk space."""

import math
import shutil
from pathlib import Path

from torch import nn

from tinystories.config.arguments import RunArguments
from tinystories.errors import UserError
from tinystories.run_files import checkpoints


FLOAT32 = 4  # bytes
SMALL_FILES = 2**23  # bytes of a checkpoint beside weights and optimizer: tokenizer, code, log, random state
ADAM_STATES = 2  # for each weight; Muon keeps one for most


def planned_steps(training: RunArguments, rows: int) -> tuple[int, float]:
    """Steps and epochs of the run, as the Trainer counts them. rows: of the training data.

    Raises:
        UserError: there would be no step.
    """
    rows_at_once = training.train_batch_size * training.world_size
    batches = rows // rows_at_once if training.dataloader_drop_last else math.ceil(rows / rows_at_once)
    if not batches:
        raise UserError(
            f"dataloader_drop_last leaves no batch: there are {rows:,} rows, and a batch has {rows_at_once:,}",
            "give a smaller per_device_train_batch_size, or leave out dataloader_drop_last",
        )
    steps_per_epoch = max(1, math.ceil(batches / training.gradient_accumulation_steps))
    steps = training.max_steps if training.max_steps > 0 else math.ceil(training.num_train_epochs * steps_per_epoch)
    if steps < 1:
        raise UserError(f"num_train_epochs {training.num_train_epochs:g} gives no step", "give 1 or more, or max_steps")
    return steps, steps / steps_per_epoch


def times(strategy: str, every: float | None, steps: int, epochs: float) -> int:
    """How often a run does what it does every `every` steps (below 1: a share of all steps), or each epoch."""
    if strategy == "steps" and every:
        return math.ceil(steps / (max(1, math.ceil(steps * every)) if every < 1 else every))
    return math.ceil(epochs) if strategy == "epoch" else 0


def checkpoints_at_a_time(training: RunArguments, rows: int) -> int:
    """The most checkpoints in the run folder at once: a new one is written before an old one is removed."""
    steps, epochs = planned_steps(training, rows)
    saves = times(training.save_strategy, training.save_steps, steps, epochs)
    if training.save_log_spaced and saves:
        saves += int(math.log2(max(1, steps / saves))) + 1
    if training.load_best_model_at_end:
        saves = max(saves, times(training.eval_strategy, training.eval_steps, steps, epochs))
    kept = training.save_total_limit and max(training.save_total_limit, 2 if training.load_best_model_at_end else 1)
    return min(saves, kept + 1) if kept else saves


def check_room_for_checkpoints(model: nn.Module, training: RunArguments, rows: int) -> str:
    """A line for the report. The checkpoints that a resumed run has already are not counted again.

    Raises:
        UserError: there is not enough disk space.
    """
    most = checkpoints_at_a_time(training, rows)
    new = max(0, most - len(checkpoints(Path(training.output_dir))))
    found = check_disk_room(training.output_dir, bytes_needed(model, ADAM_STATES + bool(training.ema_decay), new))
    return f"{found} ({most} checkpoints at a time)"


def checkpoint_bytes(model: nn.Module, optimizer_states_per_weight: int) -> int:
    """Bytes of one checkpoint: the weights, the optimizer's float32 states, the small files."""
    weights = sum(weight.numel() * weight.element_size() for weight in model.parameters())  # tied ones count once
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    return weights + optimizer_states_per_weight * trained * FLOAT32 + SMALL_FILES


def bytes_needed(model: nn.Module, optimizer_states_per_weight: int, checkpoints: int) -> int:
    """Bytes of a run folder with `checkpoints` checkpoints and, at the end, a copy of the best weights."""
    return checkpoints * checkpoint_bytes(model, optimizer_states_per_weight) + checkpoint_bytes(model, 0)


def check_disk_room(folder: str | Path, needed: int) -> str:
    """A line for the report.

    Raises:
        UserError: the disk of `folder`, which need not exist yet, has less than `needed` bytes free.
    """
    place = Path(folder).absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed:
        raise UserError(
            f"{folder}: the run needs {readable(needed)} of disk and {readable(free)} are free",
            "make room, give another --output_dir, or keep fewer checkpoints (--save_total_limit)",
        )
    return f"needs {readable(needed)}, {readable(free)} are free"


def readable(number_of_bytes: float) -> str:
    """1234567 -> '1.23 MB'."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if number_of_bytes < 1000:
            return f"{number_of_bytes:.3g} {unit}"
        number_of_bytes /= 1000
    return f"{number_of_bytes:,.3g} TB"
