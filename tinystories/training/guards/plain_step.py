"""A training step written down plainly, in float64, for the Trainer's own to be compared with.

The loss is that of transformers' own network, from the token ids alone. The numbers of the recipe are those that were
asked for (`Recipe.values`), and not those that the Trainer holds, which the code may have changed.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LambdaLR
from transformers import SchedulerType, get_scheduler

from tinystories.config.arguments import bf16_is_fast
from tinystories.config.recipe import Recipe
from tinystories.data.packing import IGNORED


Rates = Callable[[int], tuple[float, float]]

# Of what float32 computes: an update is exact to 1e-6 of itself; a sum of many terms that cancel is not.
OF_UPDATE, OF_RATE, ULPS = 1e-4, 2e-5, 4
OF_MUON = 0.05  # its iteration may be in bfloat16: honest steps differ by up to 0.013 where they are compared
FAINT = 0.1  # of the largest singular value: below it, what bfloat16 rounds is no small part of the update


@dataclass
class Settings:
    """What a recipe asks of its optimizer. muon_rate: peak of the matrices of the layers; None without Muon."""

    rate: float
    muon_rate: float | None
    muon_momentum: float
    muon_dtype: torch.dtype
    muon_normalization: str
    muon_is_cautious: bool
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    max_grad_norm: float
    schedule: str
    schedule_options: dict[str, Any]
    warmup: float
    is_adamw: bool  # that of torch, without options of its own

    @classmethod
    def of(cls, recipe: Recipe) -> "Settings":
        values = recipe.values
        muon = values["optimizer"] == "muon"
        peak = values["learning_rate"]
        options = values["lr_scheduler_kwargs"] or {}
        optim = getattr(values["optim"], "value", values["optim"])
        return cls(
            rate=peak,
            muon_rate=None
            if not muon
            else peak
            if values["muon_learning_rate"] is None
            else values["muon_learning_rate"],
            muon_momentum=values["muon_momentum"],
            muon_dtype=torch.bfloat16 if bf16_is_fast(recipe.training.use_cpu) else torch.float32,
            muon_normalization=values["muon_normalization"],
            muon_is_cautious=values["muon_cautious_decay"],
            betas=(values["adam_beta1"], values["adam_beta2"]),
            eps=values["adam_epsilon"],
            weight_decay=values["weight_decay"],
            max_grad_norm=values["max_grad_norm"],
            schedule=SchedulerType(values["lr_scheduler_type"]).value,
            schedule_options=json.loads(options) if isinstance(options, str) else dict(options),
            warmup=values["warmup_steps"],
            is_adamw=optim in ("adamw_torch", "adamw_torch_fused") and not values["optim_args"],
        )

    def uses_muon(self, name: str, weight: torch.Tensor) -> bool:
        """Matrices inside the layers; embedding, output layer and vectors have AdamW."""
        return self.muon_rate is not None and weight.ndim == 2 and ".layers." in name

    def decay_of(self, weight: torch.Tensor) -> float:
        return self.weight_decay if weight.ndim >= 2 else 0.0

    def shortened(self, steps: int) -> "Settings":
        """For a run of so few steps: the same schedule with all its parts."""
        options = {name: value for name, value in self.schedule_options.items() if name != "num_stable_steps"}
        decay = options.get("num_decay_steps", 0)
        if decay >= 1:
            options["num_decay_steps"] = decay = steps // 3
        warmup = min(4, steps - math.ceil(decay * steps if decay < 1 else decay))
        return replace(self, schedule_options=options, warmup=float(warmup) if self.warmup else 0.0)


def learning_rates(settings: Settings, steps: int) -> Rates | None:
    """Learning rates of AdamW and Muon at a step, the first being 0; None for a schedule that follows the losses."""
    options = dict(settings.schedule_options)
    if 0 < options.get("num_decay_steps", 1) < 1:
        options["num_decay_steps"] = math.ceil(options["num_decay_steps"] * steps)
    peaks = (settings.rate, settings.rate if settings.muon_rate is None else settings.muon_rate)
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": peak} for peak in peaks]
    schedule = get_scheduler(
        settings.schedule,
        torch.optim.SGD(groups, lr=settings.rate),
        num_warmup_steps=math.ceil(settings.warmup * steps) if settings.warmup < 1 else int(settings.warmup),
        num_training_steps=steps,
        scheduler_specific_kwargs=options,
    )
    if not isinstance(schedule, LambdaLR):
        return None
    shares = schedule.lr_lambdas
    return lambda step: (peaks[0] * shares[0](step), peaks[1] * shares[1](step))


@dataclass
class Targets:
    """Token ids of rows, and the next token of each place. Both (pieces, longest); a place without one is IGNORED."""

    ids: torch.Tensor
    following: torch.Tensor

    @property
    def number(self) -> int:
        return int((self.following != IGNORED).sum())

    def nats(self, logits: torch.Tensor) -> torch.Tensor:
        """Sum over all targets."""
        losses = cross_entropy(logits.flatten(0, 1).double(), self.following.flatten(), reduction="sum")
        return losses


def targets_of(rows: Sequence[torch.Tensor], pad: int, bos: int | None) -> Targets:
    """With `bos`, each story of a row is a piece of its own; its last token still predicts the row's next one."""
    pieces: list[torch.Tensor] = []
    following: list[torch.Tensor] = []
    for row in rows:
        after = torch.cat([row[1:], row.new_tensor([pad])])
        starts = [] if bos is None else (row == bos).nonzero().flatten().tolist()
        cuts = [start for start in starts if start > 0]
        pieces += row.tensor_split(cuts)
        following += after.masked_fill(after == pad, IGNORED).tensor_split(cuts)
    padded = torch.nn.utils.rnn.pad_sequence
    return Targets(padded(pieces, True, pad), padded(following, True, IGNORED))


def clipping_factor(norm: float, max_norm: float) -> float:
    return min(1.0, max_norm / (norm + 1e-6)) if max_norm > 0 else 1.0


@dataclass
class Moments:
    """Of AdamW: running means of the gradient and its square. Of Muon: its momentum, and the mean squares of rows."""

    first: torch.Tensor
    second: torch.Tensor | None = None


def adamw(
    weight: torch.Tensor, gradient: torch.Tensor, moments: Moments, step: int, rate: float, decay: float, s: Settings
) -> torch.Tensor:
    """The weight after the step, and `moments` with it; all in float64. step: the first is 1."""
    assert moments.second is not None
    moments.first = s.betas[0] * moments.first + (1 - s.betas[0]) * gradient
    moments.second = s.betas[1] * moments.second + (1 - s.betas[1]) * gradient**2
    direction = moments.first / (1 - s.betas[0] ** step)
    size = (moments.second / (1 - s.betas[1] ** step)).sqrt() + s.eps
    return weight - rate * decay * weight - rate * direction / size


def muon(
    weight: torch.Tensor, gradient: torch.Tensor, moments: Moments, rate: float, decay: float, s: Settings
) -> torch.Tensor:
    """The matrix after the step, and `moments` with it; in float64, but for the iteration.

    Five times x <- 3.4445 x - 4.775 (x x') x + 2.0315 (x x')^2 x, beginning with the momentum, Nesterov's, of length 1.
    """
    moments.first = s.muon_momentum * moments.first + (1 - s.muon_momentum) * gradient
    x = looked_ahead(gradient, moments, s)
    is_tall = x.shape[0] > x.shape[1]
    x = (x.T if is_tall else x).to(s.muon_dtype)
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    direction = (x.T if is_tall else x).double() * math.sqrt(max(x.shape))
    if s.muon_normalization == "after":
        assert moments.second is not None
        squares = direction.square().mean(dim=1, keepdim=True) / max(x.shape)
        moments.second = 0.95 * moments.second[:, :1] + 0.05 * squares
        direction = direction / moments.second.sqrt().clamp(min=1e-7)
        direction = direction / direction.square().mean().sqrt()
    decaying = weight * (weight * direction > 0) if s.muon_is_cautious else weight
    return weight - rate * decay * decaying - rate * 0.2 * direction


def looked_ahead(gradient: torch.Tensor, moments: Moments, s: Settings) -> torch.Tensor:
    """What Muon's iteration begins with: Nesterov's momentum, with rows of length 1 if they are normalized before."""
    x = (1 - s.muon_momentum) * gradient + s.muon_momentum * moments.first
    return x / x.norm(dim=1, keepdim=True).clamp(min=1e-7) if s.muon_normalization == "before" else x


def error_of_muon(before: torch.Tensor, after: torch.Tensor, expected: torch.Tensor, beginning: torch.Tensor) -> float:
    """As `error_of_update`, of a matrix, in the directions that bfloat16 leaves certain.

    The iteration makes directions with hardly any gradient as large as the others. What it makes there of a matrix of
    low rank is what rounding has put into them, and another order of additions changes half of the update.

    beginning: `looked_ahead`, whose large singular values tell the directions.
    """
    left, sizes, right = torch.linalg.svd(beginning, full_matrices=False)
    certain = sizes >= FAINT * sizes[0]
    left, right = left[:, certain].T, right[certain].T
    wrong, change = (left @ matrix @ right for matrix in (after.double() - expected, expected - before))
    allowed = OF_MUON * change.norm() + _rounding(before, expected).norm()
    return float((wrong.norm() / allowed.clamp(min=1e-30)).nan_to_num(nan=math.inf))


def _rounding(before: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    return ULPS * torch.finfo(torch.float32).eps * before.abs().maximum(expected.abs())


def error_of_update(before: torch.Tensor, after: torch.Tensor, expected: torch.Tensor, rate: float) -> float:
    """How far the new weights are from those expected, in units of what rounding may do: above 1 is a mistake."""
    before, after = before.double(), after.double()
    rounding = _rounding(before, expected)
    allowed = OF_UPDATE * (expected - before).abs() + OF_RATE * rate + rounding
    return float(((after - expected).abs() / allowed.clamp(min=1e-30)).nan_to_num(nan=math.inf).max())
