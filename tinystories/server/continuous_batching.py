"""Continuous batching for one model: stories join, get one token each per step, and leave when they end.

A batcher is independent of threads and the network: the engine calls it from one thread, and each request has a
callback for its events.
"""

import itertools
import logging
import time
from collections.abc import Iterator

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tinystories.errors import one_line
from tinystories.server.active_story import ActiveStory, QueuedRequest
from tinystories.server.events import Failed, GenerationRequest, ScoredToken
from tinystories.server.kv_cache import Batch
from tinystories.server.sampling import STRONGEST_BIAS
from tinystories.server.token_text import TokenTexts


logger = logging.getLogger(__name__)

GENERATION_FAILED = "internal server error: generating this story failed"


class ContinuousBatcher:
    """The stories that one model generates together; at most `rows` at a time."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: int):
        self.model, self.tokenizer = model, tokenizer
        self.batch = Batch(model, rows)
        self.stories: list[ActiveStory] = []
        self.end_tokens = _end_tokens(model, tokenizer)
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
        """Start a story: process its prompt and generate its first token."""
        request = queued.request
        ids = self.encode(request.prompt)
        if reason := self._refusal(request, ids):
            queued.emit(reason)
            return
        story = ActiveStory(queued, ids, self.batch.context - len(ids), self.tokenizer.backend_tokenizer)
        self.stories.append(story)
        scores_prompt = request.echo and request.alternatives > 0
        logits = self.batch.join(ids, min(len(ids), self.batch.kept_at_most) if scores_prompt else 1)
        if request.echo:
            given = len(ids) - len(request.prompt) if isinstance(request.prompt, tuple) else len(self.beginning)
            scored = self._prompt_scores(story, logits) if scores_prompt else itertools.repeat(None)
            story.echo(itertools.islice(zip(ids, scored, strict=False), given, None))
        if story.is_full:  # only the prompt was asked for
            return self._finish(len(self.stories) - 1, "length")
        self._add_token(len(self.stories) - 1, logits[-1])

    def _refusal(self, request: GenerationRequest, ids: list[int]) -> Failed | None:
        """What is only known with the model at hand: the context and the vocabulary."""
        vocabulary, context = len(self.tokenizer), self.batch.context
        if not ids:
            return Failed("the prompt is empty", 422, "prompt")
        if len(ids) + min(1, request.max_tokens) > context:
            message = f"the prompt has {len(ids)} tokens, and this model reads {context}: shorten it"
            return Failed(message, 422, "prompt")
        bos = self.tokenizer.bos_token
        if request.echo and bos and isinstance(request.prompt, str) and request.prompt.startswith(bos):
            message = f"prompt: begins with {bos} written out, which is text; the server puts this token before a text"
            return Failed(message, 422, "prompt")
        bias = request.adjustments.logit_bias
        for field, tokens in (("prompt", ids), ("logit_bias", [token for token, _ in bias])):
            if max(tokens, default=0) >= vocabulary:
                return Failed(f"{field}: the token ids of this model are 0 to {vocabulary - 1}", 422, field)
        if sum(value <= -STRONGEST_BIAS for _, value in bias) >= self.model.config.get_text_config().vocab_size:
            return Failed("logit_bias: every token is banned; allow one", 422, "logit_bias")
        return None

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
        if story.request.alternatives:
            story.scored += self.texts.scored(logits[None], [token], story.request.alternatives)
        if token in self.end_tokens or story.add(token):
            self._finish(row, "stop")
        elif story.is_full:
            self._finish(row, "length")

    def _finish(self, row: int, reason: str) -> None:
        self._remove(row).finish(reason)

    def _remove(self, row: int) -> ActiveStory:
        story = self.stories[row]
        self.batch.leave(row)
        self.stories[row] = self.stories[-1]
        self.stories.pop()
        return story

    def _prompt_scores(self, story: ActiveStory, kept: torch.Tensor) -> Iterator[ScoredToken]:
        """Of each token of the prompt. Nothing is before the first one, which has no logprob."""
        ids, done = story.ids, 1
        yield ScoredToken(self.texts[ids[0]], None)
        for logits in self.batch.prompt_logits(ids, kept):
            tokens = ids[done : done + len(logits)]  # one less in the last part: nothing follows the last token
            yield from self.texts.scored(logits[: len(tokens)], tokens, story.request.alternatives)
            done += len(tokens)


def _end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    named = (model.generation_config.eos_token_id, model.config.eos_token_id, tokenizer.eos_token_id)
    listed = (ids if isinstance(ids, list) else [ids] for ids in named)
    return set(itertools.chain(*listed)) - {None}
