"""Generated samples, human stories cut to the same lengths, and nonsense that metrics must expose."""

import statistics
import sys
from dataclasses import dataclass, replace

import numpy as np

from tinystories.evaluation.text.words import first_words, split_sentences, split_words, without_first_words


@dataclass(frozen=True)
class Sample:
    """One generated story. `text` is what the model wrote, without the prompt, which is never counted.

    ended: whether the model ended the story; if not, it was cut at the limit of tokens.
    """

    prompt: str
    text: str
    ended: bool
    preset: str
    seed: int


def human_samples(samples: list[Sample], reference: list[str], seed: int = 0) -> list[Sample]:
    """A human story for each sample, cut to as many words of prompt and at most as many words of text.

    `seed` decides which story goes to which sample. Every story is drawn once before any is drawn twice.
    """
    return _cut_like(samples, [len(split_words(sample.text)) for sample in samples], reference, seed)


def human_stories(samples: list[Sample], reference: list[str], seed: int = 0) -> list[Sample]:
    """Human stories for the metrics of length: `human_samples` cut where the limit of tokens cut the samples.

    That is at the median number of words of the samples that were cut. If none was, the stories stay whole.
    """
    cut = [len(split_words(sample.text)) for sample in samples if not sample.ended]
    limit = int(statistics.median(cut)) if cut else sys.maxsize
    return _cut_like(samples, [limit] * len(samples), reference, seed)


def _cut_like(samples: list[Sample], lengths: list[int], reference: list[str], seed: int) -> list[Sample]:
    random = np.random.default_rng(seed)
    rounds = -(-len(samples) // len(reference))
    order = np.concatenate([random.permutation(len(reference)) for _ in range(rounds)])
    return [
        _human_sample(reference[i], len(split_words(sample.prompt)), length, seed)
        for sample, length, i in zip(samples, lengths, order, strict=False)
    ]


def _human_sample(story: str, in_prompt: int, in_text: int, seed: int) -> Sample:
    prompt, rest = first_words(story, in_prompt), without_first_words(story, in_prompt)
    text = first_words(rest, in_text)
    return Sample(prompt, text, ended=len(text) == len(rest), preset="human", seed=seed)


def shuffled(samples: list[Sample], seed: int = 0) -> list[Sample]:
    """The same words with their punctuation, in random order: the vocabulary stays, the grammar is lost."""
    random = np.random.default_rng(seed)
    return [replace(sample, text=" ".join(random.permutation(sample.text.split()))) for sample in samples]


def looped(samples: list[Sample]) -> list[Sample]:
    """The first sentence of each text, repeated up to the same number of words."""
    loops = []
    for sample in samples:
        length = len(split_words(sample.text))
        sentence = next((part for part in split_sentences(sample.text) if split_words(part)), "")
        loops.append(replace(sample, text=first_words(f"{sentence.strip()} " * max(length, 1), length).strip()))
    return loops


def spliced(samples: list[Sample]) -> list[Sample]:
    """The first half of each text and the second half of the next: good sentences, but not one story."""
    texts = []
    for sample, other in zip(samples, samples[1:] + samples[:1], strict=True):
        half, half_of_other = len(split_words(sample.text)) // 2, len(split_words(other.text)) // 2
        texts.append(first_words(sample.text, half) + without_first_words(other.text, half_of_other))
    return [replace(sample, text=text) for sample, text in zip(samples, texts, strict=True)]
