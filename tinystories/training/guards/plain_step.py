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

from tinystories.config.recipe import Recipe
from tinystories.data.packing import IGNORED
from tinystories.training.optimizers import multiplies_bfloat16


Rates = Callable[[int], tuple[float, float]]

# Of what float32 computes: an update is exact to 1e-6 of itself; a sum of many terms that cancel is not.
OF_UPDATE, OF_RATE, ULPS = 1e-4, 2e-5, 4
OF_MUON = 0.05  # its iteration may be in bfloat16
MUON_MOMENTUM, MUON_ITERATIONS, MUON_COEFFICIENTS = 0.95, 5, (3.4445, -4.775, 2.0315)  # torch's defaults


@dataclass
class Settings:
    """What a recipe asks of its optimizer. muon_rate: peak of the matrices of the layers; None without Muon.

    muon_in_bfloat16: what torch's Muon rounds to. Noise that this adds to a matrix of low rank becomes as large as the
    update, so that another precision has another result.
    """

    rate: float
    muon_rate: float | None
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    max_grad_norm: float
    schedule: str
    schedule_options: dict[str, Any]
    warmup: float
    is_adamw: bool  # that of torch, without options of its own
    muon_in_bfloat16: bool

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
            betas=(values["adam_beta1"], values["adam_beta2"]),
            eps=values["adam_epsilon"],
            weight_decay=values["weight_decay"],
            max_grad_norm=values["max_grad_norm"],
            schedule=SchedulerType(values["lr_scheduler_type"]).value,
            schedule_options=json.loads(options) if isinstance(options, str) else dict(options),
            warmup=values["warmup_steps"],
            is_adamw=optim in ("adamw_torch", "adamw_torch_fused") and not values["optim_args"],
            muon_in_bfloat16=multiplies_bfloat16(recipe.training.device.type),
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
    """Of AdamW: running means of the gradient and its square. Of Muon: the first is its momentum."""

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
    weight: torch.Tensor, gradient: torch.Tensor, moments: Moments, rate: float, decay: float, in_bfloat16: bool
) -> torch.Tensor:
    """The matrix after a step of Muon, and `moments` with it; in float64, or what torch's own makes of it."""
    if not in_bfloat16:
        moments.first = MUON_MOMENTUM * moments.first + (1 - MUON_MOMENTUM) * gradient
        update = newton_schulz((1 - MUON_MOMENTUM) * gradient + MUON_MOMENTUM * moments.first)
        return weight - rate * decay * weight - rate * 0.2 * math.sqrt(max(weight.shape)) * update
    alone = torch.nn.Parameter(weight.float().clone())
    alone.grad = gradient.float()
    optimizer = torch.optim.Muon([alone], lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
    optimizer.state[alone]["momentum_buffer"] = moments.first.float()
    optimizer.step()
    moments.first = optimizer.state[alone]["momentum_buffer"].double()
    return alone.detach().double()


def newton_schulz(matrix: torch.Tensor) -> torch.Tensor:
    """The matrix with every singular value near 1, by an odd polynomial of the matrix that is applied repeatedly."""
    a, b, c = MUON_COEFFICIENTS
    matrix = matrix / matrix.norm().clamp(min=1e-7)
    for _ in range(MUON_ITERATIONS):
        cubic = matrix @ (matrix.T @ matrix)
        matrix = a * matrix + b * cubic + c * cubic @ (matrix.T @ matrix)
    return matrix


def error_of_update(
    before: torch.Tensor, after: torch.Tensor, expected: torch.Tensor, rate: float, is_muon: bool
) -> float:
    """How far the new weights are from those expected, in units of what rounding may do: above 1 is a mistake."""
    before, after = before.double(), after.double()
    rounding = ULPS * torch.finfo(torch.float32).eps * before.abs().maximum(expected.abs())
    if is_muon:
        allowed = OF_MUON * (expected - before).norm() + rounding.norm()
        return float((after - expected).norm() / allowed.clamp(min=1e-30))
    allowed = OF_UPDATE * (expected - before).abs() + OF_RATE * rate + rounding
    return float(((after - expected).abs() / allowed.clamp(min=1e-30)).nan_to_num(nan=math.inf).max())
