"""Weights that are missing, doubled, of another shape or from elsewhere: each door refuses them by name.

Guards: a checkpoint that opens with random numbers in place of a weight, and tells another story at each start.
"""

import json
import logging
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, GPT2Config, GPT2LMHeadModel

from helpers.fake_hub import FakeHub, Repository
from helpers.runs import as_options, mistake
from helpers.serving import counting_tokenizer
from helpers.untrained import save, untrained_model
from tinystories.checkpoint.foreign import open_model
from tinystories.checkpoint.hub import check_complete
from tinystories.checkpoint.loading import load_checkpoint
from tinystories.checkpoint.weights import weight_files
from tinystories.commands import check, generate
from tinystories.config.recipe import read_recipe
from tinystories.data.tokenizer import load_tokenizer
from tinystories.evaluation.second_path import read_weights
from tinystories.server.arguments import ServerArguments
from tinystories.server.model_pool import ModelPool
from tinystories.training.finetuning import apply_checkpoint, continued_model


WHOLE, INDEX, DOWN = "model.safetensors", "model.safetensors.index.json", "model.layers.1.mlp.down_proj.weight"
EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture(scope="module")
def tokenizer():
    return counting_tokenizer()


@pytest.fixture(scope="module")
def whole(tokenizer, tmp_path_factory):
    return save(untrained_model(tokenizer, 64), tokenizer, tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def in_parts(tokenizer, tmp_path_factory):
    """The same weights in several files, with an index."""
    folder = tmp_path_factory.mktemp("parts")
    untrained_model(tokenizer, 64).save_pretrained(folder, max_shard_size="20KB")
    tokenizer.save_pretrained(folder)
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    return folder


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "run")


@pytest.fixture
def parts(in_parts, tmp_path):
    return shutil.copytree(in_parts, tmp_path / "run")


def edit_weights(folder, change, name=WHOLE):
    weights = load_file(folder / name)
    change(weights)
    save_file({key: value.clone().contiguous() for key, value in weights.items()}, folder / name, {"format": "pt"})


def edit_json(path, change):
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def refusal(folder) -> str:
    return mistake(load_checkpoint, str(folder))


WEIGHTS = {
    "a matrix": (lambda w: w.pop(DOWN), f"its weights lack {DOWN}, which"),
    "a norm": (lambda w: w.pop("model.norm.weight"), "its weights lack model.norm.weight, which"),
    "the embedding": (lambda w: w.pop(EMBEDDING), f"its weights lack {EMBEDDING}, which"),
    "several": (lambda w: [w.pop(key) for key in list(w) if ".layers.1." in key], "input_layernorm.weight and 8 more"),
    "all": (lambda w: [w.update({f"module.{key}": w.pop(key)}) for key in list(w)], f"lack {EMBEDDING} and 19 more"),
    "one too many": (lambda w: w.update({"model.layers.2.norm.weight": w["model.norm.weight"]}), "hold model.layers.2"),
    "turned": (lambda w: w.update({DOWN: w[DOWN].T}), f"{DOWN} has the shape (64, 32), and by config.json (32, 64)"),
    "integers": (lambda w: w.update({DOWN: w[DOWN].long()}), f"{DOWN} is stored as I64"),
    "NaN": (lambda w: w[DOWN][3, 5:6].fill_(torch.nan), f"{DOWN} holds numbers that are not finite"),
    "infinity": (lambda w: w[DOWN][3, 5:6].fill_(-torch.inf), f"{DOWN} holds numbers that are not finite"),
    "another head": (lambda w: w.update({"lm_head.weight": w[EMBEDDING] + 1}), "lm_head.weight is not"),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_damaged_weights(name, folder, capfd):
    """One line, without transformers' table, and the same from a file of several."""
    change, reason = WEIGHTS[name]
    edit_weights(folder, change)
    message = refusal(folder)
    assert reason in message and str(folder) in message
    assert "LOAD REPORT" not in capfd.readouterr().err


SOUND = {
    "bfloat16": lambda w: w.update({key: value.bfloat16() for key, value in w.items()}),
    "float64": lambda w: w.update({key: value.double() for key, value in w.items()}),
    "the tied head, stored too": lambda w: w.update({"lm_head.weight": w[EMBEDDING].clone()}),
}


@pytest.mark.parametrize("name", SOUND)
def test_sound_weights(name, folder, whole):
    edit_weights(folder, SOUND[name])
    model, expected = (load_checkpoint(str(one))[0] for one in (folder, whole))
    for key, weight in expected.named_parameters():
        torch.testing.assert_close(model.get_parameter(key), weight, atol=1e-2, rtol=1e-2)
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_head_of_its_own(tokenizer, tmp_path):
    """Where the head is not tied, it must be there."""
    save(untrained_model(tokenizer, 64, tie_word_embeddings=False), tokenizer, tmp_path)
    load_checkpoint(str(tmp_path))
    edit_weights(tmp_path, lambda weights: weights.pop("lm_head.weight"))
    assert "lack lm_head.weight" in refusal(tmp_path)


def test_other_sizes(folder):
    """A config of more layers, or fewer, than the file has; both opened before."""
    for layers, reason in ((3, "lack model.layers.2."), (1, "hold model.layers.1."), (2, None)):
        edit_json(folder / "config.json", lambda config, layers=layers: config.update(num_hidden_layers=layers))
        assert reason is None or reason in refusal(folder)
    load_checkpoint(str(folder))


def first_part(folder):
    return sorted(folder.glob("model-*.safetensors"))[0]


def send(folder, name):
    """Let the index name another file for the first part, which is moved out of the folder."""
    part = first_part(folder)
    shutil.move(part, folder.parent / "outside.safetensors")
    edit_json(folder / INDEX, lambda index: index.update(weight_map=renamed(index, part.name, name)))


def renamed(index, old, new):
    return {key: new if name == old else name for key, name in index["weight_map"].items()}


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def link_out(folder):
    part = first_part(folder)
    shutil.move(part, folder.parent / "outside.safetensors")
    part.symlink_to(folder.parent / "outside.safetensors")


def twice(folder):
    """One weight in two parts, with two values."""
    parts = sorted(folder.glob("model-*.safetensors"))
    (key, value), *_ = load_file(parts[0]).items()
    edit_weights(folder, lambda weights: weights.update({key: value + 1}), parts[1].name)


PARTS = {
    "outside": (lambda f: send(f, "../outside.safetensors"), "names '../outside.safetensors', which is not a file of"),
    "absolute": (lambda f: send(f, str(f.parent / "outside.safetensors")), "outside.safetensors', which is not a file"),
    "a link out": (link_out, "which is not a file of this folder"),
    "absent": (lambda f: first_part(f).unlink(), "lacks model-00001-of-"),
    "cut off": (lambda f: cut(first_part(f)), "is damaged (Error while deserializing header"),
    "a weight twice": (twice, " and in model-00002-of-"),
    "index of another shape": (lambda f: (f / INDEX).write_text("[]"), f"{INDEX} is damaged"),
    "index without map": (lambda f: edit_json(f / INDEX, lambda index: index.pop("weight_map")), f"{INDEX} is damaged"),
    "index that is empty": (lambda f: edit_json(f / INDEX, lambda i: i.update(weight_map={})), f"{INDEX} is damaged"),
    "index of numbers": (lambda f: edit_json(f / INDEX, lambda i: i["weight_map"].update(a=7)), f"{INDEX} is damaged"),
    "index cut off": (lambda f: cut(f / INDEX), f"{INDEX} is damaged"),
}


@pytest.mark.parametrize("name", PARTS)
def test_damaged_parts(name, parts):
    damage, reason = PARTS[name]
    damage(parts)
    message = refusal(parts)
    assert reason in message and str(parts) in message


def test_sound_parts(parts, whole, tmp_path):
    """Parts are opened, also where the folder itself is a link, and as the cache of the Hub client has them."""
    expected = read_weights(whole)
    assert {name: (weight == expected[name]).all() for name, weight in read_weights(parts).items()} == dict.fromkeys(
        expected, True
    )
    (tmp_path / "link").symlink_to(parts)
    blobs, snapshot = tmp_path / "cache" / "blobs", tmp_path / "cache" / "snapshots" / "1234"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(parts.iterdir())):
        shutil.copy(file, blobs / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    for folder in (parts, tmp_path / "link", snapshot):
        load_checkpoint(str(folder))
        assert len(weight_files(folder)) > 2
    shutil.copy(whole / WHOLE, parts)
    assert weight_files(parts) == [parts / WHOLE], "what transformers opens; the parts are leftovers"


@pytest.mark.parametrize("content", [b"", b"\0" * 7, b"not weights, but twenty bytes"])
def test_not_weights(content, folder):
    (folder / WHOLE).write_bytes(content)
    assert f"{folder / WHOLE} is damaged" in refusal(folder)


# Tokenizer


def edit_tokenizer(**changes):
    return lambda folder: edit_json(folder / "tokenizer.json", lambda content: content["model"].update(changes))


TOKENIZERS = {
    "cut off": lambda folder: cut(folder / "tokenizer.json"),
    "empty": lambda folder: (folder / "tokenizer.json").write_bytes(b""),
    "an object": lambda folder: (folder / "tokenizer.json").write_text("{}"),
    "a list": lambda folder: (folder / "tokenizer.json").write_text("[]"),
    "no text": lambda folder: (folder / "tokenizer.json").write_bytes(b"\xff\xfe\0"),
    "no such model": edit_tokenizer(type="Bogus"),
    "merges of unknown tokens": edit_tokenizer(merges=[["zz", "qq"]]),
    "no vocabulary": edit_tokenizer(vocab=None),
    "settings of another shape": lambda folder: (folder / "tokenizer_config.json").write_text("[]"),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_damaged_tokenizer(name, folder):
    """Guards: the bare `Exception` of tokenizers, and others, which ended a command with a traceback."""
    TOKENIZERS[name](folder)
    for message in (refusal(folder), mistake(load_tokenizer, str(folder))):
        assert str(folder) in message and "its tokenizer cannot be read" in message


def without(name):
    return lambda folder: edit_json(folder / "tokenizer_config.json", lambda settings: settings.pop(name))


FOREIGN_TOKENIZERS = {
    "no EOS": (without("eos_token"), "EOS is None in the tokenizer and 2 in the model"),
    "no BOS": (without("bos_token"), "BOS is None in the tokenizer and 1 in the model"),
    "EOS that is new": (
        lambda folder: edit_json(folder / "tokenizer_config.json", lambda settings: settings.update(eos_token="<end>")),
        "they do not belong together",
    ),
    "BOS and EOS exchanged": (
        lambda folder: edit_json(
            folder / "tokenizer_config.json",
            lambda settings: settings.update(eos_token="<|bos|>", bos_token="<|eos|>"),
        ),
        "BOS is 2 in the tokenizer and 1 in the model",
    ),
}


@pytest.mark.parametrize("name", FOREIGN_TOKENIZERS)
def test_tokenizer_of_another_model(name, folder):
    change, reason = FOREIGN_TOKENIZERS[name]
    change(folder)
    assert reason in refusal(folder)


@pytest.mark.parametrize(
    "content", ["[]", "null", '"tinystories"', '{"model_type": "tinystories", "hidden_size": null}']
)
def test_damaged_config(content, folder):
    (folder / "config.json").write_text(content, encoding="utf-8")
    assert str(folder) in refusal(folder)


# Doors


def test_every_door(folder, tmp_path, monkeypatch):
    """Writing, serving, evaluating, checking, publishing and continuing name the missing weight."""
    edit_weights(folder, lambda weights: weights.pop(DOWN))
    recipe = read_recipe(as_options({"model_name_or_path": folder, "train_file": "x", "output_dir": tmp_path / "new"}))
    apply_checkpoint(recipe)
    pool = ModelPool(str(folder), ServerArguments(device="cpu"))
    (folder / "README.md").write_text("---\n{}\n---\n", encoding="utf-8")
    doors = (
        lambda: generate.main([str(folder), "One", "--device", "cpu"]),
        lambda: check.main([str(folder), "--device", "cpu"]),
        lambda: pool.batcher(pool.default),
        lambda: open_model(str(folder)),
        lambda: open_model(str(folder), trust_remote_code=True),
        lambda: check_complete(folder),
        lambda: continued_model(recipe, load_tokenizer(str(folder))),
    )
    assert [door for door in doors if f"its weights lack {DOWN}" not in mistake(door)] == []


def test_check_says_more_about_numbers(folder, capsys):
    """What opens and cannot write has a verdict of check_run.py, where every other command refuses it."""
    edit_weights(folder, WEIGHTS["NaN"][0])
    with pytest.raises(SystemExit) as caught:
        check.main([str(folder), "--device", "cpu", "--stories", "20"])
    assert caught.value.code == 1 and "verdict: " in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.hub
@pytest.mark.hub
def test_weights_of_the_hub(in_parts, tmp_path, monkeypatch):
    """A repository on the Hub: a sound one opens, a missing weight and a doubled one are named."""
    folders = {"parts": in_parts}
    folders |= {name: shutil.copytree(in_parts, tmp_path / name) for name in ("lacking", "twice")}
    twice(folders["twice"])
    part = first_part(folders["lacking"]).name
    edit_weights(folders["lacking"], lambda weights: weights.pop(EMBEDDING), part)
    expected = {
        "parts": "",
        "lacking": f"someone/lacking: its weights lack {EMBEDDING}",
        "twice": f"{EMBEDDING} is in model-00001-of-",
    }
    with FakeHub() as hub:
        hub.connect(monkeypatch, tmp_path / "home")
        for name, reason in expected.items():
            files = {file.name: file.read_bytes() for file in folders[name].iterdir()}
            hub.repositories[f"someone/{name}"] = Repository(private=False)
            hub.repositories[f"someone/{name}"].commit("main", "weights", files)
            if reason:
                assert reason in refusal(f"someone/{name}")
            else:
                load_checkpoint(f"someone/{name}")


def test_adapter_beside_the_weights(folder, tmp_path):
    """It would be added to them where peft is installed, and weights that it lacks be random numbers."""
    adapted = get_peft_model(load_checkpoint(str(folder))[0], LoraConfig(target_modules="all-linear"))
    adapted.save_pretrained(tmp_path / "adapter")
    assert load_checkpoint(str(folder))
    shutil.copytree(tmp_path / "adapter", folder, dirs_exist_ok=True)
    assert "holds an adapter (adapter_config.json)" in mistake(load_checkpoint, str(folder))
    assert "no config.json" in mistake(load_checkpoint, str(tmp_path / "adapter"))
    merged = adapted.merge_and_unload()
    (folder / "adapter_config.json").unlink()
    merged.save_pretrained(folder)
    assert load_checkpoint(str(folder))


def test_models_of_others(tmp_path, tokenizer, caplog):
    """What a foreign network does not use is said; what it lacks is refused, as here."""
    sizes = {"n_positions": 16, "n_embd": 8, "n_layer": 1, "n_head": 2, "vocab_size": len(tokenizer)}
    save(GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=1, eos_token_id=2)), tokenizer, tmp_path)
    open_model(str(tmp_path))
    edit_weights(tmp_path, lambda weights: weights.update(extra=torch.ones(2)))
    caplog.set_level(logging.WARNING)
    open_model(str(tmp_path))
    assert "not used: extra" in caplog.text
    edit_weights(tmp_path, lambda weights: weights.pop("transformer.h.0.mlp.c_proj.weight"))
    assert "lack transformer.h.0.mlp.c_proj.weight" in mistake(open_model, str(tmp_path))


def test_fresh_head_of_a_classifier(whole, tmp_path, tokenizer):
    """A classifier that begins from a checkpoint has a fresh head; as a model that writes it is refused."""
    grader = AutoModelForSequenceClassification.from_pretrained(whole, num_labels=3)
    save(grader, tokenizer, tmp_path)
    assert "its weights hold score.weight" in refusal(tmp_path)
