"""Folders that are built once, under a key made of everything that went into them.

Nothing here can be stale: another input is another key. Nothing can be half written: a folder is built beside its
place, sealed and moved there when it is complete, so a kill or a second process at the same moment does no harm. One
that has lost a file, or part of one, since is built again.
"""

import hashlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import datasets
import pyarrow as pa

from tinystories.atomic import damage, discard, is_sealed, seal
from tinystories.errors import UserError


logger = logging.getLogger(__name__)

ABANDONED = 24 * 3600  # seconds without a write


def content_key(parts: Iterable[str | bytes | int | float | bool | None]) -> str:
    """A short hexadecimal SHA-256 over the parts, in order, each kept apart from the next; they may stream by."""
    digest = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else repr(part).encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()[:24]


def cached_folder(kind: str, key: str, build: Callable[[Path], None], root: str | None = None) -> Path:
    """The folder `<root>/<kind>-<key>`; `build(folder)` fills it if it does not exist yet."""
    base = Path(root) if root else Path(datasets.config.HF_DATASETS_CACHE) / "tinystories"
    folder = base / f"{kind}-{key}"
    if folder.exists():
        found = damage(folder, contents=False)
        if found is None:
            return folder
        if is_sealed(folder):
            logger.warning("the cache %s is damaged, %s: it is built again", folder, found)
        else:
            logger.info("the cache %s is of an earlier version or unfinished: it is built again", folder)
        discard(folder)
    try:
        base.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(base)
        unfinished = Path(tempfile.mkdtemp(prefix="unfinished-", dir=base))
    except OSError as error:
        raise UserError(f"cannot write to {base}: {error.strerror}", "name another --data_cache_dir") from error
    try:
        build(unfinished)
        seal(unfinished)
        try:
            os.replace(unfinished, folder)
        except OSError:  # another process was first: its folder has the same content
            if not folder.exists():
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _remove_abandoned(base: Path) -> None:
    """What killed processes left; a build of now is younger."""
    for folder in base.glob("unfinished-*"):
        if time.time() - max(path.stat().st_mtime for path in [folder, *folder.rglob("*")]) > ABANDONED:
            shutil.rmtree(folder, ignore_errors=True)


def write_arrow(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    """Stream record batches into a file that `datasets.Dataset.from_file` maps; one batch in memory at a time."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
