"""Checkpoints of a run: each is complete or absent, and the most useful ones are kept.

The Trainer writes a checkpoint into another folder; it is renamed to `checkpoint-N` when all of it is on the disk and
sealed (atomic.py). `save_total_limit` keeps the best one, the last one, and of the others those that are farthest apart
on a logarithmic scale of steps, where a model changes about as much from each to the next.
"""

import json
import logging
import math
import os
import shutil
from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import SaveStrategy, TrainOutput

from tinystories.atomic import SEAL, damage, discard, is_no_room, move_aside, seal
from tinystories.errors import UserError, one_line
from tinystories.run_files import CARD, PROGRESS, checkpoints, step_of
from tinystories.training.recipe_trainer import RecipeTrainer


logger = logging.getLogger(__name__)

UNFINISHED = "unfinished-checkpoint"
_MAY_BE_EDITED = (CARD, "generation_config*.json")


def publish_checkpoint(unfinished: Path, folder: Path) -> None:
    """Seal `unfinished` and rename it to `folder`, in place of what an interrupted attempt may have left there."""
    if not unfinished.exists():  # another machine that shares the disk has done it
        return
    (unfinished / SEAL).unlink(missing_ok=True)
    seal(unfinished, belongs=lambda file: not any(file.match(pattern) for pattern in _MAY_BE_EDITED))
    replaced = move_aside(folder) if folder.exists() else None
    os.replace(unfinished, folder)
    for leftover in (unfinished.parent, replaced):
        if leftover is not None:
            shutil.rmtree(leftover, ignore_errors=True)


def check_undamaged(checkpoint: Path) -> None:
    """Raises UserError: a file of the checkpoint was cut off, changed or removed, or it has no optimizer."""
    found = damage(checkpoint)
    if not found and not any(path.name.startswith("optimizer") for path in checkpoint.iterdir()):
        found = "it has no optimizer state (save_only_model)"
    if found:
        earlier = [path for path in checkpoints(checkpoint.parent) if step_of(path) < step_of(checkpoint)]
        then = f"--resume continues from {earlier[-1]}" if earlier else "--resume begins again"
        raise UserError(f"{checkpoint} is damaged or cannot be read: {found}", f"move this folder away, and {then}")


def thin_out(folder: Path, limit: int | None, best: str | Path | None) -> None:
    """Remove checkpoints until `limit` are left (None or 0: keep all); the best and the last one always stay."""
    kept = checkpoints(folder)
    for step in steps_to_drop([step_of(path) for path in kept], limit, step_of(best) if best else None):
        discard(folder / f"checkpoint-{step}")


def steps_to_drop(steps: list[int], limit: int | None, best: int | None) -> list[int]:
    """Of ascending `steps`, those to remove: first where the neighbours are nearest on a logarithmic scale."""
    kept, dropped = list(steps), []
    while limit and len(kept) > max(limit, 2 if best in kept[:-1] else 1):
        gaps = {
            step: math.log(after) - math.log(before)
            for before, step, after in zip([1, *kept], kept, kept[1:], strict=False)
            if step != best
        }
        dropped.append(min(gaps, key=lambda step: gaps[step]))
        kept.remove(dropped[-1])
    return dropped


def at_the_end_of_an_epoch(state: TrainerState) -> bool:
    """Whether this step may still be evaluated because its epoch or the run ends: its checkpoint waits for that."""
    epoch = state.epoch or 0.0
    return math.isclose(epoch, round(epoch), abs_tol=1e-9) or state.global_step >= state.max_steps


class AtomicCheckpointTrainer(RecipeTrainer):
    """A Trainer whose checkpoints are complete or absent; it finds the best one after the run folder was moved."""

    staging: Path | None = None  # the folder a checkpoint is being written into

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write the checkpoint into another folder, then rename it; a failure leaves the earlier ones as they are."""
        run, name = Path(self.args.output_dir), f"checkpoint-{self.state.global_step}"
        self.staging = run / UNFINISHED
        try:
            super()._save_checkpoint(model, trial)
            if self.args.should_save:
                self._write_progress(self.staging / name)
            self.accelerator.wait_for_everyone()
            if self.is_world_process_zero():
                publish_checkpoint(self.staging / name, run / name)
            self.accelerator.wait_for_everyone()
            if self.is_local_process_zero():  # on a machine with a disk of its own
                publish_checkpoint(self.staging / name, run / name)
        except Exception as error:
            if not is_no_room(error):
                raise
            shutil.rmtree(self.staging, ignore_errors=True)
            earlier = checkpoints(run)
            last = earlier[-1] if earlier else "none"
            raise UserError(
                f"{run / name} could not be saved, the disk is full ({one_line(error)}); the last good checkpoint is "
                f"{last}",
                "make room; the same command with --resume continues from there",
            ) from error
        finally:
            self.staging = None
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            thin_out(run, self.args.save_total_limit, self.state.best_model_checkpoint)

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.staging or super()._get_output_dir(trial))

    def _write_progress(self, folder: Path) -> None:
        """Add what the Trainer does not save, and correct its path of the best checkpoint, which is in `staging`."""
        (folder / PROGRESS).write_text(json.dumps(self.progress()) + "\n", encoding="utf-8")
        if self.state.best_global_step is not None:
            best = Path(self.args.output_dir, f"checkpoint-{self.state.best_global_step}")
            self.state.best_model_checkpoint = str(best)
        self.state.save_to_json(str(folder / TRAINER_STATE_NAME))

    def _init_training_state(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        """The best checkpoint is looked for in the current run folder, since it may have been moved."""
        trained = super()._init_training_state(*args, **kwargs)
        self._locate_best()
        return trained

    def _locate_best(self) -> None:
        """Set the path of the best checkpoint; one that is missing or damaged is not the best any more."""
        best = self.state.best_global_step
        path = Path(self.args.output_dir, f"checkpoint-{best}")
        found = None if best is None else damage(path)
        if found:
            logger.warning(
                "the best checkpoint, %s, cannot be used (%s): the best of the later ones is kept instead", path, found
            )
            self.state.best_global_step = self.state.best_metric = None
        self.state.best_model_checkpoint = str(path) if self.state.best_global_step is not None else None

    def _load_best_model(self) -> None:
        """If the best checkpoint cannot be used, keep the last weights; the Trainer would report them as the best."""
        self._locate_best()
        if self.state.best_model_checkpoint is not None:
            super()._load_best_model()

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Save a new best at once, whatever the strategy: it is loaded at the end."""
        is_new_best = super()._determine_best_metric(metrics, trial)
        if is_new_best and self.args.load_best_model_at_end:
            self.control.should_save = True
        return is_new_best

    def _finalize_training(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """With a limit of 1 the Trainer would delete the last checkpoint here, and a longer run could not resume."""
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            return super()._finalize_training(*args, **kwargs)
        finally:
            self.args.save_total_limit = limit


class LogSpacedCheckpoints(TrainerCallback):
    """Also saves at steps 1, 2, 4, 8, ... until the first save of the recipe's own strategy."""

    def on_step_end(self, args, state, control, **kwargs):
        if args.save_strategy == SaveStrategy.STEPS:
            early = state.global_step < state.save_steps
        else:
            early = args.save_strategy != SaveStrategy.NO and state.epoch < 1
        is_power_of_two = state.global_step & (state.global_step - 1) == 0
        if early and is_power_of_two and not at_the_end_of_an_epoch(state):
            control.should_save = True
