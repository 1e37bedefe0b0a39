"""In which order rows are visited: over an epoch each once, in another order with another seed and in each epoch.

The real DataLoader of the Trainer is walked without a forward pass. Its batch sampler gives the rows of each batch, of
two epochs; its batches are compared with these rows, all of them where there are few, else some at random places, which
a resumed run starts from. Every process walks its own share (`walk`), and the first compares them (`check_visits`).
While the run trains, `VisitWitness` compares the rows of its steps with those that seed, epoch and step give.
"""

import math
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from accelerate.data_loader import DataLoaderShard
from accelerate.state import GradientState
from accelerate.utils import DataLoaderConfiguration, gather_object
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from tinystories.data.packing import IGNORED
from tinystories.data.reshuffling import ReshuffledRows
from tinystories.errors import GuardError
from tinystories.random_state import keep_random_state
from tinystories.training.guards.samples import Sample
from tinystories.training.recipe_trainer import RecipeTrainer


EPOCHS = 2
ALL_BATCHES = 2**22  # tokens: with fewer, every batch of the first epoch is compared
RANDOM_BY_SEED = ("random", "sequential")  # strategies whose order seed and epoch give
WATCHED = 0.02  # of the batches of a run
SOME_BATCHES = 12  # else so many after each of two random places
OTHER_SEEDS = 20  # few rows may be in the same order by chance


@dataclass
class Walk:
    """What one process was given in each of EPOCHS epochs.

    rows: their numbers in the epoch, by epoch, in order. other_seed: those of the first epoch with other seeds, until
    the order differs. batches: how many were compared. mistake: the first batch that is not what it must be. content: a
    checksum of all rows. seconds: of processor time.
    """

    rows: list[np.ndarray] = field(default_factory=list)
    other_seed: np.ndarray | None = None
    batches: int = 0
    mistake: str | None = None
    content: int = 0
    seconds: float = 0.0


def walk(trainer: RecipeTrainer, sample: Sample) -> list[Walk]:
    """The walk of each process, the same list in all of them. Must be called in every process."""
    found, begin = Walk(), time.process_time()
    if not _is_walked(trainer):
        return [found]
    with keep_random_state(trainer.args.device), _forget_loaders(trainer):
        try:
            _walk_epochs(trainer, found, sample)
            found.content = _content(trainer)
        except GuardError as error:
            found.mistake = error.message
    found.seconds = time.process_time() - begin
    return gather_object([found]) if trainer.args.world_size > 1 else [found]


def _accelerate(trainer: RecipeTrainer) -> DataLoaderConfiguration:
    return trainer.accelerator.dataloader_config


def _is_walked(trainer: RecipeTrainer) -> bool:
    rebalanced = trainer.args.train_sampling_strategy == "batch_rebalance"  # into batches of unequal size
    return trainer.stream is None and not _accelerate(trainer).dispatch_batches and not rebalanced


@contextmanager
def _forget_loaders(trainer: RecipeTrainer) -> Iterator[None]:
    """Leave no trace of a loader that is not used up, whose state accelerate would use for gradient accumulation."""
    loaders, state = trainer.accelerator._dataloaders, GradientState()
    before, references = len(loaders), list(state.dataloader_references)
    try:
        yield
    finally:
        del loaders[before:]
        state.dataloader_references = references


def _walk_epochs(trainer: RecipeTrainer, found: Walk, sample: Sample) -> None:
    _check_seed(trainer)
    for epoch in range(EPOCHS):
        batches = _batches_of_rows(_loader(trainer, epoch))
        rows = np.concatenate([*batches, np.empty(0, dtype=np.int64)])
        found.rows.append(rows - _first_row(trainer, epoch))
        if epoch == 0:
            _compare_batches(trainer, batches, found, sample)
    for seed in range(1, OTHER_SEEDS):
        with _other_seed(trainer, seed):
            batches = _batches_of_rows(_loader(trainer, 0))
        found.other_seed = np.concatenate([*batches, np.empty(0, dtype=np.int64)])
        if not np.array_equal(found.other_seed, found.rows[0]):
            break


def _first_row(trainer: RecipeTrainer, epoch: int) -> int:
    """The index of the first row of an epoch: rows that are made anew in each are counted on."""
    return epoch * len(trainer.train_dataset) if isinstance(trainer.train_dataset, ReshuffledRows) else 0


def _loader(trainer: RecipeTrainer, epoch: int) -> DataLoaderShard:
    """A loader as the Trainer makes it, in this epoch of the run."""
    loader = trainer.get_train_dataloader()
    assert isinstance(loader, DataLoaderShard)  # accelerate's
    loader.set_epoch(epoch)  # as the Trainer does
    return loader


def _batches_of_rows(loader: DataLoaderShard) -> list[np.ndarray]:
    return [np.array(batch) for batch in loader.batch_sampler or ()]


def _check_seed(trainer: RecipeTrainer) -> None:
    """accelerate orders the rows by `data_seed`, or by the seed of torch, which is the recipe's."""
    args = trainer.args
    drawn = _accelerate(trainer).data_seed
    for name, seed, used in (("data_seed", args.data_seed, drawn), ("seed", args.seed, torch.initial_seed())):
        if seed != used:
            raise GuardError(f"the recipe's {name} is {seed} and the order of the rows is drawn with {used}")


@contextmanager
def _other_seed(trainer: RecipeTrainer, number: int) -> Iterator[None]:
    """Loaders are made as in a run with another seed."""
    config = _accelerate(trainer)
    before = config.data_seed
    torch.manual_seed(trainer.args.seed + number)
    if before is not None:
        config.data_seed = before + number
    try:
        yield
    finally:
        config.data_seed = before
        torch.manual_seed(trainer.args.seed)


def _compare_batches(trainer: RecipeTrainer, batches: list[np.ndarray], found: Walk, sample: Sample) -> None:
    """The loader gives the rows of `batches`, also where it starts in their middle, as in a resumed run."""
    if trainer.args.train_sampling_strategy not in RANDOM_BY_SEED or not batches:
        return  # each loader has its own order
    starts = sample.rng.integers(len(batches), size=2).tolist()
    if sum(map(len, batches)) * trainer.recipe.data.block_size <= ALL_BATCHES:
        _compare(trainer, _loader(trainer, 0), batches, 0, found)
        starts = starts[:1]
    for start in starts:
        loader = trainer.accelerator.skip_first_batches(_loader(trainer, 0), start)
        loader.set_epoch(0)
        _compare(trainer, loader, batches[start : start + SOME_BATCHES], start, found)


def _compare(trainer: RecipeTrainer, loader: DataLoader, batches: list[np.ndarray], start: int, found: Walk) -> None:
    """The loader gives `batches` first, which begin with batch `start` of the epoch."""
    if len(loader) != len(batches) and not start and len(batches) > SOME_BATCHES:
        raise GuardError(f"the loader counts {len(loader)} batches and its sampler gives {len(batches)}")
    iterator = iter(loader)
    given = 0
    for rows, batch in zip(batches, iterator, strict=False):
        wanted = np.asarray(trainer.train_dataset[rows.tolist()]["input_ids"], dtype=np.int64)
        _check_batch(batch, wanted, trainer.processing_class, trainer.recipe.data.isolate_stories, start + given)
        given += 1
    del iterator  # ends its workers
    found.batches += given
    if given < len(batches):
        raise GuardError(
            f"the loader ends after {given} of {len(batches)} batches of its sampler: their rows would never be seen"
        )


def _check_batch(
    batch: dict[str, Any], wanted: np.ndarray, tokenizer: PreTrainedTokenizerBase, isolated: bool, number: int
) -> None:
    """input_ids and labels are these rows; with `isolated`, positions restart at each BOS."""
    ids, labels = batch["input_ids"].cpu().numpy(), batch["labels"].cpu().numpy()
    place = f"batch {number} of the first epoch"
    if not np.array_equal(ids, wanted):
        wrong = "other rows" if ids.shape == wanted.shape else f"shape {ids.shape} in place of {wanted.shape}"
        raise GuardError(f"{place} does not hold the rows that the sampler chose ({wrong})")
    if not np.array_equal(labels, np.where(wanted == tokenizer.pad_token_id, IGNORED, wanted)):
        raise GuardError(f"in {place} the labels of a batch are not its input ids, without padding")
    begins = wanted == tokenizer.bos_token_id
    if not isolated or not begins[:, 1:].any():
        return
    positions = np.zeros_like(wanted)
    for column in range(1, wanted.shape[1]):
        positions[:, column] = np.where(begins[:, column], 0, positions[:, column - 1] + 1)
    if "position_ids" not in batch or not np.array_equal(batch["position_ids"].cpu().numpy(), positions):
        raise GuardError(
            f"in {place} the position_ids do not restart at each BOS: attention crosses between the stories of a row"
        )


def _content(trainer: RecipeTrainer) -> int:
    """A checksum of all rows of this process."""
    checksum = 0
    for batch in trainer.train_dataset.iter(10_000):
        checksum = zlib.crc32(np.asarray(batch["input_ids"]).tobytes(), checksum)
    return checksum


def check_visits(trainer: RecipeTrainer, walks: list[Walk]) -> str:
    """Over an epoch all processes together visit each row once; what they leave out or repeat is what they must.

    Left out: with dataloader_drop_last, the last rows that do not fill a batch in every process. Repeated: without it,
    so many of the first rows that every process has a batch.
    """
    args, number = trainer.args, len(trainer.train_dataset)
    if trainer.stream is not None:
        return "not checked: a stream has no known number of rows"
    if not _is_walked(trainer):
        return "not checked: with these settings of accelerate the batches come from another process"
    for process, one in enumerate(walks):
        if one.mistake is not None:
            raise GuardError(one.mistake + (f" (process {process})" if len(walks) > 1 else ""))
    if len({one.content for one in walks}) > 1:
        raise GuardError("the processes do not train on the same rows: one has read other data or another cache")
    at_once = args.train_batch_size * (1 if _accelerate(trainer).split_batches else len(walks))
    rest = number % at_once
    allowed = 0 if len(walks) == 1 else at_once - rest if rest and not args.dataloader_drop_last else 0
    left_out = rest if args.dataloader_drop_last else 0
    for epoch in range(EPOCHS):
        _check_once(np.concatenate([one.rows[epoch] for one in walks]), number, left_out, allowed, epoch, len(walks))
    _check_orders(trainer, walks, number)
    parts = f" in {len(walks)} processes" if len(walks) > 1 else ""
    return (
        f"{number:,} rows once in an epoch{parts}"
        + (f", {left_out} dropped" if left_out else "")
        + f", in another order each epoch and with another seed; "
        f"{sum(one.batches for one in walks)} batches compared ({walks[0].seconds:.1f} s before)"
    )


def _check_once(visited: np.ndarray, number: int, left_out: int, repeated: int, epoch: int, processes: int) -> None:
    if len(visited) and not (visited.min() >= 0 and visited.max() < number):
        raise GuardError(
            f"in epoch {epoch + 1} the sampler chooses rows {visited.min()} to {visited.max()} of {number}: it is "
            "wrong, or was not told the epoch"
        )
    times = np.bincount(visited, minlength=number)
    never, again = int((times == 0).sum()), int((times - 1).clip(min=0).sum())
    if never > left_out or again > repeated:
        where = f" by {processes} processes" if processes > 1 else ""
        allowed = f" ({left_out} may be left out, {repeated} repeated)" if left_out or repeated else ""
        raise GuardError(
            f"in epoch {epoch + 1} {never:,} of {number:,} rows are never visited and {again:,} visits repeat a row"
            f"{where}{allowed}: the sampler, or the share of a process, is wrong"
        )


def _check_orders(trainer: RecipeTrainer, walks: list[Walk], number: int) -> None:
    """Rows are shuffled, unless the user asks for their own order."""
    if number < 2 or not len(walks[0].rows[0]) or _asked_for_sequence(trainer):
        return
    orders = [np.concatenate([one.rows[epoch] for one in walks]) for epoch in range(EPOCHS)]
    others = [one.other_seed for one in walks if one.other_seed is not None]
    if number > 8 and any(np.array_equal(first, second) for first, second in pairwise(orders)):
        raise GuardError("the rows are in the same order in each epoch: the sampler does not shuffle them again")
    if others and np.array_equal(np.concatenate(others), orders[0]):
        raise GuardError(
            "the rows are in the same order with another seed: the sampler ignores the seed, or never shuffles"
        )
    if number > 8 and len(walks) == 1 and (np.diff(orders[0]) == 1).mean() > 0.9:
        raise GuardError("the rows are visited in the order of the file: the sampler does not shuffle them")


def _asked_for_sequence(trainer: RecipeTrainer) -> bool:
    return "train_sampling_strategy" in trainer.recipe.given and trainer.args.train_sampling_strategy == "sequential"


class VisitWitness:
    """While the run trains: the rows of a step are those that seed, epoch and step give, also in a resumed run.

    Looked at: the first batch of a session and of each epoch, and random ones.
    """

    def __init__(self, trainer: RecipeTrainer):
        self.trainer, self.rng = trainer, Sample().rng
        self.place: tuple[int, int, int] | None = None
        self.number_in_step = 0
        self.epoch: int | None = None
        self.batches: list[np.ndarray] = []

    def look(self, inputs: dict[str, Any]) -> None:
        """Raises GuardError: these are not the rows of this step. Called before each micro-batch."""
        args, before = self.trainer.args, self.place
        if not _is_walked(self.trainer) or args.train_sampling_strategy not in RANDOM_BY_SEED:
            return
        if args.ignore_data_skip and "ignore_data_skip" in self.trainer.recipe.given:
            return
        self.place = (self.trainer.state.global_step, self.trainer._train_batch_size, args.gradient_accumulation_steps)
        self.number_in_step = self.number_in_step + 1 if self.place == before else 0
        if before is None or self.place[1:] != before[1:]:
            self._order(0)
        steps = math.ceil(len(self.batches) / args.gradient_accumulation_steps)
        epoch, step = divmod(self.place[0], steps)
        number = step * args.gradient_accumulation_steps + self.number_in_step
        if before is None or not number or self.rng.random() < WATCHED:
            self._compare(inputs["input_ids"], epoch, number)

    def _order(self, epoch: int) -> None:
        with keep_random_state(self.trainer.args.device), _forget_loaders(self.trainer):
            torch.manual_seed(self.trainer.args.seed)  # a resumed run has a later state
            self.epoch, self.batches = epoch, _batches_of_rows(_loader(self.trainer, epoch))
        if self.trainer.check_epoch is not None and epoch >= EPOCHS:
            self.trainer.check_epoch(epoch)

    def _compare(self, ids: torch.Tensor, epoch: int, number: int) -> None:
        if epoch != self.epoch:
            self._order(epoch)
        rows = self.batches[number].tolist() if number < len(self.batches) else []
        wanted = np.asarray(self.trainer.train_dataset[rows]["input_ids"], dtype=np.int64) if rows else None
        if wanted is None or not np.array_equal(ids.cpu().numpy(), wanted):
            raise GuardError(
                f"step {self.trainer.state.global_step + 1} trains on other rows than batch {number + 1} of epoch "
                f"{epoch + 1}: the run was resumed at another place, or a step is given other batches than were checked"
            )
