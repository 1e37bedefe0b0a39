"""Export a checkpoint to other programs: plain Llama, GGUF, ONNX, llama2.c, a page that holds the model.

    python export_model.py runs/demo --format llama
    python export_model.py runs/demo --format gguf,onnx,page --output_dir exports/demo

CHECKPOINT is a folder or a Hub id. What is written is opened by a program that did not write it and compared with the
checkpoint: token ids of 300 texts, greedy text, bits per byte. The results are in export.json; an export that differs
is not kept.
"""

import argparse
from pathlib import Path
from typing import Any

from tinystories.commands.shortest import require_arguments
from tinystories.config.familiar import EXPORT
from tinystories.config.packaged import find_checkpoint
from tinystories.config.parser import StrictParser
from tinystories.console import program_name
from tinystories.errors import UserError
from tinystories.exporting.formats import FORMATS, parse_formats, title_of
from tinystories.output_file import check_output_file, write_output_file


def main(argv: list[str]) -> None:
    arguments = parse(argv)
    from tinystories.exporting.run import export  # seconds of imports, for a command line that is understood

    output_dir = arguments.output_dir or Path("exports") / title_of(arguments.checkpoint)
    report = export(
        arguments.checkpoint, arguments.format, output_dir, arguments.revision, arguments.data, arguments.overwrite
    )
    for name, result in report["formats"].items():
        for line in described(name, result):
            print(line)
    print(f"the checkpoint: {report['bits_per_byte']:.4f} bits per byte on the same {report['stories']} stories")
    print(f"Exported: {output_dir}")
    write_output_file(arguments.output_file, report)


def described(name: str, result: dict[str, Any]) -> list[str]:
    """What was written and how it was compared, a line for each file that was opened."""
    lines = [f"{name}: {_proof(proof)}" for proof in result["proofs"]]
    if missing := " and ".join(result["not_tried"]):
        reason = f"{missing} is not installed"
        lines.append(f"{name}: {reason} and was not tried" if lines else f"{name}: not compared: {reason}")
    return lines


def _proof(proof: dict[str, Any]) -> str:
    parts = [f"{proof['greedy_tokens_equal']} of {proof['greedy_tokens']} greedy tokens equal"]
    if proof["texts"]:
        some = "" if proof["texts_equal"] == proof["texts"] else f"{proof['texts_equal']} of "
        parts.insert(0, f"ids of {some}{proof['texts']} texts equal")
    return f"{proof['file']} by {proof['reader']}: {', '.join(parts)}, {proof['bits_per_byte']:.4f} bits per byte"


def parse(argv: list[str]) -> argparse.Namespace:
    require_arguments("export", argv)
    parser = StrictParser(
        (), "export", EXPORT, prog=program_name("export"), description="Export a checkpoint to other programs."
    )
    parser.add_argument("checkpoint", help="folder, Hub id or boxed")
    parser.add_argument("--format", nargs="+", default=[], metavar="FORMAT", help=f"one or more: {', '.join(FORMATS)}")
    parser.add_argument("--output_dir", help="a folder that does not exist yet (default: exports/NAME)")
    parser.add_argument("--overwrite", action="store_true", help="replace an export in output_dir")
    parser.add_argument("--data", help="held-out stories to compare on (default: those of its run)")
    parser.add_argument("--revision", help="a branch, tag or commit of a Hub id")
    parser.add_argument("--output_file", help="write the content of export.json to this file too")
    arguments = parser.parse_exactly(argv)
    arguments.checkpoint = find_checkpoint(arguments.checkpoint)
    arguments.format = parse_formats(arguments.format, "--format")
    if arguments.revision is not None and Path(arguments.checkpoint).is_dir():
        raise UserError(f"{arguments.checkpoint} is a folder, which has no --revision {arguments.revision}")
    check_output_file(arguments.output_file)
    return arguments
