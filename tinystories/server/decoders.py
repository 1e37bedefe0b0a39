"""Which decoder computes a model's stories, and the proof that it computes what the model does.

A story must not depend on the others that are generated with it. On a CPU generation/decoder.py promises that in
float32; elsewhere PyTorch computes, whose rounding depends on how many stories share a step, in float64 where there is
one: the difference is then too small to change a word.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from transformers import PreTrainedModel

from tinystories.errors import UserError, one_line
from tinystories.generation.decoder import Decoder
from tinystories.server.torch_decoder import TorchDecoder


logger = logging.getLogger(__name__)

BROKEN = (RuntimeError, ValueError, TypeError, AttributeError, KeyError, IndexError)


class AnyDecoder(Protocol):
    """Texts in numbered slots. Logits are float32: (vocab_size,), (tokens, vocab_size) with `all_logits`, or of a step
    (slots, vocab_size); the next call may overwrite them."""

    slots: int

    @property
    def context(self) -> int: ...

    @property
    def vocab_size(self) -> int: ...

    def prefill(self, slot: int, ids: Sequence[int], all_logits: bool = False) -> np.ndarray:
        """Begin a text anew."""

    def extend(self, slot: int, ids: Sequence[int], all_logits: bool = False) -> np.ndarray:
        """Continue a text."""

    def step(self, tokens: Mapping[int, int]) -> np.ndarray:
        """One more token for each of these slots, in ascending order."""

    def move(self, source: int, target: int) -> None:
        """Copy a text to another slot."""


def open_decoder(model: PreTrainedModel, slots: int, threads: int, dtype: str, name: str) -> tuple[AnyDecoder, str]:
    """The decoder of a model, which stands on the device that shall compute, and the type of its numbers. dtype: "auto"
    or a type of torch.

    Raises:
        UserError: the architecture cannot generate several stories at once.
    """
    on_cpu = model.device.type == "cpu"
    if on_cpu and dtype in ("auto", "float32"):
        try:
            decoder = Decoder.from_model(model, slots, threads)
        except (ImportError, ValueError) as reason:
            logger.info("%s: computed by PyTorch, which is slower: %s", name, one_line(reason))
        else:
            check_decoder(decoder, model)
            return decoder, "float32"
    if dtype == "auto":
        dtype = "float64" if model.device.type in ("cpu", "cuda") else "float32"
    model = model.to(getattr(torch, dtype))
    slow = TorchDecoder(model, slots)
    check_decoder(slow, model)
    return slow, dtype


@torch.inference_mode()
def check_decoder(decoder: AnyDecoder, model: PreTrainedModel) -> None:
    """Check that two stories of different lengths, generated together, have the logits that the model gives each alone.

    Raises:
        UserError: the architecture cannot be computed this way, for example because of a recurrent state.
    """
    generator = torch.Generator().manual_seed(0)
    stories = [torch.randint(decoder.vocab_size, (length,), generator=generator).tolist() for length in (9, 5)]
    tolerance = 1e-6 if model.dtype == torch.float64 else 1e-3
    try:
        alone = [model(torch.tensor([ids], device=model.device)).logits[0].float().cpu().numpy() for ids in stories]
        worst = max(np.abs(logits - alone[story][place]).max() for story, place, logits in _together(decoder, stories))
    except BROKEN as error:
        raise UserError(f"this architecture cannot generate several stories at once: {one_line(error)}") from error
    if not worst <= tolerance * max(1.0, *(np.abs(each).max() for each in alone)):
        raise UserError(f"a batch changes what this architecture generates (logits differ by {worst:.3g})")


def _together(decoder: AnyDecoder, stories: list[list[int]]) -> list[tuple[int, int, np.ndarray]]:
    """(story, place, logits after it) of two stories: their beginnings, some steps of both, the first one in the other
    slot. With one slot, of the first story."""
    rows = range(min(len(stories), decoder.slots))
    found = []
    for row in rows:
        decoder.prefill(row, stories[row][:1])
        found.append((row, 2, decoder.extend(row, stories[row][1:3]).copy()))
    for place in (3, 4):
        logits = decoder.step({row: stories[row][place] for row in rows})
        found += [(row, place, logits[row].copy()) for row in rows]
    decoder.move(0, rows[-1])
    return [*found, (0, 5, decoder.step({rows[-1]: stories[0][5]})[0].copy())]
