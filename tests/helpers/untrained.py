"""Tiny untrained checkpoints, and a tokenizer of version 0.1.0."""

import zipfile
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tinystories.checkpoint.loading import new_model
from tinystories.config.keys import ModelArguments


SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def unpack_earlier_tokenizer(folder: Path) -> Path:
    """The tokenizer of tests/helpers/run_of_0_1_0.zip, which cuts texts as GPT-2 does; returns its folder."""
    with zipfile.ZipFile(Path(__file__).parent / "run_of_0_1_0.zip") as archive:
        for name in ("run/tokenizer.json", "run/tokenizer_config.json"):
            archive.extract(name, folder)
    return folder / "run"


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
