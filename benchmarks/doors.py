"""One model through every door: the same ids, greedy text and bits per byte, and how fast each program writes.

    python benchmarks/doors.py --model demo=runs/demo --model other=runs/other --data other=held-out.txt
    python benchmarks/doors.py --render

Each model is exported in all formats that can express it, and each exported file is compared with the checkpoint as
export_model.py does it. Then every program that is installed opens each file and writes greedily after one beginning,
one story at a time, on one thread. All rounds of all programs are in one run; load seconds and tokens/s are medians.
Programs: transformers, onnxruntime, and where they are found llama-cpp-python, node, transformers.js, Chromium, and
with --run_c a compiled run.c of llama2.c. --data names held-out stories for a model whose own cannot be read. Writes
docs/results/doors.json and the table of docs/exports.md; --render writes the table from the record.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch


sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(1, str(Path(__file__).parent.parent / "tests"))

from helpers.browser import chromium
from helpers.exported_page import measure_in_chromium
from helpers.reader_speed import tokens_per_second
from helpers.transformers_js_page import opened_in_chromium
from tinystories.console import run_command
from tinystories.errors import UserError
from tinystories.exporting.formats import FORMATS
from tinystories.exporting.onnx import FILES
from tinystories.exporting.plain import StockReader
from tinystories.exporting.proof import Reader, greedy
from tinystories.exporting.run import export, module_of
from tinystories.exporting.source import Source, open_source
from tinystories.exporting.transformers_js import find_transformers_js
from tinystories.provenance import Stopwatch, hash_files, provenance


ROOT = Path(__file__).parent.parent
RECORD = ROOT / "docs" / "results" / "doors.json"
DOCUMENT = ROOT / "docs" / "exports.md"
BEGIN, END = "<!-- doors: table -->\n", "<!-- doors: end -->"
LIBRARIES = ("onnx", "onnxruntime", "gguf", "llama-cpp-python")
PROMPT, NEW_TOKENS = "Once upon a time, there was", 200
ROUNDS = 3


def measure(models: dict[str, str], data: dict[str, str], run_c: str | None) -> dict[str, Any]:
    began = Stopwatch()
    torch.set_num_threads(1)
    record: dict[str, Any] = {"prompt": PROMPT, "new_tokens": NEW_TOKENS, "rounds": ROUNDS, "models": {}}
    for name, checkpoint in models.items():
        with tempfile.TemporaryDirectory() as temporary:
            record["models"][name] = one_model(checkpoint, data.get(name), run_c, Path(temporary))
    files = {name: {"source": Path(file).name, **hash_files([Path(file)])} for name, file in data.items()}
    return {"provenance": provenance(began, [], files, LIBRARIES), **record}


def one_model(checkpoint: str, data: str | None, run_c: str | None, folder: Path) -> dict[str, Any]:
    source = open_source(checkpoint)
    formats, refused = expressible(source)
    report = export(checkpoint, formats, folder / "out", data=data)
    speeds: dict[tuple[str, str, str], list[dict[str, float]]] = {}
    for _ in range(ROUNDS):
        for key, speed in one_round(source, formats, folder / "out"):
            speeds.setdefault(key, []).append(speed)
    doors = [
        {"format": kind, **proof_of(report, kind, file, reader), **median(measured)}
        for (kind, file, reader), measured in speeds.items()
    ]
    if "page" in formats:
        doors += page_in_chromium(report, folder / "out" / "page")
    if "onnx" in formats:
        doors += onnx_in_chromium(source, folder / "out" / "llama")
    if "llama2c" in formats and run_c:
        doors += by_run_c(Path(run_c), folder / "out" / "llama2c", source)
    return {"report": report, "refused": refused, "partial_rotary_factor": rotary(source), "doors": doors}


def rotary(source: Source) -> float:
    assert source.model.config.rope_parameters
    return float(source.model.config.rope_parameters["partial_rotary_factor"])


def expressible(source: Source) -> tuple[list[str], dict[str, str]]:
    """The formats that can hold the model, and the reasons of those that cannot."""
    formats, refused = [], {}
    for name in FORMATS:
        try:
            module_of(name).check(source)
            formats.append(name)
        except UserError as error:
            refused[name] = str(error).replace(source.name, source.title)
    return formats, refused


def one_round(source: Source, formats: list[str], folder: Path) -> Iterator[tuple[tuple[str, str, str], dict]]:
    """Every reader once: seconds to open the file, and tokens/s. The checkpoint itself comes first."""
    ids = source.tokenizer(PROMPT)["input_ids"]
    start = time.perf_counter()
    again = open_source(str(source.folder))
    own = StockReader(again.model, again.tokenizer, "model.safetensors")
    yield ("checkpoint", own.file, own.name), speed_of(own, ids, time.perf_counter() - start)
    for name in formats:
        readers = module_of(name).readers(source, folder / FORMATS[name])
        start = time.perf_counter()
        for reader in readers:
            loaded = time.perf_counter() - start
            yield (name, reader.file, reader.name), speed_of(reader, ids, loaded)
            start = time.perf_counter()


def speed_of(reader: Reader, ids: list[int], load_seconds: float) -> dict[str, float]:
    rates = tokens_per_second(reader, ids, NEW_TOKENS, repeats=3)
    return {"load_seconds": load_seconds, "tokens_per_second": statistics.median(rates)}


def median(measured: list[dict[str, float]]) -> dict[str, Any]:
    names = ("load_seconds", "tokens_per_second")
    return {name: statistics.median(one[name] for one in measured) for name in names} | {"rounds": measured}


def proof_of(report: dict[str, Any], kind: str, file: str, reader: str) -> dict[str, Any]:
    """What was compared, and the size of the file; of the checkpoint, what the others are compared with."""
    if kind == "checkpoint":
        return {"file": file, "reader": "this project", "bits_per_byte": report["bits_per_byte"]}
    result = report["formats"][kind]
    found = next(one for one in result["proofs"] if (one["file"], one["reader"]) == (file, reader))
    return {**found, "bytes": result["bytes"].get(file)}


def page_in_chromium(report: dict[str, Any], page: Path) -> list[dict[str, Any]]:
    """The page in one HTML file, opened from its file without a network. Its ids and text are those in the proof."""
    (html,) = [file for file in page.glob("*.html") if file.name != "index.html"]
    found = [measure_in_chromium(html) for _ in range(ROUNDS)]
    measured = {
        "load_seconds": statistics.median(one["ready_seconds"] for one in found),
        "tokens_per_second": statistics.median(one["tokens_per_second"] for one in found),
        "first_token_seconds": statistics.median(one["first_token_seconds"] for one in found),
    }
    (proof,) = report["formats"]["page"]["proofs"]
    row = {"format": "page", **proof, "reader": found[0]["browser"], "bytes": html.stat().st_size}
    return [row | measured | {"rounds": found}]


def onnx_in_chromium(source: Source, folder: Path) -> Iterator[dict[str, Any]]:
    """transformers.js with its WASM runtime; its text after one beginning is compared with the checkpoint's."""
    found = find_transformers_js()
    if found is None:
        return
    ids = source.tokenizer(PROMPT)["input_ids"]
    wanted = greedy(source.model, source.tokenizer, ids, NEW_TOKENS)
    with chromium() as browser:
        for file, dtype in FILES.items():
            with opened_in_chromium(browser, found[1], folder, dtype, source.tokenizer.eos_token_id) as page:
                written = page.greedy(ids, NEW_TOKENS)
                equal = sum(one == other for one, other in zip(written, wanted, strict=False))
                rates = [len(written) / page.greedy_seconds(ids, NEW_TOKENS) for _ in range(1 + ROUNDS)][1:]
                yield {
                    "format": "onnx",
                    "file": file,
                    "reader": page.name,
                    "exact": page.exact,
                    "texts": None,
                    "greedy_tokens": len(wanted),
                    "greedy_tokens_equal": equal,
                    "bits_per_byte": None,
                    "bytes": (folder / file).stat().st_size,
                    "load_seconds": page.load_seconds,
                    "tokens_per_second": statistics.median(rates),
                }


def by_run_c(run_c: Path, folder: Path, source: Source) -> list[dict[str, Any]]:
    """run.c itself: its text is compared with the checkpoint's; it says its own tokens/s and no load time."""
    command = [str(run_c.resolve()), "model.bin", "-z", "tokenizer.bin", "-t", "0", "-i", PROMPT]
    rates = []
    for _ in range(ROUNDS):
        process = subprocess.run(
            [*command, "-n", str(NEW_TOKENS)], cwd=folder, capture_output=True, check=True, timeout=300
        )
        rates.append(float(re.findall(rb"achieved tok/s: ([\d.]+)", process.stderr)[-1]))
    text = process.stdout.decode(errors="replace").strip()
    file, size = "model.bin and tokenizer.bin", (folder / "model.bin").stat().st_size
    row = {"format": "llama2c", "file": file, "reader": "run.c", "bytes": size, "text": text}
    speed = {"load_seconds": None, "tokens_per_second": statistics.median(rates)}
    return [row | speed | {"text_equal": is_greedy_text(source, text)}]


def is_greedy_text(source: Source, text: str) -> bool:
    """Whether `text` is what the checkpoint writes after `PROMPT`; a program may count the prompt as new tokens."""
    ids = source.tokenizer(PROMPT)["input_ids"]
    every = ids + greedy(source.model, source.tokenizer, ids, NEW_TOKENS)
    whole = source.tokenizer.decode(every, skip_special_tokens=True)
    return whole.startswith(text) and len(text) > len(whole) // 2


def table(record: dict[str, Any]) -> str:
    """A row for each model and door. Markdown."""
    lines = []
    for name, model in record["models"].items():
        report = model["report"]
        part = "the whole" if model["partial_rotary_factor"] == 1 else f"{model['partial_rotary_factor']:g}"
        lines += [
            f"**{name}**: {report['parameters']:,} parameters, RoPE on {part} of each head; the checkpoint has "
            f"{report['bits_per_byte']:.4f} bits per byte on {report['stories']} stories.",
            "",
            "| format | file | program | equal ids | equal greedy tokens | bits per byte | MB | load, s | tokens/s |",
            "|---|---|---|---:|---:|---:|---:|---:|---:|",
            *(row(door) for door in model["doors"]),
            "",
            *(f"{kind}: {reason}\n" for kind, reason in model["refused"].items()),
        ]
    origin = record["provenance"]
    lines.append(
        f"Median of {record['rounds']} rounds in one run, one thread, batch 1, greedy; "
        f"{origin['machine']['processor']}, {origin['date'][:10]}, commit {(origin['commit'] or 'unknown')[:7]}."
    )
    return "\n".join(lines)


def row(door: dict[str, Any]) -> str:
    texts, greedy = door.get("texts"), door.get("greedy_tokens")
    cells = [
        door["format"],
        door["file"],
        door["reader"],
        f"{door.get('texts_equal', texts)} of {texts}" if texts else "",
        f"{door['greedy_tokens_equal']} of {greedy}" if greedy else "same text" * bool(door.get("text_equal")),
        f"{door['bits_per_byte']:.4f}" if door.get("bits_per_byte") else "",
        f"{door['bytes'] / 1e6:.1f}" if door.get("bytes") else "",
        f"{door['load_seconds']:.2f}" if door.get("load_seconds") is not None else "",
        f"{door['tokens_per_second']:,.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def with_table(document: str, record: dict[str, Any]) -> str:
    """The document with a new table between the markers."""
    before, rest = document.split(BEGIN)
    return f"{before}{BEGIN}\n{table(record)}\n\n{END}{rest.split(END)[1]}"


def named(options: list[str]) -> dict[str, str]:
    """NAME=VALUE, by name."""
    return dict(words.split("=", 1) for words in options)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", action="append", default=[], metavar="NAME=CHECKPOINT", help="may be repeated")
    parser.add_argument("--data", action="append", default=[], metavar="NAME=FILE", help="may be repeated")
    parser.add_argument("--run_c", help="the compiled run.c of llama2.c")
    parser.add_argument("--render", action="store_true", help="measure nothing: write the table from the record")
    given = parser.parse_args(argv)
    if not given.render:
        record = measure(named(given.model), named(given.data), given.run_c)
        RECORD.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    document = with_table(DOCUMENT.read_text(encoding="utf-8"), record)
    DOCUMENT.write_text(document, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    run_command(main)
