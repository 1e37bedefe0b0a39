"""A result that was measured before is used again as it was written, or measured again."""

import pytest

from tinystories.evaluation.cache import ResultCache


RESULT = {"bits_per_byte": 0.7531, "samples": ["Éva ran."], "worst": float("inf"), "none": None}


@pytest.fixture
def measured(tmp_path):
    """The result, and whether it was measured just now."""

    def measured() -> tuple[dict, bool]:
        calls = []
        return ResultCache(tmp_path).get("part", ["seed", 1], lambda: calls.append(1) or RESULT), bool(calls)

    assert measured() == (RESULT, True)
    return measured


def test_used_again(measured, caplog):
    assert measured() == (RESULT, False) and not caplog.text


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("0.7531", "0.7521"),
        ("Éva", "Eva"),
        ("Infinity", "1234567"),
        ('"result"', '"resalt"'),
        ("}", ""),
        ("sha", "Sha"),
    ],
)
def test_damaged_result(measured, tmp_path, caplog, old, new):
    """A changed number is JSON all the same."""
    (file,) = tmp_path.iterdir()
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace(old, new), encoding="utf-8")
    assert measured() == (RESULT, True) and "is damaged" in caplog.text
    assert file.read_text(encoding="utf-8") == text and measured() == (RESULT, False)
