"""Write a story with a checkpoint: streams to the terminal and stops where the story ends.

    python run_generation.py "Once upon a time"
    python run_generation.py runs/demo "Once upon a time"
    python run_generation.py runs/demo "One day, a fox" --preset creative --seed 7 --output_file story.json

CHECKPOINT is a folder, a Hub id, or `boxed`, the model that comes with the package. A prompt alone is continued by that
model. It has at least two words and no slash, and no file has its name: anything else may be a mistyped checkpoint.

The command ends early, with exit status 0, when nobody reads what it prints any more (`| head -c 100`) and no
--output_file is named. The presets are those of tinystories/generation/presets.py; single settings override them.
"""

import argparse
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from tinystories.config.familiar import WRITE
from tinystories.config.packaged import BOXED, find_checkpoint
from tinystories.config.parser import StrictParser
from tinystories.console import check_printed, command_name, program_name, shell_line
from tinystories.errors import UserError
from tinystories.generation.presets import DEFAULT_PRESET, PRESETS
from tinystories.output_file import check_output_file, write_output_file
from tinystories.streams import reader_is_gone


if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from tinystories.generation.decoder import Decoder
    from tinystories.generation.sampler import Settings


def main(argv: list[str]) -> None:
    generate(parse(argv))


def generate(arguments: argparse.Namespace) -> None:
    writer = _open(arguments)  # imports what takes seconds: a command line that is not understood does not need it
    from tinystories.generation.story import check_room

    prompt = writer.encode(arguments.prompt)
    check_room(len(prompt), writer.context)
    settings, limit = _settings(arguments), min(arguments.max_new_tokens, writer.context - len(prompt))
    seed = secrets.randbits(32) if arguments.seed is None else arguments.seed

    def nobody_reads() -> bool:
        return not arguments.output_file and reader_is_gone()

    start = time.perf_counter()
    new = writer.write(prompt, settings, limit, seed, nobody_reads)
    seconds = time.perf_counter() - start
    ended = new[-1] == writer.end
    print(
        f"[{len(new)} new tokens in {seconds:.2f} s, {len(new) / seconds:.1f} tokens/s; "
        f"{'the story ended' if ended else 'stopped at the limit of tokens'}{_by(arguments)}]"
    )
    if arguments.output_file:
        result = {
            "checkpoint": arguments.checkpoint,
            "prompt": arguments.prompt,
            "text": writer.decode([*prompt, *new]),
            "finish_reason": "stop" if ended else "length",
            "new_tokens": len(new),
            "seconds": seconds,
            "seed": seed,
            "generation_config": _as_config(settings, limit, writer.end),
        }
        write_output_file(arguments.output_file, result)
    else:
        check_printed()


def _by(arguments: argparse.Namespace) -> str:
    """Which model wrote, where the command line does not say it."""
    return "; by the boxed model" if arguments.folder == str(BOXED) else ""


def _settings(arguments: argparse.Namespace) -> "Settings":
    from tinystories.generation.sampler import GREEDY, Settings

    names = ("repetition_penalty",) if arguments.greedy else tuple(PRESETS[arguments.preset])
    given = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    return replace(GREEDY if arguments.greedy else Settings(**PRESETS[arguments.preset]), **given)


def _as_config(settings: "Settings", limit: int, end: int) -> dict[str, Any]:
    """Fields of a `GenerationConfig`."""
    fields = {"do_sample": settings.temperature > 0, "max_new_tokens": limit, "eos_token_id": end}
    if settings.temperature == 0:
        return fields | {"repetition_penalty": settings.repetition_penalty}
    return fields | asdict(settings)


def _has_accelerator() -> bool:
    """Only torch knows, whose build for the CPU alone is recognized without importing it."""
    if version("torch").endswith("+cpu"):
        return False
    import torch

    return torch.accelerator.current_accelerator() is not None


def _open(arguments: argparse.Namespace) -> "_WithDecoder | _WithGenerate":
    """Without transformers and torch where nothing needs them: their imports take longer than a story."""
    from tinystories.checkpoint.quick import open_quickly

    small = arguments.folder == str(BOXED)  # it writes a story sooner than torch is imported
    on_cpu = arguments.device == "cpu" or (arguments.device is None and (small or not _has_accelerator()))
    if on_cpu and not arguments.revision and (quick := open_quickly(arguments.folder)):
        return _WithDecoder(quick.decoder, quick.tokenizer, quick.end)
    import torch

    from tinystories.checkpoint.loading import load_checkpoint
    from tinystories.generation.sample import decoder_of

    device = arguments.device or (torch.accelerator.current_accelerator() or torch.device("cpu"))
    model, tokenizer = load_checkpoint(arguments.folder, device, arguments.revision)
    decoder, end = decoder_of(model), tokenizer.eos_token_id
    if decoder is None:
        return _WithGenerate(model, tokenizer, end)
    return _WithDecoder(decoder, tokenizer.backend_tokenizer, end, lambda text: tokenizer(text)["input_ids"])


@dataclass
class _WithDecoder:
    """A network of this project on the CPU. `encode` where the tokenizer itself is set up otherwise."""

    decoder: "Decoder"
    tokenizer: "Tokenizer"
    end: int
    encoded: Callable[[str], list[int]] | None = None

    @property
    def context(self) -> int:
        return self.decoder.context

    def encode(self, text: str) -> list[int]:
        return self.encoded(text) if self.encoded else self.tokenizer.encode(text).ids

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def write(
        self, prompt: list[int], settings: "Settings", limit: int, seed: int, stop: Callable[[], bool]
    ) -> list[int]:
        """Prints prompt and continuation, characters as soon as they are complete; returns the new tokens."""
        from tokenizers.decoders import DecodeStream

        from tinystories.generation.sampler import Sampler
        from tinystories.generation.story import continue_story

        printed = self.decode(prompt)
        print(printed, end="", flush=True)
        stream, new = DecodeStream(prompt, skip_special_tokens=True), list[int]()
        for token in continue_story(self.decoder, prompt, Sampler(settings, seed), {self.end}, limit):
            new.append(token)
            if piece := stream.step(self.tokenizer, token):
                printed += piece
                print(piece, end="", flush=True)
            if stop():
                break
        whole = self.decode([*prompt, *new])
        print(whole[len(printed) :] if whole.startswith(printed) else "")  # bytes that are no whole character
        return new


@dataclass
class _WithGenerate:
    """Any other model."""

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    end: int

    @property
    def context(self) -> int:
        context: int = self.model.config.max_position_embeddings
        return context

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text)["input_ids"]
        return ids

    def decode(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def write(
        self, prompt: list[int], settings: "Settings", limit: int, seed: int, stop: Callable[[], bool]
    ) -> list[int]:
        import torch
        from transformers import GenerationConfig, TextStreamer

        def stopped(ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
            return torch.full((len(ids),), stop(), device=ids.device)

        pad = self.tokenizer.pad_token_id
        config = GenerationConfig(**_as_config(settings, limit, self.end), pad_token_id=pad)
        inputs = torch.tensor([prompt], device=self.model.device)
        torch.manual_seed(seed)
        ids: list[int] = self.model.generate(  # type: ignore[operator]  # classes for causal models have it
            inputs,
            attention_mask=torch.ones_like(inputs),
            generation_config=config,
            streamer=TextStreamer(self.tokenizer, skip_special_tokens=True),
            stopping_criteria=[stopped],
        )[0].tolist()
        return ids[len(prompt) :]


def parse(argv: list[str]) -> argparse.Namespace:
    parser = StrictParser(
        (),
        "generate",
        WRITE,
        prog=program_name("generate"),
        usage=f"{command_name('generate')} [CHECKPOINT] PROMPT [--key value ...]",
        description="Write a story with a checkpoint.",
    )
    for name, text in (
        ("checkpoint", f"folder, Hub id or {BOXED.name} (the default)"),
        ("prompt", "how the story begins"),
    ):
        parser.add_argument(name, help=text).required = False  # what a single one is: `_named`
    parser.add_argument("--revision", help="a branch, tag or commit of a Hub id")
    parser.add_argument("--preset", choices=PRESETS, default=DEFAULT_PRESET, help="sampling settings")
    parser.add_argument("--temperature", type=float, help="above 1: more random; below 1: less")
    parser.add_argument("--top_k", type=int, help="sample from the k likeliest tokens; 0: from all")
    parser.add_argument("--top_p", type=float, help="sample from the likeliest tokens that hold this probability")
    parser.add_argument("--repetition_penalty", type=float, help="above 1 punishes tokens already used")
    parser.add_argument("--greedy", action="store_true", help="always the likeliest token, without repetition penalty")
    parser.add_argument("--max_new_tokens", type=int, default=256, help="stop after this many tokens")
    parser.add_argument("--seed", type=int, help="the same seed writes the same story")
    parser.add_argument("--device", help="cpu, cuda, mps (default: the accelerator if there is one)")
    parser.add_argument("--output_file", help="write text, settings and counts to this JSON file")
    arguments = parser.parse_exactly(argv)
    bounds = {"temperature": (1e-3, 10), "top_k": (0, 10**6), "top_p": (1e-3, 1), "repetition_penalty": (0.1, 10)}
    for name, (low, high) in (bounds | {"max_new_tokens": (1, 10**6)}).items():
        value = getattr(arguments, name)
        if value is not None and not low <= value <= high:
            raise UserError(f"{name} must be between {low} and {high}, got {value}")
    if arguments.seed is not None and not 0 <= arguments.seed < 2**63:
        raise UserError(f"seed must be between 0 and {2**63 - 1}, got {arguments.seed}")
    check_output_file(arguments.output_file)
    return _named(arguments)


def _named(arguments: argparse.Namespace) -> argparse.Namespace:
    """The same with the `folder` to open (or Hub id); a word alone is the prompt, if it cannot be a checkpoint.

    Raises:
        UserError: it could be one.
    """
    if arguments.prompt is not None:
        arguments.folder = find_checkpoint(arguments.checkpoint)
        return arguments
    alone = arguments.checkpoint or ""
    if len(alone.split()) < 2 or "/" in alone or "\\" in alone or os.path.exists(alone):
        known = alone if alone.strip() else "Once upon a time"
        raise UserError(
            f"no prompt: {alone!r} may be the name of a checkpoint" if alone.strip() else "no prompt",
            f"{shell_line('generate', BOXED.name, known)} begins a story with it",
        )
    arguments.checkpoint, arguments.prompt, arguments.folder = BOXED.name, alone, str(BOXED)
    return arguments
