"""Programs that open GGUF files and did not write them: transformers, and llama.cpp where it is installed.

transformers reads the weights (`gguf_file=`) and passes over two things: the way texts are cut before the merges, and
that RoPE may rotate a part of each head. Both are taken from the file here.
"""

import io
from collections.abc import Sequence
from contextlib import redirect_stderr
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedTokenizerFast

from tinystories.errors import UserError, one_line
from tinystories.exporting.proof import greedy, logits_of


# How llama.cpp cuts a text, by the name in the file (src/llama-vocab.cpp, `llm_tokenizer_bpe`).
PATTERNS = {
    "gpt-2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "qwen35": r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}


class TransformersReader:
    """A `Reader` by transformers.

    exact: the file holds full precision. typed_special: "<|eos|>" in a text is the end of the story, not text.
    """

    name = "transformers"

    def __init__(self, path: Path, exact: bool, typed_special: bool = False):
        from gguf import GGUFReader

        self.file, self.exact = path.name, exact
        fields = GGUFReader(path).fields
        self.tokenizer = _tokenizer_of(fields, typed_special)
        end = _value(fields, "tokenizer.ggml.tokens")[_value(fields, "tokenizer.ggml.eos_token_id")]
        self._ends = PreTrainedTokenizerFast(tokenizer_object=self.tokenizer, eos_token=end, pad_token=end)
        with redirect_stderr(io.StringIO()):  # a progress bar for each file
            self.model = AutoModelForCausalLM.from_pretrained(
                path.parent, gguf_file=path.name, config=_config_of(path, fields), dtype=torch.float32
            ).eval()

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def logits(self, ids: list[int]) -> np.ndarray:
        return logits_of(self.model, ids)

    def greedy(self, ids: list[int], max_new_tokens: int) -> list[int]:
        return greedy(self.model, self._ends, ids, max_new_tokens)


def _value(fields: Any, key: str) -> Any:
    return fields[key].contents()


def _config_of(path: Path, fields: Any) -> PreTrainedConfig:
    """The configuration as transformers reads it, with the share of each head that RoPE rotates."""
    config: PreTrainedConfig = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    if config.model_type == "phi3":
        rotated, width = _value(fields, "phi3.rope.dimension_count"), _value(fields, "phi3.attention.key_length")
        config.rope_parameters["partial_rotary_factor"] = rotated / width
    return config


def _tokenizer_of(fields: Any, typed_special: bool) -> Tokenizer:
    """The tokenizer that the file describes."""
    from gguf import TokenType

    tokens = _value(fields, "tokenizer.ggml.tokens")
    kinds = _value(fields, "tokenizer.ggml.token_type")
    merges = [tuple(merge.split(" ")) for merge in _value(fields, "tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    cut = pre_tokenizers.Split(Regex(PATTERNS[_value(fields, "tokenizer.ggml.pre")]), behavior="isolated")
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, as_bytes])
    found = {TokenType.USER_DEFINED, TokenType.CONTROL} if typed_special else {TokenType.USER_DEFINED}
    in_text = [token for token, kind in zip(tokens, kinds, strict=True) if kind in found]
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in in_text])
    return tokenizer


def has_llama_cpp() -> bool:
    return find_spec("llama_cpp") is not None


def _library() -> Any:
    try:
        import llama_cpp
    except (ImportError, OSError, RuntimeError) as error:  # such as a C++ library that is not there
        raise UserError(
            f"llama-cpp-python is installed and cannot be imported ({one_line(error)})", "install it again or remove it"
        ) from error
    return llama_cpp


class LlamaCppReader:
    """A `Reader` by llama.cpp through llama-cpp-python; arguments as for `TransformersReader`.

    Greedy text ends where llama.cpp ends it by itself. In full precision its cache is float32 too; else float16, as
    users have it.
    """

    name = "llama.cpp"

    def __init__(self, path: Path, exact: bool, typed_special: bool = False):
        llama_cpp = _library()
        self.file, self.exact, self.typed_special = path.name, exact, typed_special
        cache = llama_cpp.GGML_TYPE_F32 if exact else llama_cpp.GGML_TYPE_F16
        try:
            with redirect_stderr(io.StringIO()):  # it warns of a context that it rounds up
                self._llama = llama_cpp.Llama(
                    str(path),
                    n_ctx=0,  # that of the file
                    n_threads=torch.get_num_threads(),
                    logits_all=True,
                    type_k=cache,
                    type_v=cache,
                    verbose=False,
                )
        except ValueError as error:
            raise UserError(
                f"the llama.cpp that is installed cannot open {path.name}, whose tokenizer it may not know yet",
                "update llama-cpp-python, or remove it: then the export is compared by transformers alone",
            ) from error
        self._is_end = lambda token: llama_cpp.llama_vocab_is_eog(self._llama._model.vocab, token)

    def __enter__(self) -> "LlamaCppReader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._llama.close()

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._llama.tokenize(text.encode(), add_bos=False, special=self.typed_special)
        return ids

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        self._llama.reset()
        self._llama.eval(ids)
        return self._llama.scores[: len(ids)].copy()

    def greedy(self, ids: list[int], max_new_tokens: int) -> list[int]:
        self._llama.reset()
        new: list[int] = []
        unseen = ids
        while len(new) < max_new_tokens and not (new and self._is_end(new[-1])):
            self._llama.eval(unseen)
            unseen = [int(self._llama.scores[self._llama.n_tokens - 1].argmax())]
            new += unseen
        return new
