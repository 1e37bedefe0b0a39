"""Commands in processes that start fast: forked from a server that has imported the libraries, and nothing of ours.

`python run_clm.py` spends seconds on importing torch, transformers and datasets, often more than on what a test asks.
A forked command is a process of its own all the same: it runs the script of a given tree as `__main__`, imports this
project's modules from that tree, and has its own environment, folder, output and exit status. It does not
show that a command imports each library module it uses: the tests of signals, of kills and of the server start new
interpreters.
"""

import atexit
import gc
import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path


ROOT = Path(__file__).parent.parent.parent
OURS = ("tinystories", "modeling_tinystories", "configuration_tinystories")
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true", "OMP_NUM_THREADS": "1"}
READ_ON_IMPORT = ("ACCELERATE_", "CUDA_", "HF_", "KMP_", "MKL_", "OMP_", "PYTHON", "TORCH", "TRANSFORMERS_")
LIBRARIES = [
    "torch",
    "torch._dynamo",
    "torch.distributed.fsdp",
    "transformers",
    "transformers.trainer",
    "transformers.models.auto.modeling_auto",
    "transformers.models.llama.modeling_llama",
    "transformers.models.phi3.modeling_phi3",
    "transformers.generation.utils",
    "accelerate",
    "datasets",
    "ftfy",
    "huggingface_hub",
    "jinja2",
    "matplotlib.figure",
    "matplotlib.backends.backend_svg",
    "psutil",
    "pyarrow.parquet",
    "safetensors.torch",
    "tokenizers",
]
_processes = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")


def can_fork(environment: dict[str, str]) -> bool:
    """Whether a command with these variables of its own does the same forked as started afresh.

    Not with a variable that a library reads when it is imported, and not where a fork after these imports is unsafe.
    """
    return sys.platform == "linux" and not any(name.startswith(READ_ON_IMPORT) for name in environment)


class ForkedCommand:
    """A script of `tree`, run as a user does, with its output in two files.

    code: Python source to run before the script in the same process, such as one that replaces a function.
    log: a file for both outputs, which is kept.
    """

    def __init__(self, script, *arguments, cwd=None, tree=ROOT, code="", log=None, **environment):
        self.folder = tempfile.TemporaryDirectory()
        self.outputs = [Path(self.folder.name, name) for name in ("stdout", "stderr")] if log is None else [log, log]
        words = [str(Path(tree, script)), *map(str, arguments)]
        self.arguments = words
        self.process = _processes.Process(
            target=_run, args=(words, str(tree), cwd, code, os.environ | ENVIRONMENT | environment, self.outputs)
        )
        self._start()

    def _start(self) -> None:
        """The first command starts the server, whose environment is the one that the libraries are imported in."""
        before = dict(os.environ)
        os.environ.update(ENVIRONMENT)
        try:
            if _processes.get_start_method() == "forkserver":
                os.environ["PYTHONPATH"] = str(ROOT / "tests")  # where the server finds the last of them
                _processes.set_forkserver_preload([*LIBRARIES, "helpers.prepared"])
            self.process.start()
        finally:
            os.environ.clear()
            os.environ.update(before)

    @property
    def pid(self) -> int:
        return self.process.pid

    def poll(self) -> int | None:
        """The exit status, None while it runs; as that of `subprocess.Popen`."""
        return self.process.exitcode

    def wait(self, timeout: float = 300) -> subprocess.CompletedProcess:
        """The finished process with its text output; one that takes longer is killed."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.kill()
        out, err = (path.read_text(encoding="utf-8") if path.exists() else "" for path in self.outputs)
        self.folder.cleanup()
        return subprocess.CompletedProcess(self.arguments, self.process.exitcode, out, err)

    def kill(self) -> None:
        self.process.kill()
        self.process.join()


def fork_command(*arguments, timeout=300, **options) -> subprocess.CompletedProcess:
    """As `helpers.runs.run_command`, in a forked process."""
    return ForkedCommand(*arguments, **options).wait(timeout)


def fork_ranks(*arguments, processes=2, timeout=240, **options) -> list[subprocess.CompletedProcess]:
    """As torchrun on one machine: a process for each rank; once one has failed, the others are ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
    group["LOCAL_WORLD_SIZE"] = group["WORLD_SIZE"]
    ranks = [
        ForkedCommand(*arguments, **options, **group, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in range(processes)
    ]
    deadline = time.monotonic() + timeout
    while any(rank.process.exitcode is None for rank in ranks):
        if any(rank.process.exitcode for rank in ranks) or time.monotonic() > deadline:
            for rank in ranks:
                rank.kill()
        time.sleep(0.02)
    return [rank.wait() for rank in ranks]


def _run(argv, tree, cwd, code, environment, outputs) -> None:
    """In the forked process."""
    gc.freeze()  # the libraries' objects stay; looking through them takes a collection a quarter of a second
    for number, path in enumerate(outputs, start=1):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(environment)
    if cwd is not None:
        os.chdir(cwd)
    multiprocessing.set_start_method(None, force=True)  # this process's own is the system's, as in a fresh one
    already = [name for name in sys.modules if name.split(".")[0] in OURS]
    assert not already, f"imported before the command began: {already}"
    sys.argv = argv
    sys.path[:] = [tree, *(place for place in sys.path if Path(place) not in (ROOT, ROOT / "tests"))]
    exec(code, {"__name__": "before"})
    status: str | int | None = None
    try:
        runpy.run_path(argv[0], run_name="__main__")
    except SystemExit as error:
        status = error.code
    atexit._run_exitfuncs()  # as in an interpreter that ends: data workers are told to end before they are waited for
    sys.exit(status)
