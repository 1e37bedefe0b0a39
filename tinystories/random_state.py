"""Random numbers that a check draws are not missing afterwards: a run with guards and one without draw the same."""

from contextlib import AbstractContextManager

import torch


def keep_random_state(device: torch.device) -> AbstractContextManager:
    """Random numbers drawn inside are not missing afterwards. Of all GPUs, only the one of this process is touched."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
