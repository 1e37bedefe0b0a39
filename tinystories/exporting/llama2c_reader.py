"""The files of llama2.c by the rules of run.c: its way from a text to tokens, and where it starts and stops.

The network is transformers' Llama with the weights of `model.bin` (checkpoint/llama2c.py). Ids are those of the
checkpoint: a token is recognised by its bytes.
"""

import struct
from pathlib import Path

import numpy as np
import torch

from tinystories.checkpoint.llama2c import BOS, FIRST_BYTE, read_model
from tinystories.exporting.source import Source
from tinystories.exporting.vocabulary import vocabulary_of


LOWEST = -1e10  # run.c joins tokens of better scores


class RunCTokenizer:
    """`encode` of run.c, from `tokenizer.bin`."""

    def __init__(self, path: Path):
        self.pieces: list[bytes] = []
        self.scores: list[float] = []
        data, place = path.read_bytes(), 4
        while place < len(data):
            score, length = struct.unpack_from("<fi", data, place)
            self.pieces.append(data[place + 8 : place + 8 + length])
            self.scores.append(score)
            place += 8 + length
        self.ids = {piece.split(b"\0")[0]: token for token, piece in enumerate(self.pieces)}

    def encode(self, text: str) -> list[int]:
        """BOS, a space, and the characters of the text, joined while two neighbours form a token, the best first."""
        tokens = [BOS]
        text = text.split("\0")[0]  # a text of C ends there
        for letter in " " + text if text else "":
            token = self.ids.get(letter.encode())
            tokens += [FIRST_BYTE + byte for byte in letter.encode()] if token is None else [token]
        joined = [self._joined(tokens, place) for place in range(len(tokens) - 1)]
        while joined and (best := max(joined))[0] > -np.inf:
            place = joined.index(best)
            tokens[place : place + 2] = [best[1]]
            beside = range(max(0, place - 1), min(place + 1, len(tokens) - 1))
            joined[max(0, place - 1) : place + 2] = [self._joined(tokens, near) for near in beside]
        return tokens

    def _joined(self, tokens: list[int], place: int) -> tuple[float, int]:
        """Score and id of the token that the one at `place` and the next one form; equal scores: one and the same."""
        piece = self.pieces[tokens[place]] + self.pieces[tokens[place + 1]]
        token = self.ids.get(piece)
        return (-np.inf, -1) if token is None or self.scores[token] <= LOWEST else (self.scores[token], token)


class RunCReader:
    """A `Reader` of `model.bin` and `tokenizer.bin`."""

    name = "the rules of run.c"
    exact = True
    other_ids = "run.c does not cut a text before it merges"

    def __init__(self, model: Path, tokenizer: Path, source: Source):
        self.file = f"{model.name} and {tokenizer.name}"
        self.model, self.tokenizer = read_model(model), RunCTokenizer(tokenizer)
        vocabulary, words = vocabulary_of(source.tokenizer, source.name), source.tokenizer
        # Ids of the checkpoint by ids of the file; 1 is EOS where it is chosen, and 2 is BOS where it is read.
        by_bytes = {vocabulary.bytes_of(token): token for token in range(len(vocabulary.tokens))}
        special = [words.pad_token_id, words.eos_token_id, words.bos_token_id]
        self.of_checkpoint = special + [by_bytes[piece] for piece in self.tokenizer.pieces[len(special) :]]
        self.of_file = {token: place for place, token in enumerate(self.of_checkpoint)}

    def encode(self, text: str) -> list[int]:
        return [self.of_checkpoint[token] for token in self.tokenizer.encode(text)[1:]]

    @torch.inference_mode()
    def logits(self, ids: list[int]) -> np.ndarray:
        tokens = torch.tensor([[self.of_file[token] for token in ids]])
        in_order_of_file = self.model(tokens).logits[0].numpy()
        logits = np.empty_like(in_order_of_file)
        logits[:, self.of_checkpoint] = in_order_of_file
        return logits

    @torch.inference_mode()
    def greedy(self, ids: list[int], max_new_tokens: int) -> list[int]:
        new: list[int] = []
        unseen, past = [self.of_file[token] for token in ids], None
        while len(new) < max_new_tokens and BOS not in new:
            output = self.model(torch.tensor([unseen]), past_key_values=past, use_cache=True)
            past, unseen = output.past_key_values, [int(output.logits[0, -1].argmax())]
            new += unseen
        return [self.of_checkpoint[token] for token in new]
