"""Write a story with a checkpoint: streams to the terminal and stops where the story ends.

    python run_generation.py runs/demo "Once upon a time"
    python run_generation.py runs/demo "One day, a fox" --preset creative --seed 7 --output_file story.json

CHECKPOINT is a folder or a Hub id. It ends early, with exit status 0, when nobody reads what it prints any more
(`| head -c 100`) and no --output_file is named. The presets are those of tinystories/generation/presets.py; single
settings override them.
"""

import argparse
import time
from typing import Any

from tinystories.config.parser import StrictParser
from tinystories.console import check_printed, program_name
from tinystories.errors import UserError
from tinystories.generation.presets import DEFAULT_PRESET, PRESETS
from tinystories.output_file import check_output_file, write_output_file
from tinystories.streams import reader_is_gone


def main(argv: list[str]) -> None:
    generate(parse(argv))


def generate(arguments: argparse.Namespace) -> None:
    import torch  # these take seconds, and a command line that is not understood does not need them
    from transformers import TextStreamer

    from tinystories.checkpoint.loading import load_checkpoint
    from tinystories.generation.presets import generation_config
    from tinystories.generation.sample import check_prompt

    device = arguments.device or (torch.accelerator.current_accelerator() or torch.device("cpu"))
    model, tokenizer = load_checkpoint(arguments.checkpoint, device, arguments.revision)
    check_prompt(arguments.prompt, tokenizer, model.config.max_position_embeddings)
    inputs = tokenizer(arguments.prompt, return_tensors="pt").to(model.device)
    prompt_length = inputs["input_ids"].shape[1]
    room = model.config.max_position_embeddings - prompt_length
    config = generation_config(tokenizer, min(arguments.max_new_tokens, room), arguments.preset)
    for name in ("temperature", "top_k", "top_p", "repetition_penalty"):
        if getattr(arguments, name) is not None:
            setattr(config, name, getattr(arguments, name))
    if arguments.greedy:
        config.do_sample, config.temperature, config.top_k, config.top_p = False, 1.0, 50, 1.0
        config.repetition_penalty = arguments.repetition_penalty or 1.0

    def nobody_reads(ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return torch.full((len(ids),), not arguments.output_file and reader_is_gone(), device=ids.device)

    if arguments.seed is not None:
        torch.manual_seed(arguments.seed)
    start = time.perf_counter()
    ids = model.generate(  # type: ignore[operator]  # PreTrainedModel has none, its classes for causal models do
        **inputs,
        generation_config=config,
        streamer=TextStreamer(tokenizer, skip_special_tokens=True),
        stopping_criteria=[nobody_reads],
    )[0]
    seconds = time.perf_counter() - start
    new_tokens = len(ids) - prompt_length
    ended = ids[-1].item() == tokenizer.eos_token_id
    print(
        f"[{new_tokens} new tokens in {seconds:.2f} s, {new_tokens / seconds:.1f} tokens/s; "
        f"{'the story ended' if ended else 'stopped at the limit of tokens'}]"
    )
    if arguments.output_file:
        result = {
            "checkpoint": arguments.checkpoint,
            "prompt": arguments.prompt,
            "text": tokenizer.decode(ids, skip_special_tokens=True),
            "finish_reason": "stop" if ended else "length",
            "new_tokens": new_tokens,
            "seconds": seconds,
            "seed": arguments.seed,
            "generation_config": config.to_diff_dict(),
        }
        write_output_file(arguments.output_file, result)
    else:
        check_printed()


def parse(argv: list[str]) -> argparse.Namespace:
    parser = StrictParser((), prog=program_name("generate"), description="Write a story with a checkpoint.")
    parser.add_argument("checkpoint", help="folder or Hub id")
    parser.add_argument("prompt", help="how the story begins")
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
    return arguments
