"""The pictures of the page: what tools/moving_picture.py makes of screenshots, and the picture that is committed."""

import io

import pytest
from PIL import Image, ImageSequence

from helpers.runs import ROOT, load_script


TOOL = load_script("tools/moving_picture.py")


def durations(file) -> list[int]:
    shown = []
    for frame in ImageSequence.Iterator(Image.open(file)):
        frame.load()  # reads its duration
        shown.append(frame.info["duration"])
    return shown


def test_equal_screenshots_are_one_frame():
    """A busy machine takes the same screenshot many times: the picture would stand still for that long."""
    colours = ["white", *["red"] * 30, "blue", "green"]
    animation = TOOL.animation([Image.new("RGB", (8, 8), colour) for colour in colours])
    assert durations(io.BytesIO(animation)) == [TOOL.FIRST, TOOL.FIRST, TOOL.FRAME, TOOL.LAST]


def test_too_large_a_picture_is_refused(tmp_path):
    """Megabytes that everyone downloads who opens the README."""
    pictures, file = [Image.new("RGB", (8, 8), "red")], tmp_path / "page.webp"
    size = len(TOOL.animation(pictures))
    with pytest.raises(SystemExit, match=f"a picture of {size} bytes: at most {size - 1}"):
        TOOL.write(pictures, file, size - 1)
    assert not file.exists()
    TOOL.write(pictures, file, size)
    assert file.stat().st_size == size


def test_committed_picture_moves():
    shown = durations(TOOL.OUTPUT)
    assert len(shown) > 20 and 5_000 < sum(shown) < 30_000
    assert Image.open(TOOL.OUTPUT).size == (TOOL.WIDTH, TOOL.HEIGHT)
    assert TOOL.OUTPUT == ROOT / "docs/figures/page.webp"
