"""Writes text with a network, token by token, on a CPU: the engine of the command line, the server, the evaluation and
the samples during training.

transformers' `generate` spends most of its time in Python for a network of some million parameters. Here a step is one
call of onnxruntime, on a graph of few nodes (decode_graph.py), between buffers that are allocated once.

    decoder = Decoder.from_folder("runs/demo")
    logits = decoder.prefill(0, ids)          # of the token after `ids`
    logits = decoder.step({0: token})[0]      # of the token after that

Several texts are written at once in slots, each with its own length. The numbers of a slot are the same to the bit
whatever the other slots do: each row of a product is summed in the same order, however many rows there are.

Where one text of a large network is written, `guess` computes with 8-bit weights, in a fraction of the time: story.py
says what for.
"""

import json
import math
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tinystories.generation.decode_graph import OUR_MODEL_TYPE, decode_graph, sizes_of, unsupported


if TYPE_CHECKING:
    import onnx
    from transformers import PreTrainedModel

FEW = 8  # tokens
LEAST_TO_GUESS = 8 << 20  # bytes of weights; smaller ones stay in the processor's own memory
WORTH_GUESSING = 0.6  # seconds of a guess for one of a step

__all__ = ["OUR_MODEL_TYPE", "Decoder", "unsupported"]


class Decoder:
    """The network of a checkpoint, and the keys and values of `slots` texts.

    weights: float32, by the names of `TinyStoriesForCausalLM`; not changed, and not to be changed by others.
    config: as in config.json.
    threads: of one step; None: one.

    Raises:
        ValueError: `unsupported` says why.
    """

    def __init__(
        self, weights: Mapping[str, np.ndarray], config: Mapping[str, Any], slots: int = 1, threads: int | None = None
    ):
        if reason := unsupported(config):
            raise ValueError(reason)
        self.sizes = sizes_of(config)
        self.slots = slots
        self.threads = threads
        self._weights = weights
        self._session, self._kept_alive = _session(decode_graph(weights, self.sizes), threads)
        shape = (slots, self.sizes.kv_heads, self.sizes.context, self.sizes.stored_head_dim)
        self._cache = [np.zeros(shape, dtype=np.float32) for _ in range(2 * self.sizes.layers)]
        self._lengths = np.zeros(slots, dtype=np.int64)  # tokens of each slot
        self._steps: dict[int, _Pass] = {}  # by the number of rows
        self._extends: dict[tuple[int, int, bool], _Pass] = {}  # by slot and number of tokens, of `FEW` at most
        self._guess: _Pass | None = None

    @classmethod
    def from_model(cls, model: "PreTrainedModel", slots: int = 1, threads: int | None = None) -> "Decoder":
        """With a copy of the weights that `model` has now."""
        import torch

        weights = {
            name: tensor.detach().to("cpu", torch.float32, copy=True).numpy()
            for name, tensor in model.state_dict().items()
        }
        return cls(weights, model.config.to_dict(), slots, threads)

    @classmethod
    def from_folder(cls, folder: str | Path, slots: int = 1, threads: int | None = None) -> "Decoder":
        """The weights in the safetensors files of a checkpoint, read as they are: a loader checks them before."""
        config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
        return cls(read_weights(Path(folder)), config, slots, threads)

    @property
    def context(self) -> int:
        return self.sizes.context

    @property
    def vocab_size(self) -> int:
        return self.sizes.vocab_size

    def length(self, slot: int) -> int:
        """The tokens that a slot has."""
        return int(self._lengths[slot])

    def prefill(self, slot: int, ids: Sequence[int], all_logits: bool = False) -> np.ndarray:
        """Begin the text of a slot anew with `ids`; the logits after the last one, (vocab_size,) float32.

        all_logits: after each one, (len(ids), vocab_size).
        """
        self._lengths[slot : slot + 1] = 0
        return self.extend(slot, ids, all_logits)

    def extend(self, slot: int, ids: Sequence[int], all_logits: bool = False) -> np.ndarray:
        """As `prefill`, after the tokens that the slot has."""
        before = self._lengths[slot : slot + 1]
        if not 0 <= slot < self.slots or not 0 < len(ids) <= self.context - before[0]:
            raise ValueError(f"slot {slot} of {self.slots}, {before} + {len(ids)} tokens of {self.context}")
        shape = (slot, len(ids), all_logits)
        one = self._extends.get(shape) or _Pass(self, slot, rows=1, new=len(ids), kept=len(ids) if all_logits else 1)
        if len(ids) <= FEW:
            self._extends[shape] = one
        logits = one.run([ids], before)
        self._lengths[slot] += len(ids)
        return logits[0] if all_logits else logits[0, 0]

    def move(self, source: int, target: int) -> None:
        """Copy the text of one slot to another."""
        length = self._lengths[source]
        for states in self._cache:
            states[target, :, :length] = states[source, :, :length]
        self._lengths[target] = length

    def step(self, tokens: Mapping[int, int]) -> np.ndarray:
        """Add one token to each given slot; the logits after them, (len(tokens), vocab_size) float32, in their order.

        tokens: by slot. The result may be overwritten by the next step.
        """
        slots, rows = list(tokens), max(tokens) + 1
        if min(tokens) < 0 or rows > self.slots:
            raise ValueError(f"slots {slots} of {self.slots}")
        if (self._lengths[slots] >= self.context).any():
            raise ValueError(f"slots {slots} have {self._lengths[slots]} tokens of {self.context}")
        if rows not in self._steps:
            self._steps[rows] = _Pass(self, 0, rows, new=1, kept=1)
        # The rows between them are computed too. What that writes after their last token is overwritten by their next.
        ids = [[tokens.get(row, 0)] for row in range(rows)]
        logits: np.ndarray = self._steps[rows].run(ids, np.minimum(self._lengths[:rows], self.context - 1))[:, 0]
        self._lengths[slots] += 1
        return logits if slots == list(range(rows)) else logits[slots]

    def cut(self, slot: int, length: int) -> None:
        """Leave the first `length` tokens of the text of a slot."""
        self._lengths[slot] = min(length, self._lengths[slot])

    @cached_property
    def may_guess(self) -> bool:
        """Whether `guess` may pay for a network of this size."""
        return self.slots == 1 and sum(weight.nbytes for weight in self._weights.values()) >= LEAST_TO_GUESS

    @cached_property
    def can_guess(self) -> bool:
        """Whether `guess` is so much faster than `step` that guessing pays: the processor decides that too."""
        if not self.may_guess:
            return False
        try:
            session, kept_alive = _session(decode_graph(self._weights, self.sizes, eight_bit=True), self.threads)
        except Exception:  # a bare one: this version, or this processor, has no such products
            return False
        self._kept_alive += kept_alive
        self._guess, exact = (_Pass(self, 0, rows=1, new=1, kept=1, session=one) for one in (session, self._session))
        last = np.array([self.context - 1])  # a place that no text has reached, or that is written again
        seconds = [min(_timed(one, last) for _ in range(3)) for one in (self._guess, exact)]
        return seconds[0] < WORTH_GUESSING * seconds[1]

    def guess(self, token: int, place: int) -> np.ndarray:
        """The logits after `token` at `place` in slot 0, (vocab_size,), by weights of 8 bits. Only if `can_guess`.

        The slot keeps its length: what this writes is overwritten when the network itself reads the tokens there.
        """
        assert self._guess is not None
        logits: np.ndarray = self._guess.run([[token]], np.array([place]))[0, 0]
        return logits


def _timed(one: "_Pass", place: np.ndarray) -> float:
    begin = time.perf_counter()
    one.run([[0]], place)
    return time.perf_counter() - begin


class _Pass:
    """One shape of a pass through the network: its buffers, bound once. `first`: the slot of its first row."""

    def __init__(self, decoder: Decoder, first: int, rows: int, new: int, kept: int, session: Any = None):
        sizes = decoder.sizes
        self.session, self.new = session or decoder._session, new
        self.ids = np.zeros((rows, new), dtype=np.int64)
        self.lengths = np.zeros(rows, dtype=np.int32)
        self.longest = np.zeros((), dtype=np.int32)
        self.positions = np.zeros((rows, new), dtype=np.int64)
        self.kept = np.arange(new - kept, new)
        self.logits = np.empty((rows, kept, sizes.vocab_size), dtype=np.float32)
        self.binding = self.session.io_binding()
        inputs: dict[str, np.ndarray] = {
            "input_ids": self.ids,
            "lengths": self.lengths,
            "longest": self.longest,
            "kept": self.kept,
        }
        if sizes.rotates_apart:
            inputs["positions"] = self.positions
        for name, array in inputs.items():
            self.binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        self.binding.bind_output("logits", "cpu", 0, np.float32, self.logits.shape, self.logits.ctypes.data)
        for number, cache in enumerate(decoder._cache):
            part = f"{number // 2}.{('key', 'value')[number % 2]}"
            place = (np.float32, (rows, *cache.shape[1:]), cache[first:].ctypes.data)
            self.binding.bind_input(f"past.{part}", "cpu", 0, *place)
            self.binding.bind_output(f"present.{part}", "cpu", 0, *place)

    def run(self, ids: Sequence[Sequence[int]], before: np.ndarray) -> np.ndarray:
        """The logits, (rows, kept, vocab_size). before: tokens that each row has already, (rows,)."""
        self.ids[:] = ids
        self.lengths[:] = before + (self.new - 1)
        self.longest[...] = self.lengths.max() + 1
        self.positions[:] = before[:, None] + np.arange(self.new)
        self.session.run_with_iobinding(self.binding)
        return self.logits


def _session(made: tuple["onnx.ModelProto", dict[str, np.ndarray]], threads: int | None) -> tuple[Any, list[Any]]:
    """The session of a graph, and the weights that it reads in place."""
    import onnxruntime

    graph, initializers = made
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors: its warnings are about how it computes
    # Threads that wait for work by spinning take the cores from other processes.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("mlas.disable_kleidiai", "1")  # on ARM it has another kernel for one row
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in initializers.values()]
    options.add_external_initializers(list(initializers), values)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session, [initializers, values]


def read_weights(folder: Path) -> dict[str, np.ndarray]:
    """Every tensor of the safetensors files of a folder, as float32."""
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    weights: dict[str, np.ndarray] = {}
    named = {} if whole.is_file() else json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    for file in sorted({folder / name for name in named.values()}) or [whole]:
        weights |= _read(file)
    return weights


def _read(file: Path) -> dict[str, np.ndarray]:
    """numpy has no bfloat16: it is the upper half of a float32."""
    content = file.read_bytes()
    begin = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:begin])
    header.pop("__metadata__", None)
    kinds = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
    weights = {}
    for name, tensor in header.items():
        kind, shape, (start, _) = tensor["dtype"], tensor["shape"], tensor["data_offsets"]
        values = np.frombuffer(content, kinds[kind], math.prod(shape), begin + start).reshape(shape)
        if kind == "BF16":
            values = (values.astype(np.uint32) << 16).view(np.float32)
        weights[name] = values.astype(np.float32, copy=False)
    return weights
