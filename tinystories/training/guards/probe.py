"""A copy of the model in float64 with a row of the run's data, which the guards of the model share.

In float64 two computations of the same numbers differ by about 1e-15, so a difference above 1e-9 is a mistake and no
rounding. The copy is that of the run's own model: its class, its configuration and its weights as they are. Another row
is drawn in each run.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from modeling_tinystories import TinyStoriesForCausalLM
from tinystories.data.packing import Rows
from tinystories.errors import GuardError, one_line
from tinystories.training.recipe_trainer import RecipeTrainer


TOLERANCE = 1e-9
FLOAT64_ATTENTION = ("sdpa", "eager")  # the others compute in half precision or on GPUs only


@dataclass
class Probe:
    """`network`: the float64 copy, in evaluation mode.

    rows: token ids, (2, length): a row of the data, and the same with another first token.
    number: of the row in the data, to name it in a message.
    """

    network: TinyStoriesForCausalLM
    rows: torch.Tensor
    number: int
    random: np.random.Generator

    @property
    def length(self) -> int:
        return self.rows.shape[1]

    @cached_property
    @torch.no_grad()
    def logits(self) -> torch.Tensor:
        """Of the plain forward pass, (2, length, vocabulary)."""
        return self.network(input_ids=self.rows, use_cache=False).logits


def make_probe(model: TinyStoriesForCausalLM, rows: Rows, revive: bool = True) -> Probe:
    """rows: a dataset with the column `input_ids`. revive: see `float64_copy`."""
    random = np.random.default_rng()
    for number in map(int, random.permutation(len(rows))):
        row = torch.from_numpy(np.asarray(rows[number]["input_ids"], dtype=np.int64))
        if row[1:2] != model.config.pad_token_id:
            break  # else the row is one token, the rest of a story that was cut, and there is nothing to predict in it
    network = float64_copy(model, revive)
    changed = change_tokens(row, 0, 1, model.config.vocab_size, random)
    return Probe(network, torch.stack([row, changed]).to(network.device), number, random)


def change_tokens(
    row: torch.Tensor, begin: int, end: int, vocab_size: int, random: np.random.Generator
) -> torch.Tensor:
    """A copy of `row`, (length,), with another token at each place from `begin` to `end`."""
    changed = row.clone()
    steps = torch.from_numpy(random.integers(1, vocab_size, size=end - begin)).to(row.device)
    changed[begin:end] = (row[begin:end] + steps) % vocab_size
    return changed


@contextmanager
def must_run(how: str) -> Iterator[None]:
    """Raises GuardError: the model fails, for another reason than too little memory."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise GuardError(
            f"the model cannot be run {how}: {type(error).__name__}: {one_line(error)}",
            "correct modeling_tinystories.py",
        ) from error


def probe_of(trainer: RecipeTrainer) -> Probe:
    return make_probe(trainer.model, trainer.train_dataset)


def float64_copy(model: TinyStoriesForCausalLM, revive: bool = True) -> TinyStoriesForCausalLM:
    """revive: give values to matrices that are all zero, as with `residual_init: zero`: they hide mistakes."""
    network = copy.deepcopy(model)
    if network.device.type == "mps":  # it has no float64
        network.to("cpu")  # type: ignore[arg-type]  # its decorator hides that it is a method
    network.double().eval()
    if network.config._attn_implementation not in FLOAT64_ATTENTION:
        network.set_attn_implementation("sdpa")
    for weight in network.parameters():
        if revive and weight.ndim == 2 and not weight.any():
            torch.nn.init.normal_(weight, std=network.config.initializer_range)
    return network


def relative_difference(found: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """Elementwise, relative to the largest expected number; NaN counts as infinite."""
    found, expected = found.double(), expected.double()
    scale = expected.abs().max().clamp_min(torch.finfo(torch.float64).tiny)
    return ((found - expected).abs() / scale).nan_to_num(nan=torch.inf, posinf=torch.inf)


def differing_places(found: torch.Tensor, expected: torch.Tensor, tolerance: float = TOLERANCE) -> torch.Tensor:
    """The places (length,) of which some number differs. found, expected: (length, ...)."""
    apart = relative_difference(found, expected).reshape(len(found), -1)  # token ids have one dimension
    return (apart.amax(1) > tolerance).nonzero().flatten()
