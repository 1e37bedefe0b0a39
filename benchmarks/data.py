"""Text to rows of tokens, against the public run_clm.py: seconds and memory by size; the sample of the tokenizer.

    python benchmarks/data.py --run_clm run_clm.py --train_file train.txt --write
    python benchmarks/data.py --run_clm run_clm.py --sizes 1 --repeats 1

Prints a table; --write also writes docs/results/data.json. About ten minutes; `--theirs_up_to 2000`
adds half an hour or more.

RUN_CLM is examples/pytorch/language-modeling/run_clm.py of transformers. It is started as it is, without --do_train and
--do_eval: it reads, tokenizes and groups both files, and ends. Ours reads and packs the same two files with the same
tokenizer and block size. Each run is a process of its own with an empty cache, and they take turns. The start of both,
measured with a text of one story, is taken off the seconds that are compared; the table has the whole ones too.

The text is that of TRAIN_FILE (default: the sample corpus) again and again, with other names in each copy, and the
number of the copy at the end of each story. Memory is that of the process and its children, without mapped files.
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any


sys.path.insert(0, str(Path(__file__).parent.parent))

import psutil

from tinystories.provenance import Stopwatch, hash_files, hash_texts, provenance


ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "docs" / "results" / "data.json"
END = "<|endoftext|>"
SAMPLE_CORPUS_STORIES = 15_000
HELD_OUT = 300  # stories, the last
BLOCK_SIZE, VOCABULARY = 256, 4096
NAMES = 12  # that each copy replaces
OURS, THEIRS, THEIRS_2 = "ours", "run_clm.py", "run_clm.py, 2 processes"
START = "start"
PREPARE = """
import sys
from tinystories.config.recipe import read_recipe
from tinystories.data.corpus import read_sources
from tinystories.data.packing import pack
from tinystories.data.tokenizer import load_tokenizer

recipe = read_recipe(sys.argv[1:])
train, validation, _ = read_sources(recipe.data)
tokenizer = load_tokenizer(recipe.tokenizer.tokenizer_name)
pack(train, tokenizer, recipe.data)
pack(validation, tokenizer, recipe.data)
"""
TRAIN = """
import json, sys, time
from tinystories.config.keys import DataArguments, TokenizerArguments
from tinystories.data.corpus import read_files
from tinystories.data.tokenizer import tokenizer_report, train_tokenizer, training_stories

text, held_out, cache, folder, vocab_size, sample = sys.argv[1:]
stories = read_files(text, DataArguments(data_cache_dir=cache))[0]
arguments = TokenizerArguments(vocab_size=int(vocab_size), tokenizer_sample_stories=int(sample))
began = time.process_time()
tokenizer = train_tokenizer(stories, arguments)
seconds = time.process_time() - began
report = tokenizer_report(tokenizer, read_files(held_out, DataArguments(data_cache_dir=cache))[0])
tokenizer.save_pretrained(folder)
found = {"stories": len(training_stories(stories, arguments)), "of": len(stories)}
print(json.dumps(found | {"processor_seconds": seconds, "bytes_per_token": report["bytes_per_token"]}))
"""


def read_stories(train_file: Path | None) -> list[str]:
    if train_file is None:
        from tinystories.data.sample_corpus import sample_stories

        return list(sample_stories(SAMPLE_CORPUS_STORIES, seed=1))
    return [story.strip() for story in train_file.read_text(encoding="utf-8").split(END) if story.strip()]


def varied(stories: list[str], num_bytes: int) -> Iterator[str]:
    """Copies of all stories, with other names in each, until there are so many bytes."""
    joined = f"\n{END}\n".join(stories)
    inside = Counter(re.findall(r"(?<=[a-z,] )[A-Z][a-z]{2,}\b", joined))  # a capital amid a sentence
    names, written, copy = [name for name, _ in inside.most_common(NAMES)], 0, 0
    while written < num_bytes:
        rng, text = random.Random(copy), joined
        for name in names if copy else ():
            made = "".join(rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(rng.randint(2, 3)))
            text = text.replace(f" {name}", f" {made.capitalize()}")
        for story in text.split(f"\n{END}\n"):
            line = f"{story} Copy {copy}.\n{END}\n"
            written += len(line.encode())
            yield line
            if written >= num_bytes:
                return
        copy += 1


def write_stories(path: Path, stories: list[str], megabytes: int) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(varied(stories, megabytes * 10**6) if megabytes else [f"{stories[0] * 9}\n{END}\n"])


def measure(command: list[str], cache: str, cwd: str) -> dict[str, float]:
    """Seconds of a process by the clock and of all processors, and the most anonymous memory it had, in MB."""
    began, children = time.perf_counter(), _children_seconds()
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": cache, "PYTHONPATH": str(ROOT)}
    environment.pop("TOKENIZERS_PARALLELISM", None)  # threads as by default, on both sides
    with tempfile.TemporaryFile("w+", encoding="utf-8") as log:
        process = subprocess.Popen(
            [sys.executable, *command], cwd=cwd, stdout=subprocess.DEVNULL, stderr=log, env=environment
        )
        peak = [0.0]
        watch = threading.Thread(target=_watch, args=(psutil.Process(process.pid), peak))
        watch.start()
        status = process.wait()
        watch.join()
        if status:
            log.seek(0)
            sys.exit(f"{' '.join(command)} ended with {status}: {log.read()[-3000:]}")
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "processor_seconds": _children_seconds() - children, "own_mb": peak[0]}


def _children_seconds() -> float:
    times = os.times()
    return times.children_user + times.children_system


def _watch(process: psutil.Process, peak: list[float]) -> None:
    while True:
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                return
            peak[0] = max(peak[0], sum(map(_own_mb, [process, *process.children(recursive=True)])))
        except psutil.NoSuchProcess:
            return
        time.sleep(0.05)


def _own_mb(process: psutil.Process) -> float:
    """Memory that is not a mapped file."""
    try:
        status = Path(f"/proc/{process.pid}/status")
        if status.exists():
            found = re.search(r"RssAnon:\s+(\d+) kB", status.read_text(encoding="utf-8"))
            return int(found[1]) * 1024 / 1e6 if found else 0.0
        return process.memory_full_info().uss / 1e6
    except (psutil.Error, OSError):  # it has ended
        return 0.0


class Runs:
    """The runs of one measurement, in a folder with the two texts and the tokenizer."""

    def __init__(self, folder: Path, run_clm: Path):
        self.folder, self.run_clm = folder, run_clm.resolve()
        self.held_out, self.tokenizer = folder / "held_out.txt", folder / "tokenizer"

    def run(self, side: str, text: Path) -> dict[str, float]:
        with tempfile.TemporaryDirectory(dir=self.folder) as scratch:
            options = {"train_file": text, "validation_file": self.held_out, "tokenizer_name": self.tokenizer}
            options |= {"block_size": BLOCK_SIZE, "output_dir": f"{scratch}/run"}
            if side == OURS:
                command = ["-c", PREPARE]
                options |= {"data_cache_dir": f"{scratch}/cache"}
            else:
                command = [str(self.run_clm)]
                options |= {"model_type": "gpt2", "config_overrides": "n_embd=8,n_layer=1,n_head=1"}
                if side == THEIRS_2:
                    options |= {"preprocessing_num_workers": 2}
            words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
            found = measure([*command, *words], f"{scratch}/datasets", scratch)
        print(text.stem, side, {name: round(value, 1) for name, value in found.items()}, file=sys.stderr, flush=True)
        return found

    def train(self, text: Path, vocab_size: int, sample: int, target: Path | None = None) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(dir=self.folder) as scratch:
            words = [text, self.held_out, f"{scratch}/cache", target or f"{scratch}/tokenizer", vocab_size, sample]
            command = [sys.executable, "-c", TRAIN, *map(str, words)]
            environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
            done = subprocess.run(command, cwd=scratch, env=environment, stdout=subprocess.PIPE, check=True, text=True)
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1]) | {"vocab_size": vocab_size}
        print(text.stem, found, file=sys.stderr, flush=True)
        return found


def measure_sizes(runs: Runs, stories: list[str], given: argparse.Namespace) -> dict[str, dict[str, list[dict]]]:
    """By size ("start", or MB) and side: what each repeat took."""
    found: dict[str, dict[str, list[dict]]] = {}
    for size in [0, *given.sizes]:
        text = runs.folder / f"text-{size}.txt"
        write_stories(text, stories, size)
        sides = [OURS, THEIRS, THEIRS_2] if size <= given.theirs_up_to else [OURS]
        found[str(size) if size else START] = by_side = {side: [] for side in sides}
        for _ in range(given.repeats if size < 100 else 1):
            for side in sides:
                by_side[side].append(runs.run(side, text))
        text.unlink()
    return found


def compare_samples(runs: Runs, stories: list[str], megabytes: int) -> list[dict[str, Any]]:
    """Tokenizers trained on samples and on all of a text, in pairs (sample, all) of one vocabulary."""
    once, large = runs.folder / "once.txt", runs.folder / f"text-{megabytes}.txt"
    once.write_text("".join(f"{story}\n{END}\n" for story in stories), encoding="utf-8", newline="\n")
    found = [runs.train(once, VOCABULARY, sample) | {"text": "once"} for sample in (len(stories) // 8, 0)]
    found += [runs.train(once, VOCABULARY, len(stories) // 2) | {"text": "once"}]
    write_stories(large, stories, megabytes)
    for vocab_size in (VOCABULARY, 10_000):
        for sample in (50_000, 0):
            found.append(runs.train(large, vocab_size, sample) | {"text": f"{megabytes} MB"})
    large.unlink()
    return found


def tables(sizes: dict[str, dict[str, list[dict]]], samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    for size, by_side in sizes.items():
        for side in (OURS, THEIRS, THEIRS_2):
            if side not in by_side:
                rows.append([size, side, *["not run"] * 4])
                continue
            clock, processor, memory = (
                median(run[name] for run in by_side[side]) for name in ("seconds", "processor_seconds", "own_mb")
            )
            less = "" if size == START else round(median(_seconds(sizes, size, side, START)), 1)
            rows.append([size, side, round(clock, 1), less, round(processor, 1), round(memory)])
    columns = ["MB of text", "side", "seconds", "seconds without the start", "processor seconds", "own memory, MB"]
    trained = []
    for one in samples:
        figures = round(one["processor_seconds"], 1), round(one["bytes_per_token"], 4)
        trained.append([one["text"], one["vocab_size"], f"{one['stories']:,} of {one['of']:,}", *figures])
    heads = ["text", "vocabulary", "stories", "processor seconds", "bytes per token, held out"]
    return [
        {"title": "Read, tokenize and pack", "columns": columns, "rows": rows},
        {"title": "Tokenizer: a sample against all", "columns": heads, "rows": trained},
    ]


def _seconds(sizes: dict[str, dict[str, list[dict]]], size: str, side: str, start: str | None) -> list[float]:
    """Of each run. start: the size whose median is taken off; at least a tenth of a second remains."""
    off = median(run["seconds"] for run in sizes[start][side]) if start else 0.0
    return [max(0.1, run["seconds"] - off) for run in sizes[size][side]]


def goals(sizes: dict[str, dict[str, list[dict]]], samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = []
    measured = [size for size in sizes if size != START]
    for size in measured:
        for side in (THEIRS, THEIRS_2):
            if side not in sizes[size]:
                continue
            for words, start in (("", START), (", with the start of the process", None)):
                ours, theirs = (_seconds(sizes, size, which, start) for which in (OURS, side))
                ratios = {"ratio": median(theirs) / median(ours)}
                ratios |= {"low": min(theirs) / max(ours), "high": max(theirs) / min(ours)}
                goal = f"{size} MB of text to rows: times as fast as {side}{words}"
                found.append({"goal": goal, "at_least": 3.0} | ratios)
    least, most = ([run["own_mb"] for run in sizes[size][OURS]] for size in (measured[0], measured[-1]))
    ratios = {"ratio": median(most) / median(least), "low": min(most) / max(least), "high": max(most) / min(least)}
    found.append({"goal": f"own memory at {measured[-1]} MB, times that at {measured[0]} MB", "at_most": 1.2} | ratios)
    for vocab_size in sorted({one["vocab_size"] for one in samples if one["text"] != "once"}):
        sample, everything = (one for one in samples if one["text"] != "once" and one["vocab_size"] == vocab_size)
        apart = 100 * abs(sample["bytes_per_token"] / everything["bytes_per_token"] - 1)
        goal = f"tokenizer of {vocab_size:,} tokens on a sample: % that bytes per token differ from all"
        found.append({"goal": goal, "at_most": 0.1, "ratio": apart, "low": apart, "high": apart})
    return [
        {name: round(value, 3) if isinstance(value, float) else value for name, value in one.items()} for one in found
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run_clm", type=Path, required=True, help="the public run_clm.py")
    parser.add_argument("--train_file", type=Path, help="real text, stories ended by <|endoftext|>")
    parser.add_argument("--sizes", type=lambda text: [int(part) for part in text.split(",")], default=[12, 200, 2000])
    parser.add_argument("--theirs_up_to", type=int, default=200, help="MB of text for which RUN_CLM is run")
    parser.add_argument("--sample_size", type=int, default=100, help="MB of text for the tokenizer's sample; 0: none")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each side, below 100 MB")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    began, stories = Stopwatch(), read_stories(given.train_file)
    with tempfile.TemporaryDirectory() as folder:
        runs = Runs(Path(folder), given.run_clm)
        runs.held_out.write_text(f"\n{END}\n".join(stories[-HELD_OUT:]), encoding="utf-8", newline="\n")
        stories = stories[:-HELD_OUT]
        text = Path(folder, "for_the_tokenizer.txt")
        write_stories(text, stories, 5)
        runs.train(text, VOCABULARY, 0, runs.tokenizer)
        sizes = measure_sizes(runs, stories, given)
        samples = compare_samples(runs, stories, given.sample_size) if given.sample_size else []
    source = given.train_file.name if given.train_file else "the sample corpus"
    hashes = hash_files([given.train_file]) if given.train_file else hash_texts(stories)
    data = {
        "train": {"source": source, **hashes},
        "run_clm.py": {"source": "transformers", **hash_files([given.run_clm])},
    }
    record = {"provenance": provenance(began, [0], data), "tables": tables(sizes, samples)}
    record |= {"goals": goals(sizes, samples), "sizes": sizes, "samples": samples}
    for table in record["tables"]:
        print("\n".join(" | ".join(map(str, row)) for row in [table["columns"], *table["rows"]]), end="\n\n")
    for goal in record["goals"]:
        print(goal)
    if given.write:
        RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
