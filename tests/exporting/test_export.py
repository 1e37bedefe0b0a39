"""The command: what it writes proves to be the same model; what cannot be written or differs leaves nothing."""

import json
import os
import shutil
import time

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from helpers.fake_hub import FakeHub
from helpers.forked import ForkedCommand, fork_command
from helpers.runs import mistake, output_of, run_with_transformers_only
from helpers.untrained import save, untrained_model
from tinystories.checkpoint.loading import load_checkpoint
from tinystories.commands import export, push
from tinystories.exporting import plain
from tinystories.exporting.formats import FORMATS, parse_formats, title_of
from tinystories.exporting.proof import ProofError, expected_of, prove
from tinystories.exporting.source import open_source
from tinystories.exporting.texts import NUM_TEXTS, proof_texts


def run(*options) -> None:
    export.main([str(option) for option in options])


def left(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def exported(counting_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "out"
    run(counting_run, "--format", "llama", "--output_dir", folder)
    return folder


def model_of(counting_run, folder, dtype=torch.float32, **sizes):
    """An untrained checkpoint with the tokenizer of `counting_run`."""
    _, tokenizer = load_checkpoint(str(counting_run))
    return save(untrained_model(tokenizer, context=64, **sizes).to(dtype), tokenizer, folder)


@pytest.mark.slow
def test_plain_folder(exported, counting_run):
    """Opened without this project it is transformers' own class, with the checkpoint's logits and tokens."""
    code = f"""
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline
model = AutoModelForCausalLM.from_pretrained({str(exported / "llama")!r})
tokenizer = AutoTokenizer.from_pretrained({str(exported / "llama")!r})
ids = model.generate(**tokenizer("Story 7. one two", return_tensors="pt"), do_sample=False, repetition_penalty=1.0)
print(type(model).__name__, tokenizer.decode(ids[0]))
"""
    said = output_of(run_with_transformers_only(code, exported))
    assert said.startswith("LlamaForCausalLM <|bos|>Story 7. one two three four five six seven eight nine ten.<|eos|>")
    assert left(exported) == ["export.json", "llama"]
    report = json.loads((exported / "export.json").read_text(encoding="utf-8"))
    (proof,) = report["formats"]["llama"]["proofs"]
    assert proof["largest_logit_difference"] == 0.0 and proof["texts"] == 300 and report["stories_from"] == "run"
    assert proof["greedy_tokens_equal"] == proof["greedy_tokens"] > 40
    assert proof["bits_per_byte"] == report["bits_per_byte"]
    assert report["weights_sha256"] == open_source(str(counting_run)).weights_sha256
    sizes = report["formats"]["llama"]["bytes"]
    assert sizes["model.safetensors"] == (exported / "llama" / "model.safetensors").stat().st_size
    card = (exported / "llama" / "README.md").read_text(encoding="utf-8")
    assert report["weights_sha256"] in card and f"{report['bits_per_byte']:.4f}" in card
    assert "trust_remote_code=" not in card


@pytest.mark.slow
@pytest.mark.parametrize(
    "sizes",
    [
        {"partial_rotary_factor": 0.5},
        {"num_attention_heads": 4, "num_key_value_heads": 2},
        {"tie_word_embeddings": False, "rope_theta": 5e5},
        {"partial_rotary_factor": 0.25, "num_attention_heads": 2, "num_key_value_heads": 1},
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_kind_of_network(sizes, dtype, counting_run, tmp_path):
    """Same logits, in the checkpoint's dtype; other programs find the rotary embedding by its earlier names too."""
    source = open_source(str(model_of(counting_run, tmp_path / "model", dtype, **sizes)))
    (tmp_path / "out").mkdir()
    plain.write(source, tmp_path / "out")
    opened = AutoModelForCausalLM.from_pretrained(tmp_path / "out", trust_remote_code=False)
    partial = sizes.get("partial_rotary_factor", 1.0)
    assert type(opened).__name__ == ("LlamaForCausalLM" if partial == 1.0 else "Phi3ForCausalLM")
    assert opened.dtype == dtype and not hasattr(opened.config, "auto_map")
    ids = torch.randint(3, len(source.tokenizer), (2, 64))
    assert torch.equal(opened.float().eval()(ids).logits, source.model(ids).logits)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == sizes.get("rope_theta", 1e4)
    assert config.get("partial_rotary_factor", 1.0) == partial and config["torch_dtype"] == config["dtype"]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out", trust_remote_code=False)
    assert tokenizer("<|eos|> a")["input_ids"] == source.tokenizer("<|eos|> a")["input_ids"]


@pytest.mark.slow
def test_another_model_is_no_proof(counting_run, tmp_path):
    """One weight that differs, another order of tokens, NaN: the proof names file, token and difference."""
    source = open_source(str(counting_run))
    expected = expected_of(source)
    good = tmp_path / "good"
    good.mkdir()
    plain.write(source, good)
    (reader,) = plain.readers(source, good)
    assert prove(expected, reader)["largest_logit_difference"] == 0.0

    layer = reader.model.model.layers[1].mlp.down_proj.weight
    before = layer.detach().clone()
    with torch.no_grad():
        layer.mul_(-1)
        assert "greedy token" in mistake(prove, expected, reader) and "whose logit is higher by" in mistake(
            prove, expected, reader
        )
        layer.copy_(before * float("nan"))
        mistake(prove, expected, reader)
        layer.copy_(before)
        reader.model.model.norm.weight.mul_(1.1)  # all logits: the greedy tokens stay
        with pytest.raises(ProofError, match="bits per byte on"):
            prove(expected, reader)
        reader.model.model.norm.weight.div_(1.1)
    reader.tokenizer = AutoTokenizer.from_pretrained(counting_run, trust_remote_code=True, split_special_tokens=False)
    assert "token 1 of '<|bos|>' is 1, and in the checkpoint's tokenizer" in mistake(prove, expected, reader)


@pytest.mark.slow
def test_reduced_precision_is_compared_by_bits_per_byte(counting_run, tmp_path):
    """Rounding may turn greedy tokens, which are counted; more than one per cent of bits per byte is refused."""
    source = open_source(str(model_of(counting_run, tmp_path / "model")))
    expected = expected_of(source)
    (tmp_path / "out").mkdir()
    plain.write(source, tmp_path / "out")
    (reader,) = plain.readers(source, tmp_path / "out")
    reader.exact = False
    with torch.no_grad():
        for weight in reader.model.parameters():
            weight.add_(1e-3 * weight.std() * torch.randn_like(weight))
        found = prove(expected, reader)
        assert 0 <= found["greedy_tokens_equal"] <= found["greedy_tokens"]
        assert found["bits_per_byte"] == pytest.approx(expected.bits_per_byte, rel=0.01)
        reader.model.model.norm.weight.mul_(30)
    assert "bits per byte on" in mistake(prove, expected, reader)


def test_texts():
    """300 of them, the same each time, with every kind of text in which two tokenizers have differed."""
    texts = proof_texts(["Once upon a time."])
    assert len(texts) == NUM_TEXTS and texts == proof_texts(["Once upon a time."])
    everything = "".join(texts)
    assert {"\u0301", "\u200d", "\u0085", "\ufeff", "\u3000", "\U0001f469", "\u0e33", "\x00"} <= set(everything)
    assert "<|eos|>" in texts and "" in texts and max(map(len, texts)) >= 300
    assert len(proof_texts([])) == len(proof_texts(["story"] * 10**4)) == NUM_TEXTS
    np.testing.assert_array_less(100, len({letter for letter in everything if ord(letter) > 0x2FF}))
    everything.encode()  # no lone surrogate, which is no text


def test_formats():
    assert parse_formats(["llama,gguf", "page"], "--format") == ["llama", "gguf", "page"]
    assert parse_formats(["page", "llama", "page"], "--format") == ["llama", "page"], "each once, in order of writing"
    assert parse_formats(["onnx"], "--format") == ["llama", "onnx"], "the folder that ONNX files stand in"
    for words, remedy in (
        ("GGUF", "did you mean gguf?"),
        ("safetensors", ", ".join(FORMATS)),
        (",", ", ".join(FORMATS)),
    ):
        assert remedy in mistake(parse_formats, [words], "--format")


def test_title(tmp_path):
    """Exports of two checkpoints of a run, or of two runs at one step, do not share a name."""
    assert title_of(str(tmp_path / "runs" / "demo")) == title_of("someone/demo") == "demo"
    assert title_of(str(tmp_path / "runs" / "demo" / "checkpoint-20")) == "demo-checkpoint-20"


@pytest.mark.slow
def test_stories_to_compare_on(counting_run, tmp_path):
    """Those that are named; the validation file of the run, without its training stories; else the sample corpus."""
    story = "Story 3. one two three four five six seven eight nine ten."
    (tmp_path / "held.txt").write_text(f"{story}\n<|endoftext|>\n" * 3, encoding="utf-8")
    folder = tmp_path / "run"
    shutil.copytree(counting_run, folder, ignore=shutil.ignore_patterns("checkpoint-*"))
    source = open_source(str(folder))
    assert expected_of(source).stories_from == "run"
    named = expected_of(source, str(tmp_path / "held.txt"))
    assert named.stories_from == "named" and len(named.stories) == 3
    recipe = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
    gone = recipe | {"train_file": str(tmp_path / "gone.txt")}
    own = gone | {"validation_file": str(tmp_path / "held.txt")}
    (folder / "recipe.json").write_text(json.dumps(own), encoding="utf-8")
    assert expected_of(source).stories_from == "run"
    (folder / "recipe.json").write_text(json.dumps(gone), encoding="utf-8")
    assert expected_of(source).stories_from == "sample corpus"


@pytest.mark.slow
def test_bad_input(exported, counting_run, tmp_path):
    """One line, and nothing is left; what exists is not touched."""
    out = tmp_path / "out"
    options = ["--format", "llama", "--output_dir", out]
    assert "no folder" in mistake(run, tmp_path / "absent", *options)
    assert "did you mean gguf?" in mistake(run, counting_run, "--format", "ggf", "--output_dir", out)
    assert "has no --revision" in mistake(run, counting_run, *options, "--revision", "main")
    assert f"{exported} exists" in mistake(run, counting_run, "--format", "llama", "--output_dir", exported)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "letter.txt").write_text("dear")
    assert "is not an export" in mistake(run, counting_run, *options[:-1], mine, "--overwrite")
    (tmp_path / "file").write_text("x")
    assert "cannot be made" in mistake(run, counting_run, *options[:-1], tmp_path / "file" / "out")
    damaged = tmp_path / "damaged"
    shutil.copytree(counting_run, damaged, ignore=shutil.ignore_patterns("checkpoint-*"))
    (damaged / "model.safetensors").write_bytes((counting_run / "model.safetensors").read_bytes()[:-100])
    assert "model.safetensors" in mistake(run, damaged, *options)
    assert left(tmp_path) == ["damaged", "file", "mine"] and left(mine) == ["letter.txt"]


@pytest.mark.slow
def test_overwrite(counting_run, tmp_path):
    """An export is replaced when the new one is complete."""
    out = tmp_path / "out"
    run(counting_run, "--format", "llama", "--output_dir", out)
    (out / "of-the-first").write_text("x")
    run(counting_run, "--format", "llama", "--output_dir", out, "--overwrite", "--output_file", tmp_path / "r.json")
    assert left(out) == ["export.json", "llama"] and left(tmp_path) == ["out", "r.json"]
    assert json.loads((tmp_path / "r.json").read_text()) == json.loads((out / "export.json").read_text())


def little_room() -> str:
    return "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))"


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals and limits")
def test_no_room_and_killed(counting_run, tmp_path):
    """A full disk is one line; what a killed process left is removed by the next one."""
    out = tmp_path / "out"
    options = [counting_run, "--format", "llama", "--output_dir", out]
    process = fork_command("export_model.py", *options, code=little_room())
    assert process.returncode == 1 and process.stderr.strip().splitlines()[-1].startswith("error: "), process.stderr
    assert "Traceback" not in process.stderr and not list(tmp_path.iterdir())

    process = ForkedCommand("export_model.py", *options)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("out.unfinished/*")):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    assert not out.exists()
    run(*options)
    assert left(tmp_path) == ["out"]


@pytest.mark.slow
@pytest.mark.hub
@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the client's own use of its HTTP library
def test_checkpoint_of_the_hub(counting_run, tmp_path, monkeypatch):
    """The card of the export names the repository as the base model."""
    with FakeHub() as hub:
        hub.connect(monkeypatch, tmp_path / "home")
        push.main([str(counting_run), "someone/counting"])
        run("someone/counting", "--format", "llama", "--output_dir", tmp_path / "out")
    report = json.loads((tmp_path / "out" / "export.json").read_text(encoding="utf-8"))
    assert report["base_model"] == "someone/counting" and report["checkpoint"] == "counting"
    assert "base_model: someone/counting" in (tmp_path / "out" / "llama" / "README.md").read_text(encoding="utf-8")
