"""`RunArguments`: TrainingArguments with this project's keys. Importing it imports torch, which takes seconds."""

import re
from dataclasses import dataclass

import torch
from transformers import TrainingArguments
from transformers.utils.import_utils import is_torch_bf16_gpu_available

from tinystories.config.keys import TrainingDefaults


@dataclass
class RunArguments(TrainingDefaults, TrainingArguments):  # type: ignore[misc]  # bf16 may be None until __post_init__
    """How a run is trained: `TrainingArguments` with the keys and defaults of `TrainingDefaults`.

    Raises:
        ValueError: a setting that would make the evaluation inexact, or settings that contradict each other.
    """

    def __post_init__(self) -> None:
        self._check_settings()
        if not torch.accelerator.is_available():
            self.use_cpu = True
        if self.bf16 is None:
            self.bf16 = not self.fp16 and bf16_is_fast(self.use_cpu)
        if self.accelerator_config is None and not self.use_cpu:
            self.accelerator_config = {"non_blocking": True}  # the host does not wait until a batch is on the GPU
        super().__post_init__()

    def _check_settings(self) -> None:
        for name, value in _FIXED.items():
            if getattr(self, name) != value:
                raise ValueError(f"{name} must stay {value}: the exact evaluation depends on it")
        if str(self.resume_from_checkpoint).lower() in ("false", "no", "none"):
            self.resume_from_checkpoint = None
        if self.resume and self.resume_from_checkpoint is not None:
            raise ValueError("give --resume or resume_from_checkpoint, not both")
        if self.early_stopping_patience is not None and not self.load_best_model_at_end:
            raise ValueError(
                "early_stopping_patience needs load_best_model_at_end: it counts evaluations without a best"
            )
        if self.early_stopping_patience is not None and self.early_stopping_patience < 1:
            raise ValueError("early_stopping_patience must be at least 1")
        if self.hub_strategy not in ("end", "every_save"):
            raise ValueError("hub_strategy must be end or every_save: optimizer state is not published")
        metric = (self.metric_for_best_model or "loss").removeprefix("eval_")
        if metric not in ("loss", "perplexity", "bits_per_byte"):
            raise ValueError(f"metric_for_best_model must be loss, perplexity or bits_per_byte, not {metric!r}")
        if self.language is not None and not LANGUAGES.fullmatch(self.language):
            raise ValueError(
                f"language must be codes of ISO 639 such as en or pt-BR, with commas, not {self.language!r}"
            )
        self.greater_is_better = False  # of all three; the Trainer would guess that only a loss is better when smaller


LANGUAGES = re.compile(r"\s*[a-z]{2,3}(-[A-Za-z0-9]{2,8})*\s*(,\s*[a-z]{2,3}(-[A-Za-z0-9]{2,8})*\s*)*|multilingual")

_FIXED = {
    "remove_unused_columns": False,
    "prediction_loss_only": False,
    "batch_eval_metrics": False,
    "eval_do_concat_batches": True,
    "include_for_metrics": [],
}


def bf16_is_fast(use_cpu: bool) -> bool:
    """Whether bf16 autocast pays on the device that will train: hardware bf16 on a GPU, AMX or AVX512-BF16 on a CPU."""
    if use_cpu:
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
    return is_torch_bf16_gpu_available()
