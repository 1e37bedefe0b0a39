"""A tokenizer as plain tables: its tokens, its merges and what it does before and after them.

llama.cpp and llama2.c have BPE programs of their own and read tables. What such tables cannot say is refused here.
"""

import json
from dataclasses import dataclass
from typing import Any

from tokenizers import pre_tokenizers
from transformers import PreTrainedTokenizerBase

from tinystories.data.tokenizer import byte_level_pieces
from tinystories.errors import UserError


# Ways to cut a text before its merges, by the names that llama.cpp has for them (src/llama-vocab.cpp, `pre_type`).
PRE_TOKENIZERS = {
    repr(byte_level_pieces()): "qwen35",
    repr(pre_tokenizers.ByteLevel(add_prefix_space=False)): "gpt-2",
}
# Options of the model BPE that change which tokens a text gets, and that the programs for the tables do not have.
OTHER_BPE = (
    "dropout",
    "unk_token",
    "continuing_subword_prefix",
    "end_of_word_suffix",
    "byte_fallback",
    "ignore_merges",
)


def _bytes_by_letter() -> dict[str, int]:
    """ByteLevel writes a printable Latin-1 byte as its letter, and the others in order as letters from U+0100 on."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    printable = [ord(letter) for letter in letters if ord(letter) < 256]
    return dict(zip(letters, [*printable, *sorted(set(range(256)) - set(printable))], strict=True))


BYTES = _bytes_by_letter()


@dataclass(frozen=True)
class Vocabulary:
    """A byte-level BPE.

    tokens: by id, as tokenizer.json writes them: with a letter for each byte. merges: the first is the best. added: ids
    of tokens that are found in a text before it is cut. special: those of them that typed text never becomes, such as
    EOS. pre_tokenizer: the name in `PRE_TOKENIZERS`. begins_with_bos: a prompt gets BOS.
    """

    tokens: list[str]
    merges: list[tuple[str, str]]
    added: set[int]
    special: set[int]
    pre_tokenizer: str
    begins_with_bos: bool

    def bytes_of(self, token: int) -> bytes:
        """What the token writes; of a special one its name."""
        text = self.tokens[token]
        return text.encode() if token in self.added else bytes(BYTES[letter] for letter in text)


def vocabulary_of(tokenizer: PreTrainedTokenizerBase, name: str) -> Vocabulary:
    """The tables of `tokenizer`; `name` of the checkpoint is for errors.

    Raises:
        UserError: it is not a byte-level BPE, or one of another kind than the programs that read tables know.
    """
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    pre_tokenizer = PRE_TOKENIZERS.get(repr(tokenizer.backend_tokenizer.pre_tokenizer))
    for what, found in _other_parts(state, pre_tokenizer).items():
        if found:
            raise UserError(f"{name}: its tokenizer has {what}, which the files of this format cannot say")
    ids = state["model"]["vocab"] | {token["content"]: token["id"] for token in state["added_tokens"]}
    tokens = sorted(ids, key=lambda token: ids[token])
    if [ids[token] for token in tokens] != list(range(len(tokens))):
        raise UserError(f"{name}: the ids of its tokens are not 0 to {len(tokens) - 1}, each once")
    before = tokenizer("")["input_ids"]
    if before not in ([], [tokenizer.bos_token_id]):
        raise UserError(f"{name}: its tokenizer puts the tokens {before} around a text, and the format knows only BOS")
    return Vocabulary(
        tokens=tokens,
        merges=[tuple(pair) for pair in state["model"]["merges"]],
        added={token["id"] for token in state["added_tokens"]},
        special={token["id"] for token in state["added_tokens"] if token["special"]},
        pre_tokenizer=str(pre_tokenizer),
        begins_with_bos=bool(before),
    )


def _other_parts(state: dict[str, Any], pre_tokenizer: str | None) -> dict[str, bool]:
    """What tables of a byte-level BPE leave out, and whether this tokenizer has it. state: its tokenizer.json."""
    model = state["model"]
    kind = model.get("type")
    return {
        f"a model of type {kind}": kind != "BPE",
        "a BPE with " + ", ".join(part for part in OTHER_BPE if model.get(part)): any(map(model.get, OTHER_BPE)),
        "a normalizer": state["normalizer"] is not None,
        "a decoder that is not byte-level": (state["decoder"] or {}).get("type") != "ByteLevel",
        "added tokens that take in the space beside them or stand for whole words only": any(
            token[flag] for token in state["added_tokens"] for flag in ("lstrip", "rstrip", "single_word")
        ),
        "a way of its own to cut texts (pre_tokenizer in tokenizer.json)": pre_tokenizer is None,
    }
