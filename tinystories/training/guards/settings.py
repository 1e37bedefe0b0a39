"""What a saved checkpoint says about writing: how stories are sampled, which token ends them, which code runs.

The files are read as they are on disk. What only a run can promise (its own presets, its own code) is in functions of
its own; the others hold for any checkpoint.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

import configuration_tinystories
import modeling_tinystories
from tinystories.errors import GuardError
from tinystories.evaluation.second_path import SecondPath, StoryTokens
from tinystories.generation.presets import DEFAULT_PRESET, PRESETS
from tinystories.random_state import keep_random_state


SPECIALS = ("bos", "eos", "pad")
# Outside of these no preset of this project writes stories: too hot, cut to a few words, or forbidden to repeat "the".
BOUNDS = {"temperature": (0.2, 1.3), "top_p": (0.5, 1.0), "top_k": (10, 1000), "repetition_penalty": (1.0, 1.5)}
OURS = {"do_sample", "use_cache", "max_new_tokens", "bos_token_id", "eos_token_id", "pad_token_id", *BOUNDS}
CUTS = ("max_length", "forced_eos_token_id", "stop_strings", "max_time", "suppress_tokens", "bad_words_ids")
STORY_TOKENS = 96
NEARLY_EQUAL = 1e-3  # difference of two logits in float32


def read_settings(folder: str | Path) -> dict[str, dict[str, Any]]:
    """The content of each generation_config*.json, by the name of the file."""
    paths = sorted(Path(folder).glob("generation_config*.json"))
    return {path.name: json.loads(path.read_text(encoding="utf-8")) for path in paths}


def check_specials(folder: str | Path, tokens: StoryTokens) -> str:
    """BOS, EOS and PAD are those of the tokenizer in config.json and in every generation config; the cache is used."""
    files = read_settings(folder)
    if "generation_config.json" not in files:
        raise GuardError(f"{folder} has no generation_config.json: `generate` would not know where a story ends")
    config = json.loads(Path(folder, "config.json").read_text(encoding="utf-8"))
    for name, content in {"config.json": config, **files}.items():
        for special in SPECIALS:
            found, expected = content.get(f"{special}_token_id"), tokens.ids[special]
            several = found if isinstance(found, list) else [found]
            if expected is not None and expected not in several:
                effect = ": no story would end" if special == "eos" else ""
                raise GuardError(
                    f"{name} has {special}_token_id {found}, and the tokenizer's {special.upper()} is token "
                    f"{expected}{effect}"
                )
        if content.get("use_cache", True) is not True:
            raise GuardError(f"{name} has use_cache {content['use_cache']}: every token would read the story again")
    return f"bos, eos, pad = {tuple(tokens.ids.values())} in {len(files) + 1} files"


def check_sampling(folder: str | Path) -> str:
    """Temperature and the rest are within bounds, and nothing but EOS and max_new_tokens ends a story."""
    for name, content in read_settings(folder).items():
        for key, (low, high) in BOUNDS.items():
            value = content.get(key)
            off = content.get("do_sample") is not True if key != "repetition_penalty" else False
            if value is not None and not off and not low <= value <= high and not (key == "top_k" and value == 0):
                raise GuardError(f"{name} has {key} {value}, outside of {low:g} to {high:g}: it does not write stories")
        for key in CUTS:
            if content.get(key) not in (None, []):
                raise GuardError(f"{name} has {key} {content[key]}, which ends or bends stories, beside EOS")
        if content.get("max_new_tokens", 1) < 1:
            raise GuardError(f"{name} has max_new_tokens {content['max_new_tokens']}")
    return f"{len(read_settings(folder))} presets within bounds"


def check_presets(folder: str | Path, context: int) -> str:
    """The generation configs on disk are the presets of this project and nothing else."""
    check_sampling(folder)
    files = read_settings(folder)
    for preset, settings in PRESETS.items():
        names = [f"generation_config_{preset}.json"]
        names += ["generation_config.json"] if preset == DEFAULT_PRESET else []
        expected = settings | {"do_sample": True, "use_cache": True, "max_new_tokens": max(1, context * 3 // 4)}
        for name in names:
            _check_preset(name, files.get(name), expected)
    heat = [PRESETS[preset]["temperature"] for preset in ("conservative", "balanced", "creative")]
    if sorted(set(heat)) != heat:
        raise GuardError(f"the temperatures of conservative, balanced and creative are {heat}: they must rise")
    return f"{len(files)} files are the presets {', '.join(PRESETS)}"


def _check_preset(name: str, content: dict[str, Any] | None, expected: dict[str, Any]) -> None:
    if content is None:
        raise GuardError(f"{name} was not saved")
    for key, value in expected.items():
        if content.get(key) != value:
            raise GuardError(f"{name} has {key} {content.get(key)}, and the run meant {value}")
    others = content.keys() - OURS - {"transformers_version", "_from_model_config"}
    changed = sorted(key for key in others if content[key] is not None)
    if changed:
        raise GuardError(f"{name} sets {changed[0]} to {content[changed[0]]}, which the run did not mean")


def check_code(folder: str | Path) -> str:
    """The two code files of a checkpoint are those of this project, byte by byte."""
    for module in (configuration_tinystories, modeling_tinystories):
        source = Path(str(module.__file__))
        copy = Path(folder, source.name)
        if not copy.exists():
            raise GuardError(f"{folder} has no {source.name}: it opens only where this project is installed")
        there, here = (path.read_bytes().replace(b"\r\n", b"\n") for path in (copy, source))
        if there != here:
            lines = zip(there.splitlines(), here.splitlines(), strict=False)
            at = next((i for i, pair in enumerate(lines, 1) if pair[0] != pair[1]), len(here.splitlines()))
            raise GuardError(
                f"{source.name} in the checkpoint is not this project's: they differ from line {at} on",
                "copy this project's file there, or use the version of the project that wrote the checkpoint",
            )
    return "two files equal to this project's"


def check_saved_tokenizer(tokens: StoryTokens, tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> str:
    """The saved tokenizer has the vocabulary of `tokenizer`, and makes of `texts` the same tokens and back."""
    if tokens.tokenizer.get_vocab() != tokenizer.get_vocab():
        raise GuardError("the tokenizer that was saved has another vocabulary than the one that was trained with")
    for text in texts:
        ids = [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        if tokens.encode(text) != ids or tokens.decode(ids[1:-1]) != text:
            raise GuardError(f"the tokenizer that was saved encodes or decodes {text[:40]!r} in another way")
    return f"saved as it was trained with ({len(texts)} stories)"


@torch.no_grad()
def check_story_ends(
    model: PreTrainedModel, network: SecondPath, tokens: StoryTokens, prompt: str, length: int = STORY_TOKENS
) -> str:
    """`generate`, with its cache, writes the likeliest tokens by the second path, and stops at the first EOS.

    A model that does not end its story within `length` tokens is not blamed for that.
    """
    eos, ids = tokens.ids["eos"], tokens.encode(prompt)[:-1]
    ids = ids[: max(1, network.context // 2)]
    new = min(length, network.context - len(ids))
    if new < 1 or eos is None:
        return "the context is too short to write"
    plain = {"do_sample": False, "temperature": 1.0, "top_p": 1.0, "top_k": 50, "repetition_penalty": 1.0}
    config = GenerationConfig(max_new_tokens=new, eos_token_id=model.generation_config.eos_token_id, **plain)
    config.pad_token_id = tokens.ids["pad"] if tokens.ids["pad"] is not None else eos
    inputs = torch.tensor([ids], device=model.device)
    with keep_random_state(model.device):
        written = model.generate(  # type: ignore[operator]  # of GenerationMixin
            inputs, attention_mask=torch.ones_like(inputs), generation_config=config
        )[0].tolist()
    logits = network.logits(written)
    for place in range(len(ids), len(written)):
        best, token = logits[place - 1].max(), written[place]
        if logits[place - 1][token] < best - NEARLY_EQUAL * max(1.0, np.abs(logits[place - 1]).max()):
            likeliest = tokens.decode([int(logits[place - 1].argmax())])
            raise GuardError(
                f"`generate` writes {tokens.decode([token])!r} as token {place}, and the likeliest one there is "
                f"{likeliest!r} when all tokens before it are read at once: its cache or its positions are wrong"
            )
    return _end_of(written, len(ids), new, eos, tokens)


def _end_of(written: list[int], begin: int, new: int, eos: int, tokens: StoryTokens) -> str:
    ended = written[-1] == eos
    if eos in written[begin:-1]:
        place = written.index(eos, begin)
        raise GuardError(f"`generate` did not stop at EOS (token {place}): it does not know that {eos} ends a story")
    if not ended and len(written) - begin < new:
        raise GuardError(f"`generate` stopped after {tokens.decode(written[-3:])!r}, which is not EOS")
    number = len(written) - begin
    return f"{number} tokens written, the likeliest each" + (", ended by EOS" if ended else "; no end within them")
