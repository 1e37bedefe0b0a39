"""GGUF files are the checkpoint: by transformers, by a network in float64, and by llama.cpp where it is installed."""

import logging
import sys
from importlib.util import find_spec

import gguf
import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from helpers.export_sources import STORIES, expected_of_small, random_source
from helpers.runs import mistake
from tinystories.data.tokenizer import LEARNED, byte_level_pieces
from tinystories.evaluation.second_path import SecondPath
from tinystories.exporting import llama_cpp
from tinystories.exporting.llama_cpp_readers import LlamaCppReader, TransformersReader
from tinystories.exporting.proof import ProofError, prove
from tinystories.exporting.texts import proof_texts


NETWORKS = {
    "llama": {},
    "llama, wide heads, own head, other theta and eps": {
        "head_dim": 16,
        "tie_word_embeddings": False,
        "rope_theta": 5e4,
        "rms_norm_eps": 1e-2,
    },
    "phi3": {"partial_rotary_factor": 0.5},
    "phi3, own head, other theta": {"partial_rotary_factor": 0.5, "tie_word_embeddings": False, "rope_theta": 5e4},
}
needs_llama_cpp = pytest.mark.skipif(find_spec("llama_cpp") is None, reason="llama-cpp-python is not installed")


@pytest.fixture(scope="module")
def written(tokenizer, tmp_path_factory):
    """Source and folder of each network, written once."""
    made = {}
    for name, fields in NETWORKS.items():
        source, folder = random_source(tokenizer, **fields), tmp_path_factory.mktemp("gguf")
        llama_cpp.check(source)
        llama_cpp.write(source, folder)
        made[name] = (source, folder)
    return made


def field(path, key):
    return gguf.GGUFReader(path).fields[key].contents()


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_same_model_by_transformers(written, network):
    """Rows of queries and keys in the wrong order, a lost head, theta or eps: other logits."""
    source, folder = written[network]
    expected = expected_of_small(source, ["", "a <|eos|> b", *STORIES[:5]])
    for precision in llama_cpp.PRECISIONS:
        reader = TransformersReader(folder / f"small-{precision}.gguf", exact=precision == "F32")
        proof = prove(expected, reader)
        assert (proof["largest_logit_difference"] == 0) is (precision == "F32")


@pytest.mark.parametrize("network", NETWORKS)
def test_same_model_in_float64(written, network):
    """What transformers and the writer would both get wrong: the file by llama.cpp's rules, in a third network."""
    source, folder = written[network]
    read = SecondPath(*by_llama_cpp(folder / "small-F32.gguf"))
    ids = source.tokenizer(STORIES[0])["input_ids"][:40]
    own = SecondPath(source.model.config.to_dict(), {k: v.numpy() for k, v in source.model.state_dict().items()})
    np.testing.assert_allclose(read.logits(ids), own.logits(ids), rtol=1e-9, atol=1e-9)


def by_llama_cpp(path):
    """Configuration and weights of a GGUF file by the names of Llama."""
    file = gguf.GGUFReader(path)
    arch = file.fields["general.architecture"].contents()
    said = {key.removeprefix(f"{arch}."): f.contents() for key, f in file.fields.items() if key.startswith(f"{arch}.")}
    width, heads, kv_heads = said["attention.key_length"], said["attention.head_count"], said["attention.head_count_kv"]
    rope = {"partial_rotary_factor": said["rope.dimension_count"] / width, "rope_theta": said["rope.freq_base"]}
    config = {
        "model_type": "llama",
        "num_hidden_layers": said["block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": width,
        "hidden_size": said["embedding_length"],
        "max_position_embeddings": said["context_length"],
        "rms_norm_eps": said["attention.layer_norm_rms_epsilon"],
        "rope_parameters": rope,
    }
    config["rms_norm_eps"] = float(np.round(config["rms_norm_eps"], 9))  # float32 in the file
    tensors = {tensor.name.removesuffix(".weight"): np.array(tensor.data) for tensor in file.tensors}
    weights = {"model.embed_tokens": tensors["token_embd"], "model.norm": tensors["output_norm"]}
    weights["lm_head"] = tensors.get("output", tensors["token_embd"])
    for layer in range(said["block_count"]):
        here, there = f"blk.{layer}.", f"model.layers.{layer}."
        if arch == "llama":
            query, key = (tensors[f"{here}attn_{part}"].reshape(-1, width // 2, 2, 32) for part in "qk")
            parts = [part.transpose(0, 2, 1, 3).reshape(-1, 32) for part in (query, key)]
            parts += [tensors[f"{here}attn_v"], tensors[f"{here}ffn_gate"], tensors[f"{here}ffn_up"]]
        else:
            cuts = [heads * width, (heads + kv_heads) * width]
            parts = [*np.split(tensors[f"{here}attn_qkv"], cuts), *np.split(tensors[f"{here}ffn_up"], 2)]
        names = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj"]
        names += ["self_attn.o_proj", "mlp.down_proj", "input_layernorm", "post_attention_layernorm"]
        parts += [tensors[here + part] for part in ("attn_output", "ffn_down", "attn_norm", "ffn_norm")]
        weights |= {there + name: part for name, part in zip(names, parts, strict=True)}
    return config, {f"{name}.weight": weight for name, weight in weights.items()}


@needs_llama_cpp
@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_same_model_by_llama_cpp(written, network, capfd):
    """And its library, which is written in C++, says nothing on stderr."""
    source, folder = written[network]
    expected = expected_of_small(source, proof_texts(STORIES))
    for precision in ("F32", "Q8_0"):
        with LlamaCppReader(folder / f"small-{precision}.gguf", exact=precision == "F32") as reader:
            proof = prove(expected, reader)
    assert proof["texts_equal"] == 300
    said = capfd.readouterr().err.replace("\r", "\n").splitlines()
    assert [line for line in said if line and not line.startswith("scoring ")] == [], "but for our own progress bar"


@needs_llama_cpp
@pytest.mark.slow
def test_llama_cpp_reads_the_earlier_tokenizer(earlier, tmp_path):
    source = random_source(earlier)
    llama_cpp.write(source, tmp_path)
    with LlamaCppReader(tmp_path / "small-F16.gguf", exact=False) as reader:
        assert prove(expected_of_small(source, proof_texts(STORIES)), reader)["texts_equal"] == 300


@needs_llama_cpp
@pytest.mark.slow
def test_llama_cpp_stops_at_eos(tokenizer, tmp_path):
    """Its users have a story that ends, without a stop text of their own."""
    import llama_cpp as library

    source = random_source(tokenizer)
    llama_cpp.write(source, tmp_path)
    llama = library.Llama(str(tmp_path / "small-F32.gguf"), n_ctx=64, verbose=False)
    choose_eos = library.LogitsProcessorList([lambda ids, logits: np.eye(len(tokenizer))[tokenizer.eos_token_id]])
    answer = llama("Once", max_tokens=20, temperature=0.0, logits_processor=choose_eos)["choices"][0]
    llama.close()
    assert (answer["finish_reason"], answer["text"]) == ("stop", "")


@needs_llama_cpp
def test_llama_cpp_without_this_pre_tokenizer(written, tmp_path):
    """As one that is older than the name."""
    file = tmp_path / "older.gguf"
    file.write_bytes((written["llama"][1] / "small-F16.gguf").read_bytes().replace(b"qwen35", b"qwen99"))
    reason = mistake(lambda: LlamaCppReader(file, exact=False))
    assert "cannot open older.gguf" in reason and "update llama-cpp-python" in reason


@pytest.mark.parametrize(("which", "name"), [("tokenizer", "qwen35"), ("earlier", "gpt-2")])
def test_tokenizer(which, name, request, tmp_path):
    """The wrong name of the pre-tokenizer gives other ids for Hindi, digits and lines, and no sign of it in English."""
    tokenizer = request.getfixturevalue(which)
    source = random_source(tokenizer, hidden_size=8, intermediate_size=8, num_hidden_layers=1)
    llama_cpp.write(source, tmp_path)
    path = tmp_path / "small-F16.gguf"
    reader = TransformersReader(path, exact=False)
    for text in proof_texts(STORIES):
        assert reader.encode(text) == tokenizer(text, add_special_tokens=False)["input_ids"], text
    assert field(path, "tokenizer.ggml.pre") == name
    kinds = field(path, "tokenizer.ggml.token_type")
    assert [i for i, kind in enumerate(kinds) if kind == gguf.TokenType.CONTROL] == sorted(tokenizer.all_special_ids)
    assert field(path, "tokenizer.ggml.add_bos_token") is True
    assert field(path, "tokenizer.ggml.add_eos_token") is False
    for key, token in (("bos", "bos"), ("eos", "eos"), ("padding", "pad")):
        assert field(path, f"tokenizer.ggml.{key}_token_id") == getattr(tokenizer, f"{token}_token_id")


def test_other_ids_are_refused(tokenizer, earlier, tmp_path):
    """The file of one tokenizer beside the checkpoint of another: the first token that differs is named."""
    llama_cpp.write(random_source(tokenizer, num_hidden_layers=1), tmp_path)
    reader = TransformersReader(tmp_path / "small-F32.gguf", exact=True)
    with pytest.raises(ProofError, match=r"token 1 of 'On.* is \d+, and in the checkpoint's tokenizer \d+"):
        prove(expected_of_small(random_source(earlier), STORIES[:3]), reader)


def test_files_and_modelfile(written):
    _, folder = written["llama"]
    files = {f"small-{precision}.gguf" for precision in ("F32", "F16", "BF16", "Q8_0")}
    assert {path.name for path in folder.iterdir()} == {*files, "Modelfile"}
    sizes = [(folder / f"small-{precision}.gguf").stat().st_size for precision in ("F32", "F16", "Q8_0")]
    assert sizes == sorted(sizes, reverse=True)
    lines = (folder / "Modelfile").read_text().splitlines()
    assert lines[:2] == ["FROM ./small-Q8_0.gguf", 'TEMPLATE """{{ .Prompt }}"""']
    for line in ("temperature 0.8", "top_k 50", "top_p 0.95", "repeat_penalty 1.0", "repeat_last_n -1"):
        assert f"PARAMETER {line}" in lines
    for line in ("num_ctx 64", "num_predict 40", 'stop "<|eos|>"'):
        assert f"PARAMETER {line}" in lines


def test_precision_of_each_tensor(written):
    """Norms stay float32; llama.cpp refuses others."""
    kinds = gguf.GGMLQuantizationType
    for precision in llama_cpp.PRECISIONS:
        file = gguf.GGUFReader(written["llama"][1] / f"small-{precision}.gguf")
        assert {t.tensor_type for t in file.tensors if "norm" in t.name} == {kinds.F32}
        assert {t.tensor_type for t in file.tensors if "norm" not in t.name} == {kinds[precision]}
        assert "output.weight" not in {tensor.name for tensor in file.tensors}, "the tied matrix is stored once"


@pytest.mark.parametrize(("width", "whole"), [(32, True), (40, False)])
def test_rows_that_q8_0_cannot_hold(tokenizer, tmp_path, caplog, width, whole):
    source = random_source(tokenizer, intermediate_size=width, num_hidden_layers=1)
    with caplog.at_level(logging.WARNING):
        llama_cpp.write(source, tmp_path)
    kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / "small-Q8_0.gguf").tensors}
    assert kinds["blk.0.ffn_down.weight"] == ("Q8_0" if whole else "F16")
    assert kinds["blk.0.ffn_up.weight"] == "Q8_0", "only the rows that do not fit"
    assert ("blk.0.ffn_down.weight is stored as F16" in caplog.text) is not whole
    prove(expected_of_small(source, []), TransformersReader(tmp_path / "small-Q8_0.gguf", exact=False))


def test_origin(tokenizer, tmp_path):
    card = {
        "license": "cdla-sharing-1.0",
        "author": "Zoë",
        "url": "https://example.org",
        "language": "en",
        "tags": ["tinystories", "custom_code"],
        "datasets": ["roneneldan/TinyStories", "own stories"],
    }
    llama_cpp.write(random_source(tokenizer, card, base_model="someone/small", num_hidden_layers=1), tmp_path)
    path = tmp_path / "small-F16.gguf"
    assert field(path, "general.name") == "small"
    assert field(path, "general.license") == "cdla-sharing-1.0"
    assert field(path, "general.author") == "Zoë"
    assert field(path, "general.url") == "https://example.org"
    assert field(path, "general.languages") == ["en"]
    assert field(path, "general.tags") == ["tinystories"], "no code of its own is needed any more"
    assert field(path, "general.dataset.0.repo_url") == "https://huggingface.co/datasets/roneneldan/TinyStories"
    assert field(path, "general.dataset.1.name") == "own stories"
    assert "general.dataset.1.repo_url" not in gguf.GGUFReader(path).fields
    assert field(path, "general.base_model.0.organization") == "someone"
    assert field(path, "general.base_model.0.repo_url") == "https://huggingface.co/someone/small"


def test_author_of_the_hub(tokenizer, tmp_path):
    llama_cpp.write(random_source(tokenizer, {}, base_model="someone/small", num_hidden_layers=1), tmp_path)
    assert field(tmp_path / "small-F16.gguf", "general.author") == "someone"


@pytest.mark.parametrize("card", [{}, {"license": None, "datasets": [None, 3], "language": {}, "tags": "", "url": 1}])
def test_card_without_origin(tokenizer, tmp_path, card):
    """A card is written by people: what is no text is left out."""
    llama_cpp.write(random_source(tokenizer, card, num_hidden_layers=1), tmp_path)
    general = {key for key in gguf.GGUFReader(tmp_path / "small-F16.gguf").fields if key.startswith("general.")}
    assert general == {f"general.{key}" for key in ("architecture", "name", "file_type", "quantization_version")}


def bpe(**options) -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, [], **options))
    backend.pre_tokenizer = byte_level_pieces()
    backend.add_special_tokens(["<|eos|>"])
    return backend


def with_part(name, value, **options):
    backend = bpe(**options)
    if name is not None:
        setattr(backend, name, value)
    return backend


def with_word(**flags):
    backend = bpe()
    backend.add_tokens([AddedToken("dragon", **flags)])
    return backend


EOS_BEHIND = processors.TemplateProcessing(single="$A <|eos|>", special_tokens=[("<|eos|>", 256)])
OTHER_TOKENIZERS = {
    "other cuts": (with_part("pre_tokenizer", byte_level_pieces(LEARNED)), "a way of its own to cut texts"),
    "a space in front": (with_part("pre_tokenizer", pre_tokenizers.ByteLevel()), "a way of its own to cut texts"),
    "normalizer": (with_part("normalizer", normalizers.Lowercase()), "a normalizer"),
    "unknown token": (with_part(None, None, unk_token="!"), "a BPE with unk_token"),
    "byte fallback": (with_part(None, None, byte_fallback=True), "a BPE with byte_fallback"),
    "words": (Tokenizer(models.WordLevel({"a": 0, "<|eos|>": 1}, unk_token="a")), "a model of type WordLevel"),
    "decoder": (bpe(), "a decoder that is not byte-level"),
    "bytes": (with_part(None, None), "no merges"),
    "EOS behind": (with_part("post_processor", EOS_BEHIND), "puts the tokens [256] around a text"),
    "strip": (with_word(lstrip=True), "added tokens that take in the space beside them"),
}


@pytest.mark.parametrize("kind", OTHER_TOKENIZERS)
def test_tokenizers_that_cannot_be_said(kind, tokenizer):
    backend, reason = OTHER_TOKENIZERS[kind]
    if kind != "decoder" and kind != "words":
        backend.decoder = tokenizer.backend_tokenizer.decoder
    words = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<|bos|>", eos_token="<|eos|>")
    assert reason in mistake(lambda: llama_cpp.check(random_source(words)))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"partial_rotary_factor": 0.5, "head_dim": 16}, "heads that are together wider or narrower"),
        ({"hidden_act": "gelu"}, "the activation gelu"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, "RoPE of type linear"),
    ],
)
def test_networks_that_llama_cpp_does_not_have(tokenizer, fields, reason):
    assert reason in mistake(lambda: llama_cpp.check(random_source(tokenizer, **fields)))


@pytest.mark.parametrize(("value", "fits"), [(65504.0, True), (65505.0, False), (-1e30, False)])
def test_weights_beyond_16_bits(tokenizer, value, fits):
    source = random_source(tokenizer)
    source.model.lm_head.weight.data[7, 7] = value
    if fits:
        llama_cpp.check(source)
    else:
        assert "which is no 16-bit float" in mistake(lambda: llama_cpp.check(source))


def test_broken_llama_cpp(written, tmp_path, monkeypatch):
    """A library that lost its C++ part ends in one line, not in a traceback."""
    (tmp_path / "llama_cpp.py").write_text("raise OSError('libllama.so: no such file')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "llama_cpp", raising=False)
    file = written["llama"][1] / "small-F32.gguf"
    assert "cannot be imported (libllama.so: no such file)" in mistake(lambda: LlamaCppReader(file, exact=True))


def test_missing_extra(tokenizer, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert 'install "tinystories[export]"' in mistake(lambda: llama_cpp.check(random_source(tokenizer)))
