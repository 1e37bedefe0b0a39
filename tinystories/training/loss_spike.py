"""Stops training at a step that goes wrong, before the optimizer applies it.

A step goes wrong if its loss or its gradients are not finite, or if its loss is a spike (`is_spike`). The run ends with
one line and exit status 2, its checkpoints stay, and the rows of the step are written to the run folder:

    stopped_at_step_N.jsonl    {"step", "loss", "text"} for each row, the worst first; loss in nats per token

Each step costs one sum over the processes and reading two numbers. On a GPU reading them waits for the step, which the
Trainer does anyway to count tokens.
"""

import json
import math
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from accelerate.utils import gather_object
from transformers import TrainerCallback

from tinystories.data.packing import IGNORED
from tinystories.errors import GuardError
from tinystories.evaluation.scoring import token_nll
from tinystories.training.recipe_trainer import RecipeTrainer


WINDOW = 100  # a loss is compared with those of so many steps before it
FEWEST = 20  # fewer are not enough to compare with
SIGMAS = 10  # robust standard deviations


def is_spike(loss: float, before: Sequence[float], nats: float) -> bool:
    """Whether `loss` is more than `nats`, and more than 10 robust standard deviations, above the median of `before`.

    Both, so that a healthy run is stopped neither by small batches of very different stories, whose losses vary much,
    nor by losses that hardly vary.
    """
    if not nats or len(before) < FEWEST:
        return False
    middle = median(before)
    sigma = 1.4826 * median(abs(value - middle) for value in before)
    return loss - middle > max(nats, SIGMAS * sigma)


class LossSpikeGuard(TrainerCallback):
    """Records every batch and loss of the training; `check` raises before the optimizer's step.

    max_loss_spike: nats, as in `is_spike`; with 0 only numbers that are not finite stop the run.
    """

    def __init__(self, max_loss_spike: float):
        self.max_loss_spike = max_loss_spike
        self.before: deque[float] = deque(maxlen=WINDOW)
        self.batches: list[dict[str, torch.Tensor]] = []
        self.losses: list[torch.Tensor] = []

    def on_step_begin(self, args, state, control, **kwargs):
        self.batches, self.losses = [], []

    def record(self, batch: dict[str, torch.Tensor], loss: torch.Tensor) -> None:
        """Record a batch of the step and its share of the loss."""
        self.batches.append(batch)
        self.losses.append(loss)

    def check(self, trainer: RecipeTrainer, grad_norm: torch.Tensor | float) -> tuple[float, float]:
        """Loss and gradient norm of the step, the same on every process.

        Raises:
            GuardError: the step went wrong, on all processes together.
        """
        mine = sum(self.losses, torch.zeros_like(self.losses[0]))
        both = torch.stack([mine, torch.as_tensor(grad_norm, device=mine.device).to(mine.dtype)])
        loss, norm = trainer.accelerator.reduce(both, "mean").tolist()
        reason = self._reason(loss, norm, scaled=trainer.args.fp16)
        if reason is not None:
            raise GuardError(*self._report(trainer, *reason))
        self.before.append(loss)
        return loss, norm

    def _reason(self, loss: float, grad_norm: float, scaled: bool) -> tuple[str, str] | None:
        """What is wrong and what to do. In fp16 the loss scaler tries scales that are too large and skips the step."""
        remedy = "lower the learning_rate, or set max_grad_norm"
        if not math.isfinite(loss):
            return "the loss is not finite", remedy
        if not math.isfinite(grad_norm) and not scaled:
            return "the gradients are not finite", remedy
        if is_spike(loss, self.before, self.max_loss_spike):
            usual = median(self.before)
            remedy = "if they are good stories, " + remedy + "; max_loss_spike 0 turns this check off"
            return f"the loss jumped from {usual:.2f} to {loss:.2f}", remedy
        return None

    def _report(self, trainer: RecipeTrainer, what: str, remedy: str) -> tuple[str, str]:
        """Write the rows of the step, of all processes, to the run folder; returns message and remedy."""
        step, folder = trainer.state.global_step + 1, Path(trainer.args.output_dir)
        rows = gather_object([row for batch in self.batches for row in _scored_rows(trainer, batch)])
        rows.sort(key=lambda row: math.inf if row["loss"] is None else row["loss"], reverse=True)
        path = folder / f"stopped_at_step_{step}.jsonl"
        if trainer.is_world_process_zero():
            with path.open("w", encoding="utf-8") as file:
                file.writelines(json.dumps({"step": step, **row}, ensure_ascii=False) + "\n" for row in rows)
        return f"{what} at step {step}, whose rows are in {path}", f"{remedy}. Checkpoints before it are kept"


@torch.no_grad()
def _scored_rows(trainer: RecipeTrainer, batch: dict[str, torch.Tensor]) -> list[dict[str, Any]]:
    """Text and loss of each row by the weights before the step; None for a loss that is not finite."""
    trainer.model.eval()
    inputs = trainer._prepare_inputs(dict(batch))
    labels = inputs.pop("labels")
    nll = token_nll(trainer.model(**inputs).logits, labels).sum(-1)
    means = (nll / (labels[:, 1:] != IGNORED).sum(-1)).tolist()
    padding = trainer.processing_class.pad_token_id
    texts = [trainer.processing_class.decode(ids[ids != padding]) for ids in inputs["input_ids"]]
    return [
        {"loss": mean if math.isfinite(mean) else None, "text": text} for mean, text in zip(means, texts, strict=True)
    ]
