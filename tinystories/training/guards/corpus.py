"""What the corpus must be: readable text, and validation stories that are not in the training data."""

import logging

import datasets
import numpy as np

from tinystories.console import command_name
from tinystories.data.mojibake import repair_mojibake
from tinystories.errors import GuardError
from tinystories.training.recipe_trainer import RecipeTrainer


logger = logging.getLogger(__name__)

SAMPLE_STORIES = 1000
MOJIBAKE_WARNING, MOJIBAKE_ERROR = 0.001, 0.2  # shares of the stories


def check_text(train: datasets.Dataset) -> str:
    """The stories are not full of mojibake; some are read from all over the data."""
    places = np.linspace(0, len(train) - 1, min(SAMPLE_STORIES, len(train))).astype(int)
    broken = [text for text in train.select(places)["text"] if repair_mojibake(text) != text]
    share = len(broken) / len(places)
    found = f"mojibake in {len(broken)} of {len(places)} stories"
    remedy = f"{command_name('check')} --data SOURCE --clean stories.jsonl writes a copy without it"
    if share > MOJIBAKE_ERROR:
        raise GuardError(f"{found} (first: {broken[0][:40]!r}...): the model would learn broken characters", remedy)
    if share > MOJIBAKE_WARNING:
        logger.warning("%s: %s", found, remedy)
    return found


def check_overlap(
    trainer: RecipeTrainer, train: datasets.Dataset, train_hashes: np.ndarray, validation_hashes: np.ndarray
) -> str:
    """No validation story is in the training data of this run."""
    overlap = np.flatnonzero(np.isin(train_hashes, validation_hashes))
    if len(overlap):
        first = train[int(overlap[0])]["text"]
        raise GuardError(
            f"{len(overlap)} training stories are also in the validation data (first: {first[:40]!r}...): the scores "
            "would be of stories seen in training",
            "give other validation data, or --remove_overlap",
        )
    base = trainer.recipe.model.model_name_or_path
    unknown = f" (what {base} learned before is not compared)" if base is not None else ""
    return f"none of {len(validation_hashes):,} validation stories is in the training data{unknown}"
