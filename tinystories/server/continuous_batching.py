"""One model at work: stories join, get a token each at every step, and leave when they end.

A batcher knows no threads and no network: the engine calls it from one thread, and each request says whom to tell.
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

GIVEN_UP = "the server could not go on with this story"
NOT_TEXT = "\ufffd"  # shown for a token that is only part of a character


@dataclass(eq=False)
class QueuedRequest:
    """A wish, whom to tell, and until when. `cancelled` and `deadline` (monotonic seconds) may change at any time."""

    wish: GenerationRequest
    tell: Callable[[Event], None]
    deadline: float
    cancelled: bool = False


class ActiveStory:
    """A request that is being written: its tokens, the text so far, and what has not been told yet."""

    def __init__(self, request: QueuedRequest, ids: list[int], room: int):
        self.request, self.wish, self.ids = request, request.wish, list(ids)
        allowed = min(self.wish.max_tokens, room)
        self.started = Started(len(ids), allowed, allowed < self.wish.max_tokens)
        self.sampler = Sampler(self.wish.settings, self.wish.seed)
        self.stream = DecodeStream(ids, skip_special_tokens=True)
        self.text, self.start = "", time.perf_counter()
        self.open_tokens, self.open_logprob, self.open_alternatives = 0, 0.0, ()  # of the piece that is not yet text
        self.held: list[Piece] = []  # told once it is sure that no stop sequence begins in them
        request.tell(self.started)

    @property
    def new_tokens(self) -> int:
        return len(self.ids) - self.started.prompt_tokens

    def add(self, text: str) -> bool:
        """The open tokens are text now: tell it, but for what may begin a stop sequence. True if one is complete."""
        thoughts = (self.open_logprob, self.open_alternatives) if self.wish.alternatives else (None, ())
        self.held.append(Piece(text, self.open_tokens, *thoughts))
        self.open_tokens, self.open_logprob, self.open_alternatives = 0, 0.0, ()
        waiting = "".join(piece.text for piece in self.held)
        places = [place for stop in self.wish.stop if (place := waiting.find(stop)) >= 0]
        if places:
            self._tell_up_to(min(places))
            return True
        begun = max((_overlap(waiting, stop) for stop in self.wish.stop), default=0)
        while self.held and len(waiting) - len(self.held[0].text) >= begun:
            waiting = waiting[len(self.held[0].text) :]
            self._tell(self.held.pop(0))
        return False

    def finish(self, reason: str) -> None:
        for piece in self.held:
            self._tell(piece)
        seconds = time.perf_counter() - self.start
        counts = (self.started.prompt_tokens, self.new_tokens, seconds, self.started.max_tokens, self.started.clamped)
        self.request.tell(Finished(reason, self.text, *counts))

    def _tell_up_to(self, place: int) -> None:
        for piece in self.held:
            if place > 0:
                self._tell(replace(piece, text=piece.text[:place]))
            place -= len(piece.text)
        self.held = []

    def _tell(self, piece: Piece) -> None:
        self.text += piece.text
        self.request.tell(piece)


class ContinuousBatcher:
    """Stories that one model writes together; `rows` at most at a time."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: int):
        self.model, self.tokenizer = model, tokenizer
        self.batch = Batch(model, rows)
        self.stories: list[ActiveStory] = []
        self.ends = _end_tokens(model, tokenizer)

    def encode(self, prompt: str) -> list[int]:
        """What a person typed is text: a special token's name in it is not the special token."""
        return self.tokenizer(prompt, split_special_tokens=True)["input_ids"]

    def join(self, request: QueuedRequest) -> None:
        """Begin a story: read its prompt and write its first token."""
        ids = self.encode(request.wish.prompt)
        room = self.batch.context - len(ids)
        if room < 1 or not ids:
            words = f"the prompt has {len(ids)} tokens, and this model reads {self.batch.context}: shorten it"
            request.tell(Failed(words if ids else "the prompt holds nothing to go on from", 422, "prompt"))
            return
        self.stories.append(ActiveStory(request, ids, room))
        self._try_to_write(len(self.stories) - 1, self.batch.join(ids))

    def step(self) -> None:
        """One more token for each story."""
        now = time.monotonic()
        for row in reversed(range(len(self.stories))):  # backwards: whoever leaves is replaced by one already seen
            request = self.stories[row].request
            if request.cancelled or now > request.deadline:
                self._leave(row, "cancelled" if request.cancelled else "timeout")
        if self.stories:
            logits = self.batch.step([story.ids[-1] for story in self.stories])
            for row in reversed(range(len(self.stories))):
                self._try_to_write(row, logits[row])

    def clear(self) -> None:
        """Forget all stories without a word, after a failure that left their tokens and their cache out of step."""
        self.stories, self.batch = [], Batch(self.model, self.batch.limit)

    def _try_to_write(self, row: int, logits: torch.Tensor) -> None:
        """What goes wrong with one story is no reason to end the others."""
        try:
            self._write(row, logits)
        except Exception as error:
            logger.exception("one story had to be given up: %s", one_line(error))
            self._remove(row).request.tell(Failed(GIVEN_UP, 500))

    def _write(self, row: int, logits: torch.Tensor) -> None:
        story = self.stories[row]
        token = story.sampler.next_token(story.ids, logits)
        self._note_thoughts(story, logits, token)
        if token in self.ends:
            return self._leave(row, "stop")
        story.ids.append(token)
        story.open_tokens += 1
        text = story.stream.step(self.tokenizer.backend_tokenizer, token)
        if text and story.add(text):
            return self._leave(row, "stop")
        if story.new_tokens == story.started.max_tokens:
            self._leave(row, "length")

    def _leave(self, row: int, reason: str) -> None:
        self._remove(row).finish(reason)

    def _remove(self, row: int) -> ActiveStory:
        story = self.stories[row]
        self.batch.leave(row)
        self.stories[row] = self.stories[-1]
        self.stories.pop()
        return story

    def _note_thoughts(self, story: ActiveStory, logits: torch.Tensor, token: int) -> None:
        number = story.wish.alternatives
        if not number:
            return
        logprobs = logits.log_softmax(-1)
        story.open_logprob += logprobs[token].item()
        if story.open_tokens == 0:
            values, tokens = logprobs.topk(min(number, len(logprobs)))
            story.open_alternatives = tuple(
                Alternative(self._text_of(story, other), value, other in self.ends)
                for value, other in zip(values.exp().tolist(), tokens.tolist(), strict=True)
            )

    def _text_of(self, story: ActiveStory, token: int) -> str:
        if token in self.ends:
            return ""
        return copy.copy(story.stream).step(self.tokenizer.backend_tokenizer, token) or NOT_TEXT


def _end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    named = (model.generation_config.eos_token_id, model.config.eos_token_id, tokenizer.eos_token_id)
    listed = (ids if isinstance(ids, list) else [ids] for ids in named)
    return set(itertools.chain(*listed)) - {None}


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` may be the beginning of `stop`."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)
