"""The invariants of a finished run, checked on a checkpoint: the guards of training/guards that need no Trainer.

The first one that does not hold gives the verdict. What cannot be checked, such as the records of a model that no run
of this project made, is named with its reason.
"""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from huggingface_hub import snapshot_download
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from configuration_tinystories import TinyStoriesConfig
from modeling_tinystories import TinyStoriesForCausalLM
from tinystories.checkpoint.stock import stock_twin
from tinystories.errors import GuardError
from tinystories.evaluation.scoring import context_length, nll_of_rows, scoring_rows, story_sums
from tinystories.evaluation.second_path import NotKnownError, SecondPath, StoryTokens, read_weights
from tinystories.provenance import Stopwatch
from tinystories.run_files import CARD, NEEDED, PROVENANCE, Run
from tinystories.training.guards.causality import check_causality
from tinystories.training.guards.finished import EXACT, check_card
from tinystories.training.guards.graphemes import check_graphemes
from tinystories.training.guards.numbers import FLOAT32_TOLERANCE, check_likelihoods
from tinystories.training.guards.paths import check_paths
from tinystories.training.guards.probe import Probe, differing_places, make_probe
from tinystories.training.guards.records import (
    check_best,
    check_derived,
    check_evaluation_files,
    check_speed,
    check_tokens_seen,
    check_training_flops,
)
from tinystories.training.guards.samples import Sample
from tinystories.training.guards.settings import check_code, check_sampling, check_specials, check_story_ends
from tinystories.training.guards.weights import check_kept, check_learned, check_whole


SCORED_STORIES = 48
SIGMAS = 5  # between a score on some stories and the recorded one on all of them


@dataclass
class Invariants:
    """held: what each check found. broken: verdict, reason and remedy of the first that failed. not_checked: why."""

    held: dict[str, str] = field(default_factory=dict)
    broken: dict[str, str | None] | None = None
    not_checked: dict[str, str] = field(default_factory=dict)


@dataclass
class Opened:
    """A checkpoint with what the checks need. texts: held-out stories; own: known to be those of its run."""

    folder: Path
    run: Run
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    texts: list[str]
    own: bool


REMEDIES = {
    "broken weights": "go back to an earlier checkpoint, or train again",
    "wrong weights": "copy the weights of the checkpoint that the records name, or train again",
    "wrong code": None,
    "broken network": "use this project's own modeling_tinystories.py; weights trained by another mean little",
    "wrong tokenizer": None,
    "wrong settings": "restore the file from a checkpoint of the run",
    "wrong numbers": "score it again with run_evaluation.py, and trust no recorded number",
    "wrong best": "use the better checkpoint",
    "broken generation": "open it with this project's own code and an unchanged installation of transformers",
}


def check_invariants(opened: Opened) -> Invariants:
    """All checks in order, up to the first that fails."""
    found = Invariants()
    for name, (kind, check) in _checks(opened, found).items():
        try:
            found.held[name] = check()
        except GuardError as error:
            found.broken = {"verdict": kind, "reason": error.message, "remedy": error.remedy or REMEDIES[kind]}
            return found
        except (OSError, ValueError, KeyError) as error:  # a file of another kind than a run of this project writes
            found.not_checked[name] = str(error) or type(error).__name__
    return found


def local_folder(checkpoint: str, revision: str | None) -> Path | None:
    """The folder of a checkpoint; that of a Hub id in the cache, with the files that a run of this project writes."""
    if Path(checkpoint).is_dir():
        return Path(checkpoint)
    try:
        patterns = [*NEEDED, "generation_config_*.json"]
        return Path(snapshot_download(checkpoint, revision=revision, allow_patterns=patterns))
    except Exception:  # the HTTP library has many
        return None


Check = tuple[str, Callable[[], str]]


def _checks(opened: Opened, found: Invariants) -> dict[str, Check]:
    weights = read_weights(opened.folder)
    if not weights:
        found.not_checked["weights, code and settings"] = "it has no safetensors files"
        return {}
    checks = dict(_of_files(opened, weights))
    if not isinstance(opened.model.config, TinyStoriesConfig):
        found.not_checked["code"] = f"a {opened.model.config.model_type} model has none of its own"
        for name in ("code", "weights"):
            checks.pop(name, None)
    if opened.run.recipe is None or opened.run.state is None:
        found.not_checked["best checkpoint, recorded numbers, moved weights"] = "it has no records of a run"
    else:
        checks |= _of_records(opened, weights)
    try:
        network = SecondPath(_config(opened.folder), weights)
    except NotKnownError as error:
        found.not_checked["likelihoods and generation by a second computation"] = str(error)
        return checks
    return checks | _of_network(opened, network) | dict(_of_model(opened))


def _of_files(opened: Opened, weights: dict[str, np.ndarray]) -> Iterator[tuple[str, Check]]:
    folder = opened.folder
    tokens = StoryTokens(folder)
    stored = str(_config(folder).get("dtype") or "float32")  # another one where they were converted since
    yield "weights", ("broken weights", lambda: check_whole(folder, weights, stored))
    yield "code", ("wrong code", lambda: _check_code(folder))
    yield "special tokens", ("wrong settings", lambda: check_specials(folder, tokens))
    yield "sampling", ("wrong settings", lambda: check_sampling(folder))
    stories = datasets.Dataset.from_dict({"text": opened.texts})
    yield "graphemes", ("wrong tokenizer", lambda: check_graphemes(opened.tokenizer, [stories], Sample()))


def _config(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config


def _check_code(folder: str | Path) -> str:
    """`check_code`, unless another version is known to have written the checkpoint. Its code is not run here."""
    path = Path(folder, PROVENANCE)
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    here, there = Stopwatch().code[0], json.loads(lines[-1]).get("commit") if lines else None
    if not lines or (here and there and here != there):
        return "not compared: not known to be written by this version of the project"
    return check_code(folder)


def _of_records(opened: Opened, weights: dict[str, np.ndarray]) -> dict[str, Check]:
    run, config = opened.run, opened.model.config.to_dict()
    checks: dict[str, Check] = {
        "best checkpoint": ("wrong best", lambda: check_best(run)),
        "weights kept": ("wrong weights", lambda: check_kept(run, weights)),
        "moved weights": ("wrong weights", lambda: check_learned(opened.folder, run, weights)),
        "derived numbers": ("wrong numbers", lambda: check_derived(run)),
        "record of evaluations": ("wrong numbers", lambda: check_evaluation_files(run)),
        "tokens seen": ("wrong numbers", lambda: check_tokens_seen(run, config)),
        "training FLOPs": ("wrong numbers", lambda: check_training_flops(run, config)),
        "speed": ("wrong numbers", lambda: check_speed(run)),
    }
    final = {key.removeprefix("eval_"): value for key, value in (run.results or {}).items()}
    if {"perplexity", "bits_per_byte"} <= final.keys() and (opened.folder / CARD).exists():
        checks["card"] = ("wrong numbers", lambda: check_card(opened.folder, final))
    return checks


def _of_network(opened: Opened, network: SecondPath) -> dict[str, Check]:
    tokens = StoryTokens(opened.folder)
    prompt = opened.texts[0][:12] if opened.texts else "One day"
    length = min(256, network.context)
    return {
        "likelihoods": ("wrong numbers", lambda: check_scores(opened, network)),
        "generation": (
            "broken generation",
            lambda: check_story_ends(opened.model, network, tokens, prompt, length),
        ),
    }


def _of_model(opened: Opened) -> Iterator[tuple[str, Check]]:
    """The guards of the network, on one full row of held-out text."""
    model, context = opened.model, context_length(opened.model)
    if not isinstance(model, TinyStoriesForCausalLM):
        return
    ids = np.concatenate([StoryTokens(opened.folder).encode(text) for text in opened.texts])
    row = np.resize(ids, context)  # a short text is repeated
    probe = make_probe(model, datasets.Dataset.from_dict({"input_ids": [row]}))
    yield "reference", ("broken network", lambda: check_logits(probe))
    yield "causality", ("broken network", lambda: check_causality(probe))
    yield "ways to read", ("broken network", lambda: check_paths(probe))


@torch.no_grad()
def check_logits(probe: Probe) -> str:
    """The logits of a full row are those of transformers' own network with the same weights, in float64."""
    twin = stock_twin(probe.network)
    expected = twin(input_ids=probe.rows[:1], use_cache=False).logits[0]
    places = differing_places(probe.logits[0], expected)
    if len(places):
        raise GuardError(
            f"at token {int(places[0])} of {probe.length} the model has other logits than {type(twin).__name__} of "
            "transformers with the same weights"
        )
    return f"{probe.length} tokens as by {type(twin).__name__}"


def check_scores(opened: Opened, network: SecondPath) -> str:
    """A second computation gives the model's likelihoods; the recorded final score is what these weights have."""
    chosen = np.random.default_rng().permutation(len(opened.texts))[:SCORED_STORIES]
    stories = datasets.Dataset.from_dict({"text": [opened.texts[i] for i in chosen]})
    rows = scoring_rows(stories, opened.tokenizer, context_length(opened.model))
    nll = nll_of_rows(opened.model, rows.rows, opened.tokenizer.pad_token_id)
    tolerance = EXACT if opened.model.device.type == "cpu" else FLOAT32_TOLERANCE
    found = check_likelihoods(network, rows.rows, nll, tolerance, "these stories")
    recorded = (opened.run.results or {}).get("eval_bits_per_byte")
    if recorded is None or not opened.own:
        return found
    sums, bits = story_sums(nll, rows), math.log(2) * rows.story_bytes
    measured = float(sums.nats.sum() / bits.sum())
    sigma = math.sqrt(float(((sums.nats - measured * bits) ** 2).sum())) / float(bits.sum())
    everything = len(opened.texts) == (opened.run.results or {}).get("eval_stories") == len(chosen)
    allowed = 1e-4 if everything else SIGMAS * sigma + 0.01 * measured
    if abs(measured - recorded) > allowed:
        raise GuardError(
            f"the recorded final score is {recorded:.4f} bits per byte, and these weights have {measured:.4f} on "
            f"{len(chosen)} of its stories (at most {allowed:.4f} apart by chance)"
        )
    return f"{found}; recorded {recorded:.4f} bits per byte, {measured:.4f} on {len(chosen)} stories"


def in_words(found: Invariants) -> str:
    """What was checked and what was not, for the verdict."""
    words = ["loss", "samples", *found.held]
    return f"checked {', '.join(words)}" + "".join(
        f"; not checked: {name} ({reason})" for name, reason in found.not_checked.items()
    )
