"""Everything that run_evaluation.py measures of models, part by part, and the anchors that it is measured against.

Of every model: how well it predicts held-out stories (likelihood.py), whether it knows right from wrong in minimal
pairs (minimal_pairs/), and what its own stories are like (text/metrics.py) under each preset. The same network with
fresh weights goes through all of it too, and so do people's stories and nonsense made out of them.
"""

import copy
import logging
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tinystories.checkpoint.foreign import open_model
from tinystories.data.corpus import pick_stories, story_hashes
from tinystories.data.held_out import find_held_out
from tinystories.errors import UserError
from tinystories.evaluation.arguments import EvaluationArguments
from tinystories.evaluation.cache import ResultCache, fingerprint
from tinystories.evaluation.estimates import Estimate
from tinystories.evaluation.judge.judge import endpoint_from_environment, judge
from tinystories.evaluation.leaderboard import data_facts
from tinystories.evaluation.likelihood import likelihood
from tinystories.evaluation.minimal_pairs.pairs import Pair, build_pairs, score_pairs
from tinystories.evaluation.minimal_pairs.rules import RULES
from tinystories.evaluation.scoring import context_length
from tinystories.evaluation.table import Metric, Values, rows
from tinystories.evaluation.text.generation import write_samples
from tinystories.evaluation.text.metrics import METRICS, TextMetric, measure_texts, texts_to_look_up
from tinystories.evaluation.text.novelty import NEAR_COPY, look_up
from tinystories.evaluation.text.prompts import PROMPTS
from tinystories.evaluation.text.samples import Sample, human_samples, looped, shuffled, spliced
from tinystories.random_state import keep_random_state
from tinystories.run_files import LIBRARIES, Run


logger = logging.getLogger(__name__)

LIKELIHOOD = (
    Metric("bits_per_byte", "bits per byte", "", "lower", "bits to say the held-out stories, ends included, per byte"),
    Metric("text_bits_per_byte", "bits per byte, text alone", "", "lower", "the same without the ends of the stories"),
    Metric("loss", "loss", "nats per token", "lower", "of its own tokens: compares no two tokenizers"),
    Metric("perplexity", "perplexity", "", "lower", "exp(loss)"),
)
MEAN_OF_RULES = "mean_of_rules"
ALL_RIGHT = Estimate(1.0, 1.0, 1.0, 0).as_dict()  # what people wrote is right, but for the pairs that are bad ones
FLOOR_STORIES = 20  # are enough to know the loss of a fresh network
STORIES_FOR_QUICK_PAIRS = 1000


@dataclass
class Stories:
    """What all models of a comparison are measured on. `held_out`: those that are scored; pairs are made of more."""

    held_out: datasets.Dataset
    for_pairs: datasets.Dataset
    training: datasets.Dataset | None
    source: str

    @cached_property
    def facts(self) -> dict[str, Any]:
        """also_in_training: how many of the held-out stories are training stories; None where that is not known."""
        known = None
        if self.training is not None:
            known = int(np.isin(story_hashes(self.held_out), story_hashes(self.training)).sum())
        return data_facts(self.source, self.held_out["text"]) | {"also_in_training": known}


def find_stories(arguments: EvaluationArguments, checkpoint: str) -> Stories:
    """The stories named, else those of the checkpoint's run, else held-out stories of the embedded corpus."""
    run = Run(checkpoint, arguments.revision)
    found = find_held_out(run, arguments.data, arguments.train_file)
    for problem in run.problems:
        logger.warning("%s: %s", checkpoint, problem)
    if found.unreadable is not None:
        logger.warning("the stories of the run cannot be read: %s", found.unreadable)
    if arguments.data:
        source = Path(arguments.data).name  # published: no folder of this machine
    elif found.origin == "run":
        source = "the validation stories of its run"
    else:
        source = "the embedded sample corpus"
        logger.warning("HELD-OUT STORIES: %s, which fits models trained on it; name others with --data", source)
    for_pairs = pick_stories(found.stories, STORIES_FOR_QUICK_PAIRS) if arguments.quick else found.stories
    return Stories(pick_stories(found.stories, arguments.stories), for_pairs, found.training, source)


def evaluate(names: list[str], arguments: EvaluationArguments) -> list[dict[str, Any]]:
    """The results of each checkpoint (`result`), measured or taken from the parts of an earlier try."""
    arguments = arguments.settled()
    device = arguments.device or torch.accelerator.current_accelerator(check_available=True) or "cpu"
    endpoint = endpoint_from_environment(arguments.judge_url, arguments.judge_model) if arguments.judge_url else None
    stories, parts = find_stories(arguments, names[0]), ResultCache(Path(arguments.output_dir) / "parts")
    logger.info("held out: %s stories, %s", f"{len(stories.held_out):,}", stories.source)
    if stories.facts["also_in_training"]:
        number = f"{stories.facts['also_in_training']:,} of {stories.facts['stories']:,}"
        logger.warning("NOT HELD OUT: %s stories stand in the training data too, and flatter the model", number)
    pairs = build_pairs(stories.for_pairs, arguments.pairs)
    results = []
    for name in names:
        tokenizer_file = arguments.tokenizer if Path(name).suffix == ".bin" else None
        model, tokenizer, facts = open_model(
            name, device, arguments.revision, arguments.trust_remote_code, tokenizer_file
        )
        facts["model"] = name_apart(name, names) or facts["model"]
        logger.info("model: %s, %s parameters", facts["model"], f"{facts['parameters']:,}")
        for note in facts["notes"]:
            logger.warning("%s: %s", facts["model"], note)
        found = result(ModelEvaluation(model, tokenizer, stories, pairs, arguments, parts), facts)
        if endpoint is not None:
            samples = [Sample(**sample) for sample in found["samples"][found["preset"]]]
            found["judge"] = asdict(judge(samples, endpoint, Path(arguments.output_dir) / "judge.jsonl"))
        results.append(found)
    return results


def name_apart(name: str, names: list[str]) -> str | None:
    """With the folder above it, where two of the folders have one name."""
    path = Path(name)
    alike = [other for other in names if path.exists() and Path(other).resolve().name == path.resolve().name]
    return "/".join(path.resolve().parts[-2:]) if len(alike) > 1 else None


@dataclass
class ModelEvaluation:
    """One model, and all that measuring it takes."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    stories: Stories
    pairs: list[Pair]
    arguments: EvaluationArguments
    parts: ResultCache

    def __post_init__(self):
        self.mark = fingerprint(self.model, self.tokenizer)
        self.data = self.stories.facts

    def likelihood(self) -> dict[str, Any]:
        a = self.arguments

        def measure():
            found = likelihood(self.model, self.tokenizer, self.stories.held_out, a.stride, a.batch_size)
            return {name: as_json(value) for name, value in found.items()}

        return self.parts.get("likelihood", [self.mark, self.data, a.stride], measure)

    def minimal_pairs(self) -> dict[str, Any]:
        def measure():
            return {name: as_json(value) for name, value in score_pairs(self.model, self.tokenizer, self.pairs).items()}

        return self.parts.get("pairs", [self.mark, [pair.digest for pair in self.pairs]], measure)

    def samples(self, preset: str) -> list[Sample]:
        """Of the prompts that take up at most half of the context, as long as it allows."""
        a = self.arguments
        prompts = list(PROMPTS.values())[:: max(1, len(PROMPTS) // a.prompts)][: a.prompts]
        lengths = [len(ids) for ids in self.tokenizer(prompts)["input_ids"]]
        context = context_length(self.model)
        prompts = [prompt for prompt, length in zip(prompts, lengths, strict=True) if length <= context // 2]
        if not prompts:
            raise UserError(f"no prompt fits into half of the model's context of {context} tokens")
        if len(prompts) < len(lengths):
            logger.warning("%d of %d beginnings fit into half of the context", len(prompts), len(lengths))
        room = min(a.max_new_tokens, context - max(length for length in lengths if length <= context // 2))

        def measure():
            written = write_samples(self.model, self.tokenizer, prompts, preset, a.seeds, room, a.batch_size)
            return [asdict(sample) for sample in written]

        settings = [self.mark, prompts, preset, list(a.seeds), room, a.batch_size, str(self.model.device)]
        return [Sample(**sample) for sample in self.parts.get(f"samples-{preset}", settings, measure)]

    def untrained(self) -> "ModelEvaluation":
        """The same network with fresh weights, on fewer stories; it writes as many, which some metrics depend on."""
        with keep_random_state(self.model.device):
            torch.manual_seed(0)
            fresh = type(self.model)(copy.deepcopy(self.model.config)).to(self.model.device).eval()
        few = replace(self.stories, held_out=pick_stories(self.stories.held_out, FLOOR_STORIES))
        return ModelEvaluation(fresh, self.tokenizer, few, self.pairs, self.arguments, self.parts)


def result(measuring: ModelEvaluation, facts: dict[str, Any]) -> dict[str, Any]:
    """{"model", "data", "settings", "metrics", "pairs", "presets", "table", "samples"}; each number with its interval.

    metrics: {name: Estimate} of the first preset; presets: {preset: {"metrics", "human", "nonsense"}}.
    """
    a, fresh = measuring.arguments, measuring.untrained()
    read, known = measuring.likelihood(), measuring.minimal_pairs()
    samples = {preset: measuring.samples(preset) for preset in a.presets}
    floor = fresh.likelihood() | {f"pair_{rule}": value for rule, value in fresh.minimal_pairs().items()}
    texts = measure_groups(measuring, samples | {"untrained": fresh.samples(a.presets[0])})
    first = texts[a.presets[0]]
    copies = [copy for group in texts.values() for copy in group.pop("copies")]
    metrics = read | {f"pair_{rule}": value for rule, value in known.items()} | first["metrics"]
    floors = [floor | texts["untrained"]["metrics"], first["nonsense"]]
    found = {
        "model": facts,
        "fingerprint": measuring.mark,
        "data": measuring.data,
        "settings": asdict(a) | {"prompts": len({sample.prompt for sample in samples[a.presets[0]]})},
        "versions": {library: version(library) for library in LIBRARIES},
        "preset": a.presets[0],
        "metrics": {metric.name: metrics[metric.name] for metric in all_metrics() if metrics.get(metric.name)},
        "floors": {"untrained": floors[0], "nonsense": floors[1]},
        "likelihood": read,
        "presets": {preset: texts[preset] for preset in a.presets},
        "copies": copies,
        "table": rows(all_metrics(), metrics, floors, first["human"] | all_right(known)),
        "samples": {preset: [asdict(sample) for sample in written] for preset, written in samples.items()},
    }
    return found


def all_metrics() -> list[Metric | TextMetric]:
    """In the order of the table."""
    pairs = [
        Metric(
            f"pair_{rule}",
            "minimal pairs, mean of the rules" if rule == MEAN_OF_RULES else f"minimal pairs: {rule.replace('_', ' ')}",
            "share right",
            "higher",
            "a piece of a held-out story is likelier than the same piece with one mistake",
        )
        for rule in (MEAN_OF_RULES, *RULES)
    ]
    return [*LIKELIHOOD, *pairs, *METRICS]


def all_right(rules: Iterable[str]) -> Values:
    """The ceiling of the minimal pairs."""
    return {f"pair_{rule}": ALL_RIGHT for rule in rules}


def text_metrics() -> list[TextMetric]:
    """Those that can be measured here; what is left out is said."""
    if find_spec("harper") is not None:
        return list(METRICS)
    logger.warning('GRAMMAR NOT MEASURED: harper is not installed (python -m pip install -e ".[eval]")')
    return [metric for metric in METRICS if metric.name not in ("grammar_errors", "clean_sentences")]


def measure_groups(measuring: ModelEvaluation, written: dict[str, list[Sample]]) -> dict[str, dict[str, Any]]:
    """Of each group of samples its metrics, those of people at the same lengths, those of the nonsense, and copies."""
    human, training = measuring.stories.held_out["text"], measuring.stories.training
    texts = {name: [asdict(sample) for sample in group] for name, group in written.items()}
    compared = {name: human_samples(group, human) for name, group in written.items()}

    metrics = text_metrics()

    def measure():
        people = [sample for name in written for sample in _with_nonsense(compared[name], training)]
        looked_up = texts_to_look_up([*(sample for group in written.values() for sample in group), *people])
        copied = None if training is None else look_up(looked_up, _texts(training))
        return {
            name: _columns(metrics, group, compared[name], human, training, copied) for name, group in written.items()
        }

    key = None if training is None else data_facts("", _texts(training))
    names = [metric.name for metric in metrics]
    return measuring.parts.get("texts", [names, texts, measuring.data, key], measure)


def _columns(metrics, samples: list[Sample], people: list[Sample], human, training, copied) -> dict[str, Any]:
    """nonsense: of each metric the one that it must expose."""
    copies = [(sample, copied[sample.text]) for sample in samples] if copied is not None else []
    both, nonsense = measure_texts(samples, human, copied, metrics), _nonsense(people, training)
    return {
        "copies": [
            {"prompt": sample.prompt, "text": sample.text, "share": copy.overlap, "training_story": copy.story_text}
            for sample, copy in copies
            if copy.overlap >= NEAR_COPY
        ],
        "metrics": {name: as_json(columns["value"]) for name, columns in both.items()},
        "human": {name: as_json(columns["human"]) for name, columns in both.items()},
        "nonsense": {
            metric.name: as_json(metric.measure(nonsense[metric.floor], copied))
            for metric in metrics
            if metric.name in both and metric.floor in nonsense
        },
    }


def _nonsense(people: list[Sample], training: datasets.Dataset | None) -> dict[str, list[Sample]]:
    kinds = {"shuffled": shuffled(people), "looped": looped(people), "spliced": spliced(people)}
    if training is not None:
        kinds["copied"] = human_samples(people, pick_stories(training, len(people))["text"])
    return kinds


def _with_nonsense(people: list[Sample], training: datasets.Dataset | None) -> Iterator[Sample]:
    yield from people
    for group in _nonsense(people, training).values():
        yield from group


def _texts(stories: datasets.Dataset) -> Iterator[str]:
    for batch in stories.iter(1000):
        yield from batch["text"]


def as_json(value: Any) -> Any:
    return value.as_dict() if isinstance(value, Estimate) else value
