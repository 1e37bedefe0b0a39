"""A checkpoint: a folder that is a complete Hub repository. This module makes and opens them.

transformers writes the weights, config, the two code files, the tokenizer and the generation config;
reporting/model_card.py writes the card. A checkpoint is opened with the classes of this installation; code in it is
not run.
"""

import os
import pickle
import shutil
import stat
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.tokenization_auto import get_tokenizer_config
from transformers.utils import CONFIG_NAME

from configuration_tinystories import TinyStoriesConfig
from modeling_tinystories import TinyStoriesForCausalLM, TinyStoriesForSequenceClassification, TinyStoriesModel
from tinystories.checkpoint.plausible import check_sizes
from tinystories.checkpoint.weights import check_finite, read_model
from tinystories.config.keys import ModelArguments, model_fields
from tinystories.config.names import check_found
from tinystories.data.tokenizer import read_tokenizer
from tinystories.errors import UserError, one_line
from tinystories.generation.presets import generation_config
from tinystories.run_files.reading import checkpoints


# What the libraries raise for a checkpoint that is damaged, of another kind or absent. From TypeError on: for values in
# its JSON files that are of another type or size than they expect.
UNREADABLE = (
    *(OSError, ValueError, LookupError, ImportError, RuntimeError, EOFError),
    *(pickle.UnpicklingError, SafetensorError, StrictDataclassError),
    *(TypeError, AttributeError, AssertionError, ArithmeticError),
)


class CodeNotTrustedError(UserError):
    """The checkpoint needs Python code of its author, which is not run unless the user says so."""


AutoConfig.register(TinyStoriesConfig.model_type, TinyStoriesConfig, exist_ok=True)
AutoModel.register(TinyStoriesConfig, TinyStoriesModel, exist_ok=True)
AutoModelForCausalLM.register(TinyStoriesConfig, TinyStoriesForCausalLM, exist_ok=True)
AutoModelForSequenceClassification.register(TinyStoriesConfig, TinyStoriesForSequenceClassification, exist_ok=True)


def new_model(arguments: ModelArguments, tokenizer: PreTrainedTokenizerBase, block_size: int) -> TinyStoriesForCausalLM:
    """A fresh model for this tokenizer; sizes that do not fit together are a `UserError`."""
    sizes = model_fields(arguments)
    attention = sizes.pop("attn_implementation")
    try:
        config = TinyStoriesConfig(
            **sizes,
            vocab_size=len(tokenizer),
            max_position_embeddings=block_size,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    except (StrictDataclassError, ValueError, ImportError) as error:
        raise UserError(f"the model of this recipe cannot be built: {one_line(error.__cause__ or error)}") from error
    scale_residual_projections(model, arguments.residual_init)
    model.generation_config = generation_config(tokenizer, max_new_tokens=max(1, block_size * 3 // 4))
    return model


@torch.no_grad()
def scale_residual_projections(model: TinyStoriesForCausalLM, residual_init: str) -> None:
    """Scale what each block adds to the residual stream at the start: normal, zero, or by 1 / sqrt(2 * layers).

    Only a fresh model has a start, so the config does not record it.
    """
    factor = {"normal": 1.0, "zero": 0.0, "depth_scaled": (2 * model.config.num_hidden_layers) ** -0.5}[residual_init]
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.mul_(factor)
        layer.mlp.down_proj.weight.mul_(factor)


def load_checkpoint(
    name: str,
    device: str | torch.device = "cpu",
    revision: str | None = None,
    tokenizer_name: str | None = None,
    usable: bool = True,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model (float32, evaluation mode) and the tokenizer of a checkpoint folder or Hub id.

    tokenizer_name: a folder or Hub id, where the tokenizer is not that of the checkpoint.
    usable: it must be able to write and to score (`check_usable`).

    Raises:
        CodeNotTrustedError: it cannot be opened without running its author's code.
        UserError: it cannot be opened for another reason, such as a missing weight, or the device cannot be used.
    """
    for each in (name, tokenizer_name):
        if each is not None:
            check_found(each, revision if each == name else None)
    check_sizes(name, revision)
    try:
        tokenizer = read_tokenizer(tokenizer_name or name, None if tokenizer_name else revision)
        model = read_model(AutoModelForCausalLM, name, dtype=torch.float32, revision=revision, trust_remote_code=False)
    except UNREADABLE as error:
        kind = CodeNotTrustedError if _needs_own_code(name, revision) else UserError
        raise kind(f"cannot open {name} as a checkpoint (a folder or Hub id): {reason_for(name, error)}") from error
    if usable:
        check_usable(name, model, tokenizer)
    return on_device(model, device), tokenizer


def check_usable(name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises UserError: weights that are not numbers; to a model of this project, a tokenizer that is not its own."""
    check_finite(name, model)
    if not isinstance(model, TinyStoriesForCausalLM):
        return
    config, remedy = model.config, "give the tokenizer that it was trained with"
    if len(tokenizer) != config.vocab_size:
        raise UserError(
            f"{name}: the tokenizer has {len(tokenizer)} tokens and the model {config.vocab_size}: they do not belong "
            "together",
            remedy,
        )
    for token in ("bos", "eos"):
        there, here = getattr(config, f"{token}_token_id"), getattr(tokenizer, f"{token}_token_id")
        if here is None or here not in (there if isinstance(there, list) else [there]):
            raise UserError(f"{name}: {token.upper()} is {here} in the tokenizer and {there} in the model", remedy)


def on_device(model: PreTrainedModel, device: str | torch.device) -> PreTrainedModel:
    """`model` on `device` in evaluation mode; a device that cannot be used is a `UserError`."""
    try:
        return model.to(device).eval()  # type: ignore[arg-type]  # the decorator of `to` hides its parameters
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"cannot use the device {device}: {one_line(error)}") from error


def share_weights(folder: Path) -> None:
    """Give the weights the mode of the config beside them, which the umask gave: safetensors writes for its owner."""
    for file in folder.glob("*.safetensors"):
        shutil.copymode(folder / CONFIG_NAME, file)


def reason_for(name: str, error: Exception) -> str:
    """Why a checkpoint cannot be opened, in one line; `error` is what the library raised."""
    if isinstance(error, (pickle.UnpicklingError, EOFError)):  # torch advises to run what may be an attacker's code
        return "its weights are damaged, or hold more than weights"
    return _unreadable_file(Path(name)) or _missing_file(Path(name)) or one_line(error)


def _missing_file(folder: Path) -> str | None:
    """The reason where a folder lacks a file: the library's message asks for sentencepiece or names the Hub."""
    needed = ("config.json", "tokenizer.json") if os.path.isdir(folder) else ()
    missing = [name for name in needed if not (folder / name).exists()]
    if not missing:
        return None
    reason, steps = f"it has no {' and no '.join(missing)}", checkpoints(folder)
    return f"{reason}: its run is not finished; end it with --resume, or give {steps[-1]}" if steps else reason


def _unreadable_file(folder: Path) -> str | None:
    """The reason where a folder or a file in it may not be read: the library's message says that it does not exist."""
    try:
        is_folder = stat.S_ISDIR(folder.stat().st_mode)
        for file in sorted(folder.iterdir()) if is_folder else ():
            if not os.access(file, os.R_OK) and file.is_file():
                return f"{file.name} may not be read"
    except PermissionError:
        return "it may not be read"
    except (OSError, ValueError):  # a Hub id
        return None
    return None


def _needs_own_code(name: str, revision: str | None) -> bool:
    """Whether the files of a checkpoint name code for a class that this installation does not have."""
    try:
        config, _ = PreTrainedConfig.get_config_dict(name, revision=revision)
        if "auto_map" in get_tokenizer_config(name, revision=revision):
            return True
        kind = config.get("model_type", "")
    except UNREADABLE:
        return False
    known = kind in CONFIG_MAPPING and CONFIG_MAPPING[kind] in MODEL_FOR_CAUSAL_LM_MAPPING
    return "auto_map" in config and not known


def describe_model(model: PreTrainedModel) -> str:
    """One line: parameters and sizes."""
    config = model.config
    return (
        f"model: {model.num_parameters():,} parameters ({config.num_hidden_layers} layers, width {config.hidden_size}, "
        f"{config.num_attention_heads} heads, vocabulary {config.vocab_size:,}, "
        f"context {config.max_position_embeddings})"
    )
