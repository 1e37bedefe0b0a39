"""Tiny untrained checkpoints."""

from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tinystories.checkpoint.loading import new_model
from tinystories.config.keys import ModelArguments


SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def untrained_model(
    tokenizer: PreTrainedTokenizerBase, context: int = 512, seed: int = 0, **sizes: int
) -> PreTrainedModel:
    """A network with fresh weights, the same for the same seed. It sets torch's seed."""
    torch.manual_seed(seed)
    return new_model(ModelArguments(**SIZES | sizes), tokenizer, context)


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
