"""Mutations: a bug is put into a copy of the project, and the command must stop with the reason that a guard gives."""

import shutil
from pathlib import Path

from helpers.forked import fork_command
from helpers.runs import ROOT, TINY, as_options


ONE_STEP = TINY | {
    "max_steps": 1,
    "warmup_steps": 0,
    "eval_strategy": "no",
    "load_best_model_at_end": False,
    "save_strategy": "no",
}


def small_run(folder, corpus, *options, tree=ROOT, run=fork_command):
    settings = ONE_STEP | {"train_file": corpus, "data_cache_dir": folder / "cache", "output_dir": folder / "run"}
    return run("run_clm.py", *as_options(settings), *options, tree=tree)


def train_tokenizer(folder, corpus, vocab_size=300):
    options = {"train_file": corpus, "data_cache_dir": folder.parent / "cache", "vocab_size": vocab_size}
    process = fork_command("train_tokenizer.py", *as_options(options), "--output_dir", folder)
    assert process.returncode == 0, process.stderr[-2000:]
    return folder


def assert_stopped(process, reason, status=2):
    assert process.returncode == status, process.stderr[-2000:]
    errors = [line for line in process.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, process.stderr[-2000:]
    assert reason in errors[0], errors[0]
    assert "Traceback" not in process.stderr


def copy_with_mutation(tree: Path, file: str, old: str, new: str) -> Path:
    """A copy of the project in `tree` in which `old`, in `file`, is replaced by `new`."""
    tree.mkdir()
    for script in ROOT.glob("*.py"):
        shutil.copy(script, tree)
    shutil.copy(ROOT / "model_card.md", tree)
    half_written = shutil.ignore_patterns("*.pyc.*")  # by another process; the compiled modules themselves are copied
    shutil.copytree(ROOT / "tinystories", tree / "tinystories", ignore=half_written)
    text = (tree / file).read_text(encoding="utf-8")
    assert old in text, f"{file} no longer holds {old!r}: the mutation is out of date"
    (tree / file).write_text(text.replace(old, new), encoding="utf-8")
    return tree
