"""Rows that are packed anew in every epoch (`reshuffle_stories`): the stories are put into another order first.

The tokens of all stories are on disk once, in the order of the corpus, and memory-mapped. Row i of epoch e has the
number e x rows of an epoch + i, and seed and number alone say which tokens it has. So no data worker, no process and
no resumed run has to be told the epoch: the sampler counts rows on from epoch to epoch (`RowsOfEpoch`).

What does not fill a row at the end of an epoch is dropped: equally many tokens in every epoch, of other stories.
"""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from tinystories.config.keys import DataArguments
from tinystories.config.recipe import Recipe
from tinystories.data.cache import cached_folder, content_key
from tinystories.data.packing import PackedRows, check_packing, check_rows_left, packing_key, token_type, tokenized
from tinystories.errors import UserError


logger = logging.getLogger(__name__)

LAYOUT = 1  # part of the cache key: increase it when the files of this module change
TOKENS, ENDS, REPORT = "tokens.bin", "ends.npy", "report.json"


def check_reshuffling(recipe: Recipe) -> None:
    """Raises UserError: a key that does not go together with `reshuffle_stories`."""
    data, training = recipe.data, recipe.training
    if not data.reshuffle_stories:
        return
    config: Any = training.accelerator_config  # an AcceleratorConfig, whatever its annotation says
    strategy = training.train_sampling_strategy
    refused = (
        (data.streaming, "streaming shuffles the stories itself"),
        (data.align_to_stories, "align_to_stories fits stories into rows once, for all epochs"),
        (strategy not in ("random", "sequential"), f"train_sampling_strategy {strategy} needs rows that stay the same"),
        (bool(config.dispatch_batches), "with dispatch_batches the rows of an epoch cannot be checked"),
    )
    for is_so, message in refused:
        if is_so:
            raise UserError(f"reshuffle_stories: {message}", "leave one of the two out")


def reshuffled_rows(
    stories: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, arguments: DataArguments, seed: int
) -> PackedRows:
    """Tokenize `stories`, or take their tokens from the cache; their rows are made when they are read.

    Raises:
        UserError: a block_size below 2, a tokenizer without BOS, EOS or PAD, too little text for one row.
    """
    check_packing(tokenizer, arguments)
    key = packing_key(stories, tokenizer, ["stories", LAYOUT])
    folder = cached_folder(
        "stories", key, lambda folder: _write(folder, stories, tokenizer, arguments), arguments.data_cache_dir
    )
    tokens = json.loads((folder / REPORT).read_text(encoding="utf-8"))["tokens"]
    rows, dropped = divmod(tokens, arguments.block_size)
    report = {"stories": len(stories), "tokens": tokens, "rows": rows, "dropped_tokens": dropped, "padding_tokens": 0}
    report |= {"reshuffled_each_epoch": True}
    check_rows_left(report, arguments.block_size)
    logger.info(
        "packed: %s tokens in %s rows of %d, of the stories in another order in each epoch (%d dropped at its end)",
        *(f"{tokens:,}", f"{rows:,}", arguments.block_size, dropped),
    )
    reshuffled = ReshuffledRows(folder, token_type(tokenizer), arguments.block_size, seed)
    return PackedRows(reshuffled, report, content_key([key, arguments.block_size, seed]))


def _write(
    folder: Path, stories: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, arguments: DataArguments
) -> None:
    """The tokens of all stories, one after the other, and where each story ends among them."""
    lengths = [np.empty(0, dtype=np.int64)]
    with (folder / TOKENS).open("wb") as file:
        for tokens, of_each in tokenized(stories, tokenizer, arguments.preprocessing_num_workers):
            file.write(tokens.tobytes())
            lengths.append(of_each)
    ends = np.cumsum(np.concatenate(lengths))
    np.save(folder / ENDS, ends)
    (folder / REPORT).write_text(json.dumps({"tokens": int(ends[-1]) if len(ends) else 0}), encoding="utf-8")


class ReshuffledRows(torch.utils.data.Dataset):
    """The rows of all epochs, by number; its length is that of one epoch."""

    def __init__(self, folder: Path, dtype: type, block_size: int, seed: int):
        """folder: of the tokens. dtype: of a token there."""
        self.folder, self.dtype, self.block_size, self.seed = folder, dtype, block_size, seed
        self.tokens = np.memmap(folder / TOKENS, dtype=dtype, mode="r")
        self.ends = np.load(folder / ENDS, mmap_mode="r")
        self._orders: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}

    def __reduce__(self) -> tuple:
        """For data workers that are not forked: they open the files, which would be copied."""
        return type(self), (self.folder, self.dtype, self.block_size, self.seed)

    def __len__(self) -> int:
        return len(self.tokens) // self.block_size

    def __getitem__(self, number: int | list[int]) -> dict[str, np.ndarray]:
        """`input_ids` of a row, or of several rows, shape (rows, block_size)."""
        if isinstance(number, list):
            rows = [self._tokens(one, 1) for one in number]
            return {"input_ids": np.concatenate(rows) if rows else np.empty((0, self.block_size), self.dtype)}
        return {"input_ids": self._tokens(number, 1)[0]}

    def iter(self, batch_size: int, epoch: int = 0) -> Iterator[dict[str, Any]]:
        """All rows of an epoch in order, `batch_size` at a time, as `datasets.Dataset.iter` gives them."""
        for first in range(0, len(self), batch_size):
            number = min(batch_size, len(self) - first)
            yield {"input_ids": self._tokens(epoch * len(self) + first, number)}

    def _tokens(self, number: int, rows: int) -> np.ndarray:
        """`rows` rows of one epoch, from row `number` on; shape (rows, block_size)."""
        epoch, row = divmod(number, len(self))
        if epoch < 0:
            raise IndexError(f"row {number} of rows that are counted from 0")
        order, ends = self.order(epoch)
        begin, stop = row * self.block_size, (row + rows) * self.block_size
        places = np.arange(np.searchsorted(ends, begin, side="right"), np.searchsorted(ends, stop, side="left") + 1)
        lengths = np.diff(ends[places], prepend=begin)
        lengths[-1] -= ends[places[-1]] - stop
        moved = self.ends[order[places]] - ends[places]  # from the stream of the epoch to that on disk
        found = self.tokens[np.arange(begin, stop) + np.repeat(moved, lengths)]
        return found.reshape(rows, self.block_size)

    def order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The stories of an epoch in their order, and where each ends in its stream of tokens; int64 both."""
        key = (self.seed, epoch)
        if key not in self._orders:
            order = np.random.default_rng(key).permutation(len(self.ends))
            ends = np.cumsum(np.diff(self.ends, prepend=0)[order])
            last = list(self._orders.items())[-1:]  # that of the run, while a guard looks at another
            self._orders = dict(last) | {key: (order, ends)}
        return self._orders[key]


class RowsOfEpoch(torch.utils.data.Sampler[int]):
    """The order of another sampler, whose rows are counted on from epoch to epoch."""

    def __init__(self, sampler: torch.utils.data.Sampler[int], rows: int):
        """rows: of an epoch."""
        self.sampler, self.rows, self.epoch = sampler, rows, 0

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[int]:
        begin = self.epoch * self.rows
        return (begin + row for row in self.sampler)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)


def count_rows_by_epoch(loader: Any, rows: int) -> None:
    """Let a loader of accelerate, which has shuffled `rows` rows, give those of the epoch that it is in."""
    of_all_processes = getattr(loader.batch_sampler, "batch_sampler", loader.batch_sampler)
    loader.set_sampler(RowsOfEpoch(of_all_processes.sampler, rows))
