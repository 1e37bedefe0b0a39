"""An export from checkpoint to folder: checked first, written aside, proven, and only then put in its place.

OUTPUT_DIR/
  export.json      what was written, its size, and how it was compared with the checkpoint
  llama/           a plain Llama or Phi-3 folder; llama/onnx/ where ONNX is asked for
  gguf/  llama2c/  page/
"""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from tinystories.atomic import discard, write_atomically
from tinystories.checkpoint.stock import rotates_all
from tinystories.console import version
from tinystories.errors import UserError
from tinystories.exporting.card import write_cards
from tinystories.exporting.formats import FORMATS, MODULES
from tinystories.exporting.proof import Expected, expected_of, prove
from tinystories.exporting.source import Source, open_source
from tinystories.lock import HeldError, held
from tinystories.output_file import check_output_folder
from tinystories.progress import progress_bar
from tinystories.run_files import EXPORT


def export(
    name: str,
    formats: Sequence[str],
    output_dir: str | Path,
    revision: str | None = None,
    data: str | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write a checkpoint (folder or Hub id) in `formats` into `output_dir`, each proven to be the same model.

    formats: as `parse_formats` gives them. data: held-out stories to compare on, as in `expected_of`.

    Returns:
        The content of export.json.

    Raises:
        UserError: an output_dir that exists, a checkpoint that cannot be opened, a format that cannot
            express it, an extra that is missing.
        ProofError: what was written is not the same model; nothing is kept.
    """
    output_dir = Path(output_dir)
    with new_output(output_dir, overwrite) as folder:
        source = open_source(name, revision)
        for chosen in formats:
            module_of(chosen).check(source)
        report = written(source, formats, folder, data)
        write_atomically(folder / EXPORT, json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    return report


def module_of(name: str) -> ModuleType:
    """The module of a format: `check`, `write`, `readers`, `missing_readers`. Imported late: some need an extra."""
    return import_module(f"tinystories.exporting.{MODULES.get(name, name)}")


def written(source: Source, formats: Sequence[str], folder: Path, data: str | None) -> dict[str, Any]:
    """Write and prove `formats`, one after another; what export.json says."""
    expected = expected_of(source, data)
    report: dict[str, Any] = {
        "checkpoint": source.title,
        "base_model": source.base_model,
        "weights_sha256": source.weights_sha256,
        "parameters": source.model.num_parameters(),
        "architecture": "LlamaForCausalLM" if rotates_all(source.model.config) else "Phi3ForCausalLM",
        "bits_per_byte": expected.bits_per_byte,
        "stories": len(expected.stories),
        "stories_from": expected.stories_from,
        "tinystories": version(),
        "formats": {},
    }
    for name in progress_bar(formats, desc="exporting"):
        report["formats"][name] = one_format(source, name, folder / FORMATS[name], expected)
    for result in report["formats"].values():  # at the end: ONNX changes the tokenizer of its folder
        result["bytes"] = {file: (folder / result["folder"] / file).stat().st_size for file in result["files"]}
        del result["files"]
    write_cards(source, report, folder)
    return report


def one_format(source: Source, name: str, folder: Path, expected: Expected) -> dict[str, Any]:
    """Write one format into `folder` and compare it with the checkpoint by every reader that is installed."""
    module = module_of(name)
    folder.mkdir(exist_ok=True)
    before = set(folder.rglob("*"))
    module.write(source, folder)
    added = sorted(path for path in set(folder.rglob("*")) - before if path.is_file())
    files = [path.relative_to(folder).as_posix() for path in added]
    proofs = [prove(expected, reader) for reader in module.readers(source, folder)]
    return {"folder": FORMATS[name], "files": files, "proofs": proofs, "not_tried": module.missing_readers()}


@contextmanager
def new_output(output_dir: Path, overwrite: bool) -> Iterator[Path]:
    """A folder to write into, which becomes `output_dir` at the end; if that is not reached, nothing is left of it.

    Raises:
        UserError: `output_dir` exists and is not to be overwritten, another process writes it, or it cannot be made.
    """
    if output_dir.exists() and not overwrite:
        raise UserError(f"{output_dir} exists", "name another --output_dir, or add --overwrite")
    if output_dir.exists() and not (output_dir / EXPORT).is_file():
        raise UserError(f"{output_dir} is not an export and is not overwritten", "name another --output_dir")
    check_output_folder(output_dir)
    unfinished = output_dir.with_name(f"{output_dir.name}.unfinished")
    try:
        output_dir.parent.mkdir(parents=True, exist_ok=True)
        with held(output_dir.with_name(f"{output_dir.name}.lock")):
            try:
                shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
                unfinished.mkdir()
                yield unfinished
                if output_dir.exists():
                    discard(output_dir)
                os.replace(unfinished, output_dir)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
    except HeldError as error:
        raise UserError(f"{output_dir} is being written by {error}", "name another --output_dir") from error
