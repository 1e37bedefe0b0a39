"""How much a tidy-up (generation/tidy.py) would have to change: what a text looks like, and nothing of its grammar."""

from tinystories.evaluation.estimates import Estimate, ratio, share
from tinystories.evaluation.text.samples import Sample
from tinystories.evaluation.text.words import words
from tinystories.generation.tidy import edits


def changed(samples: list[Sample]) -> Estimate | None:
    """Share of the stories, each read with its prompt, in which there is something to tidy up."""
    return share(sum(edits(_story(sample)) > 0 for sample in samples), len(samples))


def edits_per_100_words(samples: list[Sample]) -> Estimate | None:
    """What a tidy-up changes in the stories, each read with its prompt."""
    numbers = [100 * edits(_story(sample)) for sample in samples]
    return ratio(numbers, [len(words(_story(sample))) for sample in samples], one=100.0)


def _story(sample: Sample) -> str:
    """With a full stop where the limit of tokens, and not the writer, left it out."""
    story = sample.prompt + sample.text
    return story if sample.ended else story.rstrip() + "."
