"""Where a number comes from: commit, date, command, seed, data, machine and versions, in one format.

A run writes it to provenance.jsonl in its folder; the scripts in benchmarks/ write it into their record. A number whose
origin is unknown cannot be measured again.
"""

import hashlib
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil


ROOT = Path(__file__).parent.parent
LIBRARIES = ("tinystories", "torch", "transformers", "tokenizers", "datasets", "accelerate", "numpy")
INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")  # those that decide the speed of training on a CPU
SHARED = 0.05  # a machine is shared if other processes use more than this share of its cores
SECRET = re.compile(r"--\w*(?:token|key|password)\w*")
CHUNK = 1 << 20


@dataclass
class Stopwatch:
    """The beginning of a measurement: the code that it runs, what it costs, and how busy others keep the machine."""

    code: tuple[str | None, bool | None] = field(default_factory=lambda: commit_of(ROOT))
    date: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    clock: float = field(default_factory=lambda: time.perf_counter())
    own: float = field(default_factory=lambda: _own_seconds())
    busy: float = field(default_factory=lambda: _busy_seconds())

    def cost(self) -> dict[str, float]:
        """Wall-clock and processor seconds so far, with those of ended child processes; the load by other processes
        (0 to 1: the share of all cores' time)."""
        wall, own = time.perf_counter() - self.clock, _own_seconds() - self.own
        others = _busy_seconds() - self.busy - own
        share = min(1.0, max(0.0, others / (wall * (os.cpu_count() or 1)))) if wall else 0.0
        return {"seconds": round(wall, 1), "processor_seconds": round(own, 1), "load_by_others": round(share, 2)}


def provenance(
    since: Stopwatch, seed: int | Sequence[int], data: dict[str, dict[str, Any]], libraries: Sequence[str] = ()
) -> dict[str, Any]:
    """The origin of a measurement that began at `since` and ends now.

    seed: all seeds; an empty list if nothing is random. data: by name, from `hash_files` or `hash_texts`.
    libraries: distributions whose version matters, besides `LIBRARIES`.
    """
    commit, changed = since.code
    cost = since.cost()
    others = cost.pop("load_by_others")
    return {
        "commit": commit,
        "uncommitted_changes": changed,
        "date": since.date,
        "command": command_line(sys.argv),
        "seed": seed if isinstance(seed, int) else list(seed),
        "data": data,
        "machine": machine() | {"load_by_others": others, "shared": others > SHARED},
        "versions": versions(libraries),
        **cost,
    }


def commit_of(folder: Path) -> tuple[str | None, bool | None]:
    """The commit of a checkout, and whether it has changes outside docs/; (None, None) if `folder` is no checkout."""
    top = _git(folder, "rev-parse", "--show-toplevel")
    if not top or Path(top).resolve() != folder.resolve():  # an installed package inside another repository
        return None, None
    changes = _git(folder, "status", "--porcelain", "--", ".", ":!docs")
    return _git(folder, "rev-parse", "HEAD") or None, bool(changes)


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        process = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True)
    except OSError:
        return None
    return process.stdout.strip() if process.returncode == 0 else None


def command_line(argv: Sequence[str]) -> str:
    """The command as typed, without the values of tokens and keys, and without the folders of absolute paths."""
    script = Path(argv[0])
    words = [_without_folder(word) for word in argv[1:]]
    for place, word in enumerate(words):
        if SECRET.fullmatch(word.partition("=")[0]):
            if "=" in word:
                words[place] = word.partition("=")[0] + "=SECRET"
            elif place + 1 < len(words):
                words[place + 1] = "SECRET"
    if script.suffix != ".py":
        return shlex.join([script.name, *words])
    if script.name == "__main__.py":
        return shlex.join(["python", "-m", script.parent.name, *words])
    inside = script.absolute().is_relative_to(ROOT)
    return shlex.join(["python", (script.absolute().relative_to(ROOT) if inside else script).as_posix(), *words])


def _without_folder(word: str) -> str:
    """The name of a file that is given by its absolute path, alone or as NAME=PATH; any other word as it is."""
    name, equals, value = word.rpartition("=")
    return name + equals + Path(value).name if Path(value).is_absolute() else word


def hash_files(files: Iterable[Path]) -> dict[str, Any]:
    """SHA-256 and size of one file, or of several as if they were one, in this order."""
    digest, size = hashlib.sha256(), 0
    for file in files:
        with file.open("rb") as stream:
            while chunk := stream.read(CHUNK):
                digest.update(chunk)
                size += len(chunk)
    return {"sha256": digest.hexdigest(), "bytes": size}


def hash_texts(texts: Iterable[str]) -> dict[str, Any]:
    """SHA-256 of stories in UTF-8, each followed by a zero byte; their bytes without it, and their number."""
    digest, size, number = hashlib.sha256(), 0, 0
    for text in texts:
        encoded = text.encode()
        digest.update(encoded + b"\0")
        size, number = size + len(encoded), number + 1
    return {"sha256": digest.hexdigest(), "bytes": size, "stories": number}


def machine() -> dict[str, Any]:
    """Hardware, without a name of this machine; `threads` are those of torch. Memory in GB (1e9 bytes)."""
    torch = sys.modules.get("torch")
    return {
        "processor": processor_name(),
        "instructions": [name for name in INSTRUCTIONS if name in _cpu_lines("flags").split()],
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads() if torch else None,
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "accelerator": torch.cuda.get_device_name() if torch and torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.machine()}",
    }


def processor_name() -> str:
    return _cpu_lines("model name") or platform.processor() or platform.machine()


def _cpu_lines(name: str) -> str:
    """The first value of `name` in Linux's list of processors; empty on other systems."""
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text(encoding="utf-8").splitlines() if listing.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")


def versions(libraries: Sequence[str] = ()) -> dict[str, str]:
    """Python and the installed ones of these distributions and `LIBRARIES`."""
    found = {"python": platform.python_version()}
    for name in (*LIBRARIES, *libraries):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _own_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _busy_seconds() -> float:
    """Processor seconds of all processes since the machine started."""
    times = psutil.cpu_times()
    return sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)
