"""The held-out stories to measure a checkpoint on: a file that the user names, else its run's, else the sample corpus.

The stories of a run are read again with its recipe. A checkpoint without a recipe has none.
"""

from dataclasses import dataclass, fields
from typing import Literal

import datasets

from tinystories.config.keys import DataArguments
from tinystories.data.corpus import Corpus, dataset_key, load_corpus, read_files
from tinystories.errors import UserError
from tinystories.run_files import Run


SAMPLE_CORPUS_STORIES = 400


@dataclass
class HeldOut:
    """Stories to measure a checkpoint on, and those that it was trained on, where they can be read.

    origin: "named" by the user; the validation stories of the "run"; of the "sample corpus", which is part of this
    project and suits only models trained on it.
    unchanged: whether the stories of the run are known to be the ones it was trained and validated on.
    unreadable: why the stories of the run cannot be read, if so.
    """

    stories: datasets.Dataset
    training: datasets.Dataset | None
    origin: Literal["named", "run", "sample corpus"]
    unchanged: bool = False
    unreadable: str | None = None


def find_held_out(run: Run, data: str | None = None, train_file: str | None = None) -> HeldOut:
    """Stories for the checkpoint of `run`. data: a file or folder of held-out stories; train_file: of training stories.

    Raises:
        UserError: a file that the user named cannot be read.
    """
    corpus, unreadable = None, None
    if not (data and train_file):
        try:
            corpus = corpus_of(run)
        except UserError as error:
            unreadable = str(error)
    training = corpus.train if corpus else None
    if train_file:
        training, _ = read_files(train_file, DataArguments())
    recorded = run.data.get("began_with", {}).get("validation") if run.data else None
    unchanged = corpus is not None and dataset_key(corpus.validation) == recorded
    if data:
        stories, _ = read_files(data, DataArguments())
        return HeldOut(stories, training, "named", unchanged, unreadable)
    if corpus:
        return HeldOut(corpus.validation, training, "run", unchanged)
    sample = DataArguments(num_sample_stories=SAMPLE_CORPUS_STORIES, validation_fraction=0.5)
    return HeldOut(load_corpus(sample).validation, training, "sample corpus", unreadable=unreadable)


def corpus_of(run: Run) -> Corpus | None:
    """The stories of a run, read again by its recipe; None where there is no recipe."""
    if run.recipe is None:
        return None
    known = {item.name: run.recipe[item.name] for item in fields(DataArguments) if item.name in run.recipe}
    return load_corpus(DataArguments(**known))
