"""How stories are sampled: the presets, in this one place.

Every checkpoint contains them. `generation_config.json` is the preset natural, which `generate` and pipelines use. Its
stories are as near to people's as those of any way of sampling that benchmarks/presets.py measured. The others have a
repetition penalty, which keeps characters from being called by their names again. Another one is opened with:

    GenerationConfig.from_pretrained("path/or/hub-id", "generation_config_creative.json")
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedTokenizerBase


PRESETS: dict[str, dict[str, Any]] = {
    "natural": {"temperature": 0.8, "top_k": 50, "top_p": 0.95, "repetition_penalty": 1.0},
    "balanced": {"temperature": 0.8, "top_k": 50, "top_p": 0.95, "repetition_penalty": 1.2},
    "conservative": {"temperature": 0.7, "top_k": 40, "top_p": 0.9, "repetition_penalty": 1.3},
    "creative": {"temperature": 0.9, "top_k": 60, "top_p": 0.95, "repetition_penalty": 1.1},
}
DEFAULT_PRESET = "natural"


def generation_config(
    tokenizer: PreTrainedTokenizerBase, max_new_tokens: int, preset: str = DEFAULT_PRESET
) -> GenerationConfig:
    """The `GenerationConfig` of a preset; it stops at the end of the story."""
    from transformers import GenerationConfig  # slow to import, and not needed to know the presets

    return GenerationConfig(
        do_sample=True,
        use_cache=True,
        max_new_tokens=max_new_tokens,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **PRESETS[preset],
    )


def save_presets(folder: str | Path, default: GenerationConfig) -> None:
    """Write a generation_config_PRESET.json for each preset, with the token ids and limits of `default`."""
    for preset, settings in PRESETS.items():
        config = copy.deepcopy(default)
        config.update(**settings)
        config.save_pretrained(folder, config_file_name=f"generation_config_{preset}.json")
