"""run_evaluation.py as users start it: the table, the page, the card; stopped, started again, and given nonsense."""

import json
import re
import shutil
from html.parser import HTMLParser

import pytest

from helpers.runs import ROOT, TINY, as_options, load_benchmark, mistake, run_command
from tinystories.commands import evaluate
from tinystories.evaluation.arguments import EvaluationArguments
from tinystories.evaluation.estimates import ratio, share
from tinystories.evaluation.suite import all_metrics
from tinystories.evaluation.table import Metric, as_text, rows, standing
from tinystories.evaluation.text.prompts import PROMPTS
from tinystories.reporting.evaluation_page import write_page
from tinystories.reporting.format import cell
from tinystories.reporting.model_card import unedited
from tinystories.run_files import read_lines


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


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of a few steps, evaluated."""
    folder = tmp_path_factory.mktemp("evaluated")
    process = run_command("run_clm.py", *as_options(RECIPE), cwd=folder)
    assert process.returncode == 0, process.stderr[-3000:]
    shutil.copytree(folder / "run", folder / "not-evaluated")
    process = run_command("run_evaluation.py", "run", *FEW, cwd=folder)
    assert process.returncode == 0, process.stderr[-3000:]
    (folder / "printed.txt").write_text(process.stdout, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def found(folder):
    (found,) = json.loads((folder / "evaluation" / "evaluation.json").read_text(encoding="utf-8"))
    return found


def test_every_number_has_an_interval_that_holds_it(found):
    for column in (found["metrics"], *found["floors"].values(), *found["presets"]["creative"].values()):
        for name, estimate in column.items():
            if isinstance(estimate, dict):
                assert estimate["low"] <= estimate["value"] <= estimate["high"], name
    assert {"bits_per_byte", "pair_mean_of_rules", "known_triples", "distinct_2"} <= set(found["metrics"])


def test_the_likelihood_is_that_of_the_run_on_the_same_stories(folder):
    """One scoring module: the evaluation of all stories and the end of the training say the same number."""
    results = json.loads((folder / "run" / "all_results.json").read_text(encoding="utf-8"))
    few = ["--quick", "--prompts", "2", "--pairs", "2", "--output_dir", "all", "--device", "cpu"]
    process = run_command("run_evaluation.py", "not-evaluated", *few, cwd=folder)
    assert process.returncode == 0, process.stderr[-3000:]
    (found,) = json.loads((folder / "all" / "evaluation.json").read_text(encoding="utf-8"))
    assert found["data"]["stories"] == results["eval_stories"] < 60
    assert found["metrics"]["bits_per_byte"]["value"] == pytest.approx(results["eval_bits_per_byte"], abs=1e-6)


def test_a_model_that_knows_nothing_is_at_the_floor_in_what_is_printed(folder, found):
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


def test_the_page_shows_the_numbers_and_asks_no_network(folder, found):
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


def test_a_near_copy_stands_beside_its_training_story(found, tmp_path):
    copy = {"prompt": "Once", "text": " a fox ran.", "share": 0.9, "training_story": "Once a <b>fox</b> ran."}
    page = write_page([found | {"copies": [copy]}], tmp_path).read_text(encoding="utf-8")
    assert "90 % of this story" in page and "Once a &lt;b&gt;fox&lt;/b&gt; ran." in page


def test_the_card_says_what_was_measured_and_every_number_of_it_is_in_the_json(folder, found):
    card = (folder / "run" / "README.md").read_text(encoding="utf-8")
    beside = json.loads((folder / "run" / "evaluation.json").read_text(encoding="utf-8"))
    assert beside.pop("copies") == [copy | {"training_story": None} for copy in found["copies"]]  # no training data
    assert beside == {name: value for name, value in found.items() if name != "copies"}
    table = {row[0]: row[1:] for row in re.findall(r"^\| (.+?) \| (.+?) \| (.+?) \| (.+?) \|$", card, re.MULTILINE)}
    for row in found["table"]:
        if row["alarm"]:
            continue
        title = row["title"] + (f" ({row['unit']})" if row["unit"] else "")
        assert table[title] == tuple(cell(row[name]) for name in ("floor", "value", "ceiling")), title
    results = json.loads((folder / "run" / "all_results.json").read_text(encoding="utf-8"))
    final = (f"{results['eval_loss']:.4f}", f"{results['eval_perplexity']:.3f}", f"{results['eval_bits_per_byte']:.4f}")
    assert f"| {' | '.join(final)} |" in card
    for row in read_lines(folder / "run" / "evaluations.jsonl"):
        assert table[str(row["step"])][1:] == (f"{row['eval_loss']:.4f}", f"{row['eval_bits_per_byte']:.4f}")
    first = found["samples"]["balanced"][0]
    assert first["prompt"] + first["text"] in card and f"seed {first['seed']}" in card
    assert "not evaluated" not in card


def test_a_card_without_an_evaluation_says_so(folder):
    card = (folder / "run" / "checkpoint-20" / "README.md").read_text(encoding="utf-8")
    assert "not evaluated" in card


def test_an_edited_card_stays_as_it_is(folder):
    copy = folder / "edited"
    shutil.copytree(folder / "run", copy)
    with (copy / "README.md").open("a", encoding="utf-8") as card:
        card.write("My own words.\n")
    before = (copy / "README.md").read_text(encoding="utf-8")
    process = run_command("run_evaluation.py", "edited", *FEW, cwd=folder)
    assert process.returncode == 0 and "its card was edited" in process.stderr
    assert (copy / "README.md").read_text(encoding="utf-8") == before


def test_what_was_measured_is_not_measured_again_and_what_changed_is(folder):
    """A part that was lost is the only one that is made again; other settings make others."""
    parts = folder / "evaluation" / "parts"
    before = {path: path.stat().st_mtime_ns for path in parts.iterdir()}
    (lost, *_) = parts.glob("samples-creative-*.json")
    lost.unlink()
    again = run_command("run_evaluation.py", "run", *FEW, cwd=folder)
    assert again.returncode == 0, again.stderr[-3000:]
    after = {path: path.stat().st_mtime_ns for path in parts.iterdir()}
    assert {path for path in after if before[path] != after[path]} == {lost}
    assert again.stdout.strip() == (folder / "printed.txt").read_text(encoding="utf-8").strip()
    other = run_command("run_evaluation.py", "run", *FEW, "--seeds", "2", cwd=folder)
    assert other.returncode == 0
    new = {path.name.split("-")[0] for path in set(parts.iterdir()) - set(before)}
    assert new == {"samples", "texts"}


MISTAKES = {
    "no such preset": (["run", "--presets", "wild"], "presets must be some of balanced, conservative, creative, got w"),
    "too many prompts": (["run", "--prompts", "1000"], f"prompts must be at most {len(PROMPTS)}, got 1000"),
    "no pairs": (["run", "--pairs", "0"], "pairs must be at least 1"),
    "twice": (["run", "run"], "a checkpoint is named twice"),
    "a judge without a model": (["run", "--judge_url", "http://127.0.0.1:1/v1"], "needs both --judge_url and"),
    "no such checkpoint": (["nowhere"], "cannot open nowhere"),
    "a mistyped option": (["run", "--prompt", "3"], "unknown key 'prompt'; did you mean prompts?"),
    "a stride that skips tokens": (["run", *FEW, "--stride", "1000"], "stride"),
    "no such data": (["run", "--data", "missing.txt"], "missing.txt"),
    "a folder that cannot be": (["run", "--output_dir", "printed.txt/sub"], "cannot be made or written to"),
    "a judge at no address": (["run", "--judge_url", "nowhere", "--judge_model", "m"], "nowhere"),
    "a file for a folder": (["run", "--output_dir", "printed.txt"], "printed.txt: is a file"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(folder, name, monkeypatch, offline):
    arguments, said = MISTAKES[name]
    monkeypatch.chdir(folder)
    assert said in mistake(evaluate.main, arguments)


def test_a_mistake_ends_the_command(folder):
    process = run_command("run_evaluation.py", "run", "--data", "missing.txt", cwd=folder)
    errors = [line for line in process.stderr.splitlines() if line.startswith("error: ")]
    assert process.returncode == 1 and len(errors) == 1 and "missing.txt" in errors[0], process.stderr[-2000:]
    assert "Traceback" not in process.stderr


def test_models_stand_side_by_side_and_on_the_leaderboard(folder):
    board = ["--leaderboard", "board/results.jsonl", "--output_dir", "two"]
    process = run_command("run_evaluation.py", "run", "run/checkpoint-10", *FEW, *board, cwd=folder)
    assert process.returncode == 0, process.stderr[-3000:]
    lines = [json.loads(line) for line in (folder / "board" / "results.jsonl").read_text().splitlines()]
    assert [line["model"] for line in lines] == ["run", "checkpoint-10"]
    table = (folder / "board" / "results.md").read_text(encoding="utf-8")
    assert table in process.stdout and "perplexity" not in table
    assert list((folder / "board").glob("*.svg"))
    heads = next(line for line in process.stdout.splitlines() if re.match(r" +run +checkpoint-10$", line))
    assert heads


def test_two_models_of_one_name_stay_two(folder):
    """runs/a/final and runs/b/final: one of them would take the other's line on the leaderboard."""
    for place in ("a", "b"):
        shutil.copytree(
            folder / "run" / ("checkpoint-10" if place == "a" else "checkpoint-20"), folder / place / "final"
        )
    board = ["--leaderboard", "names/results.jsonl", "--output_dir", "names"]
    process = run_command("run_evaluation.py", "a/final", "b/final", *FEW, *board, cwd=folder)
    assert process.returncode == 0, process.stderr[-3000:]
    lines = [json.loads(line) for line in (folder / "names" / "results.jsonl").read_text().splitlines()]
    assert [line["model"] for line in lines] == ["a/final", "b/final"]


def test_stories_that_were_trained_on_are_not_called_held_out(folder):
    stories = folder / "known.txt"
    stories.write_text("\n<|endoftext|>\n".join(f"Once there was {word}." for word in ("a dog", "a cat", "an owl")))
    data = ["--data", stories, "--train_file", stories, "--output_dir", "known"]
    process = run_command("run_evaluation.py", "run/checkpoint-10", *FEW, *data, cwd=folder)
    assert process.returncode == 0, process.stderr[-3000:]  # three stories make no pairs, which is no crash
    assert "NOT HELD OUT: 3 of 3 stories" in process.stderr
    assert "3 of them are in the training data too" in (folder / "known" / "index.html").read_text(encoding="utf-8")
    assert re.search(r"minimal pairs: tense \(share right\) +- +not measured", process.stdout)


def test_a_quick_look_does_not_take_the_place_of_a_full_evaluation(folder):
    before = (folder / "run" / "evaluation.json").read_bytes()
    few = ["--quick", "--prompts", "2", "--pairs", "2", "--output_dir", "look", "--device", "cpu"]
    process = run_command("run_evaluation.py", "run", *few, cwd=folder)
    assert process.returncode == 0 and "keeps its full evaluation" in process.stderr
    assert (folder / "run" / "evaluation.json").read_bytes() == before


@pytest.mark.parametrize("text", ["# Big\n| a | b |\n<b>`x`</b> <!-- hidden", "```python\nprint()\n```", "````", ""])
def test_a_story_on_the_card_is_text_and_nothing_else(text):
    first, *lines, last = unedited(text).split("\n")
    assert first == last + "text" and set(last) == {"`"} and last not in text and "\n".join(lines) == text


def estimate(value):
    return {"value": value, "low": value, "high": value, "number": 9}


@pytest.mark.parametrize(
    ("good", "people", "value", "expected"),
    [
        ("lower", 0.0, 5.0, 0.5),
        ("lower", 0.0, 12.0, 0.0),
        ("lower", 0.0, -1.0, 1.0),
        ("higher", 20.0, 15.0, 0.5),
        ("like human", 2.0, 3.0, 0.875),
        ("like human", 2.0, -0.5, 0.6875),
        ("like human", 2.0, 10.0, 0.0),
    ],
)
def test_a_standing_is_the_way_from_floor_to_people(good, people, value, expected):
    metric = Metric("m", "m", "", good, "")
    assert standing(metric, estimate(value), estimate(10.0), estimate(people)) == pytest.approx(expected)


def test_the_floor_is_the_worse_of_the_two():
    metric = Metric("m", "m", "", "like human", "")
    (row,) = rows([metric], {"m": estimate(4.0)}, [{"m": estimate(1.0)}, {"m": estimate(9.0)}], {"m": estimate(3.0)})
    assert row["floor"]["value"] == 9.0
    (row,) = rows([metric], {"m": estimate(4.0)}, [{"m": estimate(-9.0)}, {"m": estimate(9.0)}], {"m": estimate(3.0)})
    assert row["floor"]["value"] == -9.0


def test_a_share_of_none_is_not_known_to_be_none():
    """[0, 0] would say that the mistake cannot happen."""
    assert ratio([0, 0], [100, 50]).high == pytest.approx(3 / 150)
    assert share(0, 20).high > 0.1
    assert ratio([], []) is None and share(0, 0) is None


def test_quick_settings_are_all_below_the_full_ones():
    quick, full = EvaluationArguments(quick=True).settled(), EvaluationArguments()
    assert quick.stories and quick.pairs < full.pairs and quick.max_new_tokens < full.max_new_tokens
    assert len(quick.presets) == len(quick.seeds) == 1
    assert "presets" in mistake(EvaluationArguments, presets=[])


SCALE = load_benchmark("metric_scale")


def test_the_document_says_what_its_record_says():
    record = json.loads(SCALE.RECORD.read_text(encoding="utf-8"))
    document = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    assert SCALE.with_numbers(document, record) == document


def test_every_metric_that_ships_is_on_the_scale_and_tells_a_model_from_its_floors():
    record = json.loads(SCALE.RECORD.read_text(encoding="utf-8"))
    assert SCALE.useless(record) == []  # where the model is not nearer to people than every floor and the shifted one
    shipped = {metric.name for metric in all_metrics()}
    assert set(record["metrics"]) == shipped
    assert {column for values in record["metrics"].values() for column in values} == set(SCALE.COLUMNS)
