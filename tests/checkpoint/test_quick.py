"""What is opened quickly is what transformers opens; a checkpoint that is not in order is left to loading.py."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from helpers.export_sources import small_tokenizer
from helpers.runs import ROOT
from helpers.untrained import save, untrained_model
from tinystories.checkpoint.quick import open_quickly


TEXTS = ["", "Once upon a time", "<|eos|> <|bos|>x<|pad|>", "  Zoë \U0001f98a\n\n\t'tis 12.5%  ", "\u0301e\u0301 don't"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    tokenizer = small_tokenizer()
    return save(untrained_model(tokenizer, context=32), tokenizer, tmp_path_factory.mktemp("quick"))


@pytest.fixture
def copy(checkpoint, tmp_path):
    return shutil.copytree(checkpoint, tmp_path / "copy")


def test_same_checkpoint(checkpoint):
    quick, tokenizer = open_quickly(str(checkpoint)), AutoTokenizer.from_pretrained(checkpoint)
    for text in TEXTS:
        ids = quick.tokenizer.encode(text).ids
        assert ids == tokenizer(text)["input_ids"]
        assert quick.tokenizer.decode(ids, skip_special_tokens=True) == tokenizer.decode(ids, skip_special_tokens=True)
    assert quick.end == tokenizer.eos_token_id and quick.decoder.context == 32


def change_json(name: str, **changes):
    def change(folder):
        content = json.loads((folder / name).read_text(encoding="utf-8")) | changes
        content = {key: value for key, value in content.items() if value != "REMOVED"}
        (folder / name).write_text(json.dumps(content), encoding="utf-8")

    return change


def change_weights(change):
    def changed(folder):
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return changed


def cut(folder):
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-4])


NORM = "model.norm.weight"
DAMAGES = {
    "no folder": shutil.rmtree,
    "a missing weight": change_weights(lambda weights: weights.pop(NORM)),
    "a superfluous weight": change_weights(lambda weights: weights.update(more=torch.ones(3))),
    "another shape": change_weights(lambda weights: weights.update({NORM: torch.ones(3)})),
    "whole numbers": change_weights(lambda weights: weights.update({NORM: torch.ones(32, dtype=torch.int32)})),
    "NaN": change_weights(lambda weights: weights[NORM].fill_(torch.nan)),
    "a tied head": change_weights(
        lambda weights: weights.update({"lm_head.weight": weights["model.embed_tokens.weight"].clone()})
    ),
    "a file cut off": cut,
    "an adapter": lambda folder: (folder / "adapter_config.json").write_text("{}"),
    "another model": change_json("config.json", model_type="llama"),
    "quantized": change_json("config.json", quantization_config={}),
    "an unknown field": change_json("config.json", hidden_sise=3),
    "more layers": change_json("config.json", num_hidden_layers=3),
    "a size that is none": change_json("config.json", hidden_size=True),
    "a missing size": change_json("config.json", vocab_size="REMOVED"),
    "negative context": change_json("config.json", max_position_embeddings=-1),
    "heads that do not divide": change_json("config.json", num_attention_heads=3, num_key_value_heads=3, head_dim=16),
    "dynamic rotary": change_json("config.json", rope_parameters={"rope_type": "dynamic", "rope_theta": 1.0}),
    "a bad factor": change_json("config.json", rope_parameters={"rope_type": "default", "partial_rotary_factor": 7.0}),
    "another end": change_json("config.json", eos_token_id=7),
    "a list as config": lambda folder: (folder / "config.json").write_text("[1]"),
    "no text as config": lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe{"),
    "a damaged generation config": lambda folder: (folder / "generation_config.json").write_text("{"),
    "another tokenizer": change_json("tokenizer_config.json", tokenizer_class="LlamaTokenizer"),
    "a tokenizer's field": change_json("tokenizer_config.json", add_prefix_space=True),
    "cleaned spaces": change_json("tokenizer_config.json", clean_up_tokenization_spaces=True),
    "another bos": change_json("tokenizer_config.json", bos_token="<|pad|>"),
    "truncation": change_json(
        "tokenizer.json",
        truncation={"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
    ),
    "a damaged tokenizer": lambda folder: (folder / "tokenizer.json").write_text("{}"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_not_in_order(damage, copy):
    assert open_quickly(str(copy)) is not None
    damage(copy)
    assert open_quickly(str(copy)) is None


@pytest.mark.slow
def test_without_heavy_imports(checkpoint):
    """Writing a story imports neither torch nor transformers, which take seconds."""
    code = (
        "import sys; from tinystories.commands.generate import main; main(sys.argv[1:]);"
        "sys.exit(str(sys.modules.keys() & {'torch', 'transformers'}) if 'torch' in sys.modules else 0)"
    )
    command = [sys.executable, "-c", code, checkpoint, "Once", "--device", "cpu", "--max_new_tokens", "3"]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-2000:]
    assert "[3 new tokens" in process.stderr
