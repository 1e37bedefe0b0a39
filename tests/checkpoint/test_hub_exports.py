"""Exported files go to the Hub beside the checkpoint, open there, and leave with the weights that they were made of."""

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from helpers.fake_hub import FakeHub
from helpers.runs import mistake, output_of, run_with_transformers_only
from tinystories.commands import push


pytestmark = [pytest.mark.slow, pytest.mark.hub]

REPO = "someone/counting"
OPEN = f"""
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained({REPO!r}, subfolder="llama")
tokenizer = AutoTokenizer.from_pretrained({REPO!r}, subfolder="llama")
inputs = tokenizer("Story 7. one two", return_tensors="pt")
ids = model.generate(**inputs, do_sample=False, repetition_penalty=1.0)[0]
print(type(model).__name__, tokenizer.decode(ids, skip_special_tokens=True))
"""


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with FakeHub() as hub:
        hub.connect(monkeypatch, tmp_path / "home")
        yield hub


def publish(*options) -> None:
    push.main([str(option) for option in options])


def card(hub) -> str:
    return hub.files(REPO)["README.md"].decode()


def test_published_beside_the_checkpoint(hub, counting_run, tmp_path):
    """The plain folder opens from the repository without the code of the checkpoint, as the card says it does."""
    publish(counting_run, REPO, "--with", "llama")
    files = hub.files(REPO)
    assert {"llama/config.json", "llama/model.safetensors", "llama/tokenizer.json", "model.safetensors"} <= set(files)
    assert "llama/README.md" not in files, "the card of the repository says it"
    report = json.loads(files["export.json"])
    assert report["files"] == sorted(name for name in files if name.startswith("llama/"))
    assert f'from_pretrained("{REPO}", subfolder="llama")' in card(hub)
    assert len(hub.repositories[REPO].commits) == 2, "the empty repository, and one commit"
    said = output_of(run_with_transformers_only(OPEN, tmp_path, **hub.environment(tmp_path / "elsewhere")))
    assert said.startswith("LlamaForCausalLM Story 7. one two three four")


def test_no_export_of_other_weights_is_left(hub, counting_run, tmp_path):
    """A push of the same weights keeps files and section; one of other weights removes both."""
    publish(counting_run, REPO, "--with", "llama")
    hub.repositories[REPO].commit("main", "by hand", hub.files(REPO) | {"mine-Q4_K_M.gguf": b"by hand"})
    publish(counting_run, REPO)
    assert "llama/model.safetensors" in hub.files(REPO) and "## Other programs" in card(hub)

    folder = tmp_path / "trained-on"
    shutil.copytree(counting_run, folder, ignore=shutil.ignore_patterns("checkpoint-*"))
    weights = load_file(folder / "model.safetensors")
    save_file({name: weight * 1.01 for name, weight in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    publish(folder, REPO)
    left = set(hub.files(REPO))
    assert not [name for name in left if name.startswith("llama/") or name == "export.json"]
    assert {"model.safetensors", "mine-Q4_K_M.gguf"} <= left, "what the export did not write stays"
    assert "## Other programs" not in card(hub)


def test_edited_list_of_exports(hub, counting_run):
    """Somebody may edit export.json on the Hub: no file of the checkpoint is deleted by that."""
    publish(counting_run, REPO, "--with", "llama")
    for content in (b"{", json.dumps({"files": ["config.json", "README.md", "../x", 7]}).encode(), b'{"files": 7}'):
        hub.repositories[REPO].commit("main", "edited", hub.files(REPO) | {"export.json": content})
        publish(counting_run, REPO)
        assert {"config.json", "README.md", "model.safetensors"} <= set(hub.files(REPO))


def test_nothing_is_published_without_proof(hub, counting_run):
    assert "there is no such format" in mistake(publish, counting_run, REPO, "--with", "gguv")
    assert hub.requests == []
