"""check_run.py CHECKPOINT: small models are trained to have each fault, and the verdict must name it."""

import json
import re

import datasets
import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel

from helpers.runs import mistake
from tinystories.checkpoint.loading import new_model
from tinystories.checks.diagnosis import Texts, diagnose, find_texts, measure, records_of
from tinystories.checks.measurements import encode, loss_of_pairs, read_stories, repeated_share
from tinystories.checks.rules import Records, verdict
from tinystories.commands import check
from tinystories.config.keys import ModelArguments, TokenizerArguments
from tinystories.data.sample_corpus import sample_stories
from tinystories.data.tokenizer import train_tokenizer
from tinystories.evaluation.scoring import score, scoring_rows
from tinystories.run_files import Run


pytestmark = pytest.mark.slow  # it trains models


def beginnings(number: int, seed: int) -> list[str]:
    """The first two sentences of different stories: some thirty tokens each, with grammar and an end."""
    stories = sample_stories(number, seed=seed)
    return list(dict.fromkeys(" ".join(re.split(r"(?<=[.!?])\s", story)[:2]) for story in stories))


STORIES = beginnings(1500, seed=1)
TRAINING, HELD_OUT = STORIES[100:], STORIES[:100]
SIZES = ModelArguments(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2)


def tokenizer_of(texts: list[str], vocab_size: int = 400):
    return train_tokenizer(datasets.Dataset.from_dict({"text": texts}), TokenizerArguments(vocab_size=vocab_size))


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizer_of(TRAINING)


def trained(tokenizer, texts=TRAINING, steps=180, shift=1, eos_in_loss=True, learning_rate=5e-3):
    """A model trained to predict `shift` tokens ahead, by a loop that shares nothing with the project's."""
    torch.manual_seed(0)
    model = new_model(SIZES, tokenizer, block_size=96).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, max(1, steps))
    rows = [torch.from_numpy(ids[:96]) for ids in encode(texts, tokenizer)]
    generator = np.random.default_rng(0)
    for _ in range(steps):
        batch = [rows[i] for i in generator.integers(len(rows), size=16)]
        ids = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True, padding_value=tokenizer.pad_token_id)
        targets = ids[:, shift:]
        ignored = [tokenizer.pad_token_id, *([] if eos_in_loss else [tokenizer.eos_token_id])]
        targets = torch.where(torch.isin(targets, torch.tensor(ignored)), -100, targets)
        logits = model(input_ids=ids).logits[:, : targets.shape[1]]
        cross_entropy(logits.transpose(1, 2), targets).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return model.eval()


@pytest.fixture(scope="module")
def healthy(tokenizer):
    return trained(tokenizer)


def diagnosis(model, tokenizer, training=TRAINING, records=None, own=False, held_out=HELD_OUT) -> dict:
    texts = Texts(held_out, None if training is None else training[:100], "the test's", own)
    symptoms = measure(model, tokenizer, records or Records(), texts)
    return verdict(symptoms) | {"symptoms": symptoms}


@pytest.mark.parametrize("training", [TRAINING, None], ids=["training text known", "not known"])
def test_healthy_is_fine(healthy, tokenizer, training):
    result = diagnosis(healthy, tokenizer, training)
    assert result["verdict"] == "fine", result
    assert (result["symptoms"].training_loss is None) == (training is None)


def test_fresh_is_untrained(tokenizer):
    assert diagnosis(trained(tokenizer, steps=0), tokenizer)["verdict"] == "untrained"


def test_few_steps_are_undertrained(tokenizer):
    result = diagnosis(trained(tokenizer, steps=25), tokenizer)
    assert result["verdict"] == "undertrained" and "pairs of tokens" in result["reason"], result


@pytest.mark.parametrize(("evaluations", "expected"), [([3.0, 2.0], "undertrained"), ([2.0, 3.0], "fine")])
def test_stopped_run_is_undertrained(healthy, tokenizer, evaluations, expected):
    """Unless its evaluations had stopped getting better."""
    records = Records(step=100, planned_steps=500, evaluations=evaluations)
    assert diagnosis(healthy, tokenizer, records=records)["verdict"] == expected


@pytest.mark.parametrize(("shift", "reason"), [(2, "the token after the next"), (0, "to repeat its input")])
def test_labels_shifted(tokenizer, shift, reason):
    """Labels that are shifted twice, or not at all."""
    result = diagnosis(trained(tokenizer, steps=80, shift=shift), tokenizer, training=None)
    assert result["verdict"] == "labels shifted" and reason in result["reason"], result


def test_no_eos(tokenizer):
    """EOS was left out of the loss."""
    result = diagnosis(trained(tokenizer, steps=100, eos_in_loss=False), tokenizer)
    assert result["verdict"] == "no EOS", result


def test_overfit(tokenizer):
    """Ten stories for many epochs."""
    model = trained(tokenizer, texts=TRAINING[:10], steps=100)
    result = diagnosis(model, tokenizer, training=TRAINING[:10], own=True)
    assert result["verdict"] == "overfit" and "on 100 held-out ones" in result["reason"], result
    s = result["symptoms"]

    def advice(evaluations=(), finished=True, **recipe):
        s.records = Records(recipe, evaluations=list(evaluations), bits_per_byte=9.0 if finished else None)
        return verdict(s)["remedy"]

    assert "for fewer epochs, with evaluations and load_best_model_at_end" in advice()
    for best in (advice([3.0, 2.0]), advice([2.0, 2.5], load_best_model_at_end=True)):  # nothing better is left to keep
        assert best == (
            "train on more stories: these weights are of the run's best evaluation, so fewer epochs would not help"
        )
    worse = advice([3.0, 2.0, 2.5])
    assert "loss of 2.00, its last 2.50: train again with --load_best_model_at_end true; more stories" in worse
    later = advice([3.0, 2.0, 2.5], finished=False, load_best_model_at_end=True)  # a checkpoint-N of the run
    assert "use the checkpoint of the best; more stories" in later


def test_wrong_tokenizer_by_ids(healthy, tokenizer):
    """Of the same size, with the ids in another order: only the model's predictions show it."""
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    words = list(content["model"]["vocab"])
    order = [*range(3), *np.random.default_rng(0).permutation(np.arange(3, len(words))).tolist()]
    content["model"]["vocab"] = dict(zip(words, order, strict=True))
    swapped = type(tokenizer)(tokenizer_object=type(tokenizer.backend_tokenizer).from_str(json.dumps(content)))
    for name in ("pad", "bos", "eos"):
        setattr(swapped, f"{name}_token", getattr(tokenizer, f"{name}_token"))
    assert len(swapped) == len(tokenizer)
    result = diagnosis(healthy, swapped)
    assert result["verdict"] == "wrong tokenizer" and "other tokens" in result["reason"], result


def test_wrong_tokenizer_by_size_or_ids(healthy, tokenizer):
    """The vocabulary is of another size, or the special tokens have other ids."""
    result = diagnosis(healthy, tokenizer_of(TRAINING, 450))
    assert result["verdict"] == "wrong tokenizer" and "the model knows 400" in result["reason"]
    other = tokenizer_of(TRAINING)
    other.eos_token = other.bos_token
    result = diagnosis(healthy, other)
    assert result["verdict"] == "wrong tokenizer" and "eos_token_id is 2 for the model" in result["reason"]


def test_wrong_tokenizer_by_records(healthy, tokenizer):
    """What the run recorded shows that the tokenizer or the weights have changed since."""
    result = diagnosis(healthy, tokenizer, records=Records(tokenizer_size=500))
    assert result["verdict"] == "wrong tokenizer" and "trained with 500" in result["reason"]
    result = diagnosis(healthy, tokenizer, records=Records(bits_per_byte=0.1), own=True)
    assert result["verdict"] == "wrong tokenizer" and "recorded 0.100 bits per byte" in result["reason"]
    assert diagnosis(healthy, tokenizer, records=Records(bits_per_byte=0.1))["verdict"] == "fine"  # another text


UNLIKE = ["".join(np.random.default_rng(i).choice([*"QXZJKVWPFG"], size=40)) for i in range(30)]


@pytest.mark.parametrize("training", [TRAINING, None], ids=["training text known", "not known"])
def test_another_kind_of_text(healthy, tokenizer, training):
    """A healthy model is not blamed for the text; if its training text is not known, the reason names both causes."""
    result = diagnosis(healthy, tokenizer, training, held_out=UNLIKE)
    even = np.log(len(tokenizer))
    assert result["symptoms"].reading.mean_prediction_loss > even, "the test needs a text nothing like stories"
    if training is None:
        assert result["verdict"] == "wrong tokenizer" and "or this text" in result["reason"]
        result["symptoms"].reading.mean_prediction_loss = even
        result |= verdict(result["symptoms"])
    assert result["verdict"] == "another kind of text" and "--data" in result["remedy"], result


def test_too_little_text(healthy, tokenizer):
    """A verdict that needs no text comes first."""
    assert diagnosis(healthy, tokenizer, held_out=HELD_OUT[:1])["verdict"] == "too little text"
    records = Records(tokenizer_size=500)
    assert diagnosis(healthy, tokenizer, records=records, held_out=HELD_OUT[:1])["verdict"] == "wrong tokenizer"


def test_sampling_too_hot(healthy, tokenizer):
    usual = healthy.generation_config
    healthy.generation_config = GenerationConfig(do_sample=True, temperature=5.0, top_k=0, top_p=1.0)
    try:
        result = diagnosis(healthy, tokenizer)
    finally:
        healthy.generation_config = usual
    assert result["verdict"] == "sampling too hot", result
    own, balanced = (result["symptoms"].writings[name].loss for name in ("its generation_config", "balanced"))
    assert own > balanced + 1


def test_broken_weights(tokenizer):
    model = trained(tokenizer, steps=0)
    torch.nn.init.constant_(model.model.norm.weight, float("nan"))
    assert diagnosis(model, tokenizer)["verdict"] == "broken weights"


# The numbers


def test_loss_equals_evaluation(healthy, tokenizer):
    """For a story longer than the context, too."""
    texts = [*HELD_OUT[:20], " ".join(HELD_OUT[20:40])]
    reading = read_stories(healthy, tokenizer, texts)
    rows = scoring_rows(datasets.Dataset.from_dict({"text": texts}), tokenizer, healthy.config.max_position_embeddings)
    expected = score(healthy, rows, tokenizer.pad_token_id)
    assert (reading.loss, reading.bits_per_byte) == pytest.approx((expected.loss, expected.bits_per_byte), abs=1e-5)
    assert reading.tokens == expected.tokens


def test_articles_are_whole_words(healthy, tokenizer):
    """With 400 tokens " an" begins " animal" as well; only the article counts."""
    parts = [
        read_stories(healthy, tokenizer, [text]) for text in ("She saw a an", "She saw animals and then", "She saw")
    ]
    assert [part.article_loss is not None for part in parts] == [True, False, False]


def test_loss_of_pairs_by_hand():
    counted, scored = [np.array([0, 1, 0, 1, 2])], [np.array([0, 1]), np.array([2, 0])]
    frequency = np.array([3, 3, 2, 1]) / 9
    expected = [-np.log((2 + 10 * frequency[1]) / 12), -np.log(10 * frequency[0] / 10)]
    assert loss_of_pairs(counted, scored, vocab_size=4) == pytest.approx(np.mean(expected))


def test_repeated_share():
    assert repeated_share("one two three") == 0.0
    assert repeated_share("one two three four five") == 0.0
    assert repeated_share("on and on and on and on and") == pytest.approx(3 / 5)


# Checkpoints


def test_command_on_a_run(counting_run, tmp_path, capsys):
    out = tmp_path / "result.json"
    check.main([str(counting_run), "--prompt", "Story 7. one two", "--output_file", str(out), "--device", "cpu"])
    printed = capsys.readouterr().out
    assert "step 100 of 100" in printed and "(10 of the 10 validation stories of its run)" in printed
    assert "after 'Story 7. one two': ' three' 0.9" in printed
    assert printed.splitlines()[-1].startswith("verdict: FINE")
    result = json.loads(out.read_text(encoding="utf-8"))
    recorded = json.loads((counting_run / "all_results.json").read_text(encoding="utf-8"))
    assert result["symptoms"]["reading"]["loss"] == pytest.approx(recorded["eval_loss"], abs=1e-5)


def test_changed_text_is_not_own(counting_run):
    """Stories count as the run's only as long as their text is the same."""
    run = Run(counting_run)
    texts = find_texts(run, None, 4)
    assert texts.own and texts.training and texts.source == "4 of the 10 validation stories of its run"
    run.data["began_with"]["validation"] = "of another text"
    texts = find_texts(run, None, 4)
    assert not texts.own and texts.training is None and "has changed" in texts.source


def test_records_of_a_checkpoint(counting_run):
    """The recipe and the data report are in the run folder above it."""
    records = records_of(Run(counting_run / "checkpoint-50"))
    assert (records.step, records.planned_steps) == (50, 100)
    assert records.recipe["vocab_size"] == records.tokenizer_size == 296


def test_damaged_records_are_not_known(tmp_path):
    (tmp_path / "trainer_state.json").write_text('{"global_step": 5', encoding="utf-8")
    (tmp_path / "recipe.json").write_text("[1, 2]", encoding="utf-8")
    assert records_of(Run(tmp_path)) == Records()


def test_foreign_model(tokenizer, tmp_path, capsys):
    """GPT-2 has one token for the beginning and the end, and none for padding."""
    other = tokenizer_of(TRAINING)
    other.bos_token, other.pad_token = other.eos_token, None
    ids = {"bos_token_id": other.eos_token_id, "eos_token_id": other.eos_token_id}
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=64, n_embd=32, n_layer=1, n_head=2, **ids)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    other.save_pretrained(tmp_path)
    with pytest.raises(SystemExit) as caught:
        check.main([str(tmp_path), "--stories", "20", "--device", "cpu"])
    lines = capsys.readouterr().out.splitlines()
    assert (
        caught.value.code == 1 and lines[-1].startswith("verdict: UNTRAINED") and "train it from a recipe" in lines[-1]
    )
    assert "training: step not known, tokens not known, trained on not known" in lines
    assert "embedded sample corpus" in "".join(lines)


def test_no_checkpoint(tmp_path):
    assert str(tmp_path) in mistake(diagnose, str(tmp_path))
