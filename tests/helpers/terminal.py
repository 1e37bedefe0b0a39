"""A command in a terminal of its own, as a person at a keyboard has it. Only where the system has pseudo terminals."""

import os
import re
import select
import struct
import subprocess
import sys
import time

from helpers.forked import ENVIRONMENT, ROOT


PROMPT = b"\x1b[?2004h"  # what the line editor sends first, in raw mode
CONTROL = re.compile(r"\x1b(?:\[[0-9;?]*[A-Za-z]|[=>])|[\r\a]")


class Terminal:
    """words: of the command line of Python. With `with`, the process ends at the latest with it."""

    def __init__(self, *words, columns=80, **environment):
        import fcntl
        import pty
        import termios

        def take() -> None:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that Ctrl-C is a signal

        self.keyboard, screen = pty.openpty()
        fcntl.ioctl(screen, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, *map(str, words)],
            cwd=ROOT,
            env=os.environ | ENVIRONMENT | {"TERM": "xterm", "COLUMNS": str(columns)} | environment,
            stdin=screen,
            stdout=screen,
            stderr=screen,
            start_new_session=True,
            preexec_fn=take,
        )
        os.close(screen)
        self.output, self.read = b"", 0  # read: how much of it was returned

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *raised) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.keyboard)

    def press(self, keys: str | bytes) -> None:
        os.write(self.keyboard, keys.encode() if isinstance(keys, str) else keys)

    def until(self, found, timeout=60) -> str:
        """The output since the last call, without control codes, once `found` is true of it."""
        end = time.monotonic() + timeout
        while not found(self.output[self.read :]):
            assert time.monotonic() < end and self._receive(), self.output.decode(errors="replace")[-2000:]
        new, self.read = self.output[self.read :], len(self.output)
        return CONTROL.sub("", new.decode(errors="replace"))

    def prompt(self) -> str:
        """The output up to the next prompt."""
        return self.until(lambda output: PROMPT in output)

    def answer(self, line: str | bytes) -> str:
        """What is shown after a line was typed, up to the next prompt."""
        self.press(line)
        self.press("\r")
        return self.prompt()

    def end(self) -> tuple[int, str]:
        """The exit status, and the rest of the output."""
        while self._receive():
            pass
        rest = CONTROL.sub("", self.output[self.read :].decode(errors="replace"))
        return self.process.wait(timeout=60), rest

    def _receive(self) -> bool:
        """False: the other side is closed."""
        if not select.select([self.keyboard], [], [], 60)[0]:
            return False
        try:
            new = os.read(self.keyboard, 1 << 16)
        except OSError:  # how Linux says that
            return False
        self.output += new
        return bool(new)
