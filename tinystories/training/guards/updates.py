"""What one step of an optimizer does to the weights, compared with AdamW and Muon written down plainly."""

import torch

from tinystories.errors import GuardError
from tinystories.training.guards.plain_step import (
    Moments,
    Settings,
    adamw,
    error_of_muon,
    error_of_update,
    looked_ahead,
    muon,
)


def gradients_left(model: torch.nn.Module) -> str | None:
    for name, weight in model.named_parameters():
        if weight.grad is not None and weight.grad.any():
            return f"the gradients are not zeroed after a step: {name} keeps a norm of {weight.grad.norm().item():.4g}"
    return None


def wrong_dtype(model: torch.nn.Module) -> str | None:
    for name, weight in model.named_parameters():
        if weight.dtype != torch.float32:
            kind = str(weight.dtype).removeprefix("torch.")
            return f"{name} is {kind}: small steps would be rounded away; weights must be float32"
    return None


def check_weights(model: torch.nn.Module) -> str:
    """Every weight is float32 and trained."""
    problem = wrong_dtype(model)
    if problem is not None:
        raise GuardError(problem, "build and load models in float32; bf16 true computes in bfloat16 and keeps them so")
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            raise GuardError(f"{name} is frozen (requires_grad is False): it would stay as it is")
    return f"{sum(1 for _ in model.parameters())} tensors, float32, all trained"


def wrong_groups(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, settings: Settings, rates: tuple[float, float] | None
) -> str | None:
    """Each weight is in the optimizer once, with the numbers that the recipe gives. rates: None if they are unknown."""
    groups: dict[int, dict] = {}
    for group in optimizer.param_groups:
        for weight in group["params"]:
            if id(weight) in groups:
                return f"a weight of shape {tuple(weight.shape)} is in the optimizer twice"
            groups[id(weight)] = group
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            return f"{name} is frozen (requires_grad is False): it would never be trained"
        if id(weight) not in groups:
            return f"{name} is not in the optimizer: it would never be trained"
        problem = _wrong_group(name, weight, groups.pop(id(weight)), settings, rates)
        if problem is not None:
            return problem
    if groups:
        return f"{len(groups)} weights in the optimizer are not the model's"
    return None


def _wrong_group(
    name: str, weight: torch.Tensor, group: dict, settings: Settings, rates: tuple[float, float] | None
) -> str | None:
    uses_muon, decay = settings.uses_muon(name, weight), settings.decay_of(weight)
    if settings.muon_rate is not None and ("momentum" in group) != uses_muon:
        return f"{name} is trained by {'AdamW' if uses_muon else 'Muon'} instead of {'Muon' if uses_muon else 'AdamW'}"
    if group.get("weight_decay", 0.0) != decay:
        acts = f"weight decay of {group.get('weight_decay', 0.0):g} acts on {name}"
        return f"{acts}, and {decay:g} should: matrices decay by weight_decay, vectors do not"
    if rates is not None and abs(group["lr"] - rates[uses_muon]) > 1e-6 * max(rates[uses_muon], settings.rate * 1e-3):
        return f"the learning rate of {name} is {group['lr']:.4g}, and that of the schedule is {rates[uses_muon]:.4g}"
    if settings.is_adamw and not uses_muon:
        for key, wanted in (("betas", settings.betas), ("eps", settings.eps)):
            if group.get(key) != wanted:
                return f"{key} of the optimizer of {name} is {group.get(key)}, and the recipe's is {wanted}"
    return None


class WeightsBefore:
    """Copies of all weights and gradients before a step. earlier: that of the step before, whose moments continue."""

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        settings: Settings,
        earlier: "WeightsBefore | None" = None,
    ):
        self.settings = settings
        self.weights = {name: weight.detach().clone() for name, weight in model.named_parameters()}
        self.step: int = 1 if earlier is None else earlier.step + 1
        self.moments: dict[str, Moments] = {} if earlier is None else earlier.moments

    @torch.no_grad()
    def wrong_update(self, model: torch.nn.Module, rates: tuple[float, float] | None) -> str | None:
        """The first weight whose change is not that of the recipe's optimizer, in words."""
        problem = None
        if rates is not None and self.settings.is_adamw:
            problem = self._first_wrong(model, rates)
        self.weights = {name: weight.detach().clone() for name, weight in model.named_parameters()}
        return problem

    def _first_wrong(self, model: torch.nn.Module, rates: tuple[float, float]) -> str | None:
        for name, weight in model.named_parameters():
            before, rate = self.weights[name].cpu().double(), rates[self.settings.uses_muon(name, weight)]
            moments = self.moments.setdefault(name, Moments(torch.zeros_like(before), torch.zeros_like(before)))
            gradient = weight.grad.cpu().double() if weight.grad is not None else torch.zeros_like(before)
            problem = wrong_change(name, before, weight.cpu(), gradient, moments, self.step, rate, self.settings)
            if problem is not None:
                return problem
        return None

    def changed_since(self, model: torch.nn.Module) -> str | None:
        for name, weight in model.named_parameters():
            if not torch.equal(self.weights[name], weight):
                return f"{name} was changed after the optimizer's step"
        return None


def wrong_change(
    name: str,
    before: torch.Tensor,
    after: torch.Tensor,
    gradient: torch.Tensor,
    moments: Moments,
    step: int,
    rate: float,
    settings: Settings,
    ndim: int | None = None,
) -> str | None:
    """Compare a weight, or some elements of it, with what the optimizer should have made of it. ndim: of the weight."""
    decay = settings.weight_decay if (before.ndim if ndim is None else ndim) >= 2 else 0.0
    uses_muon = settings.muon_rate is not None and before.ndim == 2 and ".layers." in name

    def expected(decay: float, moments: Moments) -> torch.Tensor:
        if uses_muon:
            return muon(before, gradient, moments, rate, decay, settings)
        return adamw(before, gradient, moments, step, rate, decay, settings)

    def is_result(expected: torch.Tensor) -> bool:
        if uses_muon:
            return error_of_muon(before, after, expected, looked_ahead(gradient, moments, settings)) <= 1
        return error_of_update(before, after, expected, rate) <= 1

    untouched = Moments(moments.first, moments.second)
    wanted = expected(decay, moments)
    if is_result(wanted):
        return None
    if torch.equal(before.float(), after.float()):
        return f"{name} did not move in the step, with a learning rate of {rate:.4g}"
    other = 0.0 if decay else settings.weight_decay
    if is_result(expected(other, Moments(untouched.first, untouched.second))):
        return f"weight decay acts on {name}" if other else f"weight decay does not act on {name}"
    alone = expected(decay, Moments(torch.zeros_like(before), torch.zeros_like(before)))
    if step > 1 and is_result(alone):
        return f"the optimizer's state does not continue at {name}"
    change, right = (after.double() - before), (wanted - before)
    at = int((change - right).abs().argmax())
    kind = "Muon" if uses_muon else "AdamW"
    return (
        f"the step of {name} is not that of {kind} with the recipe's numbers: element {at} changed by "
        f"{change.flatten()[at].item():.4g} instead of {right.flatten()[at].item():.4g}"
    )
