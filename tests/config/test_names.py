"""The name of a checkpoint that is not there: one line, at once; the Hub is asked once, for what may be an id of it."""

import socket
from pathlib import Path

import pytest
from huggingface_hub import constants

from helpers.fake_hub import FakeHub
from helpers.runs import mistake
from tinystories.commands.main import dispatch
from tinystories.config.names import check_found, check_local, looks_local
from tinystories.config.packaged import find_checkpoint


COMMANDS = {
    "generate": lambda name: ["generate", name, "Once upon a time"],
    "evaluate": lambda name: ["evaluate", name],
    "serve": lambda name: ["serve", name],
    "check": lambda name: ["check", name],
    "report": lambda name: ["report", name],
    "export": lambda name: ["export", name, "--format", "llama"],
    "push": lambda name: ["push", name, "me/stories"],
    "model of a run": lambda name: ["train", "demo", "--model_name_or_path", name, "--output_dir", "x"],
    "tokenizer of a run": lambda name: ["train", "demo", "--tokenizer_name", name, "--output_dir", "x"],
    "data of a run": lambda name: ["train", "demo", "--dataset_name", name, "--output_dir", "x"],
}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub without models, and an empty folder to work in."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    with FakeHub() as hub:
        hub.connect(monkeypatch, tmp_path / "home")
        yield hub


@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_in_runs(command, hub):
    """Every command, in the same words, and the Hub is not asked."""
    message = mistake(dispatch, COMMANDS[command]("runs/nothing"))
    assert message.startswith("no folder runs/nothing here") and "huggingface" not in message
    assert hub.requests == []


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in ("serve", "data of a run")])
def test_neither_here_nor_on_the_hub(command, hub):
    """Both are said; a report and a push take folders alone. The server opens a model in a thread: test_server.py."""
    message = mistake(dispatch, COMMANDS[command]("someone/nothing"))
    assert message.startswith("no folder someone/nothing here"), message
    folders_only = command in ("report", "push")
    assert ("the Hub has no such model" in message) is not folders_only, message
    assert len(hub.requests) == (0 if folders_only else 1), "asked once"


def test_data_set_that_is_not_there(hub):
    message = mistake(dispatch, COMMANDS["data of a run"]("someone/nothing"))
    assert message.startswith("no folder someone/nothing here, and the Hub has no such dataset"), message


@pytest.mark.parametrize(
    "name",
    [
        *("runs/a", "runs", "./a", "../a", "/nowhere/a", "~nobody/a", "a\\b", "a/b/c", "a/", ".", "..", "C:/a", "C:a"),
        "stories260K.bin",
    ],
)
def test_local_look(name):
    assert looks_local(name)


@pytest.mark.parametrize("name", ["gpt2", "someone/model", "some-one/my.model_2", "demo", "checkpoint-5"])
def test_may_be_on_the_hub(name, tmp_path, monkeypatch):
    """Until there is a folder of its first part here."""
    monkeypatch.chdir(tmp_path)
    assert not looks_local(name)
    check_local(name)
    (tmp_path / name.split("/")[0]).mkdir()
    assert looks_local(name) is ("/" in name)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("runs/dmo", "no folder runs/dmo here; did you mean runs/demo?"),
        ("runs/demo/checkpoint-51", "no folder runs/demo/checkpoint-51 here; did you mean runs/demo/checkpoint-50?"),
        ("runs/dmo/checkpoint-50", "no folder runs/dmo/checkpoint-50 here; did you mean runs/demo/checkpoint-50?"),
        ("./rums/demo", "no folder ./rums/demo here; did you mean runs/demo?"),
        ("runs/zzz", "no folder runs/zzz here; in runs there is demo"),
        ("elsewhere/a/b", "no folder elsewhere/a/b here"),
        ("model.bin", "no file model.bin here"),
        ("runs\\dmo", "no folder runs\\dmo here; did you mean runs/demo?"),
        ("runs/demo/notes.txt", "runs/demo/notes.txt is a file, and a checkpoint is a folder; name a run folder"),
        ("file.txt/x", None),
    ],
)
def test_near_names(typed, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/demo/checkpoint-50").mkdir(parents=True)
    (tmp_path / "runs/.hidden").mkdir()
    (tmp_path / "runs/demo/notes.txt").touch()
    (tmp_path / "file.txt").touch()
    if message is None:
        assert find_checkpoint(typed) == typed
    else:
        assert mistake(find_checkpoint, typed) == message


def test_absolute_path(tmp_path):
    assert mistake(find_checkpoint, str(tmp_path / "absent")).startswith(f"no folder {tmp_path / 'absent'}")
    assert " here" not in mistake(find_checkpoint, str(tmp_path / "absent"))


def test_file_of_a_checkpoint(tmp_path):
    (tmp_path / "config.json").touch()
    message = mistake(find_checkpoint, str(tmp_path / "config.json"))
    assert message.endswith(f"is a file, and a checkpoint is a folder; give the folder, {tmp_path}")


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (404, "RepoNotFound", "the Hub has no such model, or a private one: check the name, or log in"),
        (401, "RepoNotFound", "the Hub has no such model, or a private one"),
        (403, "GatedRepo", "on the Hub it is gated: accept its conditions"),
        (404, "RevisionNotFound", "on the Hub it has no branch, tag or commit v9"),
        (401, None, "the Hub answered with status 401: log in"),
        (503, None, "the Hub answered with status 503: try again later"),
        (429, None, "the Hub answered with status 429: try again later"),
    ],
)  # fmt: skip
def test_answers_of_the_hub(status, code, said, hub):
    """Each is one line, after one request."""
    hub.fail("HEAD", "/someone/model/", status=status, error_code=code)
    message = mistake(check_found, "someone/model", "v9")
    assert message.startswith(f"no folder someone/model here, and {said}"), message
    assert "http" not in message and len(hub.requests) == 1


def test_repository_without_config(hub):
    """A repository may hold a tokenizer alone."""
    hub.fail("HEAD", "/someone/model/", status=404, error_code="EntryNotFound")
    check_found("someone/model")


def unreachable(monkeypatch):
    """An address that refuses at once."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    template = f"http://127.0.0.1:{port}" + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")


def test_without_a_network(hub, monkeypatch):
    """One line instead of minutes of repeated requests."""
    unreachable(monkeypatch)
    message = mistake(check_found, "someone/model")
    assert message.startswith("no folder someone/model here, and the Hub cannot be reached (")
    assert message.endswith("check the connection")


def test_copy_while_the_hub_is_down(hub):
    hub.fail("HEAD", "/someone/model/", status=503)
    cached("someone/model")
    check_found("someone/model")


def test_file_for_a_data_set(hub):
    Path("stories.txt").touch()
    message = mistake(dispatch, COMMANDS["data of a run"]("stories.txt"))
    assert message == "stories.txt is a file, and no dataset of the Hub; write --train_file stories.txt"


def cached(name: str) -> None:
    (Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}").mkdir(parents=True)


def test_copy_on_this_machine(hub, monkeypatch, caplog):
    """It is used without asking again, and the log says so."""
    unreachable(monkeypatch)
    cached("someone/model")
    check_found("someone/model")
    assert "the copy on this machine is used" in caplog.text
    assert constants.HF_HUB_OFFLINE, "the libraries would ask for each file again"


def test_switched_off(hub, monkeypatch):
    """HF_HUB_OFFLINE: what is here is opened, of the rest it is said why it is not."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    message = mistake(check_found, "someone/model")
    assert message == "no folder someone/model here, and the Hub is not asked: HF_HUB_OFFLINE is set"
    cached("someone/model")
    check_found("someone/model")
    assert hub.requests == []


@pytest.mark.parametrize("name", ["what is this", "a" * 200, "-a", "x..y", "ä"])
def test_no_name_at_all(name, hub):
    message = mistake(check_found, name)
    assert message.startswith(f"no folder {name} here, and the Hub has no model of such a name"), message
    assert hub.requests == []


def test_near_run_of_a_hub_name(hub):
    """The name of a run without its folder."""
    Path("runs/demo").mkdir(parents=True)
    for name in ("demo", "dmeo", "run/demo"):
        assert mistake(check_found, name).endswith("; did you mean runs/demo?")
