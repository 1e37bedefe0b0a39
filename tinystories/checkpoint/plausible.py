"""Compares the sizes in a config with the weights beside it, before a network of these sizes is built.

Building comes first in transformers and the comparison with the weights last, so that a config.json with a few more
zeros keeps a machine busy for minutes, or takes all of its memory. The names and shapes of the tensors stand at the
beginning of a safetensors file: no network can have more layers than there are tensors, or be wider than any of them.
Sizes that any machine builds at once are left to the comparison itself (weights.py), which names the tensor.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers import CONFIG_MAPPING, PreTrainedConfig
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, WEIGHTS_INDEX_NAME, WEIGHTS_NAME
from transformers.utils.hub import cached_file, get_checkpoint_shard_files

from tinystories.checkpoint.weights import weight_files
from tinystories.errors import UserError


# As transformers names them. Architectures with other names list these in their config's `attribute_map`.
POSITIVE = ("num_hidden_layers", "hidden_size", "vocab_size")
LAYERS = ("num_hidden_layers", "num_layers", "n_layers", "n_layer", "encoder_layers", "decoder_layers")
WIDTHS = ("hidden_size", "vocab_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim")
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
QUICK = {"vocab_size": 2**16} | dict.fromkeys(LAYERS, 256) | dict.fromkeys(EXPERTS, 256)
QUICK_WIDTH = 1024
LEAST_BYTES = 64  # that a tensor takes in a file of torch.save, which lists no shapes at its beginning


@dataclass(frozen=True)
class Weights:
    """Upper bounds. tensors: how many there are; widest: the largest dimension of any."""

    tensors: int
    widest: int


def check_sizes(name: str, revision: str | None = None) -> None:
    """Refuse a folder or Hub id whose config has a size that its weights cannot have.

    What cannot be read here is left to transformers, which says why.

    Raises:
        UserError: the config is no object, or a size in it is no whole number, negative or larger than the weights.
    """
    try:
        config, _ = PreTrainedConfig.get_config_dict(name, revision=revision)
        weights = _weights(name, revision)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError):
        return
    if not isinstance(config, dict) or not isinstance(config.get("model_type", ""), str):
        raise UserError(f"{name}: its config.json is not that of a model")
    if weights is not None:
        for part in (config, config.get("text_config")):
            if isinstance(part, dict):
                _check(name, part, weights)


def _check(name: str, config: dict[str, Any], weights: Weights) -> None:
    kind = config.get("model_type", "")
    names = CONFIG_MAPPING[kind].attribute_map if isinstance(kind, str) and kind in CONFIG_MAPPING else {}
    tensors, widest = f"has {weights.tensors:,} tensors", f"has no tensor wider than {weights.widest:,}"
    bounds = dict.fromkeys(LAYERS, (weights.tensors, tensors))
    bounds |= dict.fromkeys(WIDTHS, (weights.widest, widest))
    bounds |= {key: (max(weights.widest, weights.tensors), widest) for key in EXPERTS}
    for key, (most, reason) in bounds.items():
        written = names.get(key, key)
        value = config.get(written, config.get(key))
        if value is None or isinstance(value, list):  # a list has a size for each layer
            continue
        if type(value) is not int or value < (key in POSITIVE):  # True is an int too
            raise UserError(f"{name}: {written} in its config.json is {_short(value)}, which is not a size")
        if value > max(most, QUICK.get(key, QUICK_WIDTH)):
            raise UserError(
                f"{name}: {written} in its config.json is {_short(value)}, but its weights file {reason}",
                "fetch both files again from the same place",
            )


def _short(value: Any) -> str:
    return f"{value:,}" if type(value) is int and abs(value) < 10**18 else ascii(str(value)[:20])


def _weights(name: str, revision: str | None) -> Weights | None:
    """From the safetensors files of a checkpoint, or else the size of its pytorch_model.bin; None without either."""
    if os.path.isdir(name) and (files := weight_files(Path(name))):
        return _of_headers(files)
    if whole := _file(name, SAFE_WEIGHTS_NAME, revision):
        return _of_headers([whole])
    if index := _file(name, SAFE_WEIGHTS_INDEX_NAME, revision):
        return _of_headers(get_checkpoint_shard_files(name, index, revision=revision)[0])
    if whole := _file(name, WEIGHTS_NAME, revision):
        return _of_sizes([whole])
    if index := _file(name, WEIGHTS_INDEX_NAME, revision):
        return _of_sizes(get_checkpoint_shard_files(name, index, revision=revision)[0])
    return None


def _file(name: str, file: str, revision: str | None) -> str | None:
    return cached_file(
        name,
        file,
        revision=revision,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )


def _of_headers(files: Sequence[str | Path]) -> Weights:
    tensors, widest = 0, 0
    for file in files:
        with safe_open(file, "pt") as weights:
            shapes = [weights.get_slice(key).get_shape() for key in weights.keys()]  # noqa: SIM118  # not a dictionary
        tensors += len(shapes)
        widest = max([widest, *(size for shape in shapes for size in shape)])
    return Weights(tensors, widest)


def _of_sizes(files: list[str]) -> Weights:
    size = sum(os.path.getsize(file) for file in files)
    return Weights(size // LEAST_BYTES, size)
