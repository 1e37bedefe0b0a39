"""Symbolic links in tests, where the system lets this user make them."""

from pathlib import Path

import pytest


def link(path: Path, target: Path | str) -> Path:
    """Make `path`, in place of a file that may be there, a link to `target`."""
    path.unlink(missing_ok=True)
    try:
        path.symlink_to(target, target_is_directory=(path.parent / target).is_dir())
    except OSError as error:  # Windows without developer mode
        pytest.skip(f"links cannot be made here: {error}")
    return path
