"""A network and its tokenizer: text to tokens, new tokens one by one, tokens to text.

What opens a checkpoint as one of them is checkpoint/writer.py.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any

from tinystories.generation.decode_graph import weight_shapes
from tinystories.generation.sampler import Sampler, Settings
from tinystories.generation.story import continue_story


if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from tinystories.generation.decoder import Decoder


class Writer(ABC):
    """end: the token that ends a story."""

    end: int

    @property
    @abstractmethod
    def context(self) -> int:
        """The tokens that the network can read."""

    @property
    @abstractmethod
    def parameters(self) -> int: ...

    @abstractmethod
    def encode(self, text: str) -> list[int]: ...

    @abstractmethod
    def decode(self, ids: list[int]) -> str:
        """Without special tokens."""

    @abstractmethod
    def tokens(self, ids: list[int], settings: Settings, seed: int) -> Iterator[int]:
        """What comes after `ids`, up to the end of the story or of the context.

        The iterator computes a token when it is asked for, so that a story may be left and gone on with, but not after
        another one of the same writer has begun: they share the memory of the network.
        """


@dataclass
class DecoderWriter(Writer):
    """A network of this project on the CPU. `encoded` where the tokenizer itself is set up otherwise."""

    decoder: "Decoder"
    tokenizer: "Tokenizer"
    end: int
    encoded: Callable[[str], list[int]] | None = None

    @property
    def context(self) -> int:
        return self.decoder.context

    @property
    def parameters(self) -> int:
        return sum(map(math.prod, weight_shapes(self.decoder.sizes).values()))

    def encode(self, text: str) -> list[int]:
        return self.encoded(text) if self.encoded else self.tokenizer.encode(text).ids

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def tokens(self, ids: list[int], settings: Settings, seed: int) -> Iterator[int]:
        return continue_story(self.decoder, ids, Sampler(settings, seed), {self.end}, self.context - len(ids))


class _NotWanted(Exception):
    """Nobody will ask for the next token."""


@dataclass
class GenerateWriter(Writer):
    """Any other model, by transformers' `generate`."""

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    end: int

    @property
    def context(self) -> int:
        context: int = self.model.config.max_position_embeddings
        return context

    @property
    def parameters(self) -> int:
        return int(self.model.num_parameters())

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text)["input_ids"]
        return ids

    def decode(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def tokens(self, ids: list[int], settings: Settings, seed: int) -> Iterator[int]:
        """`generate` runs in a thread of its own, which computes only while a token is waited for."""
        wanted, written = SimpleQueue[bool](), SimpleQueue[int | BaseException | None]()

        def deliver(token: int) -> None:
            written.put(token)
            if not wanted.get():
                raise _NotWanted

        def run() -> None:
            try:
                if wanted.get():
                    self._generate(ids, settings, seed, deliver)
                    written.put(None)
            except _NotWanted:
                pass
            except BaseException as error:
                written.put(error)

        thread = Thread(target=run, daemon=True)
        thread.start()
        try:
            while True:
                wanted.put(True)
                token = written.get()
                if token is None:
                    return
                if isinstance(token, BaseException):
                    raise token
                yield token
        finally:
            wanted.put(False)
            thread.join()

    def _generate(self, ids: list[int], settings: Settings, seed: int, deliver: Callable[[int], None]) -> None:
        import torch
        from transformers import GenerationConfig
        from transformers.generation.streamers import BaseStreamer

        class Streamer(BaseStreamer):
            """Its first value is the prompt."""

            seen = False

            def put(self, value: torch.Tensor) -> None:
                if self.seen:
                    deliver(int(value))
                self.seen = True

            def end(self) -> None:
                pass

        fields = as_config(settings, self.context - len(ids), self.end)
        inputs = torch.tensor([ids], device=self.model.device)
        torch.manual_seed(seed)
        self.model.generate(  # type: ignore[operator]  # classes for causal models have it
            inputs,
            attention_mask=torch.ones_like(inputs),
            generation_config=GenerationConfig(**fields, pad_token_id=self.tokenizer.pad_token_id),
            streamer=Streamer(),
        )


def as_config(settings: Settings, limit: int, end: int) -> dict[str, Any]:
    """Fields of a `GenerationConfig`."""
    fields = {"do_sample": settings.temperature > 0, "max_new_tokens": limit, "eos_token_id": end}
    if settings.temperature == 0:
        return fields | {"repetition_penalty": settings.repetition_penalty}
    return fields | asdict(settings)
