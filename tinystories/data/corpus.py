"""Stories to train and to validate on, from files, folders, a Hub dataset or the embedded sample corpus.

`load_corpus(arguments)` gives two memory-mapped `datasets.Dataset` with one column `text`, for training and validation,
and a report of what was read, skipped and held out. A row that cannot be read stops the run with its file and line, or
is skipped and counted (`on_bad_row: skip`).
"""

import hashlib
import json
import logging
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import datasets
import numpy as np
import pyarrow as pa

from tinystories.config.keys import DataArguments
from tinystories.config.names import check_found
from tinystories.data import sample_corpus
from tinystories.data.cache import cached_folder, content_key, write_arrow
from tinystories.data.near_copies import CONTROLS, search_copies
from tinystories.data.readers import STORIES_PER_BATCH, BadRow, check_text_column, list_files, read_stories
from tinystories.data.shards import hub_shards, in_turn, open_hub, open_shards
from tinystories.errors import UserError, one_line
from tinystories.progress import progress_bar


logger = logging.getLogger(__name__)

STORY_SCHEMA = pa.schema({"text": pa.string()})
SAMPLE_CORPUS_SEED = 0
DOUBTS = 3  # that are said
NO_ROWS = {"stories": 0, "empty": 0, "bad": 0, "first_bad": None}  # what a report counts
READING = 3  # part of the cache key: raise it when the readers change
SPARSE = 4  # stories that are read and not taken, for each that is
_KEYS: WeakKeyDictionary[datasets.Dataset, str] = WeakKeyDictionary()  # a dataset does not change


@dataclass
class Corpus:
    """Stories to train and to validate on, and the report of their source."""

    train: datasets.Dataset
    validation: datasets.Dataset
    report: dict


def load_corpus(arguments: DataArguments) -> Corpus:
    """Read the source that `arguments` names and hold out the validation stories.

    Raises:
        UserError: no source or two, a missing file, text that is not UTF-8, a bad row, no stories.
    """
    train, validation, report = read_sources(arguments)
    if validation is None:
        train, validation, how = _hold_out(train, arguments.validation_fraction, arguments.split_seed)
        report["validation"] = how
    if arguments.streaming:  # as the stream leaves them out
        train, report["left_out"] = _remove_overlap(train, validation)
    if arguments.remove_overlap:
        train, report["overlap_removed"] = _remove_overlap(train, validation)
        train, report["near_copies_removed"] = _remove_near_copies(train, validation, arguments.split_seed)
        logger.info(
            "removed %d training stories that are also in the validation data, and %d near-copies of such",
            report["overlap_removed"],
            report["near_copies_removed"],
        )
    if arguments.max_train_samples is not None:
        train = train.select(range(min(arguments.max_train_samples, len(train))))
    if not len(train):
        raise UserError("no training stories are left", "check the data source, remove_overlap and max_train_samples")
    report |= {"train_stories": len(train), "validation_stories": len(validation)}
    logger.info("corpus: %s training stories, %s validation stories", f"{len(train):,}", f"{len(validation):,}")
    return Corpus(train, validation, report)


def read_sources(arguments: DataArguments) -> tuple[datasets.Dataset, datasets.Dataset | None, dict]:
    """All stories of the source, those of the validation data if it is given separately, and the report.

    Raises:
        UserError: see `load_corpus`.
    """
    sources = ("train_file", "dataset_name", "num_sample_stories")
    named = [name for name in sources if getattr(arguments, name) is not None]
    if len(named) != 1:
        raise UserError(
            f"one source of stories is needed, got {' and '.join(named) or 'none'}",
            "give --train_file stories.txt, --dataset_name roneneldan/TinyStories, or --num_sample_stories 20000",
        )
    if arguments.validation_file is not None and arguments.train_file is None:
        raise UserError("validation_file needs a train_file")
    if arguments.streaming:
        return _read_sample(arguments)
    if arguments.dataset_name is not None:
        return _read_hub(arguments.dataset_name, arguments)
    if arguments.train_file is None:
        return _sample_corpus(arguments)
    train, train_report = read_files(arguments.train_file, arguments)
    report = {"train": train_report}
    validation = None
    if arguments.validation_file is not None:
        validation, report["validation"] = read_files(arguments.validation_file, arguments)
    return train, validation, report


def read_files(path: str, arguments: DataArguments) -> tuple[datasets.Dataset, dict]:
    """All stories of a file or folder, and the report {"source", "stories", "empty", "bad", "left_out", ...}.

    Raises:
        UserError: a path that cannot be read, text that is not UTF-8, a bad row, no stories, a `story_separator` that
            must be named, a file that changed while it was read.
    """
    found = list_files(Path(path))
    found.log(Path(path))
    digests = [_file_digest(file) for file in found.files]
    contents = [file.suffix.lower().encode() + digest for file, digest in zip(found.files, digests, strict=True)]
    options = (arguments.text_column, arguments.story_separator, arguments.on_bad_row)
    key = content_key([READING, *contents, *options, path])  # the report names files
    report: dict[str, Any] = {}

    def rows() -> Iterator[str | BadRow]:
        yield from read_stories(found.files, arguments, report)
        for file, digest in zip(found.files, digests, strict=True):
            if _file_digest(file) != digest:
                raise UserError(f"{file}: was changed while it was read", "start again when it is complete")

    stories, report = _stories(path, key, rows(), arguments, report)
    return stories, report | {"left_out": sum(map(len, found.left_out.values()))}


def _stories(
    source: str, key: str, rows: Iterable[str | BadRow], arguments: DataArguments, report: dict
) -> tuple[datasets.Dataset, dict]:
    """`rows` as a memory-mapped dataset of stories, written to the cache once under `key`, and its report."""

    def build(folder: Path) -> None:
        _write_stories(folder / "stories.arrow", _kept(rows, arguments.on_bad_row, report))
        (folder / "report.json").write_text(json.dumps(report, indent=2), encoding="utf-8")

    folder = cached_folder("stories", key, build, arguments.data_cache_dir)
    report = {"source": source} | json.loads((folder / "report.json").read_text(encoding="utf-8"))
    _log(report)
    if not report["stories"] and report["bad"]:
        raise UserError(f"{source}: none of its {report['bad']} rows could be read, first {report['first_bad']}")
    if not report["stories"]:
        raise UserError(f"{source} contains no story: it is empty or has only white space")
    return datasets.Dataset.from_file(str(folder / "stories.arrow")), report


def _log(report: dict) -> None:
    """What was found out about a source."""
    source, doubts = report["source"], report.get("doubts", [])
    if report["bad"]:
        logger.warning(
            "%s: skipped %d rows that could not be read, first %s", source, report["bad"], report["first_bad"]
        )
    if report["empty"]:
        logger.info("%s: skipped %d empty stories", source, report["empty"])
    for rule in report.get("separators", ()):
        logger.info("%s: stories end at %s", source, rule)
    for delimiter in report.get("delimiters", ()):
        logger.info("%s: fields are separated by %s", source, delimiter)
    for doubt in doubts[:DOUBTS]:
        logger.warning("%s", doubt)
    if len(doubts) > DOUBTS:
        logger.warning("%s: the same may be true of %d more files", source, len(doubts) - DOUBTS)


def _kept(rows: Iterable[str | BadRow], on_bad_row: str, report: dict) -> Iterator[str]:
    report |= NO_ROWS
    for row in rows:
        if story := story_of(row, on_bad_row, report):
            yield story


def story_of(row: str | BadRow, on_bad_row: str, report: dict) -> str:
    """The story in a row of a file, with plain line ends; empty where there is none. report: counts it (`NO_ROWS`).

    Raises:
        UserError: a bad row, where `on_bad_row` is error.
    """
    if isinstance(row, BadRow):
        if on_bad_row == "error":
            raise UserError(f"{row}", f"{row.remedy}, or skip such rows with --on_bad_row skip")
        report["bad"] += 1
        report["first_bad"] = report["first_bad"] or str(row)
        return ""
    if story := row.replace("\r\n", "\n").replace("\r", "\n").strip():
        report["stories"] += 1
        return story
    report["empty"] += 1
    return ""


def _write_stories(path: Path, stories: Iterable[str]) -> None:
    stories = iter(progress_bar(stories, desc="reading stories", unit=" stories"))

    def batches() -> Iterator[pa.RecordBatch]:
        while batch := list(islice(stories, STORIES_PER_BATCH)):
            yield pa.record_batch({"text": batch}, schema=STORY_SCHEMA)

    write_arrow(path, STORY_SCHEMA, batches())


def _file_digest(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").digest()
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error


def _read_hub(name: str, arguments: DataArguments) -> tuple[datasets.Dataset, datasets.Dataset | None, dict]:
    check_found(name, arguments.dataset_revision, "dataset")
    try:
        splits = datasets.load_dataset(name, arguments.dataset_config_name, revision=arguments.dataset_revision)
    except (
        OSError,
        ValueError,
        ImportError,
        datasets.exceptions.DatasetsError,
    ) as error:  # offline, not found, gated, needs a configuration
        raise UserError(f"cannot load the dataset {name} from the Hub: {one_line(error)}") from error
    validation_split = arguments.validation_split_name or ("validation" if "validation" in splits else None)
    stories: dict[str, datasets.Dataset] = {}
    report: dict[str, dict] = {}
    for role, split in (("train", arguments.train_split_name), ("validation", validation_split)):
        if split is not None:
            if split not in splits:
                raise UserError(f"{name} has no split {split!r}; it has {list(splits)}")
            stories[role], report[role] = _hub_stories(f"{name}[{split}]", splits[split], arguments)
    return stories["train"], stories.get("validation"), report


def _hub_stories(label: str, split: datasets.Dataset, arguments: DataArguments) -> tuple[datasets.Dataset, dict]:
    column = arguments.text_column
    check_text_column(label, split.features.arrow_schema, column)

    def rows() -> Iterator[str | BadRow]:
        texts = (text for batch in split.select_columns(column).iter(STORIES_PER_BATCH) for text in batch[column])
        for number, text in enumerate(texts):
            yield text if isinstance(text, str) else BadRow(f"{label}: row {number}: no text")

    texts = (row if isinstance(row, str) else None for row in rows())
    key = content_key(chain([READING, "hub", arguments.on_bad_row], texts))
    return _stories(label, key, rows(), arguments, {})


def _read_sample(arguments: DataArguments) -> tuple[datasets.Dataset, datasets.Dataset | None, dict]:
    """The first stories of a stream, taken from its first shards in turn; and its validation stories, all of them."""
    number, name = arguments.streaming_sample_stories, arguments.train_file or arguments.dataset_name
    rows = in_turn(open_shards(arguments), arguments.streaming_lanes)
    train, report = _read_first(f"{name}, streamed", rows, arguments, number)
    if arguments.validation_file is not None:
        validation, of_validation = read_files(arguments.validation_file, arguments)
        return train, validation, {"train": report, "validation": of_validation}
    dataset = open_hub(arguments) if arguments.dataset_name is not None else None
    if dataset is None:
        return train, None, {"train": report}
    split = arguments.validation_split_name or ("validation" if "validation" in dataset.splits else None)
    if split is None:
        return train, None, {"train": report}
    rows = in_turn(list(hub_shards(arguments, dataset, split)), 1)
    validation, of_validation = _read_first(f"{name}[{split}]", rows, arguments, None)
    return train, validation, {"train": report, "validation": of_validation}


def _read_first(
    label: str, rows: Iterator[str | BadRow], arguments: DataArguments, number: int | None
) -> tuple[datasets.Dataset, dict]:
    """At most `number` stories, and their report."""
    counts: dict[str, Any] = {}
    texts = list(islice(_kept(rows, arguments.on_bad_row, counts), number))
    stories, report = _stories(label, content_key([READING, "stream", *texts]), texts, arguments, {})
    report |= {name: counts[name] for name in ("empty", "bad", "first_bad")}
    return stories, report


def _sample_corpus(arguments: DataArguments) -> tuple[datasets.Dataset, None, dict]:
    number = arguments.num_sample_stories or 0
    if number < 1:
        raise UserError(f"num_sample_stories must be at least 1, got {number}")
    label = f"the first {number} stories of the embedded sample corpus"
    code = Path(sample_corpus.__file__).read_bytes()  # the stories follow from it, and take a second to write
    key = content_key([READING, "sample", number, SAMPLE_CORPUS_SEED, code, sys.version])

    def rows() -> Iterator[str]:
        yield from sample_corpus.sample_stories(number, seed=SAMPLE_CORPUS_SEED)

    train, report = _stories(label, key, rows(), arguments, {})
    return train, None, {"train": report}


def dataset_key(stories: datasets.Dataset) -> str:
    """A hash over the text of every story, in order (see `content_key`). Computed once for a dataset that is open."""
    if stories not in _KEYS:
        _KEYS[stories] = content_key(text for texts in text_arrays(stories) for text in texts.to_pylist())
    return _KEYS[stories]


def text_arrays(stories: datasets.Dataset, number: int = STORIES_PER_BATCH) -> Iterator[pa.Array]:
    """The texts of `number` stories at a time, in order, as Arrow arrays of strings.

    Of stories that were selected in order, such as those that are not held out, the ones of a stretch are taken at
    once; `datasets` takes them one by one.
    """
    picked = stories._indices
    if picked is None or not len(stories):
        column = stories.data.table.column("text")
        yield from (_joined(column.slice(start, number)) for start in range(0, len(stories), number))
        return
    column, places = stories.data.table.column("text"), picked.table.column(0)
    for start in range(0, len(places), number):
        wanted = places.slice(start, number).to_numpy().astype(np.int64)
        first, last = int(wanted.min()), int(wanted.max())
        if last - first < SPARSE * number:
            yield _joined(column.slice(first, last - first + 1)).take(pa.array(wanted - first))
        else:
            yield _joined(stories.select(range(start, min(start + number, len(stories)))).with_format("arrow")["text"])


def _joined(texts: pa.ChunkedArray) -> pa.Array:
    return texts.combine_chunks() if texts.num_chunks != 1 else texts.chunk(0)


def story_hashes(stories: datasets.Dataset, seed: int = 0) -> np.ndarray:
    """A 64-bit hash of each story, shape (stories,), uint64; stories that differ only in white space have the same."""
    batches = [text_hashes(texts.to_pylist(), seed) for texts in text_arrays(stories)]
    return np.concatenate(batches) if batches else np.empty(0, dtype=np.uint64)


def text_hashes(texts: list[str], seed: int = 0) -> np.ndarray:
    """`story_hashes` of a list of texts."""
    key = str(seed).encode()
    digests = (hashlib.blake2b(" ".join(text.split()).encode(), digest_size=8, key=key).digest() for text in texts)
    return np.array([int.from_bytes(digest, "little") for digest in digests], dtype=np.uint64)


def _hold_out(stories: datasets.Dataset, fraction: float, seed: int) -> tuple[datasets.Dataset, datasets.Dataset, dict]:
    """Hold out a fraction of the *distinct* stories, chosen by hash, so that all copies of a story are on one side."""
    hashes = story_hashes(stories, seed)
    distinct = np.unique(hashes)
    if not 0 < fraction < 1:
        raise UserError(f"validation_fraction must be between 0 and 1, got {fraction}")
    number = max(1, round(fraction * len(distinct)))
    if number >= len(distinct):
        raise UserError(f"{len(distinct)} distinct stories are too few to hold any out", "give a --validation_file")
    held_out = np.isin(hashes, distinct[:number])
    how = {"source": f"{fraction:g} of the distinct training stories, split_seed {seed}"}
    return stories.select(np.flatnonzero(~held_out)), stories.select(np.flatnonzero(held_out)), how


def _remove_overlap(train: datasets.Dataset, validation: datasets.Dataset) -> tuple[datasets.Dataset, int]:
    overlap = np.isin(story_hashes(train), story_hashes(validation))
    return train.select(np.flatnonzero(~overlap)), int(overlap.sum())


def _remove_near_copies(
    train: datasets.Dataset, validation: datasets.Dataset, seed: int
) -> tuple[datasets.Dataset, int]:
    """Without the training stories that are near-copies of a validation story (near_copies.py)."""
    if not len(train):
        return train, 0
    likeness = search_copies(train, validation["text"][:], story_hashes(train), np.random.default_rng(seed), CONTROLS)
    copies = likeness.copied_by()
    return train.select(np.setdiff1d(np.arange(len(train)), copies)), len(copies)


def pick_stories(stories: datasets.Dataset, number: int | None) -> datasets.Dataset:
    """At most `number` stories: those with the smallest hashes, which is the same sample of all the data each time."""
    if number is not None and number < 1:
        raise UserError(f"max_eval_samples must be at least 1, got {number}")
    if number is None or number >= len(stories):
        return stories
    return stories.select(np.sort(np.argsort(story_hashes(stories), kind="stable")[:number]))
