"""Runs on a stream: killed and resumed at the very row, in one process and in two; what a stream cannot give."""

import json

import pytest

from helpers.forked import fork_command, fork_ranks
from helpers.kill_and_resume import differing
from helpers.runs import as_options, mistake
from tinystories.config.recipe import read_recipe
from tinystories.data.sample_corpus import sample_stories
from tinystories.training.streaming import check_streaming


slow = pytest.mark.slow
TOLERANCE = 5e-5  # of the loss between one process and two: that of tests/training/test_distributed.py
STEPS, KILLED_AT = 12, 7  # between two checkpoints
RUN = {
    "streaming": True,
    "streaming_sample_stories": 60,
    "shuffle_buffer_size": 30,
    "vocab_size": 320,
    "block_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "learning_rate": 3e-3,
    "warmup_steps": 2,
    "max_steps": STEPS,
    "eval_strategy": "steps",
    "eval_steps": 6,
    "save_steps": 5,
    "logging_steps": 1,
    "bf16": False,
    "use_cpu": True,
    "disable_tqdm": True,
}
# Dies without notice in the first micro-batch of a step.
KILLED = f"""
import os, signal, transformers
counted = transformers.Trainer.floating_point_ops

def killed(self, inputs):
    if self.state.global_step == {KILLED_AT}:
        os.kill(os.getpid(), signal.SIGKILL)
    return counted(self, inputs)

transformers.Trainer.floating_point_ops = killed
"""


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Three of unequal size, the last in another format."""
    folder, stories = tmp_path_factory.mktemp("shards"), sample_stories(90, seed=1)
    for number, part in enumerate((stories[:20], stories[20:55])):
        lines = [json.dumps({"text": text}) + "\n" for text in part]
        (folder / f"part-{number}.jsonl").write_text("".join(lines), encoding="utf-8")
    (folder / "part-2.txt").write_text("\n<|endoftext|>\n".join(stories[55:]), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def options(shards, tmp_path_factory):
    """A function: the run's folder, changed settings -> the command line."""
    cache = tmp_path_factory.mktemp("cache")

    def of(output, **changes):
        return as_options(RUN | {"train_file": shards, "data_cache_dir": cache, "output_dir": output} | changes)

    return of


def losses(folder):
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return {row["step"]: row["loss"] for row in history if "loss" in row}


@slow
def test_killed_and_resumed(options, tmp_path):
    """To the bit the weights of a run without interruption, which has other data workers; dropout and all guards."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    process = fork_command("run_clm.py", *options(whole, resid_pdrop=0.1, dataloader_num_workers=2))
    assert process.returncode == 0, process.stderr[-3000:]
    found = json.loads((whole / "data_report.json").read_text())["guards"]
    assert found["stream"].startswith("8 rows of 3 lanes, each once")
    assert found["packed rows"].startswith("only of the first stories of the stream: ")
    assert "\n  visits: not checked: a stream" in process.stderr, "a guard that could not check says so"
    assert "2 readers (processes x data workers) share 3 lanes: each reads 2 times what it trains on" in process.stderr
    killed = fork_command("run_clm.py", *options(broken, resid_pdrop=0.1, skip_guards=True), code=KILLED)
    assert killed.returncode == -9 and (broken / "checkpoint-5").exists() and not (broken / "checkpoint-10").exists()
    resumed = fork_command("run_clm.py", *options(broken, resid_pdrop=0.1, skip_guards=True), "--resume")
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert differing(broken, whole) == []
    results = [json.loads((folder / "all_results.json").read_text()) for folder in (whole, broken)]
    assert results[0]["stream_rows"] == results[1]["stream_rows"] == 8 * STEPS
    of_token = json.loads((whole / "environment.json").read_text())["flops_per_token"]
    assert results[0]["training_flops"] == results[1]["training_flops"] == 8 * STEPS * 64 * of_token
    assert results[0]["stream_stories"] == results[1]["stream_stories"] > 10
    assert [result["epoch"] for result in results] == [1.0, 1.0]
    report = json.loads((whole / "data_report.json").read_text())["stream"]
    assert report["shards"] == report["lanes"] == 3 and "duplicates" in report["not_checked"]
    assert "a stream of 3 shards" in (whole / "README.md").read_text()


@slow
@pytest.mark.distributed
def test_two_processes(options, tmp_path):
    """The curve of one process, also after both were killed and resumed, with 3 shards and rows shared by both."""
    changes = {"skip_guards": True, "per_device_train_batch_size": 2, "save_steps": 5}
    killed = fork_ranks("run_clm.py", *options(tmp_path / "two", **changes), code=KILLED)
    assert all(process.returncode for process in killed)
    for process in fork_ranks("run_clm.py", *options(tmp_path / "two", **changes, streaming_lanes=8), "--resume"):
        assert process.returncode == 0, process.stderr[-3000:]
    changes["per_device_train_batch_size"] = 4
    alone = fork_command("run_clm.py", *options(tmp_path / "one", **changes))
    assert alone.returncode == 0, alone.stderr[-3000:]
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert one.keys() == two.keys() == set(range(1, STEPS + 1))
    assert max(abs(one[step] - two[step]) for step in one) < TOLERANCE
    seen = [json.loads((tmp_path / name / "all_results.json").read_text()) for name in ("one", "two")]
    for name in ("stream_rows", "stream_stories", "stream_left_out", "num_input_tokens_seen", "training_flops"):
        assert seen[0][name] == seen[1][name] > 0


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"max_steps": -1}, "streaming needs max_steps: a stream has no known length"),
        ({"save_strategy": "epoch"}, "save_strategy epoch: a stream has no known length"),
        ({"num_sample_stories": 100, "train_file": None}, "num_sample_stories is no stream"),
        ({"max_train_samples": 9}, "max_train_samples counts the stories of a whole corpus"),
        ({"remove_overlap": True}, "remove_overlap looks for near-copies in the whole corpus"),
        ({"train_sampling_strategy": "sequential"}, "train_sampling_strategy sequential needs all rows"),
        ({"ignore_data_skip": True}, "ignore_data_skip: a stream is resumed at the very row"),
        ({"accelerator_config": '{"split_batches": true}'}, "dispatch_batches and split_batches"),
        ({"streaming": False}, "streaming_sample_stories is for a stream; give --streaming true"),
    ],
)
def test_refused(changes, reason):
    values = RUN | {"train_file": "stories"} | changes
    recipe = read_recipe(as_options({key: value for key, value in values.items() if value is not None}))
    assert reason in mistake(check_streaming, recipe)
