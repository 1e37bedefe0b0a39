"""Memory and time of each stage of a run on a corpus and on 4 and 16 copies of it: memory must not grow with the text.

    python benchmarks/corpus_size.py --train_file train.txt
    python benchmarks/corpus_size.py --render

Writes docs/results/corpus_size.json and, from it, the table in docs/long_runs.md; --render writes the table only.

Each story of a copy gets the number of the copy at its end, so that no two are equal. A stage is a process of its own,
and begins with what the stages before it left in the cache: `read` the stories, train the `tokenizer`, `pack` the rows,
and `train`: all of run_clm.py for 20 steps, with its guards and its final score.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).parent.parent))

import psutil

from tinystories.provenance import Stopwatch, hash_files, provenance


ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "docs" / "results" / "corpus_size.json"
DOCUMENT = ROOT / "docs" / "long_runs.md"
MARKS = ("<!-- corpus size: numbers -->", "<!-- corpus size: end -->")
END = "<|endoftext|>"
HELD_OUT = 100  # stories to validate on, the first; copies of them would be called near-copies
RECIPE = {
    "vocab_size": 4096,
    "block_size": 256,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_eval_samples": 50,
    "per_device_train_batch_size": 8,
    "max_steps": 20,
    "eval_strategy": "no",
    "save_strategy": "no",
    "load_best_model_at_end": False,
    "bf16": False,
    "disable_tqdm": True,
}
STAGES = ("read", "tokenizer", "pack", "train")
PREPARE = """
import sys
from tinystories.config.recipe import read_recipe
from tinystories.data.corpus import load_corpus
from tinystories.data.packing import pack
from tinystories.data.tokenizer import load_or_train_tokenizer

stage, *options = sys.argv[1:]
recipe = read_recipe(options)
corpus = load_corpus(recipe.data)
if stage != "read":
    tokenizer = load_or_train_tokenizer(recipe.tokenizer, corpus.train, recipe.data.data_cache_dir)
if stage == "pack":
    pack(corpus.train, tokenizer, recipe.data)
"""


def write_copies(source: Path, copies: int, target: Path, held_out: Path) -> None:
    stories = [story.strip() for story in source.read_text(encoding="utf-8").split(END) if story.strip()]
    with target.open("w", encoding="utf-8", newline="\n") as file:
        for copy in range(copies):
            file.writelines(f"{story} Copy {copy}.\n{END}\n" for story in stories[HELD_OUT:])
    held_out.write_text(f"\n{END}\n".join(stories[:HELD_OUT]), encoding="utf-8", newline="\n")


def measure(stage: str, options: list[str]) -> dict[str, Any]:
    """Seconds of a process, and the most memory it had, in MB: resident, and without the pages of mapped files."""
    command = ["-c", PREPARE, stage] if stage != "train" else [str(ROOT / "run_clm.py")]
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+", encoding="utf-8") as log:
        process = subprocess.Popen(
            [sys.executable, *command, *options],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=log,
            env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        )
        peaks = {"resident_mb": 0.0, "own_mb": 0.0}
        watch = threading.Thread(target=_watch, args=(psutil.Process(process.pid), peaks))
        watch.start()
        status = process.wait()
        watch.join()
        if status:
            log.seek(0)
            sys.exit(f"{stage} ended with {status}: {log.read()[-3000:]}")
    return {"seconds": round(time.perf_counter() - began, 1)} | {name: round(peak) for name, peak in peaks.items()}


def _watch(process: psutil.Process, peaks: dict[str, float]) -> None:
    while True:
        try:
            memory = process.memory_info()
        except psutil.NoSuchProcess:
            return
        if not memory.rss:  # it has ended, and is waited for
            return
        peaks["resident_mb"] = max(peaks["resident_mb"], memory.rss / 1e6)
        peaks["own_mb"] = max(peaks["own_mb"], (memory.rss - getattr(memory, "shared", 0)) / 1e6)
        time.sleep(0.02)


def with_numbers(document: str, record: dict[str, Any]) -> str:
    """The document with the table of the record between its marks."""
    before, _, rest = document.partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    machine = record["provenance"]["machine"]
    origin = f"One thread of an {machine['processor']}; seconds of the clock, while others used the machine too."
    return "\n".join([before + MARKS[0], "", table(record), "", origin, "", MARKS[1] + after])


def table(record: dict[str, Any]) -> str:
    """A row for each number of copies; in brackets the memory without mapped files."""
    lines = ["| copies | MB of text | " + " | ".join(f"{stage}: s, MB" for stage in STAGES) + " |"]
    lines.append("|---" * (len(STAGES) + 2) + "|")
    for row in record["sizes"]:
        cells = [f"{row[stage]['seconds']} s, {row[stage]['resident_mb']} ({row[stage]['own_mb']})" for stage in STAGES]
        lines.append(f"| {row['copies']} | {row['bytes'] / 1e6:.1f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def measure_sizes(train_file: Path, copies: list[int]) -> dict[str, Any]:
    began, sizes = Stopwatch(), []
    for number in copies:
        with tempfile.TemporaryDirectory() as folder:
            text, held_out = Path(folder, "stories.txt"), Path(folder, "held_out.txt")
            write_copies(train_file, number, text, held_out)
            recipe = RECIPE | {"train_file": text, "validation_file": held_out}
            recipe |= {"data_cache_dir": f"{folder}/cache", "output_dir": f"{folder}/run"}
            options = [word for name, value in recipe.items() for word in (f"--{name}", str(value))]
            row: dict[str, Any] = {"copies": number, "bytes": text.stat().st_size}
            for stage in STAGES:
                row[stage] = measure(stage, options)
                print(number, stage, row[stage], file=sys.stderr, flush=True)
            sizes.append(row)
    origin = {"train": {"source": train_file.name, **hash_files([train_file])}}
    return {"provenance": provenance(began, [42], origin), "recipe": RECIPE, "sizes": sizes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train_file", type=Path)
    parser.add_argument("--copies", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--render", action="store_true", help="write the table only")
    given = parser.parse_args()
    if not given.render:
        record = measure_sizes(given.train_file, given.copies)
        RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8", newline="\n")
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    print(table(record))
    document = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(with_numbers(document, record), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
