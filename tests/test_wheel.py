"""What would be published: the archive of the sources, the wheel built from it, their metadata, and the notebook in an
environment that has the wheel and no checkout.

tests/checkpoint/test_loading.py opens and saves checkpoints with an installed wheel.
"""

import email
import json
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from packaging.requirements import Requirement

from helpers.installation import Installation, copy_of_checkout
from helpers.runs import ROOT


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NOTEBOOK = ROOT / "docs" / "quickstart.ipynb"
SHORT = {  # a line of the notebook -> what it is replaced by, so that it takes seconds
    "--max_steps 60 --warmup_steps 6 --eval_steps 10 --save_steps 10": "--max_steps 4 --warmup_steps 1 --eval_steps 4 "
    "--save_steps 4 --num_sample_stories 300 --vocab_size 512 --num_hidden_layers 1 --hidden_size 64 "
    "--intermediate_size 128 --num_attention_heads 2 --torch_compile false",
    "evaluate runs/demo --quick": "evaluate runs/demo --quick --stories 8 --pairs 4 --prompts 2 --max_new_tokens 16",
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The two files and what the build printed; the wheel is built from the archive, as pip does it."""
    folder = tmp_path_factory.mktemp("built")
    source = copy_of_checkout(folder / "source")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", source]
    process = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=300)
    assert process.returncode == 0, process.stderr[-3000:]
    (wheel,), (archive,) = (folder / "dist").glob("*.whl"), (folder / "dist").glob("*.tar.gz")
    return wheel, archive, process.stdout + process.stderr


@pytest.fixture(scope="module")
def wheel(built):
    return built[0]


def test_build_and_check_are_clean(built):
    """A folder of data that the next setuptools leaves out, or a page on PyPI that is not shown, is a warning today."""
    wheel, archive, printed = built
    warnings = [line for line in printed.splitlines() if "warn" in line.lower() or "deprecat" in line.lower()]
    assert [line for line in warnings if "byte-compiling is disabled" not in line] == []
    command = [sys.executable, "-m", "twine", "check", "--strict", wheel, archive]
    process = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    assert process.returncode == 0 and process.stdout.count("PASSED") == 2, process.stdout + process.stderr


def test_wheel_holds_every_file_of_the_package(wheel):
    """A page, a template or a recipe that is there in a checkout and missing after an installation."""
    names = set(zipfile.ZipFile(wheel).namelist())
    files = {path for path in (ROOT / "tinystories").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    wanted = {path.relative_to(ROOT).as_posix() for path in files}
    wanted |= {f"tinystories/recipes/{path.relative_to(ROOT / 'configs').as_posix()}" for path in recipes()}
    wanted |= {"configuration_tinystories.py", "modeling_tinystories.py"}
    assert wanted - names == set()
    others = {name for name in names - wanted if ".dist-info/" not in name}
    assert others == {f"tinystories-{PROJECT['version']}.data/data/share/tinystories/model_card.md"}


def test_archive_holds_what_the_wheel_is_built_of(built):
    """Without the tests: the few that setuptools would add run nowhere."""
    with tarfile.open(built[1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"pyproject.toml", "README.md", "LICENSE", "model_card.md", "constraints.txt", "CHANGELOG.md"}
    wanted |= {path.relative_to(ROOT).as_posix() for path in recipes()}
    assert wanted - names == set()
    assert [name for name in names if name.startswith(("tests", "docs", "benchmarks", "runs"))] == []


def recipes() -> list[Path]:
    return [path for path in (ROOT / "configs").rglob("*") if path.is_file()]


def test_metadata(wheel):
    """The page of the package says what is true, and what a search needs."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
    assert metadata["License-Expression"] == "MIT" and metadata["Description-Content-Type"] == "text/markdown"
    assert {"language-model", "stories", "transformers"} <= set(metadata["Keywords"].split(","))
    classifiers = metadata.get_all("Classifier")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    minors = [
        int(line.rpartition(".")[2]) for line in classifiers if line.startswith("Programming Language :: Python :: 3.")
    ]
    assert metadata["Requires-Python"] == f">=3.{minors[0]}" and minors == list(range(minors[0], minors[-1] + 1))
    assert f"Python 3.{minors[0]} to 3.{minors[-1]}" in readme
    assert "Typing :: Typed" in classifiers and (ROOT / "tinystories/py.typed").exists()
    needed = {Requirement(line).name for line in metadata.get_all("Requires-Dist") if "extra ==" not in line}
    assert needed == {Requirement(line).name for line in PROJECT["dependencies"]}


def test_notebook_is_as_it_should_be():
    """Results of an earlier version, or folders of somebody's machine; a wheel of another version."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert [cell.id for cell in notebook.cells if cell.get("outputs") or cell.get("execution_count")] == []
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert text.count(f"tinystories-{PROJECT['version']}-py3-none-any.whl") == text.count(".whl") > 0
    assert "/home/" not in text and "/tmp" not in text and "/content" not in text


def test_notebook(wheel, tmp_path, monkeypatch):
    """Every cell, in an environment with the wheel alone, in a folder that holds nothing else. Only the sizes in SHORT
    are changed."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / wheel.name).write_bytes(wheel.read_bytes())
    installation = Installation(tmp_path / "venv")
    kernel = tmp_path / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    argv = [str(installation.python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "Python", "language": "python"}))
    for name, value in installation.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PIP_NO_DEPS", "1")  # test_metadata compares them
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for line, shorter in SHORT.items():
        (cell,) = (cell for cell in notebook.cells if line in cell.source)
        cell.source = cell.source.replace(line, shorter)
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(folder)}}).execute()
    shown = {cell.source: "".join(map(text_of, cell.outputs)) for cell in notebook.cells if cell.cell_type == "code"}
    wrong = {source: text for source, text in shown.items() if "error:" in text or "Traceback" in text}
    assert wrong == {}
    for command, expected in EXPECTED.items():
        assert expected in next(text for source, text in shown.items() if command in source), (command, shown)


EXPECTED = {
    'generate "Once upon a time"': "Once upon a time",
    "pipeline(": "One day, a little fox",
    "GenerationConfig": "creative (temperature 0.9, repetition penalty 1.1):\nOnce upon a time",
    "tinystories train": "Your model: runs/demo",
    "generate runs/demo": "Once upon a time",
    "pyplot": "image/png",
    "tinystories evaluate": "Results: evaluation/evaluation.json",
}


def text_of(output: dict) -> str:
    return output.get("text") or " ".join(output.get("data", {}))
