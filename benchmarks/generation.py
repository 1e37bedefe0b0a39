"""How fast one story is written: the decoder of this project beside `generate`, onnxruntime and llama.cpp.

    python benchmarks/generation.py --model demo=runs/demo --model story=runs/tinystories-cpu --write

1. Tokens per second at batch 1 for networks of the recipes' sizes: a --model where one has them, else random weights
   (how many guesses of the decoder are right depends on the weights). From the prompt to the last token, the first one
   included. All programs have the same number of threads, and write one story each in turn; medians over the rounds.
   llama.cpp only where llama-cpp-python is installed.
2. Greedy and sampled text of each --model after beginnings of the sample corpus: the same tokens as `generate`.
3. Processor seconds of run_generation.py until its first token, for each size.

About six minutes; --quick is one of the smallest size in seconds. --write: docs/results/generation.json.
"""

import argparse
import json
import os
import random
import statistics
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from tqdm import tqdm
from transformers import CompileConfig, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase


sys.path.insert(0, str(Path(__file__).parent.parent))

from tinystories.checkpoint.loading import load_checkpoint, new_model
from tinystories.config.keys import TokenizerArguments
from tinystories.config.packaged import find_recipe
from tinystories.config.recipe import read_recipe
from tinystories.data.sample_corpus import sample_stories
from tinystories.data.tokenizer import train_tokenizer
from tinystories.exporting.formats import FORMATS
from tinystories.exporting.llama_cpp_readers import has_llama_cpp
from tinystories.exporting.proof import Reader
from tinystories.exporting.run import module_of
from tinystories.exporting.source import open_source
from tinystories.generation.decoder import Decoder
from tinystories.generation.presets import PRESETS
from tinystories.generation.sampler import GREEDY, Sampler, Settings
from tinystories.generation.story import continue_story
from tinystories.provenance import Stopwatch, hash_files, provenance


ROOT = Path(__file__).parent.parent
RECORD = ROOT / "docs" / "results" / "generation.json"
LIBRARIES = ("onnx", "onnxruntime", "llama-cpp-python")
RECIPES = {"1M": "tinystories-1m", "5.9M": "tinystories-cpu", "24.6M": "tinystories-24m"}
GOALS = {"1M": 5.0, "5.9M": 5.0, "24.6M": 3.0}
LLAMA_CPP_GOAL, START_GOAL = 2.5, 3.0
PROMPT_TOKENS, NEW_TOKENS = 8, 160
IDENTICAL_PROMPTS, IDENTICAL_TOKENS = 300, 40
SAMPLED = Settings(**PRESETS["balanced"])

OURS, OURS_GREEDY, NO_GUESSES = "this project, sampled", "this project, greedy", "this project, greedy, without guesses"
GENERATE, GENERATE_GREEDY = "generate, sampled", "generate, greedy"
STATIC, ONNX, LLAMA_CPP = "generate, static cache, compiled", "onnxruntime, exported file", "llama.cpp, F32"

Writer = Callable[[list[int], int, int], list[int]]  # prompt, number of new tokens, seed -> new tokens


def by_generate(model: PreTrainedModel, settings: Settings, end: int | None, **options: Any) -> Writer:
    fields = {"do_sample": settings.temperature > 0, "repetition_penalty": settings.repetition_penalty}
    if fields["do_sample"]:
        fields |= {"temperature": settings.temperature, "top_k": settings.top_k, "top_p": settings.top_p}

    def write(prompt: list[int], number: int, seed: int) -> list[int]:
        config = GenerationConfig(max_new_tokens=number, eos_token_id=end, pad_token_id=0, **fields, **options)
        torch.manual_seed(seed)
        ids = torch.tensor([prompt])
        written = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
        return written[0, len(prompt) :].tolist()

    return write


def by_decoder(decoder: Decoder, settings: Settings, end: int | None) -> Writer:
    def write(prompt: list[int], number: int, seed: int) -> list[int]:
        return list(continue_story(decoder, prompt, Sampler(settings, seed), {end}, number))

    return write


def compiled(model: PreTrainedModel) -> Writer | None:
    """As `generate` compiles a step by itself; None, with a line on stderr, where there is no compiler."""
    config = CompileConfig(fullgraph=False, dynamic=False, mode=None)
    config._compile_all_devices = True  # `generate` does it on GPUs only, unless it is told so
    options = {"cache_implementation": "static", "compile_config": config}
    write = by_generate(deepcopy(model), GREEDY, None, **options)
    try:
        write(list(range(PROMPT_TOKENS)), NEW_TOKENS, 0)
    except Exception as error:
        print(f"not measured: {STATIC}: {str(error).splitlines()[0]}", file=sys.stderr)
        return None
    return write


def checkpoint_of(recipe: str, folder: Path) -> Path:
    """A network of the recipe's size with random weights, and a tokenizer of random words for its vocabulary."""
    settings = read_recipe([str(find_recipe(recipe))])
    dice = random.Random(0)
    words = ["".join(dice.choices(string.ascii_lowercase, k=7)) for _ in range(8000)]
    stories = [" ".join(dice.choices(words, k=80)) for _ in range(600)]
    arguments = TokenizerArguments(vocab_size=settings.tokenizer.vocab_size)
    tokenizer = train_tokenizer(datasets.Dataset.from_dict({"text": stories}), arguments)
    if len(tokenizer) != arguments.vocab_size:
        raise ValueError(f"the random words give {len(tokenizer)} tokens, not {arguments.vocab_size}")
    torch.manual_seed(0)
    model = new_model(settings.model, tokenizer, settings.data.block_size)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def trained_of(recipe: str, models: dict[str, str]) -> Path | None:
    """The first of the trained models that has the recipe's sizes."""
    wanted, names = read_recipe([str(find_recipe(recipe))]).model, ("hidden_size", "intermediate_size")
    for folder in models.values():
        config = load_checkpoint(folder)[0].config
        if all(getattr(config, name) == getattr(wanted, name) for name in (*names, "num_hidden_layers")):
            return Path(folder)
    return None


def writers(checkpoint: Path, folder: Path, threads: int, opened: ExitStack) -> tuple[dict[str, Writer], int]:
    """Every program that is installed, and the number of parameters. opened: closes their files at the end."""
    source = open_source(str(checkpoint))
    decoder, plain = (Decoder.from_folder(checkpoint, threads=threads) for _ in range(2))
    plain.can_guess = plain.may_guess = False
    found: dict[str, Writer | None] = {
        OURS: by_decoder(decoder, SAMPLED, None),
        OURS_GREEDY: by_decoder(decoder, GREEDY, None),
        NO_GUESSES: by_decoder(plain, GREEDY, None),
        GENERATE: by_generate(source.model, SAMPLED, None),
        GENERATE_GREEDY: by_generate(source.model, GREEDY, None),
        STATIC: compiled(source.model),
    }
    for name in ("llama", "onnx", *(["gguf"] if has_llama_cpp() else [])):
        target = folder / FORMATS[name]
        target.mkdir(exist_ok=True, parents=True)
        module_of(name).write(source, target)
        readers = opened.enter_context(closing(module_of(name).readers(source, target)))
        kind = {"onnx": ("onnxruntime", ONNX), "gguf": ("llama.cpp", LLAMA_CPP)}.get(name)
        for reader in readers if kind else ():
            if reader.exact and reader.name.startswith(kind[0]):
                found[kind[1]] = partial(_greedy, reader)
                break
    return {name: write for name, write in found.items() if write}, source.model.num_parameters()


def _greedy(reader: Reader, prompt: list[int], number: int, seed: int) -> list[int]:
    return reader.greedy(prompt, number)


def prompts_of(checkpoint: Path, number: int) -> list[list[int]]:
    """Beginnings of stories, of `PROMPT_TOKENS` tokens."""
    tokenizer = load_checkpoint(str(checkpoint))[1]
    return [tokenizer(story)["input_ids"][:PROMPT_TOKENS] for story in sample_stories(number, seed=2)]


def speeds(found: dict[str, Writer], prompts: list[list[int]]) -> dict[str, list[float]]:
    """Tokens/s of each program in each round. The round before the first warms up."""
    rates: dict[str, list[float]] = {name: [] for name in found}
    for number, prompt in enumerate(tqdm(prompts, desc="rounds", leave=False), -1):
        for name, write in found.items():
            start = time.perf_counter()
            written = len(write(prompt, NEW_TOKENS, number + 1))
            if number >= 0:
                rates[name].append(written / (time.perf_counter() - start))
    return rates


def identical(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: int, threads: int) -> dict[str, Any]:
    """How many of the continuations are the tokens of `generate`, greedy and sampled."""
    decoder, end = Decoder.from_model(model, threads=threads), tokenizer.eos_token_id
    dice, stories = random.Random(0), sample_stories(prompts, seed=1)
    beginnings = [tokenizer(story)["input_ids"][: dice.randint(2, 60)] for story in stories]
    found: dict[str, Any] = {"prompts": prompts, "tokens": 0}
    for kind, settings in (("greedy", GREEDY), ("sampled", SAMPLED)):
        ours, theirs = by_decoder(decoder, settings, end), by_generate(model, settings, end)
        equal = []
        for seed, prompt in enumerate(tqdm(beginnings, desc=kind, leave=False)):
            written = theirs(prompt, IDENTICAL_TOKENS, seed)
            found["tokens"] += len(written)
            equal.append(ours(prompt, IDENTICAL_TOKENS, seed) == written)
        found[kind] = sum(equal)
    return found


def start_seconds(checkpoint: Path, rounds: int) -> list[float]:
    """Processor seconds of run_generation.py for one token, of the process and its children."""
    seconds = []
    command = [sys.executable, str(ROOT / "run_generation.py"), str(checkpoint), "Once", "--max_new_tokens", "1"]
    for _ in range(rounds):
        before = os.times()
        subprocess.run(command, check=True, capture_output=True)
        after = os.times()
        seconds.append(after[2] + after[3] - before[2] - before[3])
    return seconds


def read_bandwidth() -> float:
    """GB/s at which one thread reads memory: a float32 array larger than the caches, summed by numpy."""
    array, seconds = np.ones(100_000_000, dtype=np.float32), []
    for _ in range(5):
        start = time.perf_counter()
        array.sum()
        seconds.append(time.perf_counter() - start)
    return 4 * len(array) / min(seconds) / 1e9


def ratio(above: list[float], below: list[float]) -> dict[str, float]:
    """Ratio of the medians; low and high: of the values of the same round, which had the same machine."""
    each = [one / other for one, other in zip(above, below, strict=True)]
    return {
        "ratio": round(statistics.median(above) / statistics.median(below), 3),
        "low": round(min(each), 3),
        "high": round(max(each), 3),
    }


def goals_of(sizes: dict[str, Any], texts: dict[str, Any]) -> list[dict[str, Any]]:
    goals = []
    for size, found in sizes.items():
        rates = found["tokens_per_second"]
        text = f"story at {size} parameters, batch 1"
        goals.append(
            {"goal": f"{text}: times `generate`", "at_least": GOALS[size], **ratio(rates[OURS], rates[GENERATE])}
        )
        if LLAMA_CPP in rates:
            goal = {"goal": f"{text}, greedy: llama.cpp's speed divided by ours", "at_most": LLAMA_CPP_GOAL}
            goals.append(goal | ratio(rates[LLAMA_CPP], rates[OURS_GREEDY]))
        seconds = found["start_processor_seconds"]
        values = {"ratio": statistics.median(seconds), "low": min(seconds), "high": max(seconds)}
        rounded = {name: round(value, 3) for name, value in values.items()}
        goals.append({"goal": f"start at {size} parameters, processor seconds", "at_most": START_GOAL, **rounded})
    for name, found in texts.items():
        for kind in ("greedy", "sampled"):
            share = round(found[kind] / found["prompts"], 4)
            goal = {"goal": f"{kind} text of {name} as `generate` writes it: share of prompts", "at_least": 1.0}
            goals.append(goal | {"ratio": share, "low": share, "high": share})
    return goals


def tables_of(sizes: dict[str, Any], texts: dict[str, Any]) -> list[dict[str, Any]]:
    programs = list(dict.fromkeys(name for found in sizes.values() for name in found["tokens_per_second"]))
    rows = []
    for name in programs:
        each = [found["tokens_per_second"].get(name) for found in sizes.values()]
        rows.append([name, *(round(statistics.median(rates)) if rates else "-" for rates in each)])
    gigabytes = [
        round(4e-9 * found["parameters"] * statistics.median(found["tokens_per_second"][NO_GUESSES]), 1)
        for found in sizes.values()
    ]
    starts = [round(statistics.median(found["start_processor_seconds"]), 2) for found in sizes.values()]
    figures = [
        ["weights", *(found["weights"] for found in sizes.values())],
        ["weights read by this project, greedy, without guesses, GB/s", *gigabytes],
        ["processor seconds of run_generation.py for one token", *starts],
    ]
    same = [[name, found["prompts"], found["greedy"], found["sampled"]] for name, found in texts.items()]
    return [
        {
            "title": "Tokens per second of one story, the first one included",
            "columns": ["program", *sizes],
            "rows": rows,
        },
        {"title": "What that takes", "columns": ["figure", *sizes], "rows": figures},
        {
            "title": "Continuations with the tokens of `generate`",
            "columns": ["model", "prompts", "greedy", "sampled"],
            "rows": same,
        },
    ]


def measure(given: argparse.Namespace) -> dict[str, Any]:
    began = Stopwatch()
    torch.set_num_threads(given.threads)
    os.environ["OMP_NUM_THREADS"] = str(given.threads)  # of run_generation.py
    sizes: dict[str, Any] = {}
    for size in ["1M"] if given.quick else RECIPES:
        with tempfile.TemporaryDirectory() as temporary, ExitStack() as opened:
            checkpoint = trained_of(RECIPES[size], given.model)
            weights = "random" if checkpoint is None else "trained"
            checkpoint = checkpoint or checkpoint_of(RECIPES[size], Path(temporary) / "checkpoint")
            found, parameters = writers(checkpoint, Path(temporary) / "exported", given.threads, opened)
            sizes[size] = {
                "parameters": parameters,
                "weights": weights,
                "tokens_per_second": speeds(found, prompts_of(checkpoint, 1 + (3 if given.quick else given.rounds))),
                "start_processor_seconds": start_seconds(checkpoint, 2 if given.quick else 5),
            }
            medians = {name: round(statistics.median(v)) for name, v in sizes[size]["tokens_per_second"].items()}
            print(size, medians, sizes[size]["start_processor_seconds"], file=sys.stderr)
    texts, data = {}, {}
    for name, folder in given.model.items():
        prompts = 10 if given.quick else IDENTICAL_PROMPTS
        texts[name] = identical(*load_checkpoint(folder), prompts, given.threads)
        print(name, texts[name], file=sys.stderr)
        data[name] = {"source": Path(folder).name, **hash_files(sorted(Path(folder).glob("*.safetensors")))}
    return {
        "provenance": provenance(began, [0], data, LIBRARIES),
        "threads": given.threads,
        "prompt_tokens": PROMPT_TOKENS,
        "new_tokens": NEW_TOKENS,
        "sizes": sizes,
        "texts": texts,
        "read_bandwidth_gb_per_second": round(read_bandwidth(), 1),
        "tables": tables_of(sizes, texts),
        "goals": goals_of(sizes, texts),
        "did_not_help": [],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", default=[], metavar="NAME=FOLDER", help="a trained checkpoint")
    parser.add_argument("--threads", type=int, default=1, help="of every program")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="the smallest size alone, few rounds and prompts")
    parser.add_argument("--write", action="store_true", help="write docs/results/generation.json")
    given = parser.parse_args()
    given.model = dict(word.split("=", 1) for word in given.model)
    record = measure(given)
    print(json.dumps({name: record[name] for name in ("tables", "goals")}, indent=2))
    if given.write:
        RECORD.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
