"""Training from a checkpoint keeps its network and tokenizer; a recipe that asks for another is refused."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig

from helpers.forked import fork_command
from helpers.runs import COUNTING, ROOT, TINY, as_options, mistake, write_counting_corpus
from tinystories.checkpoint.loading import load_checkpoint
from tinystories.config.recipe import read_recipe
from tinystories.training.finetuning import apply_checkpoint, continued_model


pytestmark = pytest.mark.slow  # counting_run is trained first

TRAINING = {
    name: value
    for name, value in TINY.items()
    if name not in ("vocab_size", "min_frequency", "block_size") and not name.startswith(("hidden", "inter", "num_"))
}


def settled(*arguments):
    recipe = read_recipe([str(argument) for argument in arguments])
    apply_checkpoint(recipe)
    return recipe


def more(folder, base, *options, **changes):
    settings = TRAINING | {"max_steps": 2, "eval_steps": 1, "save_steps": 1, "output_dir": folder / "more"}
    settings |= {"model_name_or_path": base, "data_cache_dir": folder / "cache"} | changes
    return fork_command("run_clm.py", *as_options(settings), *options)


def test_weights_and_tokenizer_are_kept(counting_run, tmp_path):
    """At a learning rate of almost 0 the run ends with the weights, tokenizer and config of the checkpoint."""
    process = more(tmp_path, counting_run, train_file=write_counting_corpus(tmp_path), learning_rate=1e-6)
    assert process.returncode == 0, process.stderr[-3000:]
    guards = json.loads((tmp_path / "more" / "data_report.json").read_text())["guards"]
    assert "known loss" in guards and "fresh loss" not in guards
    assert str(counting_run.parent) not in str(guards), "what is published names a folder of this machine"
    before, after = (load_file(folder / "model.safetensors") for folder in (counting_run, tmp_path / "more"))
    assert before.keys() == after.keys()
    assert all(torch.allclose(before[name], after[name], rtol=0, atol=2e-6) for name in before)
    for name in ("tokenizer.json", "config.json"):
        assert json.loads((tmp_path / "more" / name).read_text()) == json.loads((counting_run / name).read_text())
    recipe = json.loads((tmp_path / "more" / "recipe.json").read_text())
    config = json.loads((counting_run / "config.json").read_text())
    recorded = (recipe["hidden_size"], recipe["vocab_size"], recipe["block_size"])
    assert recorded == (64, config["vocab_size"], 64), "the record is complete"
    card = (tmp_path / "more" / "README.md").read_text()
    assert f"continues from `{counting_run.name}`" in card and str(counting_run) not in card


def on_ten_stories(counting_run, tmp_path, learning_rate: float):
    folder = tmp_path / "my-stories"
    folder.mkdir()
    for i in range(10):
        (folder / f"{i}.txt").write_text(f"Story {i}. one two three four\n\nten nine eight.\n", encoding="utf-8")
    options = {"model_name_or_path": counting_run, "train_file": folder, "output_dir": tmp_path / "mine"}
    options |= {"data_cache_dir": tmp_path / "cache", "disable_tqdm": True, "learning_rate": learning_rate}
    return fork_command("run_clm.py", ROOT / "configs/finetune.yaml", *as_options(options))


@pytest.mark.slow
def test_step_of_few_tokens(counting_run, tmp_path):
    """A high rate halves the loss of 136 tokens in one step: the guard of the training loss does not stop the run."""
    process = on_ten_stories(counting_run, tmp_path, 3e-2)
    assert process.returncode == 0, process.stderr[-3000:]


@pytest.mark.slow
def test_ten_stories_of_ones_own(counting_run, tmp_path):
    """The command of the README: held-out stories become likelier, and are written."""
    process = on_ten_stories(counting_run, tmp_path, 3e-3)
    assert process.returncode == 0, process.stderr[-3000:]
    assert "corpus: 8 training stories, 2 validation stories" in process.stderr
    rows = json.loads((tmp_path / "mine/trainer_state.json").read_text())["log_history"]
    bits = [row["eval_bits_per_byte"] for row in rows if "eval_bits_per_byte" in row]
    assert min(bits) < bits[0] / 2, "held-out stories of the same hand become likelier"
    assert json.loads((tmp_path / "mine/data_report.json").read_text())["train"]["stories"] == 10
    process = fork_command("run_generation.py", tmp_path / "mine", "Story 7. one two three four", "--greedy")
    assert "nine eight" in process.stdout, process.stdout


@pytest.mark.parametrize(
    ("key", "value", "theirs"),
    [
        ("hidden_size", 128, 64),
        ("num_hidden_layers", 1, 2),
        ("partial_rotary_factor", 0.5, 1.0),
        ("vocab_size", 999, 296),
    ],
)
def test_other_sizes_are_refused(key, value, theirs, counting_run):
    """The weights mean nothing in another network; the key is named."""
    message = mistake(settled, "--model_name_or_path", counting_run, f"--{key}", value)
    assert message.startswith(f"{key} is {value} in the recipe and {theirs} in {counting_run}")


def test_same_sizes_are_accepted(counting_run):
    """A recipe may name the sizes that the checkpoint has."""
    recipe = settled(counting_run / "recipe.json", "--model_name_or_path", counting_run, "--output_dir", "elsewhere")
    assert recipe.model.hidden_size == 64


def test_other_tokenizer_is_refused(counting_run):
    """The weights mean nothing under other token ids."""
    message = mistake(settled, "--model_name_or_path", counting_run, "--tokenizer_name", "elsewhere")
    assert message.startswith("tokenizer_name: ")


def test_missing_or_foreign_checkpoint(counting_run, tmp_path):
    """It is refused and named."""
    assert "no folder" in mistake(settled, "--model_name_or_path", tmp_path / "absent")
    LlamaConfig().save_pretrained(tmp_path / "llama")
    assert "is a llama model" in mistake(settled, "--model_name_or_path", tmp_path / "llama")


def test_output_dir_is_base(counting_run):
    """An output_dir with the base checkpoint would be cleared: refused."""
    for base in (counting_run, counting_run / "checkpoint-50"):
        options = ("--model_name_or_path", base, "--output_dir", counting_run, "--overwrite_output_dir")
        assert "contains the checkpoint to start from" in mistake(settled, *options)


def test_context_grows_with_the_rows(counting_run):
    """Longer rows make the context longer, shorter ones leave it; the logits stay the same."""
    _, tokenizer = load_checkpoint(str(counting_run))
    for block_size, context in ((128, 128), (32, 64)):
        recipe = settled("--model_name_or_path", counting_run, "--block_size", block_size, "--resid_pdrop", 0.1)
        model = continued_model(recipe, tokenizer)
        assert model.config.max_position_embeddings == context
        assert model.generation_config.max_new_tokens == context * 3 // 4
        assert model.config.resid_pdrop == 0.1, "dropout may change"
        ids = torch.randint(3, model.config.vocab_size, (1, block_size))
        original, _ = load_checkpoint(str(counting_run))
        torch.testing.assert_close(model.eval()(ids).logits, original(ids).logits)


def test_swapped_tokenizer_is_caught(counting_run, tmp_path):
    """Token ids that mean other things than in training: a loss far above that of knowing nothing."""
    base = tmp_path / "swapped"
    shutil.copytree(counting_run, base, ignore=shutil.ignore_patterns("checkpoint-*"))
    content = json.loads((base / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    ids = sorted(set(vocabulary.values()) - {0, 1, 2})
    moved = dict(zip(ids, ids[50:] + ids[:50], strict=True))
    content["model"]["vocab"] = {token: moved.get(place, place) for token, place in vocabulary.items()}
    (base / "tokenizer.json").write_text(json.dumps(content))
    process = more(tmp_path, base, train_file=write_counting_corpus(tmp_path))
    assert process.returncode == 2, process.stderr[-3000:]
    assert "the tokenizer in it is not the one it was trained with" in process.stderr
    assert COUNTING in (tmp_path / "counting.txt").read_text()
