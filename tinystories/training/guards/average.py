"""With `ema_decay`: what is scored and saved is the average, and what is trained is not.

Some elements of each weight are averaged a second time, in float64, from what the optimizer leaves in the model. They
are compared with the model at each evaluation, with both files of each checkpoint, and with the model at the end.
"""

import random
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import TrainerCallback

from tinystories.checkpoint.weights import weight_files
from tinystories.errors import GuardError
from tinystories.training.averaging import TRAINED, AveragingTrainer


ELEMENTS = 100  # of each weight
ROUNDING = 1e-5  # of a float32 average over hundreds of steps, as a share of the largest element


class AverageWitness(TrainerCallback):
    """Must come after the callback that updates the average, and does nothing where there is none."""

    trainer: AveragingTrainer

    def __init__(self, trainer: AveragingTrainer):
        self.trainer = trainer
        self.averaged: dict[str, torch.Tensor] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.averaged = {}
        if self.trainer.average is None:
            return
        drawn = random.SystemRandom()
        self.places = {
            name: torch.tensor(drawn.choices(range(weight.numel()), k=ELEMENTS), device=weight.device)
            for name, weight in self.trainer.model.named_parameters()
        }
        with self.trainer.other_weights():
            self.averaged = self._elements()

    def _elements(self) -> dict[str, torch.Tensor]:
        weights = self.trainer.model.named_parameters()
        return {name: weight.detach().reshape(-1)[self.places[name]].double() for name, weight in weights}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        stays = min(args.ema_decay, state.global_step / (state.global_step + 9))
        if self.averaged:
            trained = self._elements()
            self.averaged = {name: stays * one + (1 - stays) * trained[name] for name, one in self.averaged.items()}

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.averaged:
            self._compare(self._elements(), self.averaged, f"the weights that were scored at step {state.global_step}")

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        folder = Path(args.output_dir, f"checkpoint-{state.global_step}")
        if self.averaged and self.trainer.is_world_process_zero() and folder.is_dir():
            files = [(file, self.averaged) for file in weight_files(folder)]
            for file, wanted in [*files, (folder / TRAINED, self._elements())]:
                self._compare(self._in_file(file), wanted, str(file))

    def _in_file(self, file: Path) -> dict[str, torch.Tensor]:
        with safe_open(file, framework="pt") as tensors:
            names = [name for name in self.places if name in tensors.keys()]  # noqa: SIM118  # no iterator
            return {
                name: tensors.get_tensor(name)
                .reshape(-1)[self.places[name].cpu()]
                .double()
                .to(self.places[name].device)
                for name in names
            }

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.averaged and not (args.load_best_model_at_end and state.best_model_checkpoint):
            self._compare(self._elements(), self.averaged, "the weights at the end")

    def _compare(self, found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], where: str) -> None:
        for name, elements in found.items():
            apart, largest = (elements - wanted[name]).abs().max().item(), wanted[name].abs().max().item()
            if not apart <= ROUNDING * (largest + ROUNDING):
                raise GuardError(
                    f"{where}: {name} is not what ema_decay {self.trainer.args.ema_decay:g} makes of the steps: apart "
                    f"by up to {apart:.2e}, and its largest number is {largest:.2e}"
                )
