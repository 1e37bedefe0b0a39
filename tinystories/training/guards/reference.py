"""The model is the network that its configuration names: transformers' own Llama or Phi-3, in values and gradients."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from modeling_tinystories import TinyStoriesForCausalLM
from tinystories.checkpoint.stock import fuse_projections, stock_twin
from tinystories.data.packing import IGNORED
from tinystories.errors import GuardError, one_line
from tinystories.training.guards.probe import TOLERANCE, Probe, differing_places, must_run, relative_difference


GRADIENT_TOLERANCE = 1e-5  # transformers computes the loss in float32
DROPOUTS = ("embd_pdrop", "resid_pdrop", "attention_dropout")

_Record = dict[str, tuple[torch.Tensor, torch.Tensor]]  # name of a module: its input and output


def check_reference(probe: Probe, batch: dict[str, torch.Tensor], checkpointing: dict | None = None) -> str:
    """Logits, loss and gradients of the probe's network equal those of transformers' own with the same weights.

    In evaluation mode with dropout as it is configured, and in training mode without dropout. The loss is compared with
    logits and, as a step computes it, without; the gradients are those of the latter.

    batch: what training gets for the probe's row. checkpointing: the arguments of gradient checkpointing, if the
    run uses it.

    Raises:
        GuardError: they differ; the first module that differs, or the weight whose gradient differs, is named.
    """
    twin = _twin(probe.network)
    inputs = {name: tensor.to(probe.network.device) for name, tensor in batch.items() if name != "labels"}
    labels = batch["labels"].to(probe.network.device)
    expected = twin(**inputs, use_cache=False).logits
    loss = _next_token_loss(expected, labels)
    loss.backward()
    with torch.no_grad():
        plain = expected[0] if len(inputs) == 1 else twin(input_ids=probe.rows[:1], use_cache=False).logits[0]
    _compare_logits(probe.network, twin, {"input_ids": probe.rows[:1]}, probe.logits[0], plain, "in evaluation mode")
    trained = _in_training_mode(probe.network, checkpointing)
    with must_run("as in training"):
        output = trained(**inputs, labels=labels, use_cache=False)
    _compare_logits(trained, twin, inputs, output.logits[0], expected[0], "in training mode")
    _compare_loss(output.loss.item(), loss.item())
    with must_run("as in training"):
        alone = trained(**inputs, labels=labels, use_cache=False, loss_only=True).loss
    _compare_loss(alone.item(), loss.item())
    with must_run("backwards"):
        alone.backward()
    worst = _compare_gradients(trained, twin, GRADIENT_TOLERANCE * max(1.0, 1.0 / loss.item()))
    return (
        f"logits in evaluation and training mode, loss and gradients equal those of {_name(twin)} (row "
        f"{probe.number}, {probe.length} tokens; gradients within {worst:.0e})"
    )


def _name(twin: PreTrainedModel) -> str:
    return f"transformers' {type(twin).__name__}"


def _twin(network: TinyStoriesForCausalLM) -> PreTrainedModel:
    tied = network.lm_head.weight is network.model.embed_tokens.weight
    if tied != network.config.tie_word_embeddings:
        kind = "the embedding itself" if tied else "a weight of its own"
        raise GuardError(f"lm_head.weight is {kind}, and tie_word_embeddings is {network.config.tie_word_embeddings}")
    try:
        return stock_twin(network)
    except ValueError as error:
        raise GuardError(f"the weights of the model are not those of a Llama: {one_line(error)}") from error


def _in_training_mode(network: TinyStoriesForCausalLM, checkpointing: dict | None) -> TinyStoriesForCausalLM:
    """A copy in training mode without dropout: where none is configured, as it is."""
    trained = copy.deepcopy(network).train()
    for field in DROPOUTS:
        if getattr(network.config, field):
            set_dropout(trained, field, 0.0)
    if checkpointing is not None:
        named = "activation" if hasattr(trained, "activation_checkpointing_enable") else "gradient"  # by version
        getattr(trained, f"{named}_checkpointing_enable")(checkpointing or None)
    return trained


def set_dropout(network: TinyStoriesForCausalLM, field: str, p: float) -> None:
    setattr(network.config, field, p)
    if field == "embd_pdrop":
        network.model.embed_dropout.p = p
    for layer in network.model.layers:
        if field == "resid_pdrop":
            layer.resid_dropout.p = p
        if field == "attention_dropout":
            layer.self_attn.attention_dropout = p


def _next_token_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean of -log p(next token), written out; labels of -100 are left out. logits: (rows, length, vocabulary)."""
    targets = labels[:, 1:]
    counted = targets != IGNORED
    log_p = logits[:, :-1].log_softmax(-1).gather(-1, targets.clamp_min(0).unsqueeze(-1)).squeeze(-1)
    return -log_p[counted].mean()


def _compare_logits(
    network: nn.Module,
    twin: PreTrainedModel,
    inputs: dict[str, torch.Tensor],
    found: torch.Tensor,
    expected: torch.Tensor,
    mode: str,
) -> None:
    """found, expected: (length, vocabulary) of the first row."""
    places = differing_places(found.detach(), expected.detach())
    if len(places):
        amount = relative_difference(found.detach(), expected.detach()).max().item()
        raise GuardError(
            f"the model is not the network of its configuration ({mode}): {_first_difference(network, twin, inputs)}; "
            f"its logits differ from those of {_name(twin)} with the same weights by {amount:.1e} of the largest, "
            f"from token {places[0]} of {len(found)} on",
            "correct modeling_tinystories.py",
        )


@torch.no_grad()
def _first_difference(network: nn.Module, twin: nn.Module, inputs: dict[str, torch.Tensor]) -> str:
    """Which module, in the order in which they run, is the first with another input or output than its twin."""
    ours: _Record = {}
    theirs: _Record = {}
    for model, record in ((network, ours), (twin, theirs)):
        with _recorded(model, record):
            model(**inputs, use_cache=False)
    for name, (goes_in, comes_out) in theirs.items():
        if name not in ours:
            return f"{name} is not run"
        for what, found, expected in (("input", ours[name][0], goes_in), ("output", ours[name][1], comes_out)):
            places = differing_places(found, expected)
            if len(places):
                return f"the {what} of {name} differs first, from token {places[0]} on"
    return "no module differs when it is run again: the model does not compute the same twice"


@contextmanager
def _recorded(model: nn.Module, record: _Record) -> Iterator[None]:
    """Record the first row of what goes into and comes out of each block, as (length, ...), in the order they end."""

    def hook(name: str) -> Callable[..., None]:
        def keep(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
            goes_in = args[0] if args else kwargs["hidden_states" if "hidden_states" in kwargs else "input"]
            comes_out = output[0] if isinstance(output, tuple) else output
            record.setdefault(name, (goes_in[0], comes_out[0]))

        return keep

    blocks = {name: module for name, module in model.named_modules() if _is_block(name)}
    handles = [module.register_forward_hook(hook(name), with_kwargs=True) for name, module in blocks.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _is_block(name: str) -> bool:
    """Embedding, final norm and head; each layer, its two norms, its attention and its feed-forward."""
    parts = name.split(".")
    if name in ("lm_head", "model.embed_tokens", "model.norm"):
        return True
    return parts[:2] == ["model", "layers"] and len(parts) in (3, 4) and "dropout" not in parts[-1]


def _compare_loss(found: float, expected: float) -> None:
    if not abs(found - expected) <= GRADIENT_TOLERANCE * max(1.0, abs(expected)):
        raise GuardError(
            f"the model's loss of a row is {found:.6f} and its next-token loss {expected:.6f} nats: labels are shifted "
            "twice or not at all, tokens are left out, or something else is in the loss",
            "correct modeling_tinystories.py",
        )


def _compare_gradients(trained: TinyStoriesForCausalLM, twin: PreTrainedModel, tolerance: float) -> float:
    """The largest relative difference. Of several wrong gradients the one nearest to the loss is named.

    tolerance: larger for a smaller loss, since the gradient of a token is its probability less 1, in float32.
    """
    expected = {name: weight.grad for name, weight in twin.named_parameters() if weight.grad is not None}
    own = dict(trained.named_parameters())
    for name, weight in own.items():
        if weight.grad is None:
            why = "it is frozen (requires_grad is False)" if not weight.requires_grad else "the loss does not reach it"
            raise GuardError(f"{name} gets no gradient: {why}, so it would stay as it is")
    found = {name: weight.grad for name, weight in own.items() if weight.grad is not None}
    if not set(found) <= set(expected):
        found = fuse_projections(found)
    worst = 0.0
    largest = max(gradient.abs().max().item() for gradient in expected.values())
    for name in reversed(found):
        scale = max(expected[name].abs().max().item(), TOLERANCE * largest)
        difference = (found[name] - expected[name]).abs().max().item() / scale
        if not difference <= tolerance:
            raise GuardError(
                f"the gradient of {name} differs from that of {_name(twin)} by {difference:.1e} of its largest number: "
                "the model would be trained to something else than its loss says",
                "correct modeling_tinystories.py",
            )
        worst = max(worst, difference)
    return worst
