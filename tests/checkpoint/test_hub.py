"""A model goes to the Hub and comes back: against a small Hub on loopback, which the real client talks to over HTTP.

Most tests push in this process. The commands run as processes where a whole run, a kill or an exit status is tested.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from huggingface_hub import ModelCard, constants

from helpers.fake_hub import FakeHub
from helpers.links import link
from helpers.runs import (
    COUNTING,
    ROOT,
    TINY,
    as_options,
    mistake,
    output_of,
    run_command,
    run_with_transformers_only,
    write_counting_corpus,
)
from tinystories.commands import generate, push, train


pytestmark = [
    pytest.mark.slow,
    pytest.mark.hub,
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),  # the client's own use of its HTTP library
]

REPO = "someone/counting"
TEXT = f"<|bos|>Story 7. {COUNTING}<|eos|>"
WRITE = """
import json, shutil
from transformers import AutoModelForCausalLM, AutoTokenizer
def write(name, **options):
    tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=True, **options)
    model = AutoModelForCausalLM.from_pretrained(name, trust_remote_code=True, **options)
    inputs = tokenizer("Story 7. one two", return_tensors="pt")
    ids = model.generate(**inputs, do_sample=False, repetition_penalty=1.0)[0]
    return tokenizer.decode(ids)
"""


@pytest.fixture
def home(tmp_path):
    """The Hub client's folder: cache, token, downloaded code."""
    return tmp_path / "home"


@pytest.fixture
def hub(monkeypatch, home):
    """A Hub that this process is connected to."""
    with FakeHub() as hub:
        hub.connect(monkeypatch, home)
        yield hub


def texts(cwd, *calls: str, **environment) -> list[str]:
    """What each call of `write` gives, all in one fresh process with transformers alone."""
    code = f"{WRITE}\nprint(json.dumps([{', '.join(calls)}]))"
    return json.loads(output_of(run_with_transformers_only(code, cwd, **environment)).splitlines()[-1])


def publish(*options) -> None:
    push.main([str(option) for option in options])


def refusal(*options) -> str:
    """The one line of a push that fails."""
    return mistake(publish, *options)


def edit_card(hub) -> bytes:
    """Edit the published card as somebody does on the page of the Hub; gives what it holds then."""
    edited = hub.files(REPO)["README.md"] + b"\nMy children love it.\n"
    hub.repositories[REPO].commit("main", "edited by hand", hub.files(REPO) | {"README.md": edited})
    return edited


def uploads(hub) -> list[str]:
    """The requests that bring weights."""
    return [path for method, path, _ in hub.requests if method == "PUT"]


def training(folder, **changes) -> list[str]:
    settings = TINY | {"train_file": write_counting_corpus(folder), "data_cache_dir": folder / "cache"}
    settings |= {"output_dir": folder / "run", "push_to_hub": True, "hub_model_id": REPO}
    return as_options(settings | changes)


def test_run_pushes_itself(hub, home, tmp_path):
    """A run is published whole in one commit, and a fresh process opens it by its name, online and offline."""
    environment = hub.environment(home)
    options = [*training(tmp_path), "--skip_guards", "--sample_prompts", "Story 7. one two"]
    process = run_command("run_clm.py", *options, cwd=tmp_path, **environment)
    assert process.returncode == 0, process.stderr[-3000:]
    assert f"Published: {hub.url}/{REPO}/commit/" in process.stdout
    assert hub.repositories[REPO].private, "private unless said otherwise"
    files = hub.files(REPO)
    assert not [name for name in files if re.search(r"optimizer|scheduler|rng|training_args|checkpoint-", name)]
    assert len(hub.repositories[REPO].commits) == 2, "the empty repository, and one commit with all of the run"
    card = ModelCard(files["README.md"].decode())
    assert {result.metric_type for result in card.data.eval_results} == {"perplexity", "bits_per_byte"}
    final = json.loads(files["all_results.json"])
    assert f"{final['eval_bits_per_byte']:.4f}" in card.text
    assert f'model="{REPO}"' in card.text
    for name in ("recipe.json", "data_report.json", "trainer_state.json", "README.md"):
        assert str(tmp_path) not in files[name].decode(), f"{name} shows a folder of the author's machine"
    assert json.loads(files["recipe.json"])["train_file"] == "counting.txt"

    folder, remote = repr(str(tmp_path / "run")), f"write({REPO!r})"
    assert texts(tmp_path, f"write({folder})", f"shutil.rmtree({folder})", remote, **environment) == [TEXT, None, TEXT]
    before = len(hub.requests)
    assert texts(tmp_path, f"write({REPO!r}, local_files_only=True)", **environment) == [TEXT]
    assert hub.requests[before:] == [], "local_files_only sends no request"
    assert texts(tmp_path, remote, **environment | {"HF_HUB_OFFLINE": "1"}) == [TEXT]


def test_every_save_is_published(hub, tmp_path, caplog):
    """With hub_strategy every_save each checkpoint is a commit, and a failed upload does not stop the training."""
    hub.fail("POST", "/preupload/", status=501)
    train.main(training(tmp_path, hub_strategy="every_save"))
    assert "step 50 was not published" in caplog.text
    commits = hub.repositories[REPO].commits
    assert [commit.message for commit in commits][1:] == ["Training in progress, step 100", "End of training"]
    for commit in commits[1:]:
        assert {"modeling_tinystories.py", "README.md", "tokenizer.json"} <= set(commit.files)
        assert "optimizer.pt" not in commit.files
    assert "At step 100" in commits[1].files["README.md"].decode()
    assert "All 10 validation stories" in commits[2].files["README.md"].decode()


def test_no_permission(hub, home, tmp_path, monkeypatch):
    """A wrong token stops the run before the training."""
    hub.connect(monkeypatch, home, token="hf_wrong")
    error = mistake(train.main, training(tmp_path))
    assert "hf auth login" in error and "401" in error
    assert not (tmp_path / "run").exists()


def test_failed_push_keeps_the_run(hub, tmp_path):
    """The error of a push that fails at the end names the command that publishes the finished run."""
    hub.fail("POST", "/commit/", status=503)
    changes = {"max_steps": 20, "eval_strategy": "no", "load_best_model_at_end": False, "hub_private_repo": False}
    error = mistake(train.main, training(tmp_path, **changes))
    assert f"tinystories push {tmp_path / 'run'} {REPO} --public" in error
    publish(tmp_path / "run", REPO)
    assert json.loads(hub.files(REPO)["all_results.json"]) == json.loads(
        (tmp_path / "run/all_results.json").read_text()
    )


def test_tag(hub, home, counting_run, tmp_path, capsys):
    """A finished run is pushed under a tag, and opened by it; a tag does not move."""
    publish(counting_run, "counting", "--tag", "v1", "--output_file", tmp_path / "push.json")
    said = capsys.readouterr().out
    assert f"tinystories generate {REPO} " in said and "--revision v1" in said
    pushed = json.loads((tmp_path / "push.json").read_text())
    assert pushed["commit"] == hub.repositories[REPO].tags["v1"] and pushed["repo_id"] == REPO
    assert "tag v1 already" in refusal(counting_run, REPO, "--tag", "v1")
    assert texts(tmp_path, f"write({REPO!r}, revision='v1')", **hub.environment(home)) == [TEXT]
    generate.main([REPO, "Story 7. one two", "--greedy", "--revision", "v1"])
    assert COUNTING in capsys.readouterr().out


def test_what_a_killed_download_left(hub, home, counting_run, capsys):
    """The client's cache, as a kill in the middle of a download leaves it, is completed by the next command.

    The name of the commit is not yet written, some files are missing, and of the largest one there is a half.
    """
    publish(counting_run, REPO)
    write = [REPO, "Story 7. one two", "--greedy"]
    generate.main(write)
    assert COUNTING in capsys.readouterr().out
    (cache,) = (home / "hub").glob("models--*")
    (cache / "refs" / "main").write_text("")
    largest = max((cache / "blobs").iterdir(), key=lambda file: file.stat().st_size)
    largest.with_name(largest.name + ".incomplete").write_bytes(largest.read_bytes()[:1000])
    for file in list((cache / "snapshots").rglob("*.json")):
        if file.name != "config.json":
            file.resolve().unlink()
            file.unlink()
    largest.unlink()
    generate.main(write)
    assert COUNTING in capsys.readouterr().out
    assert (cache / "refs" / "main").read_text() == hub.repositories[REPO].commits[-1].id


def test_branch_leaves_main_alone(hub, counting_run):
    publish(counting_run, REPO, "--revision", "trial")
    assert "model.safetensors" in hub.files(REPO, revision="trial")
    assert "model.safetensors" not in hub.files(REPO)


def test_public_repository(hub, counting_run, caplog):
    """--public makes one, and a later push that means a private one warns."""
    publish(counting_run, REPO, "--public")
    assert not hub.repositories[REPO].private
    publish(counting_run, REPO)
    assert "exists and is public" in caplog.text


def test_dropped_upload_is_repeated(hub, counting_run):
    hub.drop("PUT", "/upload/", after_bytes=10_000)
    publish(counting_run, REPO)
    assert hub.files(REPO)["model.safetensors"] == (counting_run / "model.safetensors").read_bytes()


def test_push_is_atomic(hub, counting_run):
    """A push that breaks off changes nothing, and the next one does not send the weights again."""
    hub.drop("POST", "/commit/", after_bytes=100)
    error = refusal(counting_run, REPO)
    assert REPO in error and "push again" in error
    assert set(hub.files(REPO)) == {".gitattributes"}
    assert len(uploads(hub)) == 1
    publish(counting_run, REPO)
    assert len(uploads(hub)) == 1, "the weights had arrived"
    assert hub.files(REPO)["model.safetensors"] == (counting_run / "model.safetensors").read_bytes()


def test_killed_push(hub, home, counting_run, tmp_path):
    """The Hub holds the upload of the weights open until the process is gone; nothing is published."""
    hub.drop("PUT", "/upload/", after_bytes=10_000, times=100)
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "push_to_hub.py"), str(counting_run), REPO],
        cwd=tmp_path,
        env=os.environ | hub.environment(home),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    while not uploads(hub) and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode == (-signal.SIGKILL if os.name == "posix" else 1)
    assert set(hub.files(REPO)) == {".gitattributes"}
    hub.faults.clear()
    publish(counting_run, REPO)
    assert hub.files(REPO)["model.safetensors"] == (counting_run / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("request_line", "status", "words"),
    [
        (("POST", "/api/repos/create"), 401, "hf auth login"),
        (("POST", "/api/repos/create"), 403, "may not write there"),
        (("POST", "/commit/"), 409, "another push came first"),
        (("POST", "/commit/"), 412, "another push came first"),
        (("POST", "/commit/"), 503, "push again"),
        (("PUT", "/upload/"), 403, "may not write there"),
    ],
)
def test_refusal_names_the_remedy(request_line, status, words, hub, counting_run):
    hub.fail(*request_line, status=status)
    assert words in refusal(counting_run, REPO)


def test_no_connection(hub, home, counting_run, tmp_path, monkeypatch):
    """One line, and from the command an exit status; also where the client is told to be offline."""
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "check the name and the connection" in refusal(counting_run, REPO)
    process = run_command("push_to_hub.py", counting_run, REPO, cwd=tmp_path, HF_HUB_OFFLINE="1", HF_HOME=str(home))
    assert process.returncode == 1 and "Traceback" not in process.stderr
    (line,) = [line for line in process.stderr.splitlines() if line.startswith("error: ")]
    assert "offline" in line.lower()


def test_no_token(hub, home, counting_run, monkeypatch):
    hub.connect(monkeypatch, home, token=None)
    assert "hf auth login" in refusal(counting_run, REPO)


def test_repository_of_another_user(counting_run, home, monkeypatch):
    with FakeHub(tokens={"hf_owner": "someone", "hf_other": "other"}) as hub:
        hub.connect(monkeypatch, home)
        publish(counting_run, REPO, "--public")
        hub.connect(monkeypatch, home, token="hf_other")
        assert "may not write" in refusal(counting_run, REPO)


def test_edited_card_is_kept(hub, counting_run, tmp_path):
    """A card that was edited on the Hub stops a push, and a run before it trains; one that a run wrote is replaced."""
    publish(counting_run, REPO)
    edited = edit_card(hub)
    error = refusal(counting_run, REPO)
    assert "edited on the Hub" in error and "--overwrite_card" in error
    error = mistake(train.main, training(tmp_path))
    assert "edited on the Hub" in error and not (tmp_path / "run").exists()
    assert hub.files(REPO)["README.md"] == edited
    publish(counting_run, REPO, "--overwrite_card")
    assert hub.files(REPO)["README.md"] != edited
    publish(counting_run / "checkpoint-100", REPO)


def test_unknown_card_is_kept(hub, counting_run):
    """Where the Hub does not say what it holds, neither a copy in the cache counts nor "there is none"."""
    publish(counting_run, REPO)
    edited = edit_card(hub)
    hub.fail("HEAD", "README", status=501, times=100)
    refusal(counting_run, REPO)
    assert hub.files(REPO)["README.md"] == edited


def test_what_is_published(hub, counting_run, tmp_path, caplog):
    """Only files that a run writes; records of an earlier push of other weights are removed, other files kept."""
    folder = tmp_path / "run"
    shutil.copytree(counting_run, folder)
    (folder / "secrets.env").write_text("PASSWORD=1")
    (folder / "wandb").mkdir()
    (folder / "wandb" / "x.log").write_text("log")
    shutil.copytree(counting_run, folder / "finetuned")
    caplog.set_level("INFO", "tinystories")
    publish(folder, REPO)
    assert re.search("not published: .*secrets.env", caplog.text)
    names = set(hub.files(REPO))
    assert not [name for name in names if "/" in name or "secret" in name or name.endswith(".pt")]
    hub.repositories[REPO].commit("main", "a picture", hub.files(REPO) | {"picture.png": b"png"})
    publish(folder / "checkpoint-50", REPO)
    files = hub.files(REPO)
    assert "picture.png" in files, "a file that somebody put there stays"
    assert names - set(files) >= {"all_results.json", "recipe.json", "samples.jsonl"}, "results of other weights do not"


PLACES = (
    "LICENSE",
    "README.md",
    "recipe.json",
    "samples.jsonl",
    "evaluation.json",
    "model-00002.safetensors",
    "LICENSE-2",
)


@pytest.mark.parametrize("name", PLACES)
def test_link_out_of_the_folder(name, hub, counting_run, tmp_path):
    """Guards: a private file published under an innocent name. Nothing is sent, not even the name of the repository."""
    folder, secret = tmp_path / "run", tmp_path / "id_rsa"
    shutil.copytree(counting_run, folder)
    secret.write_text("PRIVATE KEY")
    link(folder / name, secret)
    error = refusal(folder, REPO)
    assert f"{name} would be published, but leads out of this folder by a link" in error
    assert "PRIVATE" not in error and hub.requests == []
    secret.unlink()  # a link to nothing may lead to something later
    if name not in ("README.md", "recipe.json"):
        assert name in refusal(folder, REPO)


def test_link_out_of_a_checkpoint(hub, counting_run, tmp_path):
    """A checkpoint-N is published alone: what leads out of it is refused, even if it stays in the run."""
    folder = tmp_path / "run"
    shutil.copytree(counting_run, folder)
    (folder / "notes.txt").write_text("my notes")
    link(folder / "checkpoint-50/LICENSE", "../notes.txt")
    assert "LICENSE would be published" in refusal(folder / "checkpoint-50", REPO)
    publish(folder, REPO)  # the run itself has no link
    assert b"my notes" not in hub.files(REPO).values()


def test_link_inside_the_folder(hub, counting_run, tmp_path):
    """It is followed, also in a folder that is itself a link; a linked folder is not published."""
    folder, target = tmp_path / "run", tmp_path / "elsewhere/LICENSES"
    shutil.copytree(counting_run, folder)
    (folder / "terms.txt").write_text("MIT")
    link(folder / "LICENSE", "terms.txt")
    recipe = json.loads((folder / "recipe.json").read_text())
    (folder / "recipe.json").rename(folder / "my_recipe.json")
    link(folder / "recipe.json", "my_recipe.json")
    publish(link(tmp_path / "latest", folder), REPO)
    files = hub.files(REPO)
    assert files["LICENSE"] == b"MIT" and "terms.txt" not in files
    assert json.loads(files["recipe.json"])["seed"] == recipe["seed"]
    assert str(tmp_path) not in files["recipe.json"].decode(), "cleaned under its own name"
    target.mkdir(parents=True)
    link(folder / "LICENSES", target)
    assert "LICENSES would be published" in refusal(folder, REPO)


def test_resumed_run_with_a_link(hub, counting_run, tmp_path):
    """A run that publishes itself refuses what `push` refuses, and its folder is kept."""
    changes = {"max_steps": 20, "eval_strategy": "no", "load_best_model_at_end": False, "push_to_hub": False}
    train.main(training(tmp_path, **changes, save_steps=20))
    (tmp_path / "id_rsa").write_text("PRIVATE KEY")
    link(tmp_path / "run/LICENSE", tmp_path / "id_rsa")
    error = mistake(train.main, [*training(tmp_path, **changes | {"push_to_hub": True}, save_steps=20), "--resume"])
    assert "LICENSE would be published" in error
    assert not [path for path in hub.files(REPO) if path.startswith("LICENSE")]
    (tmp_path / "run/LICENSE").unlink()
    link(tmp_path / "run/evaluations.jsonl", tmp_path / "id_rsa")
    error = mistake(train.main, [*training(tmp_path, **changes), "--resume"])
    assert "evaluations.jsonl leads out of this folder by a link, and would be overwritten" in error
    assert (tmp_path / "id_rsa").read_text() == "PRIVATE KEY"


def test_local_paths_are_not_published(hub, counting_run, tmp_path):
    """However they are written: only the names of files and folders are left."""
    folder = tmp_path / "run"
    shutil.copytree(counting_run, folder)
    recipe = json.loads((folder / "recipe.json").read_text())
    places = {"train_file": "../secret/a.txt", "validation_file": "secret\\b.txt", "output_dir": "secret/runs/demo"}
    recipe |= places | {"sample_prompts": ["/a/b once"], "model_name_or_path": "someone/base"}
    (folder / "recipe.json").write_text(json.dumps(recipe))
    report = json.loads((folder / "data_report.json").read_text())
    report["train"] |= {"source": "secret/a.txt", "first_bad": "secret/a.txt:3: no story"}
    (folder / "data_report.json").write_text(json.dumps(report))
    settings = {"quick": False, "data": "secret/held-out.txt", "train_file": "/home/me/secret/a.txt", "stories": None}
    evaluation = {"data": {"name": "held-out.txt", "stories": 3}, "settings": settings}
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    publish(folder, REPO)
    files = hub.files(REPO)
    assert not [name for name in files if b"secret" in files[name]]
    cleaned = {"data": "held-out.txt", "train_file": "a.txt"}
    assert json.loads(files["evaluation.json"]) == evaluation | {"settings": settings | cleaned}
    published = json.loads(files["recipe.json"])
    assert published["sample_prompts"] == ["/a/b once"] and published["model_name_or_path"] == "someone/base"


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("configuration_tinystories.py", None),
        ("tokenizer_config.json", None),
        ("model.safetensors", ""),
        ("trainer_state.json", '{"global_'),
        ("README.md", "---\ntags: [a\n---\ntext"),
    ],
)
def test_broken_checkpoint(file, content, hub, counting_run, tmp_path):
    """A folder that nobody could load from the Hub is refused before any request."""
    folder = tmp_path / "broken"
    shutil.copytree(counting_run, folder, ignore=shutil.ignore_patterns("checkpoint-*"))
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_text(content)
    error = refusal(folder, REPO)
    reason = "is not a complete checkpoint" if content is None else "holds a file that cannot be read|is damaged"
    assert re.search(reason, error)
    assert hub.requests == []


def test_wrong_options(hub, counting_run, tmp_path):
    assert "no folder" in refusal(tmp_path / "absent", REPO)
    assert "is not a repository name" in refusal(counting_run, "a/b/c")
    assert "--message is empty" in refusal(counting_run, REPO, "--message", " ")
    assert hub.requests == []


def test_refused_tag(hub, counting_run):
    """The error of a tag that is refused says that the model is published."""
    hub.fail("POST", "/tag/", status=400)
    error = refusal(counting_run, REPO, "--tag", "v1")
    assert "which is published, but has no tag v1" in error
    assert "model.safetensors" in hub.files(REPO)


def test_finetuning_a_model_of_the_hub(hub, counting_run, tmp_path):
    """The new checkpoint names its base and opens without it: its code files are its own."""
    publish(counting_run, REPO, "--tag", "v1")
    settings = {
        "model_name_or_path": REPO,
        "model_revision": "v1",
        "train_file": write_counting_corpus(tmp_path),
        "data_cache_dir": tmp_path / "cache",
        "output_dir": tmp_path / "more",
        "max_steps": 2,
        "bf16": False,
        "disable_tqdm": True,
    }
    train.main(as_options(settings))
    assert "known loss" in json.loads((tmp_path / "more" / "data_report.json").read_text())["guards"]
    card = ModelCard.load(tmp_path / "more" / "README.md")
    assert card.data.base_model == REPO and f"continues from `{REPO}`" in card.text
    auto_map = json.loads((tmp_path / "more" / "config.json").read_text())["auto_map"]
    assert all("--" not in place for place in auto_map.values()), "the code is looked for where the weights are"
    assert texts(tmp_path, f"write({str(tmp_path / 'more')!r})") == [TEXT]
