"""The commands and the Python of the README run; test_numbers.py compares its numbers with the records."""

import re
import shlex
from contextlib import chdir

import pytest
import torch

from helpers.runs import ROOT, TokenizerOfSize, output_of, run_command, run_with_transformers_only
from tinystories.checkpoint.loading import new_model
from tinystories.commands import generate
from tinystories.config.recipe import read_recipe


README = (ROOT / "README.md").read_text(encoding="utf-8")
FINETUNING = (ROOT / "docs/finetuning.md").read_text(encoding="utf-8")
BASH = [line for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL) for line in block.splitlines()]
COMMANDS = [part.strip() for line in BASH for part in line.split(";") if part.strip()]


def test_first_commands():
    """Install, a story, the tests, a model of one's own: they come first."""
    assert COMMANDS[:5] == [
        "python -m pip install -c constraints.txt -e .",
        'tinystories generate "Once upon a time" --seed 1',
        'python -m pip install -c constraints.txt -e ".[dev]"',
        "python -m pytest -n auto --dist loadfile",
        "python run_clm.py configs/demo.yaml",
    ]


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("python run_clm.py")])
def test_training_command_is_valid(command):
    _, script, *arguments = shlex.split(command)
    recipe = read_recipe([str(ROOT / word) if word.endswith(".yaml") else word for word in arguments])
    assert (ROOT / script).exists() and recipe.training.output_dir


@pytest.mark.slow
def test_demo_and_its_checkpoint(tmp_path, capsys, offline):
    """The first run with fewer steps, stories and layers; then the README's and docs/finetuning.md's code on its
    checkpoint.
    """
    short = ["--max_steps", "4", "--eval_steps", "2", "--save_steps", "2", "--num_sample_stories", "500"]
    short += ["--num_hidden_layers", "2", "--vocab_size", "1024"]
    process = run_command(
        "run_clm.py", ROOT / "configs/demo.yaml", *short, "--data_cache_dir", tmp_path / "cache", cwd=tmp_path
    )
    assert process.returncode == 0, process.stderr[-2000:]
    assert process.stdout.startswith("Once upon a time")
    assert "python run_generation.py" in process.stdout
    write, adapter = (re.search(r"```python\n(.*?)```", text, re.DOTALL).group(1) for text in (README, FINETUNING))
    assert "One day, a little fox" in output_of(run_with_transformers_only(f"{write}\n{adapter}", tmp_path))
    generation = next(command for command in COMMANDS if "run_generation.py" in command)
    with chdir(tmp_path):
        generate.main(shlex.split(generation)[2:])
        assert capsys.readouterr().out.startswith("One day, a little fox")
        generate.main(["runs/merged", "Once upon a time", "--greedy"])
        assert capsys.readouterr().out.startswith("Once upon a time")


def test_parameter_counts():
    rows = re.findall(r"\| \[[\w-]+\]\((configs/[\w-]+\.yaml)\) \| ([\d,]+) \|", README)
    sized = [path for path in (ROOT / "configs").glob("*.yaml") if "hidden_size" in path.read_text(encoding="utf-8")]
    assert len(rows) == len(sized) > 0
    for path, parameters in rows:
        recipe = read_recipe([str(ROOT / path)])
        with torch.device("meta"):
            model = new_model(recipe.model, TokenizerOfSize(recipe.tokenizer.vocab_size), recipe.data.block_size)
        assert f"{model.num_parameters():,}" == parameters, path
