"""Out of memory: with `auto_find_batch_size` a step is split into smaller batches and keeps its rows.

    python run_clm.py RECIPE --auto_find_batch_size true

Without it, or once the run has made a step, the run ends with one line that names the two keys to give.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

from tinystories.errors import UserError
from tinystories.training.recipe_trainer import RecipeTrainer


logger = logging.getLogger(__name__)

Result = TypeVar("Result")


def train_in_memory(trainer: RecipeTrainer, loop: Callable[[int], Result], rows: int, rows_per_step: int) -> Result:
    """What `loop(rows)`, the Trainer's own, returns with the most rows that fit.

    rows: at once on a device. rows_per_step: rows x accumulation, which is kept.

    Raises:
        UserError: out of memory with a single row, after the first step, in several processes, or without
            `auto_find_batch_size`.
    """
    if rows_per_step % rows:  # `rows` comes from a checkpoint whose batch does not divide a step of this recipe
        rows = trainer.args.per_device_train_batch_size
    start = _Start(trainer) if trainer.args.auto_find_batch_size else None
    while True:
        trainer.args.gradient_accumulation_steps = rows_per_step // rows
        try:
            return loop(rows)
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
            fewer = max((n for n in range(1, rows) if rows % n == 0), default=None)
            if start is None or fewer is None or not _may_start_again(trainer):
                when = f" at step {trainer.state.global_step}" if _has_made_a_step(trainer) else ""
                message = f"out of memory{when} with {rows} rows at once on a device"
                raise UserError(message, _remedy(trainer, fewer)) from error
        logger.warning(
            "out of memory with %d rows at once: now %d rows, accumulated %d times; a step stays %d rows a device",
            rows,
            fewer,
            rows_per_step // fewer,
            rows_per_step,
        )
        start.restore(trainer)
        rows = trainer.args.per_device_train_batch_size = fewer
        done = {"per_device_train_batch_size": rows, "gradient_accumulation_steps": rows_per_step // rows}
        trainer.recipe.values |= done
        trainer.recipe.save(trainer.args.output_dir)


def _has_made_a_step(trainer: RecipeTrainer) -> bool:
    return trainer.state.global_step > getattr(trainer, "_initial_global_step", 0)


def _may_start_again(trainer: RecipeTrainer) -> bool:
    return trainer.args.world_size == 1 and not _has_made_a_step(trainer)


def _remedy(trainer: RecipeTrainer, fewer: int | None) -> str:
    if fewer is None:
        return "give a smaller block_size or model, or gradient_checkpointing true"
    keys = (
        f"--per_device_train_batch_size {fewer} --gradient_accumulation_steps "
        f"{trainer.args.gradient_accumulation_steps * trainer.args.per_device_train_batch_size // fewer}"
    )
    if _has_made_a_step(trainer):
        return f"continue with --resume {keys}, which keeps the rows of a step"
    return f"give {keys}, which keeps the rows of a step, or gradient_checkpointing true"


@contextmanager
def evaluating_in_memory(rows: int) -> Iterator[None]:
    """Raises UserError: out of memory in an evaluation, whose batch has a key of its own."""
    try:
        yield
    except RuntimeError as error:
        if not should_reduce_batch_size(error.__cause__ or error):
            raise
        keys = f"--per_device_eval_batch_size {max(1, rows // 2)}"
        raise UserError(f"out of memory in an evaluation with {rows} rows at once", f"give {keys}") from error


class _Start:
    """Weights and random state before the first step, which a failed attempt may have changed."""

    def __init__(self, trainer: RecipeTrainer):
        self.weights = {name: value.to("cpu", copy=True) for name, value in trainer.model.state_dict().items()}
        self.random = torch.get_rng_state()
        self.device_random = torch.cuda.get_rng_state() if torch.cuda.is_available() else None

    def restore(self, trainer: RecipeTrainer) -> None:
        trainer.optimizer = None
        trainer.model.zero_grad(set_to_none=True)
        clear_device_cache(garbage_collection=True)
        trainer.model.load_state_dict(self.weights)
        torch.set_rng_state(self.random)
        if self.device_random is not None:
            torch.cuda.set_rng_state(self.device_random)
