"""Tokenizers of this version and of 0.1.0, which cuts texts in another way."""

import pytest

from helpers.export_sources import small_tokenizer
from helpers.untrained import unpack_earlier_tokenizer
from tinystories.data.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return small_tokenizer()


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    return load_tokenizer(str(unpack_earlier_tokenizer(tmp_path_factory.mktemp("earlier"))))
