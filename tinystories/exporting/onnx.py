"""ONNX files for onnxruntime and transformers.js, in the plain folder, whose config and tokenizer they use.

- onnx/model.onnx: float32.
- onnx/model_quantized.onnx: weights in int8, a quarter of the size. Computed in float32; 8-bit sums cost more
  precision, and the runtime's own 8-bit operators are slow in browsers.

transformers.js knows neither `split_special_tokens`, nor that a prompt begins with BOS unless the tokenizer's config
says so. The tokenizer's files are rewritten so that it gives our ids; for transformers they mean the same as before.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer

from tinystories.atomic import write_atomically
from tinystories.errors import UserError
from tinystories.exporting.onnx_graph import onnx_model
from tinystories.exporting.proof import Reader
from tinystories.exporting.source import Source
from tinystories.exporting.transformers_js import find_transformers_js, opened_by_transformers_js
from tinystories.generation.decode_graph import STATIC_ROTARY


FILES = {"onnx/model.onnx": "fp32", "onnx/model_quantized.onnx": "q8"}  # with their names for transformers.js
LARGEST = 2**31 - 2**20  # bytes; a larger ONNX file needs a second one for its weights


def check(source: Source) -> None:
    """Raises UserError: the model or its tokenizer cannot be written so."""
    config = source.model.config
    assert config.rope_parameters is not None  # by the configuration's own checks
    rotary = config.rope_parameters["rope_type"]
    num_bytes = 4 * source.model.num_parameters()
    refused = {
        f"its hidden_act is {config.hidden_act}, not silu": config.hidden_act not in ("silu", "swish"),
        f"the frequencies of its RoPE of type {rotary} depend on the length": rotary not in STATIC_ROTARY,
        f"its weights take {num_bytes:,} bytes, and an ONNX file holds 2 GB": num_bytes > LARGEST,
        "its tokenizer splits special tokens and has no table of its tokens": not _is_expressible(source),
    }
    for reason, applies in refused.items():
        if applies:
            raise UserError(f"{source.name} cannot be written in the format onnx: {reason}", "leave this format out")


def write(source: Source, folder: Path) -> None:
    """Two files in onnx/, and changes to the tokenizer of `folder`, which already holds the plain model."""
    (folder / "onnx").mkdir()
    properties = {"weights_sha256": source.weights_sha256, "base_model": source.base_model or source.title}
    for file, dtype in FILES.items():
        made = onnx_model(source.model, eight_bit=dtype == "q8", properties=properties)
        (folder / file).write_bytes(made.SerializeToString())
    _write_tokenizer(source, folder)


def _is_expressible(source: Source) -> bool:
    model = json.loads(source.tokenizer.backend_tokenizer.to_str())["model"]
    return not source.tokenizer.split_special_tokens or isinstance(model.get("vocab"), dict)


def _write_tokenizer(source: Source, folder: Path) -> None:
    """Special tokens become plain entries of the vocabulary: only so, transformers.js reads typed ones as text.

    `additional_special_tokens` tells it to leave them out when it decodes. transformers makes them special again.
    """
    files = folder / "tokenizer.json", folder / "tokenizer_config.json"
    tokenizer, config = (json.loads(file.read_text(encoding="utf-8")) for file in files)
    if source.tokenizer.split_special_tokens:
        special = {token["content"]: token["id"] for token in tokenizer["added_tokens"] if token["special"]}
        tokenizer["added_tokens"] = [token for token in tokenizer["added_tokens"] if not token["special"]]
        tokenizer["model"]["vocab"] |= special
        config["additional_special_tokens"] = list(special)
    config["add_bos_token"] = source.tokenizer("a")["input_ids"][0] == source.tokenizer.bos_token_id
    for file, content in zip(files, (tokenizer, config), strict=True):
        write_atomically(file, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def readers(source: Source, folder: Path) -> Iterator[Reader]:
    """onnxruntime, and transformers.js where node and it are found; each opens both files."""
    for file, dtype in FILES.items():
        yield OnnxRuntime(folder, file, exact=dtype == "fp32")
    for file, dtype in FILES.items():
        with opened_by_transformers_js(folder, file, dtype, source.tokenizer.eos_token_id) as reader:
            if reader is None:
                return
            yield reader


def missing_readers() -> list[str]:
    """Programs that would be a reader too and are not installed, for export.json."""
    return [] if find_transformers_js() else ["transformers.js in node"]


class OnnxRuntime:
    """A `Reader` through onnxruntime, with one thread, and the tokenizer of the folder as transformers reads it."""

    def __init__(self, folder: Path, file: str, exact: bool):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors: its warnings are about how it computes
        self.name, self.file, self.exact = f"onnxruntime {onnxruntime.__version__}", file, exact
        self.tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        self.session = onnxruntime.InferenceSession(folder / file, options, providers=["CPUExecutionProvider"])
        cache = [tensor for tensor in self.session.get_inputs() if tensor.name.startswith("past_key_values.")]
        self.empty_cache = {tensor.name: self._empty(tensor.shape) for tensor in cache}

    @staticmethod
    def _empty(shape: list[Any]) -> np.ndarray:
        _, heads, _, width = shape
        return np.zeros((1, heads, 0, width), dtype=np.float32)

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def logits(self, ids: list[int]) -> np.ndarray:
        return self._step(ids, self.empty_cache)[0]

    def greedy(self, ids: list[int], max_new_tokens: int) -> list[int]:
        cache, new_ids = self.empty_cache, list[int]()
        for _ in range(max_new_tokens):
            logits, cache = self._step(new_ids[-1:] or ids, cache)
            new_ids.append(int(logits[-1].argmax()))
            if new_ids[-1] == self.tokenizer.eos_token_id:
                break
        return new_ids

    def _step(self, ids: list[int], cache: dict[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Logits of `ids`, which follow the tokens in `cache`, and the cache with them."""
        cached = next(iter(cache.values())).shape[2]
        length = cached + len(ids)
        inputs = {
            "input_ids": np.array([ids], dtype=np.int64),
            "attention_mask": np.ones((1, length), dtype=np.int64),
            "position_ids": np.arange(cached, length, dtype=np.int64)[None],
        }
        logits, *present = self.session.run(None, inputs | cache)
        return logits[0], dict(zip(cache, present, strict=True))
