"""Opens a checkpoint of this project for writing without transformers, whose import takes longer than a story.

It opens only what is in order in every respect. Anything else, such as a missing weight, a shard, a field that it does
not know or a model of others, is left to loading.py, which opens it too or says what is wrong.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer

from tinystories.generation.decode_graph import HEAD, sizes_of, unsupported, weight_shapes
from tinystories.generation.decoder import Decoder, read_weights


# Fields of config.json that `TinyStoriesConfig` writes. Another one may change what the model is.
FIELDS = {
    *("architectures", "attention_dropout", "auto_map", "bos_token_id", "dtype", "embd_pdrop", "eos_token_id"),
    *("head_dim", "hidden_act", "hidden_size", "initializer_range", "intermediate_size", "max_position_embeddings"),
    *("model_type", "num_attention_heads", "num_hidden_layers", "num_key_value_heads", "pad_token_id"),
    *("partial_rotary_factor", "resid_pdrop", "rms_norm_eps", "rope_parameters", "tie_word_embeddings"),
    *("transformers_version", "use_cache", "vocab_size"),
}
TOKENIZER_FIELDS = {
    *("backend", "bos_token", "clean_up_tokenization_spaces", "eos_token", "is_local", "local_files_only"),
    *("model_max_length", "pad_token", "padding_side", "split_special_tokens", "tokenizer_class", "trained_on"),
    "trained_on_stories",
}
WEIGHTS, ADAPTER = "model.safetensors", "adapter_config.json"


class _NotInOrder(Exception):
    pass


@dataclass(frozen=True)
class QuickCheckpoint:
    decoder: Decoder
    tokenizer: Tokenizer
    config: dict[str, Any]

    @property
    def end(self) -> int:
        """The token that ends a story."""
        return int(self.config["eos_token_id"])


def open_quickly(name: str) -> QuickCheckpoint | None:
    """The checkpoint in a folder; None where loading.py has to open it or to say why it cannot be opened."""
    folder = Path(name)
    try:
        config = _config(folder)
        tokenizer = _tokenizer(folder, config)
        weights = _weights(folder, config)
        return QuickCheckpoint(Decoder(weights, config), tokenizer, config)
    except (_NotInOrder, OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, SafetensorError):
        return None


def _require(*conditions: bool) -> None:
    if not all(conditions):
        raise _NotInOrder


def _config(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = _json(folder / "config.json")
    _require(config.keys() <= FIELDS, unsupported(config) is None, not (folder / ADAPTER).exists())
    sizes = sizes_of(config)
    counts = (sizes.vocab_size, sizes.hidden_size, sizes.intermediate_size, sizes.layers, sizes.heads, sizes.kv_heads)
    _require(all(type(count) is int and count > 0 for count in (*counts, sizes.head_dim, sizes.context)))
    _require(sizes.hidden_size % sizes.heads == 0, sizes.heads % sizes.kv_heads == 0)
    _require(type(sizes.tied) is bool, type(sizes.epsilon) is float, 0 < 2 * len(sizes.frequencies) <= sizes.head_dim)
    _json(folder / "generation_config.json")  # not used here, but part of a checkpoint that is whole
    return config


def _tokenizer(folder: Path, config: dict[str, Any]) -> Tokenizer:
    """It gives the ids that transformers' tokenizer of these files gives."""
    settings = _json(folder / "tokenizer_config.json")
    _require(settings.keys() <= TOKENIZER_FIELDS, settings["tokenizer_class"] == "TokenizersBackend")
    _require(settings["clean_up_tokenization_spaces"] is False)
    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the library raises a bare one
        raise _NotInOrder from error
    _require(tokenizer.truncation is None, tokenizer.padding is None)
    special = {token.content: number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    _require(tokenizer.get_vocab_size() == config["vocab_size"])
    for kind in ("bos", "eos", "pad"):
        _require(special[settings[f"{kind}_token"]] == config[f"{kind}_token_id"])
    tokenizer.encode_special_tokens = bool(settings["split_special_tokens"])
    return tokenizer


def _weights(folder: Path, config: dict[str, Any]) -> dict[str, np.ndarray]:
    sizes = sizes_of(config)
    wanted = weight_shapes(sizes)
    with safe_open(folder / WEIGHTS, "numpy") as file:  # which compares the sizes of header and file
        shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118  # no dictionary
    _require(shapes == wanted, HEAD not in shapes or not sizes.tied, sum(map(math.prod, shapes.values())) < 2**31)
    weights = read_weights(folder)
    _require(all(np.isfinite(weight).all() for weight in weights.values()))
    return weights


def _json(file: Path) -> dict[str, Any]:
    content = json.loads(file.read_text(encoding="utf-8"))
    _require(isinstance(content, dict))
    return content
