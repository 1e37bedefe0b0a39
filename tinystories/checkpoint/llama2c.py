"""Models of llama2.c (github.com/karpathy/llama2.c), opened as a `LlamaForCausalLM` and a fast tokenizer.

They are the best known small story models, so they are compared with ours. The first format ("version 0") is read:
seven int32 numbers, then float32 weights; the tokenizer is a second file. Logits and ids equal those of the C program.
Two conventions differ. There the rotary embedding turns neighbouring rows of a head, here rows half a head apart, so
the rows of the queries and keys are reordered. There a story ends where the next one would begin, at BOS, so BOS is the
end-of-story token here too.
"""

import math
import struct
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tinystories.errors import UserError


UNKNOWN, BOS = 0, 1  # ids, the same in every file
FIRST_BYTE = 3  # the id of <0x00>; those of the other bytes follow
LATER_VERSIONS = 0x616B3432  # the number that files of another format begin with
IN_A_LAYER = {
    "input_layernorm": "rms_att",
    "self_attn.q_proj": "wq",
    "self_attn.k_proj": "wk",
    "self_attn.v_proj": "wv",
    "self_attn.o_proj": "wo",
    "post_attention_layernorm": "rms_ffn",
    "mlp.gate_proj": "w1",
    "mlp.down_proj": "w2",
    "mlp.up_proj": "w3",
}


@dataclass(frozen=True)
class Header:
    """The numbers at the beginning of a model file, in the order of the file."""

    dim: int
    hidden_dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    vocab_size: int  # negative where the output matrix is not that of the input embedding
    seq_len: int

    @property
    def tied(self) -> bool:
        return self.vocab_size > 0

    @property
    def tokens(self) -> int:
        return abs(self.vocab_size)

    @property
    def head_size(self) -> int:
        return self.dim // self.n_heads

    def is_sound(self) -> bool:
        positive = all(size > 0 for size in (*astuple(self)[:5], self.tokens, self.seq_len))
        return (
            positive and not self.dim % self.n_heads and not self.n_heads % self.n_kv_heads and not self.head_size % 2
        )

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the arrays that follow, in the order of the file, by their names in llama2.c."""
        layers, kv_dim = self.n_layers, self.n_kv_heads * self.head_size
        shapes = {
            "token_embedding": (self.tokens, self.dim),
            "rms_att": (layers, self.dim),
            "wq": (layers, self.dim, self.dim),
            "wk": (layers, kv_dim, self.dim),
            "wv": (layers, kv_dim, self.dim),
            "wo": (layers, self.dim, self.dim),
            "rms_ffn": (layers, self.dim),
            "w1": (layers, self.hidden_dim, self.dim),
            "w2": (layers, self.dim, self.hidden_dim),
            "w3": (layers, self.hidden_dim, self.dim),
            "rms_final": (self.dim,),
            "rotations": (2, self.seq_len, self.head_size // 2),  # cosines and sines, which can be computed
        }
        return shapes if self.tied else shapes | {"wcls": (self.tokens, self.dim)}


def read_model(path: Path) -> LlamaForCausalLM:
    """The model of a llama2.c file, float32, in evaluation mode.

    Raises:
        UserError: the file cannot be read, has another format, or is not as long as its header says.
    """
    data = _read(path)
    header = _header(path, data)
    weights, place = {}, struct.calcsize("<7i")
    for name, shape in header.shapes().items():
        number = math.prod(shape)
        weights[name] = torch.from_numpy(np.frombuffer(data, "<f4", number, place).astype(np.float32).reshape(shape))
        place += 4 * number
    config = LlamaConfig(
        vocab_size=header.tokens,
        hidden_size=header.dim,
        intermediate_size=header.hidden_dim,
        num_hidden_layers=header.n_layers,
        num_attention_heads=header.n_heads,
        num_key_value_heads=header.n_kv_heads,
        max_position_embeddings=header.seq_len,
        rms_norm_eps=1e-5,
        tie_word_embeddings=header.tied,
        bos_token_id=BOS,
        eos_token_id=BOS,
        pad_token_id=UNKNOWN,
    )
    model = LlamaForCausalLM(config)
    model.load_state_dict(_state(weights, header))
    return model.eval()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def _header(path: Path, data: bytes) -> Header:
    size = struct.calcsize("<7i")
    if len(data) < size:
        raise UserError(f"{path}: {len(data)} bytes are too few for a llama2.c model; fetch the file again")
    if struct.unpack_from("<I", data)[0] == LATER_VERSIONS:
        raise UserError(f"{path}: a later version of llama2.c's format; export it with its --version 0")
    header = Header(*struct.unpack_from("<7i", data))
    if not header.is_sound():
        raise UserError(f"{path}: not a llama2.c model: it begins with the sizes {astuple(header)}, which no model has")
    expected = size + 4 * sum(math.prod(shape) for shape in header.shapes().values())
    if len(data) != expected:
        raise UserError(
            f"{path}: {len(data):,} bytes, where the sizes that it begins with need {expected:,}: "
            "cut off, or not a llama2.c model; fetch the file again"
        )
    return header


def _state(weights: dict[str, torch.Tensor], header: Header) -> dict[str, torch.Tensor]:
    """`weights` under the names of `LlamaForCausalLM`."""
    turned = weights | {
        "wq": _halves(weights["wq"], header.n_heads),
        "wk": _halves(weights["wk"], header.n_kv_heads),
    }
    state = {
        "model.embed_tokens.weight": weights["token_embedding"],
        "model.norm.weight": weights["rms_final"],
        "lm_head.weight": weights["token_embedding" if header.tied else "wcls"],
    }
    for layer in range(header.n_layers):
        for name, source in IN_A_LAYER.items():
            state[f"model.layers.{layer}.{name}.weight"] = turned[source][layer]
    return state


def _halves(weights: torch.Tensor, heads: int) -> torch.Tensor:
    """The rows of each head with the even ones first, so that neighbours are half a head apart.

    weights and result: (layers, rows of all heads, columns).
    """
    layers, rows, columns = weights.shape
    pairs = weights.view(layers, heads, rows // heads // 2, 2, columns)
    return pairs.transpose(2, 3).reshape(layers, rows, columns)


def read_tokenizer(path: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a llama2.c file: BOS, then the ids that `encode` of the C program gives.

    That program puts a space before the text and splits it into characters; a character that is not a token is split
    into its bytes. Then it joins the two neighbours whose joint token has the best score (the leftmost of equals) until
    no neighbours can be joined.

    Raises:
        UserError: the file cannot be read, is cut off, or does not have the bytes as tokens.
    """
    pieces, scores = _pieces(path)
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    if any(vocabulary.get(f"<0x{byte:02X}>") != FIRST_BYTE + byte for byte in range(256)) or " " not in vocabulary:
        raise UserError(
            f"{path}: not a tokenizer of llama2.c: its tokens 3 to 258 are not the bytes, or it has no space"
        )
    backend = Tokenizer(models.BPE(vocabulary, _merges(pieces, scores), byte_fallback=True, unk_token=pieces[UNKNOWN]))
    backend.normalizer = normalizers.Prepend(" ")
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    backend.post_processor = processors.TemplateProcessing(
        single="bos $A", pair="bos $A $B", special_tokens=[{"id": "bos", "ids": [BOS], "tokens": [pieces[BOS]]}]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=pieces[BOS],
        eos_token=pieces[BOS],
        unk_token=pieces[UNKNOWN],
        pad_token=pieces[UNKNOWN],
        split_special_tokens=True,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )


def _pieces(path: Path) -> tuple[list[str], list[float]]:
    """Every token and its score. The file: length of the longest token; then score, length and bytes of each token."""
    data = _read(path)
    pieces: list[str] = []
    scores: list[float] = []
    place = 4
    try:
        while place < len(data):
            score, length = struct.unpack_from("<fi", data, place)
            piece = data[place + 8 : place + 8 + length]
            if length < 1 or len(piece) < length:
                raise ValueError(f"token {len(pieces)} is {length} bytes long and has {len(piece)}")
            pieces.append(piece.decode())
            scores.append(score)
            place += 8 + length
    except (struct.error, ValueError) as error:
        raise UserError(f"{path}: not a tokenizer of llama2.c, or cut off ({error})") from error
    if len(pieces) <= FIRST_BYTE + 256 or len(set(pieces)) < len(pieces):
        raise UserError(f"{path}: not a tokenizer of llama2.c: {len(set(pieces))} different tokens of {len(pieces)}")
    return pieces, scores


def _merges(pieces: list[str], scores: list[float]) -> list[tuple[str, str]]:
    """Every pair of tokens that forms a third one, best score first.

    The C program takes the leftmost of all pairs with the best score. The result is the same as long as no two joined
    tokens share a score, which is so in a trained tokenizer: it learned them one after another.
    """
    known = set(pieces)
    return [
        (piece[:cut], piece[cut:])
        for _, piece in sorted(zip(scores, pieces, strict=True), key=lambda scored: -scored[0])
        for cut in range(1, len(piece))
        if piece[:cut] in known and piece[cut:] in known
    ]
