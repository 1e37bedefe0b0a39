"""Training FLOPs: what a run has spent, counted from the sizes of model and rows, and so the same on every machine.

`training_flops` is the sum, over all rows that were trained on (forward and backward), of their length x
`flops_per_token` at that length (environment.py): all steps, processes and sessions of the run. Padding counts, since
it costs the same on a GPU; so do rows that fill up the last batch of an epoch for a compiled model or for several
processes. Not counted: the optimizer, evaluations, guards, and a second forward by gradient_checkpointing.
"""

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from tinystories.training.environment import flops_per_token


class FlopCount:
    """Counts the rows of a run as they are trained on.

    model: before it is wrapped or sharded.
    """

    def __init__(self, model: PreTrainedModel):
        self.of_matrices = flops_per_token(model, 0)
        self.of_attention = flops_per_token(model, 1) - self.of_matrices  # per token, for each token of its row
        self.earlier: dict[str, int] | None = {"tokens": 0, "pairs": 0}  # `state()` of the session before this one
        self.restart()

    def restart(self) -> None:
        """Count from `earlier` on. pairs: of a token with each token of its row."""
        self.counted = dict(self.earlier or {"tokens": 0, "pairs": 0})
        self.new = [0, 0]  # of this process, since the last `gather`

    def add(self, rows: int, length: int) -> None:
        """Rows that this process has trained on, of so many tokens each with padding."""
        self.new[0] += rows * length
        self.new[1] += rows * length**2

    def gather(self, accelerator: Accelerator) -> None:
        """Add what all processes have done. Must be called in every process."""
        new = accelerator.gather(torch.tensor([self.new], device=accelerator.device)).sum(0).tolist()
        self.counted = {name: self.counted[name] + more for name, more in zip(("tokens", "pairs"), new, strict=True)}
        self.new = [0, 0]

    def state(self) -> dict[str, int] | None:
        """For a checkpoint; None where an earlier session was not counted."""
        return None if self.earlier is None else self.counted

    @property
    def total(self) -> int | None:
        """The run's `training_flops` up to the last `gather`; None where an earlier session was not counted."""
        if self.earlier is None:
            return None
        return self.of_matrices * self.counted["tokens"] + self.of_attention * self.counted["pairs"]
