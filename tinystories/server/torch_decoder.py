"""The decoder of generation/decoder.py with PyTorch, for what that cannot do: other architectures, GPUs, other types.

Each text has a row of one key-value cache, and its token at position i is stored in column i, so texts of different
lengths grow without anything being moved; columns after the end of a text are masked. transformers' own caches grow all
rows in step, and its continuous batching has one seed for all requests and no repetition penalty per request: a story
would depend on the others in its batch.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin


FEWEST_COLUMNS = 128  # of the first allocation


class SlotLayer(CacheLayerMixin):
    """Keys and values of one layer, (slots, heads, columns, head_dim), in tensors that are enlarged when needed."""

    is_sliding = False
    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, places: "SlotCache"):
        super().__init__()
        self.places = places

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        shape = (self.places.slots, key_states.shape[1], 0, key_states.shape[3])
        self.keys = key_states.new_zeros(shape)
        self.values = value_states.new_zeros(*shape[:3], value_states.shape[3])
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        places = self.places
        self.keys, self.values = self._enlarged(self.keys), self._enlarged(self.values)
        self.keys[places.rows[:, None], :, places.columns] = key_states.transpose(1, 2)
        self.values[places.rows[:, None], :, places.columns] = value_states.transpose(1, 2)
        return self.keys[places.seen, :, : places.used], self.values[places.seen, :, : places.used]

    def _enlarged(self, states: torch.Tensor) -> torch.Tensor:
        slots, heads, columns, head_dim = states.shape
        if columns >= self.places.used:
            return states
        more = max(FEWEST_COLUMNS, 1 << (self.places.used - 1).bit_length())
        larger = states.new_zeros(slots, heads, min(self.places.context, more), head_dim)
        larger[:, :, :columns] = states
        return larger

    @torch.inference_mode()
    def move(self, source: int, target: int, length: int) -> None:
        for states in (self.keys, self.values):
            states[target, :, :length] = states[source, :, :length]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0

    def get_seq_length(self) -> int:
        return 0  # a pass is given its positions and mask

    def get_max_length(self) -> int:
        return -1


class SlotCache(Cache):
    """Where the next pass writes: `rows`, (texts,), and the `columns` of their new tokens, (texts, new). It reads these
    rows up to column `used`, without a copy where they are neighbours: `seen` is then a slice."""

    def __init__(self, layers: int, slots: int, context: int):
        self.slots, self.context, self.used = slots, context, 0
        self.slot_layers = [SlotLayer(self) for _ in range(layers)]
        super().__init__(layers=list(self.slot_layers))
        self.rows = self.columns = torch.zeros(0, dtype=torch.long)
        self.seen: slice | torch.Tensor = slice(0)


class TorchDecoder:
    """As `Decoder`, with the device and the numbers of `model`.

    Raises:
        ValueError: the model's config has no context length.
    """

    def __init__(self, model: PreTrainedModel, slots: int):
        context = context_of(model)
        if context is None:
            raise ValueError("the config has no max_position_embeddings")
        config = model.config.get_text_config()
        self.model, self.slots, self.context, self.vocab_size = model, slots, context, config.vocab_size
        self.lengths = [0] * slots
        self.cache = SlotCache(config.num_hidden_layers, slots, context)

    def prefill(self, slot: int, ids: Sequence[int], all_logits: bool = False) -> np.ndarray:
        self.lengths[slot] = 0
        return self.extend(slot, ids, all_logits)

    def extend(self, slot: int, ids: Sequence[int], all_logits: bool = False) -> np.ndarray:
        logits = self._pass([slot], [list(ids)], all_logits)[0]
        return logits if all_logits else logits[-1]

    def step(self, tokens: Mapping[int, int]) -> np.ndarray:
        return self._pass(list(tokens), [[token] for token in tokens.values()])[:, -1]

    def move(self, source: int, target: int) -> None:
        for layer in self.cache.slot_layers:
            layer.move(source, target, self.lengths[source])
        self.lengths[target] = self.lengths[source]

    @torch.inference_mode()
    def _pass(self, slots: list[int], ids: list[list[int]], all_logits: bool = False) -> np.ndarray:
        """The logits of new tokens, (slots, kept, vocab_size) float32. ids: (slots, new)."""
        device, new = self.model.device, len(ids[0])
        places = torch.tensor([[self.lengths[slot] + i for i in range(new)] for slot in slots], device=device)
        used = int(places.max()) + 1
        if not 0 < used <= self.context:
            raise ValueError(f"{used} tokens of {self.context}")
        self.cache.rows, self.cache.columns, self.cache.used = torch.tensor(slots, device=device), places, used
        near = slots == list(range(slots[0], slots[0] + len(slots)))
        self.cache.seen = slice(slots[0], slots[0] + len(slots)) if near else self.cache.rows
        hidden = torch.arange(used, device=device) > places[:, None, :, None]
        mask = torch.zeros(hidden.shape, dtype=self.model.dtype, device=device)
        mask.masked_fill_(hidden, torch.finfo(self.model.dtype).min)
        output = self.model(
            torch.tensor(ids, device=device),
            position_ids=places,
            attention_mask=mask,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=0 if all_logits else 1,
        )
        for slot in slots:
            self.lengths[slot] += new
        logits: np.ndarray = output.logits.float().cpu().numpy()
        return logits


def context_of(model: PreTrainedModel) -> int | None:
    """How many tokens a story may have; None if the config does not say.

    With sliding attention this is the window: within it every token sees all earlier ones, as the rows here do."""
    config = model.config.get_text_config()
    context, window = getattr(config, "max_position_embeddings", None), getattr(config, "sliding_window", None)
    if not isinstance(context, int):
        return None
    return min(context, window) if window and isinstance(window, int) else context
