"""A checkpoint is a complete Hub repository: it opens with transformers alone, and saves itself whole again."""

import json
import shutil
import subprocess
import sys
import sysconfig

import pytest
from huggingface_hub import ModelCard
from transformers import GenerationConfig

from helpers.runs import COUNTING, ROOT, output_of, run_with_transformers_only
from tinystories.generation.presets import PRESETS


FILES = {
    "README.md",
    "config.json",
    "configuration_tinystories.py",
    "generation_config.json",
    "generation_config_balanced.json",
    "generation_config_conservative.json",
    "generation_config_creative.json",
    "model.safetensors",
    "modeling_tinystories.py",
    "tokenizer.json",
    "tokenizer_config.json",
}

OPEN = """
import importlib.util, json, sys
assert importlib.util.find_spec("tinystories") is None and importlib.util.find_spec("modeling_tinystories") is None
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, pipeline
folder = sys.argv[1] if len(sys.argv) > 1 else {folder!r}
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
"""

WRITE = """
inputs = tokenizer("Story 7. one two", return_tensors="pt")
ids = model.generate(**inputs, do_sample=False, repetition_penalty=1.0, max_new_tokens=48)[0]
print(json.dumps([tokenizer.decode(ids, skip_special_tokens=True), ids[-1].item() == tokenizer.eos_token_id]))
"""


def everyone(counting_run):
    return [counting_run, *sorted(counting_run.glob("checkpoint-*"))]


def test_every_checkpoint_is_a_complete_repository(counting_run):
    folders = everyone(counting_run)
    assert len(folders) == 3
    for folder in folders:
        assert {file.name for file in folder.iterdir()} >= FILES
        config = json.loads((folder / "config.json").read_text())
        heads = {"AutoModelForCausalLM", "AutoModelForSequenceClassification"}
        assert set(config["auto_map"]) == {"AutoConfig", "AutoModel", *heads}
        assert config["use_cache"] is True
        for preset in (None, *PRESETS):
            name = f"generation_config_{preset}.json" if preset else "generation_config.json"
            generation = GenerationConfig.from_pretrained(folder, name)
            for key, value in PRESETS[preset or "balanced"].items():
                assert getattr(generation, key) == value
            for token in ("bos", "eos", "pad"):
                assert getattr(generation, f"{token}_token_id") == config[f"{token}_token_id"]
            assert generation.do_sample and generation.max_new_tokens == 48
        assert ModelCard.load(folder / "README.md").data.library_name == "transformers"


@pytest.mark.parametrize("which", ["run folder", "checkpoint-100"])
def test_a_fresh_process_elsewhere_opens_it_with_transformers_alone(which, counting_run, tmp_path):
    folder = str(counting_run if which == "run folder" else counting_run / which)
    text, ended = json.loads(
        output_of(run_with_transformers_only(OPEN.format(folder=folder) + WRITE, tmp_path)).splitlines()[-1]
    )
    assert text == f"Story 7. {COUNTING}"
    assert ended


def test_the_pipeline_writes_and_stops(counting_run, tmp_path):
    code = (
        OPEN
        + """
write = pipeline("text-generation", model=folder, trust_remote_code=True)
result = write("Story 7. one two", do_sample=False, repetition_penalty=1.0)
print(json.dumps(result[0]["generated_text"]))
"""
    )
    out = output_of(run_with_transformers_only(code.format(folder=str(counting_run)), tmp_path))
    assert json.loads(out.splitlines()[-1]) == f"Story 7. {COUNTING}"


def test_a_loaded_model_saved_again_carries_its_code(counting_run, tmp_path):
    code = (
        OPEN.format(folder=str(counting_run))
        + f"""
model.save_pretrained({str(tmp_path / "again")!r})
tokenizer.save_pretrained({str(tmp_path / "again")!r})
"""
    )
    output_of(run_with_transformers_only(code, tmp_path))
    for name in ("configuration_tinystories.py", "modeling_tinystories.py"):
        assert (tmp_path / "again" / name).read_text() == (ROOT / name).read_text()
    out = output_of(run_with_transformers_only(OPEN.format(folder=str(tmp_path / "again")) + WRITE, tmp_path))
    assert json.loads(out.splitlines()[-1]) == [f"Story 7. {COUNTING}", True]


def test_two_processes_may_open_it_at_once_for_the_first_time(counting_run, tmp_path):
    code = OPEN.format(folder=str(counting_run)) + WRITE
    modules = str(tmp_path / "modules")
    processes = [run_with_transformers_only(code, tmp_path, HF_MODULES_CACHE=modules) for _ in range(2)]
    for process in processes:
        assert json.loads(output_of(process).splitlines()[-1]) == [f"Story 7. {COUNTING}", True]


def test_base_model_and_config_open_by_their_auto_classes(counting_run, tmp_path):
    code = (
        OPEN
        + """
base = AutoModel.from_pretrained(folder, trust_remote_code=True)
config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
ids = torch.tensor([[1, 5, 6, 7]])
same = torch.equal(base(ids).last_hidden_state, model.model(ids).last_hidden_state)
print(json.dumps([type(base).__name__, type(config).__name__, same]))
"""
    )
    out = output_of(run_with_transformers_only(code.format(folder=str(counting_run)), tmp_path))
    assert json.loads(out.splitlines()[-1]) == ["TinyStoriesModel", "TinyStoriesConfig", True]


def test_without_trust_the_code_is_not_run(counting_run, tmp_path):
    code = OPEN.format(folder=str(counting_run)).replace("trust_remote_code=True", "trust_remote_code=False")
    process = run_with_transformers_only(code, tmp_path)
    assert "trust_remote_code" in process.communicate(timeout=300)[1]
    assert process.returncode != 0


def test_model_and_batches_survive_spawned_data_loader_workers(counting_run, tmp_path):
    """Workers that are spawned pickle the collator and the rows, and import everything anew."""
    script = tmp_path / "workers.py"
    script.write_text(
        f"""
import pickle, sys
sys.path.insert(0, {str(ROOT)!r})
from torch.utils.data import DataLoader
from tinystories.checkpoint import load_checkpoint
from tinystories.packing import StoryCollator

if __name__ == "__main__":
    model, tokenizer = load_checkpoint({str(counting_run)!r})
    assert pickle.loads(pickle.dumps(model)).num_parameters() == model.num_parameters()
    rows = [{{"input_ids": list(range(1, 9))}}] * 8
    loader = DataLoader(rows, batch_size=4, num_workers=2, collate_fn=StoryCollator(0), multiprocessing_context="spawn")
    print(sum(batch["labels"].numel() for batch in loader))
""",
        encoding="utf-8",
    )
    process = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr[-2000:]
    assert process.stdout.strip() == "64"


def test_an_installed_package_makes_complete_checkpoints(counting_run, tmp_path):
    """Installed as a wheel, not in a checkout: the code files and the templates must be found there."""
    source, prefix = tmp_path / "source", tmp_path / "prefix"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".git", "runs", "__pycache__", "*.egg-info", "build"))
    install = f"-m pip install -q --ignore-installed --no-deps --no-build-isolation --prefix {prefix} {source}"
    process = subprocess.run([sys.executable, *install.split()], capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr[-2000:]
    shutil.rmtree(source)
    site = sysconfig.get_path("purelib", vars={"base": str(prefix), "platbase": str(prefix)})
    code = f"""
import sys
sys.path.insert(0, {site!r})
import json, modeling_tinystories, tinystories.card as card, tinystories.checkpoint as checkpoint
import tinystories.report as report
assert modeling_tinystories.__file__.startswith({site!r}) and checkpoint.__file__.startswith({site!r})
model, tokenizer = checkpoint.load_checkpoint({str(counting_run)!r})
model.save_pretrained("saved")
recipe = json.load(open({str(counting_run / "recipe.json")!r}, encoding="utf-8"))
data = json.load(open({str(counting_run / "data_report.json")!r}, encoding="utf-8"))
empty = dict.fromkeys(["step", "epoch", "best_step", "tokens_seen", "last_evaluation", "evaluated_stories", "final"])
card.write_card("saved", model, empty | {{"recipe": recipe, "data": data}})
report.write_report({str(counting_run)!r}, "report")
"""
    output_of(run_with_transformers_only(code, tmp_path))
    saved = {file.name for file in (tmp_path / "saved").iterdir()}
    assert saved >= {"configuration_tinystories.py", "modeling_tinystories.py", "config.json", "README.md"}
    assert (tmp_path / "report" / "index.html").exists()
