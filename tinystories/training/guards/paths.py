"""One model, many ways in: every way to run it gives the logits of the plain forward pass, to the end of its context.

With the cache token by token and in chunks, in padded batches, packed with other texts, and for some places only.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import torch
from transformers import DynamicCache, GenerationConfig

from modeling_tinystories import TinyStoriesForCausalLM
from tinystories.errors import GuardError
from tinystories.training.guards.probe import TOLERANCE, Probe, differing_places, must_run, relative_difference


NEW_TOKENS = 8
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
        with must_run(name):
            pieces = list(path(probe))
        for row, begin, offset, logits in pieces:
            expected = probe.logits[row, begin : begin + len(logits)]
            places = differing_places(logits, expected)
            if len(places):
                raise GuardError(
                    f"read {name}, row {probe.number} gives other logits than in one plain pass: they differ by "
                    f"{relative_difference(logits, expected).max():.1e} of the largest, first at token "
                    f"{begin + int(places[0])} of {probe.length} (place {offset + int(places[0])} of its batch)",
                    "correct cache, positions or attention mask in modeling_tinystories.py",
                )
    with must_run("by generate"):
        generated = _check_generate(probe)
    return f"{len(paths)} paths and generate {generated} give the logits of the plain one over {probe.length} tokens"


def _check_generate(probe: Probe) -> str:
    """From a random place on, the greedy tokens of `generate` are the likeliest ones of a plain forward pass."""
    new = min(NEW_TOKENS, probe.length - 1)
    begin = int(probe.random.integers(1, probe.length - new + 1))
    greedy = GenerationConfig(
        do_sample=False, max_new_tokens=new, eos_token_id=None, pad_token_id=probe.network.config.pad_token_id
    )
    ids = generate_with_cache(probe.network, probe.rows[:1, :begin], greedy)
    logits = probe.network(input_ids=ids, use_cache=False).logits[0, begin - 1 : -1]
    chosen = logits.gather(-1, ids[0, begin:, None]).squeeze(-1)
    wrong = ((logits.amax(-1) - chosen) > TOLERANCE * logits.abs().max()).nonzero().flatten()
    if len(wrong) or len(logits) != new:
        at = begin + int(wrong[0]) if len(wrong) else ids.shape[1]
        raise GuardError(
            f"generate, asked to continue row {probe.number} from token {begin} on, does not write the likeliest token "
            f"{at} of one plain pass",
            "correct cache and positions in modeling_tinystories.py",
        )
    return f"(tokens {begin} to {begin + new})"


def generate_with_cache(
    model: TinyStoriesForCausalLM, prompt: torch.Tensor, settings: GenerationConfig
) -> torch.Tensor:
    """The ids, (1, length), of `prompt` and its continuation. model: a copy, whose generation_config is replaced.

    Raises:
        GuardError: after the prompt it reads more than the last token: the cache is not used.
    """
    read: list[int] = []
    settings.use_cache = True
    model.generation_config = settings  # else what `settings` leaves open is the preset's, such as its penalty
    counting = model.model.layers[0].register_forward_pre_hook(lambda layer, args: read.append(args[0].shape[1]))
    mask = torch.ones_like(prompt)
    ids: Any = model.generate(prompt, attention_mask=mask, generation_config=settings)  # type: ignore[misc]  # its own `self`
    counting.remove()
    if read != [prompt.shape[1]] + [1] * (len(read) - 1):
        raise GuardError(
            f"generate reads {read[:3]} tokens in its first steps, and not {prompt.shape[1]} and then one at a time: "
            "the cache is not used",
            "correct modeling_tinystories.py",
        )
    return ids


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
