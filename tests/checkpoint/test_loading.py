"""A checkpoint is a complete Hub repository: it opens with transformers alone, and saves itself whole again."""

import contextlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from torch.utils.data import DataLoader
from transformers import GenerationConfig

from helpers.runs import COUNTING, ROOT, mistake, output_of, run_with_transformers_only
from tinystories.checkpoint.loading import load_checkpoint
from tinystories.config.packaged import BOXED
from tinystories.data.packing import StoryCollator
from tinystories.generation.presets import PRESETS


pytestmark = pytest.mark.slow

FILES = {
    "README.md",
    "config.json",
    "configuration_tinystories.py",
    "generation_config.json",
    "generation_config_balanced.json",
    "generation_config_conservative.json",
    "generation_config_creative.json",
    "generation_config_natural.json",
    "model.safetensors",
    "modeling_tinystories.py",
    "tokenizer.json",
    "tokenizer_config.json",
}

# One process does all of it, because starting Python with torch takes longer than any part of it.
ALONE = """
import importlib.util, json, sys
assert importlib.util.find_spec("tinystories") is None and importlib.util.find_spec("modeling_tinystories") is None
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, pipeline

def open_both(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    return tokenizer, AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)

def write(folder):
    tokenizer, model = open_both(folder)
    inputs = tokenizer("Story 7. one two", return_tensors="pt")
    ids = model.generate(**inputs, do_sample=False, repetition_penalty=1.0, max_new_tokens=48)[0]
    return [tokenizer.decode(ids, skip_special_tokens=True), ids[-1].item() == tokenizer.eos_token_id]
"""
LOOK = """
run, checkpoint, again = {folders!r}
found = {{}}
for auto_class in (AutoConfig, AutoModelForCausalLM):
    try:
        auto_class.from_pretrained(run, trust_remote_code=False)
    except ValueError as error:
        found.setdefault("refused", []).append(str(error))
found["executed"] = [name for name in sys.modules if "tinystories" in name]
found["written"] = [write(run), write(checkpoint)]
tell = pipeline("text-generation", model=run, trust_remote_code=True)
found["pipeline"] = tell("Story 7. one two", do_sample=False, repetition_penalty=1.0)[0]["generated_text"]
tokenizer, model = open_both(run)
base = AutoModel.from_pretrained(run, trust_remote_code=True)
config = AutoConfig.from_pretrained(run, trust_remote_code=True)
ids = torch.tensor([[1, 5, 6, 7]])
same = torch.equal(base(ids).last_hidden_state, model.model(ids).last_hidden_state)
found["base"] = [type(base).__name__, type(config).__name__, same]
model.save_pretrained(again)
tokenizer.save_pretrained(again)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def again(tmp_path_factory):
    """Where the fresh process saves the model that it opened."""
    return tmp_path_factory.mktemp("alone") / "again"


@pytest.fixture(scope="module")
def alone(counting_run, again) -> dict:
    """What a fresh process in another folder finds with transformers alone."""
    folders = [str(folder) for folder in (counting_run, counting_run / "checkpoint-100", again)]
    process = run_with_transformers_only(ALONE + LOOK.format(folders=folders), again.parent)
    return json.loads(output_of(process).splitlines()[-1])


def everyone(counting_run):
    return [counting_run, *sorted(counting_run.glob("checkpoint-*"))]


def test_files_of_every_checkpoint(counting_run):
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
            for key, value in PRESETS[preset or "natural"].items():
                assert getattr(generation, key) == value
            for token in ("bos", "eos", "pad"):
                assert getattr(generation, f"{token}_token_id") == config[f"{token}_token_id"]
            assert generation.do_sample and generation.max_new_tokens == 48
        assert ModelCard.load(folder / "README.md").data.library_name == "transformers"


def test_opens_with_transformers_alone(alone):
    assert alone["written"] == [[f"Story 7. {COUNTING}", True]] * 2


def test_pipeline(alone):
    """It writes the story and stops where the story ends."""
    assert alone["pipeline"] == f"Story 7. {COUNTING}"


def test_base_model_and_config(alone):
    assert alone["base"] == ["TinyStoriesModel", "TinyStoriesConfig", True]


def test_code_is_not_run_without_trust(alone):
    assert len(alone["refused"]) == 2 and all("trust_remote_code" in message for message in alone["refused"])
    assert alone["executed"] == []


def test_saved_again(alone, again):
    """A model that was loaded and saved carries its code; two processes may open it at once for the first time."""
    for name in ("configuration_tinystories.py", "modeling_tinystories.py"):
        assert (again / name).read_text() == (ROOT / name).read_text()
    code = ALONE + f"print(json.dumps(write({str(again)!r})))"
    modules = str(again.parent / "modules")
    processes = [run_with_transformers_only(code, again.parent, HF_MODULES_CACHE=modules) for _ in range(2)]
    for process in processes:
        assert json.loads(output_of(process).splitlines()[-1]) == [f"Story 7. {COUNTING}", True]


def test_spawned_data_worker(counting_run):
    """A worker that is spawned gets the collator and the rows pickled; a model can be pickled as well."""
    model, _ = load_checkpoint(str(counting_run))
    assert pickle.loads(pickle.dumps(model)).num_parameters() == model.num_parameters()
    rows = [{"input_ids": list(range(1, 9))}] * 8
    loader = DataLoader(rows, batch_size=4, num_workers=1, collate_fn=StoryCollator(0), multiprocessing_context="spawn")
    assert [batch["labels"].numel() for batch in loader] == [32, 32]


def test_missing_file_is_named(counting_run, tmp_path):
    """Guards: the library's own message, which asks for a package that would not help."""
    shutil.copytree(counting_run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoint-*", "tokenizer.json"))
    assert "it has no tokenizer.json" in mistake(load_checkpoint, str(tmp_path / "run"))


def test_run_that_was_killed(counting_run, tmp_path):
    """Its folder holds no weights yet; what can be opened is named."""
    for step in (50, 100):
        shutil.copytree(counting_run / f"checkpoint-{step}", tmp_path / f"checkpoint-{step}")
    assert mistake(load_checkpoint, str(tmp_path)).endswith(
        f"its run is not finished; end it with --resume, or give {tmp_path / 'checkpoint-100'}"
    )


def test_installed_package(counting_run, tmp_path):
    """Installed as a wheel, without a checkout, the package finds its code files and templates."""
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
import json, modeling_tinystories
from tinystories.checkpoint import loading
from tinystories.reporting import card_facts, model_card, run_report
assert modeling_tinystories.__file__.startswith({site!r}) and loading.__file__.startswith({site!r})
model, tokenizer = loading.load_checkpoint({str(counting_run)!r})
model.save_pretrained("saved")
recipe = json.load(open({str(counting_run / "recipe.json")!r}, encoding="utf-8"))
data = json.load(open({str(counting_run / "data_report.json")!r}, encoding="utf-8"))
model_card.write_card("saved", model, card_facts.CardFacts(recipe, data, step=1))
run_report.write_report({str(counting_run)!r}, "report")
from tinystories.config.packaged import find_recipe
assert str(find_recipe("demo")).startswith({site!r}) and find_recipe("tinystories-1m").exists()
assert loading.Path({site!r}, "tinystories", "py.typed").exists()
from tinystories.checkpoint.quick import open_quickly
from tinystories.config.packaged import BOXED, find_checkpoint
assert find_checkpoint("boxed") == str(BOXED) and str(BOXED).startswith({site!r})
assert open_quickly(str(BOXED)) is not None
print(json.dumps({{file.name: file.stat().st_size for file in BOXED.iterdir() if file.is_file()}}))
"""
    boxed = json.loads(output_of(run_with_transformers_only(code, tmp_path)).splitlines()[-1])
    assert boxed == {file.name: file.stat().st_size for file in BOXED.iterdir() if file.is_file()}
    saved = {file.name for file in (tmp_path / "saved").iterdir()}
    assert saved >= {"configuration_tinystories.py", "modeling_tinystories.py", "config.json", "README.md"}
    assert (tmp_path / "report" / "index.html").exists()


@contextlib.contextmanager
def not_root():
    """As another user, where the tests run as root: for root everything may be read."""
    if os.getuid() != 0:
        yield
        return
    nobody = 65534
    os.setresuid(nobody, nobody, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="changes the user")
def test_files_that_may_not_be_read(counting_run):
    """transformers says of them that they do not exist."""
    load_checkpoint(str(counting_run))  # what another user could not import
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        copy = Path(folder, "copy")
        shutil.copytree(counting_run, copy, ignore=shutil.ignore_patterns("checkpoint-*"))
        (copy / "model.safetensors").chmod(0)
        with not_root():
            assert mistake(load_checkpoint, str(copy)).endswith("model.safetensors may not be read")
        copy.chmod(0)
        with not_root():
            assert mistake(load_checkpoint, str(copy)).endswith(": it may not be read")
        copy.chmod(0o755)
    assert mistake(load_checkpoint, str(copy)) == f"no folder {copy}"


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"", b"not a pickle", b"\x80\x05cut"], ids=str)
def test_damaged_pickle(content, counting_run, tmp_path):
    """One line, which does not advise to run the code of a pickle."""
    ignored = shutil.ignore_patterns("checkpoint-*", "*.safetensors")
    shutil.copytree(counting_run, tmp_path / "copy", ignore=ignored)
    (tmp_path / "copy" / "pytorch_model.bin").write_bytes(content)
    message = mistake(load_checkpoint, str(tmp_path / "copy"))
    assert message.endswith("its weights are damaged, or hold more than weights") and "weights_only" not in message
