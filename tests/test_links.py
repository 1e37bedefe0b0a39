"""A link in somebody else's folder is followed inside the folder and nowhere else."""

import json

import pytest

from helpers.links import link
from helpers.run_folder import RECIPE, write_run
from helpers.runs import mistake
from tinystories.atomic import write_atomically
from tinystories.links import leads_outside, links_out_of
from tinystories.reporting.run_report import write_report
from tinystories.run_files import Run


@pytest.fixture
def folder(tmp_path):
    return write_run(tmp_path / "run")


@pytest.fixture
def secret(tmp_path):
    file = tmp_path / "secret.json"
    file.write_text('{"token": "hf_secret"}')
    return file


def test_inside_and_outside(tmp_path, secret):
    folder = tmp_path / "folder"
    (folder / "inner").mkdir(parents=True)
    (folder / "file").touch()
    (folder / "inner/file").touch()
    outside = {
        link(folder / name, target)
        for name, target in {
            "absolute": secret,
            "relative": "../secret.json",
            "through": "inner/../../secret.json",
            "above": "..",
            "absent": "../absent",
            "sibling": tmp_path / "folder2",  # whose name begins with that of the folder
        }.items()
    }
    link(folder / "chain", "absolute")
    link(folder / "inside", "inner/file")
    link(folder / "circle", "circle")
    link(folder / "itself", folder)
    assert links_out_of(folder) == sorted([path.name for path in outside] + ["chain"])
    assert leads_outside(folder / "above" / "secret.json", folder)
    assert not leads_outside(folder / "inner" / ".." / "file", folder)
    named = link(tmp_path / "named", folder)  # a folder that the user names may itself be a link
    assert links_out_of(named) == links_out_of(folder)
    assert links_out_of(folder, ("abs*", "ins*")) == ["absent", "absolute"]
    assert links_out_of(tmp_path / "nothing") == []


def test_cache_of_the_hub(tmp_path):
    """Its snapshots consist of links to files beside them, which are the same model's."""
    snapshot = tmp_path / "models--someone--model/snapshots/0f1e"
    snapshot.mkdir(parents=True)
    (snapshot.parent.parent / "blobs").mkdir()
    link(snapshot / "config.json", "../../blobs/1a2b")
    link(snapshot / "LICENSE", "../../../token")
    assert links_out_of(snapshot) == ["LICENSE"]


@pytest.mark.parametrize("name", ["data_report.json", "environment.json", "samples.jsonl", "trainer_state.json"])
def test_record_is_a_link(name, folder, secret):
    """Guards: a file from elsewhere shown in the report or on the card of a downloaded run."""
    link(folder / name, secret)
    run = Run(folder)
    found = [run.data, run.environment, run.samples, run.state]
    assert len([value for value in found if not value]) == 1
    assert run.problems == [f"{name} is a link that leads out of this folder, and is not followed"]


def test_record_inside_the_run(folder, tmp_path):
    """A link to another file of the run is followed, also from a checkpoint to its run, and also in a linked run."""
    (folder / "recipe.json").rename(folder / "as_given.json")
    link(folder / "recipe.json", "as_given.json")
    (folder / "checkpoint-50").mkdir(exist_ok=True)
    (folder / "trainer_state.json").rename(folder / "state.json")
    link(folder / "checkpoint-50/trainer_state.json", "../state.json")
    for place in (folder, link(tmp_path / "latest", folder)):
        assert Run(place).recipe == RECIPE
        assert Run(place / "checkpoint-50").state["global_step"] == 100


def test_report_is_not_written_through_a_link(folder, secret, tmp_path):
    before = secret.read_text()
    (folder / "report").mkdir()
    index = link(folder / "report/index.html", secret)
    assert "index.html leads out of this folder by a link" in mistake(write_report, folder)
    index.unlink()
    (folder / "report").rmdir()
    (tmp_path / "elsewhere").mkdir()
    report = link(folder / "report", tmp_path / "elsewhere")
    assert "leads out of the run folder by a link" in mistake(write_report, folder)
    assert list((tmp_path / "elsewhere").iterdir()) == [] and secret.read_text() == before
    write_report(folder, tmp_path / "elsewhere")  # named by the user
    report.unlink()
    link(folder / "recipe.json", secret)
    assert "recipe.json is a link" in mistake(write_report, folder)


def test_checkpoint_of_another_run_is_not_reported(folder, tmp_path):
    """Guards: a report with the log of a folder that a link names."""
    (folder / "trainer_state.json").unlink()
    other = write_run(tmp_path / "other")
    state = json.loads((other / "trainer_state.json").read_text())
    (other / "trainer_state.json").write_text(json.dumps(state | {"global_step": 777}))
    (other / "sealed.json").write_text("{}")
    link(folder / "checkpoint-777", other)
    assert "777" not in write_report(folder).read_text(encoding="utf-8")


def test_file_is_replaced_and_not_written_through_a_link(tmp_path, secret):
    before = secret.read_text()
    for name in ("README.md", "README.md.unfinished"):
        link(tmp_path / name, secret)
    write_atomically(tmp_path / "README.md", "card")
    assert (tmp_path / "README.md").read_text() == "card"
    assert not (tmp_path / "README.md").is_symlink() and secret.read_text() == before
