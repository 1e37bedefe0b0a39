"""The network as an ONNX graph, written node by node.

`torch.onnx.export` records one run of the PyTorch code: it stores a tied embedding twice, computes positions and masks
with twice the nodes, and prints. This graph has one embedding and only operators of the ONNX standard. Inputs and
outputs are those of optimum, which transformers.js knows:

    input_ids, position_ids        int64 (batch, new)
    attention_mask                 int64 (batch, cached + new), 1 for tokens to see
    past_key_values.N.key, .value  float32 (batch, key/value heads, cached, head_dim)
    logits                         float32 (batch, new, vocab_size)
    present.N.key, .value          float32 (batch, key/value heads, cached + new, head_dim)
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from configuration_tinystories import TinyStoriesConfig
from modeling_tinystories import TinyStoriesForCausalLM, TinyStoriesRotaryEmbedding
from tinystories.checkpoint.stock import fuse_projections
from tinystories.generation.nodes import Graph


if TYPE_CHECKING:
    import onnx

OPSET, IR_VERSION = 18, 8  # of 2022: every runtime in use reads them
# Not -inf: a row of padding sees no token at all, and its softmax would be NaN.
UNSEEN = float(np.finfo(np.float32).min)
EMBEDDING = "model.embed_tokens.weight"


def onnx_model(model: TinyStoriesForCausalLM, eight_bit: bool, properties: dict[str, str]) -> "onnx.ModelProto":
    """The network and its weights, which are float32 or int8.

    eight_bit: int8 with a scale for each row of a matrix. They become float32 when the file is opened: the runtime
    computes once what follows from weights alone. So it is a quarter of the size, and as fast, everywhere.
    properties: written into the file.
    """
    from onnx import helper, numpy_helper

    weights = {name: weight.numpy() for name, weight in fuse_projections(model.state_dict()).items()}
    graph = _Graph(weights, eight_bit)
    _Network(graph, model.config, model.model.rotary_emb).write()
    inputs, outputs = _inputs_and_outputs(model.config)
    initializers = [numpy_helper.from_array(values, name) for name, values in graph.stored.items()]
    made = helper.make_model(
        helper.make_graph(graph.nodes, "tinystories", inputs, outputs, initializers),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="tinystories",
    )
    helper.set_model_props(made, properties)
    return made


def _inputs_and_outputs(config: TinyStoriesConfig) -> tuple[list[Any], list[Any]]:
    """Names, types and shapes. transformers.js makes an empty cache from them: it knows `batch_size` by its name."""
    from onnx import TensorProto, helper

    batch, new, cached, total = "batch_size", "sequence_length", "past_sequence_length", "total_sequence_length"
    heads, width = config.num_key_value_heads, config.head_dim
    cache = [f"{layer}.{part}" for layer in range(config.num_hidden_layers) for part in ("key", "value")]

    def integers(name: str, length: str) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.INT64, [batch, length])

    def numbers(name: str, *shape: str | int | None) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, *shape])

    inputs = [integers("input_ids", new), integers("attention_mask", total), integers("position_ids", new)]
    inputs += [numbers(f"past_key_values.{name}", heads, cached, width) for name in cache]
    outputs = [numbers("logits", new, config.vocab_size)]
    outputs += [numbers(f"present.{name}", heads, total, width) for name in cache]
    return inputs, outputs


class _Graph(Graph):
    """With weights that are float32 or int8."""

    def __init__(self, weights: dict[str, np.ndarray], eight_bit: bool):
        super().__init__(weights)
        self.eight_bit = eight_bit

    def cast(self, tensor: str, kind: str) -> str:
        from onnx import TensorProto

        return self.add("Cast", tensor, to=TensorProto.DataType.Value(kind))

    def number(self, value: float) -> str:
        return self.store(f"number_{value}", np.array(value, dtype=np.float32))

    def vector(self, name: str) -> str:
        return self.store(name, self.weights[name])

    def linear(self, tensor: str, name: str, output: str | None = None) -> str:
        """The product with a weight matrix, which is stored as in PyTorch: (outputs, inputs)."""
        matrix, scale = self._matrix(name)
        if scale:
            matrix = self._scaled(matrix, scale)
        return self.add("MatMul", tensor, self.add("Transpose", matrix, perm=[1, 0]), output=output)

    def rows(self, name: str, indices: str) -> str:
        """Rows of a weight matrix."""
        matrix, scale = self._matrix(name)
        rows = self.add("Gather", matrix, indices)
        return self._scaled(rows, self.add("Gather", scale, indices)) if scale else rows

    def _matrix(self, name: str) -> tuple[str, str | None]:
        """A weight matrix in the file, and the scale of its rows if it is int8."""
        matrix = self.weights[name]
        if not self.eight_bit:
            return self.store(name, matrix), None
        scale = np.abs(matrix).max(axis=1, keepdims=True) / np.float32(127)
        scale[scale == 0] = 1
        return self.store(name, np.rint(matrix / scale).astype(np.int8)), self.store(f"{name}_scale", scale)

    def _scaled(self, integers: str, scale: str) -> str:
        return self.add("Mul", self.cast(integers, "FLOAT"), scale)


class _Network:
    """Writes the nodes of `TinyStoriesForCausalLM` into a graph. In the shape of a Reshape, 0 keeps the size."""

    def __init__(self, graph: _Graph, config: TinyStoriesConfig, rotary: TinyStoriesRotaryEmbedding):
        assert config.num_key_value_heads and config.head_dim  # set by the configuration itself
        self.graph, self.config, self.head_dim = graph, config, config.head_dim
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.rotary_width = 2 * len(rotary.inv_freq)
        self.new, self.bias = self._mask()
        self.cos, self.sin = self._rotary_embedding(rotary.inv_freq.numpy(), rotary.attention_scaling)

    def write(self) -> None:
        graph = self.graph
        hidden = graph.rows(EMBEDDING, "input_ids")
        for layer in range(self.config.num_hidden_layers):
            prefix = f"model.layers.{layer}"
            attended = self._attention(self._norm(hidden, f"{prefix}.input_layernorm.weight"), layer)
            hidden = graph.add("Add", hidden, attended)
            forwarded = self._mlp(self._norm(hidden, f"{prefix}.post_attention_layernorm.weight"), f"{prefix}.mlp")
            hidden = graph.add("Add", hidden, forwarded)
        head = EMBEDDING if self.config.tie_word_embeddings else "lm_head.weight"
        graph.linear(self._norm(hidden, "model.norm.weight"), head, output="logits")

    def _mask(self) -> tuple[str, str]:
        """The number of new tokens, (1,), and what is added to scores: 0 or UNSEEN, (batch, 1, new, cached + new)."""
        graph, add = self.graph, self.graph.add
        new = add("Shape", "input_ids", start=1, end=2)
        cached = add("Shape", "past_key_values.0.key", start=2, end=3)
        total = add("Add", cached, new)
        first, last = add("Squeeze", cached), add("Squeeze", total)
        zero, one = (graph.store(f"integer_{value}", np.array(value, dtype=np.int64)) for value in (0, 1))
        queries = add("Unsqueeze", add("Range", first, last, one), graph.integers(1))
        causal = add("LessOrEqual", add("Range", zero, last, one), queries)
        # Reshape refuses a mask of another length; one of length 1 would be repeated otherwise.
        mask = add("Reshape", "attention_mask", add("Concat", graph.integers(-1, 1, 1), total, axis=0))
        seen = add("And", causal, graph.cast(mask, "BOOL"))
        return new, add("Where", seen, graph.number(0.0), graph.number(UNSEEN))

    def _rotary_embedding(self, inv_freq: np.ndarray, scaling: float) -> tuple[str, str]:
        """Cosines and sines, (batch, 1, new, rotary width); the first half of the sines has the opposite sign.

        Computed from the positions, as in PyTorch, and not looked up: no position is the last one.
        """
        graph, add = self.graph, self.graph.add
        scale = np.full(self.rotary_width, scaling, dtype=np.float32)
        signs = np.repeat(np.array([-1, 1], dtype=np.float32), len(inv_freq))
        positions = graph.cast(add("Unsqueeze", "position_ids", graph.integers(1, 3)), "FLOAT")
        angles = add("Mul", positions, graph.store("inv_freq", np.concatenate([inv_freq, inv_freq])))
        cos = add("Mul", add("Cos", angles), graph.store("cos_scale", scale))
        return cos, add("Mul", add("Sin", angles), graph.store("sin_scale", scale * signs))

    def _norm(self, hidden: str, name: str) -> str:
        graph, add = self.graph, self.graph.add
        squares = add("ReduceMean", add("Pow", hidden, graph.number(2.0)), graph.integers(-1))
        rms = add("Sqrt", add("Add", squares, graph.number(self.config.rms_norm_eps)))
        return add("Mul", add("Div", hidden, rms), graph.vector(name))

    def _attention(self, hidden: str, layer: int) -> str:
        graph, add, heads, kv_heads = self.graph, self.graph.add, self.heads, self.kv_heads
        prefix = f"model.layers.{layer}.self_attn"
        fused = graph.linear(hidden, f"{prefix}.qkv_proj.weight")
        by_head = add("Reshape", fused, graph.integers(0, 0, heads + 2 * kv_heads, self.head_dim))
        rotated, value = graph.split(add("Transpose", by_head, perm=[0, 2, 1, 3]), 1, heads + kv_heads, kv_heads)
        query, key = graph.split(self._rotate(rotated), 1, heads, kv_heads)
        key = add("Concat", f"past_key_values.{layer}.key", key, axis=2, output=f"present.{layer}.key")
        value = add("Concat", f"past_key_values.{layer}.value", value, axis=2, output=f"present.{layer}.value")
        query = self._grouped(add("Mul", query, graph.number(self.head_dim**-0.5)))
        scores = self._ungrouped(add("MatMul", query, add("Transpose", key, perm=[0, 1, 3, 2])))
        seen = self._grouped(add("Softmax", add("Add", scores, self.bias), axis=-1))
        attended = add("Transpose", self._ungrouped(add("MatMul", seen, value)), perm=[0, 2, 1, 3])
        joined = add("Reshape", attended, graph.integers(0, 0, heads * self.head_dim))
        return graph.linear(joined, f"{prefix}.o_proj.weight")

    def _rotate(self, heads: str) -> str:
        """Rotate the first `rotary_width` dimensions of every head; (batch, heads, new, head_dim)."""
        graph, add, half, passed = self.graph, self.graph.add, self.rotary_width // 2, []
        if self.rotary_width < self.head_dim:
            heads, *passed = graph.split(heads, 3, self.rotary_width, self.head_dim - self.rotary_width)
        first, second = graph.split(heads, 3, half, half)
        turned = add("Mul", add("Concat", second, first, axis=3), self.sin)
        rotated = add("Add", add("Mul", heads, self.cos), turned)
        return add("Concat", rotated, *passed, axis=3) if passed else rotated

    def _grouped(self, tensor: str) -> str:
        """(batch, heads, new, ...) -> (batch, key/value heads, heads of one * new, ...): keys need no copies so."""
        if self.heads == self.kv_heads:
            return tensor
        rows = self.graph.add("Mul", self.new, self.graph.integers(self.heads // self.kv_heads))
        return self._reshaped(tensor, self.kv_heads, rows)

    def _ungrouped(self, tensor: str) -> str:
        return tensor if self.heads == self.kv_heads else self._reshaped(tensor, self.heads, self.new)

    def _reshaped(self, tensor: str, heads: int, rows: str) -> str:
        graph = self.graph
        shape = graph.add("Concat", graph.integers(0, heads), rows, graph.integers(-1), axis=0)
        return graph.add("Reshape", tensor, shape)

    def _mlp(self, hidden: str, prefix: str) -> str:
        graph, add, width = self.graph, self.graph.add, self.config.intermediate_size
        gate, up = graph.split(graph.linear(hidden, f"{prefix}.gate_up_proj.weight"), 2, width, width)
        silu = add("Mul", gate, add("Sigmoid", gate))
        return graph.linear(add("Mul", silu, up), f"{prefix}.down_proj.weight")
