"""run_generation.py: streams a story, stops where it ends, repeats itself for a seed, and explains mistakes."""

import json
import re

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from helpers.export_sources import small_tokenizer
from helpers.runs import COUNTING, mistake, run_command
from helpers.untrained import save
from tinystories.checkpoint.loading import load_checkpoint
from tinystories.commands import generate
from tinystories.evaluation.text.generation import write_samples


pytestmark = pytest.mark.slow


def test_story_ends(counting_run, tmp_path):
    output = tmp_path / "story.json"
    options = ["--greedy", "--repetition_penalty", "1.0", "--output_file", output]
    process = run_command("run_generation.py", counting_run, "Story 7. one two", *options)
    assert process.returncode == 0, process.stderr[-2000:]
    assert process.stdout == f"Story 7. {COUNTING}\n"
    result = json.loads(output.read_text())
    assert result["text"] == f"Story 7. {COUNTING}"
    assert result["finish_reason"] == "stop"
    counted, rate = re.search(r"\[(\d+) new tokens in [\d.]+ s, ([\d.]+) tokens/s", process.stderr).groups()
    assert int(counted) == result["new_tokens"]
    assert float(rate) == pytest.approx(result["new_tokens"] / result["seconds"], rel=0.01)


def test_seed(counting_run, tmp_path):
    """The same seed writes the same story, another seed another one."""
    texts = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        output = tmp_path / f"{name}.json"
        options = ["--temperature", "5", "--top_k", "0", "--top_p", "1", "--seed", seed, "--output_file", output]
        process = run_command("run_generation.py", counting_run, "Story", *options, "--max_new_tokens", "20")
        assert process.returncode == 0, process.stderr[-2000:]
        texts.append(json.loads(output.read_text())["text"])
    assert texts[0] == texts[1] != texts[2]


def test_context_limit(counting_run, tmp_path):
    """New tokens are limited by the context, and the output says so."""
    output = tmp_path / "story.json"
    options = ["--temperature", "10", "--top_k", "0", "--top_p", "1", "--seed", "3", "--max_new_tokens", "5000"]
    process = run_command("run_generation.py", counting_run, "Story", *options, "--output_file", output)
    assert process.returncode == 0, process.stderr[-2000:]
    result = json.loads(output.read_text())
    assert result["new_tokens"] < 64
    if result["finish_reason"] == "length":
        assert "stopped at the limit of tokens" in process.stderr


@pytest.mark.parametrize("preset", [None, "natural", "balanced", "conservative", "creative"])
def test_presets(preset, counting_run, tmp_path):
    """Each by its name; natural where none is named."""
    wanted = {"balanced": (0.8, 50, 0.95, 1.2), "conservative": (0.7, 40, 0.9, 1.3), "creative": (0.9, 60, 0.95, 1.1)}
    wanted["natural"] = wanted[None] = (0.8, 50, 0.95, 1.0)
    output = tmp_path / "story.json"
    options = [*(["--preset", preset] if preset else []), "--max_new_tokens", "2", "--output_file", output]
    process = run_command("run_generation.py", counting_run, "Story", *options)
    assert process.returncode == 0, process.stderr[-2000:]
    used = json.loads(output.read_text())["generation_config"]
    assert tuple(used[name] for name in ("temperature", "top_k", "top_p", "repetition_penalty")) == wanted[preset]


def test_temperature_zero(capsys):
    """As on the server: always the likeliest token, whatever the seed; just above it, as before."""
    texts = []
    for options in (["--temperature", "0", "--seed", "1"], ["--temperature", "0"], ["--greedy"]):
        generate.main(["Once upon a time", "--max_new_tokens", "40", *options])
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] == texts[2]
    generate.main(["Once upon a time", "--max_new_tokens", "2", "--temperature", "0.001"])


def test_stderr_is_ours(tmp_path):
    """A model of others and all that it imports: no progress bar, no advice of a library; on stdout the story."""
    tokenizer = small_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    folder = save(LlamaForCausalLM(config), tokenizer, tmp_path / "llama")
    process = run_command("run_generation.py", folder, "Once", "--max_new_tokens", "3", "--device", "cpu", fresh=True)
    assert process.stdout.startswith("Once") and "new tokens" not in process.stdout
    assert re.fullmatch(r"\[3 new tokens in [^\n]*\]\n", process.stderr)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere/at-all", "Once"], "no folder nowhere/at-all here, and the Hub is not asked"),
        (
            ["RUN", "Once", "--temperature", "-0.1"],
            "temperature must be 0, for always the likeliest token, or between 0.001 and 10",
        ),
        (["RUN", "Once", "--preset", "wild"], "invalid choice: 'wild'"),
        (["RUN", "word " * 200], "the context is 64"),
        (["RUN"], "prompt"),
        (["RUN", "Once", "--temprature", "1"], "temprature"),
    ],
)
def test_mistakes(arguments, message, counting_run):
    """A mistake is one line and exit status 1, without a traceback."""
    arguments = [str(counting_run) if word == "RUN" else word for word in arguments]
    process = run_command("run_generation.py", *arguments)
    errors = [line for line in process.stderr.splitlines() if line.startswith("error: ")]
    assert process.returncode == 1
    assert len(errors) == 1 and message in errors[0], process.stderr[-2000:]
    assert "Traceback" not in process.stderr


def test_batched_samples(counting_run):
    """Samples are written in batches; the random state is left as it was."""
    model, tokenizer = load_checkpoint(str(counting_run))
    state = torch.get_rng_state()
    prompts = ["Story 7. one two", "Story 12. one two three four five", "one"]
    written = write_samples(model, tokenizer, prompts, "balanced", [0, 1], max_new_tokens=40, batch_size=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert [(s.prompt, s.seed) for s in written] == [(p, seed) for seed in (0, 1) for p in prompts]
    assert written[0].ended and "nine ten." in written[0].text and "one two" not in written[0].text
    assert written == write_samples(model, tokenizer, prompts, "balanced", [0, 1], max_new_tokens=40, batch_size=2)
    assert "max_new_tokens" in mistake(write_samples, model, tokenizer, prompts, "balanced", [0], max_new_tokens=64)
