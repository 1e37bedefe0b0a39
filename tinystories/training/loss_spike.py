"""Stops training at a step that goes wrong, before the optimizer applies it.

A step goes wrong if its loss or its gradients are not finite, or if its loss is a spike (`is_spike`). The run ends with
one line and exit status 2, its checkpoints stay, and the rows of the step are written to the run folder:

    stopped_at_step_N.jsonl    {"step", "loss", "text"} for each row, the worst first; loss in nats per token

Each step costs one sum over the processes and reading two numbers. To read them at once, the host would wait for a GPU
in every step. With torch's fused AdamW it does not: the GPU itself leaves out the update of a step that went wrong, and
the host reads the two numbers one step later, or before anything is logged, evaluated or saved. The weights are those
before the step in any case.
"""

import json
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
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


def went_wrong(both: torch.Tensor, before: torch.Tensor, nats: float) -> torch.Tensor:
    """`is_spike`, or a number that is not finite, without reading anything: bool, on the device of the numbers.

    both: loss and gradient norm of a step. before: losses of the steps before it, of float64.
    """
    wrong = ~both.isfinite().all()
    if not nats or len(before) < FEWEST:
        return wrong
    middle = before.quantile(0.5)
    sigma = 1.4826 * (before - middle).abs().quantile(0.5)
    return wrong | (both[0] - middle > (SIGMAS * sigma).clamp(min=nats))


@dataclass
class Measured:
    """A step whose numbers are not read yet: loss, gradient norm and whether it was left out, on their way."""

    step: int
    numbers: torch.Tensor
    arrived: torch.cuda.Event | None
    batches: list[dict[str, torch.Tensor]]
    learning_rate: float


class LossSpikeGuard(TrainerCallback):
    """Records every batch and loss of the training; `check` raises before the optimizer's step.

    max_loss_spike: nats, as in `is_spike`; with 0 only numbers that are not finite stop the run.
    """

    trainer: RecipeTrainer

    def __init__(self, max_loss_spike: float):
        self.max_loss_spike = max_loss_spike
        self.before: deque[float] = deque(maxlen=WINDOW)
        self.batches: list[dict[str, torch.Tensor]] = []
        self.losses: list[torch.Tensor] = []
        self.pending: Measured | None = None
        self.is_deferred = False
        self.on_device = torch.empty(0, dtype=torch.float64)  # `before`, where the losses are computed

    def on_train_begin(self, args, state, control, optimizer=None, **kwargs):
        self.pending = None
        self.is_deferred = args.device.type == "cuda" and leaves_out_steps(self.trainer, optimizer)
        self.on_device = torch.tensor(list(self.before), dtype=torch.float64, device=args.device)

    def on_step_begin(self, args, state, control, **kwargs):
        self.batches, self.losses = [], []

    def record(self, batch: dict[str, torch.Tensor], loss: torch.Tensor) -> None:
        """Record a batch of the step and its share of the loss."""
        self.batches.append(batch)
        self.losses.append(loss)

    def check(self, grad_norm: torch.Tensor | float, learning_rate: float) -> None:
        """Look at the loss and the gradient norm of the step, the same on every process.

        Raises:
            GuardError: the step, or the one before it, went wrong, on all processes together.
        """
        mine = sum(self.losses, torch.zeros_like(self.losses[0]))
        both = torch.stack([mine, torch.as_tensor(grad_norm, device=mine.device).to(mine.dtype)])
        both = self.trainer.accelerator.reduce(both, "mean")
        self.read()
        numbers = self._leave_out_if_wrong(both) if self.is_deferred else both
        step, arrived = self.trainer.state.global_step + 1, None
        if self.is_deferred and numbers.is_cuda:
            numbers = torch.empty(3, dtype=both.dtype, pin_memory=True).copy_(numbers, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        self.pending = Measured(step, numbers, arrived, self.batches, learning_rate)
        if not self.is_deferred:
            self.read()

    def _leave_out_if_wrong(self, both: torch.Tensor) -> torch.Tensor:
        """Tell the optimizer, on the device, whether to leave the step out; returns `both` and that as a number."""
        wrong = went_wrong(both, self.on_device, self.max_loss_spike).to(both.dtype)
        optimizer: Any = getattr(self.trainer.optimizer, "optimizer", self.trainer.optimizer)  # accelerate wraps it
        optimizer.found_inf = wrong.to(torch.float32)
        self.on_device = torch.cat([self.on_device, both[:1].double()])[-WINDOW:]
        return torch.cat([both, wrong.unsqueeze(0)])

    def read(self) -> None:
        """Read the numbers of the last step, if they are not read yet. Raises GuardError: it went wrong."""
        if self.pending is None:
            return
        measured, self.pending = self.pending, None
        if measured.arrived is not None:
            measured.arrived.synchronize()
        loss, norm, *left_out = measured.numbers.tolist()
        reason = self._reason(loss, norm, scaled=self.trainer.args.fp16)
        if reason is None and any(left_out):  # a rounding apart from `is_spike`
            reason = f"the loss jumped to {loss:.2f}", "lower the learning_rate, or set max_grad_norm"
        if reason is not None:
            raise GuardError(*self._report(measured, *reason))
        self.before.append(loss)
        self.trainer.throughput.step(loss, norm, measured.learning_rate)

    def on_train_end(self, args, state, control, **kwargs):
        self.read()

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

    def _report(self, measured: Measured, what: str, remedy: str) -> tuple[str, str]:
        """Write the rows of the step, of all processes, to the run folder; returns message and remedy."""
        trainer, step = self.trainer, measured.step
        folder = Path(trainer.args.output_dir)
        rows = gather_object([row for batch in measured.batches for row in _scored_rows(trainer, batch)])
        rows.sort(key=lambda row: math.inf if row["loss"] is None else row["loss"], reverse=True)
        path = folder / f"stopped_at_step_{step}.jsonl"
        if trainer.is_world_process_zero():
            with path.open("w", encoding="utf-8") as file:
                file.writelines(json.dumps({"step": step, **row}, ensure_ascii=False) + "\n" for row in rows)
        return f"{what} at step {step}, whose rows are in {path}", f"{remedy}. Checkpoints before it are kept"


def leaves_out_steps(trainer: RecipeTrainer, optimizer: torch.optim.Optimizer) -> bool:
    """Whether the optimizer reads, on its device, that a step is to be left out: torch's fused AdamW does.

    In fp16 the loss scaler tells it that itself; with FSDP its numbers are in pieces.
    """
    inner = getattr(optimizer, "optimizer", optimizer)
    is_fused = type(inner) is torch.optim.AdamW and all(group["fused"] for group in inner.param_groups)
    return is_fused and not trainer.args.fp16 and not trainer.is_fsdp_enabled


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
