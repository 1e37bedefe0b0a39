"""docs/claims.md is what its record says; the record is complete; the faulty variants are what they are called."""

import math
from itertools import product
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch

from benchmarks import claims, claims_report, claims_run
from benchmarks.claims_report import BITS, COMPARISONS, Comparison, Difference, Measure, difference, t95
from benchmarks.recipe_runs import Run, TokenizerOfSize, train
from helpers.runs import ROOT
from tinystories.checkpoint.loading import new_model
from tinystories.config.keys import DataArguments, ModelArguments, TokenizerArguments
from tinystories.data import packing
from tinystories.data.packing import StoryCollator
from tinystories.data.tokenizer import train_tokenizer


RECORD = claims.read_record()
STORIES = [f"The hen {i} sat on a{' big' * (i % 9)} box." for i in range(60)]


def test_document_is_written_from_the_record():
    document = (ROOT / "docs/claims.md").read_text(encoding="utf-8")
    assert claims_report.with_blocks(document, RECORD) == document


def test_record_is_complete_and_fair():
    """Each arm with each seed, at equal FLOPs, as this script would train it now; the guards stop the faulty ones."""
    assert RECORD["base"] == claims.RECIPE and RECORD["budget"] == claims.BUDGET, "a quick run is no evidence"
    assert [(run["arm"], run["seed"]) for run in RECORD["runs"]] == list(product(claims.ARMS, claims.SEEDS))
    assert len({run["stories"] for run in RECORD["runs"]}) == 1
    for run in RECORD["runs"]:
        arm = RECORD["arms"][run["arm"]]
        step = arm["flops"] / arm["steps"]
        assert run["training_flops"] == arm["flops"] and RECORD["budget"] - step < arm["flops"] <= RECORD["budget"]
    assert set(RECORD["refused"]) == {name for name, arm in claims.ARMS.items() if arm.faulty}
    assert {refused["exit_status"] for refused in RECORD["refused"].values()} == {2}


def test_every_arm_is_compared():
    """An arm without a claim, or a claim that compares two things at once."""
    assert {one.arm for one in COMPARISONS} | {one.base for one in COMPARISONS} == set(claims.ARMS)
    assert set(claims.ARMS) == set(claims_report.LABELS)
    few = claims.ARMS["few_stories"].keys
    assert {key: value for key, value in claims.ARMS["few_stories_dropout"].keys.items() if key not in few} == (
        claims.ARMS["dropout"].keys
    )


@pytest.mark.parametrize("name", ["base", "vocabulary_10k", "half_context"])
def test_cost_is_counted(name):
    """As many steps as fit into the budget; context and vocabulary cost; a step has the same tokens in every arm."""
    arm, base = claims.ARMS[name], claims.RECIPE | claims.QUICK
    facts = claims.facts_of(arm, base, TokenizerOfSize(arm.vocabulary), budget=1e12)
    (width, inner), layers = (64, 192), 2
    context = 256 if name == "half_context" else 512
    matrices = layers * (4 * width * width + 3 * width * inner) + width * arm.vocabulary
    assert facts["flops_per_token"] == 6 * matrices + 6 * layers * width * context
    step = facts["flops_per_token"] * 4 * 512
    assert facts["steps"] == 1e12 // step > 0 and facts["flops"] == facts["steps"] * step


def test_budget_below_one_step():
    """It is refused: a step more would be another budget."""
    with pytest.raises(SystemExit, match="does not pay for one step"):
        claims.facts_of(claims.ARMS["base"], claims.RECIPE | claims.QUICK, TokenizerOfSize(4096), budget=1e9)


def record_of(**scores) -> dict:
    """A record of arms with these bits per byte, by seed."""
    runs = [
        {"arm": arm, "seed": seed, "bits_per_byte": value}
        for arm, values in scores.items()
        for seed, value in enumerate(values, 1)
    ]
    return {"runs": runs[::-1], "refused": {"shifted_twice": {}, "weighted_articles": {}, "no_eos": {}}}


@pytest.mark.parametrize(("freedom", "value"), [(1, 12.706), (2, 4.303), (10, 2.228), (24, 2.064)])
def test_student(freedom, value):
    """As in the tables."""
    assert t95(freedom) == pytest.approx(value, abs=2e-3)


def test_difference_is_paired_and_pooled(monkeypatch):
    """The seeds' common part cancels; the spread is that of all sound comparisons; a broken arm has its own."""
    monkeypatch.setattr(claims_report, "COMPARISONS", [Comparison(arm, (BITS,)) for arm in ("untied", "dropout")])
    record = record_of(
        base=[1.0, 2.0, 3.0], untied=[1.1, 2.2, 3.3], dropout=[1.0, 2.0, 3.0], shifted_twice=[5.0, 7.0, 9.0]
    )
    found = difference(record, Comparison("untied", (BITS,)), BITS)
    assert found.values == pytest.approx([0.1, 0.2, 0.3]) and found.mean == pytest.approx(0.2)
    pooled = math.sqrt((2 * 0.1**2 + 2 * 0) / 4)
    assert found.half == pytest.approx(2.776 * pooled / math.sqrt(3), rel=1e-3)
    broken = difference(record, Comparison("shifted_twice", (BITS,)), BITS)
    assert broken.mean == pytest.approx(5.0) and broken.half == pytest.approx(4.303 / math.sqrt(3), rel=1e-3)
    assert difference(record, Comparison("untied", (BITS,)), Measure("loss", "a loss that no run has")) is None


@pytest.mark.parametrize(
    ("mean", "half", "better", "verdict"),
    [
        (-0.2, 0.19, "lower", "better"),
        (0.2, 0.19, "lower", "worse"),
        (0.2, 0.2, "lower", "no difference that 3 seeds show"),
        (-0.1, 0.2, "lower", "no difference that 3 seeds show"),
        (0.0, 0.0, "lower", "no difference that 3 seeds show"),
        (0.2, 0.0, "higher", "better"),
        (-0.2, 0.1, "higher", "worse"),
        (9.0, 0.1, "neither", ""),
    ],
)
def test_verdict(mean, half, better, verdict):
    """From the interval alone: a difference as large as its interval shows nothing."""
    assert Difference([mean] * 3, mean, half).verdict(Measure("x", "x", better)) == verdict


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(datasets.Dataset.from_dict({"text": STORIES}), TokenizerArguments(vocab_size=300))


@pytest.fixture
def rows_of(tokenizer, tmp_path, monkeypatch):
    """Function of a variant -> (rows of 16, key of the cache); packing.py is restored after the test."""
    for name in ("encode_stories", "fit_rows", "LAYOUT"):
        monkeypatch.setattr(packing, name, getattr(packing, name))

    def pack(variant: str | None, **keys) -> tuple[np.ndarray, str]:
        if variant:
            claims_run.VARIANTS[variant]()
        arguments = DataArguments(block_size=16, data_cache_dir=str(tmp_path), **keys)
        packed = packing.pack(datasets.Dataset.from_dict({"text": STORIES}), tokenizer, arguments)
        return np.array(packed.rows["input_ids"]), packed.key

    return pack


def test_no_eos(rows_of, tokenizer):
    """The same tokens but EOS, and not the cached rows of a sound run."""
    sound, key = rows_of(None)
    rows, other = rows_of("no_eos")
    kept = sound[sound != tokenizer.eos_token_id]
    assert (rows.reshape(-1)[: len(kept)] == kept[: rows.size]).all() and rows.size > len(kept) - 16
    assert (rows == tokenizer.bos_token_id).sum() >= len(STORIES) - 1 and other != key


def test_one_story_a_row(rows_of, tokenizer):
    """A row begins with a story or goes on with one; no row has two, and none is lost."""
    fitted, key = rows_of(None, align_to_stories=True)
    rows, other = rows_of("one_story_a_row", align_to_stories=True)
    assert other != key and len(rows) > len(fitted)
    begins = rows == tokenizer.bos_token_id
    assert begins.sum() == len(STORIES) and not begins[:, 1:].any()
    pad = tokenizer.pad_token_id
    assert sorted(rows[rows != pad]) == sorted(fitted[fitted != pad])
    assert (np.diff((rows == pad).astype(int), axis=1) >= 0).all(), "padding is at the end"


def test_articles_count_ten_times(tokenizer):
    """The loss is the mean with weight 10 on articles, 1 on others and 0 on padding."""
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = new_model(ModelArguments(**sizes), tokenizer, 32)
    ids = tokenizer("The hen sat on a box.")["input_ids"]
    batch = StoryCollator(tokenizer.pad_token_id)([{"input_ids": ids}, {"input_ids": ids[:-2]}])
    trainer = SimpleNamespace(processing_class=tokenizer)
    loss = claims_run.ArticlesWeighted.compute_loss(trainer, model, batch).item()
    nats = -torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0], dim=-1)
    weights = [10 if tokenizer.decode([token]).strip().lower() in ("a", "the") else 1 for token in ids]
    targets = [*range(1, len(ids)), *range(1, len(ids) - 2)]
    total = sum(weights[place] * nats[place - 1, ids[place]].item() for place in targets)
    assert max(weights) == 10
    assert loss == pytest.approx(total / sum(weights[place] for place in targets), rel=1e-5)


def test_unused_tokens(tokenizer, tmp_path):
    """A vocabulary larger than the text gives: the same tokens for every text, and rows that are never used."""
    corpus = SimpleNamespace(train=datasets.Dataset.from_dict({"text": STORIES}))
    larger = claims.tokenizer_of_size(5000, corpus, tmp_path)
    learned = train_tokenizer(corpus.train, TokenizerArguments(vocab_size=5000))
    assert len(learned) < len(larger) == 5000
    texts = [*STORIES, "<unused 4000> A new word: zebra."]
    assert larger(texts)["input_ids"] == learned(texts)["input_ids"]
    assert larger.all_special_ids == learned.all_special_ids


TRAINER = """
import json, pathlib, sys
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
folder = pathlib.Path(options["--output_dir"])
folder.mkdir()
print("trained", folder.name)
if options["--seed"] == "2":
    sys.exit(1)
results = {"eval_bits_per_byte": float(options["--seed"]), "eval_stories": 7, "num_input_tokens_seen": 8}
files = {
    "all_results": results | {"training_flops": 9, "train_runtime": 1.0},
    "trainer_state": {"log_history": []},
    "environment": {"parameters": 3, "device_name": "x"},
}
for name, contents in files.items():
    (folder / f"{name}.json").write_text(json.dumps(contents))
"""


def test_finished_runs_are_kept(tmp_path):
    """Each is told as it ends, so that a record can be written before the last one; a run that failed is named."""
    script, kept = tmp_path / "script.py", {}
    script.write_text(TRAINER, encoding="utf-8")
    runs = [Run(f"run-{seed}", {"seed": seed}) for seed in (1, 2, 3)]
    with pytest.raises(SystemExit, match=r"failed: run-2 \(.*\); see"):
        train(runs, tmp_path / "runs", 2, script, lambda name, result: kept.update({name: result["bits_per_byte"]}))
    assert kept == {"run-1": 1.0, "run-3": 3.0}
