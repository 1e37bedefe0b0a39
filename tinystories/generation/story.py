"""Continues prompts with a decoder: one text as a stream of tokens, or many, as many at once as there are slots."""

from collections.abc import Collection, Iterator, Sequence

import numpy as np

from tinystories.errors import UserError
from tinystories.generation.decoder import Decoder
from tinystories.generation.sampler import Sampler


def check_room(length: int, context: int) -> None:
    """Raises UserError: a prompt of `length` tokens leaves no room for a token in a context of `context` tokens."""
    if length >= context:
        raise UserError(f"the prompt has {length} tokens, and the context is {context}", "shorten it")


def continue_story(
    decoder: Decoder, ids: Sequence[int], sampler: Sampler, ends: Collection[int], limit: int
) -> Iterator[int]:
    """New tokens, up to `limit` or one of `ends`, which is the last; `limit` and the prompt fit into the context."""
    story, logits = list(ids), decoder.prefill(0, ids)
    for number in range(limit):
        token = sampler.next_token(story, logits)
        yield token
        if token in ends or number == limit - 1:
            return
        story.append(token)
        logits = decoder.step({0: token})[0]


def continue_stories(
    decoder: Decoder, prompts: Sequence[Sequence[int]], samplers: Sequence[Sampler], ends: Collection[int], limit: int
) -> Iterator[tuple[int, list[int]]]:
    """(number of the prompt, new tokens as of `continue_story`) in the order in which they end; a slot each."""
    waiting = list(range(len(prompts)))[::-1]
    running: dict[int, int] = {}  # slot: number of the prompt
    stories, logits = [list(ids) for ids in prompts], dict[int, np.ndarray]()
    while waiting or running:
        for slot in range(decoder.slots):
            if slot not in running and waiting:
                running[slot] = waiting.pop()
                logits[slot] = decoder.prefill(slot, prompts[running[slot]])
        tokens = {}
        for slot, number in list(running.items()):
            token = samplers[number].next_token(stories[number], logits[slot])
            stories[number].append(token)
            if token in ends or len(stories[number]) - len(prompts[number]) == limit:
                del running[slot]
                yield number, stories[number][len(prompts[number]) :]
            else:
                tokens[slot] = token
        if tokens:
            logits = dict(zip(tokens, decoder.step(tokens), strict=True))
