"""The numbers of a run against a second computation, and mutations that make them wrong: each must stop the run.

The evaluation and the end of a run have guards of their own, so a mutation is named by the first that sees it.
"""

import random
import re

import numpy as np
import pytest
import torch

from configuration_tinystories import TinyStoriesConfig
from helpers.forked import fork_command
from helpers.mutations import assert_stopped
from helpers.runs import TINY, as_options, mistake
from modeling_tinystories import TinyStoriesForCausalLM
from tinystories.checkpoint.loading import load_checkpoint
from tinystories.config.packaged import BOXED
from tinystories.evaluation.ngrams import ngram_loss
from tinystories.evaluation.second_path import NotKnownError, SecondPath
from tinystories.training.guards.numbers import BF16_TOLERANCE, as_multiplied, weights_of
from tinystories.training.guards.weights import check_moved, marks


SCORING, TRAINER = "tinystories/evaluation/scoring.py", "tinystories/training/trainer.py"
BUILD, RUN, PRESETS = (
    "tinystories/training/build.py",
    "tinystories/training/run.py",
    "tinystories/generation/presets.py",
)
BEFORE_SAVING = "            save_presets(folder,"

MUTATIONS = {
    # what is evaluated
    "the last batch dropped": (
        TRAINER,
        "dataloader_drop_last, False\n",
        "dataloader_drop_last, True\n",
        "rows were scored instead of",
    ),
    "fewer stories": (
        BUILD,
        "scoring_rows(evaluated,",
        "scoring_rows(evaluated.select(range(10)),",
        "10 stories are scored",
    ),
    "training stories": (BUILD, "pick_stories(corpus.validation,", "pick_stories(corpus.train,", "validation stories"),
    "windows scored twice": (
        SCORING,
        "start + stride, block_size - stride",
        "start + stride, 1",
        "twice or not at all",
    ),
    "EOS not scored": (SCORING, "[*begin, *tokens, *end]", "[*begin, *tokens]", "tokens of the story"),
    "bytes counted as characters": (SCORING, "append(len(text.encode())", "append(len(text)", "bytes in UTF-8"),
    # sums
    "a mean over stories": (
        SCORING,
        "loss, bits = float(nats / tokens)",
        "loss, bits = float((sums.nats / sums.tokens).mean())",
        "eval_loss is",
    ),
    "the loss divided": (SCORING, "loss=loss,", "loss=loss / 2,", "eval_loss is"),
    # likelihoods
    "scored at a temperature": (
        SCORING,
        "logits[:, :-1].float()",
        "1.3 * logits[:, :-1].float()",
        "computed a second time",
    ),
    "a first token without loss": (
        SCORING,
        "targets = labels[:, 1:]\n",
        "targets = labels[:, 1:].clone()\n    targets[:, :3] = IGNORED\n",
        "computed a second time",
    ),
    # training loss
    "the logged loss divided": (
        TRAINER,
        '        if "loss" in logs:\n',
        '        if "loss" in logs:\n            logs["loss"] /= 1 + (self.state.global_step > 5)\n',
        "the logged loss is",
    ),
    # the best, and what is saved
    "worst called best": (
        "tinystories/config/arguments.py",
        "self.greater_is_better = False",
        "self.greater_is_better = True",
        "is called the best",
    ),
    "rounded to bfloat16": (
        TRAINER,
        "super()._save(str(folder), state_dict)",
        "super()._save(str(folder), {k: v.bfloat16().float() for k, v in self.model.named_parameters()})",
        "rounded to bfloat16",
    ),
    "the final score of training stories": (
        RUN,
        "scoring_rows(corpus.validation,",
        "scoring_rows(corpus.train.select(range(len(corpus.validation))),",
        "validation stories have",
    ),
    # records
    "the card's number": (
        "tinystories/reporting/card_metadata.py",
        "round(value, 4)",
        "round(0.9 * value, 4)",
        "the card gives",
    ),
    # settings
    "no EOS in the presets": (
        PRESETS,
        "        config.update(**settings)\n",
        "        config.update(**settings, eos_token_id=None)\n",
        "no story would end",
    ),
    "a doubled temperature": (PRESETS, '{"temperature": 0.8', '{"temperature": 1.6', "outside of"),
    "code edited": (
        TRAINER,
        BEFORE_SAVING,
        "            with (folder / 'modeling_tinystories.py').open('a') as f:\n                f.write('# new')\n"
        + BEFORE_SAVING,
        "is not this project's",
    ),
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Stories of very different lengths, some longer than the context, with letters of two bytes."""
    draw, stories = random.Random(0), []
    for number in range(300):
        parts = [
            f"{draw.choice(['Tom', 'Ann', 'Zoë', 'Bob'])} {draw.choice(['ran to the', 'saw an old', 'lost a blue'])} "
            f"{draw.choice(['hill.', 'boat.', 'apple!', 'door.'])}"
            for _ in range(3 + number % 9 * 2)
        ]
        stories.append(f"Day {number}. {' '.join(parts)}")
    path = tmp_path_factory.mktemp("numbers") / "stories.txt"
    path.write_text("<|endoftext|>".join(stories), encoding="utf-8")
    return path


def run_of(folder, corpus, *options, tree=None):
    values = TINY | {"max_steps": 20, "eval_steps": 10, "save_steps": 10, "validation_fraction": 0.1}
    values |= {"max_eval_samples": 15, "per_device_eval_batch_size": 4, "sample_prompts": "Tom"}
    values |= {"train_file": corpus, "data_cache_dir": corpus.parent / "cache", "output_dir": folder / "run"}
    return fork_command("run_clm.py", *as_options(values), *options, **({"tree": tree} if tree else {}))


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTATIONS)
def test_mutation_is_caught(name, mutated_tree, corpus, tmp_path):
    file, old, new, reason = MUTATIONS[name]
    process = run_of(tmp_path, corpus, tree=mutated_tree(file, old, new))
    assert_stopped(process, reason)
    assert not (tmp_path / "run" / "all_results.json").exists() or name == "the card's number"


@pytest.mark.slow
def test_dropout_in_evaluation(mutated_tree, corpus, tmp_path):
    """An evaluation in training mode is worse than the model."""
    options = ("--resid_pdrop", "0.3")
    new = (
        "    def prediction_step(self, model, *args, **kwargs):\n        model.train()\n"
        "        return super().prediction_step(model, *args, **kwargs)\n\n    def _evaluate("
    )
    tree = mutated_tree(TRAINER, "    def _evaluate(", new)
    assert_stopped(run_of(tmp_path, corpus, *options, tree=tree), "computed a second time")


OVERFITTED = ("--max_train_samples", "15", "--max_steps", "70", "--lr_scheduler_type", "constant")


@pytest.mark.slow
def test_best_not_loaded(mutated_tree, corpus, tmp_path):
    """The weights of the last step are saved as those of the best."""
    tree = mutated_tree(
        "tinystories/training/checkpointing.py", "            super()._load_best_model()", "            pass"
    )
    assert_stopped(run_of(tmp_path, corpus, *OVERFITTED, tree=tree), "is not that of the best checkpoint")


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        OVERFITTED,
        (
            "--resid_pdrop",
            "0.3",
            "--attention_dropout",
            "0.1",
            "--early_stopping_patience",
            "1",
            "--partial_rotary_factor",
            "0.5",
            "--num_key_value_heads",
            "1",
            "--align_to_stories",
            "--isolate_stories",
        ),
        ("--load_best_model_at_end", "false", "--eval_strategy", "no", "--save_strategy", "no"),
        ("--block_size", "8", "--gradient_accumulation_steps", "3", "--bf16", "true"),
        (
            "--optimizer",
            "muon",
            "--max_eval_samples",
            "1000",
            "--metric_for_best_model",
            "bits_per_byte",
            "--tie_word_embeddings",
            "false",
            "--dataloader_drop_last",
            "true",
            "--logging_steps",
            "7",
        ),
    ],
    ids=lambda options: options[0].removeprefix("--"),
)
def test_honest_run_passes(options, corpus, tmp_path):
    process = run_of(tmp_path, corpus, *options)
    assert process.returncode == 0, process.stderr[-2000:]
    assert re.search(r"^guards of the finished run: 1[78] passed ", process.stderr, re.MULTILINE)


@pytest.mark.slow
def test_resumed_run_passes(corpus, tmp_path):
    """Its log holds two sessions; then the best checkpoint of the first one is lost, and a later one is the best."""
    assert run_of(tmp_path, corpus).returncode == 0
    process = run_of(tmp_path, corpus, "--resume", "--max_steps", "30", "--lr_scheduler_type", "linear")
    assert process.returncode == 0, process.stderr[-2000:]


# The second path


@pytest.mark.parametrize(
    "options", [{}, {"num_key_value_heads": 2}, {"partial_rotary_factor": 0.5}, {"tie_word_embeddings": False}]
)
def test_second_path_equals_the_model(options):
    torch.manual_seed(0)
    config = TinyStoriesConfig(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        max_position_embeddings=24, initializer_range=0.3, bos_token_id=1, eos_token_id=2, pad_token_id=0, **options,
    )  # fmt: skip
    model = TinyStoriesForCausalLM(config).double().eval()
    weights = {name: weight.numpy() for name, weight in model.state_dict().items()}
    ids = torch.randint(50, (24,))
    with torch.no_grad():
        expected = model(input_ids=ids[None]).logits[0].numpy()
    assert np.abs(SecondPath(config.to_dict(), weights).logits(ids.tolist()) - expected).max() < 1e-4  # float32 angles


def test_updates_that_bf16_does_not_see():
    """A checkpoint stored in bf16 could not be fine-tuned in bf16: its weights lie on the grid of bf16, and a first
    update of less than half a step of the grid was taken for another model."""
    model, tokenizer = load_checkpoint(str(BOXED))
    ids = tokenizer("One day, Pim the hedgehog found a red button in the wet grass.", return_tensors="pt")["input_ids"]
    model.eval()(input_ids=ids, labels=ids).loss.backward()
    with torch.no_grad():
        for weight in model.parameters():
            weight.sub_(0.0015 * weight.abs() * weight.grad.sign())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(input_ids=ids).logits[0, :-1].float().log_softmax(-1)
    found = -logits.gather(-1, ids[0, 1:, None])[:, 0].numpy().mean()
    exact, seen = (
        SecondPath(model.config.to_dict(), weights).token_nll(ids[0].tolist()).mean()
        for weights in (weights_of(model), as_multiplied(weights_of(model), torch.bfloat16))
    )
    assert abs(found - exact) > BF16_TOLERANCE[0] > 2 * abs(found - seen)


def test_unknown_network_is_said():
    with pytest.raises(NotKnownError, match="hidden_act gelu"):
        SecondPath({"model_type": "llama", "hidden_act": "gelu"}, {})


def test_frozen_weights():
    before = marks({"a": np.zeros(3), "b": np.ones(3)})
    assert "all 2 tensors" in check_moved(before, {"a": np.ones(3), "b": np.zeros(3)}, "step 0")
    assert "b did not change since step 0" in mistake(check_moved, before, {"a": np.ones(3), "b": np.ones(3)}, "step 0")


def test_counting_runs_of_tokens():
    """Text with one continuation costs nothing, random text ln(vocabulary)."""
    order = [*range(50)] * 20
    assert ngram_loss([order], [order[:200]]) < 0.1
    draw = np.random.default_rng(0)
    loss = ngram_loss([draw.integers(50, size=5000)], [draw.integers(50, size=2000)])
    assert abs(loss - np.log(50)) < 1
