"""Tokens that are looked up for parts of a story are those that the tokenizer gives for the whole story."""

import datasets
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tinystories.config.keys import TokenizerArguments
from tinystories.data import encoding
from tinystories.data.corpus import dataset_key, text_arrays
from tinystories.data.encoding import StoryEncoder, encode_stories, has_known_cuts
from tinystories.data.sample_corpus import sample_stories
from tinystories.data.tokenizer import LEARNED, byte_level_pieces, train_tokenizer


QUOTED = "\u201cDon\u2019t!\u201d she\u2019d said, 12 times\u2026  \n\n\tIT'S DON'T'S \u00e9 \u00e0 \u00f1"
TEXTS = [*sample_stories(60, seed=3), QUOTED, "छोटी मछली न้ำใจ " * 4]
LONG = "a" * 15, "a" * 16, "a" * 17, "é" * 8, "x" * 7 + "\0", "x" * 7, "<|eos|>", ""


def as_dataset(texts) -> datasets.Dataset:
    return datasets.Dataset.from_dict({"text": list(texts)}, features=datasets.Features(text=datasets.Value("string")))


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(as_dataset(TEXTS * 2), TokenizerArguments(vocab_size=700))


@pytest.fixture(scope="module")
def encoder(tokenizer):
    return StoryEncoder(tokenizer)


def expected(texts, tokenizer) -> list[list[int]]:
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    return [[bos, *tokenizer(text, add_special_tokens=False)["input_ids"], eos] for text in texts]


def as_lists(tokens, lengths) -> list[list[int]]:
    assert len(tokens) == lengths.sum()
    return [part.tolist() for part in np.split(tokens, np.cumsum(lengths)[:-1])]


def all_tokens(stories, tokenizer, workers=None) -> list[list[int]]:
    return [ids for batch in encode_stories(stories, tokenizer, workers) for ids in as_lists(*batch)]


def test_texts(tokenizer, encoder):
    """Guards: keys that do not tell parts apart, a story without letters, one that is empty, one at the end of all."""
    texts = [*TEXTS, *LONG, *LONG[::-1]]
    for _ in range(2):  # learned, then known
        assert as_lists(*encoder.encode(pa.array(texts))) == expected(texts, tokenizer)


@given(
    texts=st.lists(
        st.text(alphabet="ab'sS tTlLé\u0301\u200d \u2019\n\r\t\x0b\u00a0\u2028.,\"-1२\0<|", max_size=12), min_size=1
    )
)
def test_where_texts_are_cut(tokenizer, encoder, texts):
    """Guards: a cut inside of a contraction, of white space, or before a mark that belongs to what stands before it."""
    assert as_lists(*encoder.encode(pa.array(texts))) == expected(texts, tokenizer)


@given(texts=st.lists(st.text(max_size=8), min_size=1, max_size=4))
def test_any_text(tokenizer, encoder, texts):
    assert as_lists(*encoder.encode(pa.array(texts, pa.large_string()))) == expected(texts, tokenizer)


def test_slice_of_an_array(tokenizer, encoder):
    assert as_lists(*encoder.encode(pa.array(TEXTS).slice(3, 5))) == expected(TEXTS[3:8], tokenizer)


def test_full_table(tokenizer, monkeypatch):
    """Guards: parts that share a slot, and the numbers of parts that were forgotten."""
    monkeypatch.setattr(encoding, "SLOT_BITS", 2)
    monkeypatch.setattr(encoding, "MOST_BYTES", 300)
    encoder = StoryEncoder(tokenizer)
    for _ in range(2):
        for start in range(0, len(TEXTS), 4):
            texts = TEXTS[start : start + 4]
            assert as_lists(*encoder.encode(pa.array(texts))) == expected(texts, tokenizer)


@pytest.mark.parametrize("number", [1, 999, 1000, 1001, 4100])
def test_threads_keep_the_order(tokenizer, number):
    texts = [f"Hen {i} sat." for i in range(number)]
    wanted = [ids for (ids,) in (expected([text], tokenizer) for text in texts)]
    for workers in (1, 3):
        assert all_tokens(as_dataset(texts), tokenizer, workers) == wanted


def test_error_in_a_thread(tokenizer, monkeypatch):
    """Guards: a batch that is lost, or waited for without end."""

    def refuse(self, texts):
        raise MemoryError("no room")

    monkeypatch.setattr(StoryEncoder, "encode", refuse)
    with pytest.raises(MemoryError, match="no room"):
        all_tokens(as_dataset(["a"] * 3000), tokenizer, 2)


def copy_of(tokenizer, **changes) -> PreTrainedTokenizerFast:
    backend = type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str())
    names = {name: getattr(tokenizer, name) for name in ("bos_token", "eos_token", "pad_token")}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names | {"split_special_tokens": True} | changes)


def with_added(tokenizer):
    changed = copy_of(tokenizer)
    changed.add_tokens([AddedToken("y L", special=False)])
    return changed


def with_pieces(tokenizer, pieces):
    changed = copy_of(tokenizer)
    changed.backend_tokenizer.pre_tokenizer = pieces
    return changed


@pytest.mark.parametrize(
    ("change", "known"),
    [
        (lambda tokenizer: tokenizer, True),
        (lambda tokenizer: with_pieces(tokenizer, byte_level_pieces(LEARNED)), True),
        (lambda tokenizer: with_pieces(tokenizer, byte_level_pieces(r"[^.]+|\.")), False),
        (lambda tokenizer: with_pieces(tokenizer, pre_tokenizers.ByteLevel(add_prefix_space=True)), False),
        (with_added, False),
        (lambda tokenizer: copy_of(tokenizer, split_special_tokens=False), False),
    ],
)
def test_other_tokenizers(tokenizer, change, known):
    """Guards: a tokenizer that cuts elsewhere, or finds a text before it cuts, and is asked for parts."""
    changed = change(tokenizer)
    texts = [*TEXTS, "Lily Lily L. <|eos|> end"]
    assert has_known_cuts(changed) is known
    assert all_tokens(as_dataset(texts), changed) == expected(texts, changed)


@pytest.mark.parametrize(
    "places", [range(0), [0], range(5, 40), [*range(3), *range(30, 60)], [59, 2, 30], range(0, 60, 7)]
)
@pytest.mark.parametrize("number", [1, 7, 100])
def test_selected_stories(places, number):
    """Guards: a selection that is read in another order, or with what was not selected."""
    stories = as_dataset(TEXTS).select(range(61)).select(places)
    read = [text for texts in text_arrays(stories, number) for text in texts.to_pylist()]
    assert read == stories["text"][:] == [TEXTS[place] for place in places]
    assert dataset_key(stories) == dataset_key(as_dataset(read))
