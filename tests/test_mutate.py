"""The tool that measures how many small mistakes the guards and the tests find (mutate.py), on a toy module."""

import subprocess

import mutate
import pytest

from helpers.mutants import mutants, sample


TOY = '''"""A module. 1 + 1"""

import logging


logger = logging.getLogger(__name__)


def ends(tokens: list[int | None], width: int = 8) -> list[int]:
    """The last `width` of them, 2 at least."""
    if width < 2:
        logger.warning("%d is below 2", width + 1)
        raise ValueError(f"{width + 1} is below {1 + 1}")
    return tokens[-width:]


def unused(number):
    return number + 1
'''
TEST = """
from toy import ends


def test_ends():
    assert ends(list(range(20)), 3) == [17, 18, 19]
"""


def changes(source):
    return {mutant.change for mutant in mutants(source, "toy.py")}


def test_changes_of_a_module():
    """Docstrings, annotations, log messages and texts of errors stay."""
    assert changes(TOY) == {
        "8 → 7",
        "8 → 9",
        "8 → -8",
        "width < 2 → width <= 2",
        "width < 2 → width >= 2",
        "2 → 1",
        "2 → 3",
        "2 → -2",
        "remove raise ValueError(f'{width + 1} is below {1 + 1}')",
        "return tokens[-width:] → return None",
        "-width: → :",
        "-width: → :-1",
        "-width → width",
        "return number + 1 → return None",
        "number + 1 → number - 1",
        "1 → 0",
        "1 → 2",
    }


@pytest.mark.parametrize(
    ("line", "change"),
    [
        ("total += x", "total += x: = for its operator"),
        ("y = not x", "not x → x"),
        ("self.x = f(a, b)", "remove self.x = f(a, b)"),
        ("f(a, b)", "f(a, b): swap the first two arguments"),
        ("f(a, keep=True)", "drop keep=True"),
        ("f(a, keep=True)", "True → False"),
        ("y = min(a)", "min → max"),
        ("y = x.mean(-1)", "x.mean → x.sum"),
        ("y = x[:-1]", ":-1 → 1:"),
        ("y = x[1:]", "1: → :-1"),
        ("y = x.astype(np.float64)", "np.float64 → np.float32"),
        ("y = x.float()", "drop .float() of x"),
        ("y = a if b else c", "b → not"),
        ("y = torch.cat((-b, a))", "(-b, a) → (a, -b)"),
        ("y = a and b", "a and b → a or b"),
    ],
)
def test_change(line, change):
    assert change in changes(line)


def test_precedence():
    """An expression that takes the place of another keeps its parentheses."""
    [changed] = [one.source for one in mutants("y = (a + b) * c\nz = a - b", "toy.py") if one.change == "a + b → a - b"]
    assert eval(changed.splitlines()[0].removeprefix("y = "), {"a": 5, "b": 1, "c": 2}) == 8


def test_every_mutant_is_another_program():
    source = (mutate.ROOT / "tinystories/training/checkpointing.py").read_text(encoding="utf-8")
    found = mutants(source, "checkpointing.py")
    assert len({one.key for one in found}) == len({one.source for one in found}) == len(found) > 50
    assert source not in {one.source for one in found}
    assert all(compile(one.source, "checkpointing.py", "exec") for one in found)


def test_sample_outlives_edits():
    """The same mutants are drawn before and after a change elsewhere in the file, so that two scores compare."""
    before, after = mutants(TOY, "toy.py"), mutants(TOY.replace('"""A module', '"""\nOne module'), "toy.py")
    drawn = sample(before, 6, seed=0)
    assert [one.key for one in drawn] == [one.key for one in sample(after, 6, seed=0)]
    assert [one.key for one in drawn[:3]] == [one.key for one in sample(before, 3, seed=0)]
    assert [one.key for one in drawn] != [one.key for one in sample(before, 6, seed=1)]


def result(change, **verdicts):
    return {"file": "a.py", "line": 1, "text": "x = 1", "change": change} | verdicts


def test_scores(monkeypatch):
    """Neither equivalent mutants nor those that a judge has not seen count; a crash is a stop, and counted."""
    results = [
        result("1 → 0", guards="guard: no", tests="test: a"),
        result("1 → 2", guards="crash: b", tests="survived"),
        result("b", guards="survived", tests="test: a"),
        result("c", guards="survived", tests="survived"),
        result("d", guards="survived", tests="survived"),
        result("e", tests="test: a"),
    ]
    monkeypatch.setattr(mutate, "equivalents", lambda: {("a.py", "x = 1", "d"): "the same"})
    killed = {"guards": [2, 4], "tests": [3, 5], "either": [3, 4]}
    assert mutate.summary(results) == {"mutants": 6, "equivalent": 1, "crashes": 1, "killed": killed}
    assert mutate.survivors(results) == ["a.py:1: c\n    x = 1"]
    assert "| `a.py` | now | 6 | 1 | 50 % of 4 | 1 | 60 % of 5 | 75 % of 4 |" in mutate.table(
        {"now": {"a.py": {"results": results}}}
    )


def test_equivalents_have_reasons():
    for (file, line, change), reason in mutate.equivalents().items():
        assert file in mutate.TESTS and line and change and len(reason) > 10


@pytest.mark.slow
def test_judged_by_tests(tmp_path, monkeypatch):
    """In a copy: a mutant that a test finds is stopped, one that none finds survives, and the tree stays as it is."""
    tree, work = tmp_path / "toy", tmp_path / "work"
    (tree / "tests").mkdir(parents=True)
    work.mkdir()
    (tree / "toy.py").write_text(TOY)
    (tree / "tests" / "test_toy.py").write_text(TEST)
    (tree / "pyproject.toml").write_text('[tool.pytest.ini_options]\npythonpath = ["."]\n')
    subprocess.run(["git", "init", "-q"], cwd=tree, check=True)
    monkeypatch.setattr(mutate, "TESTS", {"toy.py": ["tests/test_toy.py"]})
    judges = mutate.Judges(tree, work)
    by_change = {one.change: one.source for one in mutants(TOY, "toy.py")}
    assert judges.judge("toy.py", TOY, ("tests",)) == {"tests": "survived"}
    killed = judges.judge("toy.py", by_change["-width → width"], ("tests",))
    assert killed == {"tests": "test: tests/test_toy.py::test_ends"}
    assert judges.judge("toy.py", by_change["number + 1 → number - 1"], ("tests",)) == {"tests": "survived"}
    assert (tree / "toy.py").read_text() == (judges.copy / "toy.py").read_text() == TOY
