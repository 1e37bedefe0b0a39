"""A folder of the cache is whole and right whenever it is opened, whoever else builds, damages or kills."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from helpers.runs import ROOT, mistake
from tinystories.data.cache import cached_folder
from tinystories.lock import HeldError, held, holder


CONTENT = {"rows.arrow": bytes(range(256)) * 5000, "report.json": b"{}", "deep/one": b"1"}  # 1.3 MB: several buffers


def build(folder: Path) -> None:
    for name, content in CONTENT.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)


def content(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in CONTENT}


@pytest.fixture
def cached(tmp_path):
    def cached(key: str = "key", build=build) -> Path:
        return cached_folder("things", key, build, str(tmp_path / "deep" / "cache"))

    return cached


def test_built_once(cached, tmp_path):
    built = []
    folders = {cached(build=lambda folder: (built.append(folder), build(folder))) for _ in range(3)}
    assert len(built) == len(folders) == 1 and content(folders.pop()) == CONTENT
    assert [path.name for path in (tmp_path / "deep" / "cache").iterdir()] == ["things-key"]  # and no lock


def flip(file: str, place: int):
    def change(folder: Path) -> None:
        changed = bytearray((folder / file).read_bytes())
        changed[place] ^= 1
        (folder / file).write_bytes(changed)

    return change


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (flip("rows.arrow", 0), "rows.arrow is not what was written"),
        (flip("rows.arrow", 700_000), "rows.arrow is not what was written"),
        (flip("rows.arrow", -1), "rows.arrow is not what was written"),
        (flip("report.json", 0), "report.json is not what was written"),
        (flip("deep/one", 0), "deep/one is not what was written"),
        (flip("sealed.json", 10), "damaged"),
        (lambda folder: (folder / "deep" / "one").unlink(), "deep/one is missing"),
        (lambda folder: (folder / "report.json").write_text(""), "report.json has 0 bytes of 2"),
        (lambda folder: (folder / "sealed.json").write_text("{}"), "sealed.json names no file"),
    ],
)
def test_damage_is_repaired(cached, caplog, damage, found):
    """Also where the size is the same, and its time: as a disk or another program changes a file."""
    folder = cached()
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    damage(folder)
    for path, when in times.items():
        if path.exists():
            os.utime(path, ns=(when, when))
    assert content(cached()) == CONTENT
    assert "is built again" in caplog.text and found in caplog.text
    caplog.clear()
    assert content(cached()) == CONTENT and not caplog.text


def test_many_at_once(cached):
    """All of them get every folder, each of which is built once, though they are damaged beforehand."""
    keys = ["a", "b", "c"]
    for key in keys:
        flip("rows.arrow", 5)(cached(key))
    built, together = [], threading.Barrier(24)

    def noted(folder: Path) -> None:
        built.append(folder.name)
        build(folder)

    def start(number: int) -> dict:
        together.wait(timeout=60)
        return content(cached(keys[number % 3], noted))

    with ThreadPoolExecutor(24) as pool:
        assert list(pool.map(start, range(24))) == [CONTENT] * 24
    assert sorted(built) == ["unfinished-things-a", "unfinished-things-b", "unfinished-things-c"]


def test_every_unfinished_folder_has_a_lock(cached, tmp_path):
    """Guards: a damaged folder that another start takes for abandoned while it is being moved away."""
    seen, done = set(), threading.Event()

    def look() -> None:
        while not done.is_set():
            seen.update(os.listdir(tmp_path / "deep" / "cache"))

    folder = cached()
    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(look)
        for _ in range(20):
            flip("rows.arrow", 5)(folder)
            cached()
        done.set()
        looking.result()
    assert {name for name in seen if name.startswith("unfinished-")} <= {"unfinished-things-key"}


WAITING = """
import sys
from tinystories.data.cache import cached_folder
def build(folder):
    (folder / "half").write_text("a")
    print("building", flush=True)
    sys.stdin.readline()
cached_folder("things", sys.argv[1], build, sys.argv[2])
"""


@pytest.fixture
def builder(tmp_path):
    """A process that is in the middle of a build of the folder with this key."""
    processes = []

    def start(key: str) -> subprocess.Popen:
        command = [sys.executable, "-c", WAITING, key, str(tmp_path / "deep" / "cache")]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen(command, cwd=ROOT, **pipes))
        assert processes[-1].stdout.readline() == "building\n"
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_killed_builds_are_removed(cached, builder, tmp_path):
    """By the next start, for whichever folder it is, once their process is gone; one that goes on is left alone."""
    cache = tmp_path / "deep" / "cache"
    alive, killed = builder("alive"), builder("killed")
    killed.kill()
    killed.wait()
    assert (cache / "unfinished-things-killed" / "half").exists()
    cached("other")
    assert sorted(path.name for path in cache.glob("*") if path.is_dir()) == ["things-other", "unfinished-things-alive"]
    alive.communicate("\n", timeout=60)
    assert alive.returncode == 0 and (cached("alive") / "half").exists()
    assert sorted(path.name for path in cache.iterdir()) == ["things-alive", "things-other"]


@pytest.mark.slow
def test_waits_for_another_process(cached, builder, caplog):
    """And says for which one; what that one has built is used."""
    caplog.set_level("INFO", logger="tinystories")
    other = builder("key")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(cached)
        while "waiting for another process" not in caplog.text:
            assert not waiting.done()
            time.sleep(0.01)
        assert f"process {other.pid} on" in caplog.text
        other.communicate("\n", timeout=60)
        assert (waiting.result(timeout=60) / "half").read_text() == "a"


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="sends a POSIX signal")
def test_waiting_for_a_killed_process_ends(cached, builder):
    other = builder("key")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(cached)
        other.send_signal(signal.SIGKILL)
        assert content(waiting.result(timeout=60)) == CONTENT


def test_failed_build(cached, tmp_path):
    def fail(folder):
        (folder / "half").touch()
        raise RuntimeError("the network is down")

    with pytest.raises(RuntimeError, match="the network is down"):
        cached(build=fail)
    assert not list((tmp_path / "deep" / "cache").iterdir())
    assert content(cached()) == CONTENT


@pytest.mark.parametrize("name", ["file/cache", "x" * 300])
def test_place_that_cannot_be(tmp_path, name):
    (tmp_path / "file").touch()
    assert "give another --data_cache_dir" in mistake(cached_folder, "things", "key", build, str(tmp_path / name))


def test_folder_may_not_be_entered(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o000)
    if os.access(tmp_path / "closed", os.X_OK):
        pytest.skip("this user may enter every folder")
    said = mistake(cached_folder, "things", "key", build, str(tmp_path / "closed" / "cache"))
    assert f"cannot write to {tmp_path / 'closed' / 'cache'}: Permission denied" in said


def test_lock(tmp_path):
    """One holder at a time, known by name; nothing is left afterwards, and what a killed one left is no obstacle."""
    lock = tmp_path / "lock"
    (tmp_path / "lock.json").write_text(json.dumps({"process": 1, "machine": "gone", "since": "long ago"}))
    lock.touch()
    assert holder(lock) is None
    with held(lock), ThreadPoolExecutor(1) as pool:  # a thread opens the file anew, as another process does
        assert pool.submit(holder, lock).result().startswith(f"process {os.getpid()} on ")

        def again():
            with pytest.raises(HeldError, match=f"process {os.getpid()} on "), held(lock):
                pass

        pool.submit(again).result()
    assert holder(lock) is None and not list(tmp_path.iterdir())
