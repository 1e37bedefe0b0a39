"""ONNX files are the same model: in any batch, through the cache, in onnxruntime and in transformers.js."""

import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from configuration_tinystories import TinyStoriesConfig
from helpers.onnx_session import Session
from helpers.reader_speed import tokens_per_second
from helpers.runs import mistake
from helpers.transformers_js_page import find_chromium, opened_in_chromium
from helpers.untrained import save
from modeling_tinystories import TinyStoriesForCausalLM
from tinystories.atomic import is_no_room
from tinystories.checkpoint.stock import fuse_projections
from tinystories.commands import export
from tinystories.config.keys import TokenizerArguments
from tinystories.data.sample_corpus import sample_stories
from tinystories.data.tokenizer import train_tokenizer
from tinystories.exporting import plain
from tinystories.exporting.onnx import FILES, OnnxRuntime, check, readers, write
from tinystories.exporting.onnx_graph import onnx_model
from tinystories.exporting.proof import ProofError, greedy, nats
from tinystories.exporting.source import Source
from tinystories.exporting.texts import proof_texts
from tinystories.exporting.transformers_js import find_transformers_js, opened_by_transformers_js
from tinystories.generation.presets import generation_config


CONTEXT = 32
STORIES = list(sample_stories(60, seed=11))
SIZES = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.25,
}
PARTIAL = {"partial_rotary_factor": 0.5, "num_key_value_heads": 2, "head_dim": 20}  # heads are not hidden_size / 4
KINDS = {
    "full rotary": {},
    "partial rotary, grouped, wide heads": PARTIAL,
    "one key, untied": {"num_key_value_heads": 1, "tie_word_embeddings": False, "rms_norm_eps": 1e-5},
    "scaled rotary, dropout": {
        "rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 5e4, "partial_rotary_factor": 1.0},
        "attention_dropout": 0.5,
        "resid_pdrop": 0.5,
    },
}
needs_transformers_js = pytest.mark.skipif(
    find_transformers_js() is None, reason="no node with @huggingface/transformers (NODE_PATH or node_modules)"
)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(Dataset.from_dict({"text": STORIES}), TokenizerArguments(vocab_size=400, min_frequency=2))


@pytest.fixture(scope="module")
def make(tokenizer, tmp_path_factory):
    """A function that exports an untrained model of a kind, once; returns source and folder."""
    made = {}

    def exported(kind: str) -> tuple[Source, Path]:
        if kind not in made:
            source = untrained_source(tokenizer, **KINDS[kind])
            made[kind] = source, written(source, tmp_path_factory.mktemp("onnx"))
        return made[kind]

    return exported


def untrained_source(tokenizer, **changes) -> Source:
    torch.manual_seed(1)
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = TinyStoriesConfig(**({"vocab_size": len(tokenizer)} | SIZES | ids | changes))
    model = TinyStoriesForCausalLM(config).eval()
    model.generation_config = generation_config(tokenizer, max_new_tokens=20)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
    return Source("tiny", "tiny", Path(), model, tokenizer, torch.float32, "0" * 64, None, {})


def written(source: Source, parent: Path) -> Path:
    folder = parent / "a name é #1" / "llama"
    folder.mkdir(parents=True)
    check(source)
    plain.write(source, folder)
    write(source, folder)
    return folder


@torch.no_grad()
def expected(source: Source, ids) -> np.ndarray:
    return source.model(torch.tensor(np.asarray(ids))).logits.numpy()


def random_ids(batch: int, length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(3, 300, (batch, length))


def assert_close(found: np.ndarray, wanted: np.ndarray) -> None:
    assert found.dtype == np.float32 and found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("kind", KINDS)
def test_every_position(make, kind):
    """In one pass, one by one through the cache, and in pieces: up to the full context and far beyond it.

    A rotary table that ends at the context, a mask that is not causal inside a piece, and a wrong order of the heads
    in a group are wrong nowhere else.
    """
    source, folder = make(kind)
    session, ids = Session(folder / "onnx/model.onnx"), random_ids(2, 3 * CONTEXT)
    mask, wanted = np.ones_like(ids), expected(source, ids)
    assert_close(session.run(ids, mask)[0], wanted)
    assert_close(session.in_pieces(ids, mask, *range(1, 3 * CONTEXT)), wanted)
    assert_close(session.in_pieces(ids, mask, 5, 6, CONTEXT - 1, CONTEXT + 2), wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_left_padding(make, kind):
    """A batch with prompts of 1, 4 and 9 tokens: padding is not seen, and does not move the positions."""
    source, folder = make(kind)
    session, ids, lengths = Session(folder / "onnx/model.onnx"), random_ids(3, 14), (1, 4, 9)
    mask = np.array([[0] * (9 - length) + [1] * (length + 5) for length in lengths])
    found = session.in_pieces(ids * mask, mask, 9, 10, 11, 12, 13)
    assert np.isfinite(found).all()
    for row, length in enumerate(lengths):
        assert_close(found[row, 9 - length :], expected(source, ids[row : row + 1, 9 - length :])[0])


def test_mask_of_another_length(make):
    """A mask of the new token alone would be repeated for every cached one."""
    session, ids = Session(make("full rotary")[1] / "onnx/model.onnx"), random_ids(1, 6)
    _, cache = session.run(ids, np.ones_like(ids))
    for length in (1, 6, 8):
        with pytest.raises(Exception, match="Reshape"):
            session.session.run(
                None,
                {
                    "input_ids": ids[:, :1],
                    "position_ids": np.array([[6]]),
                    "attention_mask": np.ones((1, length), np.int64),
                    **cache,
                },
            )


@pytest.mark.parametrize("kind", KINDS)
def test_readers(make, kind):
    """Greedy text through each reader's cache is that of `generate`; 8-bit weights cost less than 1 %."""
    source, folder = make(kind)
    ids = source.tokenizer("Once upon a time")["input_ids"]
    long = source.tokenizer(STORIES[0])["input_ids"][: 2 * CONTEXT]
    wanted, cost = expected(source, [long])[0], []
    for reader in readers(source, folder):
        assert reader.file in FILES and reader.exact == (reader.file == "onnx/model.onnx")
        if reader.exact:
            assert_close(reader.logits(long), wanted)
            assert reader.greedy(ids, 25) == greedy(source.model, source.tokenizer, ids, 25)
            assert reader.greedy(ids[:1], 1) == greedy(source.model, source.tokenizer, ids[:1], 1)
        cost.append(nats(reader.logits(long), long) / nats(wanted, long) - 1)
        assert reader.greedy(ids, 0) == []
    assert len(cost) == (2 if find_transformers_js() is None else 4)
    assert np.abs(cost[::2]).max() < 1e-6 and 0 < np.abs(cost[1::2]).max() < 0.01


@pytest.mark.slow
def test_stops_after_eos(make, tmp_path):
    source, _ = make("full rotary")
    ids = source.tokenizer("Once")["input_ids"]
    wanted = greedy(source.model, source.tokenizer, ids, 10)
    stop = next(i for i in range(2, 10) if wanted[i] not in wanted[:i])
    folder = written(source, tmp_path)
    eos = source.tokenizer.convert_ids_to_tokens(wanted[stop])
    ending = replace(source, tokenizer=AutoTokenizer.from_pretrained(folder, eos_token=eos))
    ending.tokenizer.save_pretrained(folder)
    assert next(readers(ending, folder)).greedy(ids, 10) == wanted[: stop + 1]
    with opened_by_transformers_js(folder, "onnx/model.onnx", "fp32", wanted[stop]) as reader:
        assert reader is None or reader.greedy(ids, 10) == wanted[: stop + 1]


@pytest.mark.parametrize("tied", [True, False])
def test_size(tokenizer, tied):
    """A tied embedding is stored once, and int8 weights take a byte each: a second one would be 80 kB or more."""
    model = untrained_source(tokenizer, vocab_size=2000, tie_word_embeddings=tied).model
    matrices = [p for p in model.parameters() if p.ndim == 2]
    rows, numbers = sum(len(matrix) for matrix in matrices), sum(matrix.numel() for matrix in matrices)
    for eight_bit, weights in ((False, 4 * numbers), (True, numbers + 4 * rows)):
        size = len(onnx_model(model, eight_bit, {}).SerializeToString())
        assert weights < size < weights + 25_000


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("eight_bit", [False, True])
def test_graph(make, kind, eight_bit):
    """Valid, of the standard's operators alone, with the names and shapes that transformers.js makes its cache from."""
    source, _ = make(kind)
    config = source.model.config
    model = onnx_model(source.model, eight_bit, {"weights_sha256": "ab"})
    onnx.checker.check_model(model, full_check=True)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 18)]
    assert {entry.key: entry.value for entry in model.metadata_props} == {"weights_sha256": "ab"}
    shapes = {
        tensor.name: [size.dim_param or size.dim_value for size in tensor.type.tensor_type.shape.dim]
        for tensor in (*model.graph.input, *model.graph.output)
    }
    heads = [config.num_key_value_heads, config.head_dim]
    assert list(shapes)[:5] == [
        *("input_ids", "attention_mask", "position_ids"),
        *("past_key_values.0.key", "past_key_values.0.value"),
    ]
    assert shapes["past_key_values.1.value"] == ["batch_size", heads[0], "past_sequence_length", heads[1]]
    assert shapes["present.1.value"] == ["batch_size", heads[0], "total_sequence_length", heads[1]]
    assert shapes["logits"] == ["batch_size", "sequence_length", config.vocab_size]
    assert len(shapes) == 4 + 4 * config.num_hidden_layers


def test_eight_bit_weights(tokenizer):
    """Every matrix is rounded to the nearest of 255 steps of its row; in a row of zeros, 0 / 0 is not a number."""
    source = untrained_source(tokenizer)
    with torch.no_grad():
        source.model.model.embed_tokens.weight[5] = 0
    stored = {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in onnx_model(source.model, True, {}).graph.initializer
    }
    for name, weight in fuse_projections(source.model.state_dict()).items():
        if weight.ndim == 2 and name != "lm_head.weight":
            rows, scale = stored[name], stored[f"{name}_scale"]
            assert rows.dtype == np.int8 and np.isfinite(scale).all() and (scale > 0).all()
            largest = np.abs(weight.numpy()).max(axis=1, keepdims=True)
            assert (np.abs(rows * scale - weight.numpy()) <= largest / 254 + 1e-6).all(), name


def test_tokenizer(make):
    """The rewritten files give transformers the same tokenizer: ids with BOS, typed special tokens, decoding."""
    source, folder = make("full rotary")
    rewritten = AutoTokenizer.from_pretrained(folder)
    texts = proof_texts(STORIES)
    assert rewritten(texts)["input_ids"] == source.tokenizer(texts)["input_ids"]
    typed = source.tokenizer("a <|eos|> b", add_special_tokens=False)["input_ids"]
    ids = [1, *typed, 2, 0]
    for skip in (False, True):
        wanted = source.tokenizer.decode(ids, skip_special_tokens=skip)
        assert rewritten.decode(ids, skip_special_tokens=skip) == wanted
    assert rewritten.all_special_ids == source.tokenizer.all_special_ids and rewritten.padding_side == "left"
    assert json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"] == []
    assert next(readers(source, folder)).encode("a <|eos|> b") == typed


def test_other_tokenizer(make, tokenizer, tmp_path):
    """One that takes typed special tokens for special, and adds no BOS, stays as it is."""
    other = AutoTokenizer.from_pretrained(make("full rotary")[1], split_special_tokens=False, add_bos_token=False)
    folder = written(replace(make("full rotary")[0], tokenizer=other), tmp_path)
    again = AutoTokenizer.from_pretrained(folder)
    assert again("a<|eos|>")["input_ids"] == other("a<|eos|>")["input_ids"]
    assert again("a<|eos|>")["input_ids"][-1] == 2 and again("a")["input_ids"][0] != 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"hidden_act": "gelu"}, "hidden_act is gelu"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, "type dynamic"),
        ({"vocab_size": 400_000, "hidden_size": 1312}, "2 GB"),
    ],
)
def test_cannot_be_written(tokenizer, changes, reason):
    with torch.device("meta"):
        model = TinyStoriesForCausalLM(TinyStoriesConfig(**(SIZES | changes)))
    source = replace(untrained_source(tokenizer), model=model)
    assert reason in mistake(check, source)


def test_tokenizer_without_table(tokenizer):
    """Its special tokens cannot become plain entries, and transformers.js would read typed ones as special."""
    unigram = Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0)], unk_id=0))
    other = PreTrainedTokenizerFast(tokenizer_object=unigram, unk_token="<unk>", split_special_tokens=True)
    source = untrained_source(tokenizer)
    assert "no table of its tokens" in mistake(check, replace(source, tokenizer=other))
    other.split_special_tokens = False
    check(replace(source, tokenizer=other))


def test_largest(tokenizer):
    """The largest model that fits is not refused."""
    with torch.device("meta"):
        model = TinyStoriesForCausalLM(TinyStoriesConfig(**SIZES | {"vocab_size": 400_000, "hidden_size": 1304}))
    check(replace(untrained_source(tokenizer), model=model))


@pytest.mark.slow
@needs_transformers_js
@pytest.mark.parametrize("kind", ["full rotary", "partial rotary, grouped, wide heads"])
def test_transformers_js_tokenizer(make, kind):
    """Its ids of 300 texts in all scripts are ours, and it leaves special tokens out when it decodes."""
    source, folder = make(kind)
    with opened_by_transformers_js(folder, "onnx/model_quantized.onnx", "q8", 2) as reader:
        for text in proof_texts(STORIES):
            ids = source.tokenizer(text, add_special_tokens=False)["input_ids"]
            assert reader.encode(text) == ids
            assert not ids or reader.decode([1, *ids, 2, 0]) == source.tokenizer.decode(ids)


@pytest.mark.slow
@needs_transformers_js
def test_transformers_js_pipeline(make):
    """Its pipeline begins prompts with BOS, which it does for no tokenizer by itself, and pads a batch."""
    source, folder = make("partial rotary, grouped, wide heads")
    prompts = ["Once upon a time", "One", "The little <|eos|>"]
    program = Path(__file__).parent.parent / "helpers" / "pipeline.mjs"
    node, library = find_transformers_js()
    found = subprocess.run(
        [node, program, library, folder, json.dumps(prompts)], capture_output=True, encoding="utf-8", timeout=60
    )
    assert found.returncode == 0, found.stderr
    for prompt, text in zip(prompts, json.loads(found.stdout), strict=True):
        ids = source.tokenizer(prompt)["input_ids"]
        new_ids = greedy(source.model, source.tokenizer, ids, 12)
        assert text == source.tokenizer.decode(ids + new_ids, skip_special_tokens=True)


@pytest.mark.slow
@pytest.mark.browser
@needs_transformers_js
def test_chromium(make):
    """In a page with WASM, and with nothing from the network: our ids, and the greedy text of `generate`."""
    playwright_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    source, folder = make("partial rotary, grouped, wide heads")
    ids = source.tokenizer("Once upon a time")["input_ids"]
    with playwright_api.sync_playwright() as playwright:
        path = find_chromium(playwright)
        if path is None:
            pytest.skip("no browser: neither playwright's chromium nor chromium or google-chrome")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        with opened_in_chromium(browser, find_transformers_js()[1], folder, "fp32", 2) as reader:
            assert reader.greedy(ids, 25) == greedy(source.model, source.tokenizer, ids, 25)
            assert reader.encode("a <|eos|>") == source.tokenizer("a <|eos|>", add_special_tokens=False)["input_ids"]
            assert_close(reader.logits(ids), expected(source, [ids])[0])
            assert tokens_per_second(reader, ids, 5, repeats=2) and reader.greedy_seconds(ids, 5) > 0
            assert reader.heard == [] and all(url.startswith("/") for url in reader.requested)
        browser.close()


def library_that(tmp_path: Path, code: str) -> str:
    """A folder of node modules with another library under the name of transformers.js."""
    library = tmp_path / "node_modules" / "@huggingface" / "transformers"
    library.mkdir(parents=True)
    (library / "package.json").write_text('{"main": "main.js"}', encoding="utf-8")
    (library / "main.js").write_text(code, encoding="utf-8")
    return str(tmp_path / "node_modules")


def test_no_transformers_js(make, tmp_path, monkeypatch):
    monkeypatch.delenv("NODE_PATH", raising=False)
    monkeypatch.chdir(tmp_path)
    assert find_transformers_js() is None
    assert [type(reader) for reader in readers(*make("full rotary"))] == [OnnxRuntime, OnnxRuntime]
    library_that(tmp_path, "")
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    assert (find_transformers_js() is None) == (shutil.which("node") is None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_transformers_js() is None


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("node") is None, reason="no node")
@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("throw new Error('no binary for this system')", None),
        ("exports.env = {version: '9'}", "cannot be opened by transformers.js 9"),
        ("exports.env = {version: '9'}; setTimeout(() => process.exit(3), 1000);", "cannot be opened"),
        (
            "exports.env = {version: '9'}; setTimeout(() => process.kill(process.pid, 'SIGKILL'), 5);",
            "cannot be opened",
        ),
    ],
)
def test_broken_transformers_js(make, tmp_path, monkeypatch, caplog, code, words):
    """One that does not start is not a proof and not an obstacle; one that starts and fails is a failed proof."""
    monkeypatch.setenv("NODE_PATH", os.pathsep.join([str(tmp_path / "none"), library_that(tmp_path, code)]))
    found = readers(*make("full rotary"))
    next(found), next(found)
    if words is None:
        assert list(found) == []
        assert "no binary for this system" in caplog.text and "\n" not in caplog.messages[0]
    else:
        with pytest.raises(ProofError, match=words) as caught:
            next(found)
        assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_command(make, tmp_path, monkeypatch):
    """The command asks for the plain folder too, and says which reader was not there."""
    source, _ = make("partial rotary, grouped, wide heads")
    save(source.model, source.tokenizer, tmp_path / "model")
    monkeypatch.delenv("NODE_PATH", raising=False)
    monkeypatch.chdir(tmp_path)
    export.main(["model", "--format", "onnx", "--output_dir", "out"])
    report = json.loads((tmp_path / "out" / "export.json").read_text(encoding="utf-8"))["formats"]
    assert list(report) == ["llama", "onnx"] and report["onnx"]["not_tried"] == ["transformers.js in node"]
    assert report["onnx"]["bytes"] == {file: (tmp_path / "out" / "llama" / file).stat().st_size for file in FILES}
    full, eight_bit = report["onnx"]["proofs"]
    assert full["exact"] and full["greedy_tokens_equal"] == full["greedy_tokens"] > 0 and full["texts"] == 300
    assert not eight_bit["exact"] and eight_bit["texts"] == 300
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "out"]


@pytest.mark.skipif(os.name == "nt", reason="no limit of the size of files")
def test_no_room(make, tmp_path):
    """A file that cannot be written is an error of the system, after which the caller removes the folder."""
    import resource  # not on Windows

    source, folder = make("full rotary")
    copy = tmp_path / "llama"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("onnx"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, limits[1]))
    try:
        with pytest.raises(OSError) as caught:
            write(source, copy)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert is_no_room(caught.value)
