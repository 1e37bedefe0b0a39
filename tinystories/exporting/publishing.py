"""Exported files for a repository: made and proven when they are pushed, so that they are never of other weights."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tinystories.checkpoint.hub import Beside
from tinystories.exporting.card import section
from tinystories.exporting.run import export
from tinystories.run_files import CARD, EXPORT


AT_THE_TOP = "gguf"  # where llama.cpp, ollama and the Hub itself look for such files; the others keep their folder


@contextmanager
def exported_beside(checkpoint: str, formats: Sequence[str]) -> Iterator[Beside]:
    """The files of `formats` for the repository of `checkpoint`, in a folder that exists inside the `with` block.

    Raises:
        UserError: as `export`.
    """
    with tempfile.TemporaryDirectory(prefix="tinystories-") as temporary:
        folder = Path(temporary) / "export"
        report = export(checkpoint, formats, folder)
        files = {_name(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
        kept = {name: path for name, path in files.items() if path.name not in (CARD, EXPORT)}
        yield Beside(report, kept, lambda repo_id: section(report, repo_id))


def _name(path: Path) -> str:
    return path.relative_to(AT_THE_TOP).as_posix() if path.parts[0] == AT_THE_TOP else path.as_posix()
