"""A story while it is written, and what is known of it afterwards."""

import secrets
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from tinystories.errors import UserError
from tinystories.generation.sampler import Settings
from tinystories.generation.story import check_room
from tinystories.generation.writers import Writer, as_config


ENDINGS = {"stop": "the story ended", "length": "stopped at the limit of tokens", "stopped": "stopped"}
LOOK_BACK = 8  # tokens before a new one that are decoded with it: white space and characters depend on them


def random_seed() -> int:
    return secrets.randbits(32)


class Story:
    """A beginning and its continuation by `writer`. It can be left at any token and gone on with, and is then the
    story that would have been written without a stop.

    checkpoint: the name of the model, for the record.

    Raises:
        UserError: a beginning without a token, or one that leaves no room in the context.
    """

    def __init__(self, writer: Writer, checkpoint: str, prompt: str, settings: Settings, seed: int):
        self.writer, self.checkpoint, self.prompt = writer, checkpoint, prompt
        self.settings, self.seed = settings, seed
        self.ids = writer.encode(prompt)  # and then those of the continuation
        self.prompt_tokens = len(self.ids)
        if not self.ids:
            raise UserError("the prompt is empty", "write how the story begins")
        check_room(self.prompt_tokens, writer.context)
        self.limit, self.seconds, self.finish_reason = 0, 0.0, "length"
        self._text = _Decoding(writer.decode, self.ids)
        self._tokens: Iterator[int] | None = None

    @property
    def new_tokens(self) -> int:
        return len(self.ids) - self.prompt_tokens

    @property
    def beginning(self) -> str:
        """The prompt, as the tokenizer reads it."""
        return self.writer.decode(self.ids[: self.prompt_tokens])

    @property
    def text(self) -> str:
        return self.writer.decode(self.ids)

    @property
    def is_over(self) -> bool:
        """Whether the story has ended, or fills the context."""
        return self.finish_reason == "stop" or len(self.ids) == self.writer.context

    def write(self, most: int, show: Callable[[str], None], stop: Callable[[], bool] = lambda: False) -> None:
        """Go on for at most `most` tokens, or until `stop` after a token. `show` gets each piece of complete text."""
        begin = time.perf_counter()
        self.limit = min(self.new_tokens + most, self.writer.context - self.prompt_tokens)
        self.finish_reason = "stopped"
        tokens, self._tokens = self._tokens or self._again(), None  # an exception ends an iterator
        try:
            for token in tokens:
                self.ids.append(token)
                show(self._text.added())
                if token == self.writer.end or self.new_tokens == self.limit:
                    self.finish_reason = "stop" if token == self.writer.end else "length"
                    break
                if stop():
                    break
            self._tokens = tokens
        finally:
            self.seconds += time.perf_counter() - begin
        if self.is_over:
            self.leave()
            show(self._text.rest())

    def _again(self) -> Iterator[int]:
        """The tokens from here on; those before are drawn again."""
        prompt = self.ids[: self.prompt_tokens]
        return islice(self.writer.tokens(prompt, self.settings, self.seed), self.new_tokens, None)

    def leave(self) -> None:
        """Give back what is kept to go on with the story at once."""
        self._tokens = None

    def summary(self) -> str:
        """`12 new tokens in 0.01 s, 1200.0 tokens/s; the story ended; seed 7`."""
        return f"{counts(self.new_tokens, self.seconds)}; {ENDINGS[self.finish_reason]}; seed {self.seed}"

    def record(self) -> dict[str, Any]:
        """Everything that is needed to write it again, as JSON."""
        return {
            "checkpoint": self.checkpoint,
            "prompt": self.prompt,
            "text": self.text,
            "finish_reason": self.finish_reason,
            "new_tokens": self.new_tokens,
            "seconds": self.seconds,
            "seed": self.seed,
            "generation_config": as_config(self.settings, self.limit, self.writer.end),
        }


def counts(tokens: int, seconds: float) -> str:
    return f"{tokens} new tokens in {seconds:.2f} s, {tokens / seconds if seconds else 0:.1f} tokens/s"


class _Decoding:
    """The text of `ids`, a list that grows: what was added to it, once the characters are complete."""

    def __init__(self, decode: Callable[[list[int]], str], ids: list[int]):
        self.decode, self.ids = decode, ids
        self.start, self.done = max(0, len(ids) - LOOK_BACK), len(ids)  # of the tokens before `done` the text is known

    def added(self) -> str:
        """The text since the last call."""
        text = self.rest()
        if not text or text.endswith("\N{REPLACEMENT CHARACTER}"):
            return ""
        self.start, self.done = max(self.start, self.done - LOOK_BACK), len(self.ids)
        return text

    def rest(self) -> str:
        """The same with a character that is not complete."""
        known = self.decode(self.ids[self.start : self.done])
        return self.decode(self.ids[self.start :])[len(known) :]
