"""Checkpoints of a run: each is whole or not there, and the right ones are kept.

The Trainer writes a checkpoint into a folder beside its place; it becomes `checkpoint-N` when all of it is on the disk
and sealed (atomic.py). Kept are the best one, the last one and, as far as `save_total_limit` allows, those between them
that lie farthest apart on a logarithmic scale of steps, where a model changes about as much from each to the next.
"""

import json
import logging
import math
import os
import shutil
from pathlib import Path

from transformers import TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import SaveStrategy

from tinystories.atomic import SEAL, damage, discard, is_no_room, move_aside, seal
from tinystories.errors import UserError, one_line
from tinystories.run_files import CARD, PROGRESS, checkpoints, step_of


logger = logging.getLogger(__name__)

UNFINISHED = "unfinished-checkpoint"
_MAY_BE_EDITED = (CARD, "generation_config*.json")


def publish_checkpoint(unfinished: Path, folder: Path) -> None:
    """Seal what was written aside and give it its place; what lay there of an interrupted attempt goes."""
    if not unfinished.exists():  # another machine that shares the disk was first
        return
    (unfinished / SEAL).unlink(missing_ok=True)
    seal(unfinished, belongs=lambda file: not any(file.match(pattern) for pattern in _MAY_BE_EDITED))
    replaced = move_aside(folder) if folder.exists() else None
    os.replace(unfinished, folder)
    for leftover in (unfinished.parent, replaced):
        if leftover is not None:
            shutil.rmtree(leftover, ignore_errors=True)


def check_undamaged(checkpoint: Path) -> None:
    """Raises UserError: a file of the checkpoint was cut off, changed or removed."""
    found = damage(checkpoint)
    if not found and not any(path.name.startswith("optimizer") for path in checkpoint.iterdir()):
        found = "it holds no optimizer (save_only_model)"
    if found:
        earlier = [path for path in checkpoints(checkpoint.parent) if step_of(path) < step_of(checkpoint)]
        then = f"--resume goes on at {earlier[-1]}" if earlier else "--resume begins again"
        raise UserError(f"{checkpoint} is damaged: {found}", f"move this folder away, and {then}")


def thin_out(folder: Path, limit: int | None, best: str | Path | None) -> None:
    """Remove checkpoints until `limit` are left (None or 0: keep all); the best and the last one always stay."""
    kept = checkpoints(folder)
    for step in steps_to_drop([step_of(path) for path in kept], limit, step_of(best) if best else None):
        discard(folder / f"checkpoint-{step}")


def steps_to_drop(steps: list[int], limit: int | None, best: int | None) -> list[int]:
    """Of ascending `steps`, those whose neighbours lie nearest to each other on a logarithmic scale."""
    kept, dropped = list(steps), []
    while limit and len(kept) > max(limit, 2 if best in kept[:-1] else 1):
        gaps = {
            step: math.log(after) - math.log(before)
            for before, step, after in zip([1, *kept], kept, kept[1:], strict=False)
            if step != best
        }
        dropped.append(min(gaps, key=gaps.get))
        kept.remove(dropped[-1])
    return dropped


def at_the_end_of_an_epoch(state) -> bool:
    """Whether more is to come at this step, such as an evaluation of the epoch: its checkpoint waits for that."""
    return math.isclose(state.epoch, round(state.epoch), abs_tol=1e-9) or state.global_step >= state.max_steps


class AtomicCheckpointMixin:
    """Stands before `Trainer` among the bases; `progress()` gives what is saved beside the Trainer's own state."""

    staging: Path | None = None  # where a checkpoint is written, while it is

    def _save_checkpoint(self, model, trial) -> None:
        """Written aside and then put in its place, whole; a failure leaves the earlier ones as they are."""
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
            if self.is_local_process_zero():  # of a machine that has a disk of its own
                publish_checkpoint(self.staging / name, run / name)
        except Exception as error:
            if not is_no_room(error):
                raise
            shutil.rmtree(self.staging, ignore_errors=True)
            last = (checkpoints(run) or ["none"])[-1]
            raise UserError(
                f"{run / name} could not be saved, the disk is full ({one_line(error)}); the last good checkpoint is "
                f"{last}: make room, and the same command with --resume goes on there"
            ) from error
        finally:
            self.staging = None
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            thin_out(run, self.args.save_total_limit, self.state.best_model_checkpoint)

    def _get_output_dir(self, trial) -> str:
        return str(self.staging or super()._get_output_dir(trial))

    def _write_progress(self, folder: Path) -> None:
        """What the Trainer does not save; and the best checkpoint, which it looked for where this one is written."""
        (folder / PROGRESS).write_text(json.dumps(self.progress()) + "\n", encoding="utf-8")
        if self.state.best_global_step is not None:
            best = Path(self.args.output_dir, f"checkpoint-{self.state.best_global_step}")
            self.state.best_model_checkpoint = str(best)
        self.state.save_to_json(str(folder / TRAINER_STATE_NAME))

    def _init_training_state(self, *args, **kwargs):
        """The best checkpoint is found again where the run folder lies now."""
        trained = super()._init_training_state(*args, **kwargs)
        self._find_the_best()
        return trained

    def _find_the_best(self) -> None:
        """Where the run folder lies now. One that is gone or damaged is no best any more."""
        best = self.state.best_global_step
        path = Path(self.args.output_dir, f"checkpoint-{best}")
        found = None if best is None else damage(path)
        if found:
            logger.warning(
                "the best checkpoint, %s, is lost (%s): the best is looked for among the later ones", path, found
            )
            self.state.best_global_step = self.state.best_metric = None
        self.state.best_model_checkpoint = str(path) if self.state.best_global_step is not None else None

    def _load_best_model(self) -> None:
        """Where the best weights are gone, the Trainer keeps the last ones and calls them the best; we do not."""
        self._find_the_best()
        if self.state.best_model_checkpoint is not None:
            super()._load_best_model()

    def _determine_best_metric(self, metrics, trial) -> bool:
        """A new best is saved at once, whatever the strategy: it is to be loaded at the end."""
        is_new_best = super()._determine_best_metric(metrics, trial)
        if is_new_best and self.args.load_best_model_at_end:
            self.control.should_save = True
        return is_new_best

    def _finalize_training(self, *args, **kwargs):
        """With a limit of 1 the Trainer would now delete the last checkpoint, where a longer run would go on."""
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            return super()._finalize_training(*args, **kwargs)
        finally:
            self.args.save_total_limit = limit


class LogSpacedCheckpoints(TrainerCallback):
    """Also saves at steps 1, 2, 4, 8, ... as long as the strategy of the recipe has not saved yet."""

    def on_step_end(self, args, state, control, **kwargs):
        if args.save_strategy == SaveStrategy.STEPS:
            early = state.global_step < state.save_steps
        else:
            early = args.save_strategy != SaveStrategy.NO and state.epoch < 1
        is_power_of_two = state.global_step & (state.global_step - 1) == 0
        if early and is_power_of_two and not at_the_end_of_an_epoch(state):
            control.should_save = True
