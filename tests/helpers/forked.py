"""Our commands as processes that do not each import torch: forked from a server that has imported it once.

Such a command is a process of its own, with its own arguments, folder, environment, output and exit status, and it runs
the script on disk. Only the libraries of others are loaded already, which takes five seconds of processor time.

On Linux alone, because a fork after these imports is not safe elsewhere; and not with a variable that a library reads
when it is imported.
"""

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path


LIBRARIES = ("torch", "transformers.trainer", "transformers.generation.utils", "accelerate", "datasets", "peft")
OF_THIS_PROJECT = ("tinystories", "helpers", "configuration_tinystories", "modeling_tinystories", "__mp_main__")
READ_ON_IMPORT = (
    "ACCELERATE_",
    "CUDA_",
    "HF_",
    "HUGGINGFACE_",
    "KMP_",
    "MKL_",
    "OMP_",
    "PYTHON",
    "TORCH",
    "TRANSFORMERS_",
)

_context = None


def can_fork(environment: dict[str, str]) -> bool:
    """Whether a command with these variables of its own does the same forked as fresh."""
    return sys.platform == "linux" and not any(name.startswith(READ_ON_IMPORT) for name in environment)


def run_forked(
    command: list[str], cwd: str, environment: dict[str, str], path: list[str], timeout: float
) -> subprocess.CompletedProcess:
    """As `subprocess.run([sys.executable, *command], capture_output=True, text=True, ...)`.

    path: what Python looks for modules in after the script's own folder. timeout: seconds.
    """
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        process = _server(environment).Process(target=_run, args=(command, cwd, environment, path, str(out), str(err)))
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(command, timeout, out.read_text("utf-8"), err.read_text("utf-8"))
        texts = [file.read_text(encoding="utf-8") if file.exists() else "" for file in (out, err)]
    return subprocess.CompletedProcess(command, process.exitcode, *texts)


def _server(environment: dict[str, str]):
    """Starts it, at the first call, with the variables that every command is given: libraries read some on import."""
    global _context
    if _context is None:
        _context = multiprocessing.get_context("forkserver")
        _context.set_forkserver_preload(list(LIBRARIES))
        before = dict(os.environ)
        os.environ.update(environment)
        try:
            multiprocessing.forkserver.ensure_running()
        finally:
            os.environ.clear()
            os.environ.update(before)
    return _context


def _run(command: list[str], cwd: str, environment: dict[str, str], path: list[str], out: str, err: str) -> None:
    for number, file in ((1, out), (2, err)):
        opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv, sys.path[:] = list(command), [str(Path(command[0]).parent), *path]
    for name in list(sys.modules):  # what was imported to come here; the script has its own, perhaps of another folder
        if name.split(".")[0] in OF_THIS_PROJECT:
            del sys.modules[name]
    try:
        runpy.run_path(command[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # which a process of multiprocessing leaves out
