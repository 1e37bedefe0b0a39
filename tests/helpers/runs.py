"""The commands as real processes, a corpus with one continuation, and a tiny run."""

import importlib.util
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from helpers.forked import ENVIRONMENT, can_fork, fork_command
from tinystories.errors import UserError


ROOT = Path(__file__).parent.parent.parent
COUNTING = "one two three four five six seven eight nine ten."
TINY = {
    "vocab_size": 320,
    "min_frequency": 2,
    "block_size": 64,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "per_device_train_batch_size": 8,
    "learning_rate": 1e-2,
    "warmup_steps": 10,
    "lr_scheduler_type": "linear",
    "logging_steps": 10,
    "max_steps": 100,
    "eval_strategy": "steps",
    "eval_steps": 50,
    "save_steps": 50,
    "load_best_model_at_end": True,
    "metric_for_best_model": "loss",
    "bf16": False,
    "disable_tqdm": True,
}


def run_command(*arguments, cwd=None, tree=ROOT, timeout=300, fresh=False, **environment):
    """Run one of our commands as a user does; returns the finished process with its text output.

    fresh: start a new interpreter, where its start is what is tested; else forked.py spares the imports of libraries.
    """
    script, *rest = [str(argument) for argument in arguments]
    if not fresh and can_fork(environment):
        return fork_command(script, *rest, cwd=cwd, tree=tree, timeout=timeout, **environment)
    return subprocess.run(
        [sys.executable, str(tree / script), *rest],
        cwd=cwd,
        env=os.environ | ENVIRONMENT | environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=timeout,
    )


def run_with_transformers_only(code: str, cwd: Path, **environment) -> subprocess.Popen:
    """Start Python where the installed libraries can be imported and nothing of this project can.

    `-S` leaves out the .pth files by which an editable installation is found.
    """
    return subprocess.Popen(
        [sys.executable, "-S", "-c", code],
        cwd=cwd,
        env=os.environ
        | {"PYTHONPATH": sysconfig.get_path("purelib"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )


def output_of(process: subprocess.Popen) -> str:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err[-3000:]
    return out


def mistake(function, *args, **kwargs) -> str:
    """The one line that the user sees."""
    with pytest.raises(UserError) as caught:
        function(*args, **kwargs)
    message = str(caught.value)
    assert message and "\n" not in message
    return message


def load_benchmark(name: str):
    """benchmarks/`name`.py as a module."""
    return load_script(f"benchmarks/{name}.py")


def load_script(name: str):
    """A script of the project, such as tools/box.py, as a module."""
    spec = importlib.util.spec_from_file_location(Path(name).stem, ROOT / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def as_options(values: dict) -> list[str]:
    return [word for key, value in values.items() for word in (f"--{key}", str(value))]


def write_counting_corpus(folder: Path, stories: int = 200) -> Path:
    """Distinct stories that differ only in their first words; after "one" there is only one continuation."""
    path = folder / "counting.txt"
    text = "\n".join(f"Story {i}. {COUNTING}\n<|endoftext|>" for i in range(stories))
    path.write_text(text + "\n", encoding="utf-8")
    return path
