"""Continues prompts with a decoder: one text as a stream of tokens, or many, as many at once as there are slots."""

from collections.abc import Collection, Iterator, Sequence

import numpy as np

from tinystories.errors import UserError
from tinystories.generation.decoder import Decoder
from tinystories.generation.sampler import Sampler


MOST_GUESSES = 5


def check_room(length: int, context: int) -> None:
    """Raises UserError: a prompt of `length` tokens leaves no room for a token in a context of `context` tokens."""
    if length >= context:
        raise UserError(f"the prompt has {length} tokens, and the context is {context}", "shorten it")


def continue_story(
    decoder: Decoder, ids: Sequence[int], sampler: Sampler, ends: Collection[int], limit: int
) -> Iterator[int]:
    """New tokens, up to `limit` or one of `ends`, which is the last; `limit` and the prompt fit into the context.

    Most of a step of a large network is reading its weights, and for some tokens at once that takes little longer. So
    where it pays, the network with 8-bit weights guesses the next tokens, and the network itself reads all of them in
    one pass. A guess stays only if the sampler draws the same token from the network's own logits: the text does not
    depend on guesses (speculative decoding, Leviathan et al., 2023).
    """
    story, hopeful, number = list(ids), MOST_GUESSES, 0
    token = sampler.next_token(story, decoder.prefill(0, ids))
    while True:
        number += 1
        yield token
        if token in ends or number == limit:
            return
        story.append(token)
        room = min(hopeful, limit - number - 1, decoder.context - len(story)) if decoder.can_guess else 0
        guesses = _guesses(decoder, story, sampler, ends, room)
        right = 0
        for logits in _read(decoder, [token, *guesses]):
            token = sampler.next_token(story, logits)
            if right == len(guesses) or token != guesses[right]:
                break
            right, number = right + 1, number + 1
            yield token
            if token in ends or number == limit:
                return
            story.append(token)
        decoder.cut(0, len(story))
        hopeful = min(MOST_GUESSES, right + 1)


def _read(decoder: Decoder, tokens: Sequence[int]) -> np.ndarray:
    """The network's own logits after each of these tokens.

    One token alone is rounded otherwise than several. Whether there are guesses depends on the time that they take, and
    the text must not: where they are possible, two tokens are read in any case.
    """
    if len(tokens) > 1 or (decoder.may_guess and decoder.length(0) + 2 <= decoder.context):
        return decoder.extend(0, tokens if len(tokens) > 1 else [*tokens, *tokens], all_logits=True)
    return decoder.step({0: tokens[0]})


def _guesses(decoder: Decoder, story: Sequence[int], sampler: Sampler, ends: Collection[int], number: int) -> list[int]:
    """The next tokens, as far as 8-bit weights say; no more than `number`."""
    ahead, looking = list(story), sampler.looking_ahead()
    while len(ahead) - len(story) < number and (len(ahead) == len(story) or ahead[-1] not in ends):
        ahead.append(looking.next_token(ahead, decoder.guess(ahead[-1], len(ahead) - 1)))
    return ahead[len(story) :]


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
