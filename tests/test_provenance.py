"""Every record in docs/results says where it comes from, in one format, and what of it is not known."""

import hashlib
import json
import re
import subprocess
from datetime import datetime

import pytest

from helpers.forked import fork_command
from helpers.runs import ROOT, TINY, as_options, load_benchmark, write_counting_corpus
from tinystories import provenance


RECORDS = sorted((ROOT / "docs" / "results").glob("*.json"))
PARTS = {"commit", "uncommitted_changes", "date", "command", "seed", "data", "machine", "versions"}
PARTS |= {"seconds", "processor_seconds"}
MACHINE = {"processor", "cores", "memory_gb", "system", "shared"}


def git(*arguments):
    process = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return process.stdout.strip() if process.returncode == 0 else None


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_record(path):
    """A record whose commit, data or machine is unknown cannot be measured again.

    Without an accelerator there is none to name, and threads are those of torch, where it ran.
    """
    origin = read(path)["provenance"]
    unknown = set(origin.get("not_recorded", ()))
    assert origin.keys() >= PARTS and origin["machine"].keys() >= MACHINE
    for name, value in [*origin.items(), *((f"machine.{name}", value) for name, value in origin["machine"].items())]:
        assert value is not None or name in unknown | {"machine.accelerator", "machine.threads"}, name
    assert re.fullmatch("[0-9a-f]{40}", origin["commit"]) and datetime.fromisoformat(origin["date"])
    assert origin["command"].startswith("python ") and (ROOT / origin["command"].split()[1]).exists()
    for name, data in (origin["data"] or {}).items():
        assert re.fullmatch("[0-9a-f]{64}", data["sha256"]) and data["bytes"] > 0, name
    assert isinstance(origin["seed"], int | list)
    assert "versions" in unknown or {"torch", "transformers"} <= origin["versions"].keys()


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_commit_is_of_this_history(path):
    commit = read(path)["provenance"]["commit"]
    if git("rev-parse", "HEAD") is None or git("rev-parse", "--is-shallow-repository") == "true":
        pytest.skip("the history is not here")
    assert git("merge-base", "--is-ancestor", commit, "HEAD") is not None


def test_records_name_no_machine():
    """They are published with the project: no folder of a user."""
    for path in RECORDS:
        assert not re.search(r"/(?:home|Users|tmp|root|work)/", path.read_text(encoding="utf-8")), path.name


def test_same_data_has_the_same_hash():
    """All records of the same file were made with the same file."""
    found = {}
    for path in RECORDS:
        for data in (read(path)["provenance"]["data"] or {}).values():
            if data.get("source", "").endswith(".txt"):
                assert found.setdefault(data["source"], data["sha256"]) == data["sha256"], path.name


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py")))
def test_benchmarks_write_it(name):
    """A script that writes a record without its origin."""
    source = (ROOT / "benchmarks" / f"{name}.py").read_text(encoding="utf-8")
    assert "docs/results" not in source.replace('" / "', "/") or "provenance" in source or name == "checked_pairs"


@pytest.mark.slow
def test_run_writes_it(tmp_path):
    """Commit, command, hashes and times of a run; a resumed run adds a line. A record needs nothing else."""
    corpus = write_counting_corpus(tmp_path)
    options = TINY | {"train_file": corpus, "data_cache_dir": tmp_path / "cache", "output_dir": tmp_path / "run"}
    options |= {"max_steps": 4, "eval_steps": 2, "save_steps": 2, "skip_guards": True}
    process = fork_command("run_clm.py", *as_options(options), "--hub_token", "hf_secret")
    assert process.returncode == 0, process.stderr[-2000:]
    (line,) = (tmp_path / "run" / "provenance.jsonl").read_text(encoding="utf-8").splitlines()
    origin = json.loads(line)
    assert origin.keys() == PARTS and origin["commit"] == git("rev-parse", "HEAD")
    assert origin["data"]["train"]["sha256"] == hashlib.sha256(corpus.read_bytes()).hexdigest()
    assert origin["command"].startswith("python run_clm.py --vocab_size 320 ") and "hf_secret" not in line
    assert str(tmp_path) not in line and origin["seconds"] > 0 and origin["seed"] == 42
    process = fork_command("run_clm.py", *as_options(options | {"max_steps": 6}), "--resume")
    assert process.returncode == 0, process.stderr[-2000:]
    lines = (tmp_path / "run" / "provenance.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 2 and lines[0] == line and "--resume" in json.loads(lines[1])["command"]
    benchmark = load_benchmark("record_run")
    record = benchmark.record(benchmark.options([str(tmp_path / "run"), "name"]))
    assert record["provenance"] == origin and len(record["resumed"]) == 1
    printed = "".join(c if c.isprintable() or c.isspace() else repr(c)[1:-1] for c in record["story"]["text"])
    assert " ".join(printed.split()) in " ".join(process.stdout.split())


def test_load_by_others(monkeypatch):
    """A machine that others use is called shared: here one of two cores all the time."""
    clock = {"wall": 0.0, "busy": 100.0, "own": 5.0}
    monkeypatch.setattr(provenance.time, "perf_counter", lambda: clock["wall"])
    monkeypatch.setattr(provenance, "_busy_seconds", lambda: clock["busy"])
    monkeypatch.setattr(provenance, "_own_seconds", lambda: clock["own"])
    monkeypatch.setattr(provenance.os, "cpu_count", lambda: 2)
    since = provenance.Stopwatch()
    clock.update(wall=10.0, busy=118.0, own=13.0)
    assert since.cost() == {"seconds": 10.0, "processor_seconds": 8.0, "load_by_others": 0.5}


def test_command_line():
    """Tokens are left out, and so are the folders of a machine."""
    argv = [
        "run_clm.py",
        "configs/demo.yaml",
        "--hub_token",
        "hf_x",
        "--hub_token=hf_y",
        "--train_file",
        "/home/me/a b.txt",
    ]
    expected = "python run_clm.py configs/demo.yaml --hub_token SECRET --hub_token=SECRET --train_file 'a b.txt'"
    assert provenance.command_line(argv) == expected
    assert provenance.command_line(["/usr/bin/tinystories", "train", "demo"]) == "tinystories train demo"
    named = ["benchmarks/doors.py", "--model", "demo=/home/me/runs/demo", "--model=b=/home/me/b", "--data=held=x/y.txt"]
    expected = "python benchmarks/doors.py --model demo=demo --model=b=b --data=held=x/y.txt"
    assert provenance.command_line(named) == expected


def test_hashes(tmp_path):
    """Of several files as if they were one; of stories with their borders."""
    for name in ("a", "b"):
        (tmp_path / name).write_text(name, encoding="utf-8")
    both = provenance.hash_files([tmp_path / "a", tmp_path / "b"])
    assert both == {"sha256": hashlib.sha256(b"ab").hexdigest(), "bytes": 2}
    assert provenance.hash_texts(["ab"])["sha256"] != provenance.hash_texts(["a", "b"])["sha256"]


def test_folder_inside_another_repository(tmp_path):
    """The commit of a repository in which the package is only installed is not its own."""
    assert provenance.commit_of(tmp_path) == (None, None)
    assert provenance.commit_of(ROOT / "tinystories") == (None, None)
