"""What run.c of llama2.c does with a model file and a tokenizer file, in numpy: written from its rules, slow and plain.

Nothing of the project is used, so that a file is read here as the C program reads it. A text is bytes; C text ends at
the first zero.
"""

import struct
from itertools import pairwise
from pathlib import Path

import numpy as np


STOP = 1  # run.c begins with this token and ends where it is chosen
FIRST_BYTE = 3
PRINTABLE = {*range(32, 127), *range(9, 14)}


class RunC:
    def __init__(self, folder: Path):
        data = (folder / "model.bin").read_bytes()
        self.dim, self.hidden, self.layers, self.heads, self.kv_heads, tokens, self.length = struct.unpack_from(
            "<7i", data
        )
        self.shared, self.tokens = tokens > 0, abs(tokens)
        self.head = self.dim // self.heads
        self.numbers, self.place = np.frombuffer(data, "<f4", offset=28).astype(np.float64), 0
        kv = self.kv_heads * self.head
        self.embedding = self._next(self.tokens, self.dim)
        self.norm_attention = self._next(self.layers, self.dim)
        self.query = self._next(self.layers, self.dim, self.dim)
        self.key = self._next(self.layers, kv, self.dim)
        self.value = self._next(self.layers, kv, self.dim)
        self.output = self._next(self.layers, self.dim, self.dim)
        self.norm_mlp = self._next(self.layers, self.dim)
        self.gate = self._next(self.layers, self.hidden, self.dim)
        self.down = self._next(self.layers, self.dim, self.hidden)
        self.up = self._next(self.layers, self.hidden, self.dim)
        self.norm_last = self._next(self.dim)
        self.rotations = self._next(2, self.length, self.head // 2)
        self.classifier = self.embedding if self.shared else self._next(self.tokens, self.dim)
        assert self.place == len(self.numbers), "numbers that nothing reads"
        self._read_tokenizer((folder / "tokenizer.bin").read_bytes())

    def _next(self, *shape: int) -> np.ndarray:
        begin, self.place = self.place, self.place + int(np.prod(shape))
        return self.numbers[begin : self.place].reshape(shape)

    def _read_tokenizer(self, data: bytes) -> None:
        (self.longest,), place = struct.unpack_from("<i", data), 4
        self.pieces, self.scores = [], []
        for _ in range(self.tokens):
            score, length = struct.unpack_from("<fi", data, place)
            assert 0 < length <= self.longest, "it fits into the buffer, and can be read"
            self.scores.append(score)
            self.pieces.append(data[place + 8 : place + 8 + length].split(b"\0")[0])
            place += 8 + length
        assert place == len(data)
        self.ids = {piece: i for i, piece in enumerate(self.pieces)}
        assert len(self.ids) == len(self.pieces), "a text that is two tokens: a search finds either"

    def encode(self, text: str) -> list[int]:
        tokens = [STOP]
        for letter in f" {text}" if text else "":
            found = self.ids.get(letter.encode())
            tokens += [found] if found is not None else [FIRST_BYTE + byte for byte in letter.encode()]
        while True:
            best, place, joined = -1e10, -1, -1
            for i in range(len(tokens) - 1):
                token = self.ids.get(self.pieces[tokens[i]] + self.pieces[tokens[i + 1]])
                if token is not None and self.scores[token] > best:
                    best, place, joined = self.scores[token], i, token
            if place < 0:
                return tokens
            tokens[place : place + 2] = [joined]

    def logits(self, tokens: list[int]) -> np.ndarray:
        """At each position: (tokens, vocabulary)."""
        x, count = self.embedding[tokens], len(tokens)
        future = np.triu(np.ones((count, count), dtype=bool), 1)
        for layer in range(self.layers):
            inner = norm(x, self.norm_attention[layer])
            query = self._rotated((inner @ self.query[layer].T).reshape(count, self.heads, self.head))
            key = self._rotated((inner @ self.key[layer].T).reshape(count, self.kv_heads, self.head))
            value = (inner @ self.value[layer].T).reshape(count, self.kv_heads, self.head)
            attended = np.empty_like(query)
            for head in range(self.heads):
                shared = head // (self.heads // self.kv_heads)
                scores = query[:, head] @ key[:, shared].T / np.sqrt(self.head)
                scores = np.exp(np.where(future, -np.inf, scores - scores.max()))
                attended[:, head] = scores / scores.sum(-1, keepdims=True) @ value[:, shared]
            x = x + attended.reshape(count, -1) @ self.output[layer].T
            inner = norm(x, self.norm_mlp[layer])
            gate = inner @ self.gate[layer].T
            x = x + (gate / (1 + np.exp(-gate)) * (inner @ self.up[layer].T)) @ self.down[layer].T
        return norm(x, self.norm_last) @ self.classifier.T

    def _rotated(self, values: np.ndarray) -> np.ndarray:
        pairs = np.ascontiguousarray(values).view(np.complex128)
        turn = 10000.0 ** -(np.arange(0, self.head, 2) / self.head) * np.arange(len(values))[:, None]
        return (pairs * np.exp(1j * turn)[:, None]).view(np.float64)

    def greedy(self, text: str, steps: int) -> tuple[list[int], bytes]:
        """Chosen tokens after the prompt, and what is printed."""
        tokens = self.encode(text)
        prompt, printed = len(tokens), b""
        for before, token in pairwise(tokens):
            printed += self.printed(before, token)
        while len(tokens) < min(steps, self.length) + 1:
            chosen = int(self.logits(tokens)[-1].argmax())
            tokens.append(chosen)
            if chosen == STOP:
                break
            printed += self.printed(tokens[-2], chosen)
        return tokens[prompt:], printed

    def printed(self, before: int, token: int) -> bytes:
        piece = self.pieces[token]
        if before == STOP and piece.startswith(b" "):
            piece = piece[1:]
        return b"" if len(piece) == 1 and piece[0] not in PRINTABLE else piece


def norm(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * weight
