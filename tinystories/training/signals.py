"""Ctrl-C, SIGTERM and SIGHUP: the run finishes its step, saves a checkpoint, and names the command that resumes it.

SIGHUP is sent when the terminal is closed; under `nohup` it stays ignored. A signal during an evaluation takes effect
one step after it, because a checkpoint from before would lose it. A second Ctrl-C ends the run at once; --resume then
continues from the last checkpoint. A second signal of another kind changes nothing: a terminal or a service that ends
sends several.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.util import Finalize
from types import FrameType

import torch
from accelerate.utils import reduce
from transformers import TrainerCallback, TrainerControl

from tinystories.errors import Interrupted
from tinystories.progress import is_live
from tinystories.training.checkpointing import at_the_end_of_an_epoch


NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")  # the last but one is not on Windows, the last only there
SIGNALS = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
FROM_KEYBOARD = {getattr(signal, name) for name in ("SIGINT", "SIGBREAK") if hasattr(signal, name)}


class IgnoreSignals:
    """`worker_init_fn` of a data worker, which leaves a signal to the whole process group to its parent.

    PyTorch's workers end at SIGTERM, and the step that the parent finishes would get no data. Python ends workers that
    are left when the parent exits by the same signal and waits for them: they are killed before that.
    """

    def __init__(self, then: Callable[[int], None] | None):
        self.then = then
        Finalize(None, kill_workers, exitpriority=1)

    def __call__(self, worker: int) -> None:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        if self.then is not None:
            self.then(worker)


def kill_workers() -> None:
    """Kill what is left of the processes that Python would end when this one exits."""
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


class GracefulStopCallback(TrainerCallback):
    """Turns a signal into a checkpoint and an `Interrupted`, at the same step in all processes."""

    def __init__(self):
        self.received: int | None = None  # the signal that this process received
        self.agreed = False  # one of the processes received a signal, and all of them know
        self.stopping = False
        self.alone = True
        self.before: dict = {}

    def on_train_begin(self, args, state, control, **kwargs):
        if not self.before and threading.current_thread() is threading.main_thread():
            self.alone = args.world_size == 1
            # A Ctrl-C that a shell ignores for its background commands is taken: it was sent to this process.
            taken = [n for n in SIGNALS if n in FROM_KEYBOARD or signal.getsignal(n) is not signal.SIG_IGN]
            self.before = {number: signal.signal(number, self._on_signal) for number in taken}

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received = number
            if os.environ.get("LOCAL_RANK", "0") == "0":
                # not print or logging: the signal may have interrupted either
                with suppress(OSError):  # the terminal is gone
                    begin = "\r\x1b[K" if is_live() else "\n"  # in place of the status line
                    os.write(2, f"{begin}stopping: this step is finished and saved first (Ctrl-C: stop now)\n".encode())
        elif self.alone and number in FROM_KEYBOARD:  # with a launcher this may be the same Ctrl-C, passed on
            self._restore()
            raise KeyboardInterrupt

    def on_step_end(self, args, state, control, **kwargs):
        received = torch.tensor([self.received is not None], dtype=torch.float32, device=args.device)
        self.agreed = bool(reduce(received, "sum") > 0)
        if self.agreed and not at_the_end_of_an_epoch(state):
            self._stop(control)

    def on_epoch_end(self, args, state, control, **kwargs):
        if self.agreed:
            self._stop(control)

    def _stop(self, control: TrainerControl) -> None:
        self.stopping = control.should_save = True

    def on_save(self, args, state, control, **kwargs):
        if self.stopping:
            self._restore()
            raise Interrupted(f"{args.output_dir}/checkpoint-{state.global_step}", self.received or signal.SIGTERM)

    def on_train_end(self, args, state, control, **kwargs):
        self._restore()

    def _restore(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before = {}
