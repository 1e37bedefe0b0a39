"""The data of a page: sizes, tokenizer, presets, and what the page checks itself with, as one JSON object."""

import zlib
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from transformers import DynamicCache, GenerationConfig, PreTrainedTokenizerBase

from modeling_tinystories import TinyStoriesForCausalLM
from tinystories.errors import UserError, one_line
from tinystories.exporting.page.tokenizer import encode, tokenizer_data
from tinystories.exporting.source import Source
from tinystories.generation.presets import DEFAULT_PRESET, PRESETS


SETTINGS = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0}  # where a preset has none
SIZES = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "rms_norm_eps"),
)
BOUNDS = {  # as those of the server
    "temperature": (0.1, 2.0),
    "top_k": (0, 100),
    "top_p": (0.1, 1.0),
    "repetition_penalty": (1.0, 2.0),
    "seed": (0, 2**53 - 1),
}
LONGEST_PROMPT = 2048  # characters, or more where the context is long
MOST_TOKENS = 200  # of a story, until the user says something else
LARGEST_WEIGHTS = 2**31  # bytes: what browsers give one page is not much more
CHECKED_TOKENS = 64
CHECKED_PROMPTS = ("Once upon a time", "One day, a little girl", "The")
# Between the two likeliest tokens, in logits: far above the rounding of float32, which differs by the order of sums.
SMALLEST_GAP = 1e-3
CHECKED_TEXTS = (
    'Once upon a time, there was a fox. \n\n"Mother," it SAID, "it\'s 12:30! I CAN\'T sleep."',
    " \t leading,  double   and trailing space \u00a0\u3000\u0085\ufeff \n \r\n",
    "na\u00efve cafe\u0301 \u0928\u092e\u0938\u094d\u0924\u0947 \u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35 \u4f60\u597d",
    "\u0663 \u0627\u0644\u0633\u0644\u0627\u0645 \U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea \u00bd\u216b",
    "<|eos|><|bos|></script><!-- \\ & &amp; \u2028",
)


def contents(source: Source, weights: bytes) -> dict[str, Any]:
    """weights: the file that the page reads them from."""
    model = source.model
    return {
        "info": info(source),
        "config": network_config(model),
        "tokenizer": tokenizer_data(source.tokenizer),
        "end_tokens": sorted(end_tokens(model, source.tokenizer)),
        "weights": {"bytes": len(weights), "crc32": zlib.crc32(weights)},
        "check": self_check(source),
    }


def info(source: Source) -> dict[str, Any]:
    """What the page shows, as the server's /api/info."""
    presets = presets_of(source)
    context = source.model.config.max_position_embeddings
    bounds: dict[str, tuple[float, float]] = {
        name: (
            min(low, *(preset.get(name, low) for preset in presets.values())),
            max(high, *(preset.get(name, high) for preset in presets.values())),
        )
        for name, (low, high) in BOUNDS.items()
    }
    most = source.model.generation_config.max_new_tokens or MOST_TOKENS
    return {
        "model": source.title,
        "models": [{"id": source.title, "step": None}],
        "parameters": source.model.num_parameters(),
        "default_preset": DEFAULT_PRESET,
        "presets": presets,
        "bounds": {"prompt": (1, max(LONGEST_PROMPT, 8 * context)), "max_tokens": (1, context), **bounds},
        "defaults": {"max_tokens": min(most, MOST_TOKENS, context)},
    }


def presets_of(source: Source) -> dict[str, dict[str, float]]:
    """The presets in the checkpoint's generation_config_NAME.json; those of this version where it has none."""
    found = {}
    for name, settings in PRESETS.items():
        file = f"generation_config_{name}.json"
        if not (source.folder / file).exists():
            found[name] = settings
            continue
        try:
            config = GenerationConfig.from_pretrained(source.folder, file)
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{source.folder / file} cannot be read: {one_line(error)}") from error
        found[name] = {key: value_of(config, key, source.folder / file) for key in SETTINGS}
    return found


def value_of(config: GenerationConfig, key: str, file: Path) -> float:
    """A setting of a preset; a `UserError` if no story can be sampled with it, such as a temperature of 0."""
    value = getattr(config, key)
    value = SETTINGS[key] if value is None else value
    good = isinstance(value, int | float) and (0 if key == "top_k" else 1e-6) <= value < 1e6
    if not good or (key == "top_p" and value > 1):
        raise UserError(f"{file}: {key} is {value!r}, with which no story can be sampled", "correct it")
    return int(value) if key == "top_k" else value


def network_config(model: TinyStoriesForCausalLM) -> dict[str, Any]:
    """Sizes as in config.json; the frequencies of the rotary embedding as the model has computed them."""
    rotary = model.model.rotary_emb
    return {name: getattr(model.config, name) for name in SIZES} | {
        "context": model.config.max_position_embeddings,
        "tied": model.config.tie_word_embeddings,
        "inverse_frequencies": rotary.inv_freq.tolist(),
        "attention_scaling": rotary.attention_scaling,
    }


def end_tokens(model: TinyStoriesForCausalLM, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The tokens that end a story, wherever they are named."""
    generation = model.generation_config
    named = (generation.eos_token_id if generation else None, model.config.eos_token_id, tokenizer.eos_token_id)
    return set(chain(*(ids if isinstance(ids, list) else [ids] for ids in named))) - {None}


def check_network(source: Source) -> None:
    """Raises UserError: a network that the page does not compute."""
    config = source.model.config
    if config.hidden_act != "silu":
        raise UserError(f"{source.name}: hidden_act is {config.hidden_act!r}, and a page computes silu only")
    kind = config.rope_parameters["rope_type"] if config.rope_parameters else "default"
    if kind in ("dynamic", "longrope"):
        raise UserError(
            f"{source.name}: rope_type is {kind!r}, and in a page the frequencies are the same at every length"
        )
    size = 4 * source.model.num_parameters()
    if size > LARGEST_WEIGHTS:
        raise UserError(f"{source.name}: its weights take {size / 2**30:.1f} GiB, and a browser gives a page 2 GiB")


def self_check(source: Source) -> dict[str, Any]:
    """Some texts and their ids, and what the checkpoint writes first: the page computes both when it is opened."""
    tokenizer = source.tokenizer
    texts = [{"text": text, "ids": encode(tokenizer, text)} for text in CHECKED_TEXTS]
    context = source.model.config.max_position_embeddings
    beginnings = [
        [*tokenizer("")["input_ids"], *encode(tokenizer, prompt)][: max(1, context // 2)] for prompt in CHECKED_PROMPTS
    ]
    ends = end_tokens(source.model, tokenizer)
    tokens: list[int] = []
    prompt = beginnings[0]
    for ids in beginnings:
        found = certain_tokens(source.model, ids, min(CHECKED_TOKENS, context - len(ids)), ends)
        if len(found) > len(tokens):
            tokens, prompt = found, ids
    return {"texts": texts, "prompt": prompt, "tokens": tokens}


def certain_tokens(model: TinyStoriesForCausalLM, ids: list[int], most: int, ends: set[int]) -> list[int]:
    """The likeliest tokens after `ids`: up to the end of the story, `most`, or a token that rounding could change."""
    found: list[int] = []
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        while len(found) < most:
            new = torch.tensor([ids if not found else found[-1:]])
            logits = model(new, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[0, -1]
            (first, second), (token, _) = logits.topk(2)
            if first - second < SMALLEST_GAP:
                break
            found.append(int(token))
            if found[-1] in ends:
                break
    return found
