"""What a model wrote, and what people wrote at the same length to hold beside it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sample:
    """One generated story. `text` is what the model wrote; the prompt is no part of it and is never counted.

    ended: whether the model ended the story itself; else it was cut at the limit of tokens.
    """

    prompt: str
    text: str
    ended: bool
    preset: str
    seed: int
