"""An interrupted run ends with the same weights, to the bit, as one that was not; what prevents it is named."""

import json
import os
import re
import shutil
import signal
import time
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.forked import ForkedCommand, fork_command
from helpers.kill_and_resume import RUN, differing, kill, options, start
from helpers.run_folder import write_run
from helpers.runs import as_options, mistake
from tinystories.atomic import damage, seal
from tinystories.config.arguments import RunArguments
from tinystories.errors import Interrupted, UserError
from tinystories.run_files import checkpoints, step_of
from tinystories.training.checkpointing import (
    LogSpacedCheckpoints,
    check_undamaged,
    publish_checkpoint,
    steps_to_drop,
    thin_out,
)
from tinystories.training.out_of_memory import evaluating_in_memory
from tinystories.training.resume import check_run_folder
from tinystories.training.signals import GracefulStopCallback
from tinystories.training.trainer import read_progress


STEPS = 200  # two epochs and a half
slow = pytest.mark.slow
posix = pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals and limits")


def reached(process, log: Path, condition) -> None:
    """Wait until `condition` holds; the process must not have ended before."""
    deadline = time.monotonic() + 240
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text(encoding="utf-8")[-3000:]
        time.sleep(0.005)  # a checkpoint is being written for longer than that


def stop(*numbers: int):
    """As Ctrl-C in a terminal: the signal goes to the whole process group, data workers too. A session that ends sends
    several.
    """

    def send(process) -> None:
        for number in numbers:
            os.killpg(process.pid, number)
        process.wait(timeout=240)

    return send


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Path:
    """A run that was not interrupted, in root/run, without guards; the others in root share its cache."""
    folder = tmp_path_factory.mktemp("resume") / "run"
    small_run(folder, "--skip_guards", max_steps=STEPS)
    return folder


def small_run(folder: Path, *more: str, **settings) -> str:
    """Run to the end; returns what was said."""
    process = fork_command("run_clm.py", *options(folder, **settings), *more)
    assert process.returncode == 0, process.stderr[-3000:]
    return process.stderr


# the weights fit, the optimizer does not
LITTLE_ROOM = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000))"


@slow
@posix
def test_resume_after_every_kind_of_stop(reference):
    """Across an epoch, with accumulation, workers, dropout: signals, kills while saving or evaluating, a full disk.

    One is started as a user starts it. The others are forked, without the guards before a run, into a process group of
    their own.
    """
    folder, log = reference.parent / "stopped", reference.parent / "stopped.log"
    run = {"max_steps": STEPS}
    resumed = [*options(folder, **run), "--resume"]

    def last() -> int:
        return max((step_of(path) for path in checkpoints(folder)), default=0)

    def samples() -> int:
        file = folder / "samples.jsonl"
        return file.read_bytes().count(b"\n") if file.exists() else 0

    ways = {
        "before the first checkpoint": (lambda: (folder / "recipe.json").exists(), kill, -signal.SIGKILL),
        "SIGTERM, which ends data workers": (lambda: last() >= 40, stop(signal.SIGTERM), 143),  # not resumed yet
        "while a checkpoint is written": (lambda: any(folder.glob("unfinished-*/checkpoint-*/optimizer.pt")), kill, -9),
        "in an evaluation": (lambda: samples() >= 5, kill, -signal.SIGKILL),
        "Ctrl-C": (lambda: last() >= 100, stop(signal.SIGINT), 130),
        "the terminal is closed": (lambda: last() >= 140, stop(signal.SIGHUP), 129),
    }
    for way, (condition, end, status) in ways.items():
        log.unlink(missing_ok=True)
        if way == "Ctrl-C":
            process = start(folder, log, "--resume", **run)
        else:
            process = ForkedCommand("run_clm.py", *resumed, "--skip_guards", code="import os; os.setsid()", log=log)
        reached(process, log, condition)
        end(process)
        said = log.read_text(encoding="utf-8")
        assert process.poll() == status, (way, said[-3000:])
        assert "Traceback" not in said and "error" not in said, (way, said[-3000:])
        if status in (129, 130, 143):
            assert f"saved in {folder}/checkpoint-{last()}" in said and not any(folder.glob("unfinished-check*"))

    before = last()
    process = fork_command("run_clm.py", *resumed, "--skip_guards", code=LITTLE_ROOM)
    assert process.returncode == 1
    (error,) = [line for line in process.stderr.splitlines() if line.startswith("error: ")]
    assert f"the last good checkpoint is {folder}/checkpoint-{before}; make room" in error and last() == before

    small_run(folder, "--resume", **run)
    assert differing(folder, reference) == []
    states = [json.loads((run / "trainer_state.json").read_text(encoding="utf-8")) for run in (reference, folder)]
    evaluations = [[row for row in state["log_history"] if "eval_loss" in row] for state in states]
    for whole, resumed in zip(*evaluations, strict=True):
        assert whole["step"] == resumed["step"] and whole["eval_loss"] == resumed["eval_loss"]
    progress = [json.loads((run / f"checkpoint-{STEPS}/progress.json").read_text()) for run in (reference, folder)]
    assert progress[0]["recent_losses"] == progress[1]["recent_losses"], "each step saw the same rows"
    assert len(progress[0]["recent_losses"]) == 100, "what a spike is compared with"
    steps = [[json.loads(line)["step"] for line in (run / "samples.jsonl").open()] for run in (reference, folder)]
    assert steps[0] == steps[1], "no sample twice, none missing"


@slow
def test_resume_in_a_reshuffled_epoch(tmp_path):
    """The third: a run that begins in its middle has its stories in the same order, and the guards pass."""
    settings = {"reshuffle_stories": True, "isolate_stories": True, "num_sample_stories": 20, "max_steps": 35}
    settings |= {"eval_steps": 30, "save_steps": 30, "save_log_spaced": False}
    small_run(tmp_path / "whole", "--skip_guards", **settings)
    state = json.loads((tmp_path / "whole/checkpoint-30/trainer_state.json").read_text(encoding="utf-8"))
    assert 2.1 < state["epoch"] < 2.9
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    shutil.rmtree(tmp_path / "resumed/checkpoint-35")
    small_run(tmp_path / "resumed", "--resume", **settings)
    guards = (tmp_path / "resumed/data_report.json").read_text(encoding="utf-8")
    assert re.search(r"all 19 stories are in the \d+ rows", guards)
    assert differing(tmp_path / "resumed", tmp_path / "whole") == []


@posix
def test_signals_of_a_terminal_that_is_closed():
    """Under nohup the run goes on; without it the hang-up is taken once, and only Ctrl-C stops a run at once."""
    arguments = SimpleNamespace(world_size=1)
    before = signal.getsignal(signal.SIGHUP)
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        callback = GracefulStopCallback()
        callback.on_train_begin(arguments, None, None)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        callback.on_train_end(arguments, None, None)

        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        callback = GracefulStopCallback()
        callback.on_train_begin(arguments, None, None)
        for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM):
            signal.raise_signal(number)
        assert callback.received == signal.SIGHUP
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
        assert Interrupted("checkpoint-1", callback.received).exit_status == 129
    finally:
        signal.signal(signal.SIGHUP, before)


@slow
def test_kept_checkpoints(reference):
    """The best one, the last one, and others spread over the run."""
    state = json.loads((reference / "trainer_state.json").read_text(encoding="utf-8"))
    kept = [step_of(path) for path in checkpoints(reference)]
    assert len(kept) == 4 and kept[-1] == STEPS and state["best_global_step"] in kept
    assert kept[0] <= 8, "the first steps, where most is learned, can still be looked at"
    assert not any(reference.glob("unfinished*"))


@given(st.sets(st.integers(1, 10**6), min_size=1, max_size=40), st.integers(1, 12), st.randoms(use_true_random=False))
def test_best_and_last_always_stay(steps, limit, random):
    """Whatever was saved and whatever the limit is."""
    steps = sorted(steps)
    best = random.choice(steps)
    kept = set(steps) - set(steps_to_drop(steps, limit, best))
    assert {best, steps[-1]} <= kept
    assert len(kept) == min(len(steps), max(limit, len({best, steps[-1]})))


def test_even_saves_are_kept_log_spaced():
    """Thinning out after each save must not leave late checkpoints only."""
    kept = []
    for step in [1, 2, 4, 8, 16, 32, 64, *range(100, 10001, 100)]:
        kept.append(step)
        kept = [old for old in kept if old not in steps_to_drop(kept, 6, None)]
    ratios = [after / before for before, after in pairwise(kept)]
    assert len(kept) == 6 and max(ratios) < 10 and kept[0] <= 10, kept


@pytest.mark.parametrize(
    ("steps", "limit", "best", "dropped"),
    [
        ([10, 20, 40], None, None, []),
        ([10, 20, 40], 0, 20, []),
        ([10, 20, 40], 3, None, []),
        ([10, 12, 40, 80], 3, None, [12]),
        ([10, 12, 40, 80], 3, 12, [40]),
        ([1, 2, 4], 2, None, [1]),
        ([1, 2, 4, 8], 1, 8, [1, 2, 4]),
        ([1, 2, 4, 8], 1, 2, [1, 4]),
        ([5], 1, 5, []),
    ],
)
def test_dropped_steps(steps, limit, best, dropped):
    """Where neighbours are nearest on a logarithmic scale; no limit keeps all."""
    assert sorted(steps_to_drop(steps, limit, best)) == dropped


def folder_of(path: Path, **files: str) -> Path:
    path.mkdir(parents=True)
    for name, text in files.items():
        (path / name).write_text(text, encoding="utf-8")
    return path


def sealed(path: Path) -> None:
    seal(folder_of(path, weights="w"))


def test_thinned_out(tmp_path):
    """The folders of the dropped steps are removed, and no others."""
    for step in (10, 12, 40, 80):
        sealed(tmp_path / f"checkpoint-{step}")
    thin_out(tmp_path, None, None)
    assert [step_of(path) for path in checkpoints(tmp_path)] == [10, 12, 40, 80]
    thin_out(tmp_path, 3, tmp_path / "checkpoint-12")
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-10", "checkpoint-12", "checkpoint-80"}


def test_published_checkpoint(tmp_path):
    """It takes the place of what an interrupted attempt left, is sealed, and nothing else stays behind."""
    run, files = tmp_path / "run", {"README.md": "card", "generation_config.json": "{}", "optimizer.pt": "state"}
    unfinished = folder_of(run / "unfinished" / "checkpoint-5", weights="new", **{"sealed.json": "stale"}, **files)
    final = folder_of(run / "checkpoint-5", weights="old", more="old")
    publish_checkpoint(unfinished, final)
    assert [path.name for path in run.iterdir()] == ["checkpoint-5"]
    assert {path.name for path in final.iterdir()} == {"weights", "sealed.json", *files}
    assert (final / "weights").read_text() == "new"
    for edited in ("README.md", "generation_config.json"):
        (final / edited).write_text("mine", encoding="utf-8")
    check_undamaged(final)
    publish_checkpoint(unfinished, final)  # a second process of the same machine comes later
    assert not damage(final) and (final / "weights").read_text() == "new"
    (final / "weights").write_text("cut", encoding="utf-8")
    assert "weights" in mistake(check_undamaged, final)


def test_remedy_of_a_damaged_checkpoint(tmp_path):
    """It names the checkpoint before it, not a later one; without one, the run begins again."""
    for step in (5, 10, 20):
        sealed(tmp_path / f"checkpoint-{step}")
    message = mistake(check_undamaged, tmp_path / "checkpoint-10")
    assert message.endswith(f"--resume continues from {tmp_path / 'checkpoint-5'}")
    assert mistake(check_undamaged, tmp_path / "checkpoint-5").endswith("--resume begins again")


@pytest.mark.parametrize(
    ("strategy", "saved"),
    [("steps", [1, 2, 4, 8, 16]), ("epoch", [1, 2, 4, 8, 16]), ("best", [1, 2, 4, 8, 16]), ("no", [])],
)
def test_early_checkpoints(strategy, saved):
    """Steps 1, 2, 4, 8 ... until the first save of the strategy; not the step that is saved at the end of an epoch."""
    found = []
    for step in range(1, 129):
        control = SimpleNamespace(should_save=False)
        state = SimpleNamespace(global_step=step, save_steps=20, epoch=step / 32, max_steps=128)
        LogSpacedCheckpoints().on_step_end(SimpleNamespace(save_strategy=strategy), state, control)
        found += [step] * control.should_save
    assert found == saved


@pytest.mark.parametrize(("epoch", "max_steps", "saved"), [(0.5, 9, True), (0.5, 4, False), (1.0, 9, False)])
def test_no_early_checkpoint_before_the_evaluation(epoch, max_steps, saved):
    """Where an epoch or the run ends, an evaluation may still follow: its checkpoint must hold that."""
    control = SimpleNamespace(should_save=False)
    state = SimpleNamespace(global_step=4, save_steps=20, epoch=epoch, max_steps=max_steps)
    LogSpacedCheckpoints().on_step_end(SimpleNamespace(save_strategy="steps"), state, control)
    assert control.should_save is saved


def copy_of(run: Path, folder: Path) -> Path:
    shutil.copytree(run, folder)
    return folder


@slow
@pytest.mark.parametrize(
    ("file", "spoil", "reason"),
    [
        ("model.safetensors", lambda path: path.write_bytes(path.read_bytes()[:-100]), "model.safetensors has"),
        ("optimizer.pt", lambda path: path.write_bytes(path.read_bytes()[:1000]), "optimizer.pt has 1,000 bytes of"),
        ("optimizer.pt", lambda path: path.write_bytes(bytes(path.stat().st_size)), "optimizer.pt is not what was"),
        ("trainer_state.json", lambda path: path.write_bytes(path.read_bytes()[:-10]), "trainer_state.json has"),
        ("scheduler.pt", lambda path: path.unlink(), "scheduler.pt is missing"),
        ("rng_state.pth", lambda path: path.write_bytes(b""), "rng_state.pth has 0 bytes"),
        ("sealed.json", lambda path: path.write_text("{"), "sealed.json is damaged"),
    ],
)
def test_damaged_checkpoint(file, spoil, reason, reference, tmp_path):
    """It is named with its damaged file and the checkpoint before it, from which --resume continues."""
    folder = copy_of(reference, tmp_path / "run")
    last, before = checkpoints(folder)[-1], checkpoints(folder)[-2]
    spoil(last / file)
    message = mistake(check_run_folder, RunArguments(output_dir=str(folder), resume=True))
    assert (
        message.startswith(f"{last} is damaged or cannot be read: {reason}")
        and f"--resume continues from {before}" in message
    )
    shutil.rmtree(last)
    assert check_run_folder(RunArguments(output_dir=str(folder), resume=True)) == str(before)


@slow
def test_edited_card_and_missing_optimizer(reference, tmp_path):
    """A card may be edited; a checkpoint without optimizer cannot be resumed."""
    folder = copy_of(reference, tmp_path / "run")
    last = checkpoints(folder)[-1]
    (last / "README.md").write_text("my own words", encoding="utf-8")
    assert check_run_folder(RunArguments(output_dir=str(folder), resume=True)) == str(last)
    entries = json.loads((last / "sealed.json").read_text(encoding="utf-8"))
    del entries["optimizer.pt"]
    (last / "sealed.json").write_text(json.dumps(entries), encoding="utf-8")
    (last / "optimizer.pt").unlink()
    assert "no optimizer" in mistake(check_run_folder, RunArguments(output_dir=str(folder), resume=True))


def test_unusable_record(tmp_path):
    """A record that cannot be read is not called missing."""
    folder = write_run(tmp_path / "run")
    training = RunArguments(output_dir=str(folder), resume=True)
    (folder / "recipe.json").write_text("{}")
    assert mistake(check_run_folder, training) == f"{folder} cannot be resumed: recipe.json is missing or has no seed"
    (folder / "recipe.json").unlink()
    (folder / "recipe.json").mkdir()
    assert "recipe.json cannot be read (" in mistake(check_run_folder, training)


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "missing or incomplete"), ("{}", "missing or incomplete"), ("{", "damaged")]
)
def test_unusable_progress(content, reason, tmp_path):
    if content is not None:
        (tmp_path / "progress.json").write_text(content)
    message = mistake(read_progress, tmp_path)
    assert message.startswith(str(tmp_path)) and "progress.json is " + reason in message


def test_resume_without_a_checkpoint(tmp_path):
    """--resume begins a run where there is none, and refuses a folder with anything else in it."""
    training = RunArguments(output_dir=str(tmp_path / "run"), resume=True)
    assert check_run_folder(training) is None
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.json").write_text("{}", encoding="utf-8")  # killed before its first checkpoint
    assert check_run_folder(training) is None
    (tmp_path / "run" / "model.safetensors").write_bytes(b"of a run that saved nothing on its way")
    assert "contains an earlier run" in mistake(check_run_folder, training)
    (tmp_path / "run" / "model.safetensors").unlink()
    (tmp_path / "run" / "recipe.json").rename(tmp_path / "run" / "letter.txt")
    assert "contains no earlier run" in mistake(check_run_folder, training)
    (tmp_path / "run" / "letter.txt").unlink()
    (tmp_path / "run" / "checkpoint-5").mkdir()
    assert "contains no earlier run" in mistake(check_run_folder, training)
    (tmp_path / "letter.txt").write_text("a file", encoding="utf-8")
    training = RunArguments(output_dir=str(tmp_path / "letter.txt" / "run"), resume=True)
    assert "letter.txt is not a folder" in mistake(check_run_folder, training)


@slow
def test_damaged_cache_is_built_again(reference, tmp_path):
    """For a resumed run too: the rows are made again, and are the same."""
    folder = copy_of(reference, tmp_path / "run")
    shutil.copytree(reference.parent / "cache", tmp_path / "cache")
    (rows,) = (tmp_path / "cache").glob("rows-*/rows.arrow")
    (stories,) = (tmp_path / "cache").glob("stories-*/stories.arrow")
    rows.write_bytes(rows.read_bytes()[:5000])
    changed = stories.read_bytes().replace(b"the", b"eht", 1)  # of the same size
    stories.write_bytes(changed)
    shutil.rmtree(next((tmp_path / "cache").glob("tokenizer-*")))
    abandoned = tmp_path / "cache" / "unfinished-old"
    abandoned.mkdir()
    said = small_run(folder, "--resume", max_steps=STEPS)
    assert "is damaged (rows.arrow has 5,000 bytes of" in said and "training a tokenizer" in said
    assert "is damaged (stories.arrow is not what was written)" in said
    assert differing(folder, reference) == [] and not abandoned.exists()


@slow
def test_early_stopping_after_resume(tmp_path):
    """The count continues, and the best is always saved.

    With a learning rate that moves no loss, no evaluation beats the first, at step 5, where nothing is saved by rule.
    """
    settings = {"learning_rate": 1e-15, "eval_steps": 5, "save_steps": 10, "early_stopping_patience": 3}
    settings |= {"save_log_spaced": False, "dataloader_num_workers": 0, "save_total_limit": 2, "skip_guards": True}
    small_run(tmp_path / "run", **settings, max_steps=10)
    assert [step_of(path) for path in checkpoints(tmp_path / "run")] == [5, 10]
    for _ in range(2):  # the second time the training has come to its end, though not to its last step
        said = small_run(tmp_path / "run", "--resume", **settings, max_steps=100)
        assert [step_of(path) for path in checkpoints(tmp_path / "run")] == [5, 20]
    assert "the training had ended before" in said


@slow
def test_resume_one_and_a_half_epochs(tmp_path):
    """The Trainer's state holds two epochs; counted from that, the run would be over at three quarters."""
    settings = {"num_sample_stories": 50, "max_steps": -1, "num_train_epochs": 1.5, "eval_strategy": "no"}
    settings |= {"load_best_model_at_end": False, "save_steps": 5, "save_total_limit": 30, "save_log_spaced": False}
    settings |= {"skip_guards": True}
    without = {key: value for key, value in RUN.items() if key not in ("early_stopping_patience", "eval_steps")}
    small_run(tmp_path / "run", run=without, **settings)
    *earlier, last = checkpoints(tmp_path / "run")
    cut = [path for path in earlier if step_of(path) > 0.8 * step_of(last)]
    for path in (*cut, last):
        path.rename(tmp_path / path.name)
    assert cut, "what is left ends beyond three quarters of the run"
    small_run(tmp_path / "run", "--resume", run=without, **settings)
    assert checkpoints(tmp_path / "run")[-1].name == last.name
    assert differing(tmp_path / "run" / last.name, tmp_path / last.name) == []
    results = json.loads((tmp_path / "run" / "all_results.json").read_text(encoding="utf-8"))
    assert 0 < results["train_runtime"] < results["elapsed_seconds"], "the seconds of both sessions"


def test_out_of_memory_in_evaluation():
    """The key to change is the evaluation's own batch."""
    with pytest.raises(UserError, match="give --per_device_eval_batch_size 4"), evaluating_in_memory(8):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


# A machine whose memory holds MOST rows, after SINCE batches.
SHORT_OF_MEMORY = """
import functools, torch, modeling_tinystories
batches = []
forward = modeling_tinystories.TinyStoriesForCausalLM.forward

@functools.wraps(forward)
def short_of_memory(self, input_ids=None, **kwargs):
    output = forward(self, input_ids=input_ids, **kwargs)
    if self.training and torch.is_grad_enabled() and input_ids.shape[1] == 64:
        batches.append(len(input_ids))
        if len(batches) > SINCE and len(input_ids) > MOST:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    return output

modeling_tinystories.TinyStoriesForCausalLM.forward = short_of_memory
"""


def with_memory_for(rows: int, folder: Path, *more: str, since: int = 0):
    """A finished run, which has the memory for so many rows at once."""
    settings = {"num_sample_stories": 100, "vocab_size": 320, "block_size": 64, "hidden_size": 64, "max_steps": 12}
    settings |= {"intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2, "save_steps": 6}
    settings |= {"per_device_train_batch_size": 8, "output_dir": folder, "data_cache_dir": folder.parent / "cache"}
    settings |= {"bf16": "no", "skip_guards": True}
    code = SHORT_OF_MEMORY.replace("MOST", str(rows)).replace("SINCE", str(since))
    return fork_command("run_clm.py", *as_options(settings), *more, code=code)


@slow
def test_out_of_memory(tmp_path):
    """The rows at once are halved and a step keeps its rows; after the first step the two keys to give are named."""
    auto = ("--auto_find_batch_size", "true")
    enough = with_memory_for(8, tmp_path / "enough", *auto)
    little = with_memory_for(2, tmp_path / "little", *auto)
    assert enough.returncode == little.returncode == 0, little.stderr[-3000:]
    assert "now 2 rows, accumulated 4 times; a step stays 8 rows" in little.stderr
    results = [json.loads((tmp_path / run / "all_results.json").read_text()) for run in ("enough", "little")]
    assert results[0]["num_input_tokens_seen"] == results[1]["num_input_tokens_seen"]
    assert results[0]["training_flops"] == results[1]["training_flops"]
    assert results[0]["eval_loss"] == pytest.approx(results[1]["eval_loss"], abs=1e-5)
    recipe = json.loads((tmp_path / "little" / "recipe.json").read_text())
    assert (recipe["per_device_train_batch_size"], recipe["gradient_accumulation_steps"]) == (2, 4)

    late = with_memory_for(4, tmp_path / "late", *auto, since=9)
    assert late.returncode == 1 and "Traceback" not in late.stderr
    keys = ["--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "2"]
    assert f"continue with --resume {' '.join(keys)}" in late.stderr and "out of memory at step 9 with" in late.stderr
    assert with_memory_for(4, tmp_path / "late", *auto, "--resume", *keys).returncode == 0
    results.append(json.loads((tmp_path / "late" / "all_results.json").read_text()))
    assert results[0]["eval_loss"] == pytest.approx(results[2]["eval_loss"], abs=1e-5)
