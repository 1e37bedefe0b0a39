"""The text metrics of a group of samples, beside people's stories and nonsense at the same lengths."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import TypedDict

import datasets

from tinystories.data.corpus import pick_stories
from tinystories.data.readers import STORIES_PER_BATCH
from tinystories.evaluation.estimates import as_json
from tinystories.evaluation.table import Values
from tinystories.evaluation.text.critic import Critic
from tinystories.evaluation.text.damages import DAMAGES
from tinystories.evaluation.text.metrics import TextMetric, measure_texts, texts_to_look_up
from tinystories.evaluation.text.novelty import NEAR_COPY, Copied, look_up
from tinystories.evaluation.text.samples import Sample, human_samples, looped, shuffled, spliced


class NearCopy(TypedDict):
    """A sample that is nearly copied. `share`: the share of its words that the training story holds."""

    prompt: str
    text: str
    share: float
    training_story: str | None


class GroupResult(TypedDict):
    """The metrics of one group: of its samples, of people, and for each metric of the nonsense that it must expose."""

    copies: list[NearCopy]
    metrics: Values
    human: Values
    nonsense: Values


def measure_groups(
    groups: Mapping[str, list[Sample]],
    held_out: list[str],
    training: datasets.Dataset | None,
    metrics: Sequence[TextMetric],
    critic: Critic | None = None,
) -> dict[str, GroupResult]:
    """Measure each group of samples. Without `training` (column `text`), metrics of novelty are left out."""
    people = {name: human_samples(samples, held_out) for name, samples in groups.items()}
    copied = None
    if training is not None:
        everything = list(chain.from_iterable(groups.values()))
        for samples in people.values():
            everything += [*samples, *chain.from_iterable(_nonsense(samples, training).values())]
        copied = look_up(texts_to_look_up(everything), texts_of(training))
    return {
        name: _group_result(samples, held_out, _nonsense(people[name], training), copied, metrics, critic)
        for name, samples in groups.items()
    }


def texts_of(stories: datasets.Dataset) -> Iterator[str]:
    """The texts of `stories`, read in batches."""
    for batch in stories.iter(STORIES_PER_BATCH):
        yield from batch["text"]


def _group_result(
    samples: list[Sample],
    held_out: list[str],
    nonsense: dict[str, list[Sample]],
    copied: Mapping[str, Copied] | None,
    metrics: Sequence[TextMetric],
    critic: Critic | None,
) -> GroupResult:
    columns = measure_texts(samples, held_out, copied, metrics, critic=critic)
    return {
        "copies": _near_copies(samples, copied) if copied is not None else [],
        "metrics": {name: as_json(both["value"]) for name, both in columns.items()},
        "human": {name: as_json(both["human"]) for name, both in columns.items()},
        "nonsense": {
            metric.name: as_json(metric.measure(nonsense[metric.floor], copied, critic))
            for metric in metrics
            if metric.name in columns and metric.floor in nonsense
        },
    }


def _near_copies(samples: list[Sample], copied: Mapping[str, Copied]) -> list[NearCopy]:
    found = [(sample, copied[sample.text]) for sample in samples]
    return [
        {"prompt": sample.prompt, "text": sample.text, "share": copy.overlap, "training_story": copy.story_text}
        for sample, copy in found
        if copy.overlap >= NEAR_COPY
    ]


def _nonsense(people: list[Sample], training: datasets.Dataset | None) -> dict[str, list[Sample]]:
    """Nonsense by kind (`TextMetric.floor`), made of people's stories or copied from the training stories."""
    kinds = {"shuffled": shuffled(people), "looped": looped(people), "spliced": spliced(people)}
    kinds |= {name: DAMAGES[name](people) for name in ("other prompt", "other gender", "no ending")}
    if training is not None:
        kinds["copied"] = human_samples(people, pick_stories(training, len(people))["text"])
    return kinds
