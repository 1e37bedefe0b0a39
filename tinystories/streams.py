"""Standard streams that may be missing or go away while a command works.

A service, a notebook or `>&-` starts a command without stdout, `| head` and a closed terminal take it away later. None
of that ends the work: what cannot be written is dropped. A command whose result is what it prints asks `lost_output`.
"""

import errno
import io
import os
import sys
import time
from contextlib import suppress
from typing import Any, Literal, TextIO


GONE = {errno.EPIPE, errno.EIO, errno.ECONNRESET}  # nobody reads any more: a pipe, a terminal, a socket
WAIT_SECONDS = 0.01


class _Tolerant(io.RawIOBase):
    """The raw part of `stream`, and it drops what cannot be written.

    error: the last reason, None while all was written.
    """

    def __init__(self, raw: io.RawIOBase, stream: TextIO):
        self.raw = raw
        self.stream = stream  # which closes the file when it is deleted
        self.error: OSError | None = None

    def write(self, data: Any, /) -> int:
        try:
            while (number := self.raw.write(data)) is None:  # a pipe that does not block, and is full
                time.sleep(WAIT_SECONDS)
        except OSError as error:
            self.error = error
            return len(data)
        return number

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.raw.fileno()

    def isatty(self) -> bool:
        return self.raw.isatty()


def open_streams() -> None:
    """Make stdout and stderr streams that every command can write to, whatever they are at its start.

    One that is missing becomes the null device, also for libraries that write to the descriptor, which the next file
    that is opened would take otherwise. A stream that is not a file, such as that of a notebook, stays as it is.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, _null_device(descriptor))
    sys.stdout, sys.stderr = _tolerant(sys.stdout), _tolerant(sys.stderr)


def lost_output() -> OSError | None:
    """Why something written to stdout was lost; None if nothing was."""
    try:
        sys.stdout.flush()
    except OSError as error:
        return error
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw.error if isinstance(raw, _Tolerant) else None


def reader_is_gone() -> bool:
    """Whether nobody reads stdout any more, as after `| head`."""
    error = lost_output()
    return error is not None and error.errno in GONE


def _null_device(descriptor: int) -> TextIO:
    """The null device as a text stream, also under `descriptor` where nothing is open under it."""
    mode: Literal["r", "w"] = "r" if descriptor == 0 else "w"
    file = open(os.devnull, mode, encoding="utf-8")  # noqa: SIM115  # for the life of the process
    try:
        os.fstat(descriptor)
    except OSError:
        os.dup2(file.fileno(), descriptor)
    if file.fileno() == descriptor:  # it was free: programs that are started from here get it too
        os.set_inheritable(descriptor, True)
    return file


def _tolerant(stream: TextIO) -> TextIO:
    """`stream`, where it writes to a file, pipe or terminal, as one that drops what cannot be written or shown."""
    if not isinstance(stream, io.TextIOWrapper) or not stream.writable():
        return stream
    raw = getattr(stream.buffer, "raw", stream.buffer)  # `python -u` has no buffer between the two
    if not isinstance(raw, io.RawIOBase) or isinstance(raw, _Tolerant):
        return stream
    with suppress(OSError):
        stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Tolerant(raw, stream)),
        encoding=stream.encoding,
        errors="backslashreplace",  # a Windows console and the C locale cannot show every character
        line_buffering=stream.line_buffering or stream.write_through,  # the latter: stderr, and `python -u`
    )
