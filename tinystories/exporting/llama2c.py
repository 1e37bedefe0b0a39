"""`model.bin` and `tokenizer.bin` for run.c of llama2.c (github.com/karpathy/llama2.c), as it is.

run.c fixes what a file cannot say, and what it fixes differently is put into the numbers of the file:

- It begins with token 1 and stops where it chooses token 1. Row 1 of the embedding is BOS, row 1 of the output matrix
  is EOS; so the two matrices are apart even where the checkpoint shares one.
- It puts a space before every prompt. Token 2 is written as token 1 with a space, with the best score of all, and is
  BOS: so the first merge takes the space away, and the prompt has the checkpoint's ids.
- Its norms add 1e-5 to the mean square. All that is added to the residual stream is scaled by sqrt(1e-5 / eps): then
  each norm gives what it gives with eps.
- It rotates neighbouring rows of a head, so the rows of queries and keys are reordered.

Tokens 3 to 258 are the bytes; the score of a token is minus the number of its merge. run.c does not cut a text into
pieces before it merges, and looks for whole characters first. Two scores make up for this in stories (`_scores`); a
text can still get other ids where white space or quotation marks meet in a rare way, which the proof counts.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from tinystories.checkpoint.llama2c import IN_A_LAYER, Header
from tinystories.errors import UserError
from tinystories.exporting.llama_cpp import neighbours
from tinystories.exporting.source import Source
from tinystories.exporting.vocabulary import BYTES, Vocabulary, vocabulary_of


if TYPE_CHECKING:
    from tinystories.exporting.proof import Reader

MODEL, TOKENIZER = "model.bin", "tokenizer.bin"
EPS, THETA = 1e-5, 10000.0  # of run.c
START = b"\n<s>\n"  # token 1: BOS where it is read, EOS where it is chosen. As llama2.c writes it
SPECIAL = (b"<unk>", START, START + b" ")  # tokens 0, 1 and 2: PAD, START, and BOS with the space that run.c adds
BEST, SECOND, NEVER = 2.0, 1.0, -1e11  # scores; that of merge number 0 is 0, and from -1e10 on run.c does not merge
QUOTE = "\u0120'"  # a space and an apostrophe, as tokenizer.json writes them


def check(source: Source) -> None:
    """Raises UserError: run.c has no network or tokenizer like this one."""
    config, rope = source.model.config, source.model.config.rope_parameters
    unknown = {
        "rotates all of each head, and in this checkpoint a part": rope["partial_rotary_factor"] != 1.0,
        f"has RoPE of base {THETA:.0f}, and this checkpoint {rope['rope_theta']:g}": rope["rope_theta"] != THETA,
        f"has no RoPE of type {rope['rope_type']}": rope["rope_type"] != "default",
        "has heads that are together as wide as the model": config.num_attention_heads * config.head_dim
        != config.hidden_size,
        f"has no activation {config.hidden_act}": config.hidden_act not in ("silu", "swish"),
        f"cannot do without the term in its norms (rms_norm_eps {config.rms_norm_eps:g})": config.rms_norm_eps <= 0,
    }
    for what, found in unknown.items():
        if found:
            raise UserError(f"{source.name}: run.c of llama2.c {what}, so no llama2.c file can be written")
    vocabulary = vocabulary_of(source.tokenizer, source.name)
    if reason := _other_tokens(source, vocabulary):
        raise UserError(f"{source.name}: its tokenizer {reason}, so no llama2.c file can be written")


def _other_tokens(source: Source, vocabulary: Vocabulary) -> str | None:
    """What keeps the tokens from being written in the order that run.c wants."""
    pad, bos, eos = _special_ids(source)
    if len({pad, bos, eos, None}) < 4 or {pad, bos, eos} != vocabulary.added | vocabulary.special:
        return "has other special tokens than one BOS, one EOS and one PAD"
    if not vocabulary.begins_with_bos:
        return "puts no BOS before a text, and run.c begins with it"
    pieces = [vocabulary.bytes_of(token) for token in range(len(vocabulary.tokens)) if token not in vocabulary.added]
    if {piece for piece in pieces if len(piece) == 1} != {bytes([byte]) for byte in range(256)}:
        return "does not have each byte as a token"
    if len(set(pieces)) < len(pieces) or any(0 in piece for piece in pieces if len(piece) > 1):
        return "has two tokens for the same bytes, or one that goes on after the byte 0"
    known = {*pieces, *SPECIAL}
    for name in SPECIAL:
        parts = {(name[:cut], name[cut:]) for cut in range(1, len(name))} - {(START, b" ")}
        if name in pieces or any(left in known and right in known for left, right in parts):
            return f"has tokens that join to {name!r}, which is a special token of run.c"
    return None


def _special_ids(source: Source) -> tuple[int, int, int]:
    tokenizer = source.tokenizer
    return tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id


def write(source: Source, folder: Path) -> None:
    """`model.bin` in version 0 of the format, and `tokenizer.bin`, into `folder`."""
    vocabulary = vocabulary_of(source.tokenizer, source.name)
    order = _order(source, vocabulary)
    _write_model(folder / MODEL, source, order)
    _write_tokenizer(folder / TOKENIZER, source, vocabulary, order)


def _order(source: Source, vocabulary: Vocabulary) -> list[int]:
    """The checkpoint's ids in the order of the file: PAD, EOS, BOS, the bytes, the others."""
    pad, bos, eos = _special_ids(source)
    others = [token for token in range(len(vocabulary.tokens)) if token not in (pad, bos, eos)]
    bytes_first = sorted(others, key=lambda token: _place(vocabulary.bytes_of(token)))
    return [pad, eos, bos, *bytes_first]


def _place(piece: bytes) -> int:
    """Single bytes by their number; the others after them, in their order."""
    return piece[0] if len(piece) == 1 else 256


def _write_model(path: Path, source: Source, order: list[int]) -> None:
    config = source.model.config
    header = Header(
        dim=config.hidden_size,
        hidden_dim=config.intermediate_size,
        n_layers=config.num_hidden_layers,
        n_heads=config.num_attention_heads,
        n_kv_heads=config.num_key_value_heads,
        vocab_size=-len(order),  # negative: the output matrix is not the embedding
        seq_len=config.max_position_embeddings,
    )
    arrays = _arrays(source, order)
    with path.open("wb") as file:
        file.write(struct.pack("<7i", *vars(header).values()))
        for name, shape in header.shapes().items():
            array = arrays[name]
            assert array.shape == shape, (name, array.shape, shape)
            file.write(array.astype("<f4").tobytes())


def _arrays(source: Source, order: list[int]) -> dict[str, np.ndarray]:
    """The arrays of the file by their names in llama2.c."""
    config = source.model.config
    weights = {name: weight.double() for name, weight in source.model.state_dict().items()}
    scale = (EPS / config.rms_norm_eps) ** 0.5  # of the residual stream
    _, bos, eos = _special_ids(source)
    read = [bos if token == eos else token for token in order]
    arrays = {
        "token_embedding": scale * weights["model.embed_tokens.weight"][read],
        "rms_final": weights["model.norm.weight"],
        "wcls": weights["lm_head.weight"][order],
        "rotations": torch.from_numpy(_rotations(config.max_position_embeddings, config.head_dim)),
    }
    heads = {"wq": config.num_attention_heads, "wk": config.num_key_value_heads}
    for part, name in IN_A_LAYER.items():
        layers = [weights[f"model.layers.{layer}.{part}.weight"] for layer in range(config.num_hidden_layers)]
        if name in heads:
            layers = [neighbours(weight, heads[name]) for weight in layers]
        arrays[name] = torch.stack(layers) * (scale if name in ("wo", "w2") else 1.0)
    return {name: array.numpy() for name, array in arrays.items()}


def _rotations(length: int, head_dim: int) -> np.ndarray:
    """Cosines and sines of RoPE, which run.c computes itself and other programs read: (2, length, head_dim // 2)."""
    frequencies = THETA ** -(np.arange(0, head_dim, 2) / head_dim)
    angles = np.arange(length)[:, None] * frequencies
    return np.stack([np.cos(angles), np.sin(angles)])


def _write_tokenizer(path: Path, source: Source, vocabulary: Vocabulary, order: list[int]) -> None:
    """The length of the longest token; then of each its score, its length and its bytes."""
    scores = _scores(source, vocabulary)
    pieces = [*SPECIAL, *(vocabulary.bytes_of(token) for token in order[len(SPECIAL) :])]
    with path.open("wb") as file:
        file.write(struct.pack("<i", max(map(len, pieces))))
        for token, piece in zip(order, pieces, strict=True):
            file.write(struct.pack("<fi", scores.get(vocabulary.tokens[token], 0.0), len(piece)) + piece)


def _scores(source: Source, vocabulary: Vocabulary) -> dict[str, float]:
    """The score of each token that merges make, and of BOS.

    White space that ends a line, and that the tokenizer cuts before a letter, is not joined. An opening quotation mark
    is joined with the space before it first: in " 'them" the tokenizer sees no 't, and in "don't" it does.
    """
    scores = {"".join(pair): -float(number) for number, pair in reversed(list(enumerate(vocabulary.merges)))}
    cut = source.tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str
    for token in scores:
        text = bytes(BYTES[letter] for letter in token).decode(errors="replace")
        if text.isspace() and not text.endswith(" ") and cut(f"{text}a")[0][1][1] < len(text):
            scores[token] = NEVER
    if QUOTE in scores:
        scores[QUOTE] = SECOND
    return scores | {source.tokenizer.bos_token: BEST}


def readers(source: Source, folder: Path) -> Iterator["Reader"]:
    """The files, opened by the rules of run.c, on the network of transformers."""
    from tinystories.exporting.llama2c_reader import RunCReader

    yield RunCReader(folder / MODEL, folder / TOKENIZER, source)
