"""Rows of every epoch: all stories in a new order, the same for whoever reads them: a data worker, a resumed run."""

import json
import pickle
from collections import Counter
from functools import partial
from itertools import combinations, pairwise

import datasets
import numpy as np
import pytest
from accelerate.data_loader import prepare_data_loader, skip_first_batches
from accelerate.state import PartialState
from torch.utils.data import DataLoader

from helpers.runs import mistake
from tinystories.config.keys import DataArguments, TokenizerArguments
from tinystories.config.recipe import read_recipe
from tinystories.data.packing import StoryCollator, encode_story
from tinystories.data.reshuffling import check_reshuffling, count_rows_by_epoch, reshuffled_rows
from tinystories.data.tokenizer import train_tokenizer


TEXTS = [f"Hen {i} sat{' and sat' * (i % 7)}." for i in range(60)] + ["Twice."] * 2 + ["The goat walked on. " * 30]
STORIES = datasets.Dataset.from_dict({"text": TEXTS})


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(STORIES, TokenizerArguments(vocab_size=290))


@pytest.fixture(scope="module")
def make(tokenizer, tmp_path_factory):
    """Function of block_size and seed -> PackedRows; all of them share a cache."""
    folder = tmp_path_factory.mktemp("cache")

    def make(block_size=16, seed=7, stories=STORIES, **settings):
        arguments = DataArguments(block_size=block_size, data_cache_dir=str(folder), **settings)
        return reshuffled_rows(stories, tokenizer, arguments, seed)

    make.folder = folder
    return make


def epoch_of(rows, epoch: int) -> np.ndarray:
    """Its rows, one at a time; int64 of shape (rows, block_size)."""
    return np.array([rows[epoch * len(rows) + i]["input_ids"] for i in range(len(rows))], dtype=np.int64)


def stories_in(stream: np.ndarray, eos: int) -> list[tuple[int, ...]]:
    """The last one may be cut, or empty."""
    return [tuple(part.tolist()) for part in np.split(stream, np.flatnonzero(stream == eos) + 1)]


@pytest.mark.parametrize("block_size", [2, 7, 16, 64, 500])
def test_each_story_in_each_epoch(make, tokenizer, block_size):
    """Whole and once, but for less than a row at the end, which is the begin of a story that is missing before it."""
    packed = make(block_size)
    wanted = Counter(tuple(encode_story(text, tokenizer)) for text in TEXTS)
    tokens = sum(len(story) * times for story, times in wanted.items())
    assert (packed.report["rows"], packed.report["dropped_tokens"]) == divmod(tokens, block_size)
    assert packed.report["reshuffled_each_epoch"] and packed.report["tokens"] == tokens
    for epoch in range(4):
        stream = epoch_of(packed.rows, epoch).reshape(-1)
        *whole, rest = stories_in(stream, tokenizer.eos_token_id)
        assert Counter(whole) <= wanted
        missing = wanted - Counter(whole)
        assert sum(len(story) * times for story, times in missing.items()) - len(rest) == tokens % block_size
        assert not rest or any(story[: len(rest)] == rest for story in missing)


def test_orders(make, tokenizer):
    """Another one in each epoch and with another seed; the same again for the same, whatever was read between."""
    orders = {}
    for seed in (0, 7, 2**32 - 1):
        rows = make(seed=seed).rows
        for epoch in (0, 1, 2, 1000):
            orders[seed, epoch] = stories_in(epoch_of(rows, epoch).reshape(-1), tokenizer.eos_token_id)
    for one, other in combinations(orders.values(), 2):
        follow = [set(pairwise(stories)) for stories in (one, other)]
        assert len(follow[0] & follow[1]) < 10
    again = make(seed=7).rows
    for epoch in (1000, 2, 0):
        assert stories_in(epoch_of(again, epoch).reshape(-1), tokenizer.eos_token_id) == orders[7, epoch]


def test_ways_to_read(make):
    """One row, several of different epochs, all of an epoch, and in a process that is not forked: the same tokens."""
    rows = make().rows
    wanted = np.concatenate([epoch_of(rows, epoch) for epoch in range(3)])
    numbers = [0, 2 * len(rows), len(rows) - 1, len(rows), 5]
    assert np.array_equal(rows[numbers]["input_ids"], wanted[numbers])
    assert rows[[]]["input_ids"].shape == (0, 16)
    sent = pickle.dumps(rows)
    assert len(sent) < 1000, "the tokens themselves"
    for at_once in (1, 7, 1000):
        blocks = list(pickle.loads(sent).iter(at_once, epoch=2))
        assert np.array_equal(np.concatenate([block["input_ids"] for block in blocks]), wanted[2 * len(rows) :])
    with pytest.raises(IndexError):
        rows[-1]


def batches(loader, epoch: int) -> list[list]:
    loader.set_epoch(epoch)
    return [batch["input_ids"].tolist() for batch in loader]


@pytest.mark.parametrize(("processes", "workers"), [(1, 0), (1, 2), (2, 0)])
def test_loader(make, processes, workers):
    """Through accelerate's loaders: each row of the epoch once, and the same rows where one begins in its middle."""
    PartialState(cpu=True)
    rows = make().rows

    def loader(process: int, skipped: int = 0):
        plain = DataLoader(
            rows,
            batch_size=4,
            shuffle=True,
            num_workers=workers,
            persistent_workers=workers > 0,
            collate_fn=StoryCollator(0),
        )
        prepared = prepare_data_loader(
            plain, num_processes=processes, process_index=process, put_on_device=False, use_seedable_sampler=True
        )
        count_rows_by_epoch(prepared, len(rows))
        return skip_first_batches(prepared, skipped) if skipped else prepared

    loaders = [loader(process) for process in range(processes)]
    for epoch in (0, 1, 2):
        given = [batches(one, epoch) for one in loaders]
        seen = {tuple(row) for own in given for batch in own for row in batch}
        assert seen == {tuple(row) for row in epoch_of(rows, epoch).tolist()}
    for process in range(processes):
        assert batches(loader(process, skipped=3), 2) == given[process][3:]


def test_cache(make):
    """The tokens are on disk once, for every block_size and seed; rows of another kind have another key."""
    keys = {make(16, 7).key, make(17, 7).key, make(16, 8).key, make(16, 7, STORIES.select(range(62))).key}
    assert len(keys) == 4 and make(16, 7).key in keys
    folders = [path for path in make.folder.iterdir() if path.is_dir()]
    assert len(folders) == 2
    for folder in folders:
        tokens = json.loads((folder / "report.json").read_text(encoding="utf-8"))["tokens"]
        assert (folder / "tokens.bin").stat().st_size == 2 * tokens


def test_too_little_text(make):
    few = STORIES.select([0, 1])
    assert "fewer than one row" in mistake(make, 512, stories=few)
    assert "fewer than one row" in mistake(make, stories=STORIES.select([]))
    rows = make(make(10, stories=few).report["tokens"], stories=few).rows
    assert len(rows) == 1 and {len(row) for row in epoch_of(rows, 3)} == {rows.block_size}


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--align_to_stories", "true"], "align_to_stories"),
        (["--streaming", "true", "--max_steps", "5"], "streaming"),
        (["--train_sampling_strategy", "group_by_length"], "group_by_length"),
        (["--accelerator_config", '{"dispatch_batches": true}'], "dispatch_batches"),
    ],
)
def test_refused(options, named, tmp_path):
    check = partial(check_of, [*options, "--output_dir", str(tmp_path / "run"), "--use_cpu", "true"])
    assert named in mistake(check, True)
    check(False)


def check_of(options: list[str], reshuffle: bool) -> None:
    check_reshuffling(read_recipe([*options, "--reshuffle_stories", str(reshuffle)]))
