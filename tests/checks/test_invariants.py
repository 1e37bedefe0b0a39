"""check_run.py CHECKPOINT on folders that were damaged after, or by, their run: FINE must not be said to any."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from modeling_tinystories import TinyStoriesRotaryEmbedding
from tinystories.checkpoint.loading import load_checkpoint
from tinystories.checks.diagnosis import diagnose, find_texts
from tinystories.checks.invariants import Opened, check_invariants, in_words
from tinystories.run_files import Run


pytestmark = pytest.mark.slow  # it trains a model

CHECKED = (
    "weights, code, special tokens, sampling, graphemes, best checkpoint, weights kept, moved weights, "
    "derived numbers, record of evaluations, tokens seen, training FLOPs, speed, card, likelihoods, generation, "
    "reference, causality, ways to read"
)


def edit_json(name, **changes):
    """Set keys of a JSON file; None removes one."""

    def edit(folder):
        content = json.loads((folder / name).read_text())
        content = {key: value for key, value in (content | changes).items() if value is not None}
        (folder / name).write_text(json.dumps(content))

    return edit


def edit_weights(change):
    def edit(folder):
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return edit


def edit_text(name, old, new):
    def edit(folder):
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))

    return edit


def better_than_the_best(folder):
    state = json.loads((folder / "trainer_state.json").read_text())
    first = next(row for row in state["log_history"] if "eval_loss" in row)
    factor = 0.1
    for key in ("eval_loss", "eval_bits_per_byte", "eval_train_loss", "eval_gap"):
        first[key] *= factor
    first["eval_perplexity"] = float(np.exp(first["eval_loss"]))
    (folder / "trainer_state.json").write_text(json.dumps(state))


def other_scale(folder):
    """Every number of the final score agrees with the others, and none with the weights."""
    results = json.loads((folder / "all_results.json").read_text())
    results["eval_loss"] *= 0.97
    results["eval_bits_per_byte"] *= 0.97
    results["eval_perplexity"] = float(np.exp(results["eval_loss"]))
    (folder / "all_results.json").write_text(json.dumps(results))
    (folder / "README.md").unlink()


def as_in_the_first_checkpoint(folder):
    """A layer that no gradient reached, in every checkpoint alike."""
    name = "model.layers.1.mlp.up_proj.weight"
    places = [*sorted(folder.glob("checkpoint-*")), folder]
    first = load_file(folder / "checkpoint-50" / "model.safetensors")[name]
    for place in places:
        edit_weights(lambda weights: weights.update({name: first.clone()}))(place)


def fill(name, value):
    return edit_weights(lambda weights: weights[name].fill_(value))


def cast(weights):
    for name, weight in weights.items():
        weights[name] = weight.bfloat16()


def rounded(weights):
    for name, weight in weights.items():
        weights[name] = weight.bfloat16().float()


NORM = "model.layers.0.input_layernorm.weight"
DAMAGES = {
    "no EOS": (edit_json("generation_config.json", eos_token_id=None), "wrong settings", "no story would end"),
    "EOS of another token": (edit_json("config.json", eos_token_id=7), "wrong tokenizer", "eos_token_id"),
    "temperature 5": (edit_json("generation_config.json", temperature=5.0), "wrong settings", "temperature 5"),
    "cut stories": (edit_json("generation_config_creative.json", max_length=30), "wrong settings", "max_length 30"),
    "no cache": (edit_json("config.json", use_cache=False), "wrong settings", "use_cache"),
    "leak in the code": (
        edit_text("modeling_tinystories.py", "self.is_causal = True", "self.is_causal = False"),
        "wrong code",
        "modeling_tinystories.py in the checkpoint is not this project's",
    ),
    "worst called best": (better_than_the_best, "wrong best", "step 50 has"),
    "weights of another step": (
        lambda folder: shutil.copy(folder / "checkpoint-50" / "model.safetensors", folder),
        "wrong weights",
        "is not that of the best checkpoint",
    ),
    "one number edited": (edit_json("all_results.json", eval_perplexity=1.1), "wrong numbers", "eval_perplexity"),
    "bits per byte edited": (edit_json("all_results.json", eval_bits_per_byte=0.1), "wrong numbers", "loss x tokens"),
    "training FLOPs edited": (
        edit_json("all_results.json", training_flops=10**9),
        "wrong numbers",
        "training_flops is",
    ),
    "all numbers edited": (other_scale, "wrong numbers", "recorded final score"),
    "bf16": (edit_weights(cast), "broken weights", "BF16"),
    "rounded": (edit_weights(rounded), "broken weights", "rounded to bfloat16"),
    "a matrix of zeros": (fill("model.layers.1.mlp.gate_proj.weight", 0.0), "broken weights", "all zeros"),
    "a norm that never moved": (fill(NORM, 1.0), "wrong weights", NORM),
    "a frozen matrix": (as_in_the_first_checkpoint, "wrong weights", "did not change since checkpoint-50"),
    "evaluations edited": (edit_text("evaluations.jsonl", '"eval_loss": 0.', '"eval_loss": 0.1'), "wrong numbers", ""),
}


@pytest.fixture
def damaged(counting_run, tmp_path):
    return shutil.copytree(counting_run, tmp_path / "run")


def invariants_of(folder):
    model, tokenizer = load_checkpoint(str(folder))
    run = Run(folder)
    texts = find_texts(run, None, 200)
    return check_invariants(Opened(folder, run, model, tokenizer, texts.held_out, texts.own))


def test_all_are_checked(counting_run):
    found = invariants_of(counting_run)
    assert found.broken is None and in_words(found) == f"checked loss, samples, {CHECKED}"


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_named(name, damaged):
    damage, kind, reason = DAMAGES[name]
    damage(damaged)
    found = diagnose(str(damaged), device="cpu")
    assert found["verdict"] == kind and reason in found["reason"], (found["verdict"], found["reason"])


def test_checkpoint_of_a_run(counting_run):
    """A checkpoint-N has no final score, and is sound."""
    found = diagnose(str(counting_run / "checkpoint-50"), device="cpu")
    assert found["verdict"] == "fine" or "invariant" not in found["reason"], found


def test_cached_positions(counting_run, monkeypatch):
    """Positions that stop counting at 32 in a cached step, in the code of this installation."""
    rotary = TinyStoriesRotaryEmbedding
    forward = rotary.forward

    def stuck(self, x, position_ids):
        return forward(self, x, position_ids.clamp(max=32) if position_ids.shape[-1] == 1 else position_ids)

    monkeypatch.setattr(rotary, "forward", stuck)
    found = invariants_of(counting_run)
    assert found.broken is not None and found.broken["verdict"] in ("broken generation", "broken network")


def test_foreign_llama(counting_run, tmp_path):
    """Without records of a run: what they would have shown is named, the rest is checked."""
    _, tokenizer = load_checkpoint(str(counting_run))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model, tokenizer = load_checkpoint(str(tmp_path))
    found = check_invariants(Opened(tmp_path, Run(tmp_path), model, tokenizer, ["Story 1. one two three."], own=False))
    assert found.broken is None and {"likelihoods", "generation"} <= found.held.keys(), found
    assert "it has no records of a run" in in_words(found) and "a llama model" in in_words(found)
