"""Fit the scaling law of tinystories/checks/prediction.py to the runs of benchmarks/scaling.py.

    from scaling_fit import fit, leave_one_out

The parameters are those that are likeliest, given the runs and what is known of such laws before (PRIOR); a run that
is far off counts less than by its square (Huber). How uncertain they are is seen from a Bayesian bootstrap: many fits
to the same runs with random weights, and with a random centre of what is known before.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from tinystories.checks.prediction import LAW, QUANTITIES, Fit, Plan, bits_per_byte, predict


PRIOR = {  # centre of each parameter, and the standard deviation of its logarithm
    "E": (0.25, 0.5),  # bits per byte that no model of stories gets below; 110M weights reach 0.3
    "A": (0.25, 0.7),
    "a": (0.34, 0.4),  # Hoffmann et al., 2022
    "B": (0.35, 0.7),
    "b": (0.28, 0.4),  # Hoffmann et al., 2022
    "R": (15.0, 1.0),  # Muennighoff et al., 2023
    "M": (0.003, 1.0),  # it costs little before a model has seen its text many times
    "m": (2.0, 0.4),
}
SIMPLER = {  # laws with a parameter that is fixed, where it does nothing
    "no cost of memorizing": {"M": 1e-9},
    "repeats worth as much as new text": {"R": 1e6},
    "only weights and text seen, repeated or not": {"M": 1e-9, "R": 1e6},
}
FIXED = 1e-6  # standard deviation of a parameter that is not fitted
NOISE = 0.01  # of a run, relative: what the runs weigh against PRIOR
FAR = 3.0  # times NOISE: beyond, a run counts by its distance
DRAWS = 100
ITERATIONS = 100


@dataclass(frozen=True)
class Point:
    """A recipe of the fit, and the bits per byte that its runs reached, one for each seed."""

    plan: Plan
    scores: tuple[float, ...]


def fit(points: list[Point], seed: int = 0) -> Fit:
    """The law of these points, without family and text."""
    generator = np.random.default_rng(seed)
    weights = np.ones((1 + DRAWS, len(points)))
    weights[1:] = generator.exponential(size=(DRAWS, len(points)))
    centre, spread = known_before({})
    centres = np.tile(centre, (1 + DRAWS, 1))
    centres[1:] += spread * generator.standard_normal((DRAWS, len(LAW)))
    found = np.exp(likeliest(points, weights, centres, spread))
    errors = differences(found[0], points)
    freedom = max(1, len(points) - len(LAW))
    plans = [point.plan for point in points]
    ranges = {name: [extreme(getattr(plan, name) for plan in plans) for extreme in (min, max)] for name in QUANTITIES}
    return Fit(
        law=found[0],
        draws=found[1:],
        residual=float(np.sqrt((errors**2).sum() / freedom)),
        seeds=seed_spread(points),
        freedom=freedom,
        range=ranges,
        family={},
        profile={},
    )


def known_before(fixed: dict[str, float]) -> tuple[np.ndarray, np.ndarray]:
    """Centre and standard deviation of the logarithms of the parameters; those in `fixed` have that value."""
    known = PRIOR | {name: (value, FIXED) for name, value in fixed.items()}
    return np.log([known[name][0] for name in LAW]), np.array([known[name][1] for name in LAW])


def error_of_left_out(points: list[Point], fixed: dict[str, float]) -> float:
    """Root mean square of the logarithm of a score, less that of its prediction by a fit to all other points."""
    centre, spread = known_before(fixed)
    laws = np.exp(likeliest(points, 1 - np.eye(len(points)), np.tile(centre, (len(points), 1)), spread))
    return float(np.sqrt((np.diag(differences(laws, points)) ** 2).mean()))


def differences(law: np.ndarray, points: list[Point]) -> np.ndarray:
    """Logarithm of the score of each point, less that of its prediction. Shape (..., points)."""
    return _logarithms(points) - np.log(bits_per_byte(law, *_columns(points)))


def _logarithms(points: list[Point]) -> np.ndarray:
    return np.array([np.log(point.scores).mean() for point in points])


def _columns(points: list[Point]) -> tuple[np.ndarray, ...]:
    plans = [point.plan for point in points]
    return tuple(
        np.array([getattr(p, name) for p in plans], float) for name in ("parameters", "unique_bytes", "epochs")
    )


def seed_spread(points: list[Point]) -> float:
    """Standard deviation of the logarithm of a score between seeds, pooled over the points that have several."""
    several = [np.log(point.scores) for point in points if len(point.scores) > 1]
    squares = sum(((scores - scores.mean()) ** 2).sum() for scores in several)
    return float(np.sqrt(squares / max(1, sum(len(scores) - 1 for scores in several))))


def likeliest(points: list[Point], weights: np.ndarray, centres: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Logarithms of the parameters of each fit, by the method of Levenberg and Marquardt.

    weights: of the points, shape (fits, points). centres, spread: of what is known before, shapes (fits, 8) and (8,).
    """

    def residuals(free: np.ndarray) -> np.ndarray:
        off = differences(np.exp(free), points) / NOISE
        size = np.maximum(np.abs(off), 1e-12)
        huber = np.where(size <= FAR, off, np.sign(off) * np.sqrt(np.maximum(2 * FAR * size - FAR**2, 0)))
        return np.concatenate([np.sqrt(weights) * huber, (free - centres) / spread], axis=1)

    free = centres.copy()
    damping = np.full(len(free), 1.0)
    now = residuals(free)
    for _ in range(ITERATIONS):
        steps = 1e-6 * np.eye(free.shape[1])
        slopes = np.stack([(residuals(free + step) - now) / 1e-6 for step in steps], axis=2)  # (fits, residuals, 8)
        curvature = np.einsum("frp,frq->fpq", slopes, slopes)
        gradient = np.einsum("frp,fr->fp", slopes, now)
        diagonal = np.einsum("fpp->fp", curvature)[:, :, None] * np.eye(free.shape[1])
        move = np.linalg.solve(curvature + damping[:, None, None] * diagonal, gradient[:, :, None])[:, :, 0]
        tried = free - np.clip(move, -1, 1)
        if np.abs(move).max() < 1e-6:
            break
        new = residuals(tried)
        better = (new**2).sum(1) < (now**2).sum(1)
        free, now = np.where(better[:, None], tried, free), np.where(better[:, None], new, now)
        damping = np.clip(np.where(better, damping / 3, damping * 4), 1e-9, 1e9)
    return free


def leave_one_out(points: list[Point]) -> list[dict[str, Any]]:
    """Each point, as a fit to all others predicts it."""
    return [left_out(points[:place] + points[place + 1 :], [point])[0] for place, point in enumerate(points)]


def left_out(fitted: list[Point], others: list[Point]) -> list[dict[str, Any]]:
    """`others`, as a fit to `fitted` predicts them: the interval, and how many of their runs are inside."""
    found = fit(fitted)
    rows = []
    for point in others:
        guess = predict(point.plan, found)
        inside = [guess.low <= score <= guess.high for score in point.scores]
        rows.append(
            {
                "predicted": guess.bits_per_byte,
                "low": guess.low,
                "high": guess.high,
                "inside": sum(inside),
                "runs": len(inside),
            }
        )
    return rows
