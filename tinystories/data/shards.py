"""The shards of a stream: files that are read one row after the other, and never stored as a whole.

A shard of `train_file` is one file, read by data/readers.py. A shard of `dataset_name` is one of the pieces into which
`datasets` divides a data set that it streams, which is a file of the repository in most cases.
"""

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import datasets
import fsspec.asyn  # type: ignore[import-untyped]
from huggingface_hub import HfApi

from tinystories.config.keys import DataArguments
from tinystories.config.names import check_found
from tinystories.data.readers import READERS, STORIES_PER_BATCH, BadRow, check_text_column, list_files
from tinystories.errors import UserError, one_line


logger = logging.getLogger(__name__)


class Shard(Protocol):
    """name: the same only for the same content, as far as that is known without reading it."""

    name: str

    def rows(self) -> Iterator[str | BadRow]:
        """Every row from the first; raises UserError where it cannot be read."""


@dataclass
class FileShard:
    """A local file of any known format."""

    file: Path
    arguments: DataArguments
    files: int
    name: str = field(init=False)

    def __post_init__(self) -> None:
        self.name = f"{self.file.name}, {self.file.stat().st_size} bytes"

    def rows(self) -> Iterator[str | BadRow]:
        found: dict[str, Any] = {"files": self.files, "separators": [], "delimiters": [], "doubts": []}
        return READERS[self.file.suffix.lower()](self.file, self.arguments, found)


@dataclass
class HubShard:
    """One of the pieces into which `datasets` divides a data set."""

    piece: datasets.IterableDataset
    name: str
    column: str

    def rows(self) -> Iterator[str | BadRow]:
        fsspec.asyn.reset_lock()  # in a data worker that was forked from a process that streamed, it may be held
        number = 0
        try:
            for table in self.piece.with_format("arrow").iter(STORIES_PER_BATCH):
                check_text_column(self.name, table.schema, self.column)
                for text in table[self.column].to_pylist():
                    yield text if isinstance(text, str) else BadRow(f"{self.name}: row {number}: no text")
                    number += 1
        except UserError:
            raise
        except Exception as error:  # of the network, the storage or the format, in classes of many libraries
            raise UserError(
                f"{self.name}: the stream broke off after row {number}: {one_line(error)}",
                "--resume continues from the last checkpoint",
            ) from error


def open_shards(arguments: DataArguments) -> list[Shard]:
    """The shards to train on, in the order of their names.

    Raises:
        UserError: a path or a data set that cannot be read.
    """
    if arguments.dataset_name is not None:
        return list(hub_shards(arguments, open_hub(arguments), arguments.train_split_name))
    found = list_files(Path(str(arguments.train_file)))
    return [FileShard(file, arguments, len(found.files)) for file in found.files]


@dataclass
class HubDataset:
    """The splits of a data set of the Hub, none of them read yet. commit: None of a local folder."""

    splits: datasets.IterableDatasetDict
    commit: str | None


def open_hub(arguments: DataArguments) -> HubDataset:
    """`dataset_name`, all of it at one commit. Raises UserError: it cannot be reached, or needs a configuration."""
    name, commit = str(arguments.dataset_name), arguments.dataset_revision
    check_found(name, commit, "dataset")
    try:
        if not Path(name).exists():
            commit = HfApi().dataset_info(name, revision=commit).sha
        splits = datasets.load_dataset(name, arguments.dataset_config_name, revision=commit, streaming=True)
        return HubDataset(splits, commit)
    except (OSError, ValueError, ImportError, datasets.exceptions.DatasetsError) as error:
        raise UserError(f"cannot stream the dataset {name}: {one_line(error)}") from error


def hub_shards(arguments: DataArguments, dataset: HubDataset, split: str) -> Iterator[HubShard]:
    """The shards of a split; raises UserError if there is no such split."""
    name, splits = arguments.dataset_name, dataset.splits
    if split not in splits:
        raise UserError(f"{name} has no split {split!r}; it has {list(splits)}")
    number, commit = splits[split].num_shards, f"@{dataset.commit}" if dataset.commit else ""
    for i in range(number):
        label = f"{name}{commit}[{split}], shard {i + 1} of {number}"
        yield HubShard(splits[split].shard(number, i), label, arguments.text_column)


def in_turn(shards: Sequence[Shard], at_once: int) -> Iterator[str | BadRow]:
    """The rows of `at_once` shards in turn; where one has ended, the next shard takes its place."""
    waiting = iter(shards)
    being_read = deque(shard.rows() for shard in islice(waiting, at_once))
    while being_read:
        rows = being_read.popleft()
        row = next(rows, None)
        if row is not None:
            yield row
            being_read.append(rows)
        elif (following := next(waiting, None)) is not None:
            being_read.appendleft(following.rows())
