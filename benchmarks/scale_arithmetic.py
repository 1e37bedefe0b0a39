"""What 1, 8 and 64 GPUs would need for two recipes: plain arithmetic, from two rates that are measured here.

    python benchmarks/scale_arithmetic.py            # about a minute
    python benchmarks/scale_arithmetic.py --quick    # some seconds; the record goes to a temporary file

Measured on this machine: how fast one process turns shards into rows (data/streaming.py), and how fast a checkpoint's
bytes reach the disk. Assumed: the peak of the GPU in its data sheet, and the share of it that the training reaches.
Nothing was measured on several GPUs. Writes docs/results/scale.json and the tables in docs/distributed.md.
"""

import argparse
import json
import math
import os
import re
import statistics
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

import torch


sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent))

from recipe_runs import TokenizerOfSize

from tinystories.checkpoint.loading import new_model
from tinystories.config.keys import DataArguments, TokenizerArguments
from tinystories.config.recipe import read_recipe
from tinystories.data.corpus import load_corpus
from tinystories.data.packing import pack
from tinystories.data.sample_corpus import sample_stories
from tinystories.data.streaming import StreamReader, stream_rows
from tinystories.data.tokenizer import train_tokenizer
from tinystories.provenance import Stopwatch, hash_texts, provenance
from tinystories.training.budget import ADAM_STATES, FLOAT32, checkpoint_bytes
from tinystories.training.environment import flops_per_token


ROOT = Path(__file__).parent.parent
RECORD, DOCUMENT = ROOT / "docs" / "results" / "scale.json", ROOT / "docs" / "distributed.md"
BLOCK = re.compile(r"(<!-- scale of a run: tables -->\n).*?(<!-- scale of a run: end -->)", re.DOTALL)
RECIPES = {"24.6M": "configs/tinystories-24m.yaml", "110M": "configs/ladder/tinystories-110m.yaml"}
GPUS = (1, 8, 64)
WORKERS = 2  # data workers of a process, as in both recipes, where they are enough
PEAK, REACHED = 989e12, 0.45  # bf16 FLOPS of an H100 SXM without sparsity, and the share of it that is aimed at
SCORED = json.loads((ROOT / "docs" / "results" / "tinystories-cpu.json").read_text(encoding="utf-8"))["all_results"]
BYTES_PER_TOKEN = SCORED["eval_bytes"] / SCORED["eval_tokens"]


def sizes_of(path: str) -> dict[str, int]:
    """Parameters, FLOP a token, tokens and rows of a step, bytes of a checkpoint: from the recipe."""
    recipe = read_recipe([str(ROOT / path), "--bf16", "false"])
    with torch.device("meta"):
        model = new_model(recipe.model, TokenizerOfSize(recipe.tokenizer.vocab_size), recipe.data.block_size)
    rows = recipe.training.per_device_train_batch_size * recipe.training.gradient_accumulation_steps
    return {
        "parameters": model.num_parameters(),
        "flops_per_token": flops_per_token(model, recipe.data.block_size),
        "rows_per_step": rows,
        "tokens_per_step": rows * recipe.data.block_size,
        "checkpoint_bytes": checkpoint_bytes(model, ADAM_STATES),
    }


def need(sizes: dict[str, int], gpus: int, reader: float, disk: float) -> dict[str, float]:
    """Of one recipe on `gpus` GPUs. reader: tokens/s of one. disk: bytes/s."""
    tokens = gpus * PEAK * REACHED / sizes["flops_per_token"]
    seconds = sizes["tokens_per_step"] / tokens
    weights = FLOAT32 * sizes["parameters"]
    readers = tokens / gpus / reader
    ring = 2 * (gpus - 1) / gpus * weights
    return {
        "gpus": gpus,
        "tokens_per_second": tokens,
        "step_milliseconds": 1000 * seconds,
        "rows_per_gpu": sizes["rows_per_step"] / gpus,
        "data_megabytes_per_second": tokens * BYTES_PER_TOKEN / 1e6,
        "readers_per_gpu": readers,
        "shards": gpus * max(WORKERS, math.ceil(readers)),
        "ddp_megabytes_per_step": ring / 1e6,
        "ddp_gigabytes_per_second": ring / seconds / 1e9,
        "fsdp_megabytes_per_step": 1.5 * ring / 1e6,
        "checkpoint_megabytes": sizes["checkpoint_bytes"] / 1e6,
        "checkpoint_seconds": sizes["checkpoint_bytes"] / disk,
    }


def reader_rates(rows: int, repeats: int) -> list[float]:
    """Tokens per second of one process that reads, tokenizes and packs, by wall clock; the first row is not timed."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        stories = sample_stories(4000, seed=1)
        for number in range(4):
            lines = (json.dumps({"text": text}) + "\n" for text in stories[number::4])
            Path(folder, f"part-{number}.jsonl").write_text("".join(lines), encoding="utf-8")
        data = DataArguments(train_file=folder, streaming=True, streaming_sample_stories=2000, shuffle_buffer_size=1000)
        data.data_cache_dir = str(Path(folder, "cache"))
        corpus = load_corpus(data)
        tokenizer = train_tokenizer(corpus.train, TokenizerArguments(vocab_size=10000))
        stream = stream_rows(pack(corpus.train, tokenizer, data), corpus, tokenizer, data, seed=0).stream
        rates = []
        for _ in range(repeats):
            reader = iter(StreamReader(stream, 0, {}, 0, 1, 1))
            next(reader)
            began = time.perf_counter()
            read = sum(len(row.tokens) for item in islice(reader, rows) for row in item)
            rates.append(read / (time.perf_counter() - began))
    return rates


def disk_rates(size: int, repeats: int) -> list[float]:
    """Bytes per second that reach the disk of the temporary folder."""
    content, rates = os.urandom(size), []
    for _ in range(repeats):
        with tempfile.TemporaryFile() as file:
            began = time.perf_counter()
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            rates.append(size / (time.perf_counter() - began))
    return rates


def tables(record: dict[str, Any]) -> list[dict[str, Any]]:
    """One of the data and one of the traffic, a row for each recipe and number of GPUs."""
    rows = [(name, need) for name, needs in record["needs"].items() for need in needs]
    data = [
        "recipe",
        "GPUs",
        "tokens/s",
        "step, ms",
        "rows of a step on a GPU",
        "text, MB/s",
        "readers a GPU",
        "shards",
    ]
    traffic = ["recipe", "GPUs", "DDP, MB a step and GPU", "DDP, GB/s", "FSDP, MB a step and GPU"]
    traffic += ["checkpoint, MB", "its writing, s"]
    of_data = [
        [
            name,
            one["gpus"],
            f"{one['tokens_per_second']:,.0f}",
            f"{one['step_milliseconds']:.3g}",
            f"{one['rows_per_gpu']:g}",
            f"{one['data_megabytes_per_second']:.3g}",
            f"{one['readers_per_gpu']:.2g}",
            one["shards"],
        ]
        for name, one in rows
    ]
    of_traffic = [
        [
            name,
            one["gpus"],
            f"{one['ddp_megabytes_per_step']:,.0f}",
            f"{one['ddp_gigabytes_per_second']:.3g}",
            f"{one['fsdp_megabytes_per_step']:,.0f}",
            f"{one['checkpoint_megabytes']:,.0f}",
            f"{one['checkpoint_seconds']:.2g}",
        ]
        for name, one in rows
    ]
    return [
        {"title": "Data (not measured on GPUs)", "columns": data, "rows": of_data},
        {"title": "Traffic and checkpoints (not measured on GPUs)", "columns": traffic, "rows": of_traffic},
    ]


def with_tables(document: str, record: dict[str, Any]) -> str:
    """docs/distributed.md with the tables of the record."""
    measured, lines = record["measured"], []
    lines.append(
        f"Measured, on {record['provenance']['machine']['processor']}: one reader turns "
        f"{measured['reader_tokens_per_second'] / 1e6:.2f} million tokens a second into rows, and "
        f"{measured['disk_bytes_per_second'] / 1e6:,.0f} MB of a checkpoint reach the disk in a second. Assumed: "
        f"GPUs of {PEAK / 1e12:.0f} TFLOPS in bf16 of which {REACHED:.0%} are reached, {BYTES_PER_TOKEN:.2f} bytes of "
        f"text a token, at least {WORKERS} data workers a process, each with a shard of its own."
    )
    for table in record["tables"]:
        lines += ["", f"**{table['title']}**", "", "| " + " | ".join(table["columns"]) + " |"]
        lines += ["|" + " --- |" * len(table["columns"])]
        lines += ["| " + " | ".join(map(str, row)) + " |" for row in table["rows"]]
    return BLOCK.sub(lambda found: found[1] + "\n".join(lines) + "\n" + found[2], document)


def measure(quick: bool) -> dict[str, Any]:
    began = Stopwatch()
    readers = reader_rates(*((50, 2) if quick else (2000, 5)))
    disk = disk_rates(*((2**22, 2) if quick else (2**28, 5)))
    reader_median, disk_median = statistics.median(readers), statistics.median(disk)
    sizes = {name: sizes_of(path) for name, path in RECIPES.items()}
    stories = {"source": "the embedded sample corpus", **hash_texts(sample_stories(4000, seed=1))}
    record: dict[str, Any] = {"provenance": provenance(began, 0, {"stories": stories})}
    record["assumed"] = {"peak_flops": PEAK, "reached": REACHED, "bytes_per_token": BYTES_PER_TOKEN, "workers": WORKERS}
    record["measured"] = {"reader_tokens_per_second": reader_median, "disk_bytes_per_second": disk_median}
    record["measured"] |= {"reader_runs": readers, "disk_runs": disk}
    record["sizes"] = sizes
    record["needs"] = {
        name: [need(one, gpus, reader_median, disk_median) for gpus in GPUS] for name, one in sizes.items()
    }
    return record | {"tables": tables(record), "goals": [], "did_not_help": []}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small, and not recorded")
    quick = parser.parse_args().quick
    record = measure(quick)
    text = json.dumps(record, indent=1) + "\n"
    if quick:
        path = Path(tempfile.mkdtemp(), RECORD.name)
        path.write_text(text, encoding="utf-8")
    else:
        path = RECORD
        path.write_text(text, encoding="utf-8")
        document = with_tables(DOCUMENT.read_text(encoding="utf-8"), record)
        DOCUMENT.write_text(document, encoding="utf-8")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
