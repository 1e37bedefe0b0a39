"""transformers' Trainer with the types that its parts have in this project."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import datasets
import torch
from torch.optim.lr_scheduler import LRScheduler
from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback

from modeling_tinystories import TinyStoriesForCausalLM
from tinystories.config.arguments import RunArguments
from tinystories.config.recipe import Recipe
from tinystories.data.packing import Rows
from tinystories.evaluation.scoring import ScoringRows
from tinystories.training.throughput import ThroughputCallback


class StepRecord(Protocol):
    """The batches of the last step, and their shares of its loss."""

    batches: list[dict[str, torch.Tensor]]
    losses: list[torch.Tensor]

    def read(self) -> None:
        """Wait for the numbers of the last step, and look at them."""


class RecipeTrainer(Trainer):
    """A Trainer for the run of a recipe. `StoryTrainer` is the one that a run uses."""

    args: RunArguments
    model: TinyStoriesForCausalLM
    processing_class: PreTrainedTokenizerBase
    train_dataset: Rows
    optimizer: torch.optim.Optimizer | None
    lr_scheduler: LRScheduler | None  # type: ignore[assignment]  # the Trainer itself has others than LambdaLR
    hub_model_id: str | None  # type: ignore[assignment]  # annotated as the None that it begins with
    recipe: Recipe
    evaluation: ScoringRows
    training_stories: ScoringRows
    throughput: ThroughputCallback
    loss_spike_guard: StepRecord
    step_rows: list[torch.Tensor]  # token ids of the micro-batches of the last step
    rows_per_step: int  # of this process
    num_rows: int  # to train on
    check_epoch: Callable[[int], object] | None = None  # of all its rows, where each epoch has others
    stream: object  # a `StreamFeed` where the rows are not on disk; `train_dataset` is then a sample. Else None

    def progress(self) -> dict[str, Any]:
        """What a checkpoint holds beside the Trainer's own state, to be written as JSON."""
        raise NotImplementedError

    def as_trained(self, batch: dict[str, Any]) -> dict[str, Any]:
        """What the model is given for a batch in a training step."""
        raise NotImplementedError

    def other_weights(self) -> AbstractContextManager[None]:
        """In an evaluation of an average of the weights: the trained ones in the model. Else nothing."""
        raise NotImplementedError

    def rehearsal(
        self, model: TinyStoriesForCausalLM, recipe: Recipe, rows: datasets.Dataset, callback: TrainerCallback
    ) -> "RecipeTrainer":
        """A Trainer of the same class for another model, other rows and a changed recipe."""
        raise NotImplementedError
