"""Train a recipe with its labels shifted twice: the model that no metric of docs/evaluation.md may reward.

    python benchmarks/shifted_labels.py configs/tinystories-cpu.yaml --train_file stories.txt --output_dir runs/shifted

It learns the token after the next, and its training loss looks healthy. Everything else is run_clm.py with the same
arguments, without the guards, which would stop it before the first step; the weights are those of the last step.
"""

import sys
from pathlib import Path

import torch


sys.path.insert(0, str(Path(__file__).parent.parent))

from tinystories.commands import train
from tinystories.console import run_command
from tinystories.data.packing import IGNORED
from tinystories.training.trainer import StoryTrainer


class ShiftedTwice(StoryTrainer):
    """The mistake: a batch whose labels are shifted already goes to a model that shifts them."""

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        labels = torch.nn.functional.pad(inputs["labels"][:, 1:], (0, 1), value=IGNORED)
        return super().training_step(model, {**inputs, "labels": labels}, num_items_in_batch)


def main(argv: list[str]) -> None:
    sys.modules["tinystories.training.build"].StoryTrainer = ShiftedTwice
    train.main([*argv, "--skip_guards", "true", "--load_best_model_at_end", "false"])


if __name__ == "__main__":
    run_command(main)
