"""The scores of stories a second time, from the files of a checkpoint alone: config.json, tokenizer.json, the weights.

Written with numpy in float64, and nothing of torch, transformers or the rest of this project: what the run reports must
come out here as well. Attention goes over a loop of positions that ends at the token itself, so a score that needs the
future cannot be reproduced. Known are Llama and the same with partial rotary, without scaled RoPE.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import deserialize, safe_open
from tokenizers import Tokenizer


_DTYPES = {"F16": np.float16, "F32": np.float32, "F64": np.float64}
KNOWN_MODELS = ("tinystories", "llama")


class NotKnownError(ValueError):
    """The network of this configuration is not written down here; says which part of it."""


@dataclass(frozen=True)
class StoryScore:
    """Of one story: natural log likelihood of its tokens with the end of the story, number of these, UTF-8 bytes."""

    nats: float
    tokens: int
    bytes: int


class SecondPath:
    """The network of `config` (the content of config.json) with `weights`, by Llama's names.

    Raises:
        NotKnownError: the network has a part that is not written down here.
    """

    def __init__(self, config: dict[str, Any], weights: dict[str, np.ndarray]):
        rope = config.get("rope_parameters") or {"rope_theta": config.get("rope_theta", 10000.0)}
        _check_known(config, rope)
        self.config, self.context = config, config["max_position_embeddings"]
        self.weights = {name: np.asarray(weight, dtype=np.float64) for name, weight in weights.items()}
        self.weights.setdefault("lm_head.weight", self.weights["model.embed_tokens.weight"])
        self.heads = config["num_attention_heads"]
        self.groups = self.heads // (config.get("num_key_value_heads") or self.heads)
        self.head_dim = config.get("head_dim") or config["hidden_size"] // self.heads
        width = int(self.head_dim * rope.get("partial_rotary_factor", 1.0))
        self.frequencies = rope["rope_theta"] ** -(np.arange(0, width, 2) / width)

    def token_nll(self, ids: list[int]) -> np.ndarray:
        """Nats of each token after the first, given those before it: shape (tokens - 1,)."""
        logits = self.logits(ids)[:-1]
        top = logits.max(-1)
        log_sum = top + np.log(np.exp(logits - top[:, None]).sum(-1))
        return log_sum - logits[np.arange(len(ids) - 1), ids[1:]]

    def logits(self, ids: list[int]) -> np.ndarray:
        """Shape (tokens, vocabulary)."""
        hidden = self.weights["model.embed_tokens.weight"][ids]
        for number in range(self.config["num_hidden_layers"]):
            prefix = f"model.layers.{number}"
            hidden = hidden + self._attention(self._norm(hidden, f"{prefix}.input_layernorm"), f"{prefix}.self_attn")
            hidden = hidden + self._mlp(self._norm(hidden, f"{prefix}.post_attention_layernorm"), f"{prefix}.mlp")
        return self._linear(self._norm(hidden, "model.norm"), "lm_head")

    def _linear(self, values: np.ndarray, name: str) -> np.ndarray:
        return values @ self.weights[f"{name}.weight"].T

    def _norm(self, hidden: np.ndarray, name: str) -> np.ndarray:
        power = (hidden**2).mean(-1, keepdims=True)
        return hidden / np.sqrt(power + self.config["rms_norm_eps"]) * self.weights[f"{name}.weight"]

    def _mlp(self, hidden: np.ndarray, prefix: str) -> np.ndarray:
        gate = self._linear(hidden, f"{prefix}.gate_proj")
        with np.errstate(over="ignore"):
            gate = gate / (1 + np.exp(-gate))
        return self._linear(gate * self._linear(hidden, f"{prefix}.up_proj"), f"{prefix}.down_proj")

    def _attention(self, hidden: np.ndarray, prefix: str) -> np.ndarray:
        length = len(hidden)
        query, key, value = (
            self._linear(hidden, f"{prefix}.{part}_proj").reshape(length, -1, self.head_dim) for part in "qkv"
        )
        query, key = self._rotated(query), self._rotated(key)
        future = np.triu(np.ones((length, length), dtype=bool), 1)
        outputs = np.empty_like(query)
        for head in range(self.heads):
            shared = head // self.groups
            scores = query[:, head] @ key[:, shared].T / np.sqrt(self.head_dim)
            scores[future] = -np.inf
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            outputs[:, head] = scores / scores.sum(-1, keepdims=True) @ value[:, shared]
        return self._linear(outputs.reshape(length, -1), f"{prefix}.o_proj")

    def _rotated(self, values: np.ndarray) -> np.ndarray:
        """Each pair of dimensions (i, i + half) of every head as a complex number, turned by position x frequency."""
        half = len(self.frequencies)
        turn = np.exp(1j * np.arange(len(values))[:, None, None] * self.frequencies)
        turned = (values[..., :half] + 1j * values[..., half : 2 * half]) * turn
        return np.concatenate([turned.real, turned.imag, values[..., 2 * half :]], axis=-1)

    def story_nll(self, ids: list[int]) -> np.ndarray:
        """Nats of each token after the first of a story of any length, each by the first window that contains it.

        Window k begins at token k x (context // 2) and has `context` tokens.
        """
        step = max(1, self.context // 2)
        nll, begin = np.zeros(0), 0
        while len(nll) < len(ids) - 1:
            window = self.token_nll(ids[begin : begin + self.context])
            nll = np.concatenate([nll, window[len(nll) - begin :]])
            begin += step
        return nll


def _check_known(config: dict[str, Any], rope: dict[str, Any]) -> None:
    unknown = {
        f"model_type {config.get('model_type')}": config.get("model_type") not in KNOWN_MODELS,
        f"hidden_act {config.get('hidden_act')}": config.get("hidden_act", "silu") not in ("silu", "swish"),
        f"RoPE of type {rope.get('rope_type')}": rope.get("rope_type", "default") != "default",
        "scaled RoPE": bool(config.get("rope_scaling")),
        "biases": bool(config.get("attention_bias") or config.get("mlp_bias")),
    }
    for name, found in unknown.items():
        if found:
            raise NotKnownError(f"{name} is not written down in {Path(__file__).name}")


class StoryTokens:
    """The token ids of stories by tokenizer.json and tokenizer_config.json in `folder` alone."""

    def __init__(self, folder: str | Path):
        self.tokenizer = Tokenizer.from_file(str(Path(folder, "tokenizer.json")))
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        settings = json.loads(Path(folder, "tokenizer_config.json").read_text(encoding="utf-8"))
        self.tokenizer.encode_special_tokens = bool(settings.get("split_special_tokens"))
        self.ids = {name: self._id(settings.get(f"{name}_token")) for name in ("bos", "eos", "pad")}

    def _id(self, token: Any) -> int | None:
        text = token.get("content") if isinstance(token, dict) else token
        return None if text is None else self.tokenizer.token_to_id(text)

    def encode(self, text: str) -> list[int]:
        """BOS + story + EOS; EOS in place of a BOS that the tokenizer does not have."""
        bos = self.ids["eos"] if self.ids["bos"] is None else self.ids["bos"]
        ids = self.tokenizer.encode(text, add_special_tokens=False).ids
        return [i for i in (bos, *ids, self.ids["eos"]) if i is not None]

    def decode(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=False))


def _weight_files(folder: str | Path) -> list[Path]:
    """model.safetensors; where there is none, its parts. Beside the whole, parts are leftovers."""
    whole = Path(folder, "model.safetensors")
    return [whole] if whole.exists() else sorted(Path(folder).glob("model-*.safetensors"))


def read_weights(folder: str | Path) -> dict[str, np.ndarray]:
    """Every tensor of the safetensors files, as it is stored (bfloat16 as float32)."""
    weights: dict[str, np.ndarray] = {}
    for path in _weight_files(folder):
        weights |= {name: _array(stored) for name, stored in deserialize(path.read_bytes())}
    return weights


def _array(stored: dict[str, Any]) -> np.ndarray:
    """numpy has no bfloat16, which is the upper half of a float32."""
    if stored["dtype"] == "BF16":
        upper = np.frombuffer(stored["data"], np.uint16).astype(np.uint32)
        return (upper << 16).view(np.float32).reshape(stored["shape"])
    return np.frombuffer(stored["data"], _DTYPES[stored["dtype"]]).reshape(stored["shape"])


def stored_dtypes(folder: str | Path) -> set[str]:
    """The number formats of the weights as safetensors names them, such as F32."""
    found: set[str] = set()
    for path in _weight_files(folder):
        with safe_open(path, "np") as file:
            found |= {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    return found


def open_second_path(folder: str | Path) -> SecondPath:
    """Raises NotKnownError: as `SecondPath`; OSError, ValueError, KeyError: the files cannot be read."""
    config = json.loads(Path(folder, "config.json").read_text(encoding="utf-8"))
    return SecondPath(config, read_weights(folder))


def score_story(network: SecondPath, tokens: StoryTokens, text: str) -> StoryScore:
    nll = network.story_nll(tokens.encode(text))
    return StoryScore(float(nll.sum()), len(nll), len(text.encode()))
