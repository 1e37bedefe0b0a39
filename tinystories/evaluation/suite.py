"""Everything that run_evaluation.py measures, and the floors and ceilings beside it.

For every model: how well it predicts held-out stories (likelihood.py), whether it prefers the right text of minimal
pairs (minimal_pairs/), and what its own stories are like (text/metrics.py) with each preset. The same is measured for
the network with fresh weights; the text metrics also for people's stories and for nonsense made from them.
"""

import copy
import logging
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tinystories.checkpoint.foreign import open_model
from tinystories.config.names import check_found
from tinystories.data.corpus import pick_stories, story_hashes
from tinystories.data.held_out import find_held_out
from tinystories.errors import UserError
from tinystories.evaluation.arguments import EvaluationArguments
from tinystories.evaluation.cache import ResultCache, fingerprint
from tinystories.evaluation.estimates import as_json
from tinystories.evaluation.judge.judge import endpoint_from_environment, judge
from tinystories.evaluation.leaderboard import data_facts
from tinystories.evaluation.likelihood import likelihood
from tinystories.evaluation.minimal_pairs.pairs import Pair, build_pairs, score_pairs
from tinystories.evaluation.overall import ENDS, OVERALL, overall
from tinystories.evaluation.registry import all_metrics, all_right
from tinystories.evaluation.scoring import context_length
from tinystories.evaluation.table import Values, rows
from tinystories.evaluation.text.comparison import GroupResult, measure_groups, texts_of
from tinystories.evaluation.text.critic import Critic
from tinystories.evaluation.text.generation import write_samples
from tinystories.evaluation.text.metrics import TextMetric, available_metrics
from tinystories.evaluation.text.prompts import PROMPTS
from tinystories.evaluation.text.samples import Sample
from tinystories.random_state import keep_random_state
from tinystories.run_files import LIBRARIES, Run, without_local_paths


logger = logging.getLogger(__name__)

FLOOR_STORIES = 20  # enough to measure the loss of a fresh network
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
    found = find_held_out(run, arguments.data, arguments.train_file, arguments)
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
    """The `result` of each checkpoint; what an earlier, interrupted evaluation has measured is not measured again.

    Raises:
        UserError: a checkpoint, the stories or output_dir cannot be used, or the judge refuses.
    """
    arguments = arguments.with_quick_limits()
    for name in names:
        check_found(name, arguments.revision)
    device = arguments.device or torch.accelerator.current_accelerator(check_available=True) or "cpu"
    endpoint = None
    if arguments.judge_url and arguments.judge_model:
        endpoint = endpoint_from_environment(arguments.judge_url, arguments.judge_model)
    stories, cache = find_stories(arguments, names[0]), ResultCache(Path(arguments.output_dir) / "parts")
    logger.info("held out: %s stories, %s", f"{len(stories.held_out):,}", stories.source)
    if stories.facts["also_in_training"]:
        number = f"{stories.facts['also_in_training']:,} of {stories.facts['stories']:,}"
        logger.warning("NOT HELD OUT: %s stories are in the training data too: the scores are too good", number)
    pairs, critic = build_pairs(stories.for_pairs, arguments.pairs), open_critic(arguments.critic, device)
    metrics, results = available_metrics(critic), []
    for name in names:
        tokenizer_file = arguments.tokenizer if Path(name).suffix == ".bin" else None
        model, tokenizer, facts = open_model(
            name, device, arguments.revision, arguments.trust_remote_code, tokenizer_file
        )
        facts["model"] = distinct_name(name, names) or facts["model"]
        logger.info("model: %s, %s parameters", facts["model"], f"{facts['parameters']:,}")
        for note in facts["notes"]:
            logger.warning("%s: %s", facts["model"], note)
        evaluation = ModelEvaluation(model, tokenizer, stories, pairs, arguments, cache, metrics, critic)
        if critic is not None and critic.facts["fingerprint"] == evaluation.fingerprint:
            logger.warning("%s is its own critic, which flatters it: name another model", facts["model"])
        found = result(evaluation, facts)
        if endpoint is not None:
            samples = [Sample(**sample) for sample in found["samples"][found["preset"]]]
            found["judge"] = asdict(judge(samples, endpoint, Path(arguments.output_dir) / "judge.jsonl"))
        results.append(found)
    return results


def open_critic(name: str | None, device: str | torch.device) -> Critic | None:
    """The model that reads texts; None without a name.

    Raises:
        UserError: it cannot be opened, or its tokenizer does not say where its tokens are in a text.
    """
    if name is None:
        return None
    model, tokenizer, facts = open_model(name, device)
    if not tokenizer.is_fast:
        raise UserError(f"the critic {name} has a tokenizer that does not say where its tokens are", "name another")
    named = {key: facts[key] for key in ("model", "parameters")}
    return Critic(model, tokenizer, named | {"fingerprint": fingerprint(model, tokenizer)})


def distinct_name(name: str, names: list[str]) -> str | None:
    """The folder `name` with its parent, if another folder of `names` has the same name; else None."""
    path = Path(name)
    alike = [other for other in names if path.exists() and Path(other).resolve().name == path.resolve().name]
    return "/".join(path.resolve().parts[-2:]) if len(alike) > 1 else None


@dataclass
class ModelEvaluation:
    """One model with everything that is needed to measure it. Each method measures one part, or finds it in `cache`."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    stories: Stories
    pairs: list[Pair]
    arguments: EvaluationArguments
    cache: ResultCache
    metrics: list[TextMetric]
    critic: Critic | None = None

    def __post_init__(self) -> None:
        self.fingerprint = fingerprint(self.model, self.tokenizer)
        self.data = self.stories.facts

    def likelihood(self) -> dict[str, Any]:
        """What `likelihood` returns, as JSON."""
        a = self.arguments

        def measure() -> dict[str, Any]:
            found = likelihood(self.model, self.tokenizer, self.stories.held_out, a.stride, a.batch_size)
            return {name: as_json(value) for name, value in found.items()}

        return self.cache.get("likelihood", [self.fingerprint, self.data, a.stride], measure)

    def minimal_pairs(self) -> Values:
        """By rule: `score_pairs` as JSON."""

        def measure() -> Values:
            return {rule: as_json(value) for rule, value in score_pairs(self.model, self.tokenizer, self.pairs).items()}

        return self.cache.get("pairs", [self.fingerprint, [pair.digest for pair in self.pairs]], measure)

    def samples(self, preset: str) -> list[Sample]:
        """Stories from the prompts that fill at most half of the context, as long as the context allows.

        Raises:
            UserError: no prompt is that short.
        """
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

        def measure() -> list[dict[str, Any]]:
            written = write_samples(self.model, self.tokenizer, prompts, preset, a.seeds, room, a.batch_size)
            return [asdict(sample) for sample in written]

        settings = [self.fingerprint, prompts, preset, list(a.seeds), room, a.batch_size, str(self.model.device)]
        return [Sample(**sample) for sample in self.cache.get(f"samples-{preset}", settings, measure)]

    def text_metrics(self, groups: dict[str, list[Sample]]) -> dict[str, GroupResult]:
        """`measure_groups` with the stories of this evaluation."""
        held_out, training, metrics = self.stories.held_out["text"], self.stories.training, self.metrics

        def measure() -> dict[str, GroupResult]:
            return measure_groups(groups, held_out, training, metrics, self.critic)

        names, texts = [metric.name for metric in metrics], {name: _as_dicts(group) for name, group in groups.items()}
        compared_with = None if training is None else data_facts("", texts_of(training))
        critic = self.critic and self.critic.facts["fingerprint"]
        return self.cache.get("texts", [names, texts, self.data, compared_with, critic], measure)

    def untrained(self) -> "ModelEvaluation":
        """The same network with fresh weights, on fewer held-out stories.

        It writes as many stories as the model, since some metrics depend on their number.
        """
        with keep_random_state(self.model.device):
            torch.manual_seed(0)
            fresh = type(self.model)(copy.deepcopy(self.model.config))
            fresh.to(self.model.device).eval()  # type: ignore[arg-type]  # transformers wraps `to` without its types
        few = replace(self.stories, held_out=pick_stories(self.stories.held_out, FLOOR_STORIES))
        return replace(self, model=fresh, stories=few)


def result(evaluation: ModelEvaluation, facts: dict[str, Any]) -> dict[str, Any]:
    """{"model", "data", "settings", "metrics", "presets", "table", "samples", ...}; each number with its interval.

    metrics: {name: Estimate} with the first preset. presets: {preset: {"metrics", "human", "nonsense"}}. facts: what
    `open_model` says about the model.
    """
    a, fresh = evaluation.arguments, evaluation.untrained()
    read, known = evaluation.likelihood(), evaluation.minimal_pairs()
    samples = {preset: evaluation.samples(preset) for preset in a.presets}
    untrained = fresh.likelihood() | _named(fresh.minimal_pairs())
    texts = evaluation.text_metrics(samples | {"untrained": fresh.samples(a.presets[0])})
    first = texts[a.presets[0]]
    metrics = read | _named(known) | first["metrics"]
    floors = {"untrained": untrained | texts["untrained"]["metrics"], "nonsense": first["nonsense"]}
    people = first["human"] | all_right(known)
    if (number := overall(metrics, list(floors.values()), people)) is not None:
        metrics[OVERALL.name] = number.as_dict()
        floors["untrained"][OVERALL.name], people[OVERALL.name] = ENDS["floor"], ENDS["people"]
    return {
        "model": facts,
        "fingerprint": evaluation.fingerprint,
        "data": evaluation.data,
        "settings": published_settings(a) | {"prompts": len({sample.prompt for sample in samples[a.presets[0]]})},
        "versions": {library: version(library) for library in LIBRARIES},
        "critic": evaluation.critic and evaluation.critic.facts,
        "preset": a.presets[0],
        "metrics": {metric.name: metrics[metric.name] for metric in all_metrics() if metrics.get(metric.name)},
        "floors": floors,
        "likelihood": read,
        "presets": {
            preset: {name: value for name, value in texts[preset].items() if name != "copies"} for preset in a.presets
        },
        "copies": [near_copy for group in texts.values() for near_copy in group["copies"]],
        "table": rows(all_metrics(), metrics, list(floors.values()), people),
        "samples": {preset: _as_dicts(written) for preset, written in samples.items()},
    }


def published_settings(arguments: EvaluationArguments) -> dict[str, Any]:
    """The arguments without folders and addresses of this machine, since evaluation.json is published."""
    settings: dict[str, Any] = without_local_paths(asdict(arguments))
    return {name: value for name, value in settings.items() if name != "judge_url"}


def _named(rules: Values) -> Values:
    """Scores by rule -> by the name of the metric."""
    return {f"pair_{rule}": value for rule, value in rules.items()}


def _as_dicts(samples: list[Sample]) -> list[dict[str, Any]]:
    return [asdict(sample) for sample in samples]
