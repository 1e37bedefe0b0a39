"""A cache of folders that are built once, under a key made of everything that went into them.

No entry is stale, because another input has another key. No entry is half written: a folder is built under a temporary
name, sealed, and renamed when it is complete. No entry is wrong: whenever one is opened, all its bytes are compared
with the SHA-256 in its seal (atomic.py), and one that differs is built again. Of several processes that want the same
folder one builds it and the others wait (lock.py).
"""

import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import datasets
import pyarrow as pa

from tinystories.atomic import damage, is_no_room, is_sealed, seal
from tinystories.errors import UserError, one_line
from tinystories.lock import HeldError, held


logger = logging.getLogger(__name__)

UNFINISHED = "unfinished-"  # begins the name of a folder that is being built

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

    root: as of `cache_root`.

    Raises:
        UserError: `root` cannot be entered or written to.
    """
    base = cache_root(root)
    folder = base / f"{kind}-{key}"
    with ExitStack() as stack:
        with in_cache(base):
            if folder.exists() and damage(folder) is None:
                return folder
            base.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(base)
            stack.enter_context(held(_lock_of(folder), wait_for=f"waiting for another process that builds {folder}"))
            unfinished = _begin(folder)
            if unfinished is None:  # the other process has built it
                return folder
        try:
            build(unfinished)
            seal(unfinished)
            os.replace(unfinished, folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def cache_root(root: str | None) -> Path:
    """The folder of the cache. root: default is a folder in the cache of `datasets`."""
    return Path(root) if root else Path(datasets.config.HF_DATASETS_CACHE) / "tinystories"


@contextmanager
def in_cache(base: Path, remedy: str = "give another --data_cache_dir") -> Iterator[None]:
    """What the system refuses inside the `with` block is a `UserError` about the place of the cache."""
    try:
        yield
    except OSError as error:
        if is_no_room(error):
            raise
        reason = error.strerror or one_line(error)
        raise UserError(f"cannot write to {base}: {reason}", remedy) from error


def _begin(folder: Path) -> Path | None:
    """An empty folder to build in; None if `folder` is complete. To be called by the process that holds its lock."""
    unfinished = folder.with_name(UNFINISHED + folder.name)
    shutil.rmtree(unfinished, ignore_errors=True)
    if folder.exists():
        found = damage(folder)
        if found is None:
            return None
        if is_sealed(folder):
            logger.warning("the cache folder %s is damaged (%s) and is built again", folder, found)
        else:
            logger.info("the cache folder %s is of an earlier version or unfinished and is built again", folder)
        os.replace(folder, unfinished)  # under this name, which the lock protects, it is removed
        shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    return unfinished


def _lock_of(folder: Path) -> Path:
    return folder.with_name(folder.name + ".lock")


def _remove_abandoned(base: Path) -> None:
    """Remove what killed processes left: the unfinished folders whose lock nobody holds."""
    for unfinished in base.glob(f"{UNFINISHED}*"):
        try:
            with held(_lock_of(base / unfinished.name.removeprefix(UNFINISHED))):
                shutil.rmtree(unfinished, ignore_errors=True)
        except HeldError:
            continue


def write_arrow(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    """Stream record batches into a file for `datasets.Dataset.from_file`; one batch in memory at a time."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
