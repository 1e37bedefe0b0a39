"""Names and bytes of single tokens, and their log-probabilities, as OpenAI's clients are told them.

A token may be only part of a character: it has bytes, but no text of its own. OpenAI's completions name such a token by
its bytes, so that two different tokens never have the same name.
"""

from collections.abc import Set as AbstractSet

import numpy as np
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from tinystories.server.events import Alternative, ScoredToken, Token


INCOMPLETE = "\ufffd"  # shown for a token that has no text of its own


class TokenTexts:
    """The tokens of one tokenizer by their ids."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, end_tokens: AbstractSet[int]):
        self.tokenizer, self.end_tokens = tokenizer, end_tokens
        self.special = set(tokenizer.all_special_ids)
        alphabet = {letter: byte for byte, letter in bytes_to_unicode().items()}
        words = tokenizer.get_vocab()
        # only a byte-level vocabulary has a token for each byte
        self.byte_of = alphabet if all(letter in words for letter in ByteLevel.alphabet()) else {}
        self.known: dict[int, Token] = {}

    def __getitem__(self, token: int) -> Token:
        if token not in self.known:
            self.known[token] = self._token(token)
        return self.known[token]

    def _token(self, token: int) -> Token:
        word = str(self.tokenizer.convert_ids_to_tokens(token) or "")
        if token in self.special or token in self.end_tokens or not word:
            is_end = token in self.end_tokens
            return Token(word, b"", "" if is_end else INCOMPLETE, is_end)
        found = self._bytes(word)
        try:
            return Token(found.decode(), found, found.decode())
        except UnicodeDecodeError:
            return Token("bytes:" + "".join(f"\\x{byte:02x}" for byte in found), found, INCOMPLETE)

    def _bytes(self, word: str) -> bytes:
        if self.byte_of and all(letter in self.byte_of for letter in word):
            return bytes(self.byte_of[letter] for letter in word)
        if len(word) == len("<0xFF>") and word.startswith("<0x") and word.endswith(">"):  # SentencePiece's bytes
            return bytes([int(word[3:5], 16)])
        return word.replace("\u2581", " ").encode()  # SentencePiece's space

    def scored(self, logits: np.ndarray, tokens: list[int], number: int) -> list[ScoredToken]:
        """logits: (tokens, vocabulary) float32, of each token's place; number: of the likeliest tokens to name."""
        number = min(number, logits.shape[-1])
        found = []
        for row, token in zip(log_softmax(logits), tokens, strict=True):
            likeliest = np.argpartition(row, -number)[-number:]
            places = likeliest[np.argsort(-row[likeliest], kind="stable")].tolist()
            alternatives = tuple(map(Alternative, map(self.__getitem__, places), row[places].tolist()))
            found.append(ScoredToken(self[token], float(row[token]), alternatives))
        return found


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis, float32."""
    shifted = logits - logits.max(-1, keepdims=True)
    values: np.ndarray = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return values
