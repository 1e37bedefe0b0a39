"""Links in a folder that somebody else may have made, such as a downloaded run.

Behind an innocent name a link can lead to any file of this machine, which would then be published, shown or
overwritten. A hard link is a second name of the same file and cannot be told from it.
"""

import os
from fnmatch import fnmatch
from pathlib import Path


def real_path(path: Path) -> Path:
    """`path` without links (Windows' junctions too); what does not exist, or is a link in a circle, stays as it is."""
    return Path(os.path.realpath(path))


def leads_outside(path: Path, folder: Path) -> bool:
    """Whether `path` is, or passes through, a link to a place outside `folder`, which may itself be a link."""
    root = real_path(folder)
    if root.parent.name == "snapshots":  # a model in the cache of the Hub: its files are links to ../../blobs
        root = root.parent.parent
    return not real_path(path).is_relative_to(root)


def links_out_of(folder: Path, patterns: tuple[str, ...] = ("*",)) -> list[str]:
    """The names in `folder` that match one of the patterns and lead outside; none where there is no such folder."""
    names = sorted(os.listdir(folder)) if folder.is_dir() else []
    matching = [name for name in names if any(fnmatch(name, pattern) for pattern in patterns)]
    return [name for name in matching if leads_outside(folder / name, folder)]
