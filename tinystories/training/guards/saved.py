"""The saved files hold the model that was trained, and open as it: compared with transformers' own network."""

from pathlib import Path

import torch
from safetensors import safe_open

from modeling_tinystories import TinyStoriesForCausalLM
from tinystories.checkpoint.loading import load_checkpoint
from tinystories.checkpoint.stock import SHARED_FIELDS, exact_network
from tinystories.checkpoint.weights import weight_files
from tinystories.data.packing import Rows
from tinystories.errors import GuardError
from tinystories.training.guards.probe import differing_places, make_probe, relative_difference


_ARCHITECTURE = {*SHARED_FIELDS, "embd_pdrop", "resid_pdrop"}


@torch.no_grad()
def check_saved_model(folder: str | Path, rows: Rows, trained: TinyStoriesForCausalLM | None = None) -> str:
    """Weights in the files equal those in memory, bit by bit; opened, they give the logits of transformers' network.

    rows: a dataset with the column `input_ids`. trained: the model that was saved; without it only the files are
    compared with one another.

    Raises:
        GuardError: they differ. UserError: the folder cannot be opened.
    """
    weights = saved_weights(Path(folder))
    if trained is not None:
        _compare_weights(weights, trained)
    opened, _ = load_checkpoint(str(folder))
    if not isinstance(opened, TinyStoriesForCausalLM):
        return f"not checked: {type(opened).__name__} is not a model of this project"
    if trained is not None:
        _compare_configs(opened, trained)
    probe = make_probe(opened, rows, revive=False)
    expected = exact_network(opened.config, weights)(input_ids=probe.rows, use_cache=False).logits
    for found, wanted in zip(probe.logits, expected, strict=True):
        places = differing_places(found, wanted)
        if len(places):
            raise GuardError(
                f"{folder}, opened as a user opens it, is not the network in its files: its logits differ by "
                f"{relative_difference(found, wanted).max():.1e} of the largest, from token {places[0]} on",
                "its config.json or its code does not fit its weights",
            )
    compared = "are those that were trained, and " if trained is not None else ""
    return f"{len(weights)} saved weights {compared}give the same logits opened and in transformers' own network"


def saved_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Names and tensors of all safetensors files of a checkpoint."""
    weights: dict[str, torch.Tensor] = {}
    for file in weight_files(folder):
        with safe_open(file, framework="pt") as tensors:
            weights |= {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118  # no iterator
    return weights


def _compare_weights(weights: dict[str, torch.Tensor], trained: TinyStoriesForCausalLM) -> None:
    own = {name: weight.detach().cpu() for name, weight in trained.named_parameters()}
    for name in sorted(own.keys() | weights.keys()):
        if name not in weights or name not in own:
            where = "in the model and not in its files" if name in own else "in the files and not in the model"
            raise GuardError(f"the weight {name} is {where}")
        saved, wanted = weights[name], own[name]
        if saved.shape != wanted.shape:
            raise GuardError(f"the saved {name} has the shape {tuple(saved.shape)}, in the model {tuple(wanted.shape)}")
        if not torch.equal(saved.to(wanted.dtype), wanted):
            difference = (saved.double() - wanted.double()).abs().max().item()
            raise GuardError(
                f"the saved {name} is not the one that was trained: they differ by up to {difference:.2e}, and its "
                f"largest number is {wanted.abs().max().item():.2e}"
            )


def _compare_configs(opened: TinyStoriesForCausalLM, trained: TinyStoriesForCausalLM) -> None:
    saved, wanted = opened.config.to_dict(), trained.config.to_dict()
    for name in sorted(_ARCHITECTURE & (saved.keys() | wanted.keys())):
        if saved.get(name) != wanted.get(name):
            raise GuardError(f"config.json says {name} {saved.get(name)}, and the trained model had {wanted.get(name)}")
