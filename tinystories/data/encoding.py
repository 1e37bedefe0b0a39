"""Stories to tokens: the ids that the tokenizer gives, without asking it twice for the same word.

A corpus says the same few thousand words again and again, and cutting a text with a regular expression costs more than
all the rest of tokenizing it. So a text is cut first where the tokenizer cuts it in any case, whatever stands around:

- before a space that an ASCII letter follows, and
- between an ASCII letter and an ASCII character that is none.

The tokenizer is asked for each part once, and the ids of the known parts are looked up for thousands of stories at a
time. This holds for the pieces that this project's tokenizers cut (tokenizer.py). Any other tokenizer gets whole texts.
"""

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import datasets
import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from tinystories.data.corpus import text_arrays
from tinystories.data.tokenizer import LEARNED, byte_level_pieces


STORIES_AT_ONCE = 1000
FEW_STORIES = 20_000
LONGEST_KEY = 15  # bytes of a part that is looked up by number; a longer one by its bytes
SLOT_BITS = 16  # slots of the table of parts
MOST_BYTES = 2**22  # of known parts; more, and all are forgotten
MOST_THREADS = 8  # each has a table of its own
# One byte of a key is its length, so that a part is never taken for another with zero bytes at its end
_LOW = np.array([2 ** (8 * min(n, 8)) - 1 for n in range(LONGEST_KEY + 1)], dtype=np.uint64)
_HIGH = np.array([2 ** (8 * max(n - 8, 0)) - 1 for n in range(LONGEST_KEY + 1)], dtype=np.uint64)
_LENGTH = np.arange(LONGEST_KEY + 1, dtype=np.uint64) << np.uint64(56)

Tokens = tuple[np.ndarray, np.ndarray]  # the ids of all stories, BOS and EOS too; the number of each story, int64


def encode_stories(
    stories: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, workers: int | None = None
) -> Iterator[Tokens]:
    """The tokens of all stories, in order, a thousand stories at a time.

    workers: threads; default is one for each core, and one where that many would only learn the same words.
    """
    number = min(workers or (os.cpu_count() or 1 if len(stories) > FEW_STORIES else 1), MOST_THREADS)
    batches = text_arrays(stories, STORIES_AT_ONCE)
    if not has_known_cuts(tokenizer):  # the library has its own threads
        return (encode_whole(batch, tokenizer) for batch in batches)
    if number == 1:
        return map(StoryEncoder(tokenizer).encode, batches)
    return _in_threads([StoryEncoder(tokenizer) for _ in range(number)], batches)


def _in_threads(encoders: list["StoryEncoder"], batches: Iterable[pa.Array]) -> Iterator[Tokens]:
    """Each encoder takes turns, so that it never works on two batches at a time."""
    batches = iter(batches)
    pools = [ThreadPoolExecutor(1) for _ in encoders]
    waiting: list[Future] = []
    try:
        for turn, batch in enumerate(batches):
            at = turn % len(encoders)
            waiting.append(pools[at].submit(encoders[at].encode, batch))
            if len(waiting) >= 2 * len(encoders):
                yield waiting.pop(0).result()
        while waiting:
            yield waiting.pop(0).result()
    finally:
        for pool in pools:
            pool.shutdown(cancel_futures=True)


def has_known_cuts(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether `tokenizer` cuts any text where this module does: it is one of this project's."""
    backend = tokenizer.backend_tokenizer
    known = {repr(byte_level_pieces()), repr(byte_level_pieces(LEARNED))}
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    return (
        repr(backend.pre_tokenizer) in known
        and backend.normalizer is None
        and type(backend.model).__name__ == "BPE"
        and not backend.model.dropout
        and tokenizer.split_special_tokens is True
        and all(token.special for token in added)  # another is found inside of a text before it is cut
    )


def encode_whole(texts: pa.Array, tokenizer: PreTrainedTokenizerBase) -> Tokens:
    """The tokens of each story as the tokenizer gives them."""
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    encoded = tokenizer(texts.to_pylist(), add_special_tokens=False)["input_ids"] if len(texts) else []
    lengths = np.array([len(ids) + 2 for ids in encoded], dtype=np.int64)
    flat = (token for ids in encoded for token in (bos, *ids, eos))
    return np.fromiter(flat, dtype=np.uint32, count=int(lengths.sum())), lengths


class StoryEncoder:
    """The ids of parts of stories, learned from `tokenizer` when a part is met first. For one thread."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self._tokenizer = tokenizer
        self._forget()

    def _forget(self) -> None:
        ends = [self._tokenizer.bos_token_id, self._tokenizer.eos_token_id]
        self._numbers: dict[bytes, int] = {}  # of known parts; 0 and 1 are BOS and EOS
        self._bytes = 0
        self._ids = np.array(ends, dtype=np.uint32)
        self._first, self._count = np.array([0, 1]), np.array([1, 1])  # of the ids of each part
        self._low, self._high = np.zeros((2, 2**SLOT_BITS), dtype=np.uint64)  # keys; the high one of a part is not 0
        self._number = np.zeros(2**SLOT_BITS, dtype=np.int64)

    def encode(self, texts: pa.Array) -> Tokens:
        """BOS + story + EOS of each of `texts`, an array of strings."""
        if self._bytes > MOST_BYTES:
            self._forget()
        text, offsets = _bytes_of(texts)
        starts = _starts_of_parts(text[: offsets[-1]], offsets)
        numbers = self._look_up(text, starts, np.append(starts[1:], offsets[-1]))
        at = np.searchsorted(starts, offsets)  # the first part of each story, and one after the last
        story = np.repeat(np.arange(len(texts)), np.diff(at))
        places = np.arange(len(texts))
        parts = np.empty(len(numbers) + 2 * len(texts), dtype=np.int64)
        parts[at[:-1] + 2 * places] = 0
        parts[at[1:] + 2 * places + 1] = 1
        parts[np.arange(len(numbers)) + 2 * story + 1] = numbers
        counts = self._count[parts]
        ends = np.cumsum(counts)
        tokens = self._ids[np.repeat(self._first[parts] - ends + counts, counts) + np.arange(counts.sum())]
        return tokens, np.diff(np.append(0, ends)[at + 2 * np.arange(len(at))])

    def _look_up(self, text: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """The number of each part. text: with 16 bytes after the last part."""
        lengths = ends - starts
        short = np.minimum(lengths, LONGEST_KEY)
        words = np.ndarray(len(text) - 7, dtype="<u8", buffer=text, strides=(1,))  # the 8 bytes from each place on
        low, high = words[starts] & _LOW[short], words[starts + 8] & _HIGH[short] | _LENGTH[short]
        mixed = (low ^ high * np.uint64(0x9E3779B97F4A7C15)) * np.uint64(0xD6E8FEB86659FD93)
        slots = (mixed >> np.uint64(64 - SLOT_BITS)).astype(np.int64)
        known = (self._low[slots] == low) & (self._high[slots] == high) & (lengths <= LONGEST_KEY)
        numbers = self._number[slots]
        missing = np.flatnonzero(~known)
        if len(missing):
            numbers[missing] = self._look_up_bytes(text, starts[missing], ends[missing])
            new = missing[lengths[missing] <= LONGEST_KEY]
            slots, first = np.unique(slots[new], return_index=True)
            new = new[first]
            self._low[slots], self._high[slots], self._number[slots] = low[new], high[new], numbers[new]
        return numbers

    def _look_up_bytes(self, text: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> list[int]:
        whole = text.tobytes()
        parts = [whole[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
        unknown = [part for part in dict.fromkeys(parts) if part not in self._numbers]
        if unknown:
            self._learn(unknown)
        return [self._numbers[part] for part in parts]

    def _learn(self, parts: list[bytes]) -> None:
        encoded = self._tokenizer([part.decode() for part in parts], add_special_tokens=False)["input_ids"]
        counts = np.array([len(ids) for ids in encoded])
        ids = np.fromiter((token for ids in encoded for token in ids), dtype=np.uint32, count=int(counts.sum()))
        self._numbers.update(zip(parts, range(len(self._count), len(self._count) + len(parts)), strict=True))
        self._first = np.concatenate([self._first, len(self._ids) + np.cumsum(counts) - counts])
        self._count = np.concatenate([self._count, counts])
        self._ids = np.concatenate([self._ids, ids])
        self._bytes += sum(map(len, parts))


def _bytes_of(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """The UTF-8 of all `texts`, one after the other and 16 zero bytes; where each begins, and the end of the last."""
    wide = pa.types.is_large_string(texts.type)
    _, offsets, data = texts.buffers()
    begins = np.frombuffer(offsets, dtype=np.int64 if wide else np.int32)[texts.offset : texts.offset + len(texts) + 1]
    begins = begins.astype(np.int64)
    text = np.zeros(begins[-1] - begins[0] + 16, dtype=np.uint8)
    if data is not None:
        text[:-16] = np.frombuffer(data, dtype=np.uint8)[begins[0] : begins[-1]]
    return text, begins - begins[0]


def _starts_of_parts(text: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Where the parts begin (see above): at stories too, and not at the end of the last one."""
    letter = ((text | 32) - np.uint8(97)) < 26
    other = ~letter & (text < 128)
    starts = np.zeros(len(text) + 1, dtype=bool)
    starts[1:-1] = letter[:-1] & other[1:]
    starts[:-2] |= (text[:-1] == 32) & letter[1:]
    starts[offsets] = True
    return np.flatnonzero(starts[:-1])
