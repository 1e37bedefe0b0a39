"""A run in several processes: checks of what the launcher started, and checks whose result all processes share.

The launch commands are in configs/accelerate and docs/distributed.md. One process runs the same code.
"""

import logging
import os
from collections.abc import Callable
from typing import TypeVar

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from tinystories.config.arguments import RunArguments
from tinystories.errors import UserError


logger = logging.getLogger(__name__)

Result = TypeVar("Result")


def on_one_process(check: Callable[[], Result]) -> Result:
    """Run `check` on the first process; all processes return what it returned, or raise the `UserError` it raised."""
    found, mistake = None, None
    if PartialState().is_main_process:
        try:
            found = check()
        except UserError as error:
            mistake = error
    found, mistake = broadcast_object_list([found, mistake])
    if mistake is not None:
        raise mistake
    return found


def check_launch(training: RunArguments) -> None:
    """Compare the launcher's settings with what this run does.

    Raises:
        UserError: the run would train wrongly, or save no weights. One process instead of several is a warning.
    """
    if training.n_gpu > 1:
        raise UserError(
            f"one process sees {training.n_gpu} GPUs",
            "start one for each (accelerate launch, docs/distributed.md), or show it one with the environment variable "
            "CUDA_VISIBLE_DEVICES=0",
        )
    sharded = training.fsdp or os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"
    state_dict = (training.fsdp_plugin_args or {}).get("state_dict_type") or os.environ.get("FSDP_STATE_DICT_TYPE", "")
    if sharded and training.use_cpu:
        raise UserError("FSDP needs GPUs: on CPUs accelerate shards nothing and does not say so")
    if sharded and training.optimizer == "muon":
        raise UserError("optimizer muon needs whole matrices, which FSDP cuts up", "use optimizer adamw, or DDP")
    if sharded and "FULL" not in state_dict:
        raise UserError(
            "FSDP must run with fsdp_state_dict_type FULL_STATE_DICT: with another, checkpoints contain no weights"
        )
    if training.mixed_precision != "no" and not (training.bf16 or training.fp16):
        raise UserError(
            f"accelerate has mixed_precision {training.mixed_precision}, and the recipe has no such precision",
            f"give --{training.mixed_precision} true, or mixed_precision no to accelerate",
        )
    started_by_accelerate = "ACCELERATE_MIXED_PRECISION" in os.environ
    if started_by_accelerate and "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ:
        logger.warning("ONE PROCESS: accelerate launch should have started several (docs/distributed.md)")
