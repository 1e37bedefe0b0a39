"""The weights that a fresh model begins with are those that the recipe asks for."""

import torch

from modeling_tinystories import TinyStoriesForCausalLM
from tinystories.config.keys import ModelArguments, model_fields
from tinystories.errors import GuardError


SIGMAS = 7


def check_initial_weights(model: TinyStoriesForCausalLM, arguments: ModelArguments) -> str:
    """Configuration as in the recipe; matrices of mean 0 and the recipe's deviation, norms of 1, no layer twice.

    Raises:
        GuardError: the first weight or field that is not.
    """
    _check_configuration(model, arguments)
    matrices: list[tuple[str, torch.Tensor]] = []
    for name, parameter in model.named_parameters():
        weight = parameter.detach().double()
        if weight.ndim == 1:
            if not (weight == 1).all():
                raise GuardError(f"the fresh {name} is not all ones, but {weight.min():.3g} to {weight.max():.3g}")
            continue
        _check_matrix(name, weight, _deviation(name, arguments, model.config.num_hidden_layers), model)
        for other, earlier in matrices:
            if earlier.shape == weight.shape and weight.any() and torch.equal(earlier, weight):
                raise GuardError(f"the fresh {name} is a copy of {other}: they would learn the same")
        matrices.append((name, weight))
    deviation = f"{arguments.initializer_range} (residual_init {arguments.residual_init})"
    return f"{len(matrices)} matrices have mean 0 and deviation {deviation}"


def _check_configuration(model: TinyStoriesForCausalLM, arguments: ModelArguments) -> None:
    for field, wanted in model_fields(arguments).items():
        if field == "attn_implementation" or wanted is None:
            continue
        rope = model.config.rope_parameters or {}
        found = rope[field] if field in rope else getattr(model.config, field)
        if found != wanted:
            raise GuardError(f"{field} is {wanted} in the recipe, and {found} in the model")


def _deviation(name: str, arguments: ModelArguments, layers: int) -> float:
    """Of `weight`: what `residual_init` says of matrices that add to the residual stream."""
    scale = {"normal": 1.0, "zero": 0.0, "depth_scaled": (2 * layers) ** -0.5}[arguments.residual_init]
    adds = name.endswith(("o_proj.weight", "down_proj.weight"))
    return arguments.initializer_range * (scale if adds else 1.0)


def _check_matrix(name: str, weight: torch.Tensor, deviation: float, model: TinyStoriesForCausalLM) -> None:
    pad = model.config.pad_token_id
    if name == "model.embed_tokens.weight" and pad is not None and not weight[pad].any():
        weight = torch.cat([weight[:pad], weight[pad + 1 :]])  # padding begins at 0
    mean, found = weight.mean().item(), weight.pow(2).mean().sqrt().item()
    number = weight.numel()
    if (
        abs(mean) > SIGMAS * deviation / number**0.5
        or abs(found - deviation) > SIGMAS * deviation / (2 * number) ** 0.5
    ):
        raise GuardError(
            f"the fresh {name} has mean {mean:.2g} and deviation {found:.4g}, and the recipe asks for 0 and "
            f"{deviation:.4g} (initializer_range, residual_init)"
        )
