"""An ONNX file as a function of a batch: what readers of the files write, with padding and any cut of the tokens."""

from pathlib import Path

import numpy as np
import onnxruntime


class Session:
    """A file of the format onnx in onnxruntime."""

    def __init__(self, path: Path):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # failed runs are expected
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.inputs = {tensor.name: tensor for tensor in self.session.get_inputs()}

    def run(self, ids: np.ndarray, mask: np.ndarray, cache: dict | None = None) -> tuple[np.ndarray, dict]:
        """Logits (batch, new, vocabulary) and the cache with them. mask: (batch, cached + new)."""
        if cache is None:
            shapes = {name: tensor.shape for name, tensor in self.inputs.items() if name.startswith("past")}
            cache = {name: np.zeros((len(ids), s[1], 0, s[3]), np.float32) for name, s in shapes.items()}
        positions = np.maximum(mask.cumsum(1) - 1, 0)[:, -ids.shape[1] :]
        inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
        logits, *present = self.session.run(None, inputs | cache)
        return logits, dict(zip(cache, present, strict=True))

    def in_pieces(self, ids: np.ndarray, mask: np.ndarray, *ends: int) -> np.ndarray:
        """The logits of all of `ids`, run piece by piece through the cache."""
        pieces, cache, start = [], None, 0
        for end in [*ends, ids.shape[1]]:
            logits, cache = self.run(ids[:, start:end], mask[:, :end], cache)
            pieces.append(logits)
            start = end
        return np.concatenate(pieces, axis=1)
