"""What the stories must be: readable text, as many as it takes, and validation stories that training never shows."""

import logging
from pathlib import Path

import datasets
import numpy as np
import pyarrow.compute as pc

from tinystories.console import command_name
from tinystories.data.language import distance, profile
from tinystories.data.mojibake import repair_mojibake
from tinystories.data.near_copies import CONTROLS, NEAR_COPY, Likeness, search_copies
from tinystories.data.readers import STORIES_PER_BATCH
from tinystories.errors import GuardError
from tinystories.training.guards.samples import Sample
from tinystories.training.recipe_trainer import RecipeTrainer


logger = logging.getLogger(__name__)

SAMPLE_STORIES = 1000
MOJIBAKE_WARNING, MOJIBAKE_ERROR = 0.001, 0.2  # shares of the stories
SEARCHED = 2000  # validation stories
COPIED = 0.02  # of the searched stories may be near-copies; people write the same story twice now and then
MUCH_ALIKE = 0.1  # above 0.5: how much more often a held-out story is the more alike of two
FEW_STORIES = 20
LONG_STORY, LONGER = 8000, 10  # bytes (some thousand tokens), and times the median
COMPARED_TEXTS, PARTS = 300, 8  # stories of a profile, parts of the training stories
UNLIKE, APART = 1.5, 0.05  # farther than parts of the training stories: so many times as far, and so much


def check_text(train: datasets.Dataset, sample: Sample | None = None) -> str:
    """The stories are not full of mojibake; random ones of all the data are read."""
    sample = sample or Sample()
    texts = sample.texts(train, SAMPLE_STORIES)
    broken = [text for text in texts if repair_mojibake(text) != text]
    share = len(broken) / len(texts)
    found = f"mojibake in {len(broken)} of {len(texts)} stories"
    remedy = f"{command_name('check')} --data SOURCE --clean stories.jsonl writes a copy without it"
    if share > MOJIBAKE_ERROR:
        raise GuardError(
            f"{found} (first: {broken[0][:40]!r}...; {sample}): the model would learn broken characters", remedy
        )
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
    name = Path(base).name if base and Path(base).exists() else base  # a path of this machine is not published
    unknown = f" (what {name} learned before is not compared)" if name else ""
    return f"none of {len(validation_hashes):,} validation stories is in the training data{unknown}"


def check_near_copies(
    train: datasets.Dataset, validation: datasets.Dataset, train_hashes: np.ndarray, held_out: bool, sample: Sample
) -> str:
    """Few validation stories are near-copies of training stories, by data/near_copies.py.

    held_out: the validation stories were drawn from the same stories as those to train on, so they must not be more
    like these than these are like one another.
    """
    texts = sample.texts(validation, SEARCHED)
    likeness = search_copies(train, texts, train_hashes, sample.rng, CONTROLS)
    searched, copies = int(np.isfinite(likeness.share).sum()), likeness.near_copies()
    if not searched:
        return f"the {len(texts)} validation stories are too short, or too much alike, to tell a near-copy"
    found = f"{len(copies)} of {searched:,} validation stories are near-copies of training stories"
    if len(copies):
        at = int(copies[0])
        found += (
            f" (they share more than {likeness.threshold:.0%} of their phrases; {texts[at][:60]!r}... and "
            f"{train[int(likeness.most_like[at])]['text'][:60]!r}... share {likeness.share[at]:.0%})"
        )
    if len(copies) > max(2, COPIED * searched):
        raise GuardError(
            f"{found}: the scores would be of stories seen in training ({sample})",
            "give other validation data, or --remove_overlap",
        )
    if len(copies):
        logger.warning("%s: --remove_overlap takes them out of the training data", found)
    _compare_with_controls(likeness, held_out, sample)
    usual = f"; usual is {np.nanmedian(likeness.share):.0%}, a near-copy shares more than {likeness.threshold:.0%}"
    return found if len(copies) else found + usual


def _compare_with_controls(likeness: Likeness, held_out: bool, sample: Sample) -> None:
    """Held-out stories are no more like the training stories than these are like one another."""
    share, control = (values[np.isfinite(values)] for values in (likeness.share, likeness.control))
    if min(len(share), len(control)) < 30:
        return
    below = np.searchsorted(np.sort(control), share, side="left") + np.searchsorted(
        np.sort(control), share, side="right"
    )
    more_alike = float(below.mean() / 2 / len(control)) - 0.5
    deviation = np.sqrt((len(share) + len(control)) / (12 * len(share) * len(control)))
    numbers = (
        f"half of the validation stories share more than {np.median(share):.0%} of their phrases with a training "
        f"story, and half of the training stories more than {np.median(control):.0%} with another"
    )
    if more_alike > max(MUCH_ALIKE, 5 * deviation):
        if held_out:
            raise GuardError(
                f"{numbers}: the held-out stories are more like the training stories than these like one another, so "
                f"many are changed copies ({sample})",
                "give other validation data",
            )
        logger.warning("%s: some may be changed copies", numbers)
    elif np.median(control) > NEAR_COPY:
        logger.warning("%s: stories so much alike make scores better than those of new stories would be", numbers)


def check_sizes(train: datasets.Dataset, validation: datasets.Dataset) -> str:
    """Few stories, or one that is very long, may be a file that was divided wrongly: said, and not refused."""
    if min(len(train), len(validation)) < FEW_STORIES:
        logger.warning(
            "%d stories to train on, and %d to validate on, whose score is uncertain: if the data holds more, "
            "--story_separator sets what ends a story",
            len(train),
            len(validation),
        )
    lengths = np.concatenate(
        [pc.binary_length(table["text"]).to_numpy() for table in train.with_format("arrow").iter(STORIES_PER_BATCH)]
    )
    longest, median = int(lengths.argmax()), float(np.median(lengths))
    found = f"{len(train):,} training stories, the longest of {lengths.max():,} bytes, half longer than {median:,.0f}"
    if lengths.max() > LONG_STORY and (lengths.max() > LONGER * median or len(train) < FEW_STORIES):
        logger.warning(
            "%s: is that one story? (%r...) --story_separator sets what ends a story",
            found,
            train[longest]["text"][:40],
        )
    return found


def check_kind(train: datasets.Dataset, validation: datasets.Dataset, sample: Sample) -> str:
    """Validation stories in another language, or of another kind of text, are said."""
    texts = sample.texts(validation, COMPARED_TEXTS)
    reference = profile(sample.texts(train, 2 * COMPARED_TEXTS))
    parts = [distance(profile(sample.texts(train, len(texts))), reference) for _ in range(PARTS)]
    apart = distance(profile(texts), reference)
    found = (
        f"letter trigrams of validation and training are {apart:.2f} apart, those of parts of training {max(parts):.2f}"
    )
    if apart > UNLIKE * max(parts) + APART:
        logger.warning("%s: the validation stories are in another language or of another kind of text", found)
    return found
