"""Continuous batching for one model: stories join, get one token each per step, and leave when they end.

A batcher is independent of threads and the network: the engine calls it from one thread, and each request has a
callback for its events.
"""

import itertools
import logging
import time

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tinystories.errors import one_line
from tinystories.generation.sampler import STRONGEST_BIAS
from tinystories.server.active_story import ActiveStory, QueuedRequest
from tinystories.server.decoders import AnyDecoder
from tinystories.server.events import Failed, GenerationRequest, ScoredToken
from tinystories.server.token_text import TokenTexts


logger = logging.getLogger(__name__)

READ_AT_ONCE = 64  # tokens of a prompt
GENERATION_FAILED = "internal server error: generating this story failed"


class ContinuousBatcher:
    """The stories that one model generates together; at most `decoder.slots` at a time. Row i of `stories` has slot i.

    parameters: of the model, dtype: of its numbers, for those who ask."""

    def __init__(
        self,
        decoder: AnyDecoder,
        tokenizer: PreTrainedTokenizerBase,
        end_tokens: set[int],
        parameters: int = 0,
        dtype: str = "float32",
    ):
        self.decoder, self.tokenizer, self.end_tokens = decoder, tokenizer, end_tokens
        self.parameters, self.dtype = parameters, dtype
        self.stories: list[ActiveStory] = []
        self.texts = TokenTexts(tokenizer, self.end_tokens)
        self.beginning = self.encode("")  # what the tokenizer puts before each text: BOS, or nothing

    def encode(self, prompt: str | tuple[int, ...]) -> list[int]:
        """A special token's name in a text is encoded as plain text. Token ids get the BOS that a text would get,
        unless they begin with it."""
        if isinstance(prompt, str):
            return self.tokenizer(prompt, split_special_tokens=True)["input_ids"]
        begins = list(prompt[: len(self.beginning)]) == self.beginning
        return [*([] if begins else self.beginning), *prompt]

    def join(self, queued: QueuedRequest) -> None:
        """Start a story; its prompt is read by the next steps."""
        request = queued.request
        ids = self.encode(request.prompt)
        if reason := self._refusal(request, ids):
            queued.emit(reason)
            return
        self.stories.append(ActiveStory(queued, ids, self.decoder.context - len(ids), self.tokenizer.backend_tokenizer))

    def _refusal(self, request: GenerationRequest, ids: list[int]) -> Failed | None:
        """What is only known with the model at hand: the context and the vocabulary."""
        vocabulary, context = len(self.tokenizer), self.decoder.context
        if not ids:
            return Failed("the prompt is empty", 422, "prompt")
        if len(ids) + min(1, request.max_tokens) > context:
            sizes = f"the prompt has {len(ids)} tokens, and this model reads {context}"
            return Failed(f"{sizes}: shorten it, or begin a new chat", 422, "prompt", "context_length_exceeded")
        bos = self.tokenizer.bos_token
        if request.echo and bos and isinstance(request.prompt, str) and request.prompt.startswith(bos):
            message = f"prompt: begins with {bos} written out, which is text; the server puts this token before a text"
            return Failed(message, 422, "prompt")
        bias = request.adjustments.logit_bias
        for field, tokens in (("prompt", ids), ("logit_bias", [token for token, _ in bias])):
            if max(tokens, default=0) >= vocabulary:
                return Failed(f"{field}: the token ids of this model are 0 to {vocabulary - 1}", 422, field)
        if sum(value <= -STRONGEST_BIAS for _, value in bias) >= self.decoder.vocab_size:
            return Failed("logit_bias: every token is banned; allow one", 422, "logit_bias")
        return None

    def step(self) -> None:
        """Read a part of the prompts of new stories, then generate one more token for each story that has been read."""
        self._end_late()
        self._read_prompts()
        tokens = {row: story.ids[-1] for row, story in enumerate(self.stories) if not story.unread}
        if tokens:
            logits = self.decoder.step(tokens)
            for place, row in reversed(list(enumerate(tokens))):
                self._add_token(row, logits[place])

    def clear(self) -> None:
        """Drop all stories without an event, after a failure that left their tokens and the cache out of step."""
        self.stories = []

    def _end_late(self) -> None:
        now = time.monotonic()
        for row in reversed(range(len(self.stories))):  # backwards: the last row, already seen, fills a row that leaves
            queued = self.stories[row].queued
            if queued.cancelled or now > queued.deadline:
                self._finish(row, "cancelled" if queued.cancelled else "timeout")

    def _read_prompts(self) -> None:
        """At most `READ_AT_ONCE` tokens, so that the stories that are being generated do not wait for a long prompt.

        The parts of a prompt do not depend on the other prompts: another size might be rounded in another way."""
        budget = READ_AT_ONCE
        for story in [story for story in self.stories if story.unread]:
            while story.unread and len(story.unread[:READ_AT_ONCE]) <= budget:
                budget -= len(story.unread[:READ_AT_ONCE])
                self._read(story)

    def _read(self, story: ActiveStory) -> None:
        """The next part of a prompt; after the last one, the first token of the story."""
        row, request = self.stories.index(story), story.request
        scores, first = request.echo and request.alternatives > 0, len(story.unread) == len(story.ids)
        size = READ_AT_ONCE - (len(story.unread) == READ_AT_ONCE + 1)  # a single token would be rounded differently
        part, story.unread = story.unread[:size], story.unread[size:]
        logits = (self.decoder.prefill if first else self.decoder.extend)(row, part, scores)
        if scores:
            self._score_prompt(story, part, logits)
        if story.unread:
            return
        if request.echo:
            given = len(story.ids) - len(request.prompt) if isinstance(request.prompt, tuple) else len(self.beginning)
            scored = story.prompt_scores if scores else itertools.repeat(None)
            story.echo(itertools.islice(zip(story.ids, scored, strict=False), given, None))
        if story.is_full:  # only the prompt was asked for
            return self._finish(row, "length")
        self._add_token(row, logits[-1] if scores else logits)

    def _add_token(self, row: int, logits: np.ndarray) -> None:
        """An error in one story ends that story only."""
        try:
            self._sample_token(row, logits)
        except Exception as error:
            logger.exception("generating a story failed: %s", one_line(error))
            self._remove(row).queued.emit(Failed(GENERATION_FAILED, 500))

    def _sample_token(self, row: int, logits: np.ndarray) -> None:
        story = self.stories[row]
        token = story.sampler.next_token(story.ids, logits)
        if story.request.alternatives:
            story.scored += self.texts.scored(logits[None], [token], story.request.alternatives)
        if token in self.end_tokens or story.add(token):
            self._finish(row, "stop")
        elif story.is_full:
            self._finish(row, "length")

    def _finish(self, row: int, reason: str) -> None:
        self._remove(row).finish(reason)

    def _remove(self, row: int) -> ActiveStory:
        """The last story takes its row, so that the rows in use are always the first ones."""
        story, last = self.stories[row], self.stories.pop()
        if story is not last:
            self.decoder.move(len(self.stories), row)
            self.stories[row] = last
        return story

    def _score_prompt(self, story: ActiveStory, part: list[int], logits: np.ndarray) -> None:
        """Add the scores of the tokens after each of `part`; nothing is before the first one, which has no logprob."""
        scores = story.prompt_scores
        if not scores:
            scores.append(ScoredToken(self.texts[part[0]], None))
        tokens = story.ids[len(scores) : len(scores) + len(part)]  # one less at the end of the prompt
        scores += self.texts.scored(logits[: len(tokens)], tokens, story.request.alternatives)


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    named = (model.generation_config.eos_token_id, model.config.eos_token_id, tokenizer.eos_token_id)
    listed = (ids if isinstance(ids, list) else [ids] for ids in named)
    return set(itertools.chain(*listed)) - {None}
