"""A folder of transformers' own class: Llama, or Phi-3 where only a part of each head is rotated.

It opens without `trust_remote_code`, in what runs only models that it knows (`transformers serve`, vLLM, mlx-lm,
trainers of other projects), and the ONNX files stand in it. The logits are those of the checkpoint, bit by bit.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from tinystories.atomic import write_atomically
from tinystories.checkpoint.loading import share_weights
from tinystories.checkpoint.stock import stock_network
from tinystories.exporting.proof import greedy, logits_of
from tinystories.exporting.source import Source
from tinystories.generation.presets import save_presets


def check(source: Source) -> None:
    """Every model of this project can be written so."""


def write(source: Source, folder: Path) -> None:
    """Weights in the dtype of the checkpoint, config, tokenizer and presets, into `folder`."""
    network = stock_network(source.model.config, source.model.state_dict()).to(source.dtype)  # type: ignore[arg-type]
    network.generation_config = source.model.generation_config
    network.save_pretrained(folder)
    share_weights(folder)
    save_presets(folder, source.model.generation_config)
    source.tokenizer.save_pretrained(folder)
    _write_config(folder, network, source)
    _write_tokenizer_class(folder)


def _write_config(folder: Path, network: PreTrainedModel, source: Source) -> None:
    """Say rotary embedding and dtype in the words of transformers 4 too, which other programs read (mlx-lm, vLLM)."""
    config = _read(folder / "config.json")
    rope = config["rope_parameters"]
    config |= {"rope_theta": rope["rope_theta"], "rope_scaling": None, "torch_dtype": config["dtype"]}
    if config["model_type"] == "phi3":
        config |= {
            "partial_rotary_factor": rope["partial_rotary_factor"],
            "original_max_position_embeddings": config["max_position_embeddings"],
        }
    _save(folder / "config.json", config)


def _write_tokenizer_class(folder: Path) -> None:
    """Version 5 of transformers writes a name of the class that version 4 does not know; both know this one."""
    config = _read(folder / "tokenizer_config.json")
    _save(folder / "tokenizer_config.json", config | {"tokenizer_class": "PreTrainedTokenizerFast"})


def _read(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def _save(file: Path, content: dict[str, Any]) -> None:
    write_atomically(file, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def readers(source: Source, folder: Path) -> Iterator["StockReader"]:
    yield StockReader(
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False),
        AutoTokenizer.from_pretrained(folder, trust_remote_code=False),
        "model.safetensors",
    )


def missing_readers() -> list[str]:
    return []


class StockReader:
    """A `Reader` through transformers' own class for the model."""

    exact = True

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, file: str):
        self.name = f"transformers' {type(model).__name__}"
        self.file, self.model, self.tokenizer = file, model.eval(), tokenizer

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def logits(self, ids: list[int]) -> np.ndarray:
        return logits_of(self.model, ids)

    def greedy(self, ids: list[int], max_new_tokens: int) -> list[int]:
        return greedy(self.model, self.tokenizer, ids, max_new_tokens)
