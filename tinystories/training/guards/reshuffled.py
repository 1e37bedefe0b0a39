"""Rows that are packed anew in every epoch (`reshuffle_stories`): in each, all stories of the corpus in another order.

Before the first step two epochs are read from first row to last. The stories of the first are decoded and compared with
the corpus letter by letter; from then on a story is known by a hash of its tokens, and a whole epoch is compared
whenever one begins. The order that the run's own code draws is not used: what counts is what the rows hold.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import datasets
import numpy as np
from transformers import PreTrainedTokenizerBase

from tinystories.data.readers import STORIES_PER_BATCH
from tinystories.data.reshuffling import ReshuffledRows
from tinystories.errors import GuardError
from tinystories.training.guards.rows import EXCERPT, TOKENIZED_AGAIN, RowTokenizer, StoryCutter, blocks, hashes
from tinystories.training.guards.sampler import EPOCHS
from tinystories.training.guards.samples import Sample
from tinystories.training.recipe_trainer import RecipeTrainer


FEW_STORIES = 20  # distinct ones; fewer may follow each other as before by chance
SAME_NEIGHBOURS = 0.2  # of the pairs of stories that follow each other; among many stories, almost none do again


@dataclass
class StoriesOfEpochs:
    """Compares epochs of `rows` with `stories`.

    known: the key of each story of the corpus, in its order. last: those of the whole stories in the epoch that was
    compared last, in its order.
    """

    rows: ReshuffledRows
    stories: datasets.Dataset
    tokenizer: PreTrainedTokenizerBase
    known: np.ndarray = field(init=False)
    last: np.ndarray | None = None

    def __post_init__(self) -> None:
        self.tools = RowTokenizer(self.tokenizer)

    def learn(self, sample: Sample) -> None:
        """Decode the stories of the first epoch. Raises GuardError: one is not a story of the corpus."""
        again = set(sample.places(len(self.stories), TOKENIZED_AGAIN).tolist())
        reader, texts, keys = StoryCutter(self.tools), [np.empty(0, np.uint64)], [np.empty(0, np.uint64)]
        number = 0
        for block in blocks(self.rows, len(self.tokenizer)):
            found = list(reader.stories(block.reshape(-1)))
            decoded = self.tools.decode(found)
            texts.append(hashes(text.encode() for text in decoded))
            keys.append(_keys(found))
            for ids, text in zip(found, decoded, strict=True):
                if number in again and not np.array_equal(ids, self.tools.encode([text])[0]):
                    raise GuardError(
                        f"the tokens of a packed story are not those that the tokenizer gives ({text[:EXCERPT]!r}...)"
                    )
                number += 1
        self.known = self._keys_of_the_corpus(np.concatenate(texts), np.concatenate(keys))

    def _keys_of_the_corpus(self, texts: np.ndarray, keys: np.ndarray) -> np.ndarray:
        """The key of each story, from those whose text the rows hold; the others are tokenized, if they may be few."""
        batches = self.stories.iter(STORIES_PER_BATCH)
        wanted = np.concatenate([hashes(text.encode() for text in batch["text"]) for batch in batches])
        held, at = np.unique(texts, return_index=True)
        places = np.minimum(np.searchsorted(held, wanted), max(0, len(held) - 1))
        known = keys[at[places]] if len(held) else np.zeros_like(wanted)
        absent = np.flatnonzero(held[places] != wanted) if len(held) else np.arange(len(wanted))
        if len(absent) > self.rows.block_size:
            raise GuardError(
                f"{len(absent):,} of {len(wanted):,} stories are not in the rows of the first epoch, such as "
                f"{self._text(absent[0])}: they were lost, cut or changed, or the rows are of another corpus or "
                "tokenizer"
            )
        known[absent] = _keys(self.tools.encode(list(self.stories.select(absent)["text"])))
        return known

    def _read(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The keys of the whole stories of an epoch, in its order, and the tokens of the cut one at its end."""
        reader, keys = StoryCutter(self.tools), [np.empty(0, np.uint64)]
        for block in blocks(self.rows, len(self.tokenizer), epoch):
            keys.append(_keys(reader.stories(block.reshape(-1))))
        return np.concatenate(keys), reader.rest

    def compare(self, epoch: int) -> int:
        """How many tokens the epoch drops at its end.

        Raises:
            GuardError: a story is not there, or there again, or changed; too many are dropped; the order is an old one.
        """
        found, rest = self._read(epoch)
        keys, places, times = np.unique(self.known, return_index=True, return_counts=True)
        at = np.minimum(np.searchsorted(keys, found), len(keys) - 1)
        where = f"the rows of epoch {epoch + 1}"
        if (keys[at] != found).any():
            number = int(np.flatnonzero(keys[at] != found)[0])
            raise GuardError(f"story {number + 1:,} of {where} is not in the corpus: it was cut or changed")
        held = np.bincount(at, minlength=len(keys))
        if (held > times).any():
            one = int(np.flatnonzero(held > times)[0])
            raise GuardError(
                f"{where} hold a story {held[one]} times that the corpus has {times[one]} times: it was doubled "
                f"({self._text(places[one])})"
            )
        dropped = self._dropped(np.repeat(places, times - held), rest, where)
        self._check_order(found, len(keys), epoch)
        self.last = found
        return dropped

    def _dropped(self, absent: np.ndarray, rest: np.ndarray, where: str) -> int:
        """Tokens after the last row. absent: stories that are not whole in the rows. rest: what the rows end with."""
        few = len(absent) <= self.rows.block_size
        texts = [self.stories[int(place)]["text"] for place in absent] if few else []
        left = self.tools.encode(texts)
        dropped = sum(map(len, left)) - len(rest)
        if not few or not 0 <= dropped < self.rows.block_size:
            raise GuardError(
                f"{len(absent):,} stories of the corpus are not in {where}, such as {self._text(absent[0])}: less than "
                f"one row of {self.rows.block_size} may be dropped at the end"
                if len(absent)
                else f"{where} hold more than the corpus"
            )
        if len(rest) and not any(np.array_equal(rest, ids[: len(rest)]) for ids in left):
            raise GuardError(
                f"{where} end with {self.tokenizer.decode(rest)[-EXCERPT:]!r}, which begins no story that is "
                "missing there"
            )
        return dropped

    def _check_order(self, found: np.ndarray, distinct: int, epoch: int) -> None:
        if distinct < FEW_STORIES:
            return
        for name, before in {"in the corpus": self.known, "in the epoch before": self.last}.items():
            if before is not None and np.isin(_pairs(found), _pairs(before)).mean() > SAME_NEIGHBOURS:
                raise GuardError(
                    f"the stories of epoch {epoch + 1} follow each other as {name}: reshuffle_stories puts them into "
                    "another order in each epoch"
                )

    def _text(self, place: int) -> str:
        return f"{self.stories[int(place)]['text'][:EXCERPT]!r}..."


def _keys(stories: Iterable[np.ndarray]) -> np.ndarray:
    return hashes(np.asarray(ids, dtype=np.int64).tobytes() for ids in stories)


def _pairs(keys: np.ndarray) -> np.ndarray:
    """Which stories follow each other, as numbers."""
    return keys[:-1] * np.uint64(2**32 + 1) + keys[1:]


def check_reshuffled(trainer: RecipeTrainer, compared: StoriesOfEpochs, sample: Sample) -> str:
    """The first epochs hold the stories of the corpus, as `compared` finds, in the order of the recipe's seed."""
    rows, args = compared.rows, trainer.args
    seed = args.seed if args.data_seed is None else args.data_seed
    if rows.seed != seed:
        raise GuardError(f"the recipe's seed of the data is {seed} and the stories are reshuffled with {rows.seed}")
    compared.learn(sample)
    dropped = [compared.compare(epoch) for epoch in range(EPOCHS)]
    return (
        f"all {len(compared.stories):,} stories are in the {len(rows):,} rows of each of {EPOCHS} epochs, each once, "
        f"letter by letter, in another order; the last {dropped[0]:,} tokens of an epoch dropped"
    )
