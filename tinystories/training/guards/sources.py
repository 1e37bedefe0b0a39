"""What the corpus must be: every story of the files, once, in training or in validation, letter by letter.

The files are read by a second reader that shares no code with the first (data/readers.py), so a mistake in either shows
as a difference.
"""

import csv
import json
import os
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq

from tinystories.config.keys import DataArguments
from tinystories.data.corpus import SAMPLE_CORPUS_SEED, Corpus
from tinystories.data.sample_corpus import sample_stories
from tinystories.errors import GuardError


END = "<|endoftext|>"
ENDS = {  # of a story, by story_separator
    "endoftext": re.escape(END),
    "blank_line": r"\n\s*\n",
    "two_blank_lines": r"\n(?:[^\S\n]*\n){2,}",
    "line": r"\n",
    "file": r"(?!)",
}
CHARACTERS_AT_ONCE = 2**22
EXCERPT = 40


def check_sources(corpus: Corpus, data: DataArguments) -> str:
    """Each story of the source is in training or in validation, as it is written; what was removed was counted."""
    if data.streaming:
        return "not checked: a stream is not read as a whole"
    if data.dataset_name is not None:
        return "not compared with the Hub dataset"
    if data.on_bad_row == "skip" and sum(corpus.report[role].get("bad", 0) for role in ("train", "validation")):
        return "not compared with the files, some of whose rows could not be read"
    compared = Path(data.train_file).name if data.train_file else "the sample corpus"  # it is published
    validation: datasets.Dataset | list = corpus.validation
    if data.validation_file is not None:
        _compare(data.validation_file, read_again(data.validation_file, data), (), corpus.validation, 0, None)
        compared, validation = f"{compared} and {Path(data.validation_file).name}", []
    source = sample_stories(data.num_sample_stories or 1, seed=SAMPLE_CORPUS_SEED)
    stories = source if data.train_file is None else read_again(data.train_file, data)
    removed = corpus.report.get("overlap_removed", 0) + corpus.report.get("near_copies_removed", 0)
    _compare(data.train_file or "the sample corpus", stories, corpus.train, validation, removed, data.max_train_samples)
    return f"a second reader of {compared} finds the same stories, letter by letter"


def _texts(stories: Iterable[str] | datasets.Dataset) -> Iterator[str]:
    if isinstance(stories, datasets.Dataset):
        return (text for batch in stories.iter(1000) for text in batch["text"])
    return iter(stories)


def _compare(
    source: str,
    expected: Iterable[str],
    train: datasets.Dataset | tuple,
    validation: datasets.Dataset | list,
    removed: int,
    at_most: int | None,
) -> None:
    """Each of `expected` is the next of `train` or of `validation`, except `removed` and those after `at_most`."""
    sides = [_texts(train), _texts(validation)]
    heads = [next(side, None) for side in sides]
    absent = 0
    for number, story in enumerate(_normalized(expected), start=1):
        side = next((i for i, head in enumerate(heads) if head == story), None)
        if side is not None:
            heads[side] = next(sides[side], None)
        elif not (at_most is not None and heads[0] is None and len(train) == at_most):
            absent += 1
            if absent > removed:
                following = " and ".join(repr(head[:EXCERPT]) for head in heads if head is not None) or "nothing"
                raise GuardError(
                    f"story {number:,} of {source} ({story[:EXCERPT]!r}...) is not in the corpus, which goes on with "
                    f"{following}: stories were lost, doubled or changed when they were read or divided"
                )
    for name, head in zip(("training", "validation"), heads, strict=True):
        if head is not None:
            raise GuardError(
                f"a {name} story is not in {source}, or not there or not as often: {head[:EXCERPT]!r}...; stories were "
                "doubled, changed or put in another order when they were read"
            )


def check_division(train_hashes: np.ndarray, validation_hashes: np.ndarray, data: DataArguments) -> str:
    """The held-out stories are the share of the distinct stories that the recipe asks for."""
    if data.validation_file is not None or data.dataset_name is not None:
        return "the validation data is given"
    if data.remove_overlap or data.max_train_samples is not None:
        return "training stories were left out"
    held_out = len(np.unique(validation_hashes))
    distinct = len(np.unique(np.concatenate([train_hashes, validation_hashes])))
    wanted = max(1, round(data.validation_fraction * distinct))
    if held_out != wanted:
        raise GuardError(
            f"{held_out:,} of {distinct:,} distinct stories are held out, and validation_fraction "
            f"{data.validation_fraction:g} asks for {wanted:,}"
        )
    return f"{held_out:,} of {distinct:,} distinct stories are held out"


def _normalized(stories: Iterable[str]) -> Iterator[str]:
    for story in stories:
        story = story.replace("\r\n", "\n").replace("\r", "\n").strip()
        if story:
            yield story


def read_again(path: str, data: DataArguments) -> Iterator[str]:
    """The stories of a file or folder, by other code than that of the run."""
    read = {
        ".txt": _read_text,
        ".jsonl": _read_json,
        ".csv": _read_table,
        ".tsv": _read_table,
        ".parquet": _read_parquet,
    }
    around = {str(parent) for parent in Path(path).resolve().parents}
    files = [Path(path)] if Path(path).is_file() else _files(path, tuple(read), around)
    return chain.from_iterable(read[file.suffix.lower()](file, data) for file in files)


def _files(path: str, suffixes: tuple[str, ...], seen: set[str]) -> Iterator[Path]:
    """The files in a folder and behind its links, each once. seen: where links must not lead."""
    real = os.path.realpath(path)
    if os.path.isdir(path) and real not in seen and os.access(path, os.R_OK | os.X_OK):
        seen.add(real)
        for name in sorted(os.listdir(path)):
            if not name.startswith("."):
                yield from _files(os.path.join(path, name), suffixes, seen)
    elif os.path.isfile(path) and path.lower().endswith(suffixes) and real not in seen and os.access(path, os.R_OK):
        seen.add(real)
        yield Path(path)


def _read_text(file: Path, data: DataArguments) -> Iterator[str]:
    with file.open(encoding="utf-8-sig") as stream:
        rule = data.story_separator.strip()
        if rule == "auto":
            rule = "endoftext" if any(END in line for line in stream) else "blank_line"
            stream.seek(0)
        anywhere = rule == "endoftext" or rule[0] + rule[-1] in ("<>", "[]")
        end = ENDS.get(rule) or (re.escape(rule) if anywhere else rf"(?m)^[^\S\n]*{re.escape(rule)}[^\S\n]*$")
        rest = ""
        while part := stream.read(CHARACTERS_AT_ONCE) + ("" if anywhere else stream.readline()):
            *stories, rest = re.split(end, rest + part)
            yield from stories
        yield rest


def _read_json(file: Path, data: DataArguments) -> Iterator[str]:
    with file.open(encoding="utf-8-sig") as stream:
        for value in (json.loads(line) for line in stream if line.strip()):
            yield value[data.text_column] if isinstance(value, dict) else value


def _read_table(file: Path, data: DataArguments) -> Iterator[str]:
    with file.open(encoding="utf-8-sig", newline="") as stream:
        for delimiter in "\t,;|" if file.suffix.lower() == ".tsv" else ",;\t|":
            stream.seek(0)
            rows = csv.DictReader(stream, delimiter=delimiter)
            if data.text_column in (rows.fieldnames or ()):
                yield from (row[data.text_column] for row in rows)
                return


def _read_parquet(file: Path, data: DataArguments) -> Iterator[str]:
    for batch in pq.ParquetFile(file).iter_batches(columns=[data.text_column]):
        yield from batch.column(0).to_pylist()
