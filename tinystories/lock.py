"""Files that one process at a time holds, so that two never work in one folder without knowing of each other.

The operating system gives a lock back when its process ends, however it ends: a killed one leaves nothing behind that
another would wait for. `filelock` knows how on each system, and where a file system has no locks takes a file that
exists or not instead.
"""

import errno
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout


logger = logging.getLogger(__name__)


class HeldError(Exception):
    """Another process holds the lock; the message says which."""


@contextmanager
def held(file: Path, wait_for: str | None = None) -> Iterator[None]:
    """Hold the lock `file` inside the `with` block; the file is made before and removed after it.

    wait_for: what is said, once, before waiting for another process to give it back. Without it nothing is waited for.

    Raises:
        HeldError: without `wait_for`, another process has it.
        OSError: the file cannot be made.
    """
    lock = FileLock(str(file), thread_local=False, is_singleton=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        if wait_for is None:
            raise HeldError(_holder(file)) from None
        logger.info("%s (%s)", wait_for, _holder(file))
        lock.acquire()
    try:
        _describe(file)
        yield
    finally:
        with suppress(OSError):
            _described(file).unlink()
        if os.name != "nt":  # while it is held: whoever opened it before notices that it is gone, and opens the next
            with suppress(OSError):
                file.unlink()
        lock.release()
        if os.name == "nt":  # an open file cannot be removed there
            with suppress(OSError):
                file.unlink()


def holder(file: Path) -> str | None:
    """The process that holds the lock `file`, in words; None if it is free."""
    if not file.exists():
        return None
    lock = FileLock(str(file), thread_local=False, is_singleton=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return _holder(file)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        return None
    lock.release()
    return None


def _described(file: Path) -> Path:
    """Beside the lock: Windows lets no other process read a file that is locked."""
    return file.with_name(file.name + ".json")


def _describe(file: Path) -> None:
    about = {"process": os.getpid(), "machine": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    with suppress(OSError):  # it only makes a message better
        _described(file).unlink(missing_ok=True)  # it may be a link
        _described(file).write_text(json.dumps(about) + "\n", encoding="utf-8")


def _holder(file: Path) -> str:
    try:
        about = json.loads(_described(file).read_text(encoding="utf-8"))
        return f"process {about['process']} on {about['machine']}, since {about['since']}"
    except (OSError, ValueError, KeyError, TypeError):  # it has just begun, or just ended
        return "another process"
