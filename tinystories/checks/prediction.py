"""Predict the score of a run before it is trained, from a scaling law of small runs, with an interval.

    python check_run.py configs/NAME.yaml --predict

benchmarks/scaling.py trains the small runs and fits the law; what predicting needs of it is in scaling_law.json,
beside this module. Bits per byte of held-out stories are predicted as

    E + A / N^a + B / D^b + (M N / U repeats)^m        D = U (1 + R (1 - exp(-repeats / R)))

N: weights of the matrices, in millions, with the output layer and without the embedding, which is a lookup. U: the
distinct text in units of 10 MB: bytes and not tokens, so that vocabularies compare. repeats: epochs - 1; within the
first epoch 0, and D is the text seen so far. Repeats are worth less and less (Muennighoff et al., 2023). The last term
is what memorizing costs: it grows with repeats, and with the weights that there are for each byte.

The interval holds the score of a new run with a probability of COVERAGE. It adds up how uncertain the law is (the
spread of its bootstrap draws), how far the runs of the fit are from it, and how much seeds differ. Outside the range of
these runs it widens, and the prediction says so. A recipe that the fit knows nothing about gets none.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from torch import nn
from transformers import PreTrainedModel

from tinystories.config.recipe import Recipe
from tinystories.data.language import distance, profile
from tinystories.errors import UserError, one_line


FIT = Path(__file__).parent / "scaling_law.json"
COVERAGE = 0.9
LAW = ("E", "A", "a", "B", "b", "R", "M", "m")  # all positive; the order of the parameters in an array
MILLION, TEN_MB = 1e6, 1e7
WIDTH = 64  # learning rates are compared at this width, where the best ones go with 1 / sqrt(width)
ROUNDED = 1.03  # recipes write their rates with two digits
MOST_DOUBLINGS = 6.0  # further outside the range of the fit, all quantities together, there is no prediction
DECISIVE = ("optimizer", "lr_scheduler_type")  # keys of the family without which there is no prediction
TRIGRAMS = 1000  # the commonest ones are what texts are compared by
ANOTHER_KIND = 0.25  # another language, or English that is no story, is further away than this
COMPARED_STORIES = 500


class NoPredictionError(UserError):
    """The fit says nothing about this recipe."""


@dataclass(frozen=True)
class Plan:
    """What the law and its range read of a recipe.

    parameters: weights of all matrices, without the embedding. unique_bytes: of the training text. The two learning
    rates: as they would be at the width `WIDTH`.
    """

    parameters: float
    unique_bytes: float
    epochs: float
    vocabulary: float
    tokens_per_step: float
    block_size: float
    learning_rate: float
    muon_learning_rate: float

    @property
    def bytes_seen(self) -> float:
        """Of text, in all epochs."""
        return self.unique_bytes * self.epochs


QUANTITIES = (*(item.name for item in fields(Plan)), "bytes_seen")  # each has a range


@dataclass(frozen=True)
class Fit:
    """The law, and what an interval needs.

    law: shape (8,), in the order of LAW. draws: the same for each bootstrap draw, shape (draws, 8). residual, seeds:
    standard deviations of the logarithm of a score, of recipes around the law and of seeds around a recipe. freedom:
    recipes less parameters. range: lowest and highest value of each of QUANTITIES. family: keys that all runs
    had. profile: shares of trigrams in their text, by place.
    """

    law: np.ndarray
    draws: np.ndarray
    residual: float
    seeds: float
    freedom: int
    range: dict[str, list[float]]
    family: dict[str, Any]
    profile: dict[int, float]


@dataclass(frozen=True)
class Prediction:
    """Bits per byte of held-out stories; with a probability of COVERAGE they lie between `low` and `high`.

    outside: what is outside the range of the fit and widened the interval, in words.
    """

    bits_per_byte: float
    low: float
    high: float
    outside: list[str]

    def __str__(self) -> str:
        found = f"{self.bits_per_byte:.3f} bits per byte, {COVERAGE:.0%} interval {self.low:.3f} to {self.high:.3f}"
        return found + (f", wider because of {'; '.join(self.outside)}" if self.outside else "")


def read_fit(path: Path = FIT) -> Fit:
    """The fit that benchmarks/scaling.py wrote.

    Raises:
        UserError: the file is missing or is not such a fit.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        arrays = {name: np.array(values[name], dtype=float) for name in ("law", "draws")}
        places = {int(place): float(share) for place, share in values["profile"].items()}
        return Fit(**{item.name: values[item.name] for item in fields(Fit)} | arrays | {"profile": places})
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is no fit of benchmarks/scaling.py: {one_line(error)}") from error


def bits_per_byte(law: np.ndarray, parameters: Any, unique_bytes: Any, epochs: Any) -> np.ndarray:
    """The law of the module's docstring. law: shape (..., 8); the others: numbers, or of shape (recipes,).

    Returns shape (..., recipes), or (...,) for numbers.
    """
    law = law if np.ndim(parameters) == 0 else law[..., None, :]
    E, A, a, B, b, R, M, m = np.moveaxis(law, -1, 0)
    n, u = np.asarray(parameters) / MILLION, np.asarray(unique_bytes) / TEN_MB
    repeats = np.maximum(np.subtract(epochs, 1.0), 0)
    seen = u * (np.minimum(epochs, 1.0) + R * -np.expm1(-repeats / R))
    return E + A / n**a + B / seen**b + (M * n / u * repeats) ** m


def predict(plan: Plan, fit: Fit, differences: Sequence[str] = ()) -> Prediction:
    """The score of a run. differences: what else sets the recipe apart from those of the fit, in words.

    Raises:
        NoPredictionError: the recipe is too far from those of the fit.
    """
    size = (plan.parameters, plan.unique_bytes, plan.epochs)
    doublings, outside = outside_range(plan, fit)
    doublings += len(differences)
    if doublings > MOST_DOUBLINGS:
        raise NoPredictionError(f"too far from the runs of the fit: {'; '.join([*outside, *differences])}")
    expected = float(bits_per_byte(fit.law, *size))
    law = float(np.log(bits_per_byte(fit.draws, *size) / expected).std())
    spread = math.hypot(law, fit.residual * (1 + doublings), fit.seeds)
    width = student(COVERAGE, fit.freedom) * spread
    return Prediction(expected, expected * math.exp(-width), expected * math.exp(width), [*outside, *differences])


def outside_range(plan: Plan, fit: Fit) -> tuple[float, list[str]]:
    """How many doublings the quantities of a plan are outside the range of the fit, together, and each in words."""
    total, words = 0.0, []
    for name, (low, high) in fit.range.items():
        value = getattr(plan, name)
        if low / ROUNDED <= value <= high * ROUNDED:
            continue
        total += math.log2(low / value if value < low else value / high)
        known = short(low) if low == high else f"{short(low)} to {short(high)}"
        words.append(f"{name.replace('_', ' ')} {short(value)} (fit: {known})")
    return total, words


def short(value: float) -> str:
    """5_850_000 -> '5.85M'."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= size:
            return f"{value / (1000 if letter == 'k' else size):.3g}{letter}"
    return f"{value:.4g}"


def student(coverage: float, freedom: int) -> float:
    """Student's t that a share `coverage` of all values is within, as a series in 1 / freedom around the normal one."""
    z = NormalDist().inv_cdf((1 + coverage) / 2)
    terms = (z, (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384)
    return sum(term / freedom**power for power, term in enumerate(terms))


def family_differences(recipe: Recipe, fit: Fit) -> list[str]:
    """The keys in which the recipe differs from the family of the fit, in words.

    Raises:
        NoPredictionError: the difference is a decisive one, or the run does not begin with new weights.
    """
    given = {key: _value(recipe, key) for key in fit.family}
    for key in DECISIVE:
        if given[key] != fit.family[key]:
            raise NoPredictionError(f"the fit knows {key} {fit.family[key]}, and the recipe has {given[key]}")
    if recipe.model.model_name_or_path is not None:
        raise NoPredictionError("the fit knows training from new weights, and the recipe continues a checkpoint")
    if recipe.data.streaming:
        raise NoPredictionError("the fit needs the size of the training text, and a stream is not read before the run")
    return [f"{key} {given[key]} (fit: {known})" for key, known in fit.family.items() if given[key] != known]


def _value(recipe: Recipe, key: str) -> Any:
    """Of a recipe key; of the type that the recipe's classes give it."""
    owner = next(part for part in (recipe.training, recipe.model, recipe.data, recipe.tokenizer) if hasattr(part, key))
    value = getattr(owner, key)
    return getattr(value, "value", value)  # of an enumeration


def check_text(texts: list[str], fit: Fit) -> float:
    """How far the text is from that of the fit: 0 is the same, 1 nothing in common.

    Raises:
        NoPredictionError: another language, or another kind of text.
    """
    places = [*fit.profile]
    known, found = (with_rest(shares) for shares in (np.array([*fit.profile.values()]), profile(texts)[places]))
    apart = distance(known, found)
    if apart > ANOTHER_KIND:
        raise NoPredictionError(
            f"the text is not like that of the fit, TinyStories: their letter trigrams are {apart:.2f} apart, "
            f"more than {ANOTHER_KIND:g}"
        )
    return apart


def with_rest(shares: np.ndarray) -> np.ndarray:
    """Shares of the commonest trigrams, and that of all others."""
    return np.append(shares, 1 - shares.sum())


def commonest(texts: list[str]) -> dict[int, float]:
    """The `profile` of a `Fit`."""
    shares = profile(texts)
    return {int(place): round(float(shares[place]), 6) for place in np.argsort(-shares)[:TRIGRAMS]}


def plan(recipe: Recipe, model: PreTrainedModel, data: dict[str, Any], epochs: float) -> Plan:
    """What the law reads of a recipe.

    model: with the sizes of the recipe; its weights may be on the meta device. data: with the reports of the tokenizer
    and of packing, as in data_report.json.
    """
    training, packing = recipe.training, data["packing"]
    text_tokens = packing["tokens"] - 2 * packing["stories"]  # BOS and EOS are no text
    rows = training.train_batch_size * training.gradient_accumulation_steps * training.world_size
    to_width = (recipe.model.hidden_size / WIDTH) ** 0.5
    muon = training.learning_rate if training.muon_learning_rate is None else training.muon_learning_rate
    return Plan(
        parameters=sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.Linear)),
        unique_bytes=round(text_tokens * data["tokenizer"]["bytes_per_token"]),
        epochs=epochs,
        vocabulary=data["tokenizer"]["vocab_size"],
        tokens_per_step=rows * recipe.data.block_size,
        block_size=recipe.data.block_size,
        learning_rate=training.learning_rate * to_width,
        muon_learning_rate=muon * to_width,
    )


def predict_recipe(
    recipe: Recipe, model: PreTrainedModel, data: dict[str, Any], epochs: float, texts: list[str], fit: Fit
) -> Prediction:
    """The score that a recipe will reach. model, data: as for `plan`; texts: some of its training stories.

    Raises:
        NoPredictionError: the fit says nothing about this recipe, or about such text.
    """
    differences = family_differences(recipe, fit)
    check_text(texts, fit)
    return predict(plan(recipe, model, data, epochs), fit, differences)
