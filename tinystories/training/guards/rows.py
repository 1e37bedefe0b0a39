"""What the packed rows and the batches made of them must be: the stories of the corpus, all of them, and in the loss.

The rows are read once from first to last and decoded; every story is compared with the corpus letter by letter, so this
takes about an eighth of the time of packing. Of a story that was read nothing is kept, or a hash of eight bytes.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, zip_longest

import datasets
import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from tinystories.data.packing import IGNORED, Rows
from tinystories.data.readers import STORIES_PER_BATCH
from tinystories.data.reshuffling import ReshuffledRows
from tinystories.errors import GuardError
from tinystories.progress import progress_bar
from tinystories.training.guards.samples import Sample
from tinystories.training.recipe_trainer import RecipeTrainer


TOKENS_PER_BATCH = 2**20
TOKENIZED_AGAIN = 100  # random stories
LABELLED_ROWS = 32  # random rows
EXCERPT = 40  # characters


@dataclass
class RowTokenizer:
    """What reading rows needs of a tokenizer, with its texts decoded as they were encoded: without special tokens."""

    whole: PreTrainedTokenizerBase
    bos: int = field(init=False)
    eos: int = field(init=False)
    pad: int = field(init=False)

    def __post_init__(self) -> None:
        self.bos, self.eos, self.pad = (
            getattr(self.whole, f"{name}_token_id") for name in ("bos", "eos", "pad")
        )  # three different tokens: an earlier guard

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        """BOS + story + EOS."""
        encoded = self.whole(texts, add_special_tokens=False)["input_ids"] if texts else []  # it refuses no texts
        return [np.array([self.bos, *ids, self.eos]) for ids in encoded]

    def decode(self, stories: list[np.ndarray]) -> list[str]:
        return self.whole.backend_tokenizer.decode_batch(
            [story[1:-1].tolist() for story in stories], skip_special_tokens=False
        )


def check_rows(
    rows: Rows, stories: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, aligned: bool, sample: Sample
) -> str:
    """The rows, decoded, are the stories of the corpus: each once, complete, unchanged, between BOS and EOS.

    In one stream they are in the order of the corpus, and less than a row is dropped at the end. With `aligned` no
    story is dropped, a row begins with a story or continues one that is longer than a row, and padding ends a row.
    """
    tools = RowTokenizer(tokenizer)
    again = set(sample.places(len(stories), TOKENIZED_AGAIN).tolist())
    if aligned:
        tokens, dropped = _check_aligned(rows, stories, tools), 0
    else:
        tokens, dropped = _check_stream(rows, stories, tools, again)
    return (
        f"all {len(stories):,} stories are in the {len(rows):,} rows, each once, letter by letter; {tokens:,} tokens"
        + (f", the last {dropped:,} dropped" if dropped else "")
    )


def _check_stream(rows: Rows, stories: datasets.Dataset, tools: RowTokenizer, again: set[int]) -> tuple[int, int]:
    """Tokens of all stories, and those of them that are dropped at the end."""
    reader = StoryCutter(tools)
    texts = (text for batch in stories.iter(STORIES_PER_BATCH) for text in batch["text"])
    number = in_rows = 0
    for block in blocks(rows, len(tools.whole)):
        in_rows += block.size
        found = list(reader.stories(block.reshape(-1)))
        for ids, text in zip(found, tools.decode(found), strict=True):
            expected = next(texts, None)
            if text != expected:
                raise GuardError(_difference(number, text, expected, next(texts, None)))
            if number in again and not np.array_equal(ids, tools.encode([text])[0]):
                raise GuardError(_other_tokens(text))
            number += 1
    left = tools.encode(list(texts))
    rest = np.concatenate(left) if left else np.empty(0, dtype=np.int64)
    dropped = len(rest) - len(reader.rest)
    if not np.array_equal(rest[: len(reader.rest)], reader.rest):
        raise GuardError(
            f"the rows end with {tools.whole.decode(reader.rest)[-EXCERPT:]!r}, which is not story {number + 1:,} of "
            "the corpus: it was cut, or the rows are of another corpus or tokenizer"
        )
    if not 0 <= dropped < block.shape[1]:
        raise GuardError(
            f"the last {len(left):,} stories ({dropped:,} tokens) are not in the rows: less than one row of "
            f"{block.shape[1]} may be dropped at the end"
        )
    return in_rows + dropped, dropped


class StoryCutter:
    """Cuts a stream of tokens after each EOS."""

    def __init__(self, tools: RowTokenizer):
        self.tools, self.rest = tools, np.empty(0, dtype=np.int64)

    def stories(self, tokens: np.ndarray) -> Iterator[np.ndarray]:
        """The stories that end in `tokens`, each BOS ... EOS; what follows the last one is kept for the next call."""
        tokens = np.concatenate([self.rest, tokens])
        check_frame(tokens, self.tools)
        ends = np.flatnonzero(tokens == self.tools.eos) + 1
        *stories, self.rest = np.split(tokens, ends)
        return iter(stories)


def check_frame(tokens: np.ndarray, tools: RowTokenizer) -> None:
    """The stream begins with BOS, after each EOS comes BOS and nowhere else, and there is no padding in it."""
    begins, ends = tokens == tools.bos, tokens == tools.eos
    if len(tokens) and not begins.any():
        raise GuardError(
            "no BOS in the packed rows: the model would not learn how a story begins", "pack BOS + story + EOS"
        )
    if (begins[1:] & ~ends[:-1]).any():
        raise GuardError("no EOS between packed stories: the model would never stop", "pack BOS + story + EOS")
    if len(tokens) and (not begins[0] or (ends[:-1] & ~begins[1:]).any()):
        raise GuardError("no BOS after an EOS: the model would not learn how a story begins", "pack BOS + story + EOS")
    if (tokens == tools.pad).any():
        raise GuardError("padding inside a story: the packed rows are not the stories of the corpus")


def blocks(rows: Rows, vocab_size: int, epoch: int = 0) -> Iterator[np.ndarray]:
    """All rows in order, many at once; int64 of shape (rows, block_size). epoch: of rows that differ by epoch."""
    at_once = max(1, TOKENS_PER_BATCH // len(rows[0]["input_ids"]))
    starts = range(0, len(rows), at_once)
    bar = progress_bar(starts, desc="comparing rows with stories", unit=" million tokens")
    batches = rows.iter(at_once, epoch) if isinstance(rows, ReshuffledRows) else rows.iter(at_once)
    for _, batch in zip(bar, batches, strict=True):
        block = np.asarray(batch["input_ids"]).astype(np.int64)
        if block.max() >= vocab_size:
            raise GuardError(
                f"the packed rows hold token {block.max()}, beyond the vocabulary of {vocab_size}: they were packed "
                "with another tokenizer"
            )
        yield block


def _other_tokens(text: str) -> str:
    return (
        f"the tokens of a packed story are not those that the tokenizer gives ({text[:EXCERPT]!r}...): it was packed "
        "with another tokenizer"
    )


def _difference(number: int, found: str, expected: str | None, following: str | None) -> str:
    """What is wrong with the story that the rows hold in the place of story `number` (from 0) of the corpus."""
    place = f"story {number + 1:,} of the corpus"
    if expected is None:
        return f"the rows hold more stories than the corpus ({number:,}); the next one: {found[:EXCERPT]!r}..."
    if found == following:
        return f"{place} is missing in the rows ({expected[:EXCERPT]!r}...): it was lost when they were packed"
    at = next((i for i, (a, b) in enumerate(zip_longest(found, expected)) if a != b), 0)
    begin = max(0, at - 10)
    return (
        f"a packed story is not {place}: it has {found[begin : begin + EXCERPT]!r} in place of "
        f"{expected[begin : begin + EXCERPT]!r} (letter {at + 1:,}); it was cut, doubled or changed, or the rows are "
        "of another corpus or tokenizer"
    )


def _check_aligned(rows: Rows, stories: datasets.Dataset, tools: RowTokenizer) -> int:
    """Tokens of all stories. Whole stories are compared by a hash of their text, long ones by those of their pieces."""
    whole, pieces, tokens = [np.empty(0, dtype=np.uint64)], [np.empty(0, dtype=np.uint64)], 0
    for block in blocks(rows, len(tools.whole)):
        found, begun = _members_of_rows(block, tools)
        tokens += int((block != tools.pad).sum())
        whole.append(hashes(text.encode() for text in tools.decode(found)))
        pieces.append(hashes(piece.tobytes() for piece in begun))
    long_stories = _compare_whole(rows, stories, np.concatenate(whole), tools)
    _compare_pieces(long_stories, np.concatenate(pieces), tools, block.shape[1])
    return tokens


def _members_of_rows(block: np.ndarray, tools: RowTokenizer) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The whole stories of aligned rows, and the pieces of longer ones."""
    members = [_members(_without_padding(row, tools.pad), tools, block.shape[1]) for row in block]
    whole, pieces = zip(*members, strict=True)
    return list(chain.from_iterable(whole)), list(chain.from_iterable(pieces))


def _without_padding(row: np.ndarray, pad: int) -> np.ndarray:
    padding = row == pad
    length = len(row) - int(padding.sum())
    if padding[:length].any():
        raise GuardError("padding in the middle of a packed row: the stories after it are not where they belong")
    if not length:
        raise GuardError("a packed row holds nothing but padding")
    return row[:length]


def _members(row: np.ndarray, tools: RowTokenizer, block_size: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The whole stories of an aligned row, and the pieces of longer ones: its begin if it has no BOS, or all of it."""
    pieces = []
    if row[0] != tools.bos:  # the rest of a long story
        ends = np.flatnonzero(row == tools.eos)
        length = int(ends[0]) + 1 if len(ends) else len(row)
        pieces, row = [row[:length]], row[length:]
    elif len(row) == block_size and tools.eos not in row:  # the begin or middle of one
        if (row[1:] == tools.bos).any():
            raise GuardError("no EOS between packed stories: the model would never stop", "pack BOS + story + EOS")
        return [], [row]
    if not len(row):
        return [], pieces
    check_frame(row, tools)
    if row[-1] != tools.eos:
        raise GuardError("no EOS after the last story of a packed row: it was cut", "pack BOS + story + EOS")
    return np.split(row, np.flatnonzero(row == tools.eos)[:-1] + 1), pieces


def hashes(contents: Iterable[bytes]) -> np.ndarray:
    digests = b"".join(hashlib.blake2b(content, digest_size=8).digest() for content in contents)
    return np.frombuffer(digests, dtype=np.uint64)


def _compare_whole(rows: Rows, stories: datasets.Dataset, found: np.ndarray, tools: RowTokenizer) -> datasets.Dataset:
    """The stories that no row holds as a whole, all copies of them. Raises GuardError: the others differ."""
    wanted = np.concatenate(
        [hashes(text.encode() for text in batch["text"]) for batch in stories.iter(STORIES_PER_BATCH)]
    )
    keys, places, times = np.unique(wanted, return_index=True, return_counts=True)
    found_keys, found_times = np.unique(found, return_counts=True)
    at = np.minimum(np.searchsorted(found_keys, keys), max(0, len(found_keys) - 1))
    held = np.where(found_keys[at] == keys, found_times[at], 0) if len(found_keys) else np.zeros_like(times)
    unequal = np.flatnonzero((held != times) & (held > 0))
    if len(unequal):
        one = unequal[0]
        raise GuardError(
            f"the rows hold a story {held[one]} times that the corpus has {times[one]} times: it was lost or doubled "
            f"({stories[int(places[one])]['text'][:EXCERPT]!r}...)"
        )
    extra = found_keys[~np.isin(found_keys, keys)]
    if len(extra):
        raise GuardError(
            f"a packed story is not in this corpus: {_find_text(rows, extra[0], tools)[:EXCERPT]!r}...; it was cut or "
            "changed, or the rows are of another corpus or tokenizer"
        )
    return stories.select(np.flatnonzero(np.isin(wanted, keys[held == 0])))


def _find_text(rows: Rows, key: np.uint64, tools: RowTokenizer) -> str:
    """The story of the rows with this hash."""
    for block in blocks(rows, len(tools.whole)):
        texts = tools.decode(_members_of_rows(block, tools)[0])
        at = np.flatnonzero(hashes(text.encode() for text in texts) == key)
        if len(at):
            return texts[at[0]]
    raise AssertionError("no story of the rows has this hash")


def _compare_pieces(long_stories: datasets.Dataset, found: np.ndarray, tools: RowTokenizer, block_size: int) -> None:
    """The pieces of long stories are those that a fresh tokenization gives. Such a story must be longer than a row."""
    known, wanted = np.unique(found), [np.empty(0, dtype=np.uint64)]
    for batch in long_stories.iter(STORIES_PER_BATCH):
        for text, ids in zip(batch["text"], tools.encode(batch["text"]), strict=True):
            parts = hashes(ids[i : i + block_size].tobytes() for i in range(0, len(ids), block_size))
            if len(ids) <= block_size or not np.isin(parts, known).all():
                raise GuardError(
                    f"a story of the corpus is not in the rows: {text[:EXCERPT]!r}... ({len(ids):,} tokens); it was "
                    "lost, cut or changed when they were packed"
                )
            wanted.append(parts)
    if not np.array_equal(np.sort(np.concatenate(wanted)), np.sort(found)):
        raise GuardError(
            f"the rows hold {len(found):,} pieces of stories that are longer than a row, and the corpus has "
            f"{sum(map(len, wanted)):,}: some were lost or doubled"
        )


def check_labels(trainer: RecipeTrainer, sample: Sample) -> str:
    """In a collated batch the labels are the input ids, with EOS; only padding is left out of the loss.

    Looked at: two crafted rows, and random rows of the run, cut to other lengths, the longest whole.
    """
    tokenizer, rows = trainer.processing_class, trainer.train_dataset
    story = [
        tokenizer.bos_token_id,
        *tokenizer("One day.", add_special_tokens=False)["input_ids"],
        tokenizer.eos_token_id,
    ]
    _check_batch(trainer, [np.array(story), np.array(story + story)])
    whole = [np.asarray(rows[int(i)]["input_ids"], dtype=np.int64) for i in sample.places(len(rows), LABELLED_ROWS)]
    cuts = sample.rng.integers(1, len(whole[0]), size=len(whole), endpoint=True)
    cuts[sample.rng.integers(len(cuts))] = len(whole[0])
    _check_batch(trainer, [row[:cut] for row, cut in zip(whole, cuts, strict=True)])
    return (
        f"the input ids themselves, EOS learned, padding left out, in {len(whole)} random rows up to {cuts.max()} long"
    )


def _check_batch(trainer: RecipeTrainer, rows: list[np.ndarray]) -> None:
    batch = trainer.data_collator([{"input_ids": row} for row in rows])
    longest, pad = max(map(len, rows)), trainer.processing_class.pad_token_id
    wanted = np.full((len(rows), longest), pad)
    for place, row in zip(wanted, rows, strict=True):
        place[: len(row)] = row
    ids, labels = batch["input_ids"], batch["labels"]
    if not np.array_equal(ids.numpy(), wanted):
        raise GuardError(
            f"a batch of {len(rows)} rows, the longest of {longest} tokens, is not these rows padded on the right: the "
            f"collator changes them (shape {tuple(ids.shape)})"
        )
    padding = ids == pad
    if not (labels[padding] == IGNORED).all():
        raise GuardError("padding is in the loss: the model would learn to pad", "label padding with -100")
    wrong = (labels != ids) & ~padding
    if not wrong.any():
        return
    left_out = wrong & (labels == IGNORED)
    if torch.equal(left_out, wrong):
        tokens = trainer.processing_class.convert_ids_to_tokens(ids[wrong].unique()[:3].tolist())
        if (ids[wrong] == trainer.processing_class.eos_token_id).any():
            raise GuardError("EOS is left out of the loss: the model would never learn to stop", "mask padding only")
        raise GuardError(
            f"{int(wrong.sum())} tokens of a batch are left out of the loss ({tokens}...)", "mask padding only"
        )
    at, column = (int(place[0]) for place in wrong.nonzero(as_tuple=True))
    raise GuardError(
        "the labels of a batch are not its input ids: the model shifts labels to the next token itself, so a batch "
        f"must not shift them as well (row {at}, token {column}: label {int(labels[at, column])}, input id "
        f"{int(ids[at, column])})"
    )
