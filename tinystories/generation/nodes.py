"""Nodes and initializers of an ONNX graph, from which the decoder and the exported files are made."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np


if TYPE_CHECKING:
    import onnx


class Graph:
    """Nodes and what they are computed from. A tensor is known by its name, which `add` returns."""

    def __init__(self, weights: Mapping[str, np.ndarray]):
        self.weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.stored: dict[str, np.ndarray] = {}

    def node(self, operator: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> None:
        """An input or output "" is left out."""
        from onnx import helper

        self.nodes.append(helper.make_node(operator, inputs, outputs, **attributes))

    def add(self, operator: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """A node with one output."""
        output = output or f"{operator}_{len(self.nodes)}"
        self.node(operator, inputs, [output], **attributes)
        return output

    def split(self, tensor: str, axis: int, *sizes: int) -> list[str]:
        outputs = [f"Split_{len(self.nodes)}_{part}" for part in range(len(sizes))]
        self.node("Split", [tensor, self.integers(*sizes)], outputs, axis=axis)
        return outputs

    def store(self, name: str, values: np.ndarray) -> str:
        """An initializer, once for each name."""
        if name not in self.stored:
            self.stored[name] = np.ascontiguousarray(values)
        return name

    def integers(self, *values: int) -> str:
        return self.store(f"integers_{'_'.join(map(str, values))}", np.array(values, dtype=np.int64))
