"""The proof that an exported file is the same model: a program that did not write it opens it, and both are compared.

- Token ids of 300 texts (texts.py) are equal, where the file carries the tokenizer. A program that cannot be told how
  to cut a text gives a few of them other ids, which are counted.
- Greedy text of four beginnings, 100 tokens each, is equal where the file holds full precision. Where the checkpoint's
  own two best tokens are as close as rounding, either is right; then the tokens before them are counted as equal.
- Bits per byte of stories are equal to 1e-4 in full precision, to 1 % in reduced precision.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import datasets
import numpy as np
import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase

from tinystories.data.held_out import find_held_out
from tinystories.errors import UserError
from tinystories.exporting.source import Source
from tinystories.exporting.texts import proof_texts
from tinystories.progress import progress_bar
from tinystories.run_files import Run


NUM_BEGINNINGS, LETTERS_OF_BEGINNING, NEW_TOKENS = 4, 24, 100
NUM_STORIES = 40
EXACT, REDUCED = 1e-4, 0.01  # largest difference of bits per byte, relative
MOST = 0.9  # share of the texts that get equal ids from a program of which it is known why a few do not
TIE = 1e-4  # largest difference of two logits that rounding may turn, relative to the largest logit


class Reader(Protocol):
    """An independent program that has opened an exported file.

    name: of the program. file: what it opened, relative to the folder of the format. exact: it holds full precision.
    A reader may have `other_ids` too: why its program gives a few texts other ids than the checkpoint's tokenizer.
    """

    name: str
    file: str
    exact: bool

    def encode(self, text: str) -> list[int] | None:
        """Token ids of `text` without BOS; None where the file carries no tokenizer."""

    def logits(self, ids: list[int]) -> np.ndarray:
        """Next-token logits at each position: float32, (len(ids), vocab_size)."""

    def greedy(self, ids: list[int], max_new_tokens: int) -> list[int]:
        """New tokens after `ids`, through the program's cache where it has one; the last one may be EOS."""


class ProofError(UserError):
    """An exported file is not the model that was exported."""


@dataclass(frozen=True)
class Beginning:
    """A beginning of a story and how the checkpoint continues it.

    ids: BOS and the text. new_ids: greedy. logits: float32 (len(ids) + len(new_ids), vocab_size), at each position.
    """

    text: str
    ids: list[int]
    new_ids: list[int]
    logits: np.ndarray


@dataclass(frozen=True)
class Expected:
    """What the checkpoint itself says, computed once for all formats.

    texts: with their ids, without BOS. stories: ids with BOS and EOS, cut to the context. stories_from: "named", the
    "run", or the "sample corpus". story_bytes: of all their text. nats: of all their tokens after BOS.
    """

    texts: list[tuple[str, list[int]]]
    beginnings: list[Beginning]
    stories: list[list[int]]
    stories_from: str
    story_bytes: int
    nats: float

    @property
    def bits_per_byte(self) -> float:
        return self.nats / math.log(2) / self.story_bytes


def expected_of(source: Source, data: str | None = None) -> Expected:
    """Token ids, greedy continuations and bits per byte of the checkpoint itself.

    data: a file or folder of held-out stories; default: those of its run, else of the sample corpus.
    """
    tokenizer, context = source.tokenizer, source.model.config.max_position_embeddings
    held_out, origin = _held_out(Run(source.folder), data)
    stories = [text for text in held_out[: 2 * NUM_STORIES]["text"] if text.strip()][:NUM_STORIES]
    if not stories:
        raise UserError(f"{source.name}: its validation stories are empty, so that no export can be compared on them")
    texts = proof_texts(stories)
    rows = [(tokenizer(text)["input_ids"] + [tokenizer.eos_token_id])[:context] for text in stories]
    return Expected(
        texts=[(text, tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts],
        beginnings=[_continued(source, text[:LETTERS_OF_BEGINNING]) for text in stories[:NUM_BEGINNINGS]],
        stories=rows,
        stories_from=origin,
        story_bytes=sum(_num_bytes(source, ids) for ids in rows),
        nats=sum(nats(logits_of(source.model, ids), ids) for ids in progress_bar(rows, desc="scoring the checkpoint")),
    )


def _held_out(run: Run, data: str | None) -> tuple[datasets.Dataset, str]:
    """The stories, and where they are from. A validation file of the run's own spares reading its training stories."""
    own = (run.recipe or {}).get("validation_file")
    file = data or (own if own and Path(own).exists() else None)
    found = find_held_out(run, file, train_file=file)
    return found.stories, "run" if file and not data else found.origin


def prove(expected: Expected, reader: Reader) -> dict[str, Any]:
    """Compare what `reader` has opened with the checkpoint.

    Returns:
        What was compared, for export.json and the card.

    Raises:
        ProofError: they differ; with the first differing token and the difference of the logits.
    """
    what = f"{reader.file}, opened by {reader.name}"
    texts_equal = _equal_texts(expected, reader, what)
    equal = [_equal_tokens(beginning, reader, what) for beginning in expected.beginnings]
    differences = [
        float(np.abs(reader.logits(beginning.ids + beginning.new_ids) - beginning.logits)[:-1].max())
        for beginning in expected.beginnings
    ]
    total = sum(nats(reader.logits(ids), ids) for ids in progress_bar(expected.stories, desc=f"scoring {what}"))
    found, wanted = total / math.log(2) / expected.story_bytes, expected.bits_per_byte
    if not abs(found - wanted) <= (EXACT if reader.exact else REDUCED) * wanted:  # "not": also what is no number
        raise ProofError(
            f"{what}: {found:.4f} bits per byte on {len(expected.stories)} stories; the checkpoint has {wanted:.4f}"
        )
    return {
        "file": reader.file,
        "reader": reader.name,
        "exact": reader.exact,
        "texts": None if texts_equal is None else len(expected.texts),
        "texts_equal": texts_equal,
        "other_ids": getattr(reader, "other_ids", None),
        "greedy_tokens": sum(len(beginning.new_ids) for beginning in expected.beginnings),
        "greedy_tokens_equal": sum(equal),
        "largest_logit_difference": max(differences),
        "bits_per_byte": found,
    }


@torch.inference_mode()
def logits_of(model: Any, ids: list[int]) -> np.ndarray:
    """Logits of a transformers model at each position: float32, (len(ids), vocab_size)."""
    logits: np.ndarray = model(torch.tensor([ids])).logits[0].float().numpy()
    return logits


@torch.inference_mode()
def greedy(model: Any, tokenizer: PreTrainedTokenizerBase, ids: list[int], max_new_tokens: int) -> list[int]:
    """New tokens by transformers' `generate`. What is not set here, it would take from the preset of the model."""
    config = GenerationConfig(
        do_sample=False,
        temperature=1.0,
        top_k=50,
        top_p=1.0,
        repetition_penalty=1.0,
        max_new_tokens=max_new_tokens,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    every: list[int] = model.generate(torch.tensor([ids]), generation_config=config)[0].tolist()
    return every[len(ids) :]


def nats(logits: np.ndarray, ids: Sequence[int]) -> float:
    """Negative log likelihood of `ids` after the first, in nats. logits: (len(ids), vocab_size)."""
    logits = logits[: len(ids) - 1].astype(np.float64)
    top = logits.max(-1)
    log_sum = top + np.log(np.exp(logits - top[:, None]).sum(-1))
    return float((log_sum - logits[np.arange(len(ids) - 1), ids[1:]]).sum())


def _equal_texts(expected: Expected, reader: Reader, what: str) -> int | None:
    """The number of texts whose ids are equal: all, or most where the reader explains it. None without a tokenizer."""
    found = [reader.encode(text) for text, _ in expected.texts]
    if any(ids is None for ids in found):
        return None
    other = [(text, ids, wanted) for ids, (text, wanted) in zip(found, expected.texts, strict=True) if ids != wanted]
    equal = len(found) - len(other)
    if other and (equal < MOST * len(found) or getattr(reader, "other_ids", None) is None):
        text, ids, wanted = other[0]
        place = _first_difference(ids or [], wanted)
        raise ProofError(
            f"{what}: token {place + 1} of {text[:60]!r} is {_at(ids or [], place)}, and in the checkpoint's tokenizer "
            f"{_at(wanted, place)}; {len(other)} of {len(found)} texts differ"
        )
    return equal


def _equal_tokens(beginning: Beginning, reader: Reader, what: str) -> int:
    """The number of greedy tokens before the first that differs; fewer than all: reduced precision, or a tie."""
    found, wanted = reader.greedy(beginning.ids, len(beginning.new_ids)), beginning.new_ids
    if found == wanted:
        return len(wanted)
    place = _first_difference(found, wanted)
    if reader.exact:
        here, gap = beginning.logits[len(beginning.ids) + place - 1], math.nan
        if place < len(found) and place < len(wanted):
            gap = float(here[wanted[place]] - here[found[place]])
        if not abs(gap) <= TIE * float(np.abs(here).max()):
            raise ProofError(
                f"{what}: after {beginning.text!r} its greedy token {place + 1} is {_at(found, place)}, and the "
                f"checkpoint's is {_at(wanted, place)}, whose logit is higher by {gap:.4g}"
            )
    return place


def _first_difference(found: Sequence[int], wanted: Sequence[int]) -> int:
    pairs: Iterator[tuple[int, int]] = zip(found, wanted, strict=False)
    return next((i for i, (one, other) in enumerate(pairs) if one != other), min(len(found), len(wanted)))


def _at(ids: Sequence[int], place: int) -> str:
    return str(ids[place]) if place < len(ids) else "missing"


@torch.inference_mode()
def _continued(source: Source, text: str) -> Beginning:
    context = source.model.config.max_position_embeddings
    ids = source.tokenizer(text)["input_ids"][: max(1, context // 2)]
    new_ids = greedy(source.model, source.tokenizer, ids, min(NEW_TOKENS, context - len(ids)))
    return Beginning(text, ids, new_ids, logits_of(source.model, ids + new_ids))


def _num_bytes(source: Source, ids: list[int]) -> int:
    """Bytes of text: a byte-level BPE writes a token with one letter for each of its bytes."""
    special = set(source.tokenizer.all_special_ids)
    pieces = source.tokenizer.convert_ids_to_tokens([i for i in ids if i not in special])
    return sum(len(piece) for piece in pieces)
