"""The tokenizer as data for tokenizer.js, and whether that computes the same ids."""

import json
from functools import cache
from itertools import chain, pairwise
from typing import Any

from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase

from tinystories.data.tokenizer import byte_level_pieces
from tinystories.errors import UserError
from tinystories.exporting.source import Source
from tinystories.exporting.vocabulary import OTHER_BPE


def tokenizer_data(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What tokenizer.js takes."""
    data = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary: dict[str, int] = data["model"]["vocab"]
    ids = vocabulary | {token["content"]: token["id"] for token in data["added_tokens"]}
    merges = (pair if isinstance(pair, list) else pair.split(" ") for pair in data["model"]["merges"])
    return {
        "tokens": [token for token, _ in sorted(ids.items(), key=lambda item: item[1])],
        "special": sorted(token["id"] for token in data["added_tokens"]),
        "merges": [vocabulary[part] for pair in merges for part in pair],
        "prefix": tokenizer("")["input_ids"],
        "pieces": known_pieces(data["pre_tokenizer"]),
        "classes": {name: character_ranges(rf"\p{{{name}}}") for name in "LMN"},
    }


def check_tokenizer(source: Source) -> None:
    """Raises UserError: a tokenizer that the page's own does not compute."""
    tokenizer = source.tokenizer
    data = json.loads(tokenizer.backend_tokenizer.to_str())
    model, vocabulary = data["model"], data["model"].get("vocab", {})
    ids = (
        {*vocabulary.values(), *(token["id"] for token in data["added_tokens"])}
        if isinstance(vocabulary, dict)
        else set()
    )
    reasons = {
        f"its model is {model['type']}": model["type"] != "BPE",
        "its BPE has options that only few tokenizers have": any(map(model.get, OTHER_BPE)),
        "it normalises texts": data["normalizer"] is not None,
        "it cuts texts in another way": known_pieces(data["pre_tokenizer"]) is None,
        "it has added tokens that are not special": not all(token["special"] for token in data["added_tokens"]),
        "it lacks some of the 256 bytes": not set(pre_tokenizers.ByteLevel.alphabet()) <= set(vocabulary),
        "the names of special tokens in a text are these tokens to it": not tokenizer.split_special_tokens,
        "its ids are not 0, 1, 2 and so on": ids != set(range(len(ids))),
        "it adds tokens after a text": tokenizer("a")["input_ids"]
        != tokenizer("")["input_ids"] + tokenizer("a", add_special_tokens=False)["input_ids"],
    }
    for reason, applies in reasons.items():
        if applies:
            raise UserError(
                f"{source.name}: a page cannot have this tokenizer: {reason}",
                "a page needs a byte-level BPE as this project trains it",
            )


def known_pieces(pre_tokenizer: dict[str, Any] | None) -> str | None:
    """The name by which tokenizer.js knows how a text is cut; None if it does not."""
    known = {"qwen35": byte_level_pieces(), "gpt2": pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)}
    for name, pieces in known.items():
        plain = Tokenizer(models.BPE())
        plain.pre_tokenizer = pieces
        if json.loads(plain.to_str())["pre_tokenizer"] == pre_tokenizer:
            return name
    return None


@cache
def character_ranges(pattern: str) -> list[int]:
    """The characters that `pattern` is to the tokenizers library, which has its own version of Unicode: for each range,
    the distance of its first from the last one of the range before, and its length - 1."""
    codes = [*range(0xD800), *range(0xE000, 0x110000)]
    text = "".join(map(chr, codes))
    others = pre_tokenizers.Split(Regex(pattern), behavior="removed").pre_tokenize_str(text)
    edges = [0, *chain.from_iterable(offsets for _, offsets in others), len(codes)]
    matched = [(edges[i], edges[i + 1]) for i in range(0, len(edges), 2)]
    ends = [0, *(codes[end - 1] for start, end in matched if start < end)]
    starts = [codes[start] for start, end in matched if start < end]
    return [
        number
        for start, (before, end) in zip(starts, pairwise(ends), strict=True)
        for number in (start - before, end - start)
    ]


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return ids
