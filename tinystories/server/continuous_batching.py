"""Continuous batching for one model: stories join, get one token each per step, and leave when they end.

A batcher is independent of threads and the network: the engine calls it from one thread, and each request has a
callback for its events.
"""

import copy
import itertools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from tokenizers.decoders import DecodeStream
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tinystories.errors import one_line
from tinystories.server.events import Alternative, Event, Failed, Finished, GenerationRequest, Piece, Started
from tinystories.server.kv_cache import Batch
from tinystories.server.sampling import Sampler


logger = logging.getLogger(__name__)

GENERATION_FAILED = "internal server error: generating this story failed"
INCOMPLETE = "\ufffd"  # shown for an alternative that is only part of a character


@dataclass(eq=False)
class QueuedRequest:
    """A request, the function that receives its events, its deadline (monotonic seconds) and its client.

    `cancelled` and `deadline` may be changed at any time."""

    request: GenerationRequest
    emit: Callable[[Event], None]
    deadline: float
    client: str = ""
    cancelled: bool = False


@dataclass
class Undecoded:
    """Tokens that are not complete UTF-8 yet, with their summed logprob and the alternatives to the first one."""

    tokens: int = 0
    logprob: float = 0.0
    alternatives: tuple[Alternative, ...] = ()


class ActiveStory:
    """A story that is being generated: its tokens, its text, and the pieces that are not emitted yet."""

    def __init__(self, queued: QueuedRequest, ids: list[int], room: int):
        self.queued, self.request, self.ids = queued, queued.request, list(ids)
        allowed = min(self.request.max_tokens, room)
        self.started = Started(len(ids), allowed, allowed < self.request.max_tokens)
        self.sampler = Sampler(self.request.settings, self.request.seed)
        self.stream = DecodeStream(ids, skip_special_tokens=True)
        self.text, self.start = "", time.perf_counter()
        self.undecoded = Undecoded()
        self.pending: list[Piece] = []  # emitted once it is certain that no stop sequence begins in them
        queued.emit(self.started)

    @property
    def new_tokens(self) -> int:
        return len(self.ids) - self.started.prompt_tokens

    def add(self, text: str) -> bool:
        """The undecoded tokens have become `text`: emit it, except for what may begin a stop sequence.

        Returns whether a stop sequence is complete."""
        done, self.undecoded = self.undecoded, Undecoded()
        piece = Piece(text, done.tokens)
        if self.request.alternatives:
            piece = replace(piece, logprob=done.logprob, alternatives=done.alternatives)
        self.pending.append(piece)
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
        self.queued.emit(Finished(reason, self.text, *counts))

    def _emit_up_to(self, place: int) -> None:
        for piece in self.pending:
            if place > 0:
                self._emit(replace(piece, text=piece.text[:place]))
            place -= len(piece.text)
        self.pending = []

    def _emit(self, piece: Piece) -> None:
        self.text += piece.text
        self.queued.emit(piece)


class ContinuousBatcher:
    """The stories that one model generates together; at most `rows` at a time."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: int):
        self.model, self.tokenizer = model, tokenizer
        self.batch = Batch(model, rows)
        self.stories: list[ActiveStory] = []
        self.end_tokens = _end_tokens(model, tokenizer)

    def encode(self, prompt: str) -> list[int]:
        """A special token's name in a prompt is encoded as plain text."""
        return self.tokenizer(prompt, split_special_tokens=True)["input_ids"]

    def join(self, queued: QueuedRequest) -> None:
        """Start a story: process its prompt and generate its first token."""
        ids = self.encode(queued.request.prompt)
        room = self.batch.context - len(ids)
        if room < 1 or not ids:
            message = f"the prompt has {len(ids)} tokens, and this model reads {self.batch.context}: shorten it"
            queued.emit(Failed(message if ids else "the prompt is empty", 422, "prompt"))
            return
        self.stories.append(ActiveStory(queued, ids, room))
        self._add_token(len(self.stories) - 1, self.batch.join(ids))

    def step(self) -> None:
        """Generate one more token for each story."""
        now = time.monotonic()
        for row in reversed(range(len(self.stories))):  # backwards: the last row, already seen, fills a row that leaves
            queued = self.stories[row].queued
            if queued.cancelled or now > queued.deadline:
                self._finish(row, "cancelled" if queued.cancelled else "timeout")
        if self.stories:
            logits = self.batch.step([story.ids[-1] for story in self.stories])
            for row in reversed(range(len(self.stories))):
                self._add_token(row, logits[row])

    def clear(self) -> None:
        """Drop all stories without an event, after a failure that left their tokens and the cache out of step."""
        self.stories, self.batch = [], Batch(self.model, self.batch.limit)

    def _add_token(self, row: int, logits: torch.Tensor) -> None:
        """An error in one story ends that story only."""
        try:
            self._sample_token(row, logits)
        except Exception as error:
            logger.exception("generating a story failed: %s", one_line(error))
            self._remove(row).queued.emit(Failed(GENERATION_FAILED, 500))

    def _sample_token(self, row: int, logits: torch.Tensor) -> None:
        story = self.stories[row]
        token = story.sampler.next_token(story.ids, logits)
        self._record_logprobs(story, logits, token)
        if token in self.end_tokens:
            return self._finish(row, "stop")
        story.ids.append(token)
        story.undecoded.tokens += 1
        text = story.stream.step(self.tokenizer.backend_tokenizer, token)
        if text and story.add(text):
            return self._finish(row, "stop")
        if story.new_tokens == story.started.max_tokens:
            self._finish(row, "length")

    def _finish(self, row: int, reason: str) -> None:
        self._remove(row).finish(reason)

    def _remove(self, row: int) -> ActiveStory:
        story = self.stories[row]
        self.batch.leave(row)
        self.stories[row] = self.stories[-1]
        self.stories.pop()
        return story

    def _record_logprobs(self, story: ActiveStory, logits: torch.Tensor, token: int) -> None:
        number = story.request.alternatives
        if not number:
            return
        logprobs = logits.log_softmax(-1)
        story.undecoded.logprob += logprobs[token].item()
        if story.undecoded.tokens == 0:
            values, tokens = logprobs.topk(min(number, len(logprobs)))
            story.undecoded.alternatives = tuple(
                Alternative(self._text_of(story, other), value, other in self.end_tokens)
                for value, other in zip(values.exp().tolist(), tokens.tolist(), strict=True)
            )

    def _text_of(self, story: ActiveStory, token: int) -> str:
        if token in self.end_tokens:
            return ""
        return copy.copy(story.stream).step(self.tokenizer.backend_tokenizer, token) or INCOMPLETE


def _end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    named = (model.generation_config.eos_token_id, model.config.eos_token_id, tokenizer.eos_token_id)
    listed = (ids if isinstance(ids, list) else [ids] for ids in named)
    return set(itertools.chain(*listed)) - {None}


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` may be the beginning of `stop`."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)
