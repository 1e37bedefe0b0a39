"""A cache of folders that are built once, under a key made of everything that went into them.

No entry is stale, because another input has another key. No entry is half written: a folder is built under a temporary
name, sealed, and renamed when it is complete, so a kill or a second process does no harm. A folder with a missing
or truncated file is built again.
"""

import hashlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import datasets
import pyarrow as pa

from tinystories.atomic import damage, discard, is_sealed, new_folder, seal
from tinystories.errors import UserError


logger = logging.getLogger(__name__)

ABANDONED = 24 * 3600  # seconds without a write


Part = str | bytes | int | float | bool | None


class ContentKey:
    """SHA-256 over parts in order, 24 hexadecimal digits. Where one part ends and the next begins counts too."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, part: Part) -> None:
        data = part if isinstance(part, bytes) else repr(part).encode()
        self._digest.update(len(data).to_bytes(8, "little") + data)

    def __str__(self) -> str:
        return self._digest.hexdigest()[:24]


def content_key(parts: Iterable[Part]) -> str:
    """The `ContentKey` of all parts."""
    key = ContentKey()
    for part in parts:
        key.add(part)
    return str(key)


def cached_folder(kind: str, key: str, build: Callable[[Path], None], root: str | None = None) -> Path:
    """The folder `<root>/<kind>-<key>`; `build(folder)` fills it if it does not exist or is damaged.

    root: default is a folder in the cache of `datasets`.

    Raises:
        UserError: `root` cannot be written to.
    """
    base = Path(root) if root else Path(datasets.config.HF_DATASETS_CACHE) / "tinystories"
    folder = base / f"{kind}-{key}"
    if folder.exists():
        found = damage(folder, contents=False)
        if found is None:
            return folder
        if is_sealed(folder):
            logger.warning("the cache folder %s is damaged (%s) and is built again", folder, found)
        else:
            logger.info("the cache folder %s is of an earlier version or unfinished and is built again", folder)
        discard(folder)
    try:
        base.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(base)
        unfinished = new_folder(base, "unfinished-")
    except OSError as error:
        raise UserError(f"cannot write to {base}: {error.strerror}", "give another --data_cache_dir") from error
    try:
        build(unfinished)
        seal(unfinished)
        try:
            os.replace(unfinished, folder)
        except OSError:  # another process has built the same folder meanwhile
            if not folder.exists():
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _remove_abandoned(base: Path) -> None:
    """Remove what killed processes left. Builds in progress have written more recently."""
    for folder in base.glob("unfinished-*"):
        if time.time() - max(path.stat().st_mtime for path in [folder, *folder.rglob("*")]) > ABANDONED:
            shutil.rmtree(folder, ignore_errors=True)


def write_arrow(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    """Stream record batches into a file for `datasets.Dataset.from_file`; one batch in memory at a time."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
