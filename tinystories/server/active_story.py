"""A story that is being generated: its tokens, its text, and the events that its client receives.

A batcher gives it one token after the other; it emits text as soon as the characters are complete and no stop sequence
can begin in them.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from tinystories.generation.sampler import Sampler
from tinystories.server.events import Echo, Event, Finished, GenerationRequest, Piece, ScoredToken, Started


@dataclass(eq=False)
class QueuedRequest:
    """A request, the function that receives its events, its deadline (monotonic seconds) and its client.

    `cancelled` and `deadline` may be changed at any time."""

    request: GenerationRequest
    emit: Callable[[Event], None]
    deadline: float
    client: str = ""
    cancelled: bool = False


class ActiveStory:
    """A story that is being generated: its tokens, its text, and the pieces that are not emitted yet.

    ids: the tokens of the prompt; room: how many more fit the context; decoder: the tokenizer's. unread: the tokens of
    the prompt that the model has not read yet; prompt_scores: of those it has, if this was requested."""

    def __init__(self, queued: QueuedRequest, ids: list[int], room: int, decoder: Tokenizer):
        self.queued, self.request, self.ids, self.decoder = queued, queued.request, list(ids), decoder
        self.unread, self.prompt_scores = list(ids), list[ScoredToken]()
        allowed = min(self.request.max_tokens, room)
        self.started = Started(len(ids), allowed, allowed < self.request.max_tokens)
        self.sampler = Sampler(self.request.settings, self.request.seed, len(ids), self.request.adjustments)
        # an echoed prompt is decoded token by token, like the story
        self.stream = DecodeStream([] if self.request.echo else ids, skip_special_tokens=True)
        self.text, self.start = "", time.perf_counter()
        self.undecoded = 0  # tokens that are not complete UTF-8 yet
        self.scored: list[ScoredToken] = []  # those tokens, and after the last one the token that ends the story
        self.pending: list[Piece] = []  # emitted once it is certain that no stop sequence begins in them
        queued.emit(self.started)

    @property
    def new_tokens(self) -> int:
        return len(self.ids) - self.started.prompt_tokens

    @property
    def is_full(self) -> bool:
        return self.new_tokens >= self.started.max_tokens

    def echo(self, tokens: Iterable[tuple[int, ScoredToken | None]]) -> None:
        """Emit the text of the prompt: the ids of its tokens, scored if this was requested."""
        pieces = []
        for token, scored in tokens:
            self.scored += [scored] if scored else []
            if text := self.stream.step(self.decoder, token):
                pieces.append(self._piece(text))
        self.queued.emit(Echo(tuple(pieces)))

    def add(self, token: int) -> bool:
        """Continue with this token; emit the text that is complete, except for what may begin a stop sequence.

        Returns whether a stop sequence is complete."""
        self.ids.append(token)
        self.undecoded += 1
        text = self.stream.step(self.decoder, token)
        if not text:
            return False
        self.pending.append(self._piece(text))
        waiting = "".join(piece.text for piece in self.pending)
        places = [place for stop in self.request.stop if (place := waiting.find(stop)) >= 0]
        if places:
            self._emit_up_to(min(places))
            return True
        begun = max((_overlap(waiting, stop) for stop in self.request.stop), default=0)
        while self.pending and len(waiting) - len(self.pending[0].text) >= begun:
            waiting = waiting[len(self.pending[0].text) :]
            self._emit(self.pending.pop(0))
        return False

    def finish(self, reason: str) -> None:
        for piece in self.pending:
            self._emit(piece)
        seconds = time.perf_counter() - self.start
        counts = (self.started.prompt_tokens, self.new_tokens, seconds, self.started.max_tokens, self.started.clamped)
        self.queued.emit(Finished(reason, self.text, *counts, tuple(self.scored)))

    def _piece(self, text: str) -> Piece:
        """`text` as a piece of all tokens that are not decoded yet."""
        piece = Piece(text, self.undecoded, tuple(self.scored))
        self.undecoded, self.scored = 0, []
        return piece

    def _emit_up_to(self, place: int) -> None:
        for piece in self.pending:
            if place > 0:
                self._emit(replace(piece, text=piece.text[:place]))
            place -= len(piece.text)
        self.pending = []

    def _emit(self, piece: Piece) -> None:
        self.text += piece.text
        self.queued.emit(piece)


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` may be the beginning of `stop`."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)
