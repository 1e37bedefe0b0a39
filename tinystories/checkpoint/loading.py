"""A checkpoint: a folder that is a complete Hub repository. This module makes and opens them.

transformers itself writes weights, config, the two code files, the tokenizer and the generation config;
reporting/model_card.py writes the card. Our commands open a checkpoint with the classes of this installation; code from
a stranger's checkpoint is not run.
"""

from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from configuration_tinystories import TinyStoriesConfig
from modeling_tinystories import TinyStoriesForCausalLM, TinyStoriesForSequenceClassification, TinyStoriesModel
from tinystories.config.arguments import ModelArguments, model_fields
from tinystories.errors import UserError, one_line
from tinystories.generation.presets import generation_config


# What opening a damaged, foreign or absent checkpoint raises.
UNREADABLE = (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError, StrictDataclassError)

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
    """The start of what each block adds to the residual stream. Only a fresh model has one, so no config records it."""
    factor = {"normal": 1.0, "zero": 0.0, "depth_scaled": (2 * model.config.num_hidden_layers) ** -0.5}[residual_init]
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.mul_(factor)
        layer.mlp.down_proj.weight.mul_(factor)


def load_checkpoint(
    name: str, device: str | torch.device = "cpu", revision: str | None = None, tokenizer_name: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model (float32, evaluation mode) and the tokenizer of a checkpoint folder or Hub id; `tokenizer_name`: where
    the tokenizer is another folder or id."""
    settings = {"revision": revision, "trust_remote_code": False}
    try:
        if tokenizer_name:
            tokenizer = AutoTokenizer.from_pretrained(tokenizer_name, trust_remote_code=False)
        else:
            tokenizer = AutoTokenizer.from_pretrained(name, **settings)
        model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32, **settings)
    except UNREADABLE as error:
        reason = _missing_file(Path(name)) or one_line(error)
        raise UserError(f"cannot open {name} as a checkpoint (a folder or Hub id): {reason}") from error
    try:
        return model.to(device).eval(), tokenizer
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"cannot use the device {device}: {one_line(error)}") from error


def _missing_file(folder: Path) -> str | None:
    """Said where a folder cannot be opened: the library would ask for sentencepiece, or look on the Hub."""
    needed = ("config.json", "tokenizer.json") if folder.is_dir() else ()
    missing = [name for name in needed if not (folder / name).exists()]
    return f"it holds no {' and no '.join(missing)}" if missing else None


def describe_model(model: PreTrainedModel) -> str:
    """One line: parameters and sizes."""
    config = model.config
    return (
        f"model: {model.num_parameters():,} parameters ({config.num_hidden_layers} layers, width {config.hidden_size}, "
        f"{config.num_attention_heads} heads, vocabulary {config.vocab_size:,}, "
        f"context {config.max_position_embeddings})"
    )
