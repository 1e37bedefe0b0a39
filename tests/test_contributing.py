"""CONTRIBUTING.md, CHANGELOG.md and the links of all documents agree with the files."""

import re
import tomllib

import pytest
import yaml

from helpers.runs import ROOT
from tinystories.config.packaged import BOXED


PACKAGE = ROOT / "tinystories"
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")]
QUESTIONS = {
    "rate limit": "rate_limit.py",
    "file format": "readers.py",
    "plain next-token loss": "loss.py",
    "cache key of packed rows": "packing.py",
    "presets (": "presets.py",
    "write the model card": "model_card.py",
    "complete on disk (": "checkpointing.py",
    "momentum": "muon.py",
    "the page's streaming": "stream.js",
    "minimal-pair rules": "rules.py",
}


def tree() -> list[tuple[str, str]]:
    """(path, description) of each file in the tree; indentation says in which folder it is."""
    lines = re.search(r"<!-- tree -->\n```text\n(.*?)```", CONTRIBUTING, re.DOTALL).group(1).splitlines()
    folders, files = [], []
    for line in filter(None, lines):
        depth = (len(line) - len(line.lstrip())) // 2
        name, _, description = line.strip().partition(" ")
        del folders[depth:]
        if name.endswith("/"):
            folders.append(name)
        else:
            files.append(("".join(folders) + name, description.strip()))
    return files


def test_tree_names_each_module_once():
    """A module that the tour leaves out is never found; one that is gone misleads."""
    modules = [path for kind in ("*.py", "*.js") for path in PACKAGE.rglob(kind) if path.name != "__init__.py"]
    modules = [path for path in modules if path.parent != BOXED]  # copies of the two files at the top
    assert sorted(path for path, _ in tree()) == sorted(path.relative_to(ROOT).as_posix() for path in modules)
    assert all(description for _, description in tree())


@pytest.mark.parametrize("words", QUESTIONS)
def test_tree_answers(words):
    """A newcomer who searches the tree for these words finds the file."""
    found = [path.rpartition("/")[2] for path, description in tree() if words in (path + " " + description).lower()]
    assert found == [QUESTIONS[words]]


def test_named_paths_exist():
    """Every path in backticks is there, in the project or in the package; capitals stand for a name to choose."""
    paths = re.findall(r"`([\w.-]+(?:/[\w.-]+)*/[\w.-]*|[\w-]+\.(?:md|py|toml))`", CONTRIBUTING)
    roots = (ROOT, PACKAGE, PACKAGE / "evaluation/text", PACKAGE / "evaluation/minimal_pairs")
    future = {"tinystories/exporting/", "configs/NAME.yaml"}
    missing = {path for path in paths if not any((root / path).exists() for root in roots)}
    assert len(paths) > 40 and missing <= future


def test_version_is_in_changelog():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## \[{re.escape(project['version'])}\] - \d{{4}}-\d\d-\d\d$", changelog, re.MULTILINE)
    assert "\n## [Unreleased]\n" in changelog


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_exist(document):
    """Links to files of the project; those of model_card.md are template code."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)\s]+)\)", text) if document.name != "model_card.md" else []
    targets = [link.split("#")[0] for link in links if not re.match(r"https?:|#", link)]
    assert [target for target in targets if not (document.parent / target).exists()] == []


def test_index_lists_each_document():
    index = (ROOT / "docs/README.md").read_text(encoding="utf-8")
    assert [path.name for path in ROOT.glob("docs/*.md") if f"]({path.name})" not in index] == ["README.md"]


def test_ci_runs_the_documented_commands():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    commands = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    assert [command for command in commands if command not in CONTRIBUTING] == []
    assert {".ci/run", 'python -m pytest -m "not slow"'} <= set(commands)
