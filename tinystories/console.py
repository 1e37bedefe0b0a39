"""How every command starts, speaks and fails.

    if __name__ == "__main__":
        run_command(main)

A user's mistake is one line on stderr and a non-zero exit status; a traceback means a bug. `--debug` on any command
shows the traceback of a user's mistake too.
"""

import logging
import os
import sys
import time
from collections.abc import Callable

import torch.distributed as dist
import transformers
from accelerate.utils.memory import should_reduce_batch_size
from tqdm.auto import tqdm

from tinystories.atomic import is_no_room
from tinystories.errors import Interrupted, UserError, one_line


PATIENCE = 60  # seconds


class _AboveProgressBar(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


def set_up_logging(level: int = logging.INFO) -> None:
    """Send the log of this library to stderr, one plain line a message, without tearing a progress bar."""
    handler = _AboveProgressBar()
    handler.setFormatter(logging.Formatter("%(message)s"))
    transformers.logging.disable_progress_bar()  # its bars for a file or two; the Trainer's own bar is another
    logger = logging.getLogger("tinystories")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(level)


def run_command(main: Callable[[list[str]], None]) -> None:
    """Run `main(argv)` as a program. Exit status: 0, 1 (user's mistake), 2 (guard), 130 (Ctrl-C), 143 (SIGTERM)."""
    argv = sys.argv[1:]
    # TrainingArguments has a `--debug OPTION` of its own: only a bare `--debug` is ours.
    places = [i for i, word in enumerate(argv) if word == "--debug"]
    debug = bool(places) and (places[-1] + 1 == len(argv) or argv[places[-1] + 1].startswith("-"))
    if debug:
        del argv[places[-1]]
    for stream in (sys.stdout, sys.stderr):  # a Windows console must not crash on a character it cannot show
        stream.reconfigure(errors="backslashreplace")
    set_up_logging()
    try:
        main(argv)
    except UserError as error:
        if debug:
            raise
        _say_once(f"error: {error}")
        _end(error.exit_status)
    except Interrupted as stopped:
        _say_once(str(stopped), patience=0)
        _end(stopped.exit_status)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        mistake = _of_the_machine(error)
        if debug or mistake is None:
            raise
        _say_once(f"error: {mistake}")
        _end(UserError.exit_status)
    finally:
        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()  # its threads, still running at exit, may abort the process and its status


def _end(status: int) -> None:
    """Exit with `status`. One of several processes does so at once: the threads that connect them, at work while the
    interpreter winds down, may abort one of them, and the launcher would report that instead of the mistake.
    """
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(status)
    sys.exit(status)


def _of_the_machine(error: Exception) -> str | None:
    """What may happen at any place of a program and is no bug of it."""
    if is_no_room(error):
        return f"the disk is full: {one_line(error)}; make room and start again, what was saved is whole"
    if isinstance(error, MemoryError) or should_reduce_batch_size(error):
        return f"out of memory: {one_line(error)}; give smaller batches (per_device_eval_batch_size too) or model"
    return None


def _say_once(message: str, patience: float = PATIENCE) -> None:
    """Of the processes of one machine, which make the same mistake together, the first one says so.

    The others wait for the launcher, which ends them as soon as the first one has ended; were they to end first, it
    would be ended before it could speak. A mistake of another process alone is said after all.
    """
    if os.environ.get("LOCAL_RANK", "0") != "0":
        if not patience:
            return
        time.sleep(patience)
    print(message, file=sys.stderr, flush=True)
