"""run_evaluation.py on a short run: the table, the page, the card, the cache, the leaderboard, and mistakes.

One evaluation is a process, as users start it. The others run in this process, since importing torch takes longer than
measuring so small a model.
"""

import html
import json
import re
import shutil
from html.parser import HTMLParser

import pytest
from transformers import ByT5Tokenizer

from helpers.runs import TINY, as_options, mistake, run_command
from tinystories.checkpoint.loading import load_checkpoint
from tinystories.commands import evaluate
from tinystories.evaluation.arguments import EvaluationArguments
from tinystories.evaluation.cache import fingerprint
from tinystories.evaluation.suite import published_settings
from tinystories.evaluation.table import as_text
from tinystories.reporting.evaluation_page import write_page
from tinystories.reporting.format import cell
from tinystories.run_files import read_lines


pytestmark = pytest.mark.slow

RECIPE = TINY | {
    "num_sample_stories": 150,
    "vocab_size": 512,
    "block_size": 128,
    "max_steps": 20,
    "eval_steps": 10,
    "save_steps": 10,
    "output_dir": "run",
    "data_cache_dir": "cache",
}
FEW = ["--stories", "6", "--pairs", "5", "--prompts", "4", "--presets", "balanced", "creative", "--seeds", "1"]
FEW += ["--max_new_tokens", "12", "--device", "cpu"]
QUICK = ["--quick", "--prompts", "2", "--pairs", "2", "--output_dir", "quick", "--device", "cpu"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of a few steps, evaluated by a process."""
    folder = tmp_path_factory.mktemp("evaluated")
    process = run_command("run_clm.py", *as_options(RECIPE), cwd=folder)
    assert process.returncode == 0, process.stderr[-3000:]
    process = run_command("run_evaluation.py", "run", *FEW, cwd=folder)
    assert process.returncode == 0, process.stderr[-3000:]
    (folder / "printed.txt").write_text(process.stdout, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def found(folder):
    (found,) = json.loads((folder / "evaluation" / "evaluation.json").read_text(encoding="utf-8"))
    return found


@pytest.fixture
def evaluated(folder, monkeypatch, offline, capsys):
    """Evaluate in this process, with `folder` as the current folder; returns what is printed."""
    monkeypatch.chdir(folder)

    def evaluated(*arguments) -> str:
        capsys.readouterr()
        evaluate.main([str(argument) for argument in arguments])
        return capsys.readouterr().out

    return evaluated


def test_intervals(found):
    """Every number has an interval that contains it."""
    for column in (found["metrics"], *found["floors"].values(), *found["presets"]["creative"].values()):
        for name, estimate in column.items():
            if isinstance(estimate, dict):
                assert estimate["low"] <= estimate["value"] <= estimate["high"], name
    assert {"bits_per_byte", "pair_mean_of_rules", "known_triples", "distinct_2"} <= set(found["metrics"])


def test_printed_table(folder, found):
    """The printed table is that of the results, where a model that has learnt nothing is low."""
    printed = (folder / "printed.txt").read_text(encoding="utf-8")
    for line in as_text(found["table"]):
        assert line in printed
    standings = {row["name"]: row["standing"] for row in found["table"]}
    assert standings["bits_per_byte"] is None and standings["pair_mean_of_rules"] < 0.5


class Text(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.words = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)


def test_page(folder, found):
    """The page shows the numbers and loads nothing from the network."""
    source = (folder / "evaluation" / "index.html").read_text(encoding="utf-8")
    page = Text()
    page.feed(source)
    text = " ".join(page.words)
    for row in found["table"]:
        assert cell(row["value"]) in text and row["title"] in text
    stories = [sample for group in found["samples"].values() for sample in group]
    assert stories[0]["text"].strip() in text
    assert not [tag for tag, _ in page.tags if tag in ("script", "link", "img", "iframe")]
    assert not re.search(r"(?:src|href)\s*=|url\(", source)


@pytest.mark.parametrize("models", [1, 2])
def test_each_description_once(models, found, tmp_path):
    """The same words under twelve rules of the minimal pairs, and again for every model."""
    page = write_page([found] * models, tmp_path).read_text(encoding="utf-8")
    for row in found["table"]:
        assert page.count(html.escape(row["explanation"], quote=False).replace("'", "&#39;")) == 1, row["name"]


def test_critic(folder, evaluated, caplog):
    """A critic adds its metrics and the overall number to table, page and leaderboard; its content is in the key."""
    pytest.importorskip("harper")
    settings = [*FEW, "--presets", "balanced", "--output_dir", "critic", "--leaderboard", "critic/board.jsonl"]
    settings += ["--prompts", "16", "--seeds", "1", "2", "--max_new_tokens", "60"]  # enough for a he, a she or a name
    printed = evaluated("run", *settings, "--critic", "run/checkpoint-10")
    assert "its own critic" not in caplog.text and "NOT MEASURED" not in caplog.text
    (found,) = json.loads((folder / "critic" / "evaluation.json").read_text(encoding="utf-8"))
    overall = found["metrics"]["overall"]
    assert 0 <= overall["low"] <= overall["value"] <= overall["high"] <= 1
    assert {"surprise", "characters", "ending"} <= set(found["metrics"])
    assert re.search(r"^overall +0 +0\.\d+", printed, re.MULTILINE)
    assert cell(overall) in (folder / "critic" / "index.html").read_text(encoding="utf-8")
    assert "overall by critic checkpoint-10" in (folder / "critic" / "board.md").read_text(encoding="utf-8")
    parts = {path.name for path in (folder / "critic" / "parts").iterdir()}
    evaluated("run", *settings, "--critic", "run")
    assert "its own critic" in caplog.text
    new = {path.name for path in (folder / "critic" / "parts").iterdir()} - parts
    assert {name.split("-")[0] for name in new} == {"texts"}


def test_without_critic(folder, evaluated, caplog):
    """Without a critic a line says what is not measured, the overall number included."""
    printed = evaluated("run", *FEW)
    assert re.search(r"NOT MEASURED without --critic: surprise, .*overall", caplog.text)
    assert not re.search(r"^(surprise|overall) ", printed, re.MULTILINE)


def test_near_copy_on_page(found, tmp_path):
    """A near copy is shown beside its training story, and both as text."""
    copy = {"prompt": "Once", "text": " a fox ran.", "share": 0.9, "training_story": "Once a <b>fox</b> ran."}
    page = write_page([found | {"copies": [copy]}], tmp_path).read_text(encoding="utf-8")
    assert "90 % of this story" in page and "Once a &lt;b&gt;fox&lt;/b&gt; ran." in page


def test_published_settings(tmp_path):
    """Nobody is told the folders of this machine, nor where its judge is."""
    given = {"data": str(tmp_path / "a.txt"), "judge_url": "http://10.0.0.7/v1", "judge_model": "m", "prompts": 3}
    settings = published_settings(EvaluationArguments(**given, leaderboard=str(tmp_path / "board.jsonl")))
    assert (settings["data"], settings["leaderboard"], settings["prompts"]) == ("a.txt", "board.jsonl", 3)
    assert str(tmp_path) not in str(settings) and "10.0.0.7" not in str(settings)


def test_card(folder, found):
    """The numbers on the card are those of the JSON files, without text of the training data."""
    card = (folder / "run" / "README.md").read_text(encoding="utf-8")
    beside = json.loads((folder / "run" / "evaluation.json").read_text(encoding="utf-8"))
    assert beside.pop("copies") == [copy | {"training_story": None} for copy in found["copies"]]
    assert beside == {name: value for name, value in found.items() if name != "copies"}
    table = {row[0]: row[1:] for row in re.findall(r"^\| (.+?) \| (.+?) \| (.+?) \| (.+?) \|$", card, re.MULTILINE)}
    for row in found["table"]:
        title = row["title"] + (f" ({row['unit']})" if row["unit"] else "")
        if row["name"].startswith("pair_"):
            title = row["title"].split(": ")[-1].split(", ")[-1]
        if row["alarm"] or row["value"] is None:
            continue
        floor, people = (cell(row[name], False) if row[name] else "–" for name in ("floor", "ceiling"))  # noqa: RUF001
        assert table[title] == (floor, cell(row["value"]), people), title
    results = json.loads((folder / "run" / "all_results.json").read_text(encoding="utf-8"))
    final = (f"{results['eval_loss']:.4f}", f"{results['eval_perplexity']:.3f}", f"{results['eval_bits_per_byte']:.4f}")
    assert f"| {' | '.join(final)} |" in card
    for row in read_lines(folder / "run" / "evaluations.jsonl"):
        assert table[str(row["step"])][1:] == (f"{row['eval_loss']:.4f}", f"{row['eval_bits_per_byte']:.4f}")
    first = found["samples"]["balanced"][0]
    assert first["prompt"] + first["text"] in card and f"seed {first['seed']}" in card
    assert "not evaluated" not in card


def test_card_without_evaluation(folder):
    """The card of a checkpoint that was not evaluated says so."""
    card = (folder / "run" / "checkpoint-20" / "README.md").read_text(encoding="utf-8")
    assert "not evaluated" in card


def test_edited_card(folder, evaluated, caplog):
    """A card that somebody edited is not changed."""
    copy = folder / "edited"
    shutil.copytree(folder / "run", copy)
    with (copy / "README.md").open("a", encoding="utf-8") as card:
        card.write("My own words.\n")
    before = (copy / "README.md").read_text(encoding="utf-8")
    evaluated("edited", *FEW, "--output_dir", "two")
    assert "its card was edited" in caplog.text
    assert (copy / "README.md").read_text(encoding="utf-8") == before


def test_quick_after_full(folder, evaluated, caplog):
    """A quick evaluation does not replace a full one, and scores the stories as the end of the training did."""
    before = (folder / "run" / "evaluation.json").read_bytes()
    evaluated("run", *QUICK)
    assert "its full evaluation is kept" in caplog.text
    assert (folder / "run" / "evaluation.json").read_bytes() == before
    (found,) = json.loads((folder / "quick" / "evaluation.json").read_text(encoding="utf-8"))
    results = json.loads((folder / "run" / "all_results.json").read_text(encoding="utf-8"))
    assert found["data"]["stories"] == results["eval_stories"] < 60
    assert found["metrics"]["bits_per_byte"]["value"] == pytest.approx(results["eval_bits_per_byte"], abs=1e-6)


def test_cache(folder, evaluated):
    """Only a lost result is measured again, with the same numbers; other settings add their own results."""
    parts = folder / "evaluation" / "parts"
    before = {path: path.stat().st_mtime_ns for path in parts.iterdir()}
    (lost, *_) = parts.glob("samples-creative-*.json")
    lost.unlink()
    printed = evaluated("run", *FEW)
    after = {path: path.stat().st_mtime_ns for path in parts.iterdir()}
    assert {path for path in after if before[path] != after[path]} == {lost}
    assert printed.strip() == (folder / "printed.txt").read_text(encoding="utf-8").strip()
    evaluated("run", *FEW, "--seeds", "2")
    new = {path.name.split("-")[0] for path in set(parts.iterdir()) - set(before)}
    assert new == {"samples", "texts"}


def test_fingerprint(folder):
    """Any weight and any part of the tokenizer is in the key of a result; a tokenizer in Python has one, too."""
    model, tokenizer = load_checkpoint(str(folder / "run"))
    keys = [fingerprint(model, tokenizer), fingerprint(model, ByT5Tokenizer(extra_ids=0))]
    keys.append(fingerprint(model, ByT5Tokenizer(extra_ids=1)))
    model.get_input_embeddings().weight.data[3, 3] += 1e-6
    assert len({*keys, fingerprint(model, tokenizer)}) == 4


MISTAKES = {
    "no such checkpoint": (["nowhere"], "no folder nowhere here"),
    "a stride that skips tokens": (["run", *FEW, "--stride", "1000"], "stride"),
    "no such data": (["run", "--data", "missing.txt"], "missing.txt"),
    "a folder that cannot be": (["run", "--output_dir", "printed.txt/sub"], "cannot be made or written to"),
    "a judge at no address": (["run", "--judge_url", "nowhere", "--judge_model", "m"], "nowhere"),
    "a file for a folder": (["run", "--output_dir", "printed.txt"], "printed.txt is not a folder"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(folder, name, monkeypatch, offline):
    """A mistake is one line."""
    arguments, message = MISTAKES[name]
    monkeypatch.chdir(folder)
    assert message in mistake(evaluate.main, arguments)


def test_two_models(folder, evaluated):
    """Two models are printed side by side and are both on the leaderboard."""
    printed = evaluated("run", "run/checkpoint-10", *FEW, "--leaderboard", "board/results.jsonl", "--output_dir", "two")
    lines = [json.loads(line) for line in (folder / "board" / "results.jsonl").read_text().splitlines()]
    assert [line["model"] for line in lines] == ["run", "checkpoint-10"]
    table = (folder / "board" / "results.md").read_text(encoding="utf-8")
    assert table in printed and "perplexity" not in table
    assert list((folder / "board").glob("*.svg"))
    assert next(line for line in printed.splitlines() if re.match(r" +run +checkpoint-10$", line))


def test_two_models_of_one_name(folder, evaluated):
    """Folders of one name get different names: otherwise one would replace the other on the leaderboard."""
    for place, checkpoint in (("a", "checkpoint-10"), ("b", "checkpoint-20")):
        shutil.copytree(folder / "run" / checkpoint, folder / place / "final")
    evaluated("a/final", "b/final", *FEW, "--leaderboard", "names/results.jsonl", "--output_dir", "two")
    lines = [json.loads(line) for line in (folder / "names" / "results.jsonl").read_text().splitlines()]
    assert [line["model"] for line in lines] == ["a/final", "b/final"]


def test_stories_not_held_out(folder, evaluated, caplog):
    """Stories of the training data are not called held out, and three stories without pairs are no error."""
    stories = folder / "known.txt"
    stories.write_text("\n<|endoftext|>\n".join(f"Once there was {word}." for word in ("a dog", "a cat", "an owl")))
    data = ["--data", stories, "--train_file", stories, "--output_dir", "known"]
    printed = evaluated("run/checkpoint-10", *FEW, *data)
    assert "NOT HELD OUT: 3 of 3 stories" in caplog.text
    page = (folder / "known" / "index.html").read_text(encoding="utf-8")
    assert "3 of them are in the training data too" in page
    assert re.search(r"minimal pairs: tense \(share right\) +- +not measured", printed)
