"""One model, many ways in: every way to run it gives the logits of the plain forward pass, to the end of its context.

With the cache token by token and in chunks, in padded batches, packed with other texts, and for some places only.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from transformers import DynamicCache

from tinystories.errors import GuardError
from tinystories.training.guards.probe import Probe, differing_places, relative_difference


SINGLES = 4  # tokens that are read one by one, at each of several places
DOCUMENTS = 6


@torch.no_grad()
def check_paths(probe: Probe) -> str:
    """Each path reads the probe's rows to their end, cut at random places.

    Since the plain pass is causal (causality.py), a path that sees the future, too little, or another document gives
    other logits somewhere in these rows.
    """
    paths: dict[str, Callable[[Probe], Iterator[tuple[int, int, int, torch.Tensor]]]] = {
        "with the cache": _cached,
        "in a left-padded batch with the cache": _left_padded,
        "in a right-padded batch": _right_padded,
        "packed with other texts (document masking)": _packed,
        "with logits_to_keep": _kept,
    }
    for name, path in paths.items():
        for row, begin, offset, logits in path(probe):
            expected = probe.logits[row, begin : begin + len(logits)]
            places = differing_places(logits, expected)
            if len(places):
                raise GuardError(
                    f"read {name}, row {probe.number} gives other logits than in one plain pass: they differ by "
                    f"{relative_difference(logits, expected).max():.1e} of the largest, first at token "
                    f"{begin + int(places[0])} of {probe.length} (place {offset + int(places[0])} of its batch)",
                    "correct cache, positions or attention mask in modeling_tinystories.py",
                )
    return f"{len(paths)} paths give the logits of the plain one over {probe.length} tokens"


def _pieces(probe: Probe, begin: int = 0) -> list[tuple[int, int]]:
    """(begin, end) of chunks from `begin` to the end, with single tokens first, at a random place and last."""
    end = probe.length
    middle = int(probe.random.integers(begin, end))
    singles = {*range(begin, begin + 2), *range(middle, middle + SINGLES), *range(end - SINGLES, end)}
    cuts = sorted({begin, end, *(place for i in singles for place in (i, i + 1) if begin <= place <= end)})
    return list(pairwise(cuts))


def _cached(probe: Probe) -> Iterator[tuple[int, int, int, torch.Tensor]]:
    """One row without mask and positions: the model counts what the cache holds."""
    cache = DynamicCache(config=probe.network.config)
    for begin, end in _pieces(probe):
        output = probe.network(input_ids=probe.rows[:1, begin:end], past_key_values=cache, use_cache=True)
        yield 0, begin, begin, output.logits[0]
        if cache.get_seq_length() != end:
            raise GuardError(
                f"after {end} tokens the cache holds {cache.get_seq_length()}: it is not used, or written twice",
                "correct modeling_tinystories.py",
            )


def _left_padded(probe: Probe) -> Iterator[tuple[int, int, int, torch.Tensor]]:
    """Both rows, the second behind padding, with mask and positions as `generate` gives them."""
    padding = int(probe.random.integers(1, probe.length))
    ids, mask = probe.rows.clone(), torch.ones_like(probe.rows)
    ids[1, padding:] = probe.rows[1, : probe.length - padding]
    mask[1, :padding] = 0
    positions = (mask.cumsum(-1) - 1).masked_fill(mask == 0, 1)
    cache = DynamicCache(config=probe.network.config)
    for begin, end in _pieces(probe):
        logits = probe.network(
            input_ids=ids[:, begin:end],
            attention_mask=mask[:, :end],
            position_ids=positions[:, begin:end],
            past_key_values=cache,
            use_cache=True,
        ).logits
        yield 0, begin, begin, logits[0]
        if end > padding:
            seen = max(begin, padding)
            yield 1, seen - padding, seen, logits[1, seen - begin :]


def _right_padded(probe: Probe) -> Iterator[tuple[int, int, int, torch.Tensor]]:
    """A row with padding behind it, with a mask and without positions."""
    kept = int(probe.random.integers(1, probe.length))
    mask = torch.ones_like(probe.rows[1:])
    mask[:, kept:] = 0
    ids = probe.rows[1:] * mask
    logits = probe.network(input_ids=ids, attention_mask=mask, use_cache=False).logits
    yield 1, 0, 0, logits[0, :kept]


def _packed(probe: Probe) -> Iterator[tuple[int, int, int, torch.Tensor]]:
    """Beginnings of both rows, one after another in one row, with positions that restart, as with `isolate_stories`."""
    ids, positions = torch.empty_like(probe.rows[:1]), torch.empty_like(probe.rows[:1])
    documents = [(number % 2, *ends) for number, ends in enumerate(pairwise(_cuts(probe)))]
    for source, begin, end in documents:
        ids[0, begin:end] = probe.rows[source, : end - begin]
        positions[0, begin:end] = torch.arange(end - begin)
    logits = probe.network(input_ids=ids, position_ids=positions, use_cache=False).logits
    for source, begin, end in documents:
        yield source, 0, begin, logits[0, begin:end]


def _cuts(probe: Probe) -> list[int]:
    """Where documents begin, one of them in the last eighth of the row, and the row's end."""
    length = probe.length
    late = int(probe.random.integers(min(length - 1, length * 7 // 8), length))
    return sorted({0, late, length, *probe.random.integers(length, size=DOCUMENTS).tolist()})


def _kept(probe: Probe) -> Iterator[tuple[int, int, int, torch.Tensor]]:
    """The last ones and chosen ones of a short beginning of the row: it is about the choice, and not the length."""
    length = min(8, probe.length)
    places = torch.tensor([0, length - 1], device=probe.rows.device)
    for kept in (1, length, places):
        logits = probe.network(input_ids=probe.rows[:1, :length], use_cache=False, logits_to_keep=kept).logits[0]
        chosen = places if isinstance(kept, torch.Tensor) else torch.arange(length - kept, length)
        if len(logits) != len(chosen):
            raise GuardError(f"logits_to_keep {kept} gives logits of {len(logits)} places and not {len(chosen)}")
        for place, numbers in zip(chosen.tolist(), logits, strict=True):
            yield 0, place, place, numbers.unsqueeze(0)
