"""A copy of the checkout, and a new virtual environment to install it in without downloading anything.

The environment finds the libraries of this Python by a .pth file, so that pip installs the project alone. pip itself,
and setuptools to build with, are found there too.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from helpers.runs import ROOT


NOT_COPIED = (
    ".git",
    ".venv*",
    "runs",
    "exports",
    "build",
    "dist",
    "__pycache__",
    "*.egg-info",
    ".*_cache",
    ".hypothesis",
)


def copy_of_checkout(folder: Path) -> Path:
    return Path(shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*NOT_COPIED)))


class Installation:
    """A new virtual environment: `python`, `programs` (its folder of commands) and `environment`, as if activated."""

    def __init__(self, folder: Path):
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        windows = os.name == "nt"
        self.programs = folder / ("Scripts" if windows else "bin")
        self.python = self.programs / ("python.exe" if windows else "python")
        site = Path(sysconfig.get_path("purelib", "nt" if windows else "posix_prefix", {"base": str(folder)}))
        (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PIP_"))}
        self.environment = inherited | {
            "PATH": os.pathsep.join([str(self.programs), os.path.dirname(sys.executable), os.environ["PATH"]]),
            "VIRTUAL_ENV": str(folder),
            "PIP_NO_INDEX": "1",  # pip downloads nothing
            "PIP_NO_BUILD_ISOLATION": "0",  # and builds with the setuptools that is there: 0 means no isolation
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        }

    def run(self, *words, cwd: Path, text: str = "") -> subprocess.CompletedProcess:
        """A program in this environment, which reads `text`; with its text output."""
        return subprocess.run(
            [str(word) for word in words],
            cwd=cwd,
            env=self.environment,
            input=text,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=300,
        )
