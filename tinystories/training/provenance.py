"""provenance.jsonl of a run: what its numbers come from, so that a record of them needs nothing typed by hand.

A line for each session. It is written before the first step, and completed with times at the end. It is not published,
since the command and the data are named as on this machine; `benchmarks/record_run.py` makes a record of it.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets

from tinystories.atomic import write_atomically
from tinystories.config.keys import DataArguments
from tinystories.config.recipe import Recipe
from tinystories.data.corpus import Corpus
from tinystories.data.readers import STORIES_PER_BATCH, list_files
from tinystories.provenance import Stopwatch, hash_files, hash_texts, provenance
from tinystories.run_files import PROVENANCE


class RunProvenance:
    """The line of this session; `since`: when it began."""

    def __init__(self, recipe: Recipe, corpus: Corpus, since: Stopwatch):
        self.path = Path(recipe.training.output_dir) / PROVENANCE
        self.seed, self.since = recipe.training.seed, since
        self.data = hash_data(recipe.data, corpus)
        self.earlier = self.path.read_text(encoding="utf-8") if self.path.exists() else ""

    def write(self) -> None:
        """Add the line, or complete it: it is of the time until now."""
        line = provenance(self.since, self.seed, self.data)
        write_atomically(self.path, self.earlier + json.dumps(line) + "\n")


def hash_data(arguments: DataArguments, corpus: Corpus) -> dict[str, dict[str, Any]]:
    """Of files as they are on disk; of stories from elsewhere as they were read. Held-out stories follow from these."""
    stories = {"train": corpus.train, "validation": corpus.validation}
    if arguments.train_file is None:
        return {role: {"source": _source(corpus, role)} | hash_texts(_texts(rows)) for role, rows in stories.items()}
    paths = {"train": arguments.train_file, "validation": arguments.validation_file}
    return {
        role: {"source": Path(path).name, **hash_files(list_files(Path(path)).files), "stories": len(stories[role])}
        for role, path in paths.items()
        if path is not None
    }


def _source(corpus: Corpus, role: str) -> str:
    return str(corpus.report[role]["source"])


def _texts(stories: datasets.Dataset) -> Iterator[str]:
    return (text for batch in stories.iter(STORIES_PER_BATCH) for text in batch["text"])
