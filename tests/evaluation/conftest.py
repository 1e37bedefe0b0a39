"""Fixtures that several tests of the evaluation use."""

from pathlib import Path

import datasets
import pytest
import torch

from helpers.untrained import save, untrained_model
from tinystories.config.keys import TokenizerArguments
from tinystories.data.sample_corpus import sample_stories
from tinystories.data.tokenizer import train_tokenizer


@pytest.fixture(scope="session")
def untrained_checkpoint(tmp_path_factory) -> Path:
    """The folder of a tiny untrained model. Its answers are arbitrary and the same everywhere."""
    stories = datasets.Dataset.from_dict({"text": sample_stories(250, seed=6)})
    tokenizer = train_tokenizer(stories, TokenizerArguments(vocab_size=800))
    model = untrained_model(tokenizer, num_hidden_layers=1)
    torch.nn.init.normal_(model.get_input_embeddings().weight)  # otherwise all words are nearly equally likely
    return save(model, tokenizer, tmp_path_factory.mktemp("untrained"))
