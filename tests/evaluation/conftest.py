"""Fixtures that several tests of the evaluation use."""

from pathlib import Path

import datasets
import pytest
import torch

from tinystories.checkpoint.loading import new_model
from tinystories.config.keys import ModelArguments, TokenizerArguments
from tinystories.data.sample_corpus import sample_stories
from tinystories.data.tokenizer import train_tokenizer


@pytest.fixture(scope="session")
def untrained_checkpoint(tmp_path_factory) -> Path:
    """The folder of a tiny untrained model. Its answers are arbitrary and the same everywhere."""
    folder = tmp_path_factory.mktemp("untrained")
    stories = datasets.Dataset.from_dict({"text": sample_stories(250, seed=6)})
    tokenizer = train_tokenizer(stories, TokenizerArguments(vocab_size=800))
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = new_model(ModelArguments(**sizes), tokenizer, block_size=512)
    torch.nn.init.normal_(model.get_input_embeddings().weight)  # otherwise all words are nearly equally likely
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
