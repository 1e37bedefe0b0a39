"""The weights of a checkpoint are all there, are all used, and are in the checkpoint's own files.

transformers fills a weight that it does not find with random numbers, leaves out one that it does not know, and opens
whatever file an index names; it says so in a table on stderr at most. Here each of these is refused by name.
"""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME
from transformers.utils.peft_utils import ADAPTER_CONFIG_NAME

from modeling_tinystories import TinyStoriesForCausalLM
from tinystories.errors import UserError, one_line
from tinystories.links import leads_outside


logger = logging.getLogger(__name__)

FLOATS = {"F64", "F32", "F16", "BF16"}  # as safetensors names them
REMEDY = "copy or fetch the whole checkpoint again, or use an earlier one"


def read_model(kind: Any, name: str, **options: Any) -> PreTrainedModel:
    """`kind.from_pretrained(name, **options)`, if every weight is read.

    kind: a model class or an Auto class. name: a folder or Hub id.

    Raises:
        UserError: a weight is missing, of another shape or no number; an index names a file outside the folder; an
            adapter is beside the weights. In a model of this project also: a weight that the network does not have.
            Otherwise that is a warning.
        What `from_pretrained` raises, for other damage.
    """
    is_folder = os.path.isdir(name)
    if is_folder:
        _check_files(Path(name))
    with _no_table():
        model, found = kind.from_pretrained(name, output_loading_info=True, ignore_mismatched_sizes=True, **options)
    if not is_folder:
        config = try_to_load_from_cache(name, CONFIG_NAME, revision=getattr(model.config, "_commit_hash", None))
        if isinstance(config, str):
            _check_files(Path(config).parent)
    _check_complete(name, model, found)
    return model


def _check_complete(name: str, model: PreTrainedModel, found: dict[str, Any]) -> None:
    """found: what transformers read into `model` and what not. Tied weights need to be there once."""
    missing = sorted(found["missing_keys"] & dict(model.named_parameters()).keys())
    if missing:
        raise UserError(f"{name}: its weights lack {_first(missing)}, which would be random numbers", REMEDY)
    for key, stored, wanted in sorted(found["mismatched_keys"]):
        raise UserError(f"{name}: {key} has the shape {tuple(stored)}, and by config.json {tuple(wanted)}", REMEDY)
    unknown, own = sorted(found["unexpected_keys"]), isinstance(model, TinyStoriesForCausalLM)
    if unknown and own:
        raise UserError(f"{name}: its weights hold {_first(unknown)}, which its network does not have", REMEDY)
    if unknown:
        logger.warning("%s: not used: %s", name, _first(unknown))
    if own and model.config.tie_word_embeddings and model.lm_head.weight is not model.model.embed_tokens.weight:
        raise UserError(
            f"{name}: lm_head.weight is not model.embed_tokens.weight, and by config.json they are one", REMEDY
        )


def check_finite(name: str, model: PreTrainedModel) -> None:
    """Raises UserError: a weight holds NaN or infinity, of which nothing can be computed."""
    for key, weight in model.named_parameters():
        if not weight.isfinite().all():
            raise UserError(f"{name}: {key} holds numbers that are not finite", "use an earlier checkpoint")


def _first(keys: list[str]) -> str:
    return keys[0] if len(keys) == 1 else f"{keys[0]} and {len(keys) - 1} more"


@contextmanager
def _no_table() -> Iterator[None]:
    """Without transformers' report of what it did not read: the error has one line.

    A filter and not a level: with one, transformers says of weights that it shards none of them.
    """
    loader = logging.getLogger("transformers.modeling_utils")
    loader.addFilter(_not_logged)
    try:
        yield
    finally:
        loader.removeFilter(_not_logged)


def _not_logged(record: logging.LogRecord) -> bool:
    return False


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that a checkpoint is opened from: model.safetensors, or those that its index names.

    Raises:
        UserError: the index is damaged, or names what is not a file of this folder.
    """
    whole, index = folder / SAFE_WEIGHTS_NAME, folder / SAFE_WEIGHTS_INDEX_NAME
    if whole.is_file() or not index.is_file():
        return [whole] if whole.is_file() else []
    return [_shard(folder, name) for name in sorted(set(_named(index).values()))]


def _named(index: Path) -> dict[str, str]:
    """The file of each weight."""
    try:
        named: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        if not named or not all(isinstance(name, str) for name in named.values()):
            raise TypeError("weight_map is not a map from weights to files")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index} is damaged ({one_line(error)})", REMEDY) from error
    return named


def _shard(folder: Path, name: str) -> Path:
    """The file `name` of `folder`."""
    if Path(name).name != name or leads_outside(folder / name, folder):
        raise UserError(
            f"{folder}: {SAFE_WEIGHTS_INDEX_NAME} names {name!r}, which is not a file of this folder", REMEDY
        )
    if not (folder / name).is_file():
        raise UserError(f"{folder} lacks {name}, which its {SAFE_WEIGHTS_INDEX_NAME} names", REMEDY)
    return folder / name


def _check_files(folder: Path) -> None:
    """Each file is whole, each weight is in one of them, made of floating-point numbers; no adapter changes them."""
    if (folder / ADAPTER_CONFIG_NAME).exists():
        raise UserError(
            f"{folder} holds an adapter ({ADAPTER_CONFIG_NAME}) beside its weights: with peft it changes them, without "
            "peft it is left out",
            "merge it into the weights, or move it to a folder of its own",
        )
    quantized = "quantization_config" in _config(folder)
    places: dict[str, str] = {}
    for file in weight_files(folder):
        try:
            with safe_open(file, "pt") as weights:
                formats = {key: weights.get_slice(key).get_dtype() for key in weights.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise UserError(f"{file} is damaged ({one_line(error)})", REMEDY) from error
        for key, stored in formats.items():
            if key in places:
                raise UserError(f"{folder}: {key} is in {places[key]} and in {file.name}", REMEDY)
            places[key] = file.name
            if stored not in FLOATS and not quantized and key.endswith(".weight"):
                raise UserError(f"{file}: {key} is stored as {stored}, which no weight is", REMEDY)


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # transformers says why it cannot be read
    return config if isinstance(config, dict) else {}
