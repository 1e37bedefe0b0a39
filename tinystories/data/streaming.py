"""Stories -> rows while a run trains: nothing of the corpus is stored, and every row has a place that is known.

The shards are dealt to `lanes`. A lane reads its shards one after the other, without end: after the last shard of the
corpus comes the first again, in another order. It shuffles a window of stories (`shuffle_buffer_size`), tokenizes a
chunk of them at a time and packs it by the rules of data/packing.py. No token is dropped: what does not fill a row
begins the next one, also at the end of a pass over the corpus.

Row g of the run is row g // lanes of lane g % lanes. So seed and number of lanes alone say which rows a step has, and
neither the number of processes nor that of data workers does: each of these readers takes every n-th row, and opens
only the lanes that hold one of its rows. If the number of readers divides that of the lanes, each lane has one reader.

A `Cursor` is a place from which a lane gives the same rows again. It holds numbers and less than a row of tokens: the
window is read and shuffled again.
"""

import os
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import count, islice
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from tinystories.config.keys import DataArguments
from tinystories.data.cache import content_key
from tinystories.data.corpus import NO_ROWS, Corpus, story_hashes, story_of, text_hashes
from tinystories.data.packing import PackedRows, fit_rows
from tinystories.data.readers import STORIES_PER_BATCH, BadRow
from tinystories.data.shards import Shard, open_shards
from tinystories.errors import UserError


NOT_CHECKED = "duplicates, near-copies, mojibake and sizes of the stories after the sample"


@dataclass(frozen=True)
class Cursor:
    """A place in a lane, before a chunk of stories.

    rows: of the lane before it. turn: shards that the lane has finished. row: rows of the shard before the
    window. story: stories of the window before the chunk. rest: tokens before the chunk that did not fill a row.
    counts: stories, empty and bad rows and stories left out, to the end of the window.
    """

    rows: int = 0
    turn: int = 0
    row: int = 0
    story: int = 0
    rest: tuple[int, ...] = ()
    counts: dict[str, Any] = field(default_factory=dict)


class Row(NamedTuple):
    """A row of `block_size` tokens, its lane and its number there, and a cursor at or before it."""

    lane: int
    number: int
    tokens: np.ndarray
    cursor: Cursor


@dataclass
class Mark:
    """The last row of a lane that was trained on: its number, a checksum of its tokens, a cursor at or before it."""

    number: int
    checksum: int
    cursor: Cursor

    @classmethod
    def of(cls, row: Row) -> "Mark":
        return cls(row.number, _checksum(row.tokens), row.cursor)

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> "Mark":
        cursor = saved["cursor"]
        return cls(saved["number"], saved["checksum"], Cursor(**cursor | {"rest": tuple(cursor["rest"])}))

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def _checksum(tokens: np.ndarray) -> int:
    return zlib.crc32(np.asarray(tokens, dtype=np.int64).tobytes())


@dataclass
class Stream:
    """What is read, and how.

    held_out: hashes of the validation stories, which are left out wherever they stand. key: the same only for the same
    shards, sample, tokenizer and settings, as far as that is known without reading all of it.
    """

    shards: list[Shard]
    lanes: int
    tokenizer: PreTrainedTokenizerBase
    arguments: DataArguments
    held_out: set[int]
    seed: int
    key: str

    def shard_of(self, lane: int, turn: int) -> tuple[int, Shard]:
        """The shard that a lane reads after `turn` others, and in which pass over all shards that is."""
        number = len(self.shards)
        passes, place = divmod(lane + turn * self.lanes, number)
        if self.arguments.shuffle_buffer_size:
            place = int(np.random.default_rng([self.seed, passes]).permutation(number)[place])
        elif self.lanes > 1:  # else a short shard would come again and again in the same lane
            place = (place + passes) % number
        return passes, self.shards[place]

    def passes(self, lane: int, cursor: Cursor) -> int:
        """Passes over all shards before the one in which `cursor` stands."""
        return (lane + cursor.turn * self.lanes) // len(self.shards)


@dataclass
class StreamedRows(PackedRows):
    """`rows`, `report` and `key` are those of the sample, which guards look at; the run trains on `stream`."""

    stream: Stream


def stream_rows(
    sample: PackedRows, corpus: Corpus, tokenizer: PreTrainedTokenizerBase, arguments: DataArguments, seed: int
) -> StreamedRows:
    """The stream of a recipe. sample: its first stories, packed. corpus: these and the validation stories."""
    shards = open_shards(arguments)
    lanes = min(arguments.streaming_lanes, len(shards))
    held_out = set(story_hashes(corpus.validation).tolist())
    key = content_key([sample.key, str(lanes), *(shard.name for shard in shards)])
    stream = Stream(shards, lanes, tokenizer, arguments, held_out, seed, key)
    corpus.report["stream"] = {"shards": len(shards), "lanes": lanes, "sample_stories": len(corpus.train)}
    corpus.report["stream"] |= {"not_checked": NOT_CHECKED}
    return StreamedRows(sample.rows, sample.report, key, stream)


class Lane:
    """The rows of one lane, from a cursor on."""

    def __init__(self, stream: Stream, number: int, start: Mark | None = None):
        """start: the last row that was trained on; the rows after it follow.

        Raises:
            UserError: that row is not what it was.
        """
        self.stream, self.number, self.data = stream, number, stream.arguments
        self.shards_without_story = 0
        self.following = start.cursor.rows if start else 0
        self.rows = self._rows(start.cursor if start else Cursor())
        if start is not None and _checksum(self.at(start.number).tokens) != start.checksum:
            raise UserError(
                f"the stream is not what it was when the checkpoint was saved: row {start.number} of lane {number} has "
                "other tokens",
                "restore the shards, or give another --output_dir",
            )

    def at(self, number: int) -> Row:
        """Row `number`, which must come after the rows that were read before."""
        row = next(islice(self.rows, number - self.following, None))
        self.following = number + 1
        return row

    def _rows(self, cursor: Cursor) -> Iterator[Row]:
        for place, block in self._chunks(cursor):
            for i, tokens in enumerate(block):
                yield Row(self.number, place.rows + i, tokens, place)

    def _chunks(self, cursor: Cursor) -> Iterator[tuple[Cursor, np.ndarray]]:
        """Rows of a chunk of stories, shape (rows, block_size), and the cursor before it."""
        items = self._items(cursor.turn, cursor.row)
        before, done = cursor.rows, cursor.story
        rest: np.ndarray = np.array(cursor.rest, dtype=self._dtype)
        counts = dict(cursor.counts or NO_ROWS | {"left_out": 0})
        counted = bool(cursor.counts)  # the window of a cursor has been counted
        while True:
            stories, (turn, row) = self._window(items, dict(counts) if counted else counts)
            counted = False
            if self.data.shuffle_buffer_size:
                seed = [self.stream.seed, self.number, turn, row]
                stories = [stories[i] for i in np.random.default_rng(seed).permutation(len(stories))]
            for first in range(done, len(stories), STORIES_PER_BATCH):
                place = Cursor(before, turn, row, first, tuple(rest.tolist()), dict(counts))
                block, rest = self._packed(rest, stories[first : first + STORIES_PER_BATCH])
                yield place, block
                before += len(block)
            done = 0

    def _window(self, items: Iterator, counts: dict[str, Any]) -> tuple[list[str], tuple[int, int]]:
        """The next stories that are shuffled together, and turn and row before the first; a pass ends a window."""
        stories: list[str] = []
        begin = (0, 0)
        at_most = self.data.shuffle_buffer_size or STORIES_PER_BATCH
        for turn, row, item in items:
            story = story_of(item, self.data.on_bad_row, counts) if item is not None else ""
            if story and int(text_hashes([story])[0]) in self.stream.held_out:
                counts["left_out"] += 1
            elif story:
                begin = begin if stories else (turn, row - 1)
                stories.append(story)
                self.shards_without_story = 0
            ends = item is None and self._ends_a_pass(turn)
            if len(stories) == at_most or (stories and ends):
                return stories, begin
        raise AssertionError("a lane has no end")

    def _ends_a_pass(self, turn: int) -> bool:
        """Whether the shard before `turn` was the last of this lane in a pass.

        Raises:
            UserError: in all shards there is no story to train on.
        """
        self.shards_without_story += 1
        if self.shards_without_story > len(self.stream.shards):
            raise UserError(
                f"no story is left to train on in {len(self.stream.shards)} shards",
                "check the data source: they are empty, or all of it is validation data",
            )
        return self.stream.shard_of(self.number, turn)[0] > self.stream.shard_of(self.number, turn - 1)[0]

    def _items(self, turn: int, row: int) -> Iterator[tuple[int, int, str | BadRow | None]]:
        """Turn, rows read of the shard, and the row, from there on; None, after a shard has ended."""
        for following in count(turn):
            rows = self.stream.shard_of(self.number, following)[1].rows()
            for number, item in enumerate(islice(rows, row, None), start=row + 1):
                yield following, number, item
            row = 0
            yield following + 1, 0, None

    def _packed(self, rest: np.ndarray, stories: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """The rows of `rest` and `stories`, and the tokens that do not fill one."""
        tokenizer, size = self.stream.tokenizer, self.data.block_size
        encoded = tokenizer(stories, add_special_tokens=False)["input_ids"]
        tokens: list[np.ndarray] = [
            np.array([tokenizer.bos_token_id, *ids, tokenizer.eos_token_id], dtype=self._dtype) for ids in encoded
        ]
        if self.data.align_to_stories:
            return fit_rows(tokens, size, tokenizer.pad_token_id), rest
        joined = np.concatenate([rest, *tokens])
        full = len(joined) // size * size
        return joined[:full].reshape(-1, size), joined[full:]

    @property
    def _dtype(self) -> type:
        return np.uint16 if len(self.stream.tokenizer) <= 2**16 else np.uint32


class StreamReader(torch.utils.data.IterableDataset):
    """The rows of one process from row `begin` of the run on, in lists of `rows_at_once`, without end.

    marks: of the lanes that were read before. A data worker gives every n-th row of its process; a `UserError` is the
    last item, because torch would wrap what a worker raises.
    """

    def __init__(
        self, stream: Stream, begin: int, marks: dict[int, Mark], process: int, processes: int, rows_at_once: int
    ):
        super().__init__()
        self.stream, self.begin, self.marks = stream, begin, marks
        self.process, self.processes, self.rows_at_once = process, processes, rows_at_once

    def __iter__(self) -> Iterator[list[Row] | UserError]:
        worker = torch.utils.data.get_worker_info()
        own, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        if worker:
            os.environ["TOKENIZERS_PARALLELISM"] = "false"  # threads of the tokenizer do not live through a fork
        rows = self._rows(own, workers)
        try:
            while True:
                yield list(islice(rows, self.rows_at_once))
        except UserError as error:
            yield error

    def _rows(self, own: int, workers: int) -> Iterator[Row]:
        lanes: dict[int, Lane] = {}
        for number in count(own, workers):
            in_lane, lane = divmod(self.begin + number * self.processes + self.process, self.stream.lanes)
            if lane not in lanes:
                lanes[lane] = Lane(self.stream, lane, self.marks.get(lane))
            yield lanes[lane].at(in_lane)
