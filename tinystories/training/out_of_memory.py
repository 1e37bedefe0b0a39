"""Out of memory: with `auto_find_batch_size` the rows of a step pass in smaller parts, and a step stays what it was.

    python run_clm.py RECIPE --auto_find_batch_size true

Without it, or where the run has already made steps, it ends with one line that names the two keys to give.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from transformers import Trainer

from tinystories.errors import UserError


logger = logging.getLogger(__name__)


def train_in_memory(trainer: Trainer, loop: Callable[..., Any], rows: int, rows_per_step: int, **kwargs) -> Any:
    """What `loop(rows, **kwargs)`, the Trainer's own, returns with the most rows that fit.

    rows: at once on a device; rows_per_step: rows x accumulation, which is kept.

    Raises:
        UserError: out of memory in the middle of a run, in several processes, with a single row, or unasked.
    """
    if rows_per_step % rows:  # of a checkpoint made with a batch that does not fit the recipe of now
        rows = trainer.args.per_device_train_batch_size
    start = _Start(trainer) if trainer.args.auto_find_batch_size else None
    while True:
        trainer.args.gradient_accumulation_steps = rows_per_step // rows
        try:
            return loop(rows, **kwargs)
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
            fewer = max((n for n in range(1, rows) if rows % n == 0), default=None)
            reason = _why_not_again(trainer, fewer, start)
            if reason:
                raise UserError(f"out of memory with {rows} rows at once on a device: {reason}") from error
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


def _why_not_again(trainer: Trainer, fewer: int | None, start: "_Start | None") -> str | None:
    if fewer is None:
        return "give a smaller block_size or model, or gradient_checkpointing true"
    keys = (
        f"--per_device_train_batch_size {fewer} --gradient_accumulation_steps "
        f"{trainer.args.gradient_accumulation_steps * trainer.args.per_device_train_batch_size // fewer}"
    )
    if trainer.state.global_step > getattr(trainer, "_initial_global_step", 0):
        return f"at step {trainer.state.global_step}; go on with --resume {keys}, which keeps the rows of a step"
    if start is None or trainer.args.world_size > 1:
        return f"give {keys}, which keeps the rows of a step, or gradient_checkpointing true"
    return None


@contextmanager
def evaluating_in_memory(rows: int) -> Iterator[None]:
    """Raises UserError: out of memory in an evaluation, whose batch is not that of the training."""
    try:
        yield
    except RuntimeError as error:
        if not should_reduce_batch_size(error.__cause__ or error):
            raise
        keys = f"--per_device_eval_batch_size {max(1, rows // 2)}"
        raise UserError(f"out of memory in an evaluation with {rows} rows at once: give {keys}") from error


class _Start:
    """Weights and random state before the first step, which a failed attempt may have touched."""

    def __init__(self, trainer: Trainer):
        self.weights = {name: value.to("cpu", copy=True) for name, value in trainer.model.state_dict().items()}
        self.random = torch.get_rng_state()
        self.device_random = torch.cuda.get_rng_state() if torch.cuda.is_available() else None

    def restore(self, trainer: Trainer) -> None:
        trainer.optimizer = None
        trainer.model.zero_grad(set_to_none=True)
        clear_device_cache(garbage_collection=True)
        trainer.model.load_state_dict(self.weights)
        torch.set_rng_state(self.random)
        if self.device_random is not None:
            torch.cuda.set_rng_state(self.device_random)
