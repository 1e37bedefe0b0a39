"""Training in two processes over gloo on CPUs, against one.

Where the launcher matters (its environment, its report, its reaction to a process that ends) the processes are started
as a user starts them; else they are forked with the environment that torchrun gives them.
"""

import hashlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_multi_gpu_env
from transformers import AutoModelForCausalLM

from configuration_tinystories import TinyStoriesConfig
from helpers.forked import fork_command, fork_ranks
from helpers.runs import ROOT, TINY, as_options, mistake, write_counting_corpus
from modeling_tinystories import TinyStoriesDecoderLayer
from tinystories.checkpoint.loading import load_checkpoint
from tinystories.console import LAUNCHER_WAIT_SECONDS, run_command
from tinystories.errors import UserError
from tinystories.run_files import checkpoints
from tinystories.training.checkpointing import check_undamaged
from tinystories.training.distributed import check_launch


CONFIGS = ROOT / "configs" / "accelerate"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch"]
TWO_CPUS = [*ACCELERATE, "--config_file", str(CONFIGS / "two_cpus.yaml")]
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}

pytestmark = pytest.mark.distributed
slow = pytest.mark.slow

# The same rows, summed in another order: float32 rounds at 6e-8 of a value, and every step builds on the one before.
# Measured over 60 steps: 5e-7 nats in the loss of a step, 9e-6 in an evaluation (of 7 nats), 5e-6 in a norm of
# gradients. Four rows too many in one batch make a difference of 2e-2 nats.
TOLERANCE = 5e-5

# Notes, for each process, what it built and which rows its batches held.
RECORDER = """
import hashlib, json, os
import numpy as np
from tinystories.data import packing, tokenizer

def note(kind, value):
    with open(os.path.join(os.environ["NOTES"], f"{kind}-{os.environ.get('RANK', '0')}.jsonl"), "a") as file:
        file.write(json.dumps(value) + "\\n")

def noting(module, name):
    original = getattr(module, name)
    def noted(*args):
        note("built", name)
        return original(*args)
    setattr(module, name, noted)

noting(tokenizer, "train_tokenizer")
noting(packing, "_write_rows")
collate = packing.StoryCollator.__call__

def noted_collate(self, rows):
    if "first_target" not in rows[0]:  # a row of training
        note("batch", [hashlib.md5(np.asarray(row["input_ids"]).tobytes()).hexdigest() for row in rows])
    return collate(self, rows)

packing.StoryCollator.__call__ = noted_collate
"""

# Shards the model of a run as accelerate's FSDP version 2 does on GPUs, and lets the callback write a story.
SHARDED_STORY = """
import datetime, json, sys
from types import SimpleNamespace
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from tinystories.checkpoint.loading import load_checkpoint
from tinystories.generation.sample import sample_story
from tinystories.training.callbacks import SampleStories

run, output = sys.argv[1:]
dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=60))
model, tokenizer = load_checkpoint(run)
whole = sample_story(model, tokenizer, "Story 7. one", seed=1)
mesh = init_device_mesh("cpu", (2,))
for layer in model.model.layers:
    fully_shard(layer, mesh=mesh)
fully_shard(model, mesh=mesh)
assert all(isinstance(weight, DTensor) for weight in model.parameters())
args = SimpleNamespace(output_dir=output, seed=1)
state = SimpleNamespace(is_world_process_zero=dist.get_rank() == 0, global_step=7)
SampleStories(["Story 7. one"]).on_evaluate(args, state, None, model, tokenizer)
if dist.get_rank() == 0:
    print(json.dumps(whole))
dist.destroy_process_group()
"""


def launch(launcher, *arguments, script=ROOT / "run_clm.py", cwd=None, **environment):
    return subprocess.run(
        [*launcher, str(script), *map(str, arguments)],
        env=os.environ | ENVIRONMENT | environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=240,
        cwd=cwd,
    )


def settings(folder: Path, name: str, **changes) -> list[str]:
    values = TINY | {"train_file": folder / "counting.txt", "validation_file": folder / "nine.txt", "use_cpu": True}
    values |= {"data_cache_dir": folder / "cache", "output_dir": folder / name, "max_steps": 60, "eval_steps": 20}
    values |= {"save_steps": 20, "logging_steps": 1, "per_device_eval_batch_size": 4, "dataloader_drop_last": True}
    return as_options(values | changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """237 stories in 68 rows, which no batch of 8 divides; and 9 to validate on: in batches of 4, the second process
    gets a batch that is all filling."""
    folder = tmp_path_factory.mktemp("distributed")
    write_counting_corpus(folder, stories=237)
    stories = [f"Held out {i}. " + "one two three " * (1 + i % 4) + "four." for i in range(9)]
    (folder / "nine.txt").write_text("<|endoftext|>".join(stories), encoding="utf-8")
    return folder


class Run(SimpleNamespace):
    """A finished run: its folder, output and logged rows."""

    def logged(self, key: str) -> dict[int, float]:
        return {row["step"]: row[key] for row in self.history if key in row}


def finished(folder: Path, *processes) -> Run:
    for process in processes:
        assert process.returncode == 0, process.stderr[-3000:]
    out, err = ("".join(part) for part in zip(*((one.stdout, one.stderr) for one in processes), strict=True))
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    results = json.loads((folder / "all_results.json").read_text())
    return Run(folder=folder, out=out, err=err, history=history, results=results)


@pytest.fixture(scope="module")
def pair(folder):
    """One process with 8 rows, and two with 4, which accelerate starts."""
    one = fork_command("run_clm.py", *settings(folder, "one", per_device_train_batch_size=8))
    two = launch(TWO_CPUS, *settings(folder, "two", per_device_train_batch_size=4))
    return finished(folder / "one", one), finished(folder / "two", two)


@pytest.fixture(scope="module")
def accumulating_pair(folder):
    """The same with two batches to a step, with a fresh cache, and with notes of what happened."""
    runs = []
    for name, fork, rows in (("one-2", fork_one, 8), ("two-2", fork_ranks, 4)):
        (folder / f"notes-{name}").mkdir()
        changes = {"per_device_train_batch_size": rows, "gradient_accumulation_steps": 2, "max_steps": 40}
        changes |= {"eval_steps": 40, "save_steps": 40}
        changes |= {"data_cache_dir": folder / f"cache-{name}", "skip_guards": True}
        notes = {"NOTES": str(folder / f"notes-{name}")}
        runs.append(
            finished(folder / name, *fork("run_clm.py", *settings(folder, name, **changes), code=RECORDER, **notes))
        )
    return runs


def fork_one(*arguments, **options) -> list[subprocess.CompletedProcess]:
    return [fork_command(*arguments, **options)]


@pytest.fixture(scope="module")
def filling_pair(folder):
    """With dataloader_drop_last off: the last batch of an epoch is not full."""
    runs = []
    for name, fork, rows in (("one-f", fork_one, 8), ("two-f", fork_ranks, 4)):
        changes = {"per_device_train_batch_size": rows, "dataloader_drop_last": False, "max_steps": 10}
        changes |= {"skip_guards": True, "eval_steps": 10, "save_steps": 10}
        runs.append(finished(folder / name, *fork("run_clm.py", *settings(folder, name, **changes))))
    return runs


def notes(folder, name, kind, rank):
    path = folder / f"notes-{name}" / f"{kind}-{rank}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def differences(one: Run, two: Run, key: str) -> dict[int, float]:
    first, second = one.logged(key), two.logged(key)
    assert first.keys() == second.keys()
    for step in first:
        print(f"{key} at step {step}: {first[step]:.6f} {second[step]:.6f} {second[step] - first[step]:+.1e}")
    return {step: abs(first[step] - second[step]) for step in first}


@slow
@pytest.mark.parametrize("which", ["pair", "accumulating_pair"])
def test_loss_curve(which, request):
    """It does not depend on the number of processes."""
    one, two = request.getfixturevalue(which)
    assert len(one.logged("loss")) == max(one.logged("loss")) >= 40
    assert max(differences(one, two, "loss").values()) < TOLERANCE
    assert max(differences(one, two, "grad_norm").values()) < TOLERANCE
    assert two.results["eval_bits_per_byte"] == pytest.approx(one.results["eval_bits_per_byte"], abs=TOLERANCE)


@slow
def test_rows_of_a_step(folder, accumulating_pair):
    """Two processes share the rows that one takes."""
    whole = notes(folder, "one-2", "batch", 0)
    halves = [notes(folder, "two-2", "batch", rank) for rank in (0, 1)]
    assert len(whole) == len(halves[0]) == len(halves[1]) >= 80
    for batch, first, second in zip(whole, *halves, strict=True):
        assert len(first) == len(second) == 4
        assert first + second == batch


@slow
def test_last_batch_is_filled(filling_pair):
    """accelerate fills it with rows of the epoch's start, which docs/distributed.md tells.

    68 rows, 8 steps of 8, and 4 rows for the ninth step: one process takes 4, two take 8.
    """
    one, two = filling_pair
    loss = differences(one, two, "loss")
    assert max(loss[step] for step in range(1, 9)) < TOLERANCE < loss[9]
    seen = [run.logged("num_input_tokens_seen") for run in (one, two)]
    assert [counted[9] - counted[8] for counted in seen] == [4 * 64, 8 * 64]
    flops = [run.logged("training_flops") for run in (one, two)]
    assert [counted[9] - counted[8] for counted in flops] == [flops[0][1] / 2, flops[0][1]]


@slow
def test_tokens_seen(pair, accumulating_pair):
    """Those of all processes."""
    for (one, two), rows in ((pair, 8), (accumulating_pair, 16)):
        assert one.logged("num_input_tokens_seen") == two.logged("num_input_tokens_seen")
        assert one.logged("num_input_tokens_seen")[10] == 10 * rows * 64


def tokens_scored(run: Run, step: int) -> float:
    """From what was logged: nats = loss x tokens = bits per byte x bytes x ln 2."""
    bits_per_byte, loss = run.logged("eval_bits_per_byte")[step], run.logged("eval_loss")[step]
    return bits_per_byte * run.results["eval_bytes"] * math.log(2) / loss


@slow
def test_evaluation_counts_each_story_once(pair):
    """9 stories, 4 at a time on each of two processes: 7 places are filled with copies, which must not count."""
    one, two = pair
    assert two.results["eval_stories"] == 9 and two.results["eval_tokens"] == one.results["eval_tokens"]
    assert list(two.logged("eval_loss")) == [20, 40, 60]
    for run in pair:
        for step in (20, 40, 60):
            assert tokens_scored(run, step) == pytest.approx(run.results["eval_tokens"], abs=1e-3)
    for key in ("eval_loss", "eval_train_loss", "eval_gap"):
        assert max(differences(one, two, key).values()) < TOLERANCE
    assert max(differences(one, two, "eval_bits_per_byte").values()) < TOLERANCE


@slow
def test_drop_last(pair):
    """dataloader_drop_last is for training only; in evaluation, 8 stories would be scored over the bytes of 9."""
    one, _ = pair
    assert min(one.logged("eval_loss").values()) == pytest.approx(one.results["eval_loss"], abs=1e-5)


@slow
def test_one_process_writes_and_speaks(pair):
    """Each line and each sample story is written once."""
    _, two = pair
    lines = two.err.splitlines()
    for once in (
        *("corpus: ", "packed: ", "tokenizer: ", "model: ", "guards: ", "training: ", "trained ", "weights: "),
        *("guards of the finished run: ", "all 9 validation stories"),
    ):
        assert len([line for line in lines if line.startswith(once)]) == 1, once
    assert two.out.count("Your model: ") == 1
    assert [line.split(":")[0] for line in lines if line.startswith("eval at ")] == [
        "eval at step 20",
        "eval at step 40",
        "eval at step 60",
    ]
    assert len([line for line in lines if line.startswith("step ")]) == len(two.logged("loss"))
    assert len([line for line in lines if line.startswith("saved ")]) == 3
    samples = [json.loads(line)["step"] for line in (two.folder / "samples.jsonl").read_text().splitlines()]
    assert samples == [20, 40, 60]
    assert "unused parameters" not in two.err


@slow
def test_one_process_builds(folder, accumulating_pair):
    """Tokenizer and rows; the other process reads them."""
    built = [notes(folder, "two-2", "built", rank) for rank in (0, 1)]
    assert built == [["train_tokenizer", "_write_rows"], []]
    cached = sorted(path.name.split("-")[0] for path in (folder / "cache-two-2").iterdir())
    assert cached.count("tokenizer") == cached.count("rows") == 1 and "unfinished" not in cached


MISTAKES = {
    "unknown key": ({}, ["--learning_rat", "1"], 1, "unknown key 'learning_rat'; did you mean learning_rate?"),
    "no Hub to push to": ({"push_to_hub": True, "hub_model_id": "someone/else"}, [], 1, "cannot push to someone/else"),
    "folder in use": ({"output_dir": "."}, [], 1, "is not empty and contains no earlier run"),
    "failed guard": ({"validation_file": "counting.txt"}, [], 2, "are also in the validation data"),
    "loss that is no number": ({"learning_rate": 1e30}, ["--skip_guards", "false"], 2, "not finite at step"),
}


STARTED_FRESH = ("failed guard",)


@slow
@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_ends_both_processes(name, folder):
    """It is said once, and the status is that of one process. One of them is started by torchrun, as a user does."""
    changes, extra, status, reason = MISTAKES[name]
    changes = {"eval_steps": 2, "save_steps": 2, "max_steps": 4} | changes
    words = [*settings(folder, f"mistake-{status}-{len(name)}", **changes), *extra]
    if name in STARTED_FRESH:
        process = launch(TORCHRUN, *words, cwd=folder)
        said = process.stderr
        assert process.returncode != 0
        assert re.search(rf"rank +: 0 .*\n +exitcode +: {status} ", said)
        assert "[rank1]" not in said  # before the traceback of a process; the launcher prints one of its own
    else:
        first, second = fork_ranks("run_clm.py", *words, cwd=folder)
        said = first.stderr + second.stderr
        assert first.returncode == status and second.returncode != 0
        assert "Traceback" not in said
    assert said.count("error: ") == 1 and said.count(reason) == 1, said[-3000:]
    stopped = list(folder.glob(f"mistake-{status}-{len(name)}/stopped_at_step_*.jsonl"))
    assert len(stopped) == (name == "loss that is no number")
    for path in stopped:
        assert len(path.read_text(encoding="utf-8").splitlines()) == 2 * TINY["per_device_train_batch_size"]


def test_mistake_of_one_process_alone(monkeypatch, capsys):
    """Another process prints its error only if the first one has not ended the run in time."""
    waited = []
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr("sys.argv", ["run_clm.py"])
    monkeypatch.setattr("tinystories.console.time.sleep", waited.append)
    monkeypatch.setattr("tinystories.console.set_up_logging", lambda: None)  # it would outlive the test

    def fail(argv):
        raise UserError("no room on this disk")

    with pytest.raises(SystemExit) as ended:
        run_command(fail)
    assert ended.value.code == 1 and waited == [LAUNCHER_WAIT_SECONDS]
    assert capsys.readouterr().err == "error: no room on this disk\n"


@slow
def test_killed_process(folder):
    """The launcher ends the run, and the checkpoints stay as they are."""
    changes = {"max_steps": 2_000, "eval_strategy": "no", "load_best_model_at_end": False, "skip_guards": True}
    options = settings(folder, "killed", **changes)
    with (folder / "killed.log").open("w") as log:
        launcher = subprocess.Popen(
            [*TORCHRUN, str(ROOT / "run_clm.py"), *options], env=os.environ | ENVIRONMENT, stdout=log, stderr=log
        )
        checkpoint = folder / "killed" / "checkpoint-20"
        deadline = time.monotonic() + 120
        while not (folder / "killed" / "checkpoint-40").exists():  # then the one before is complete
            assert launcher.poll() is None and time.monotonic() < deadline, (folder / "killed.log").read_text()[-3000:]
            time.sleep(0.02)
        workers = psutil.Process(launcher.pid).children()
        assert len(workers) == 2
        before = {file.name: hashlib.sha256(file.read_bytes()).digest() for file in checkpoint.iterdir()}
        next(worker for worker in workers if worker.environ()["LOCAL_RANK"] == "1").kill()
        assert launcher.wait(timeout=120) != 0
    assert not psutil.wait_procs(workers, timeout=60)[1]
    assert before == {file.name: hashlib.sha256(file.read_bytes()).digest() for file in checkpoint.iterdir()}
    assert load_checkpoint(str(checkpoint))[0].config.vocab_size > 256
    assert json.loads((checkpoint / "trainer_state.json").read_text())["global_step"] == 20


@slow
@pytest.mark.skipif(os.name != "posix", reason="sends a POSIX signal to one process")
def test_signal_to_one_process(folder):
    """Both stop at the same step, in a complete checkpoint."""
    changes = {"max_steps": 100_000, "eval_strategy": "no", "load_best_model_at_end": False, "skip_guards": True}
    options = settings(folder, "stopped", **changes | {"save_steps": 50_000, "logging_steps": 1})
    log = folder / "stopped.log"
    with log.open("w") as stream:
        launcher = subprocess.Popen(
            [*TORCHRUN, str(ROOT / "run_clm.py"), *options], env=os.environ | ENVIRONMENT, stdout=stream, stderr=stream
        )
    deadline = time.monotonic() + 120
    while "| loss " not in log.read_text():
        assert launcher.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.02)
    workers = psutil.Process(launcher.pid).children()
    next(worker for worker in workers if worker.environ()["LOCAL_RANK"] == "1").terminate()
    assert launcher.wait(timeout=120) != 0
    (checkpoint,) = checkpoints(folder / "stopped")
    check_undamaged(checkpoint)
    assert {"rng_state_0.pth", "rng_state_1.pth", "optimizer.pt"} <= {path.name for path in checkpoint.iterdir()}
    assert f"stopped by a signal; saved in {checkpoint}" in log.read_text()


@slow
def test_one_process_warning(folder):
    """accelerate starts one process where two were configured: it prints nothing, the run warns."""
    changes = {
        "max_steps": 1,
        "warmup_steps": 0,
        "eval_strategy": "no",
        "load_best_model_at_end": False,
        "save_strategy": "no",
    }
    options = settings(folder, "alone", skip_guards=True, **changes)
    process = launch([*ACCELERATE, "--cpu", "--num_processes", "2"], *options)
    assert process.returncode == 0, process.stderr[-3000:]
    assert process.stderr.count("ONE PROCESS: ") == 1


@slow
def test_no_warning_for_what_was_asked(pair):
    """One process that was asked for, and two that were started."""
    one, two = pair
    assert "ONE PROCESS" not in one.err + two.err


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_config(path):
    """accelerate accepts every key, and the first comment is the command for this file."""
    config = load_config_from_file(str(path))  # refuses an unknown key
    assert config.mixed_precision == "no"  # else it would overrule the recipe
    command = path.read_text().splitlines()[0]
    assert command.startswith(f"# accelerate launch --config_file configs/accelerate/{path.name} ")


def fsdp_environment() -> dict[str, str]:
    """What accelerate tells each process with fsdp.yaml."""
    parser = launch_command_parser()
    asked = parser.parse_args(["--config_file", str(CONFIGS / "fsdp.yaml"), "run_clm.py"])
    arguments, _, _ = _validate_launch_command(asked)
    told = prepare_multi_gpu_env(arguments).items()
    return {name: value for name, value in told if name.startswith(("ACCELERATE_", "FSDP_"))}


def test_fsdp_config_wraps_our_layer(monkeypatch):
    """The name in fsdp.yaml is that of the model's layer."""
    for name, value in fsdp_environment().items():
        monkeypatch.setenv(name, value)
    plugin = FullyShardedDataParallelPlugin()
    config = TinyStoriesConfig(vocab_size=300, hidden_size=64, num_hidden_layers=1, num_attention_heads=2)
    plugin.set_auto_wrap_policy(AutoModelForCausalLM.from_config(config))
    assert plugin.fsdp_version == 2 and "FULL_STATE_DICT" in str(plugin.state_dict_type)
    assert plugin.auto_wrap_policy.keywords["transformer_layer_cls"] == {TinyStoriesDecoderLayer}


@slow
def test_fsdp_on_cpus_is_refused(folder):
    """accelerate shards nothing there and does not say so."""
    first, second = fork_ranks("run_clm.py", *settings(folder, "sharded"), **fsdp_environment())
    said = first.stderr + second.stderr
    assert first.returncode == 1 and second.returncode != 0
    assert said.count("error: ") == 1 and "error: FSDP needs GPUs" in said, said[-3000:]


def asked_for(**values) -> SimpleNamespace:
    standard = {"fsdp": None, "fsdp_plugin_args": None, "use_cpu": False, "mixed_precision": "no", "n_gpu": 1}
    return SimpleNamespace(**(standard | {"optimizer": "adamw", "bf16": False, "fp16": False} | values))


def test_sharded_state_dict(monkeypatch):
    """FSDP with a sharded state dict is refused: its checkpoints would contain no weights."""
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_STATE_DICT_TYPE", "FULL_STATE_DICT")
    check_launch(asked_for())
    monkeypatch.setenv("FSDP_STATE_DICT_TYPE", "SHARDED_STATE_DICT")
    assert "FULL_STATE_DICT" in mistake(check_launch, asked_for())


def test_muon_with_fsdp_is_refused(monkeypatch):
    """FSDP cuts the matrices that Muon needs whole."""
    check_launch(asked_for(optimizer="muon"))
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_STATE_DICT_TYPE", "FULL_STATE_DICT")
    assert "muon needs whole matrices" in mistake(check_launch, asked_for(optimizer="muon"))


def test_several_gpus():
    """One process with several GPUs is refused: in DataParallel, throughput and guards see one part of each batch."""
    assert "CUDA_VISIBLE_DEVICES=0" in mistake(check_launch, asked_for(n_gpu=2))


def test_precision_mismatch():
    """A precision that only accelerate has is refused: the recipe decides it."""
    assert "--bf16 true" in mistake(check_launch, asked_for(mixed_precision="bf16"))
    check_launch(asked_for(mixed_precision="bf16", bf16=True))


@slow
def test_sharded_model_writes_its_samples(pair, folder):
    """Not only the first process asks the model: the others would leave it waiting for ever."""
    script = folder / "sharded_story.py"
    script.write_text(SHARDED_STORY, encoding="utf-8")
    processes = fork_ranks(script, pair[0].folder, folder)
    for process in processes:
        assert process.returncode == 0, process.stderr[-3000:]
    (sample,) = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert sample["step"] == 7 and sample["text"] == json.loads(processes[0].stdout)


@slow
def test_resume_in_two_processes(pair, folder):
    """The curve after the interruption is the one of the run that was never interrupted."""
    _, two = pair
    shutil.copytree(two.folder, folder / "resumed", ignore=shutil.ignore_patterns("checkpoint-60"))
    (folder / "resumed" / "model.safetensors").unlink()
    options = settings(folder, "resumed", per_device_train_batch_size=4, resume_from_checkpoint=True)
    resumed = finished(folder / "resumed", *fork_ranks("run_clm.py", *options))
    assert differences(two, resumed, "loss").keys() == set(range(1, 61))
    assert max(differences(two, resumed, "loss").values()) == 0
    assert resumed.results["eval_loss"] == two.results["eval_loss"]
