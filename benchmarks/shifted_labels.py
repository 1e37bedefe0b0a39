"""Train a recipe with labels shifted twice: a faulty model that no metric of docs/evaluation.md may reward.

    python benchmarks/shifted_labels.py configs/tinystories-cpu.yaml --train_file stories.txt --output_dir runs/shifted

The model learns to predict the token after the next, and its training loss looks normal. The rest is run_clm.py with
the same arguments, without the guards, which would stop the run before its first step, and with the last weights.
"""

import sys
from pathlib import Path

import torch


sys.path.insert(0, str(Path(__file__).parent.parent))

from tinystories.commands import train
from tinystories.console import run_command
from tinystories.data.packing import IGNORED
from tinystories.training import build
from tinystories.training.trainer import StoryTrainer


class ShiftedTwice(StoryTrainer):
    """Shifts the labels of a batch, although the model shifts them too."""

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        labels = torch.nn.functional.pad(inputs["labels"][:, 1:], (0, 1), value=IGNORED)
        return super().training_step(model, {**inputs, "labels": labels}, num_items_in_batch)


def main(argv: list[str]) -> None:
    build.StoryTrainer = ShiftedTwice
    train.main([*argv, "--skip_guards", "true", "--load_best_model_at_end", "false"])


if __name__ == "__main__":
    run_command(main)
