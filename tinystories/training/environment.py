"""Where a run ran, for environment.json: versions, device, and the speed that was measured of the device.

It contains no name of a person, a machine or a folder, because it is published with the model.
"""

import os
import platform
import time
from importlib.metadata import version
from typing import Any

import psutil
import torch
from torch import nn
from transformers import PreTrainedModel, TrainingArguments

from tinystories.provenance import processor_name
from tinystories.random_state import keep_random_state
from tinystories.run_files import LIBRARIES


PEAK_SECONDS = 0.3


def training_dtype(args: TrainingArguments) -> torch.dtype:
    """The number format of the matrix products in training."""
    return torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else torch.float32


def measured_peak(device: torch.device, dtype: torch.dtype, seconds: float = PEAK_SECONDS) -> float:
    """Floating-point operations per second that this process reaches on `device`: the fastest of many matrix products.

    It is measured, because a table of vendors' numbers has no laptops, no power limits and no shared machines. The
    matrices are random, because a GPU multiplies zeros faster.
    """
    size = 1024 if device.type == "cpu" else 8192
    synchronize = (lambda: None) if device.type == "cpu" else torch.accelerator.synchronize
    with keep_random_state(device), torch.no_grad():
        left, right = torch.randn(2, size, size, device=device).to(dtype)
        left @ right  # not timed: it loads the library
        synchronize()
        best, end = float("inf"), time.perf_counter() + seconds
        while time.perf_counter() < end or best == float("inf"):
            start = time.perf_counter()
            left @ right
            synchronize()
            best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def flops_per_token(model: PreTrainedModel, row_length: int) -> int:
    """Floating-point operations to train on one token, forward and backward: 6 N + 6 L W T.

    N: weights of all matrices that a token is multiplied with; with the output layer, without the embedding, which is a
    lookup. L W T: layers x width of all heads x row length. A token attends to the tokens before it, T/2 on average, so
    this is half of what the formula of the PaLM paper counts. Recomputed activations count once.
    """
    config = model.config
    matrices = sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.Linear))
    heads = config.num_attention_heads * config.head_dim
    return 6 * matrices + 6 * config.num_hidden_layers * heads * row_length


def describe_environment(args: TrainingArguments) -> dict[str, Any]:
    """Versions, device and processes of this run. Memory in GB (1e9 bytes)."""
    device = args.device
    on_gpu = device.type == "cuda"
    memory = torch.cuda.get_device_properties(device).total_memory if on_gpu else psutil.virtual_memory().total
    return {
        "python": platform.python_version(),
        **{library: version(library) for library in LIBRARIES},
        "torch": torch.__version__,  # it names the CUDA version it was built for
        "platform": f"{platform.system()} {platform.machine()}",
        "device": device.type,
        "device_name": torch.cuda.get_device_name(device) if on_gpu else processor_name(),
        "device_memory_gb": round(memory / 1e9, 1),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": args.world_size,
        "dtype": str(training_dtype(args)).removeprefix("torch."),
        "torch_compile": args.torch_compile,
    }
