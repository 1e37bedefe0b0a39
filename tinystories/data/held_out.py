"""The held-out stories to measure a checkpoint on: a file that the user names, else its run's, else the sample corpus.

The stories of a run are read again with its recipe. A checkpoint without a recipe has none. A file that the user names
is read by the rules of that recipe too, where no others are given: other rules would make other stories of it, and no
score would show that.
"""

import logging
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

import datasets

from tinystories.config.keys import DataArguments, ReadingArguments
from tinystories.data.corpus import Corpus, dataset_key, load_corpus, read_files
from tinystories.errors import UserError
from tinystories.run_files import Run


logger = logging.getLogger(__name__)

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


def find_held_out(
    run: Run,
    data: str | None = None,
    train_file: str | None = None,
    reading: ReadingArguments = ReadingArguments(),  # noqa: B008 (it is frozen)
) -> HeldOut:
    """Stories for the checkpoint of `run`. data: a file or folder of held-out stories; train_file: of training stories.

    reading: how these are read.

    Raises:
        UserError: a file that the user named cannot be read.
    """
    corpus, unreadable = None, None
    if not (data and train_file):
        try:
            corpus = corpus_of(run)
        except UserError as error:
            unreadable = str(error)
    streamed = bool((run.recipe or {}).get("streaming"))  # then the corpus has the first of its training stories only
    training = corpus.train if corpus and not streamed else None
    if train_file:
        training = _read(train_file, run, reading)
    recorded = run.data.get("began_with", {}).get("validation") if run.data else None
    unchanged = corpus is not None and dataset_key(corpus.validation) == recorded
    if data:
        return HeldOut(_read(data, run, reading), training, "named", unchanged, unreadable)
    if corpus:
        return HeldOut(corpus.validation, training, "run", unchanged)
    sample = DataArguments(num_sample_stories=SAMPLE_CORPUS_STORIES, validation_fraction=0.5)
    return HeldOut(load_corpus(sample).validation, training, "sample corpus", unreadable=unreadable)


def _read(path: str, run: Run, reading: ReadingArguments) -> datasets.Dataset:
    """The stories of a file that the user names."""
    recipe = run.recipe or {}
    usual = asdict(DataArguments())
    given = {item.name: getattr(reading, item.name) for item in fields(ReadingArguments)}
    given = {name: value for name, value in given.items() if value is not None}
    as_the_run = {name: recipe[name] for name in ("text_column", "story_separator") if name in recipe}
    if Path(path).is_file() and as_the_run.get("story_separator") == "file":
        del as_the_run["story_separator"]  # each file of the run was a story, and one file of stories need not be
    for name, value in as_the_run.items():
        if name not in given and value != usual[name]:
            logger.info("%s is read as the run has read its files: %s %s; --%s sets another", path, name, value, name)
    return read_files(path, DataArguments(**(as_the_run | given)))[0]


def corpus_of(run: Run) -> Corpus | None:
    """The stories of a run, read again by its recipe; None where there is no recipe."""
    if run.recipe is None:
        return None
    known = {item.name: run.recipe[item.name] for item in fields(DataArguments) if item.name in run.recipe}
    return load_corpus(DataArguments(**known))
