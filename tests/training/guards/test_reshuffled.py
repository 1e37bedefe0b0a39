"""Rows that are packed anew in every epoch: a story lost or doubled in any of them, or an old order, is found."""

import datasets
import numpy as np
import pytest

from helpers.mutations import assert_stopped, small_run
from helpers.runs import mistake, write_counting_corpus
from tinystories.config.keys import DataArguments, TokenizerArguments
from tinystories.data.reshuffling import ReshuffledRows, reshuffled_rows
from tinystories.data.tokenizer import train_tokenizer
from tinystories.training.guards.reshuffled import StoriesOfEpochs
from tinystories.training.guards.samples import Sample


MODULE = "tinystories/data/reshuffling.py"
DRAWN = "order = np.random.default_rng(key).permutation(len(self.ends))"
# In the order of an epoch
ORDERS = {
    "a story doubled in place of another": lambda order, epoch: np.append(order[:-60], order[:60]),
    "all orders the same": lambda order, epoch: np.random.default_rng(0).permutation(len(order)),
    "the order of the corpus": lambda order, epoch: np.arange(len(order)),
    "begun at another place": lambda order, epoch: np.roll(np.random.default_rng(0).permutation(len(order)), epoch),
}


class Mutated(ReshuffledRows):
    """Rows of stories in the order that `change` makes, from epoch `since` on."""

    since, change = 0, None

    def order(self, epoch):
        order, _ = super().order(epoch)
        if self.change is not None and epoch >= self.since:
            order = self.change(order, epoch)
        return order, np.cumsum(np.diff(self.ends, prepend=0)[order])


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Function of a change to the rows -> what compares their epochs with the stories."""
    texts = [f"Story {i}.  One two,\nthree {i * i} four." for i in range(400)] + ["Again."] * 3
    stories = datasets.Dataset.from_dict({"text": texts})
    tokenizer = train_tokenizer(stories, TokenizerArguments(vocab_size=300))
    data = DataArguments(block_size=64, data_cache_dir=str(tmp_path_factory.mktemp("cache")))
    plain = reshuffled_rows(stories, tokenizer, data, seed=3).rows

    def compared(rows=plain, kind=None, **changes):
        if kind is not None:
            rows = kind(*rows.__reduce__()[1])
        for name, value in changes.items():
            setattr(rows, name, value)
        return StoriesOfEpochs(rows, stories, tokenizer)

    return compared


def compare_epochs(compared: StoriesOfEpochs, number: int = 4) -> list[int]:
    compared.learn(Sample())
    return [compared.compare(epoch) for epoch in range(number)]


def test_honest_rows(compared):
    """The same number of tokens is dropped at the end of each epoch."""
    found = compared()
    tokens = found.rows.ends[-1]
    assert compare_epochs(found) == [tokens % 64] * 4


@pytest.mark.parametrize("since", [0, 1, 3])
@pytest.mark.parametrize("name", ORDERS)
def test_order(compared, name, since):
    """In the first epoch and in a later one."""
    assert mistake(compare_epochs, compared(kind=Mutated, since=since, change=ORDERS[name]), since + 2)


class OneTokenChanged(ReshuffledRows):
    """In the last row of epoch 3."""

    def _tokens(self, number, rows):
        found = np.array(super()._tokens(number, rows))
        if number // len(self) == 2:
            found[-1, self.column] += 1
        return found


@pytest.mark.parametrize(
    ("column", "reason"), [(0, "not in the corpus"), (30, "not in the corpus"), (63, "which begins no story")]
)
def test_any_token(compared, column, reason):
    """Also in the part of a story with which an epoch ends."""
    found = compared(kind=OneTokenChanged, column=column)
    compare_epochs(found, 2)
    assert reason in mistake(found.compare, 2)


class OneRowFewer(ReshuffledRows):
    def __len__(self):
        return super().__len__() - 1


def test_row_left_out(compared):
    """All that is in the rows is right, and what is dropped is more than a row."""
    assert "less than one row of 64 may be dropped" in mistake(compare_epochs, compared(kind=OneRowFewer))


MUTATIONS = {
    "a story lost in the third epoch": (
        DRAWN,
        f"{DRAWN}\n            order = np.where(order == 5, 6, order) if epoch == 2 else order",
        "hold a story 2 times that the corpus has 1 times",
    ),
    "the epoch forgotten": ("        self.epoch = epoch\n", "", "was not told the epoch"),
    "another seed": ("seed: int):", "seed: int):\n        seed = 1", "reshuffled with 1"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTATIONS)
def test_mutation_is_caught(name, mutated_tree, tmp_path):
    old, new, reason = MUTATIONS[name]
    options = ["--reshuffle_stories", "true", "--max_steps", "8", "--per_device_train_batch_size", "16"]
    corpus = write_counting_corpus(tmp_path, stories=60)
    assert_stopped(small_run(tmp_path, corpus, *options, tree=mutated_tree(MODULE, old, new)), reason)
