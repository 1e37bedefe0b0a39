"""A run on a stream: the batches of each process, where the stream stands in a checkpoint, and what is checked.

`StreamFeed` belongs to a Trainer and takes the place of its DataLoader. What a recipe asks of a corpus that is read
whole, and a stream cannot give, is refused (`check_streaming`).
"""

import logging
import os
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object, send_to_device
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase, TrainerCallback, TrainerState

from tinystories.config.arguments import RunArguments
from tinystories.config.keys import DataArguments
from tinystories.config.recipe import Recipe
from tinystories.data.corpus import text_hashes
from tinystories.data.packing import PackedRows
from tinystories.data.readers import BadRow
from tinystories.data.streaming import Mark, Row, Stream, StreamedRows, StreamReader
from tinystories.errors import GuardError, UserError
from tinystories.training.recipe_trainer import RecipeTrainer
from tinystories.training.signals import IgnoreSignals


logger = logging.getLogger(__name__)

KEYS = ("streaming_lanes", "streaming_sample_stories", "shuffle_buffer_size")
NO_EPOCHS = "a stream has no known length, so no epochs"


def check_streaming(recipe: Recipe) -> None:
    """Raises UserError: a key that a stream cannot obey, or a key of streams without one."""
    data, training = recipe.data, recipe.training
    if not data.streaming:
        for key in KEYS:
            if getattr(data, key) != getattr(DataArguments, key):  # the recipe of a run that is repeated names them all
                raise UserError(f"{key} is for a stream", "give --streaming true, or leave it out")
        return
    config: Any = training.accelerator_config  # an AcceleratorConfig, whatever its annotation says
    strategies = {name: getattr(training, name) for name in ("eval_strategy", "save_strategy", "logging_strategy")}
    by_epoch = [name for name, strategy in strategies.items() if strategy == "epoch"]
    sampled = "train_sampling_strategy" in recipe.given and training.train_sampling_strategy != "random"
    refused = (
        (data.num_sample_stories is not None, "num_sample_stories is no stream", "give train_file or dataset_name"),
        (training.max_steps <= 0, f"streaming needs max_steps: {NO_EPOCHS}", "give --max_steps"),
        (bool(by_epoch), f"{' and '.join(by_epoch)} epoch: {NO_EPOCHS}", "give steps"),
        (data.max_train_samples is not None, "max_train_samples counts the stories of a whole corpus", "use max_steps"),
        (
            data.remove_overlap,
            "remove_overlap looks for near-copies in the whole corpus, which a stream does not allow",
            "leave it out: a stream leaves out the stories that equal a validation story in any case",
        ),
        ("ignore_data_skip" in recipe.given, "ignore_data_skip: a stream is resumed at the very row", "leave it out"),
        (sampled, f"train_sampling_strategy {training.train_sampling_strategy} needs all rows", "use random"),
        (
            bool(config.dispatch_batches or config.split_batches),
            "dispatch_batches and split_batches of accelerator_config: each process reads its own part of a stream",
            "leave them out",
        ),
    )
    for is_so, message, remedy in refused:
        if is_so:
            raise UserError(message, remedy)
    training.ignore_data_skip = True  # the Trainer would read and drop what the feed does not give again


def planned_rows(training: RunArguments, packed: PackedRows) -> int:
    """To train on: those on disk; of a stream, which has no known length, those of the steps of the run."""
    if not isinstance(packed, StreamedRows):
        return len(packed.rows)
    per_step = training.train_batch_size * training.gradient_accumulation_steps * training.world_size
    return training.max_steps * per_step


def feed_of(trainer: RecipeTrainer, packed: PackedRows) -> "StreamFeed | None":
    """None where the rows are on disk."""
    return StreamFeed(trainer, packed.stream) if isinstance(packed, StreamedRows) else None


class StreamFeed:
    """The batches of this process, and where the stream stands.

    marks: of each lane of which this process has given out rows. given: rows of this process in this session.
    stories: begun in these rows.
    """

    def __init__(self, trainer: RecipeTrainer, stream: Stream):
        self.trainer, self.stream = trainer, stream
        self.begin = self.stories_before = 0  # of the checkpoint that the run continues from
        self.saved: dict[int, Mark] = {}
        self.marks: dict[int, Mark] = {}
        self.given = self.stories = 0
        self.unequal = False  # whether that was said
        self._warn_of_shared_lanes()

    def _warn_of_shared_lanes(self) -> None:
        readers = self.trainer.args.world_size * max(1, self.trainer.args.dataloader_num_workers)
        shared = int(np.gcd(self.stream.lanes, readers))
        if shared < readers:
            logger.warning(
                "%d readers (processes x data workers) share %d lanes: each reads %d times what it trains on; have at "
                "least as many shards as readers, and set --streaming_lanes to a multiple of their number",
                *(readers, self.stream.lanes, readers // shared),
            )

    def reader(self, rows_at_once: int) -> StreamReader:
        args = self.trainer.args
        return StreamReader(self.stream, self.begin, self.saved, args.process_index, args.world_size, rows_at_once)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        """Batches, from the beginning or the place of the checkpoint on, without end."""
        args, size = self.trainer.args, self.trainer._train_batch_size
        self.marks, self.given, self.stories = dict(self.saved), 0, 0
        if args.dataloader_num_workers:
            os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # else each fork prints a warning
        items = iter(
            DataLoader(
                self.reader(size),
                batch_size=None,
                num_workers=args.dataloader_num_workers,
                collate_fn=_unchanged,
                worker_init_fn=IgnoreSignals(None),
                multiprocessing_context=args.dataloader_multiprocessing_context,
                prefetch_factor=args.dataloader_prefetch_factor,
                generator=torch.Generator(),  # else it would draw from the random numbers of the run
            )
        )
        while True:
            lists = [_rows_of(next(items)) for _ in range(max(1, args.dataloader_num_workers))]
            rows = [row for together in zip(*lists, strict=True) for row in together]
            for first in range(0, len(rows), size):
                self._note(rows[first : first + size])
                batch = self.trainer.data_collator([{"input_ids": row.tokens} for row in rows[first : first + size]])
                yield send_to_device(batch, args.device)

    def _note(self, rows: list[Row]) -> None:
        bos = self.trainer.processing_class.bos_token_id
        for row in rows:
            before = self.marks.get(row.lane)
            passes = self.stream.passes(row.lane, row.cursor)
            if before is not None and self.stream.passes(row.lane, before.cursor) < passes:
                logger.info("lane %d of the stream begins pass %d over the shards", row.lane, passes + 1)
                self._warn_of_unequal_shards(row.lane, passes)
            self.marks[row.lane] = Mark.of(row)
            self.stories += int((row.tokens == bos).sum())
        self.given += len(rows)

    def _warn_of_unequal_shards(self, lane: int, passes: int) -> None:
        behind = min((self.stream.passes(other, mark.cursor), other) for other, mark in self.marks.items())
        if passes - behind[0] > 1 and not self.unequal:
            self.unequal = True
            logger.warning(
                "the shards are of unequal size: lane %d begins pass %d over them and lane %d is in pass %d, so some "
                "stories come again before others come; make the shards equal, or set --streaming_lanes 1",
                *(lane, passes + 1, behind[1], behind[0] + 1),
            )

    def state(self) -> dict[str, Any]:
        """Where the stream stands, of all processes, as JSON. Must be called in every process."""
        own = [({str(lane): mark.as_json() for lane, mark in self.marks.items()}, self.stories)]
        gathered = gather_object(own) if self.trainer.args.world_size > 1 else own
        lanes: dict[str, Any] = {}
        for marks, _ in gathered:
            for lane, mark in marks.items():
                lanes[lane] = max(lanes.get(lane, mark), mark, key=lambda one: one["number"])
        rows = self.begin + self.given * self.trainer.args.world_size
        return {"rows": rows, "stories": self.stories_before + sum(number for _, number in gathered), "lanes": lanes}

    def restore(self, state: dict[str, Any] | None, checkpoint: str) -> None:
        """Begin where `state` stands. Raises UserError: the checkpoint has no such state."""
        if state is None:
            raise UserError(f"{checkpoint} cannot be resumed: it does not say where the stream stands")
        self.begin, self.stories_before = state["rows"], state["stories"]
        self.saved = {int(lane): Mark.from_json(mark) for lane, mark in state["lanes"].items()}

    def numbers(self) -> dict[str, int]:
        """For the results of a run: what it saw of the stream. Must be called in every process."""
        state = self.state()
        cursors = [Mark.from_json(mark).cursor for mark in state["lanes"].values()]
        passes = [self.stream.passes(int(lane), Mark.from_json(mark).cursor) for lane, mark in state["lanes"].items()]
        found = {f"stream_{name}": sum(one.counts[name] for one in cursors) for name in ("bad", "empty", "left_out")}
        return found | {
            "stream_rows": state["rows"],
            "stream_stories": state["stories"],
            "stream_passes": min(passes, default=0),
            "stream_passes_most": max(passes, default=0),
        }


def _unchanged(item: Any) -> Any:
    return item


def _rows_of(item: list[Row] | UserError) -> list[Row]:
    if isinstance(item, UserError):
        raise item
    return item


class StepsAsEpoch(TrainerCallback):
    """`epoch` is the share of max_steps, as in a run never resumed; the Trainer would count from zero again."""

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        state.epoch = state.global_step / state.max_steps


def check_stream(trainer: RecipeTrainer) -> str:
    """The first rows: of all processes together each once, from stories of the shards, and the same from a mark.

    Must be called in every process.
    """
    feed = trainer.stream
    assert isinstance(feed, StreamFeed)
    mistake: UserError | None = None
    places: list[tuple[int, int]] = []
    try:
        places = _check_own(feed, trainer)
    except UserError as error:
        mistake = error
    found = [(mistake, places, feed.stream.key)]
    found = gather_object(found) if trainer.args.world_size > 1 else found
    for wrong, _, _ in found:
        if wrong is not None:
            raise wrong
    if len({key for _, _, key in found}) > 1:
        raise GuardError("the processes do not read the same stream: the shards were changed while the run began")
    read = sorted(place for _, places, _ in found for place in places)
    lanes = feed.stream.lanes
    if read != sorted(divmod(feed.begin + number, lanes)[::-1] for number in range(len(read))):
        raise GuardError("the processes do not read every row of the stream once: their shares overlap or leave gaps")
    return f"{len(read)} rows of {lanes} lanes, each once, of stories of the shards, and the same again from a mark"


def _check_own(feed: StreamFeed, trainer: RecipeTrainer) -> list[tuple[int, int]]:
    """Lane and number of the rows of the first batches of this process."""
    args, size = trainer.args, trainer._train_batch_size
    first, second = (_rows_of(item) for item in islice(feed.reader(size), 2))
    _check_stories(feed.stream, first, trainer.processing_class)
    marks = {row.lane: Mark.of(row) for row in first}
    begin = feed.begin + size * args.world_size
    again = StreamReader(feed.stream, begin, feed.saved | marks, args.process_index, args.world_size, size)
    for row, repeated in zip(second, _rows_of(next(iter(again))), strict=True):
        if row[:2] != repeated[:2] or not np.array_equal(row.tokens, repeated.tokens):
            raise GuardError(
                f"row {row.number} of lane {row.lane} is another one when the stream is read again from the row "
                "before: a resumed run would train on other rows"
            )
    return [(row.lane, row.number) for row in first + second]


def _check_stories(stream: Stream, rows: list[Row], tokenizer: PreTrainedTokenizerBase) -> None:
    """The whole stories of first rows are those of the shards of their lanes, and none is a validation story."""
    for lane in {row.lane for row in rows}:
        tokens = np.concatenate([row.tokens for row in rows if row.lane == lane]).astype(np.int64)
        pieces = np.split(tokens, np.flatnonzero(tokens == tokenizer.eos_token_id) + 1)
        whole = [piece[1:-1].tolist() for piece in pieces if len(piece) and piece[0] == tokenizer.bos_token_id]
        whole = whole[:-1] if len(pieces[-1]) else whole  # the last one is cut
        texts = tokenizer.backend_tokenizer.decode_batch(whole, skip_special_tokens=False)
        hashes = set(text_hashes(texts).tolist())
        if hashes & stream.held_out:
            raise GuardError(f"a validation story is in the rows of lane {lane}: the scores would be of stories seen")
        if unknown := hashes - _found(stream, lane, hashes):
            text = next(text for text in texts if int(text_hashes([text])[0]) in unknown)
            raise GuardError(f"a story in the rows of lane {lane} is in none of its shards: {text[:40]!r}...")


def _found(stream: Stream, lane: int, hashes: set[int]) -> set[int]:
    """Which of them are in the shards of the lane, which are read until all are found."""
    found: set[int] = set()
    for turn in range(len(stream.shards)):
        for row in stream.shard_of(lane, turn)[1].rows():
            if not isinstance(row, BadRow):
                found |= hashes & set(text_hashes([row]).tolist())
            if found == hashes:
                return found
    return found
