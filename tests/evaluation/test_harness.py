"""Our tasks in the real lm-evaluation-harness give the numbers of our own evaluation."""

import json

import datasets
import pytest

from helpers.runs import mistake
from tinystories.checkpoint.loading import load_checkpoint
from tinystories.data.sample_corpus import END_OF_STORY, sample_stories
from tinystories.evaluation import harness
from tinystories.evaluation.likelihood import likelihood
from tinystories.evaluation.minimal_pairs.pairs import blimp_pairs, build_pairs, score_pairs


STORIES = sample_stories(250, seed=6)


@pytest.fixture(scope="module")
def blimp(tmp_path_factory):
    folder = tmp_path_factory.mktemp("blimp")
    rows = [
        {"sentence_good": f"one two {word}.", "sentence_bad": f"two one {word}."} for word in ("three", "ten", "Zoë")
    ]
    (folder / "counting.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def tasks(tmp_path_factory, blimp):
    folder = tmp_path_factory.mktemp("tasks")
    data = folder / "stories.txt"
    data.write_text(f"\n{END_OF_STORY}\n".join(STORIES), encoding="utf-8")
    options = {"--data": data, "--output_dir": folder / "tasks", "--blimp": blimp, "--number": 10, "--stories": 6}
    harness.main([str(word) for option in options.items() for word in option])
    return folder / "tasks"


def evaluated(checkpoint, tasks, *names: str, **model_args) -> dict[str, dict]:
    import lm_eval  # takes seconds to import, and only this function needs it
    from lm_eval.tasks import TaskManager

    settings = {"pretrained": str(checkpoint), "dtype": "float32"}
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    result = lm_eval.simple_evaluate(
        model="hf",
        model_args=settings | model_args,
        tasks=list(names),
        task_manager=manager,
        batch_size=8,
        device="cpu",
        bootstrap_iters=0,
    )
    return result["results"]


@pytest.mark.slow
def test_pairs_and_blimp(untrained_checkpoint, tasks, blimp):
    """lm-eval gives every rule and group the score of score_pairs."""
    results = evaluated(untrained_checkpoint, tasks, harness.PAIRS, harness.BLIMP, logits_cache=False)
    stories = datasets.Dataset.from_dict({"text": STORIES})
    model, tokenizer = load_checkpoint(str(untrained_checkpoint))
    ours = {harness.PAIRS: build_pairs(stories, 10), harness.BLIMP: blimp_pairs(blimp)}
    for group, pairs in ours.items():
        scores = score_pairs(model, tokenizer, pairs)
        assert len(scores) > 1
        for rule, estimate in scores.items():
            task = group if rule == "mean_of_rules" else f"{group}_{rule}"
            assert results[task]["acc,none"] == pytest.approx(estimate.value, abs=1e-3), task


@pytest.mark.slow
def test_bits_per_byte(untrained_checkpoint, tmp_path):
    """lm-eval gives our text_bits_per_byte."""
    texts = ["Story 7. one two three.", "Zoë saw one."]
    harness.write_stories(tmp_path, texts)
    results = evaluated(untrained_checkpoint, tmp_path, harness.BITS_PER_BYTE, add_bos_token=False)
    ours = likelihood(*load_checkpoint(str(untrained_checkpoint)), datasets.Dataset.from_dict({"text": texts}))
    found = results[harness.BITS_PER_BYTE]["bits_per_byte,none"]
    assert found == pytest.approx(ours["text_bits_per_byte"].value, abs=1e-3)


def test_mistakes(tmp_path):
    """A mistake in the options is one line."""
    data = tmp_path / "stories.txt"
    data.write_text(STORIES[0], encoding="utf-8")
    options = ["--data", str(data), "--output_dir", str(tmp_path / "tasks")]
    assert "number must be at least 1" in mistake(harness.main, [*options, "--number", "0"])
    assert "has no .jsonl files" in mistake(harness.main, [*options, "--blimp", str(tmp_path)])
    assert "cannot be made or written to" in mistake(harness.main, [*options[:3], str(data)])
