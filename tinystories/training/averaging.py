"""An exponential moving average of the weights (`ema_decay`): the model of the run is the average, not the last step.

The optimizer trains the weights as ever, and after each step the average moves towards them. Whatever looks at the
model outside of a step sees the average: evaluations score it, `model.safetensors` of a checkpoint and of the finished
run holds it, and so the best checkpoint is that of the best average. A checkpoint also holds the trained weights
(`TRAINED`), from which a resumed run continues to the bit; they are not published.

In the first steps the average covers about the last tenth of them, so that it does not hold the fresh weights.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TrainerCallback
from transformers.trainer_utils import TrainOutput

from tinystories.errors import UserError
from tinystories.training.checkpointing import AtomicCheckpointTrainer


TRAINED = "trained_weights.safetensors"


def decay_of_step(step: int, decay: float) -> float:
    """The share of the average that stays at `step`, from 1."""
    return min(decay, step / (step + 9))


class WeightAverage:
    """The average of the weights of `model`, on its device.

    others: in the order of `model.parameters()`; the average, or the trained weights while they are `exchanged`.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.names = [name for name, _ in model.named_parameters()]
        self.weights: list[torch.Tensor] = list(model.parameters())
        self.others = [weight.detach().clone() for weight in self.weights]

    @torch.no_grad()
    def update(self, step: int) -> None:
        torch._foreach_lerp_(self.others, self.weights, 1 - decay_of_step(step, self.decay))

    @torch.no_grad()
    def exchange(self) -> None:
        """Put the others into the model, where they are a copy: compiled code knows the weights by their place."""
        for weight, other in zip(self.weights, self.others, strict=True):
            before = weight.detach().clone()
            weight.copy_(other)
            other.copy_(before)

    @contextmanager
    def exchanged(self) -> Iterator[None]:
        self.exchange()
        try:
            yield
        finally:
            self.exchange()

    def save_others(self, file: Path) -> None:
        save_file({name: other.cpu() for name, other in zip(self.names, self.others, strict=True)}, file)

    @torch.no_grad()
    def load_trained(self, file: Path) -> None:
        """Into the model, whose average was loaded. Raises UserError: they are not there."""
        if not file.is_file():
            raise UserError(f"{file.parent} cannot be resumed: {file.name} is missing")
        saved = load_file(file)
        for name, weight in zip(self.names, self.weights, strict=True):
            weight.copy_(saved[name])


class UpdateAverage(TrainerCallback):
    """After each step, before anything is evaluated or saved."""

    def __init__(self, average: WeightAverage):
        self.average = average

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.average.update(state.global_step)


class AveragingTrainer(AtomicCheckpointTrainer):
    """A Trainer whose evaluations and checkpoints are of the average, where the recipe asks for one."""

    average: WeightAverage | None = None

    def begin_average(self, resumed: str | None) -> None:
        """Before the first step of a session; the model has the weights of `model.safetensors` of `resumed`."""
        if not self.args.ema_decay:
            return
        if self.is_fsdp_enabled:
            raise UserError("ema_decay averages whole weights, and FSDP cuts them up", "leave one of the two out")
        self.average = WeightAverage(self.model, self.args.ema_decay)
        if resumed is not None:
            self.average.load_trained(Path(resumed, TRAINED))
        self.callback_handler.pop_callback(UpdateAverage)
        self.callback_handler.callbacks.insert(0, UpdateAverage(self.average))

    @contextmanager
    def other_weights(self) -> Iterator[None]:
        """The average in the model in place of the trained weights, or the other way round."""
        if self.average is None:
            yield
        else:
            with self.average.exchanged():
                yield

    def _evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        with self.other_weights():
            return super()._evaluate(*args, **kwargs)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        with self.other_weights():
            super()._save_checkpoint(model, trial)

    def _write_progress(self, folder: Path) -> None:
        super()._write_progress(folder)
        if self.average is not None:
            self.average.save_others(folder / TRAINED)

    def _finalize_training(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """The average stays in the model, if no better one is loaded after it."""
        if self.average is not None:
            self.average.exchange()
            self.average = None
            self.callback_handler.pop_callback(UpdateAverage)
        return super()._finalize_training(*args, **kwargs)
