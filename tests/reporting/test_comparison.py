"""Several runs on one page: what may be compared is compared, what differs is named, nothing is overwritten."""

import json
import math
import re
import shutil
import zipfile

import pytest
from reporting.test_run_report import Page, text_of

from helpers.run_folder import write_json, write_rows, write_run
from helpers.runs import ROOT, mistake
from tinystories.commands import report
from tinystories.reporting.comparison import axes_of, default_folder, differences, names_of
from tinystories.reporting.figures import LINE_COLOURS


def change(path, **values):
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | values)


def compared(folders, output):
    report.main([*map(str, folders), "--output_dir", str(output)])
    found = json.loads((output / "comparison.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    return found, Page((output / "index.html").read_text(encoding="utf-8"))


def titles(page):
    return [attributes["aria-label"].split(" in ")[0] for _, attributes in page.tags if attributes.get("role") == "img"]


@pytest.fixture
def runs(tmp_path):
    """Two runs with the same tokenizer and stories, and other learning rates."""
    folders = [write_run(tmp_path / name) for name in ("first", "second")]
    for folder, rate in zip(folders, (0.5, 0.25), strict=True):
        (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
        change(folder / "recipe.json", learning_rate=rate, output_dir=str(folder))
    return folders


def test_curves_and_differences(runs, tmp_path):
    found, page = compared(runs, tmp_path / "page")
    assert found["same_tokenizer"] is found["same_stories"] is True
    assert found["settings"] == [{"key": "learning_rate", "values": [0.5, 0.25]}] and found["ground"] == []
    assert titles(page) == [
        "Held-out stories by step",
        "Held-out stories by tokens trained on",
        "Held-out loss by step",
        "Training loss by step",
    ]
    first = next(attributes["aria-label"] for _, attributes in page.tags if attributes.get("role") == "img")
    assert "first: 0.5 at step 50, 0.25 at step 100" in first and "second: 0.5 at step 50" in first
    assert ["learning_rate", "0.5", "0.25"] in page.rows and ["bits per byte", "0.2500", "0.2500"] in page.rows
    assert ["perplexity per token", "1.649", "1.649"] in page.rows
    assert "tokenizers differ" not in page.text and "different held-out stories" not in text_of(page)
    assert page.text.count("One day at step 100.".removeprefix("One")) == 2, "the last samples, side by side"
    assert not page.all("script") and not page.all("link") and not page.all("img")
    assert (tmp_path / "page" / "loss_by_step.png").read_bytes().startswith(b"\x89PNG")
    assert not any((folder / "report").exists() for folder in runs)


def test_other_tokenizer(runs, tmp_path):
    """A loss per token of other tokens looks better or worse than it is."""
    (runs[1] / "tokenizer.json").write_text('{"model": 1}', encoding="utf-8")
    found, page = compared(runs, tmp_path / "page")
    assert found["same_tokenizer"] is False
    assert {title.split(" by ")[0] for title in titles(page)} == {"Held-out stories"}
    assert "The tokenizers differ" in page.text and "perplexity" not in page.text
    (runs[1] / "tokenizer.json").unlink()
    found, page = compared(runs, tmp_path / "page")
    assert found["same_tokenizer"] is None and "perplexity" not in page.text


@pytest.mark.parametrize("where", ["other stories", "a sample of them", "not recorded"])
def test_other_stories(where, runs, tmp_path):
    """Bits per byte of other stories."""
    data = json.loads((runs[1] / "data_report.json").read_text(encoding="utf-8"))
    if where == "other stories":
        change(runs[1] / "data_report.json", began_with=data["began_with"] | {"validation": "3" * 24})
    elif where == "a sample of them":
        change(runs[1] / "recipe.json", max_eval_samples=4)
    else:
        change(runs[1] / "data_report.json", began_with={})
    found, page = compared(runs, tmp_path / "page")
    assert found["same_stories"] is (None if where == "not recorded" else False)
    assert "a difference may be one of the stories" in text_of(page)


def test_flops_and_time(runs, tmp_path):
    """FLOPs where all have counted them, time where all ran on one kind of device; a row may lack a number."""
    for folder, scale in zip(runs, (1, 3), strict=True):
        rows = [{"step": s, "eval_bits_per_byte": 9 / s, "training_flops": 1e12 * s * scale} for s in (1, 2, 4)]
        rows[2]["eval_bits_per_byte"] = None
        write_rows(folder / "evaluations.jsonl", [row | {"elapsed_seconds": 60.0 * row["step"]} for row in rows])
    _, page = compared(runs, tmp_path / "page")
    described = " ".join(attributes["aria-label"] for _, attributes in page.tags if attributes.get("role") == "img")
    assert "second: 9 at training FLOPs 3e+12, 4.5 at training FLOPs 6e+12" in described
    assert "9 at minutes of wall clock 1, 4.5 at minutes of wall clock 2" in described
    for devices, names in ((("a", "a"), ["step", "tokens", "time"]), (("a", "b"), ["step", "tokens"])):
        found = [{"environment": {"device_name": device}, "evaluations": []} for device in devices]
        assert [axis.name for axis in axes_of(found)] == names, "time on another device"
    change(runs[1] / "environment.json", device_name="another")
    write_rows(runs[0] / "evaluations.jsonl", [{"step": 1, "eval_bits_per_byte": 1.0}])
    _, page = compared(runs, tmp_path / "page")
    assert not [title for title in titles(page) if "FLOPs" in title or "clock" in title]


def test_nothing_to_draw(runs, tmp_path):
    """Runs without evaluations, samples and results, half-written files, and numbers that are not finite."""
    for name in ("evaluations.jsonl", "samples.jsonl", "all_results.json"):
        (runs[0] / name).unlink()
    state = {"global_step": 1, "log_history": [{"step": 1, "loss": math.nan}]}
    (runs[0] / "trainer_state.json").write_text(json.dumps(state), encoding="utf-8")
    (runs[1] / "environment.json").write_text('{"processes": ', encoding="utf-8")
    found, page = compared(runs, tmp_path / "page")
    assert titles(page) == [] and "No curve: fewer than two" in page.text and found["samples"] == []
    assert "second: environment.json is damaged" in page.text and not re.search(r"\bnan\b", page.text)


def test_hostile_names(tmp_path):
    """Names of folders go into the page, figures, the name of the folder and JSON."""
    names = ["<script>alert(1)</script>".replace("/", "|"), '-x: # "q" $\\frac{ {{ 7*7 }}', "数 🦊\x07 " * 9, "_a'b"]
    folders = [write_run(tmp_path / name) for name in names]
    (folders[0] / "samples.jsonl").write_text(
        json.dumps({"step": 1, "prompt": "One", "seed": 1, "text": "One <img src=x>"}) + "\n", encoding="utf-8"
    )
    found, page = compared([*folders, write_run(tmp_path / "other" / "_a'b")], tmp_path / "page")
    assert not page.all("script") and not page.all("img") and "49" not in found["runs"][1]
    assert len(set(found["runs"])) == 5 and all(len(name) <= 40 for name in found["runs"])


def test_names():
    assert names_of(["runs/a", "runs/b"]) == ["a", "b"]
    assert names_of(["x/demo", "y/demo"]) == ["x/demo", "y/demo"]
    long = names_of([f"{'a' * 50}/{'b' * 50}", f"{'c' * 50}/{'b' * 50}"])
    assert len(set(long)) == 2
    assert (
        default_folder(["a", "b"]) == "a-vs-b-report"
        and default_folder(["x/demo", "y/demo"]) == "x-demo-vs-y-demo-report"
    )
    assert (
        default_folder(["a", "b", "c"]) == "a-vs-2-others-report"
        and default_folder(["..", "C:\\x?"]) == "run-vs-C-x-report"
    )


def test_default_folder(runs, tmp_path, monkeypatch, caplog):
    """Written here, not into a run; again over itself, and over nothing else."""
    caplog.set_level("INFO", "tinystories")
    monkeypatch.chdir(tmp_path)
    report.main(["first", "second"])
    assert (tmp_path / "first-vs-second-report" / "index.html").exists()
    report.main(["first", "second"])
    assert "the earlier comparison of these runs is replaced" in caplog.text
    other = write_run(tmp_path / "other")
    for output in (tmp_path / "first-vs-second-report", tmp_path / "first"):
        before = sorted(output.rglob("*"))
        assert "is no comparison of these runs" in mistake(
            report.main, ["first", str(other), "--output_dir", str(output)]
        )
        assert sorted(output.rglob("*")) == before
    for name in ("first", "second"):  # other runs of the same names
        write_run(tmp_path / "elsewhere" / name)
    assert "is no comparison of these runs" in mistake(report.main, ["elsewhere/first", "elsewhere/second"])
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert "file" in mistake(report.main, ["first", "second", "--output_dir", "file"])


def test_refused(runs, tmp_path, monkeypatch, offline):
    """One line each; nothing is left behind."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.iterdir())
    assert "is named twice" in mistake(report.main, ["first", "./first"])
    assert "holds no run" in mistake(report.main, ["first", "empty"])
    assert "absent" in mistake(report.main, ["first", "absent"])
    assert sorted(tmp_path.iterdir()) == before
    many = [tmp_path / str(number) for number in range(len(LINE_COLOURS) + 1)]
    for folder in many:
        folder.mkdir()
    assert "at most 8" in mistake(report.main, [*map(str, many)])


def test_as_many_as_can_be_told_apart(tmp_path):
    folders = [write_run(tmp_path / str(number)) for number in range(len(LINE_COLOURS))]
    rows = [{"step": step, "eval_bits_per_byte": 1 / step, "tokens_seen": step} for step in range(1, 10_001)]
    write_rows(folders[0] / "evaluations.jsonl", rows)
    compared(folders, tmp_path / "page")
    text = (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
    assert all(f"var(--{colour})" in text for colour in LINE_COLOURS) and len(text) < 2_000_000
    dark = text[text.index("prefers-color-scheme: dark") : text.index("box-sizing")]
    assert all(f"--{colour}:" in dark for colour in LINE_COLOURS), "ink of a light page on a dark one"


def test_run_of_an_earlier_version(runs, tmp_path):
    """It lacks keys and files that later versions write: a key that did not exist is not a difference."""
    with zipfile.ZipFile(ROOT / "tests/helpers/run_of_0_1_0.zip") as archive:
        archive.extractall(tmp_path)
    found, page = compared([tmp_path / "run", runs[0]], tmp_path / "page")
    assert "Held-out stories by step" in titles(page)
    keys = {row["key"] for row in found["settings"]}
    assert differences([{"a": None, "b": []}, {"a": 0}]) == [] != differences([{"a": 1}, {"a": 0}])
    assert "hidden_size" in keys and not keys & {"language", "watts_per_core", "output_dir"}


def test_same_run_moved(runs, tmp_path):
    """A copy has no setting that differs."""
    shutil.copytree(runs[0], tmp_path / "copy")
    found, page = compared([runs[0], tmp_path / "copy"], tmp_path / "page")
    assert found["settings"] == [] and "No setting differs" in page.text
