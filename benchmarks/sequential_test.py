"""Is a recipe better than another? A test that may stop after any pair of runs, with 5 % false answers at most.

Pair i gives a difference d_i: bits per byte of the record's run - bits per byte of the candidate's, each with a seed of
its own. Hypothesis: the candidate is not better, that is, each d_i is symmetric about 0 or about a number below 0.
If the two recipes are equally good by chance alone, their runs are exchangeable and d_i is exactly symmetric about 0,
whatever the distribution of scores is: it may have heavy tails and any variance.

One starts with 1 and bets on the sign of each difference, with a stake that its size and those before it decide:

    e_0 = 1,   e_i = e_(i-1) x (1 + b_i sign(d_i)),   b_i = min(0.9, |d_i| / root mean square of d_1 ... d_i)

Given the sizes, signs are fair coins under the hypothesis, so that e_i is a nonnegative supermartingale with mean of at
most 1. By Ville's inequality (1939) it ever reaches 20 with a probability of at most 1/20, however the moment to stop
is chosen. The candidate is a record as soon as e_i >= 20; 1 / max e_i is a p-value that is valid at any time. The
earliest possible record needs five pairs: five coins that fall alike have a probability of 1/32, four have 1/16.

Why this test and not a t test at fixed looks: with three to eight pairs the t test rests on the normal distribution,
which so few runs cannot show; an alpha-spending plan forbids one more pair when a machine is free. Such tests of
symmetry: V. Vovk and R. Wang, Nonparametric e-tests of symmetry, New England Journal of Statistics in Data Science
(2024); betting: G. Shafer, Testing by betting, JRSS A 184 (2021); exponential inequalities under symmetry: V. H. de la
Pena, Annals of Probability 27 (1999). What it gives up: a difference that is one standard deviation of a seed is found
in less than half of the contests.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass


LEVEL = 0.05  # largest probability that a candidate that is not better becomes a record
LARGEST_BET = 0.9  # below 1, so that one bad pair does not end the contest
MOST_PAIRS = 12  # more only cost time: a difference that needs them is small


@dataclass(frozen=True)
class Decision:
    """outcome: `record`; `no record`, where the pairs that are left cannot make it one; or `open`.

    pairs: those that were needed for it. e_value: after them. p_value: 1 / the largest e-value so far, 1 at most.
    """

    outcome: str
    pairs: int
    e_value: float
    p_value: float


def e_values(differences: Sequence[float]) -> list[float]:
    """After each pair. differences: positive where the candidate is better.

    Raises:
        ValueError: a difference that is not finite.
    """
    value, squares, values = 1.0, 0.0, []
    for number, difference in enumerate(differences, 1):
        if not math.isfinite(difference):
            raise ValueError(f"the difference of pair {number} is {difference}")
        squares += difference**2
        if difference:
            bet = min(LARGEST_BET, abs(difference) / math.sqrt(squares / number))
            value *= 1 + math.copysign(bet, difference)
        values.append(value)
    return values


def decide(differences: Sequence[float], most_pairs: int = MOST_PAIRS) -> Decision:
    """The outcome after these pairs, in their order; pairs after the one that decides it do not count."""
    largest = 1.0
    values = e_values(differences)
    for pairs, value in enumerate(values, 1):
        largest = max(largest, value)
        if value >= 1 / LEVEL:
            return Decision("record", pairs, value, 1 / largest)
        if pairs >= most_pairs or value * (1 + LARGEST_BET) ** (most_pairs - pairs) < 1 / LEVEL:
            return Decision("no record", pairs, value, 1 / largest)
    return Decision("open", len(values), values[-1] if values else 1.0, 1 / largest)
