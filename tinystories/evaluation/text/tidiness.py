"""How much generation/tidy.py would change in a text: its looks, not its grammar."""

from tinystories.evaluation.estimates import Estimate, ratio, share
from tinystories.evaluation.text.samples import Sample
from tinystories.evaluation.text.words import split_words
from tinystories.generation.tidy import edits


def changed(samples: list[Sample]) -> Estimate | None:
    """Share of the stories, each read with its prompt, in which `tidy` changes something."""
    return share(sum(edits(_story(sample)) > 0 for sample in samples), len(samples))


def edits_per_100_words(samples: list[Sample]) -> Estimate | None:
    """Edits of `tidy` in the stories, each read with its prompt."""
    numbers = [100 * edits(_story(sample)) for sample in samples]
    return ratio(numbers, [len(split_words(_story(sample))) for sample in samples], one=100.0)


def _story(sample: Sample) -> str:
    """Prompt and text; with a full stop if the story was cut, since the model did not omit it."""
    story = sample.prompt + sample.text
    return story if sample.ended else story.rstrip() + "."
