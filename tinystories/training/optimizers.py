"""Optimizers and schedules that a recipe can name beside those of transformers; docs/experiments.md compares them.

    python run_clm.py RECIPE --optimizer muon --muon_learning_rate 5e-3
    python run_clm.py RECIPE --lr_scheduler_type warmup_stable_decay --lr_scheduler_kwargs '{"num_decay_steps": 0.2}'

`optimizer: adamw` is the Trainer's own AdamW. `optimizer: muon` trains the matrices of the layers (query, key, value,
output, gate, up, down) with Muon, and embeddings and norms with AdamW. In both, matrices decay and vectors do not, and
one schedule scales the peak learning rate of every group.
"""

import logging
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from transformers import SchedulerType, Trainer, get_scheduler
from transformers.training_args import OptimizerNames
from transformers.utils.import_utils import is_liger_kernel_available

from tinystories.config.arguments import RunArguments, bf16_is_fast
from tinystories.errors import UserError, one_line


logger = logging.getLogger(__name__)


def multiplies_bfloat16(device_type: str) -> bool:
    """Whether Muon iterates in bfloat16 on this device: everywhere but on a CPU without instructions for it."""
    return device_type != "cpu" or bf16_is_fast(use_cpu=True)


class Muon(torch.optim.Muon):
    """torch's Muon, with its iteration in float32 on a CPU that has no bfloat16 and emulates it slowly."""

    @torch.no_grad()
    def step(self, closure=None):
        """One step, as torch's."""
        if closure is not None or multiplies_bfloat16(self.param_groups[0]["params"][0].device.type):
            return super().step(closure)
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    _step_in_float32(weight, self.state[weight], group)
        return None


def _step_in_float32(weight: nn.Parameter, state: dict[str, torch.Tensor], group: dict[str, Any]) -> None:
    """What torch's Muon does to one matrix, with `adjust_lr_fn="match_rms_adamw"`."""
    assert weight.grad is not None
    momentum = state.setdefault("momentum_buffer", torch.zeros_like(weight.grad))
    momentum.lerp_(weight.grad, 1 - group["momentum"])
    update = weight.grad.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum
    update = orthogonalized(update, group["ns_coefficients"], group["ns_steps"], group["eps"])
    weight.mul_(1 - group["lr"] * group["weight_decay"])
    weight.add_(update, alpha=-group["lr"] * 0.2 * math.sqrt(max(weight.shape)))


def orthogonalized(
    matrix: torch.Tensor, coefficients: tuple[float, float, float], steps: int, eps: float
) -> torch.Tensor:
    """The matrix with singular values near 1, by Muon's Newton-Schulz iteration, in the dtype of the matrix."""
    a, b, c = coefficients
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = wide / wide.norm().clamp(min=eps)
    for _ in range(steps):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide if matrix.shape[0] <= matrix.shape[1] else wide.T


class MuonAndAdamW(torch.optim.Optimizer):
    """Muon for some weights and AdamW for the others, as one optimizer to the Trainer.

    Groups and state are kept here, so that one scheduler sets every learning rate and one state_dict holds everything;
    the two optimizers of torch compute the updates. An update of Muon is scaled to the size of one of AdamW, whatever
    the shape of the matrix, so that the learning rates of both are comparable.

    Args:
        muon_weights: matrices, all of which decay.
        adamw_weights: anything; matrices decay, vectors do not.
        muon_lr, lr: peak learning rates of the two.
        weight_decay, betas, eps: as of `torch.optim.AdamW`.
    """

    def __init__(
        self,
        muon_weights: list[nn.Parameter],
        adamw_weights: list[nn.Parameter],
        muon_lr: float,
        lr: float,
        weight_decay: float,
        betas: tuple[float, float],
        eps: float,
    ):
        adamw_groups = [
            {"params": [weight for weight in adamw_weights if weight.ndim >= 2], "weight_decay": weight_decay},
            {"params": [weight for weight in adamw_weights if weight.ndim < 2], "weight_decay": 0.0},
        ]
        self._adamw = torch.optim.AdamW(adamw_groups, lr=lr, betas=betas, eps=eps, fused=True)
        self._muon = Muon(muon_weights, lr=muon_lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        # AdamW's first: the learning rate that the Trainer logs is that of the first group.
        super().__init__([*self._adamw.param_groups, *self._muon.param_groups], defaults={"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        """One step of both; returns the loss of `closure`, if one is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        muon_at = len(self._adamw.param_groups)
        for optimizer, groups in (
            (self._adamw, self.param_groups[:muon_at]),
            (self._muon, self.param_groups[muon_at:]),
        ):
            optimizer.param_groups, optimizer.state = groups, self.state  # load_state_dict made new ones
            optimizer.step()
        return loss


def muon_and_adamw(named_weights: Iterable[tuple[str, nn.Parameter]], args: RunArguments) -> MuonAndAdamW:
    """Muon for the matrices inside the layers; AdamW for norms, embedding and output layer, whose rows are tokens."""
    trained = {name: weight for name, weight in named_weights if weight.requires_grad}
    hidden = {name for name, weight in trained.items() if weight.ndim == 2 and ".layers." in name}
    return MuonAndAdamW(
        [weight for name, weight in trained.items() if name in hidden],
        [weight for name, weight in trained.items() if name not in hidden],
        muon_lr=args.learning_rate if args.muon_learning_rate is None else args.muon_learning_rate,
        lr=args.learning_rate,
        weight_decay=args.weight_decay,
        betas=(args.adam_beta1, args.adam_beta2),
        eps=args.adam_epsilon,
    )


def make_schedule(args: RunArguments, optimizer: torch.optim.Optimizer, num_training_steps: int) -> LRScheduler:
    """The schedule of transformers, but `num_decay_steps` may be a share of the steps, as `warmup_steps` may.

    Raises:
        UserError: options that this schedule does not take or that do not fit the number of steps.
    """
    name, warmup = SchedulerType(args.lr_scheduler_type).value, args.get_warmup_steps(num_training_steps)
    try:
        if not isinstance(args.lr_scheduler_kwargs, dict | None):
            raise TypeError("they must be a JSON object")
        options = dict(args.lr_scheduler_kwargs or {})
        if options and name.startswith("constant"):
            raise ValueError("it takes none")
        if "num_decay_steps" in options:
            share = options["num_decay_steps"]
            if isinstance(share, bool) or not share > 0:
                raise ValueError(f"num_decay_steps must be above 0: a number of steps, or a share of them, not {share}")
            options["num_decay_steps"] = math.ceil(share * num_training_steps) if share < 1 else int(share)
            if warmup + options["num_decay_steps"] > num_training_steps:
                raise ValueError(f"warm-up and decay are longer than the {num_training_steps} steps of the run")
        schedule = get_scheduler(
            name,
            optimizer,
            num_warmup_steps=warmup,
            num_training_steps=num_training_steps,
            scheduler_specific_kwargs=options,
        )
        if any(key.startswith("min_lr") and not value >= 0 for key, value in options.items() if value is not None):
            raise ValueError("the lowest learning rate must be 0 or more")
        for rate in getattr(schedule, "lr_lambdas", []):
            _check_rates(rate, num_training_steps)
    except (TypeError, ValueError, ArithmeticError) as error:
        given = f"lr_scheduler_kwargs {args.lr_scheduler_kwargs or '{}'}"
        raise UserError(f"{given} do not fit lr_scheduler_type {name}: {one_line(error)}") from error
    return schedule


def _check_rates(rate: Callable[[int], float], num_training_steps: int) -> None:
    """Raises ValueError: at one of 51 steps over the run the learning rate is not between 0 and its peak."""
    for step in {num_training_steps * place // 50 for place in range(50)} | {num_training_steps - 1}:
        if not 0 <= rate(step) <= 1 + 1e-6:
            raise ValueError(f"at step {step} the learning rate would be {rate(step):.3g} times its peak")


def check_optimization(args: RunArguments) -> None:
    """Check optimizer and schedule before any data is prepared.

    Raises:
        UserError: keys that contradict each other, a schedule that cannot be built, a number that no optimizer takes,
            a package that is not installed.
    """
    weight = nn.Parameter(torch.zeros(1, 1))
    if args.optimizer == "muon":
        if args.optim != "adamw_torch_fused" or args.optim_args is not None:
            raise UserError("optim and optim_args choose the AdamW of optimizer adamw", "leave them out with muon")
        try:
            muon_and_adamw([("model.layers.0.weight", weight)], args)
        except ValueError as error:
            raise UserError(one_line(error)) from error
    elif args.muon_learning_rate is not None:
        raise UserError("muon_learning_rate is for optimizer muon", "set that too, or leave it out")
    if args.optim_args and any("=" not in part for part in args.optim_args.split(",")):
        raise UserError(f"optim_args must be name=value,name=value, got {args.optim_args!r}")
    if 0 < args.max_steps <= args.warmup_steps:
        ends = f"a run of {args.max_steps} steps ends before its warm-up does"
        logger.warning("warmup_steps %g: %s", args.warmup_steps, ends)
    check_packages(args)
    steps = args.max_steps if args.max_steps > 0 else 10**9  # how many steps the epochs have is not known yet
    make_schedule(args, torch.optim.SGD([weight], lr=max(args.learning_rate, 0.0)), steps)


def check_packages(args: RunArguments) -> None:
    """Raises UserError: an optional package of the optimizer or of the kernels is not installed.

    The Trainer would find that out when it takes the first step.
    """
    if args.use_liger_kernel and not is_liger_kernel_available():
        raise UserError("use_liger_kernel needs the package liger-kernel", "install it, or leave the key out")
    try:
        Trainer.get_optimizer_cls_and_kwargs(args)
    except (ImportError, ValueError) as error:
        asks_for_package = isinstance(error, ImportError) or any(word in str(error) for word in ("install", "import"))
        if asks_for_package:  # other complaints are about the model, which is not there yet
            name = OptimizerNames(args.optim).value
            raise UserError(f"optim {name}: {one_line(error)}", "or choose another") from error
