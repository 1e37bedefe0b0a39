"""The report of a run: its numbers are those of the files, and it needs no network or script."""

import json
import math
import re
import shutil
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.run_folder import write_rows, write_run
from helpers.runs import mistake
from tinystories.commands import report
from tinystories.reporting.figures import CHARTS
from tinystories.reporting.format import duration, number, spread
from tinystories.reporting.run_report import SHOWN_SAMPLES, write_report
from tinystories.training.run import report as report_of_run


class Page(HTMLParser):
    """Tags with their attributes, the text of <data>, of table cells and of stories."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.data, self.text = [], [], ""
        self.rows, self.in_cell = [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
            self.in_cell = True

    handle_startendtag = handle_starttag

    def handle_endtag(self, tag):
        self.lasttag = ""
        self.in_cell = self.in_cell and tag not in ("td", "th")

    def handle_data(self, text):
        self.text += text
        if self.lasttag == "data" and text.strip():
            self.data.append((self.tags[-1][1]["value"], text.strip()))
        if self.in_cell:
            self.rows[-1][-1] += text.strip()

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def read(folder):
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def page_of(folder):
    return Page((folder / "index.html").read_text(encoding="utf-8"))


def text_of(page):
    return " ".join(page.text.split())


@pytest.mark.slow
def test_run_ends_with_report(counting_run):
    assert f"Report: {counting_run / 'report' / 'index.html'}" in (counting_run / "stdout.txt").read_text()
    assert read(counting_run / "report")["finished"] is True


@pytest.mark.slow
def test_numbers_of_the_page(counting_run):
    report, page = read(counting_run / "report"), page_of(counting_run / "report")
    results = json.loads((counting_run / "all_results.json").read_text())
    state = json.loads((counting_run / "trainer_state.json").read_text())
    assert report["results"] == results and report["step"] == 100
    assert report["tokens"] == state["num_input_tokens_seen"] and report["scored_step"] == state["best_global_step"]
    keys = ("eval_bits_per_byte", "eval_perplexity")
    exact = [results[key] for key in keys] + [report[key] for key in ("step", "tokens", "seconds", "tokens_per_second")]
    exact += [results["training_flops"], results["energy_kwh"], report["environment"]["parameters"]]
    assert [float(value) for value, _ in page.data] == exact
    shown = [number(value) for value in exact]
    shown[4], shown[6] = duration(report["seconds"]), f"{results['training_flops']:.3g}"
    shown[7] = f"{1000 * results['energy_kwh']:.2g} Wh"
    assert [text for _, text in page.data] == shown
    rows = [json.loads(line) for line in (counting_run / "evaluations.jsonl").read_text().splitlines()]
    assert report["evaluations"] == rows
    for row in rows:
        keys = ("step", "tokens_seen", "loss", "eval_loss", "eval_bits_per_byte", "eval_gap", "eval_article_loss")
        keys += ("eval_other_loss", "tokens_per_second")
        assert [number(row.get(key)) for key in keys] in page.rows
    recipe = json.loads((counting_run / "recipe.json").read_text())
    changed = {row["key"] for row in report["settings"] if row["changed"]}
    assert {"hidden_size", "max_steps"} <= changed and not changed & {"rms_norm_eps", "seed"}
    assert {row["key"] for row in report["settings"]} == recipe.keys()
    assert ["hidden_size", "64", "448"] in page.rows


@pytest.mark.slow
def test_page_is_self_contained(counting_run):
    text, page = (counting_run / "report" / "index.html").read_text(encoding="utf-8"), page_of(counting_run / "report")
    assert not {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "object", "embed", "a"}
    for _, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on") and name not in ("src", "srcset", "action", "style-src")
            assert not name.endswith("href") or value.startswith("#"), "a mark in the same figure"
    assert "@import" not in text and not re.search(r"url\((?!#)", text)
    assert "default-src 'none'" in text
    assert str(counting_run.parent) not in text + (counting_run / "report" / "report.json").read_text(encoding="utf-8")


@pytest.mark.slow
def test_page_is_accessible(counting_run):
    """Figures have a description, tables a caption, and dark mode its own colours."""
    page = page_of(counting_run / "report")
    images = [attributes for _, attributes in page.tags if attributes.get("role") == "img"]
    assert len(images) == len(page.all("figure")) == len(page.all("svg")) == len(CHARTS)
    loss = images[0]["aria-label"]
    rows = [json.loads(line) for line in (counting_run / "evaluations.jsonl").read_text().splitlines()]
    assert f"held-out stories: {rows[0]['eval_loss']:.4g} at step 50, {rows[1]['eval_loss']:.4g} at step 100" in loss
    assert len(page.all("table")) == len(page.all("caption")) == 6
    assert len(page.all("h1")) == 1 and len(page.all("h2")) >= 5
    names = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(names) == len(set(names))
    text = (counting_run / "report" / "index.html").read_text(encoding="utf-8")
    inline = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    assert all("var(--ink)" in svg and "#24292e" not in svg for svg in inline), "dark ink on a dark page"


@pytest.mark.slow
def test_figures_as_files(counting_run):
    for chart in CHARTS:
        assert (counting_run / "report" / f"{chart.name}.png").read_bytes().startswith(b"\x89PNG")
        svg = ElementTree.parse(counting_run / "report" / f"{chart.name}.svg").getroot()
        assert svg.tag.endswith("svg") and "var(--" not in ElementTree.tostring(svg, encoding="unicode")


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "a run")


def test_samples_are_escaped(run):
    hostile = "<script>alert(1)</script><img src=x onerror=alert(2)> & \"'>{{ 7 * 7 }}</p>"
    rows = [{"step": step, "prompt": hostile[:20], "seed": 1, "text": hostile} for step in (50, 100)]
    rows.append({"step": 100, "prompt": "x</b>", "seed": 1, "text": "another beginning"})
    (run / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recipe = json.loads((run / "recipe.json").read_text()) | {"run_name": hostile}
    (run / "recipe.json").write_text(json.dumps(recipe))
    page = Page(write_report(run).read_text(encoding="utf-8"))
    assert not page.all("script") and not page.all("img")
    assert page.text.count(hostile) == 3


def test_many_samples(run):
    rows = [{"step": step, "prompt": "One", "seed": 1, "text": f"One story of step {step}."} for step in range(1, 301)]
    (run / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    steps = [int(step) for step in re.findall(r"story of step (\d+)", Page(write_report(run).read_text("utf-8")).text)]
    assert steps[0] == 1 and steps[-1] == 300 and 5 < len(steps) <= SHOWN_SAMPLES and steps == sorted(steps)
    assert len(read(run / "report")["samples"]) == 300


@given(st.integers(0, 400), st.integers(2, 40))
def test_spread(length, most):
    rows = list(range(length))
    chosen = spread(rows, most)
    assert len(chosen) <= max(most, 0) and chosen == sorted(set(chosen))
    assert chosen[:1] == rows[:1] and chosen[-1:] == rows[-1:]


def test_unfinished_run(run):
    """The state of the last checkpoint, the evaluations after it, and no number of a finished run."""
    for name in ("all_results.json", "trainer_state.json"):
        (run / name).unlink()
    shutil.rmtree(run / "checkpoint-100")
    lines = (run / "evaluations.jsonl").read_text().splitlines()
    later = json.loads(lines[1]) | {"step": 75}
    (run / "evaluations.jsonl").write_text(lines[0] + "\n" + json.dumps(later) + '\n{"step": 80, "ev')
    page = Page(write_report(run).read_text(encoding="utf-8"))
    assert "Unfinished at step 75 of 100: still running, or stopped. Best so far: " in text_of(page)
    assert [row["step"] for row in read(run / "report")["log"]] == [10, 20, 30, 40, 50]
    for path in [*run.glob("checkpoint-*"), run / "evaluations.jsonl", run / "samples.jsonl", run / "environment.json"]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert "Unfinished at step 0 of 100" in text_of(Page(write_report(run).read_text(encoding="utf-8")))


def test_one_step_and_no_finite_number(run):
    for name in ("all_results.json", "samples.jsonl"):
        (run / name).unlink()
    history = [
        {"step": 1, "loss": math.nan, "grad_norm": 2.0, "learning_rate": math.inf},
        {"step": 1, "eval_loss": math.nan, "eval_bits_per_byte": math.nan},
    ]
    state = {"global_step": 1, "max_steps": 1, "log_history": history}
    (run / "trainer_state.json").write_text(json.dumps(state))
    (run / "evaluations.jsonl").unlink()  # as in a run of an earlier version
    page = Page(write_report(run).read_text(encoding="utf-8"))
    report = json.loads((run / "report" / "report.json").read_text(), parse_constant=pytest.fail)
    assert report["best"] is None and report["evaluations"][0]["eval_loss"] is None
    assert [attributes["aria-label"] for _, attributes in page.tags if attributes.get("role") == "img"] == [
        "Norm of the gradients, before clipping. 2 at step 1."
    ]
    assert number(None) in text_of(page) and not re.search(r"\b(nan|inf)\b", page.text)


def test_stopped_by_a_guard(run):
    (run / "stopped_at_step_37.jsonl").write_text('{"step": 37, "loss": null, "text": "secret story"}\n')
    page = Page(write_report(run).read_text(encoding="utf-8"))
    assert "A guard stopped the run at step 37: its rows are in stopped_at_step_37.jsonl" in text_of(page)
    assert "secret story" not in page.text


def test_command(run, tmp_path, capsys):
    report.main([str(run), "--output_dir", str(tmp_path / "deep" / "page")])
    assert capsys.readouterr().out == f"Report: {tmp_path / 'deep' / 'page' / 'index.html'}\n"
    assert (tmp_path / "deep" / "page" / "index.html").exists() and not (run / "report").exists()


def test_no_run(tmp_path):
    assert mistake(write_report, tmp_path) == (
        f"{tmp_path} holds no run: it has no recipe.json; give the output_dir of tinystories train"
    )
    (tmp_path / "recipe.json").mkdir()
    assert "recipe.json cannot be read (" in mistake(write_report, tmp_path)


def test_damaged_files_are_named(run, caplog):
    """On the page, in report.json and in the log; never silently taken for a run that is still going."""
    (run / "all_results.json").unlink()
    (run / "all_results.json").mkdir()  # cannot be read, by root either
    lines = (run / "evaluations.jsonl").read_text().splitlines()
    (run / "evaluations.jsonl").write_text("\n".join([*lines, '{"step": 80, "ev']))
    (run / "environment.json").write_text('{"processes": "one"}')
    (run / "trainer_state.json").write_text('{"log_history": 7}')
    (run / "samples.jsonl").unlink()
    page, found = Page(write_report(run).read_text(encoding="utf-8")), read(run / "report")
    assert "evaluations.jsonl: line 3 is damaged" in found["problems"]
    assert "environment.json is damaged (processes has the wrong type)" in found["problems"]
    assert "trainer_state.json is damaged (global_step is missing)" in found["problems"]
    assert any(problem.startswith("all_results.json cannot be read (") for problem in found["problems"])
    assert len(found["problems"]) == 4 and found["missing"] == ["samples.jsonl"]
    for problem in found["problems"]:
        assert problem in text_of(page) and f"{run}: {problem}" in caplog.text
    assert "Not in the run folder: samples.jsonl." in text_of(page)
    assert found["step"] == 100, "by the last checkpoint"


def test_results_without_some_numbers(run):
    """all_results.json that somebody edited, or an energy that was not finite: no traceback."""
    results = json.loads((run / "all_results.json").read_text(encoding="utf-8"))
    for name in ("eval_perplexity", "eval_stories", "elapsed_seconds"):
        del results[name]
    (run / "all_results.json").write_text(json.dumps(results | {"energy_kwh": None}), encoding="utf-8")
    text = text_of(Page(write_report(run).read_text(encoding="utf-8")))
    assert f"0.2500 bits per byte on all {number(None)} held-out stories" in text and "energy" not in text
    (run / "all_results.json").write_text(json.dumps(results | {"energy_kwh": 123.4}), encoding="utf-8")
    assert ("123.4", "120 kWh") in Page(write_report(run).read_text(encoding="utf-8")).data


def test_numbers_of_no_group(run):
    """`validation stories` below the heading of another group of numbers."""
    rows = [" ".join(row) for row in Page(write_report(run).read_text(encoding="utf-8")).rows]
    assert rows.index("validation stories 10") < rows.index("train") < rows.index("validation")


def test_right_to_left(run):
    """A story in Arabic or Hebrew whose full stops stand at the wrong end."""
    write_rows(run / "samples.jsonl", [{"step": 50, "prompt": "كان", "seed": 1, "text": "كان يا ما كان."}])
    page = Page(write_report(run).read_text(encoding="utf-8"))
    story = next(place for place, (tag, _) in enumerate(page.tags) if tag == "b")
    assert page.tags[story - 1] == ("p", {"dir": "auto"})


def test_failure_after_the_run(run, caplog):
    """A report that fails does not end a finished run with an error."""
    (run / "report").write_text("a file where the folder should be", encoding="utf-8")
    assert "cannot write the report to" in mistake(write_report, run)
    (run / "trainer_state.json").write_text('{"global_step": 1, "log_history": [{"loss": "low", "step": 1}]}')
    (run / "report").unlink()
    report_of_run(str(run))
    assert "no report (tinystories report" in caplog.text
