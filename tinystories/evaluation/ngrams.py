"""How well counting runs of tokens predicts stories: the yardstick for a score that is too good to be true."""

from collections.abc import Sequence

import numpy as np


ORDERS = 5


def ngram_loss(counted: Sequence[Sequence[int]], scored: Sequence[Sequence[int]], orders: int = ORDERS) -> float:
    """Nats per token of `scored`, without the first of each, by runs of fewer than `orders` tokens in `counted`.

    Interpolated as by Witten and Bell: a run that was seen n times with t different next tokens trusts its own counts
    by n / (n + t), and else the run that is one token shorter; the shortest one trusts equal probabilities.
    """
    known, new = (np.concatenate([np.asarray(ids, dtype=np.uint64) for ids in texts]) for texts in (counted, scored))
    probability = np.full(len(new), 1.0 / (int(max(known.max(), new.max())) + 1))
    contexts, asked = np.zeros(len(known), dtype=np.uint64), np.zeros(len(new), dtype=np.uint64)
    for order in range(orders):
        if order:
            contexts, asked = _longer(contexts, known, order), _longer(asked, new, order)
        pairs, number = np.unique(_mixed(contexts, known), return_counts=True)
        runs, times = np.unique(contexts, return_counts=True)
        _, first = np.unique(_mixed(contexts, known), return_index=True)
        kinds, types = np.unique(contexts[first], return_counts=True)
        n, t = _look_up(runs, times, asked), _look_up(kinds, types, asked)
        own = _look_up(pairs, number, _mixed(asked, new))
        probability = np.where(n > 0, (own + t * probability) / np.maximum(n + t, 1), probability)
    begins = np.cumsum([0, *(len(ids) for ids in scored[:-1])])
    return float(-np.log(np.delete(probability, begins)).mean())


def _mixed(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """A 64-bit hash of each pair."""
    mixed = (left ^ (right + np.uint64(0x9E3779B97F4A7C15))) * np.uint64(0xBF58476D1CE4E5B9)
    return mixed ^ (mixed >> np.uint64(29))


def _longer(contexts: np.ndarray, tokens: np.ndarray, order: int) -> np.ndarray:
    """The hash of the `order` tokens before each, from that of one token fewer."""
    before = np.zeros(len(tokens), dtype=np.uint64)
    before[order:] = tokens[:-order]
    return _mixed(contexts, before)


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The value of each wanted key, 0 where there is none. keys: sorted."""
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], 0)
