"""A config whose sizes its weights cannot have is refused before a network of these sizes is built.

Without the check the first of these run for minutes, or until the memory is full.
"""

import json
import shutil

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from helpers.runs import mistake
from helpers.serving import counting_tokenizer, untrained
from tinystories.checkpoint.foreign import open_model
from tinystories.checkpoint.loading import load_checkpoint
from tinystories.checkpoint.plausible import check_sizes
from tinystories.config.keys import ModelArguments
from tinystories.training.finetuning import _load_config


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return untrained(tmp_path_factory.mktemp("plausible") / "model", context=64)


def with_config(checkpoint, folder, **changes):
    shutil.copytree(checkpoint, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | changes), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("num_hidden_layers", 300_000, "num_hidden_layers in its config.json is 300,000, but its weights file has "),
        ("num_hidden_layers", 10**12, "is 1,000,000,000,000, but its weights file has "),
        ("num_hidden_layers", -1, "is -1, which is not a size"),
        ("num_hidden_layers", 0, "is 0, which is not a size"),
        (
            "hidden_size",
            10**9,
            "hidden_size in its config.json is 1,000,000,000, but its weights file has no ",
        ),
        ("hidden_size", -64, "is -64, which is not a size"),
        ("hidden_size", 64.5, "hidden_size in its config.json is '64.5', which is not a size"),
        (
            "vocab_size",
            10**12,
            "vocab_size in its config.json is 1,000,000,000,000, but its weights file has ",
        ),
        ("vocab_size", 10**30, "but its weights file has no tensor wider than "),
        ("vocab_size", "many", "vocab_size in its config.json is 'many', which is not a size"),
        ("intermediate_size", 10**10, "but its weights file has no tensor wider than "),
        ("num_attention_heads", 10**9, "but its weights file has no tensor wider than "),
        ("num_key_value_heads", 10**9, "but its weights file has no tensor wider than "),
        ("head_dim", 10**9, "but its weights file has no tensor wider than "),
        ("num_hidden_layers", True, "is 'True', which is not a size"),
        ("text_config", {"num_hidden_layers": 10**6}, "is 1,000,000, but its weights file has "),
    ],
)
def test_implausible_size(name, value, reason, checkpoint, tmp_path):
    """One line with the name, the size and the bound, by every way to open a checkpoint."""
    folder = with_config(checkpoint, tmp_path / "model", **{name: value})
    error = mistake(load_checkpoint, str(folder))
    assert error.startswith(f"{folder}: ") and reason in error
    assert mistake(open_model, str(folder)) == error
    assert mistake(open_model, str(folder), trust_remote_code=True) == error
    assert mistake(_load_config, ModelArguments(model_name_or_path=str(folder))) == error


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("auto_map", 1),
        ("dtype", "x"),
        ("dtype", []),
        ("pad_token_id", 10**6),
        ("layer_types", 3),
        ("quantization_config", 1),
        ("text_config", {}),
        ("rope_parameters", "x"),
        ("hidden_act", 10**9),
        ("model_type", 1),
    ],
)
def test_wrong_type(name, value, checkpoint, tmp_path):
    """Guards: a traceback from inside the library."""
    folder = with_config(checkpoint, tmp_path / "model", **{name: value})
    assert str(folder) in mistake(load_checkpoint, str(folder))


def test_bounds(checkpoint, tmp_path):
    """The largest size that is let through, and the next one. What is let through is compared tensor by tensor."""
    for name, most in (("num_hidden_layers", 256), ("hidden_size", 1024), ("vocab_size", 2**16)):
        let_through = with_config(checkpoint, tmp_path / f"{name}-{most}", **{name: most})
        check_sizes(str(let_through))
        assert "but its weights file" not in mistake(load_checkpoint, str(let_through))
        refused = with_config(checkpoint, tmp_path / f"{name}-{most + 1}", **{name: most + 1})
        assert "but its weights file" in mistake(load_checkpoint, str(refused))


LLAMA = LlamaConfig(
    num_hidden_layers=2,
    hidden_size=32,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=64,
    vocab_size=320,
)
GPT2 = GPT2Config(n_layer=2, n_embd=32, n_head=2, n_positions=64, vocab_size=320)


def saved(config, folder, binary: bool = False, **options):
    model = (LlamaForCausalLM if config.model_type == "llama" else GPT2LMHeadModel)(config)
    model.save_pretrained(folder, **options)
    counting_tokenizer().save_pretrained(folder)
    if binary:
        (folder / "model.safetensors").unlink()
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return folder


@pytest.mark.parametrize(
    ("config", "options", "layers"),
    [
        (LLAMA, {}, "num_hidden_layers"),
        (LLAMA, {"max_shard_size": "20KB"}, "num_hidden_layers"),
        (LLAMA, {"binary": True}, "num_hidden_layers"),
        (GPT2, {}, "n_layer"),
        (GPT2, {"binary": True}, "n_layer"),
    ],
    ids=["llama", "shards", "llama.bin", "gpt2", "gpt2.bin"],
)
def test_other_architectures(config, options, layers, tmp_path):
    """They open as before, from one file, from shards and from pytorch_model.bin; and the names of theirs are known."""
    folder = saved(config, tmp_path / "model", **options)
    assert ("max_shard_size" in options) == (folder / "model.safetensors.index.json").exists()
    assert load_checkpoint(str(folder))[0].num_parameters() > 10_000
    wrong = with_config(folder, tmp_path / "wrong", **{layers: 300_000})
    assert f"{layers} in its config.json is 300,000" in mistake(load_checkpoint, str(wrong))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", b"{"),
        ("config.json", b"[1]"),
        ("config.json", b'{"model_type": ["llama"]}'),
        ("model.safetensors", b""),
        ("model.safetensors", b"\xff" * 8),
        ("model.safetensors", b"\x02\x00\x00\x00\x00\x00\x00\x00{}"),
        ("model.safetensors", None),
    ],
)
def test_what_cannot_be_read(file, content, checkpoint, tmp_path):
    """Left to the reader that follows, which says why in one line."""
    folder = tmp_path / "model"
    shutil.copytree(checkpoint, folder)
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_bytes(content)
    error = mistake(load_checkpoint, str(folder))
    assert str(folder) in error and "\n" not in error
