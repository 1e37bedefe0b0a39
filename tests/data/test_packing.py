"""Rows of tokens: every story whole and in order, no stale cache, and each token scored exactly once."""

import json
import math
import multiprocessing
import os
from collections import Counter
from types import SimpleNamespace

import datasets
import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from helpers.runs import mistake
from tinystories.config.keys import DataArguments, TokenizerArguments
from tinystories.data.cache import content_key
from tinystories.data.packing import IGNORED, StoryCollator, encode_story, pack
from tinystories.data.tokenizer import train_tokenizer
from tinystories.errors import GuardError
from tinystories.evaluation.scoring import ScoringRows, score, score_from_tokens, scoring_rows, token_nll


SHORT = [f"Hen {i} sat{' and sat' * (i % 7)}." for i in range(60)]
LONG = "The goat walked and walked, and on the way it met a worm. " * 20


def as_dataset(texts) -> datasets.Dataset:
    return datasets.Dataset.from_dict({"text": list(texts)})


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(as_dataset([*SHORT, LONG]), TokenizerArguments(vocab_size=290))


@pytest.fixture(scope="module")
def byte_tokenizer():
    """One token a byte."""
    return train_tokenizer(as_dataset(SHORT), TokenizerArguments(vocab_size=259))


@pytest.fixture(scope="module")
def tokenizer_folder(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_pretrained(folder)
    return folder


def data_arguments(tmp_path, block_size=16, **arguments) -> DataArguments:
    return DataArguments(block_size=block_size, data_cache_dir=str(tmp_path / "cache"), **arguments)


@pytest.fixture
def packed(tokenizer, tmp_path):
    """Pack texts; the rows as an array and the report."""

    def packed(texts, tokenizer=tokenizer, **arguments) -> tuple[np.ndarray, dict]:
        result = pack(as_dataset(texts), tokenizer, data_arguments(tmp_path, **arguments))
        return np.array(result.rows[:]["input_ids"]), result.report

    return packed


def cached(tmp_path) -> set[str]:
    """The names of the finished row folders."""
    return {path.name for path in (tmp_path / "cache").glob("rows-*") if path.is_dir()}


# One stream


def assert_is_stream(rows, report, texts, tokenizer, block_size) -> None:
    stream = [token for text in texts for token in encode_story(text, tokenizer)]
    kept = len(stream) // block_size * block_size
    assert rows.shape == (kept // block_size, block_size)
    assert rows.reshape(-1).tolist() == stream[:kept]
    assert report == {
        "stories": len(texts),
        "tokens": len(stream),
        "rows": kept // block_size,
        "dropped_tokens": len(stream) - kept,
        "padding_tokens": 0,
    }


@pytest.mark.parametrize("block_size", [2, 7, 16, 64, 500])
def test_stream(packed, tokenizer, block_size):
    """Rows hold all stories in order, up to the dropped tail."""
    rows, report = packed(SHORT, block_size=block_size)
    assert_is_stream(rows, report, SHORT, tokenizer, block_size)


def test_stream_over_several_batches(packed, tokenizer):
    texts = [f"{i}" for i in range(2500)]
    rows, report = packed(texts, block_size=13)
    assert_is_stream(rows, report, texts, tokenizer, 13)


def test_stream_with_a_long_story(packed, tokenizer):
    assert len(encode_story(LONG, tokenizer)) > 10 * 16
    texts = [SHORT[0], LONG, SHORT[1]]
    rows, report = packed(texts)
    assert_is_stream(rows, report, texts, tokenizer, 16)


def test_stream_without_tail(packed, byte_tokenizer):
    rows, report = packed(["a" * 6, "b" * 14], tokenizer=byte_tokenizer, block_size=8)
    assert (len(rows), report["dropped_tokens"]) == (3, 0)


def test_encode_story(tokenizer):
    """BOS, text, EOS; the name of a special token in a story is text."""
    text = "The sign said <|eos|>."
    ids = encode_story(text, tokenizer)
    assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert not set(ids[1:-1]) & set(tokenizer.all_special_ids)
    assert tokenizer.decode(ids[1:-1]) == text


def test_selected_stories(tokenizer, tmp_path):
    """`select` leaves the file as it is and puts an index above it."""
    stories = as_dataset(SHORT).select([5, 3, 40, 3])
    rows = pack(stories, tokenizer, data_arguments(tmp_path, block_size=2)).rows[:]["input_ids"]
    stream = [token for i in (5, 3, 40, 3) for token in encode_story(SHORT[i], tokenizer)]
    assert np.array(rows).reshape(-1).tolist() == stream[: len(stream) // 2 * 2]


def value_type_on_disk(rows: datasets.Dataset) -> pa.DataType:
    with pa.memory_map(rows.cache_files[0]["filename"]) as source, pa.ipc.open_stream(source) as stream:
        return stream.schema.field("input_ids").type.value_type


def test_two_bytes_a_token(tokenizer, tmp_path):
    rows = pack(as_dataset(SHORT), tokenizer, data_arguments(tmp_path)).rows
    assert value_type_on_disk(rows) == pa.uint16()
    (folder,) = (tmp_path / "cache").iterdir()
    files = {path.name for path in folder.iterdir()}
    assert files == {"rows.arrow", "report.json", "sealed.json"}  # no second copy of the tokens


def test_large_vocabulary(tmp_path):
    """Guards: ids above 65,535 that wrap around."""
    words = ["<p>", "<b>", "<e>", *(f"w{i}" for i in range(70_000))]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    large = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<p>", bos_token="<b>", eos_token="<e>")
    for aligned in (False, True):
        arguments = data_arguments(tmp_path, block_size=5, align_to_stories=aligned)
        rows = pack(as_dataset(["w1 w65536 w69999"]), large, arguments).rows
        assert rows[0]["input_ids"].tolist() == [1, 4, 65539, 70002, 2]
        assert value_type_on_disk(rows) == pa.uint32()


@pytest.mark.parametrize("aligned", [False, True])
def test_tokenizing_in_two_threads(tokenizer, tmp_path, aligned):
    """The rows are those of one thread."""
    texts = [*SHORT, LONG] * 40
    results = []
    for workers in (None, 2):
        folder = tmp_path / f"{workers}"
        arguments = data_arguments(folder, align_to_stories=aligned, preprocessing_num_workers=workers)
        result = pack(as_dataset(texts), tokenizer, arguments)
        results.append((np.array(result.rows[:]["input_ids"]), result.report, cached(folder)))
    assert np.array_equal(results[0][0], results[1][0])
    assert results[0][1:] == results[1][1:]


# Rows that begin with a story


def segments(rows, tokenizer) -> list[list[list[int]]]:
    """Each row without its padding, cut after every EOS."""
    cut = []
    for row in rows.tolist():
        while row and row[-1] == tokenizer.pad_token_id:
            row.pop()
        assert tokenizer.pad_token_id not in row, "padding inside a row"
        pieces = [[]]
        for token in row:
            pieces[-1].append(token)
            if token == tokenizer.eos_token_id:
                pieces.append([])
        cut.append([piece for piece in pieces if piece])
    return cut


def expected_pieces(texts, tokenizer, block_size) -> Counter:
    """Every story, or every row's worth of a story that is longer than a row."""
    encoded = [encode_story(text, tokenizer) for text in texts]
    return Counter(tuple(ids[i : i + block_size]) for ids in encoded for i in range(0, len(ids), block_size))


ALIGNED = {
    "short stories": (SHORT, 64),
    "stories longer than a row": ([*SHORT, LONG, LONG + "The end."], 32),
    "every story longer than a row": ([LONG] * 3, 16),
    "more than a batch": ([f"{i}" for i in range(2500)], 24),
}


@pytest.mark.parametrize(("texts", "block_size"), ALIGNED.values(), ids=ALIGNED)
def test_aligned_rows(packed, tokenizer, texts, block_size):
    """Every story is whole, and padding is on the right only."""
    rows, report = packed(texts, block_size=block_size, align_to_stories=True)
    pieces = Counter(tuple(piece) for row in segments(rows, tokenizer) for piece in row)
    assert pieces == expected_pieces(texts, tokenizer, block_size)
    padding = int((rows == tokenizer.pad_token_id).sum())
    assert report["stories"] == len(texts)
    assert (report["rows"], report["padding_tokens"], report["dropped_tokens"]) == (len(rows), padding, 0)
    assert report["tokens"] + padding == rows.size


@pytest.mark.parametrize(("texts", "block_size"), ALIGNED.values(), ids=ALIGNED)
def test_aligned_stories_begin_with_bos(packed, tokenizer, texts, block_size):
    """The rest of a long story may begin a row; behind the end of another story it would be nonsense."""
    rows, _ = packed(texts, block_size=block_size, align_to_stories=True)
    for row in segments(rows, tokenizer):
        assert all(piece[0] == tokenizer.bos_token_id for piece in row[1:])


def test_rest_of_a_long_story(packed, byte_tokenizer):
    """It is not put behind another story."""
    rows, _ = packed(["a" * 8, "b" * 18], tokenizer=byte_tokenizer, block_size=16, align_to_stories=True)
    rest = byte_tokenizer("bbb", add_special_tokens=False)["input_ids"]
    assert [*rest, byte_tokenizer.eos_token_id] in rows[:, :4].tolist()


def test_aligned_rows_begin_with_bos(packed, tokenizer):
    """So it is where all stories fit into a row."""
    rows, _ = packed(SHORT, block_size=64, align_to_stories=True)
    assert set(rows[:, 0].tolist()) == {tokenizer.bos_token_id}


def test_little_padding(packed, byte_tokenizer):
    texts = ["a" * (1 + 17 * i % 40) for i in range(400)]  # 3 to 42 tokens
    _, report = packed(texts, tokenizer=byte_tokenizer, block_size=64, align_to_stories=True)
    assert report["padding_tokens"] < 0.05 * report["tokens"]


def test_exact_fit(packed, byte_tokenizer):
    """A story as long as a row shares it with none, and needs no padding."""
    rows, report = packed(["a" * 6, "b" * 2, "c" * 2], tokenizer=byte_tokenizer, block_size=8, align_to_stories=True)
    assert (len(rows), report["padding_tokens"]) == (2, 0)


# What is refused


def test_too_little_text(tokenizer, tmp_path):
    """It is refused each time, also from the cache."""
    for _ in range(2):
        message = mistake(pack, as_dataset(["One."]), tokenizer, data_arguments(tmp_path, block_size=64))
        assert "64" in message and "block_size" in message


@pytest.mark.parametrize("block_size", [1, 0, -4])
def test_wrong_block_size(packed, block_size):
    assert "block_size" in mistake(packed, SHORT, block_size=block_size)


@pytest.mark.parametrize("missing", ["pad", "bos", "eos"])
def test_missing_special_token(packed, tokenizer, missing):
    names = {f"{name}_token": getattr(tokenizer, f"{name}_token") for name in ("pad", "bos", "eos") if name != missing}
    incomplete = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, **names)
    assert f"no {missing} token" in mistake(packed, SHORT, tokenizer=incomplete)


# The cache


def test_packed_once(packed, tmp_path):
    first, report = packed(SHORT)
    (file,) = (tmp_path / "cache").glob("rows-*/rows.arrow")
    identity = (file.stat().st_ino, file.stat().st_mtime_ns)
    again, report_again = packed(list(SHORT))
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == identity
    assert len(cached(tmp_path)) == 1
    assert np.array_equal(first, again) and report == report_again


@pytest.mark.parametrize(
    ("texts", "arguments"),
    [
        ([*SHORT, LONG], {}),
        (SHORT[:-1], {}),
        (SHORT[::-1], {}),
        ([*SHORT[:-2], SHORT[-2] + SHORT[-1]], {}),
        (SHORT, {"block_size": 17}),
        (SHORT, {"align_to_stories": True}),
    ],
    ids=["a story more", "a story less", "another order", "two stories joined", "block_size", "align_to_stories"],
)
def test_other_input_is_packed_anew(packed, tmp_path, texts, arguments):
    before, _ = packed(SHORT)
    after, _ = packed(texts, **arguments)
    assert len(cached(tmp_path)) == 2
    assert not np.array_equal(before, after)


def test_other_tokenizer_at_the_same_path(packed, tokenizer, byte_tokenizer, tmp_path):
    for number, kind in enumerate((tokenizer, byte_tokenizer), start=1):
        kind.save_pretrained(tmp_path / "tokenizer")
        rows, report = packed(SHORT, tokenizer=AutoTokenizer.from_pretrained(tmp_path / "tokenizer"))
        assert_is_stream(rows, report, SHORT, kind, 16)
        assert len(cached(tmp_path)) == number


def test_key_covers_special_tokens(packed, tokenizer, tokenizer_folder):
    """split_special_tokens is not part of tokenizer.json, but changes the tokens: it is part of the key."""
    texts = [f"{text} <|eos|>" for text in SHORT]
    other = AutoTokenizer.from_pretrained(tokenizer_folder, split_special_tokens=False)
    assert not np.array_equal(packed(texts)[0][:5], packed(texts, tokenizer=other)[0][:5])


def test_content_key():
    """Guards: two lists of parts with the same key because their joined text is the same."""
    keys = [["ab", "c"], ["a", "bc"], ["abc"], ["abc", ""], ["1"], [1], [True], [None], [b"abc"], []]
    assert len({content_key(key) for key in keys}) == len(keys)
    assert content_key(iter(["a", 1])) == content_key(["a", 1])


class Interfering:
    """A tokenizer that does something once it has tokenized the first batch of stories."""

    def __init__(self, tokenizer, interfere):
        self.tokenizer, self.interfere, self.calls = tokenizer, interfere, 0

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)

    def __len__(self):
        return len(self.tokenizer)

    def __call__(self, *args, **kwargs):
        self.calls += 1
        if self.calls == 2:
            self.interfere()
        return self.tokenizer(*args, **kwargs)


TWO_BATCHES = [f"{i}" for i in range(1500)]


def fail():
    raise RuntimeError("the disk is full")


def test_failed_build(packed, tokenizer, tmp_path):
    """It leaves nothing behind."""
    with pytest.raises(RuntimeError, match="the disk is full"):
        packed(TWO_BATCHES, tokenizer=Interfering(tokenizer, fail))
    assert not list((tmp_path / "cache").iterdir())
    rows, report = packed(TWO_BATCHES)
    assert_is_stream(rows, report, TWO_BATCHES, tokenizer, 16)


def pack_and_interfere(tokenizer_folder, tmp_path, interfere, arguments=()) -> None:
    """Build the rows, and call `interfere` after the first batch of stories."""
    tokenizer = Interfering(AutoTokenizer.from_pretrained(tokenizer_folder), lambda: interfere(*arguments))
    result = pack(as_dataset(TWO_BATCHES), tokenizer, data_arguments(tmp_path))
    assert tokenizer.calls == 2
    rows = np.array(result.rows[:]["input_ids"]).tolist()
    (tmp_path / f"{os.getpid()}.json").write_text(json.dumps([rows, result.report]), encoding="utf-8")


def start_process(*arguments):
    process = multiprocessing.get_context("spawn").Process(target=pack_and_interfere, args=arguments)
    process.start()
    return process


@pytest.mark.slow
def test_killed_build(packed, tokenizer, tokenizer_folder, tmp_path):
    """It is never taken for complete."""
    process = start_process(tokenizer_folder, tmp_path, os._exit, (9,))
    process.join(timeout=300)
    assert process.exitcode == 9
    assert not cached(tmp_path)
    rows, report = packed(TWO_BATCHES)
    assert_is_stream(rows, report, TWO_BATCHES, tokenizer, 16)


# Batches for training


PAD, BOS, EOS = 0, 1, 2


def collate(*rows, **first_target):
    return StoryCollator(PAD)([{"input_ids": np.array(row, dtype=np.uint16)} | first_target for row in rows])


def test_labels():
    """They are the input ids, EOS included, not shifted."""
    rows = [[BOS, 7, 8, EOS, BOS, 9], [7, EOS, BOS, 65535, 8, EOS]]
    batch = collate(*rows)
    assert set(batch) == {"input_ids", "labels"}  # no attention mask: it would leave the fast attention kernel
    for tensor in batch.values():
        assert tensor.dtype == torch.int64
        assert tensor.tolist() == rows


def test_padding_has_no_label():
    batch = collate([BOS, 7, EOS, PAD, PAD])
    assert batch["input_ids"].tolist() == [[BOS, 7, EOS, PAD, PAD]]
    assert batch["labels"].tolist() == [[BOS, 7, EOS, IGNORED, IGNORED]]


def test_rows_of_different_length():
    batch = collate([BOS, 7, EOS], [BOS, 7, 8, 9, EOS])
    assert batch["input_ids"].tolist() == [[BOS, 7, EOS, PAD, PAD], [BOS, 7, 8, 9, EOS]]
    assert batch["labels"].tolist() == [[BOS, 7, EOS, IGNORED, IGNORED], [BOS, 7, 8, 9, EOS]]


def test_first_target():
    """Tokens before it are read and not scored."""
    batch = collate([6, 7, 8, EOS], [6, 7, EOS], first_target=2)
    assert batch["input_ids"].tolist() == [[6, 7, 8, EOS], [6, 7, EOS, PAD]]
    assert batch["labels"].tolist() == [[IGNORED, IGNORED, 8, EOS], [IGNORED, IGNORED, EOS, IGNORED]]


def test_collating_copies(packed, tokenizer, tmp_path):
    """Neither the rows nor the input ids change with the labels."""
    rows, _ = packed(SHORT)
    dataset = pack(as_dataset(SHORT), tokenizer, data_arguments(tmp_path)).rows
    collator = StoryCollator(tokenizer.pad_token_id)
    batches = [collator([dataset[i] for i in (0, 3)]) for _ in range(2)]
    for batch in batches:
        assert batch["input_ids"].tolist() == batch["labels"].tolist() == rows[[0, 3]].tolist()
    batches[0]["labels"][:] = 0
    assert batches[0]["input_ids"].tolist() == rows[[0, 3]].tolist()  # two tensors, not one under two names


# Scoring

ALPHABET = "".join(chr(code) for code in range(33, 127))  # 94 characters, 94 different tokens


def targets(rows, pad_token_id) -> Counter:
    """What the model's loss scores: labels after the first position that are not ignored."""
    labels = StoryCollator(pad_token_id)(rows)["labels"][:, 1:]
    return Counter(labels[labels != IGNORED].tolist())


def assert_each_token_is_scored_once(texts, tokenizer, block_size) -> None:
    stories = scoring_rows(as_dataset(texts), tokenizer, block_size)
    encoded = [encode_story(text, tokenizer) for text in texts]
    assert targets(stories.rows, tokenizer.pad_token_id) == Counter(token for ids in encoded for token in ids[1:])
    assert max(len(row["input_ids"]) for row in stories.rows) <= block_size
    for row in stories.rows:
        window, first = list(row["input_ids"]), row["first_target"]
        at_start = window[0] == tokenizer.bos_token_id
        assert first == 1 if at_start else first >= block_size // 2, "a window goes on with half of the one before"
        assert any(window == ids[i : i + len(window)] for ids in encoded for i in range(len(ids))), "a piece"
    assert stories.num_stories == len(texts)
    assert stories.num_bytes == sum(len(text.encode()) for text in texts)


@pytest.mark.parametrize("block_size", [2, 3, 8, 9])
@pytest.mark.parametrize("length", ["shorter", "equal", "one longer", "half longer", "twice", "several times"])
def test_each_token_is_scored_once(byte_tokenizer, block_size, length):
    tokens = {
        "shorter": block_size - 1,
        "equal": block_size,
        "one longer": block_size + 1,
        "half longer": block_size + block_size // 2,
        "twice": 2 * block_size,
        "several times": 7 * block_size + 1,
    }[length]
    assert_each_token_is_scored_once([ALPHABET[: max(0, tokens - 2)]], byte_tokenizer, block_size)


@given(lengths=st.lists(st.integers(0, len(ALPHABET)), min_size=1, max_size=6), block_size=st.integers(2, 60))
def test_each_token_of_any_stories(byte_tokenizer, lengths, block_size):
    """It is scored once, however long the stories are."""
    assert_each_token_is_scored_once([ALPHABET[:length] for length in lengths], byte_tokenizer, block_size)


def test_utf8_bytes(tokenizer):
    assert scoring_rows(as_dataset(["Zoë", "🦊."]), tokenizer, 16).num_bytes == 4 + 5


def test_token_nll():
    """The loss of a token is at its place, and ignored tokens have none."""
    logits = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[1, 3, 2, IGNORED], [IGNORED, IGNORED, 4, 0]])
    nll = -logits.double().log_softmax(-1)
    expected = [[0, nll[0, 0, 3], nll[0, 1, 2], 0], [0, 0, nll[1, 1, 4], nll[1, 2, 0]]]
    np.testing.assert_allclose(token_nll(logits, labels).numpy(), expected, rtol=1e-5)


def test_half_precision_logits():
    nll = token_nll(torch.zeros(1, 3, 7, dtype=torch.bfloat16), torch.ones(1, 3, dtype=torch.int64))
    assert nll.dtype == torch.float32
    np.testing.assert_allclose(nll.numpy(), [[0, math.log(7), math.log(7)]], rtol=1e-6)


def rows_of(*articles: list[int], num_bytes: int = 10) -> ScoringRows:
    """One row for each list, whose 1s are the tokens of articles; the first token of a row is BOS."""
    rows = [
        {"input_ids": np.zeros(len(row), int), "first_target": 1, "articles": np.array(row, bool)} for row in articles
    ]
    return ScoringRows(rows, len(rows), num_bytes)


def test_score():
    """It is a mean over tokens and bytes, not over rows."""
    nll = np.array([[9, 5.0, 3.0, -100, -100], [9, 0.5, 0.25, 0.25, 0.0]], dtype=np.float32)
    result = score_from_tokens(nll, rows_of([0, 1, 0], [0, 0, 0, 1, 0]))
    assert (result.loss, result.tokens, result.bytes, result.stories) == (9 / 6, 6, 10, 2)
    assert result.perplexity == pytest.approx(math.exp(1.5))
    assert result.bits_per_byte == pytest.approx(9 / math.log(2) / 10)
    assert (result.article_loss, result.article_tokens, result.other_loss) == (5.25 / 2, 2, 3.75 / 4)


def test_infinite_perplexity():
    result = score_from_tokens([np.array([0.0, 8000.0])], rows_of([0, 0]))
    assert result.perplexity == math.inf
    assert result.article_loss is None and result.other_loss == 8000


def test_score_with_a_row_too_few():
    """A story left out of the sum would still count in the bytes: the number would look better than it is."""
    with pytest.raises(GuardError, match="1 rows were scored instead of 2"):
        score_from_tokens([np.array([0.0, 8.0])], rows_of([0, 0], [0, 0]))


class Reader(torch.nn.Module):
    """A simple causal model: its prediction depends on every token before it and on none after it."""

    device = torch.device("cpu")

    def __init__(self, vocabulary: int):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = torch.nn.Embedding(vocabulary, 8)
        self.output = torch.nn.Linear(8, vocabulary)

    def forward(self, input_ids):
        return SimpleNamespace(logits=self.output(torch.tanh(self.embedding(input_ids).cumsum(1) / 3)))


@torch.no_grad()
def nats_token_by_token(model, ids, block_size) -> float:
    """Each token after BOS in the first of the windows, half a context apart, that holds it."""
    nats = 0.0
    for place in range(1, len(ids)):
        start = 0
        while place >= start + block_size:
            start += block_size // 2
        logits = model(torch.tensor([ids[start:place]])).logits[0, -1]
        nats -= logits.double().log_softmax(-1)[ids[place]].item()
    return nats


@pytest.mark.parametrize("block_size", [7, 16, 400])
def test_score_of_a_model(tokenizer, block_size):
    """It equals the sum over single tokens for each batch size."""
    texts = [*SHORT[:5], LONG[:300], "🦊", ""]
    model = Reader(len(tokenizer)).train()
    encoded = [encode_story(text, tokenizer) for text in texts]
    nats = sum(nats_token_by_token(model, ids, block_size) for ids in encoded)
    tokens = sum(len(ids) - 1 for ids in encoded)
    num_bytes = sum(len(text.encode()) for text in texts)
    stories = scoring_rows(as_dataset(texts), tokenizer, block_size)
    for batch_size in (1, 3, 1000):
        result = score(model, stories, tokenizer.pad_token_id, batch_size)
        assert (result.tokens, result.bytes, result.stories) == (tokens, num_bytes, len(texts))
        assert result.loss == pytest.approx(nats / tokens, rel=1e-5)
        assert result.perplexity == pytest.approx(math.exp(nats / tokens), rel=1e-4)
        assert result.bits_per_byte == pytest.approx(nats / math.log(2) / num_bytes, rel=1e-5)
