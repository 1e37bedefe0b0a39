"""Compare the pieces that the tokenizer cuts a text into before it merges bytes: GPT-2's, Qwen3.5's, and ours.

Ours are Qwen3.5's, with merges that are learned in smaller pieces (tinystories/data/tokenizer.py).

    python benchmarks/pretokenizer.py --train_file train.txt
    python benchmarks/pretokenizer.py --render

All tokenizers are trained on the same stories with the same vocabulary size. The same small model is trained with each
for one pass over these stories, with three seeds: the runs of a seed have seen the same text. Without
--train_file the stories are those of the embedded sample corpus. Runs that are in docs/results/pretokenizer.json are
not repeated, so the command can be stopped and started again. Writes the record and the table of docs/experiments.md;
--render trains nothing and writes the table from the record.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from itertools import islice
from pathlib import Path
from statistics import mean, stdev

from tokenizers import pre_tokenizers


sys.path.insert(0, str(Path(__file__).parent.parent))

from tinystories.config.keys import DataArguments, TokenizerArguments
from tinystories.data.corpus import load_corpus
from tinystories.data.tokenizer import byte_level_pieces, tokenizer_report, train_tokenizer
from tinystories.provenance import Stopwatch, hash_texts, provenance


ROOT = Path(__file__).parent.parent
RECORD = ROOT / "docs" / "results" / "pretokenizer.json"
DOCUMENT = ROOT / "docs" / "experiments.md"
BEGIN, END = "<!-- pretokenizer: table -->\n", "<!-- pretokenizer: end -->"
GPT2, QWEN, OURS = "GPT-2's", "Qwen3.5's", "ours"
PIECES = {  # how a text is cut, and where merges are learned, if that is not as in this version
    GPT2: pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    QWEN: byte_level_pieces(),
    OURS: None,
}
SEEDS = (1, 2, 3)
VOCABULARY = 2048
RECIPE = {
    "block_size": 256,
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_train_epochs": 1,
    "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 32,
    "optimizer": "muon",
    "learning_rate": 4e-3,
    "muon_learning_rate": 8e-3,
    "lr_scheduler_type": "warmup_stable_decay",
    "lr_scheduler_kwargs": json.dumps({"num_decay_steps": 0.2, "decay_type": "1-sqrt"}),
    "warmup_steps": 0.05,
    "max_grad_norm": 1.0,
    "eval_strategy": "no",
    "save_strategy": "no",
    "disable_tqdm": True,
    "use_cpu": True,
}


def measure(data: dict[str, object], source: str, folder: Path) -> dict:
    """The record. data: keys of the recipe that name the stories; folder: for tokenizers and run folders."""
    began, corpus = Stopwatch(), load_corpus(DataArguments(**data))
    stories = {"source": source, **hash_texts(corpus.train["text"])}
    settings = {"recipe": RECIPE, "vocabulary": VOCABULARY}
    record = read_record() or {
        "provenance": provenance(began, list(SEEDS), {"train": stories}),
        **settings,
        "tokenizers": {},
        "runs": [],
    }
    if {name: record[name] for name in settings} != settings or record["provenance"]["data"] != {"train": stories}:
        sys.exit(f"{RECORD} was made with other settings or stories: move it away to start a new record")
    for number, (name, pre_tokenizer) in enumerate(PIECES.items()):
        tokenizer = train_tokenizer(corpus.train, TokenizerArguments(vocab_size=VOCABULARY), pre_tokenizer)
        tokenizer.save_pretrained(folder / f"tokenizer-{number}")
        record["tokenizers"][name] = tokenizer_report(tokenizer, corpus.validation)
    done = {(run["pieces"], run["seed"]) for run in record["runs"]}
    for seed in SEEDS:
        for number, name in enumerate(PIECES):
            if (name, seed) in done:
                continue
            values = RECIPE | data | {"seed": seed, "output_dir": folder / f"run-{number}-{seed}"}
            values |= {"tokenizer_name": folder / f"tokenizer-{number}"}
            record["runs"].append({"pieces": name, "seed": seed, **train(values)})
            print(record["runs"][-1], flush=True)
            if not done:  # one session so far: its times are those of all runs
                record["provenance"] = provenance(began, list(SEEDS), {"train": stories})
            write_record(record)
    return record


def train(values: dict[str, object]) -> dict:
    """One run of run_clm.py, scored on all held-out stories."""
    options = [word for key, value in values.items() for word in (f"--{key}", str(value))]
    subprocess.run([sys.executable, "run_clm.py", *options], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    results = json.loads(Path(str(values["output_dir"]), "all_results.json").read_text(encoding="utf-8"))
    return {
        "bits_per_byte": results["eval_bits_per_byte"],
        "stories": results["eval_stories"],
        "tokens": results["num_input_tokens_seen"],
        "train_seconds": round(results["train_runtime"], 1),
    }


def scores(record: dict, name: str) -> dict[int, float]:
    """Bits per byte by seed."""
    return {run["seed"]: run["bits_per_byte"] for run in record["runs"] if run["pieces"] == name}


def table(record: dict) -> str:
    """Bits per byte of each run, and how much more than with GPT-2's pieces: mean and standard error. Markdown."""
    base = scores(record, GPT2)
    heads = ["pieces", "bytes per token", *(f"seed {seed}" for seed in base), "more than GPT-2's"]
    lines = [f"| {' | '.join(heads)} |", "|---" + "|---:" * (len(heads) - 1) + "|"]
    for name in PIECES:
        found = scores(record, name)
        cells = [name, f"{record['tokenizers'][name]['bytes_per_token']:.3f}"]
        cells += [f"{found[seed]:.4f}" if seed in found else "" for seed in base]
        more = [found[seed] - base[seed] for seed in found]
        cells += [f"{mean(more):+.4f} ± {stdev(more) / len(more) ** 0.5:.4f}" if name != GPT2 else ""]
        lines.append(f"| {' | '.join(cells)} |")
    data, first = record["provenance"]["data"]["train"], record["runs"][0]
    lines += [
        "",
        f"Trained on {data['stories']:,} stories ({data['bytes'] / 1e6:.1f} MB; {data['source']}), scored on "
        f"{first['stories']:,} others; vocabulary {record['vocabulary']:,}.",
    ]
    return "\n".join(lines)


def with_table(document: str, record: dict) -> str:
    """The document with a new table between the markers."""
    before, rest = document.split(BEGIN)
    return f"{before}{BEGIN}\n{table(record)}\n\n{END}{rest.split(END)[1]}"


def read_record() -> dict | None:
    return json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else None


def write_record(record: dict) -> None:
    RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def first_stories(path: Path, number: int, copy: Path) -> Path:
    """Copy the first stories of a .txt file, in which each ends with <|endoftext|>."""
    stories = path.read_text(encoding="utf-8").split("<|endoftext|>")
    copy.write_text("".join(f"{story}<|endoftext|>" for story in islice(stories, number)), encoding="utf-8")
    return copy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--train_file", type=Path, help="a .txt file in which each story ends with <|endoftext|>")
    parser.add_argument("--source", help="what the record calls the stories of --train_file (default: its name)")
    parser.add_argument("--stories", type=int, default=6000, help="the first of the file, or of the sample corpus")
    parser.add_argument("--render", action="store_true", help="train nothing: write the table from the record")
    given = parser.parse_args()
    if not given.render:
        with tempfile.TemporaryDirectory() as folder:
            data: dict[str, object] = {"data_cache_dir": str(Path(folder, "cache")), "validation_fraction": 0.1}
            if given.train_file is None:
                data, source = data | {"num_sample_stories": given.stories}, "the embedded sample corpus"
            else:
                copy = first_stories(given.train_file, given.stories, Path(folder, "stories.txt"))
                data, source = data | {"train_file": str(copy)}, given.source or given.train_file.name
            write_record(measure(data, source, Path(folder)))
    DOCUMENT.write_text(with_table(DOCUMENT.read_text(encoding="utf-8"), read_record()), encoding="utf-8")


if __name__ == "__main__":
    main()
