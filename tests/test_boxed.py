"""The model that comes with the package: its card is true of its weights, and the commands take it where none is named.

tools/box.py makes it. The wheel is in tests/checkpoint/test_loading.py.
"""

import json
import re
import subprocess
import sys
from fnmatch import fnmatch

import datasets
import pytest

from helpers.runs import ROOT, load_script, mistake
from helpers.serving import ServerThread
from tinystories.checkpoint.hub import weights_sha256
from tinystories.checkpoint.loading import load_checkpoint
from tinystories.checkpoint.quick import open_quickly
from tinystories.checks.invariants import Opened, check_invariants
from tinystories.commands import check, evaluate, export, generate, push, report, serve
from tinystories.config.packaged import BOXED, find_checkpoint, is_boxed, recipe_names
from tinystories.config.recipe import read_recipe
from tinystories.data.sample_corpus import sample_stories
from tinystories.evaluation.likelihood import likelihood
from tinystories.evaluation.run import save_beside_the_weights
from tinystories.evaluation.second_path import stored_dtypes
from tinystories.reporting.model_card import is_as_written
from tinystories.run_files import NEEDED, PUBLISHED, Run
from tinystories.training.guards.finished import check_card


CARD = (BOXED / "README.md").read_text(encoding="utf-8")
RESULTS = json.loads((BOXED / "all_results.json").read_text(encoding="utf-8"))
RECORD = json.loads((ROOT / "docs/results/boxed.json").read_text(encoding="utf-8"))
FINAL = {key.removeprefix("eval_"): value for key, value in RESULTS.items()}


@pytest.fixture(scope="module")
def opened():
    return load_checkpoint(str(BOXED))


def contents():
    return {path.name: path.read_bytes() for path in BOXED.iterdir() if path.is_file()}


@pytest.fixture
def elsewhere(tmp_path, monkeypatch, offline):
    """An empty working directory; whatever runs leaves the boxed model as it was."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CHECKPOINT_PATH", raising=False)
    before = contents()
    yield tmp_path
    assert contents() == before


@pytest.mark.slow
def test_score_on_the_card(opened):
    """Weights of another training than the card, or a score of the weights before they were rounded."""
    stories = sample_stories(FINAL["sample_corpus_stories"], RECORD["sample_seed"])
    found = likelihood(*opened, datasets.Dataset.from_dict({"text": stories}))
    assert found["bits_per_byte"].value == pytest.approx(FINAL["sample_corpus_bits_per_byte"], abs=1e-5)
    shown = f"{found['stories']} stories of the project's sample corpus"
    assert f"{shown}, in the same way: {FINAL['sample_corpus_bits_per_byte']:.4f} bits per byte" in CARD


def test_card_and_record():
    """A card that was edited, or files of two trainings."""
    assert is_as_written(CARD) and "stored as bfloat16" in CARD and "license: mit" in CARD
    check_card(BOXED, FINAL)
    assert RECORD["all_results"] == RESULTS and RECORD["weights_sha256"] == weights_sha256(BOXED)
    assert RECORD["bytes"] == sum(map(len, contents().values()))
    assert RECORD["lost_by_rounding"] == pytest.approx(FINAL["bits_per_byte"] - RECORD["bits_per_byte_of_the_run"])
    evaluation = Run(BOXED).evaluation["likelihood"]
    if evaluation["stories"] == FINAL["stories"]:
        assert evaluation["bits_per_byte"]["value"] == pytest.approx(FINAL["bits_per_byte"], abs=1e-5)


def test_complete_and_small():
    """A download of megabytes for everyone who installs the package; a file that a Hub repository needs."""
    names, box = contents().keys(), load_script("tools/box.py")
    assert sum(map(len, contents().values())) <= box.MOST_BYTES == 2_500_000
    assert all(any(fnmatch(name, pattern) for name in names) for pattern in (*NEEDED, "LICENSE", "evaluation.json"))
    assert [name for name in names if not any(fnmatch(name, pattern) for pattern in PUBLISHED)] == []
    assert stored_dtypes(BOXED) == {"BF16"} and Run(BOXED).recipe["model_license"] == "mit"
    assert open_quickly(str(BOXED)) is not None


@pytest.mark.parametrize("name", ["LICENSE", "configuration_tinystories.py", "modeling_tinystories.py"])
def test_copies(name):
    """The boxed model runs code of an earlier version. Copy the file, or run tools/box.py again."""
    assert (BOXED / name).read_text(encoding="utf-8") == (ROOT / name).read_text(encoding="utf-8")


def test_presets():
    """The boxed model samples by the presets of an earlier version. Run tools/box.py again."""
    from tinystories.training.guards.settings import check_presets

    check_presets(BOXED, Run(BOXED).recipe["block_size"])


@pytest.mark.parametrize("name", sorted(name for name in contents() if name.endswith((".json", ".md"))))
def test_nothing_of_a_machine(name):
    """A folder of somebody's machine in a published file: an absolute path, or one of a home folder."""
    text = (BOXED / name).read_text(encoding="utf-8")
    if name != "tokenizer.json":  # whose tokens may be slashes
        assert re.findall(r'["\s(=](?:~?/\w[\w.-]*|[A-Z]:\\\\?\w+|\\\\\w+)[/\\][^"\s]*', text) == []
    assert not set(re.findall(r"\b(?:train|validation)_file\b.*[/\\].*", text))


@pytest.mark.slow
def test_invariants(opened):
    """`check boxed` calls weights broken that are stored as config.json says."""
    model, tokenizer = opened
    texts = sample_stories(6, RECORD["sample_seed"])
    found = check_invariants(Opened(BOXED, Run(BOXED), model, tokenizer, texts, own=False))
    assert found.broken is None and "bfloat16" in found.held["weights"] and "card" in found.held


ALONE = ["Once upon a time", "Two words", "It is a man\nand a dog.", "C: was the letter"]


@pytest.mark.parametrize("words", [[text] for text in ALONE] + [["--seed", "3", text] for text in ALONE[:1]])
def test_prompt_alone(words, elsewhere):
    found = generate.parse(words)
    assert (found.checkpoint, found.prompt, found.folder) == ("boxed", words[-1], str(BOXED))


@pytest.mark.parametrize("word", ["my runs\\demoo", "my runs/demoo", "demoo", "Once", "here is one"])
def test_mistyped_path_is_no_prompt(word, elsewhere):
    """A mistyped checkpoint that becomes the beginning of a story."""
    (elsewhere / "here is one").write_text("", encoding="utf-8")
    message = mistake(generate.parse, [word, "--seed", "1"])
    assert message.startswith(f"no prompt: {word!r} may be the name of a checkpoint")
    found = generate.parse(["boxed", word])  # what the message advises
    assert (found.prompt, found.folder) == (word, str(BOXED))


@pytest.mark.parametrize("word", [".", "boxed", "/", "some folder"])
def test_checkpoint_alone(word, elsewhere):
    """A terminal or stdin gives the prompts."""
    (elsewhere / "some folder").mkdir()
    found = generate.parse([word, "--seed", "1"])
    assert (found.checkpoint, found.prompt, found.folder) == (word, None, find_checkpoint(word))
    assert generate.parse([]).folder == str(BOXED) and generate.parse([]).prompt is None


@pytest.mark.parametrize("word", ["runs/demoo", "runs\\demoo"])
def test_mistyped_checkpoint_alone(word, elsewhere):
    """Nobody begins a story with it."""
    assert mistake(generate.parse, [word, "--seed", "1"]) == f"no folder {word} here"


@pytest.mark.parametrize("words", [[""], ["  "], ["\n\t"]])
def test_no_prompt(words, elsewhere):
    """An empty variable of a shell."""
    assert mistake(generate.parse, words).startswith("no prompt; ")


def test_two_arguments(elsewhere):
    """As before: whatever the first one is, it is a checkpoint; options may stand between them."""
    (elsewhere / "runs/demoo").mkdir(parents=True)
    found = generate.parse(["runs/demoo", "--seed", "3", "Once upon"])
    assert (found.checkpoint, found.prompt, found.folder, found.seed) == ("runs/demoo", "Once upon", "runs/demoo", 3)
    assert generate.parse(["Once upon", ""]).prompt == ""
    assert "unexpected 'more'" in mistake(generate.parse, ["runs/demo", "Once", "more"])


def test_folder_of_that_name(elsewhere, caplog):
    """A folder of one's own that cannot be named; or that is taken without a word."""
    with caplog.at_level("INFO"):
        assert find_checkpoint("boxed") == str(BOXED)
        assert mistake(find_checkpoint, "./boxed") == "no folder ./boxed here"
        (elsewhere / "boxed").touch()
        assert find_checkpoint("boxed") == str(BOXED) and caplog.text == ""
        (elsewhere / "boxed").unlink()
        (elsewhere / "boxed").mkdir()
        assert find_checkpoint("boxed") == "boxed" and "the folder here" in caplog.text
        assert find_checkpoint("./boxed") == "./boxed"
    assert generate.parse(["Once upon a time"]).folder == str(BOXED)
    assert is_boxed(BOXED) and not is_boxed("boxed")


def test_no_recipe_of_that_name():
    """`tinystories check boxed` would check a recipe."""
    assert "boxed" not in recipe_names() and not check.is_recipe("boxed")


def test_other_commands_know_the_name(elsewhere):
    folder = str(BOXED)
    assert evaluate.parse(["boxed", "other"])[0] == [folder, "other"]
    assert export.parse(["boxed", "--format", "llama"]).checkpoint == folder
    assert push.parse(["boxed", "me/name"]).checkpoint == folder
    assert mistake(check.main, ["boxed", "--device", "nowhere"]).startswith("cannot use the device nowhere")
    recipe = read_recipe(
        ["finetune", "--model_name_or_path", "boxed", "--tokenizer_name", "boxed", "--train_file", "x"]
    )
    assert recipe.model.model_name_or_path == recipe.tokenizer.tokenizer_name == folder
    assert recipe.values["model_name_or_path"] == recipe.values["tokenizer_name"] == folder


def test_server_without_checkpoint(elsewhere, monkeypatch):
    """The container's variable may be empty; an empty word is a mistake."""
    assert serve.parse([])[0] == serve.parse(["boxed"])[0] == str(BOXED)
    monkeypatch.setenv("CHECKPOINT_PATH", "")
    assert serve.parse(["--port", "0"])[0] == str(BOXED)
    for name in ("runs/mine", "runs/demoo"):
        (elsewhere / name).mkdir(parents=True)
    monkeypatch.setenv("CHECKPOINT_PATH", "runs/mine")
    assert serve.parse([])[0] == "runs/mine" and serve.parse(["runs/demoo"])[0] == "runs/demoo"
    assert "is empty" in mistake(serve.parse, [""])


@pytest.mark.slow
def test_served(elsewhere):
    """The name that a client sees, and that a seed gives the story of the command line."""
    with ServerThread("boxed") as server:
        info = server.client.get("/api/info").json()
        story = server.generate(prompt="Once upon a time", seed=1, max_tokens=12)
    assert info["model"] == story["model"] == "boxed"
    generate.main(["Once upon a time", "--seed", "1", "--max_new_tokens", "12", "--output_file", "story.json"])
    written = json.loads((elsewhere / "story.json").read_text(encoding="utf-8"))
    assert written["text"] == "Once upon a time" + story["text"] and written["checkpoint"] == "boxed"
    (elsewhere / "story.json").unlink()


@pytest.mark.slow
def test_first_story(elsewhere):
    """Imports of seconds, a file written beside the weights or in the folder, another story for the same seed."""
    code = (
        "import sys; from tinystories.commands.generate import main\n"
        "for seed in '112': main(['Once upon a time', '--seed', seed, '--max_new_tokens', '30'])\n"
        "print(sorted(sys.modules.keys() & {'torch', 'transformers', 'huggingface_hub', 'prompt_toolkit'}))"
    )
    environment = {"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert process.returncode == 0, process.stderr[-2000:]
    assert process.stdout.endswith("\n[]\n")
    first, same, other = process.stdout.removesuffix("[]\n").split("Once upon a time")[1:]
    assert first == same != other and process.stderr.count("; by the boxed model]\n") == 3
    assert list(elsewhere.iterdir()) == []


@pytest.mark.slow
def test_nothing_is_written_into_the_package(elsewhere):
    """An evaluation or a report of the boxed model changes what the package carries."""
    save_beside_the_weights(BOXED, {"settings": {"quick": False}, "copies": []})
    report.main(["boxed"])
    assert (elsewhere / "boxed-report" / "index.html").is_file()
