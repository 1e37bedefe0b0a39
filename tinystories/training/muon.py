"""Muon for many matrices: momentum whose singular values are made equal, all matrices of one shape at once.

`torch.optim.Muon` computes the same, one matrix after the other and always in bfloat16. A GPU spends most of that time
on starting small kernels, and a CPU without bfloat16 instructions takes far longer than in float32. Keller Jordan's
Muon is the source of the iteration, and Moonlight (arXiv 2502.16982) of the size of an update.
"""

import math
from collections.abc import Iterable

import torch
from torch import nn


COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of x, x x' x and (x x')^2 x: steep at zero, which saves iterations
ITERATIONS = 5
UPDATE_RMS = 0.2  # that of an update of AdamW, so that the learning rates of both are comparable
ROW_MOMENTUM = 0.95
SMALLEST = 1e-7  # of a norm that something is divided by


class Muon(torch.optim.Optimizer):
    """Momentum with Nesterov's look ahead, orthogonalized; decoupled weight decay.

    Args:
        weights: matrices.
        lr, weight_decay, momentum: as of `torch.optim.Muon` with `adjust_lr_fn="match_rms_adamw"`.
        dtype: of the iteration; bfloat16 where that is fast, else float32.
        normalization: of the rows of an update: none; before the iteration, each to length 1 (MuonEq); or after it,
            each by the root of a running mean of its squares (NorMuon, arXiv 2510.05491).
        cautious: only the weights that the update makes smaller decay (arXiv 2510.12402).
    """

    def __init__(
        self,
        weights: Iterable[nn.Parameter],
        lr: float,
        weight_decay: float,
        momentum: float,
        dtype: torch.dtype,
        normalization: str = "none",
        cautious: bool = False,
    ):
        super().__init__(weights, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        self.dtype, self.normalization, self.cautious = dtype, normalization, cautious

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step of all weights that have a gradient. There is no closure: the caller computes the gradients."""
        for group in self.param_groups:
            trained: list[torch.Tensor] = [weight for weight in group["params"] if weight.grad is not None]
            for weights in by_shape(trained):
                self._step(weights, group["lr"], group["weight_decay"], group["momentum"])

    def _step(self, weights: list[torch.Tensor], lr: float, weight_decay: float, momentum: float) -> None:
        for weight in weights:
            if "momentum_buffer" not in self.state[weight]:
                self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
        buffers = [self.state[weight]["momentum_buffer"] for weight in weights]
        gradients = [weight.grad for weight in weights if weight.grad is not None]  # of all of them
        torch._foreach_lerp_(buffers, gradients, 1 - momentum)
        ahead = list(torch._foreach_lerp(gradients, buffers, momentum))
        if self.normalization == "before":
            ahead = [update / update.norm(dim=1, keepdim=True).clamp(min=SMALLEST) for update in ahead]
        wide = torch.stack([lying(update) for update in ahead])
        updates = [as_lies(update, weight) for update, weight in zip(self.orthogonal(wide), weights, strict=True)]
        size = UPDATE_RMS * math.sqrt(max(weights[0].shape))
        if self.normalization == "after":
            updates = [self._normalized(update, weight) for update, weight in zip(updates, weights, strict=True)]
            size = UPDATE_RMS
        if self.cautious:
            for weight, update in zip(weights, updates, strict=True):
                weight.sub_(weight * (weight * update > 0), alpha=lr * weight_decay)
        else:
            torch._foreach_mul_(weights, 1 - lr * weight_decay)
        torch._foreach_add_(weights, updates, alpha=-lr * size)

    def _normalized(self, update: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """The update with rows of about one size, and a root mean square of 1."""
        state = self.state[weight]
        squares = update.square().mean(dim=1, keepdim=True)
        if "row_squares" not in state:
            state["row_squares"] = torch.zeros_like(squares)
        state["row_squares"].lerp_(squares, 1 - ROW_MOMENTUM)
        update = update / state["row_squares"].sqrt().clamp(min=SMALLEST)
        return update * (math.sqrt(update.numel()) / update.norm().clamp(min=SMALLEST))

    def orthogonal(self, matrices: torch.Tensor) -> torch.Tensor:
        """float32 (number, rows, columns), with rows <= columns, and all singular values near 1."""
        return orthogonalize(matrices.to(self.dtype)).float()


def orthogonalize(matrices: torch.Tensor) -> torch.Tensor:
    """Newton-Schulz: (number, rows, columns) with the same singular vectors, and values between about 0.7 and 1.2."""
    linear, cubic, quintic = COEFFICIENTS
    x = matrices / matrices.norm(dim=(-2, -1), keepdim=True).clamp(min=SMALLEST)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=cubic, alpha=quintic), x, beta=linear)
    return x


def by_shape(weights: list[torch.Tensor]) -> list[list[torch.Tensor]]:
    """A matrix and its transpose are of one shape."""
    groups: dict[tuple[int, ...], list[torch.Tensor]] = {}
    for weight in weights:
        groups.setdefault(tuple(sorted(weight.shape)), []).append(weight)
    return list(groups.values())


def lying(matrix: torch.Tensor) -> torch.Tensor:
    """The matrix, or its transpose, with at least as many columns as rows."""
    return matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix


def as_lies(matrix: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The inverse of `lying`: in the shape of the weight."""
    return matrix.mT if weight.shape[0] > weight.shape[1] else matrix
