"""Numbers measured on a sample, with 95 % intervals. No metric is printed without its interval."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike


RESAMPLES = 1000
Z = 1.959964  # 95 %


@dataclass(frozen=True)
class Estimate:
    """`value` with its 95 % interval [low, high]; `number`: how many stories, pairs or nouns were measured."""

    value: float
    low: float
    high: float
    number: int

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def as_json(value: Any) -> Any:
    """An `Estimate` as a dict; any other value as it is."""
    return value.as_dict() if isinstance(value, Estimate) else value


def share(successes: int, number: int) -> Estimate | None:
    """A share of independent yes-or-no answers, with Wilson's interval; None if `number` is 0."""
    if not number:
        return None
    p, z2 = successes / number, Z * Z / number
    middle = (p + z2 / 2) / (1 + z2)
    half = Z * math.sqrt(p * (1 - p) / number + z2 / (4 * number)) / (1 + z2)
    return Estimate(p, max(0.0, min(p, middle - half)), min(1.0, max(p, middle + half)), number)


def ratio(numerators: ArrayLike, denominators: ArrayLike, seed: int = 0, one: float = 1.0) -> Estimate | None:
    """The sum of `numerators` over the sum of `denominators`, one of each a story; the bootstrap resamples stories.

    Such as nats over bytes, or errors over words. None if the denominators are all zero. `number` counts the stories
    whose denominator is not zero. If all numerators are zero there is nothing to resample: up to three events may have
    been missed (the rule of three), each of size `one`.
    """
    above, below = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    if not below.sum():
        return None
    above, below = above[below > 0], below[below > 0]
    if not above.any():
        return Estimate(0.0, 0.0, min(one, 3 * one / below.sum()), len(below))
    return bootstrap(lambda chosen: above[chosen].sum() / below[chosen].sum(), len(below), seed)


def bootstrap(statistic: Callable[[np.ndarray], float], number: int, seed: int = 0) -> Estimate:
    """`statistic(indices)` of all `number` stories, with its 2.5 % and 97.5 % percentiles over resampled stories."""
    random = np.random.default_rng(seed)
    values = [statistic(random.integers(number, size=number)) for _ in range(RESAMPLES)]
    low, high = np.percentile(values, [2.5, 97.5])
    return Estimate(float(statistic(np.arange(number))), float(low), float(high), number)


def mean(values: Sequence[float], seed: int = 0) -> Estimate | None:
    """The mean over stories; None without values."""
    return ratio(values, np.ones(len(values)), seed)


def jackknife(value: float, without: Sequence[float]) -> Estimate:
    """A share that resampling would bias by drawing a story twice, such as that of different words; normal interval.

    without: for each story, the statistic of all other stories.
    """
    number, left_out = len(without), np.asarray(without, dtype=np.float64)
    half = Z * math.sqrt((number - 1) / number * float(((left_out - left_out.mean()) ** 2).sum()))
    return Estimate(value, max(0.0, value - half), min(1.0, value + half), number)
