"""The network as an ONNX graph for writing text fast, in onnxruntime on a CPU.

It has few nodes, because the time of a small network is what each node costs: query, key and value are one product,
gate and up another; attention with its rotation and its cache is one node of onnxruntime's own. Unlike the exported
file (exporting/onnx_graph.py), which any runtime reads, it is not kept: it is made when a network is opened.

    input_ids     int64 (rows, new)
    lengths       int32 (rows,), tokens of each row with the new ones, minus 1
    longest       int32 (), the largest number of tokens of a row
    positions     int64 (rows, new), only if `rotates_apart`
    kept          int64 (kept,), the places among the new tokens whose logits are wanted
    past.N.key    float32 (rows, key/value heads, context, head_dim); likewise past.N.value
    logits        float32 (rows, kept, vocab_size)
    present.N.key, present.N.value: the memory of past.N, in which the new tokens are written
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tinystories.generation.nodes import Graph


if TYPE_CHECKING:
    import onnx

OPSET, IR_VERSION = 18, 8
OWN = "com.microsoft"  # the operators that onnxruntime adds to the standard
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
LARGE = 1024  # bytes; smaller initializers are part of the graph, where shapes are inferred from them
STATIC_ROTARY = ("default", "linear", "llama3", "yarn", "proportional")  # whose frequencies are those of any length
OUR_MODEL_TYPE = "tinystories"
BLOCK = 64  # numbers of a matrix that share a scale, if they are 8-bit
ROTATED_AT_ONCE = 8  # the attention operator rotates a multiple of so many pairs, in heads of twice as many numbers


@dataclass(frozen=True)
class Sizes:
    """The fields of a config.json that the graph depends on, and the frequencies of RoPE: angles per token (pairs,)."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    context: int
    epsilon: float
    tied: bool
    frequencies: np.ndarray
    rotary_scale: float

    @property
    def stored_head_dim(self) -> int:
        """Heads are padded with zeros, which change no score, to the widths that the attention operator has."""
        return -(-self.head_dim // 8) * 8

    @property
    def rotates_apart(self) -> bool:
        """Whether heads are rotated by a node of their own, for widths that the attention operator does not rotate."""
        return bool(len(self.frequencies) % ROTATED_AT_ONCE or self.stored_head_dim % (2 * ROTATED_AT_ONCE))


def unsupported(config: Mapping[str, Any]) -> str | None:
    """Why the network of this config.json is not written as such a graph; None if it is."""
    kind, activation, rotary = config.get("model_type"), config.get("hidden_act", "silu"), _rotary(config)["rope_type"]
    if kind != OUR_MODEL_TYPE:
        return f"its model_type is {kind}, not {OUR_MODEL_TYPE}"
    if activation not in ("silu", "swish"):
        return f"its hidden_act is {activation}, not silu"
    if rotary not in STATIC_ROTARY:
        return f"the frequencies of its RoPE of type {rotary} depend on the length"
    return None


def weight_shapes(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """The names and shapes of a checkpoint's weights; a tied head is not one of its own."""
    width, inner = sizes.hidden_size, sizes.intermediate_size
    query, key = sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (sizes.vocab_size, width), "model.norm.weight": (width,)}
    if not sizes.tied:
        shapes[HEAD] = (sizes.vocab_size, width)
    of_layer = {
        "input_layernorm": (width,),
        "post_attention_layernorm": (width,),
        "self_attn.q_proj": (query, width),
        "self_attn.k_proj": (key, width),
        "self_attn.v_proj": (key, width),
        "self_attn.o_proj": (width, query),
        "mlp.gate_proj": (inner, width),
        "mlp.up_proj": (inner, width),
        "mlp.down_proj": (width, inner),
    }
    for layer in range(sizes.layers):
        shapes |= {f"model.layers.{layer}.{part}.weight": shape for part, shape in of_layer.items()}
    return shapes


def sizes_of(config: Mapping[str, Any]) -> Sizes:
    """Raises KeyError, TypeError, ValueError: the config is not complete."""
    heads = config["num_attention_heads"]
    frequencies, scale = _frequencies(config)
    return Sizes(
        vocab_size=config["vocab_size"],
        hidden_size=config["hidden_size"],
        intermediate_size=config["intermediate_size"],
        layers=config["num_hidden_layers"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=_head_dim(config),
        context=config["max_position_embeddings"],
        epsilon=config["rms_norm_eps"],
        tied=config["tie_word_embeddings"],
        frequencies=frequencies,
        rotary_scale=scale,
    )


def _head_dim(config: Mapping[str, Any]) -> int:
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def _rotary(config: Mapping[str, Any]) -> dict[str, Any]:
    defaults = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0}
    return defaults | (config.get("rope_parameters") or {})


def _frequencies(config: Mapping[str, Any]) -> tuple[np.ndarray, float]:
    """Angles per token (pairs,) float32, and what cosines and sines are multiplied by."""
    rotary = _rotary(config)
    if rotary["rope_type"] == "default":
        width = int(_head_dim(config) * rotary["partial_rotary_factor"])
        return (rotary["rope_theta"] ** (-np.arange(0, width, 2) / width)).astype(np.float32), 1.0
    from transformers import LlamaConfig  # with the fields that RoPE depends on; slow to import
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    names = ("hidden_size", "num_attention_heads", "head_dim", "max_position_embeddings", "rope_parameters")
    frequencies, scale = ROPE_INIT_FUNCTIONS[rotary["rope_type"]](LlamaConfig(**{name: config[name] for name in names}))
    return frequencies.numpy(), float(scale)


def decode_graph(
    weights: Mapping[str, np.ndarray], sizes: Sizes, eight_bit: bool = False
) -> tuple["onnx.ModelProto", dict[str, np.ndarray]]:
    """The graph, and its initializers by name, which are not part of it: the graph only says that they are elsewhere.

    weights: float32, by the names of `TinyStoriesForCausalLM`.
    eight_bit: matrices are rounded to 8 bits, with a scale for each `BLOCK` numbers of a row: a quarter of the memory.
    """
    from onnx import helper, numpy_helper

    graph = Graph(weights)
    _Network(graph, sizes, eight_bit).write()
    inputs, outputs = _inputs_and_outputs(sizes)
    large = {name: values for name, values in graph.stored.items() if values.nbytes >= LARGE}
    initializers = [
        _elsewhere(name, values) if name in large else numpy_helper.from_array(values, name)
        for name, values in graph.stored.items()
    ]
    made = helper.make_model(
        helper.make_graph(graph.nodes, "decoder", inputs, outputs, initializers),
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(OWN, 1)],
        ir_version=IR_VERSION,
    )
    return made, large


def _elsewhere(name: str, values: np.ndarray) -> "onnx.TensorProto":
    from onnx import TensorProto, helper

    tensor = TensorProto(name=name, dims=values.shape, data_type=helper.np_dtype_to_tensor_dtype(values.dtype))
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="memory")
    return tensor


def _inputs_and_outputs(sizes: Sizes) -> tuple[list[Any], list[Any]]:
    from onnx import TensorProto, helper

    tensor = helper.make_tensor_value_info
    cache: list[str | int | None] = ["rows", sizes.kv_heads, sizes.context, sizes.stored_head_dim]
    parts = [f"{layer}.{part}" for layer in range(sizes.layers) for part in ("key", "value")]
    inputs = [
        tensor("input_ids", TensorProto.INT64, ["rows", "new"]),
        tensor("lengths", TensorProto.INT32, ["rows"]),
        tensor("longest", TensorProto.INT32, []),
        tensor("kept", TensorProto.INT64, ["kept"]),
        *(tensor(f"past.{part}", TensorProto.FLOAT, cache) for part in parts),
    ]
    if sizes.rotates_apart:
        inputs.append(tensor("positions", TensorProto.INT64, ["rows", "new"]))
    outputs = [tensor("logits", TensorProto.FLOAT, ["rows", "kept", sizes.vocab_size])]
    return inputs, outputs + [tensor(f"present.{part}", TensorProto.FLOAT, cache) for part in parts]


class _Network:
    """Writes the nodes of `TinyStoriesForCausalLM` into a graph."""

    def __init__(self, graph: Graph, sizes: Sizes, eight_bit: bool):
        self.graph, self.sizes, self.eight_bit = graph, sizes, eight_bit
        angles = np.arange(sizes.context, dtype=np.float32)[:, None] * sizes.frequencies.astype(np.float32)
        scale = np.float32(sizes.rotary_scale)
        self.rotation: tuple[str, ...] = (
            graph.store("cos", np.cos(angles) * scale),
            graph.store("sin", np.sin(angles) * scale),
        )

    def write(self) -> None:
        graph, sizes = self.graph, self.sizes
        hidden = graph.add("Gather", graph.store(EMBEDDING, graph.weights[EMBEDDING]), "input_ids")
        normed = graph.add(
            "SimplifiedLayerNormalization",
            hidden,
            self._vector("model.layers.0.input_layernorm"),
            epsilon=sizes.epsilon,
        )
        for layer in range(sizes.layers):
            prefix = f"model.layers.{layer}"
            attended = self._attention(normed, f"{prefix}.self_attn", layer)
            hidden, normed = self._add_and_norm(hidden, attended, f"{prefix}.post_attention_layernorm")
            forwarded = self._mlp(normed, f"{prefix}.mlp")
            last = layer == sizes.layers - 1
            if last:  # of the rest, only the wanted tokens
                hidden, forwarded = (graph.add("Gather", part, "kept", axis=1) for part in (hidden, forwarded))
            norm = "model.norm" if last else f"model.layers.{layer + 1}.input_layernorm"
            hidden, normed = self._add_and_norm(hidden, forwarded, norm)
        head = EMBEDDING if sizes.tied else HEAD
        self._product(normed, head, graph.weights[head], output="logits")

    def _vector(self, name: str) -> str:
        return self.graph.store(f"{name}.weight", self.graph.weights[f"{name}.weight"])

    def _product(self, tensor: str, name: str, matrix: np.ndarray, output: str | None = None) -> str:
        """The product with a matrix that is stored as in PyTorch: (outputs, inputs)."""
        if self.eight_bit:
            return self._rounded_product(tensor, name, matrix, output)
        stored = self.graph.store(name, matrix)
        return self.graph.add("FusedMatMul", tensor, stored, output=output, transB=1, domain=OWN)

    def _rounded_product(self, tensor: str, name: str, matrix: np.ndarray, output: str | None) -> str:
        outputs, inputs = matrix.shape
        blocks = -(-inputs // BLOCK)
        padded = np.pad(matrix, ((0, 0), (0, blocks * BLOCK - inputs))).reshape(outputs, blocks, BLOCK)
        scales = np.maximum(padded.max(-1), -padded.min(-1)) / np.float32(127)
        scales[scales == 0] = 1
        rounded = (np.rint(padded / scales[..., None]) + 128).astype(np.uint8)  # 128 stands for 0
        stored = self.graph.store(f"{name}.rounded", rounded), self.graph.store(f"{name}.scales", scales)
        sizes = {"K": inputs, "N": outputs, "bits": 8, "block_size": BLOCK}
        exactness = 4  # of the sums: int8, the only ones that are fast
        return self.graph.add(
            "MatMulNBits", tensor, *stored, output=output, accuracy_level=exactness, domain=OWN, **sizes
        )

    def _add_and_norm(self, hidden: str, added: str, norm: str) -> tuple[str, str]:
        """The sum, and the sum after the norm."""
        graph, place = self.graph, len(self.graph.nodes)
        total, normed = f"Sum_{place}", f"Normed_{place}"
        inputs, operator = [hidden, added, self._vector(norm)], "SkipSimplifiedLayerNormalization"
        graph.node(operator, inputs, [normed, "", "", total], epsilon=self.sizes.epsilon, domain=OWN)
        return total, normed

    def _attention(self, normed: str, prefix: str, layer: int) -> str:
        graph, sizes, weights = self.graph, self.sizes, self.graph.weights
        parts = [self._padded(weights[f"{prefix}.{part}_proj.weight"]) for part in ("q", "k", "v")]
        fused = self._product(normed, f"{prefix}.qkv", np.concatenate(parts))
        inputs, rotation = [fused, "", ""], self.rotation
        if sizes.rotates_apart:
            query, key, value = graph.split(fused, 2, *(len(part) for part in parts))
            inputs, rotation = [self._rotated(query, sizes.heads), self._rotated(key, sizes.kv_heads), value], ()
        inputs += [f"past.{layer}.key", f"past.{layer}.value", "lengths", "longest", *rotation]
        attended = f"{prefix}.attended"
        graph.node(
            "GroupQueryAttention",
            inputs,
            [attended, f"present.{layer}.key", f"present.{layer}.value"],
            num_heads=sizes.heads,
            kv_num_heads=sizes.kv_heads,
            scale=float(sizes.head_dim**-0.5),
            do_rotary=int(not sizes.rotates_apart),
            domain=OWN,
        )
        return self._product(attended, f"{prefix}.o", self._padded(weights[f"{prefix}.o_proj.weight"].T).T)

    def _padded(self, matrix: np.ndarray) -> np.ndarray:
        """(heads x head_dim, ...) -> (heads x stored_head_dim, ...)"""
        width, stored = self.sizes.head_dim, self.sizes.stored_head_dim
        if width == stored:
            return matrix
        heads = matrix.reshape(-1, width, matrix.shape[1])
        return np.pad(heads, ((0, 0), (0, stored - width), (0, 0))).reshape(-1, matrix.shape[1])

    def _rotated(self, tensor: str, heads: int) -> str:
        width = 2 * len(self.sizes.frequencies)
        inputs = (tensor, "positions", *self.rotation)
        return self.graph.add("RotaryEmbedding", *inputs, num_heads=heads, rotary_embedding_dim=width, domain=OWN)

    def _mlp(self, normed: str, prefix: str) -> str:
        graph, width = self.graph, self.sizes.intermediate_size
        parts = [graph.weights[f"{prefix}.{part}_proj.weight"] for part in ("gate", "up")]
        gate, up = graph.split(self._product(normed, f"{prefix}.gate_up", np.concatenate(parts)), 2, width, width)
        silu = graph.add("QuickGelu", gate, alpha=1.0, domain=OWN)  # x * sigmoid(x)
        down = f"{prefix}.down_proj.weight"
        return self._product(graph.add("Mul", silu, up), down, graph.weights[down])
