"""Nodes and initializers of an ONNX graph, from which the decoder and the exported files are made."""

from collections.abc import Mapping
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

    def add(self, operator: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """A node with one output; an input "" is left out."""
        from onnx import helper  # only where a graph is made: the numbers of the exporters are known without it

        output = output or f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def store(self, name: str, values: np.ndarray) -> str:
        """An initializer, once for each name."""
        if name not in self.stored:
            self.stored[name] = np.ascontiguousarray(values)
        return name
