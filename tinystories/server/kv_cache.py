"""One key-value cache for several stories, which join and leave between two tokens.

Each story has a row, and its token at position i is stored in column i, so stories of different lengths grow without
anything being moved; columns after the end of a story are masked. transformers' own caches grow all rows in step, and
its continuous batching has one seed for all requests and no repetition penalty per request: a story would depend on
the others in its batch.

    batch = Batch(model, rows=16)
    logits = batch.join(ids)          # (1, vocabulary) of the token after `ids`; the story is the last row
    logits = batch.step(tokens)       # one new token for each row -> (rows, vocabulary)
    batch.leave(row)                  # the last row takes its place
"""

from collections.abc import Iterator
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin

from tinystories.errors import UserError, one_line


FEWEST_COLUMNS = 128  # of the first allocation
LOGITS_AT_ONCE = 1 << 22  # numbers, 32 MiB in float64; those of a long prompt are computed in several passes


class SlotLayer(CacheLayerMixin):
    """Keys and values of one layer, (rows, heads, columns, head_dim), in tensors that are enlarged when needed."""

    is_sliding = False
    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, slots: "SlotCache"):
        super().__init__()
        self.slots = slots

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.keys, self.values = key_states[:0, :, :0], value_states[:0, :, :0]
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        rows, columns, used = self.slots.rows, self.slots.columns, self.slots.used
        self.keys, self.values = self._enlarged(self.keys), self._enlarged(self.values)
        # (one story, its first tokens) or (all stories, one token each)
        self.keys[rows, :, columns] = key_states.transpose(1, 2).flatten(0, 1)
        self.values[rows, :, columns] = value_states.transpose(1, 2).flatten(0, 1)
        first, last = self.slots.seen
        return self.keys[first:last, :, :used], self.values[first:last, :, :used]

    def _enlarged(self, states: torch.Tensor) -> torch.Tensor:
        rows, columns = self.slots.room
        if states.shape[0] >= rows and states.shape[2] >= columns:
            return states
        used_rows, heads, used_columns, head_dim = states.shape
        larger = states.new_zeros(max(rows, used_rows), heads, max(columns, used_columns), head_dim)
        larger[:used_rows, :, :used_columns] = states
        return larger

    @torch.inference_mode()
    def move(self, source: int, target: int, length: int) -> None:
        for states in (self.keys, self.values):
            states[target, :, :length] = states[source, :, :length]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0

    def get_seq_length(self) -> int:
        return 0  # a step is given its positions and mask, and a story that joins begins at 0

    def get_max_length(self) -> int:
        return -1


class SlotCache(Cache):
    """Where the next forward pass writes (`rows` and `columns` of each new token) and what it reads: the rows from
    `seen[0]` to before `seen[1]`, up to column `used`. `room`: the rows and columns to allocate."""

    def __init__(self, layers: int):
        self.slot_layers = [SlotLayer(self) for _ in range(layers)]
        super().__init__(layers=list(self.slot_layers))
        self.rows = self.columns = torch.zeros(0, dtype=torch.long)
        self.seen, self.used, self.room = (0, 0), 0, (0, 0)


class Batch:
    """The stories that one model is generating, a row each. `lengths`: their tokens so far.

    Raises:
        ValueError: the model's config has no context length.
    """

    def __init__(self, model: PreTrainedModel, rows: int):
        context = context_of(model)
        if context is None:
            raise ValueError("the config has no max_position_embeddings")
        self.model, self.limit, self.context = model, rows, context
        self.slots = SlotCache(model.config.get_text_config().num_hidden_layers)
        self.lengths: list[int] = []

    @torch.inference_mode()
    def join(self, ids: list[int], keep: int = 1) -> torch.Tensor:
        """Add a story that begins with `ids`; return the logits after its last `keep` tokens, (keep, vocabulary)
        float32."""
        row, length = len(self.lengths), len(ids)
        if row == self.limit or not 0 < length <= self.context:
            raise ValueError(f"no room: row {row} of {self.limit}, {length} tokens of {self.context}")
        self._write_to(torch.full((length,), row), torch.arange(length), (row, row + 1), length)
        tokens = torch.tensor([ids], device=self.model.device)
        output = self.model(tokens, past_key_values=self.slots, use_cache=True, logits_to_keep=keep)
        self.lengths.append(length)
        return output.logits[0, -keep:].float().cpu()

    @property
    def kept_at_most(self) -> int:
        """For how many tokens the logits are in memory at once."""
        return max(1, LOGITS_AT_ONCE // self.model.config.get_text_config().vocab_size)

    @torch.inference_mode()
    def prompt_logits(self, ids: list[int], kept: torch.Tensor) -> Iterator[torch.Tensor]:
        """The logits after each of `ids`, in parts of (tokens, vocabulary); `kept`, what `join` returned, is the last
        part. The parts before are computed anew, without the cache."""
        tokens, before = torch.tensor([ids], device=self.model.device), len(ids) - len(kept)
        for start in range(0, before, self.kept_at_most):
            part = torch.arange(start, min(start + self.kept_at_most, before), device=self.model.device)
            output = self.model(tokens, use_cache=False, logits_to_keep=part)
            yield output.logits[0].float().cpu()
        yield kept

    @torch.inference_mode()
    def step(self, tokens: list[int]) -> torch.Tensor:
        """Add one token to each story; return the logits of the next ones, (stories, vocabulary) float32."""
        positions, number, used = torch.tensor(self.lengths), len(self.lengths), max(self.lengths) + 1
        self._write_to(torch.arange(number), positions, (0, number), used)
        places = positions.to(self.model.device).view(number, 1)
        hidden = torch.arange(used, device=places.device) > places
        mask = torch.zeros(number, 1, 1, used, dtype=self.model.dtype, device=places.device)
        mask.masked_fill_(hidden.view(number, 1, 1, used), torch.finfo(self.model.dtype).min)
        output = self.model(
            torch.tensor(tokens, device=places.device).view(number, 1),
            position_ids=places,
            attention_mask=mask,
            past_key_values=self.slots,
            use_cache=True,
        )
        self.lengths = [length + 1 for length in self.lengths]
        return output.logits[:, -1].float().cpu()

    def leave(self, row: int) -> None:
        """Free a row; the last row is moved there, so that the rows in use are always the first ones."""
        last = len(self.lengths) - 1
        if row != last:
            for layer in self.slots.slot_layers:
                layer.move(last, row, self.lengths[last])
            self.lengths[row] = self.lengths[last]
        self.lengths.pop()

    def _write_to(self, rows: torch.Tensor, columns: torch.Tensor, seen: tuple[int, int], used: int) -> None:
        device = self.model.device
        self.slots.rows, self.slots.columns = rows.to(device), columns.to(device)
        self.slots.seen, self.slots.used = seen, used
        room = max(FEWEST_COLUMNS, 1 << (used - 1).bit_length())
        self.slots.room = (min(self.limit, 1 << (seen[1] - 1).bit_length()), min(self.context, room))


def context_of(model: PreTrainedModel) -> int | None:
    """How many tokens a story may have; None if the config does not say.

    With sliding attention this is the window: within it every token sees all earlier ones, as the rows here do."""
    config = model.config.get_text_config()
    context, window = getattr(config, "max_position_embeddings", None), getattr(config, "sliding_window", None)
    if not isinstance(context, int):
        return None
    return min(context, window) if window and isinstance(window, int) else context


@torch.inference_mode()
def check_batches(model: PreTrainedModel, vocabulary: int) -> None:
    """Check that two stories of different lengths in one batch have the logits that each has in a pass of its own.

    Raises:
        UserError: the architecture cannot be batched this way, for example because of a recurrent state.
    """
    generator = torch.Generator().manual_seed(0)
    stories = [torch.randint(vocabulary, (length,), generator=generator).tolist() for length in (9, 5)]
    tolerance = 1e-6 if model.dtype == torch.float64 else 1e-3
    try:
        alone = [model(torch.tensor([story], device=model.device)).logits[0].float().cpu() for story in stories]
        batch = Batch(model, rows=2)
        for story in stories:
            batch.join(story[:2])
        for i in range(2, 5):
            together = batch.step([story[i] for story in stories])
        batch.leave(1)
        last = batch.step([stories[0][5]])
        worst = max(
            (together - torch.stack([each[4] for each in alone])).abs().max().item(),
            (last[0] - alone[0][5]).abs().max().item(),
        )
    except (RuntimeError, ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
        raise UserError(f"this architecture cannot generate several stories at once: {one_line(error)}") from error
    if not worst <= tolerance * max(1.0, max(each.abs().max().item() for each in alone)):
        raise UserError(f"a batch changes what this architecture generates (logits differ by {worst:.3g})")
