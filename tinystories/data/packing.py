"""Pack stories into rows of tokens: BOS + story + EOS, one after the other, cut into rows of `block_size`.

There is no padding, and only the last partial row is dropped. Rows are stored on disk as small integers and
memory-mapped, so memory does not grow with the corpus. With `align_to_stories` (first-fit packing), every row begins
with a story or continues one that is longer than a row, whole stories are fitted together, and the rest of a row is
padded.

The cache key covers the content of the tokenizer, every story and the packing settings, so no cached row is stale.
"""

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import datasets
import numpy as np
import pyarrow as pa
import torch
from transformers import PreTrainedTokenizerBase

from tinystories.config.keys import DataArguments
from tinystories.console import command_name
from tinystories.data.cache import cached_folder, content_key, write_arrow
from tinystories.data.corpus import dataset_key
from tinystories.data.encoding import Tokens, encode_stories
from tinystories.errors import UserError
from tinystories.progress import progress_bar


logger = logging.getLogger(__name__)

IGNORED = -100  # the label that the loss leaves out
LAYOUT = 2  # part of the cache key: increase it when the rows of this module change


class Rows(Protocol):
    """What is needed of packed rows: `datasets.Dataset` has it, and `ReshuffledRows` of reshuffling.py."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: Any) -> dict[str, Any]: ...

    def iter(self, batch_size: int) -> Iterator[dict[str, Any]]: ...


@dataclass
class PackedRows:
    """Rows of tokens and the report of how they were made.

    rows: with one column `input_ids`, `block_size` tokens each.
    report: numbers of stories, tokens, rows, dropped tokens and padding tokens.
    key: the same only for the same stories, tokenizer and settings.
    """

    rows: Rows
    report: dict
    key: str


def pack(stories: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, arguments: DataArguments) -> PackedRows:
    """Tokenize and pack `stories`, or take the rows of the same input from the cache.

    Raises:
        UserError: a block_size below 2, a tokenizer without BOS, EOS or PAD, too little text for one row.
    """
    check_packing(tokenizer, arguments)
    key = packing_key(stories, tokenizer, [LAYOUT, arguments.block_size, arguments.align_to_stories])

    def build(folder: Path) -> None:
        report = _write_rows(folder, stories, tokenizer, arguments)
        (folder / "report.json").write_text(json.dumps(report, indent=2), encoding="utf-8")

    folder = cached_folder("rows", key, build, arguments.data_cache_dir)
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    check_rows_left(report, arguments.block_size)
    logger.info(
        "packed: %s tokens in %s rows of %d, %.1f%% padding (%d dropped at the end)",
        f"{report['tokens']:,}",
        f"{report['rows']:,}",
        arguments.block_size,
        100 * report["padding_tokens"] / (report["rows"] * arguments.block_size),
        report["dropped_tokens"],
    )
    return PackedRows(datasets.Dataset.from_file(str(folder / "rows.arrow")).with_format("numpy"), report, key)


def check_packing(tokenizer: PreTrainedTokenizerBase, arguments: DataArguments) -> None:
    """Raises UserError: a block_size below 2, a tokenizer without BOS, EOS or PAD."""
    if arguments.block_size < 2:
        raise UserError(f"block_size must be at least 2, got {arguments.block_size}")
    missing = [name for name in ("bos", "eos", "pad") if getattr(tokenizer, f"{name}_token_id") is None]
    if missing:
        raise UserError(
            f"the tokenizer has no {' and no '.join(missing)} token", f"train one with {command_name('tokenizer')}"
        )


def check_rows_left(report: dict, block_size: int) -> None:
    """Raises UserError: too little text for one row."""
    if not report["rows"]:
        raise UserError(
            f"the training stories have {report['tokens']} tokens, fewer than one row of block_size {block_size}",
            "give more text or a smaller block_size",
        )


def packing_key(stories: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, settings: list) -> str:
    """The same only for the same stories, tokenizer and settings."""
    ids = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.split_special_tokens]
    return content_key([dataset_key(stories), tokenizer.backend_tokenizer.to_str(), *ids, *settings])


def token_type(tokenizer: PreTrainedTokenizerBase) -> type:
    """The smallest type on disk that holds every id."""
    return np.uint16 if len(tokenizer) <= 2**16 else np.uint32


def encode_story(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """BOS + story + EOS."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]


def _write_rows(
    folder: Path, stories: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, arguments: DataArguments
) -> dict:
    report = {"stories": len(stories), "tokens": 0, "rows": 0, "dropped_tokens": 0, "padding_tokens": 0}
    tokens = tokenized(stories, tokenizer, arguments.preprocessing_num_workers)
    if arguments.align_to_stories:
        rows = _aligned_rows(tokens, arguments.block_size, tokenizer.pad_token_id, report)
    else:
        rows = _stream_rows(tokens, arguments.block_size, report)

    row_type = pa.list_(pa.from_numpy_dtype(token_type(tokenizer)), arguments.block_size)
    schema = pa.schema({"input_ids": row_type})

    def batches(rows: Iterator[np.ndarray]) -> Iterator[pa.RecordBatch]:
        for block in rows:
            report["rows"] += len(block)
            flat = pa.array(np.ascontiguousarray(block.reshape(-1)))
            yield pa.record_batch([pa.FixedSizeListArray.from_arrays(flat, arguments.block_size)], schema=schema)

    write_arrow(folder / "rows.arrow", schema, batches(rows))
    return report


def tokenized(stories: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, workers: int | None) -> Iterator[Tokens]:
    """Batches of stories as (tokens of all, shape (tokens,); length of each, shape (stories,))."""
    with progress_bar(total=len(stories), desc="tokenizing", unit=" stories") as bar:
        for tokens, lengths in encode_stories(stories, tokenizer, workers):
            bar.update(len(lengths))
            yield tokens.astype(token_type(tokenizer)), lengths


def _stream_rows(tokenized: Iterator[Tokens], block_size: int, report: dict) -> Iterator[np.ndarray]:
    rest = None
    for tokens, _ in tokenized:
        report["tokens"] += len(tokens)
        rest = tokens if rest is None else np.concatenate([rest, tokens])
        full = len(rest) // block_size * block_size
        if full:
            yield rest[:full].reshape(-1, block_size)
        rest = rest[full:]
    report["dropped_tokens"] = 0 if rest is None else len(rest)


def _aligned_rows(
    tokenized: Iterator[Tokens], block_size: int, pad_token_id: int, report: dict
) -> Iterator[np.ndarray]:
    for tokens, lengths in tokenized:
        report["tokens"] += len(tokens)
        block = fit_rows(np.split(tokens, np.cumsum(lengths)[:-1]), block_size, pad_token_id)
        report["padding_tokens"] += block.size - len(tokens)
        yield block


def fit_rows(stories: list[np.ndarray], block_size: int, pad_token_id: int) -> np.ndarray:
    """First-fit packing, longest piece first; a long story continues in the next row. Shape (rows, block_size)."""
    pieces = [(i == 0, story[i : i + block_size]) for story in stories for i in range(0, len(story), block_size)]
    pieces.sort(key=lambda piece: (piece[0], -len(piece[1])))  # the rest of a long story begins a row
    rows: list[list[np.ndarray]] = []
    open_rows: dict[int, list[int]] = {}  # free room -> rows that have it
    for begins, piece in pieces:
        room = min((room for room in open_rows if room >= len(piece)), default=None) if begins else None
        if room is None:
            room, row = block_size, len(rows)
            rows.append([])
        else:
            row = open_rows[room].pop()
            if not open_rows[room]:
                del open_rows[room]
        rows[row].append(piece)
        if room > len(piece):
            open_rows.setdefault(room - len(piece), []).append(row)
    block = np.full((len(rows), block_size), pad_token_id, dtype=stories[0].dtype)
    for row, members in enumerate(rows):
        joined = np.concatenate(members)
        block[row, : len(joined)] = joined
    return block


@dataclass
class StoryCollator:
    """Collate rows into a batch for the model: `input_ids` and `labels`, both int64 of shape (rows, longest row).

    The labels are the input ids: the shift happens in the model. Padding and the tokens before a row's `first_target`
    do not count in the loss. There is no attention mask: padding is on the right, where a causal model does not see it,
    and without a mask the fast attention kernel is used.

    With `bos_token_id` there are also `position_ids`, which restart at every BOS (document masking): transformers then
    keeps attention inside each story, for a model that is called without attention mask and cache, as in training. A
    batch in which every row is one story needs none.
    """

    pad_token_id: int
    bos_token_id: int | None = None

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        longest = max(len(row["input_ids"]) for row in rows)
        input_ids = np.full((len(rows), longest), self.pad_token_id, dtype=np.int64)
        labels = np.full((len(rows), longest), IGNORED, dtype=np.int64)
        for i, row in enumerate(rows):
            ids = np.asarray(row["input_ids"], dtype=np.int64)
            input_ids[i, : len(ids)] = ids
            first = row.get("first_target", 0)
            labels[i, first : len(ids)] = np.where(ids == self.pad_token_id, IGNORED, ids)[first:]
        batch = {"input_ids": torch.from_numpy(input_ids), "labels": torch.from_numpy(labels)}
        begins = input_ids == self.bos_token_id
        if self.bos_token_id is not None and begins[:, 1:].any():
            columns = np.arange(longest)
            batch["position_ids"] = torch.from_numpy(columns - np.maximum.accumulate(columns * begins, axis=1))
        return batch
