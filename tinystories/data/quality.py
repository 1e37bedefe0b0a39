"""Find problems in a text, story by story, and write a copy without them.

    python check_run.py --data stories.txt
    python check_run.py --data stories.txt --clean clean.jsonl

Mojibake is repaired first; the other problems are those of the repaired text. The copy holds the repaired stories and
leaves out those with another problem; checking the copy finds nothing. This takes two passes over the memory-mapped
stories and ten bytes of memory for each story.
"""

import json
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from tinystories.config.keys import DataArguments, QualityArguments
from tinystories.data.corpus import read_sources, text_hashes
from tinystories.data.mojibake import clean_text
from tinystories.data.readers import STORIES_PER_BATCH, story_places
from tinystories.data.separators import END_OF_TEXT
from tinystories.errors import UserError, one_line
from tinystories.output_file import check_output_file
from tinystories.progress import progress_bar


HTML_NAMES = (
    "a abbr b blockquote body br code div em embed font footer form h[1-6] head header hr html i iframe img input li "
    "link meta ol p pre script span strong style sub sup svg table tbody td th thead title tr u ul video"
).replace(" ", "|")
PATTERNS = {
    "leftovers of prompts and tokenizers": re.compile(
        r"<\|[\w-]{1,40}\|>|\[/?INST\]|<</?SYS>>|</?s>|<(?:pad|unk|bos|eos|mask)>|<(?:start|end)_of_turn>"
    ),
    "HTML": re.compile(
        rf"</?(?:{HTML_NAMES})(?:\s[^<>]*)?/?>|<!--|&(?:amp|lt|gt|quot|apos|nbsp|#\d+|#x[\da-f]+);", re.I
    ),
    "URL": re.compile(r"\b(?:https?|ftp)://\S|\bwww\.\w+\.\w", re.I),
    "e-mail address": re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,255}\.\w"),
    "control characters": re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff]"),
    "replacement characters (U+FFFD)": re.compile("\ufffd"),
    "run of one character": re.compile(r"(\S)\1{15}"),
}
MOJIBAKE, SHORT, LONG, DUPLICATE, OVERLAP = (
    "mojibake",
    "too short",
    "too long",
    "exact duplicate of an earlier story",
    "also in the validation data",
)
PROBLEMS = (MOJIBAKE, *PATTERNS, SHORT, LONG, DUPLICATE, OVERLAP)
EXAMPLES = 3
AROUND = 25  # characters of an example on each side of what was found


@dataclass
class Examined:
    """Stories and their problems.

    problems: a bit for each name in PROBLEMS, shape (stories,), uint16.
    report: counts and examples, see `_report`.
    """

    stories: datasets.Dataset
    problems: np.ndarray
    report: dict[str, Any]


def check_arguments(arguments: QualityArguments, data: DataArguments) -> None:
    for name in ("train_file", "dataset_name", "num_sample_stories"):
        if getattr(data, name) is not None:
            raise UserError(f"{name}: --data names the text; leave out --{name}")
    if arguments.min_characters > arguments.max_characters:
        limits = f"min_characters {arguments.min_characters} is more than max_characters {arguments.max_characters}"
        raise UserError(f"{limits}: no story could fit both")


def find_problems(text: str, arguments: QualityArguments) -> dict[str, int]:
    """The problems of one repaired story: the name of each, and the index of its first character."""
    found = {name: match.start() for name, pattern in PATTERNS.items() if (match := pattern.search(text))}
    if len(text) < arguments.min_characters:
        found[SHORT] = 0
    if len(text) > arguments.max_characters:
        found[LONG] = 0
    return found


def examine(arguments: QualityArguments, data: DataArguments) -> Examined:
    """Read the source that `arguments` names, with the settings of `data`, and check every story.

    Raises:
        UserError: options that contradict each other, a source that cannot be read.
    """
    check_arguments(arguments, data)
    exists = Path(arguments.data).exists() or Path(arguments.data).suffix
    data.train_file, data.dataset_name = (arguments.data, None) if exists else (None, arguments.data)
    data.on_bad_row = "skip"  # bad rows are counted in the report
    stories, validation, read = read_sources(data)
    problems = np.zeros(len(stories), dtype=np.uint16)
    hashes = np.zeros(len(stories), dtype=np.uint64)
    examples: dict[str, list[dict]] = {name: [] for name in PROBLEMS}

    def note(name: str, index: int, excerpt: str) -> None:
        problems[index] |= 1 << PROBLEMS.index(name)
        if len(examples[name]) < EXAMPLES:
            examples[name].append({"story": index + 1, "excerpt": excerpt})

    for start, texts in _batches(stories, "checking stories"):
        repaired = [clean_text(text) for text in texts]
        hashes[start : start + len(texts)] = text_hashes(repaired)
        for index, (text, repaired_text) in enumerate(zip(texts, repaired, strict=True), start):
            if text != repaired_text:
                at = next((i for i, pair in enumerate(zip(text, repaired_text, strict=False)) if pair[0] != pair[1]), 0)
                note(MOJIBAKE, index, _excerpt(text, at))
            for name, place in find_problems(repaired_text, arguments).items():
                note(name, index, _excerpt(repaired_text, place))

    if validation is not None:
        held_out = [text_hashes([clean_text(text) for text in texts]) for _, texts in _batches(validation, None)]
        for index in np.flatnonzero(np.isin(hashes, np.concatenate(held_out))).tolist():
            note(OVERLAP, index, _excerpt(stories[index]["text"], 0))
    first = _first_copies(hashes, _dropped(problems))
    for index in np.flatnonzero(first < np.arange(len(hashes))).tolist():
        note(DUPLICATE, index, f"story {first[index] + 1}: {_excerpt(stories[index]['text'], 0)}")
    if data.train_file is not None:
        _add_places(examples, data.train_file, data)
    return Examined(stories, problems, _report(arguments, problems, examples, read["train"], validation is not None))


def _dropped(problems: np.ndarray) -> np.ndarray:
    """Whether the clean copy leaves a story out, shape (stories,), bool: it has a problem other than mojibake."""
    return problems & ~np.uint16(1 << PROBLEMS.index(MOJIBAKE)) != 0


def _first_copies(hashes: np.ndarray, dropped: np.ndarray) -> np.ndarray:
    """The index of the first equal story for each story, shape (stories,); of one that is not dropped, if possible."""
    order = np.argsort(dropped, kind="stable")
    first, inverse = np.unique(hashes[order], return_index=True, return_inverse=True)[1:]
    copies = np.empty_like(order)
    copies[order] = order[first[inverse]]
    return copies


def _batches(stories: datasets.Dataset, description: str | None) -> Iterator[tuple[int, list[str]]]:
    """The index of the first story of each batch, and the texts of the batch."""
    starts = range(0, len(stories), STORIES_PER_BATCH)
    bar = progress_bar(starts, desc=description, unit=" thousand stories", disable=description is None)
    for start, batch in zip(bar, stories.iter(STORIES_PER_BATCH), strict=True):
        yield start, batch["text"]


def _excerpt(text: str, at: int) -> str:
    begin, end = max(0, at - AROUND), at + AROUND
    return ("…" if begin else "") + text[begin:end] + ("…" if end < len(text) else "")


def _add_places(examples: dict[str, list[dict]], path: str, data: DataArguments) -> None:
    """Add file and line to the examples; takes one more pass over the files, up to the last example."""
    wanted: dict[int, list[dict]] = {}
    for example in (example for some in examples.values() for example in some):
        wanted.setdefault(example["story"], []).append(example)
    places = islice(story_places(path, data), max(wanted, default=0))
    for story, (file, line) in enumerate(places, start=1):
        for example in wanted.get(story, ()):
            example["file"], example["line"] = str(file), line


def _report(
    arguments: QualityArguments, problems: np.ndarray, examples: dict, read: dict, compared: bool
) -> dict[str, Any]:
    counts = _counts(problems)
    return {
        "source": arguments.data,
        "stories": len(problems),
        "stories_without_problem": int((problems == 0).sum()),
        "empty_stories": read["empty"],
        "rows_not_read": read["bad"],
        "first_row_not_read": read["first_bad"],
        "compared_with_validation": compared,
        "problems": {name: {"stories": counts[name], "examples": examples[name]} for name in PROBLEMS if counts[name]},
    }


def _counts(problems: np.ndarray) -> dict[str, int]:
    return {name: int((problems >> bit & 1).sum()) for bit, name in enumerate(PROBLEMS)}


def write_clean_copy(examined: Examined, arguments: QualityArguments) -> dict[str, Any]:
    """Write the stories without problems and the repaired ones to `arguments.clean`, completely or not at all.

    Returns {"file", "stories", "repaired", "dropped", "dropped_for": {problem: stories}}.

    Raises:
        UserError: no story would be left, or the file cannot be written.
    """
    target = check_target(arguments)
    dropped = _dropped(examined.problems)
    if dropped.all():
        raise UserError(f"clean {target}: not written, no story of {arguments.data} would be left; see the report")
    as_json = target.suffix == ".jsonl"
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".unfinished-") as folder:
            unfinished = Path(folder) / target.name
            with unfinished.open("w", encoding="utf-8", newline="\n") as file:
                for start, texts in _batches(examined.stories, "writing the clean copy"):
                    for text in (text for index, text in enumerate(texts, start) if not dropped[index]):
                        text = clean_text(text)
                        line = json.dumps({"text": text}, ensure_ascii=False) if as_json else f"{text}\n{END_OF_TEXT}"
                        file.write(line + "\n")
            os.replace(unfinished, target)
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({one_line(error)})") from error
    dropped_for = {name: number for name, number in _counts(examined.problems).items() if number and name != MOJIBAKE}
    repaired = int((examined.problems[~dropped] != 0).sum())
    report = {
        "file": str(target),
        "stories": int((~dropped).sum()),
        "repaired": repaired,
        "dropped": int(dropped.sum()),
    }
    return report | {"dropped_for": dropped_for}


def check_target(arguments: QualityArguments) -> Path:
    """The path of the clean copy, where no file may exist yet."""
    target, source = Path(arguments.clean or ""), Path(arguments.data)
    if target.suffix not in (".jsonl", ".txt"):
        raise UserError(f"clean {target}: give a name that ends in .jsonl or .txt")
    if target.exists():
        raise UserError(f"clean {target}: the file exists and is not overwritten; give another name")
    check_output_file(str(target), "clean")
    if source.is_dir() and source.resolve() in target.resolve().parents:
        raise UserError(f"clean {target}: is in {source} and would be read with it next time; give another folder")
    return target


def describe(report: dict[str, Any]) -> Iterator[str]:
    """The report as lines of text."""
    yield f"{report['source']}: {report['stories']:,} stories, {report['stories_without_problem']:,} without a problem"
    if report["empty_stories"]:
        yield f"  {report['empty_stories']:,} empty stories are skipped"
    if report["rows_not_read"]:
        yield f"  {report['rows_not_read']:,} rows cannot be read, first {report['first_row_not_read']}"
    for name, problem in report["problems"].items():
        yield f"  {name}: {problem['stories']:,} stories ({problem['stories'] / report['stories']:.2%})"
        for example in problem["examples"]:
            line = f":{example['line']}" if example.get("line") else ""
            place = f" ({example['file']}{line})" if "file" in example else ""
            yield f"      story {example['story']:,}{place}: {example['excerpt']!r}"
    if not report["compared_with_validation"]:
        yield "  not compared with validation data: give it with --validation_file"
