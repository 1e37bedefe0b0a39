"""Fixtures that several folders of tests use."""

import gc
import os
from pathlib import Path

import pytest
from hypothesis import settings

from helpers.runs import TINY, as_options, run_command, write_counting_corpus


# Before torch is imported, which reads it then. One thread for what runs in this process: workers that compute with
# several threads each wait for one another's cores, and take ten times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples in every run, so that a failure can be repeated; no deadline, because machines differ in speed.
settings.register_profile("tinystories", derandomize=True, deadline=None)
settings.load_profile("tinystories")


def pytest_collection_finish() -> None:
    """Garbage is no longer looked for among what the imports left: that took a third of a second each time."""
    gc.freeze()


@pytest.fixture
def offline(monkeypatch):
    """HF_HUB_OFFLINE=1 for this process: a name that is not a folder is not looked up on the Hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(scope="session")
def counting_run(tmp_path_factory) -> Path:
    """The run folder of a finished training on the counting corpus."""
    folder = tmp_path_factory.mktemp("counting")
    corpus = write_counting_corpus(folder)
    options = TINY | {"train_file": corpus, "data_cache_dir": folder / "cache", "output_dir": folder / "run"}
    process = run_command("run_clm.py", *as_options(options), "--sample_prompts", "Story 7. one two")
    assert process.returncode == 0, process.stderr[-3000:]
    (folder / "run" / "stdout.txt").write_text(process.stdout, encoding="utf-8")
    (folder / "run" / "stderr.txt").write_text(process.stderr, encoding="utf-8")
    return folder / "run"
