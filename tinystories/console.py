"""How every command starts, reports and fails.

    if __name__ == "__main__":
        run_command(main)

A user's mistake is one line on stderr and a non-zero exit status; a traceback means a bug. `--debug` on any command
shows the traceback of a user's mistake too. Nothing heavy is imported here: `--help` and a mistyped key answer at once.

The output may go away while a command works (a closed terminal, `| head`): streams.py.
"""

import logging
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

from tinystories.atomic import is_no_room
from tinystories.errors import Interrupted, UserError, one_line
from tinystories.library_noise import silence_libraries
from tinystories.progress import RED, YELLOW, print_above, styled, wrapped
from tinystories.streams import lost_output, open_streams, reader_is_gone


LAUNCHER_WAIT_SECONDS = 60
# OpenMP's threads wait for one another many times in a training step. By default they spin meanwhile, and beside
# another process that wants the cores a step takes many times as long (benchmarks/shared_machine.py). Read by GNU's
# library (Linux), LLVM's and Intel's (macOS, Windows) when torch loads them.
WAIT_POLICY = {"OMP_WAIT_POLICY": "PASSIVE"}
WAIT_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
SCRIPTS = {
    "train": "run_clm.py",
    "tokenizer": "train_tokenizer.py",
    "generate": "run_generation.py",
    "evaluate": "run_evaluation.py",
    "serve": "run_server.py",
    "check": "check_run.py",
    "report": "report_run.py",
    "export": "export_model.py",
    "push": "push_to_hub.py",
}


def program_name(command: str) -> str:
    """What usage messages call a command: `run_clm.py` where a script was started, else `tinystories train`."""
    started_as_script = Path(sys.argv[0]).name in SCRIPTS.values()
    return SCRIPTS[command] if started_as_script and command in SCRIPTS else f"tinystories {command}"


def command_name(command: str) -> str:
    """What to type for a command, in messages that name the next one: `python run_clm.py` or `tinystories train`."""
    name = program_name(command)
    return f"python {name}" if name in SCRIPTS.values() else name


def shell_line(command: str, *words: str, options: Sequence[str] = ()) -> str:
    """One of our commands with its positional `words` and its options, as a line to type into a shell."""
    looks_like_option = any(word.startswith("-") for word in words)
    typed = [*options, "--", *words] if looks_like_option else [*words, *options]
    return quoted(*command_name(command).split(), *typed)


def quoted(*words: str) -> str:
    """A line that a shell splits into `words`: cmd.exe on Windows, elsewhere a POSIX shell."""
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def version() -> str:
    """The installed version of this package; "unknown" for a checkout that is not installed."""
    try:
        return metadata.version("tinystories")
    except metadata.PackageNotFoundError:
        return "unknown"


class _AboveProgressBar(logging.Handler):
    """Writes the message alone. One that asks for attention says so in its first word; `extra={"style": BOLD}`."""

    def emit(self, record: logging.LogRecord) -> None:
        message = self.format(record)
        if record.levelno >= logging.WARNING:
            print_above(wrapped(f"warning: {message}").replace("warning:", styled("warning:", YELLOW), 1))
        else:
            print_above(styled(wrapped(message), getattr(record, "style", "")))


def set_up_logging(level: int = logging.INFO) -> None:
    """Send the log of this library to stderr, one plain line a message, without tearing a progress bar."""
    handler = _AboveProgressBar()
    handler.setFormatter(logging.Formatter("%(message)s"))
    silence_libraries()
    logger = logging.getLogger("tinystories")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(level)


def share_cores() -> None:
    """Let waiting threads sleep, unless the user has set how they wait. To be called before torch is imported."""
    if not any(name in os.environ for name in WAIT_VARIABLES):
        os.environ.update(WAIT_POLICY)


def run_command(main: Callable[[list[str]], None]) -> None:
    """Run `main(argv)` as a program.

    Exit status: 0, 1 (user's mistake), 2 (guard), 129 (SIGHUP), 130 (Ctrl-C), 143 (SIGTERM).
    """
    open_streams()
    argv, debug = _without_debug(sys.argv[1:])
    set_up_logging()
    share_cores()
    try:
        main(argv)
    except UserError as error:
        if debug:
            raise
        _say_once(str(error), error=True)
        _end(error.exit_status)
    except Interrupted as stopped:
        _say_once(str(stopped), wait=0)
        _end(stopped.exit_status)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        mistake = _full_disk_or_memory(error)
        if debug or mistake is None:
            raise
        _say_once(mistake, error=True)
        _end(UserError.exit_status)
    finally:
        if _processes():  # threads of the process group that still run at exit may abort the process
            sys.modules["torch.distributed"].destroy_process_group()


def check_printed() -> None:
    """For a command whose result is what it prints.

    Raises:
        UserError: a part of it could not be written, and not because the reader had seen enough.
    """
    error = lost_output()
    if error is not None and not reader_is_gone():
        raise UserError(f"what was printed is not complete: {error.strerror}", "free some space, or print elsewhere")


def _without_debug(argv: list[str]) -> tuple[list[str], bool]:
    """`argv` without our `--debug`, and whether it was there.

    TrainingArguments has a `--debug OPTION` of its own: only a bare one is ours, and none after `--`.
    """
    options = argv[: argv.index("--")] if "--" in argv else argv
    places = [i for i, word in enumerate(options) if word == "--debug"]
    if not places or (places[-1] + 1 < len(argv) and not argv[places[-1] + 1].startswith("-")):
        return argv, False
    return argv[: places[-1]] + argv[places[-1] + 1 :], True


def _processes() -> int:
    """The number of processes that train together; 0 where no group was formed."""
    dist = sys.modules.get("torch.distributed")  # not imported: no process group
    return dist.get_world_size() if dist is not None and dist.is_available() and dist.is_initialized() else 0


def _end(status: int) -> None:
    """Exit with `status`; one of several processes without the interpreter's shutdown. During that, the threads that
    connect the processes may abort one of them, and the launcher would report the abort instead of the mistake.
    """
    if _processes() > 1:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(status)
    sys.exit(status)


def _full_disk_or_memory(error: Exception) -> str | None:
    """The message for a full disk or exhausted memory, which are no bugs; None for any other error."""
    if is_no_room(error):
        return f"the disk is full: {one_line(error)}; free some space and start again. Saved files are complete"
    if isinstance(error, MemoryError) or _is_out_of_memory(error):
        return f"out of memory: {one_line(error)}; give smaller batches (per_device_eval_batch_size too) or model"
    return None


def _is_out_of_memory(error: Exception) -> bool:
    if "torch" not in sys.modules:
        return False
    from accelerate.utils.memory import should_reduce_batch_size

    return should_reduce_batch_size(error)


def _say_once(message: str, wait: float = LAUNCHER_WAIT_SECONDS, error: bool = False) -> None:
    """Print `message` once on a machine, though all its processes make the same mistake.

    The first process prints it. The others wait `wait` seconds for the launcher, which ends them as soon as the
    first one has ended; if one of them ended before, the launcher would end the first before it could print. A mistake
    of another process alone is printed after that time.
    """
    if os.environ.get("LOCAL_RANK", "0") != "0":
        if not wait:
            return
        time.sleep(wait)
    print(f"{styled('error:', RED)} " * error + printable(message), file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """`text` on one line: line breaks and other control characters, such as those in a path, are written as escapes."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
