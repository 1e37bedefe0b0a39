"""Random numbers drawn by a check do not change the run: with and without the check it draws the same numbers."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    import torch


def keep_random_state(device: torch.device) -> AbstractContextManager[None]:
    """Restore torch's random state on exit: that of the CPU and, of all GPUs, that of `device` alone."""
    import torch  # slow to import: a command that needs none of this must start fast

    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
