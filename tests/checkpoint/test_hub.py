"""A model goes to the Hub and comes back: against a small Hub on loopback, which the real client talks to over HTTP."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
from huggingface_hub import ModelCard

from helpers.fake_hub import FakeHub
from helpers.runs import (
    COUNTING,
    ROOT,
    TINY,
    as_options,
    output_of,
    run_command,
    run_with_transformers_only,
    write_counting_corpus,
)


REPO = "someone/counting"
WRITE = """
import json, sys
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
options = {{"trust_remote_code": True}} | json.loads({options!r})
tokenizer = AutoTokenizer.from_pretrained({name!r}, **options)
model = AutoModelForCausalLM.from_pretrained({name!r}, **options)
ids = model.generate(**tokenizer("Story 7. one two", return_tensors="pt"), do_sample=False, repetition_penalty=1.0)[0]
print(json.dumps(tokenizer.decode(ids)))
"""


@pytest.fixture
def hub():
    with FakeHub() as hub:
        yield hub


@pytest.fixture
def home(tmp_path):
    """The Hub client's folder: cache, token, downloaded code."""
    return tmp_path / "home"


def greedy_text(name, cwd, **options) -> str:
    """What a fresh process with transformers alone writes; `environment` among the options goes to the process."""
    environment = options.pop("environment", {})
    code = WRITE.format(name=str(name), options=json.dumps(options))
    return json.loads(output_of(run_with_transformers_only(code, cwd, **environment)).splitlines()[-1])


def push(hub, home, *options, token="hf_owner"):
    return run_command("push_to_hub.py", *options, cwd=home.parent, **hub.environment(home, token=token))


def the_error(process) -> str:
    assert process.returncode == 1, process.stderr[-2000:]
    assert "Traceback" not in process.stderr
    (line,) = [line for line in process.stderr.splitlines() if line.startswith("error: ")]
    return line


def writes(hub):
    """The requests that bring content."""
    return [(method, re.sub(r"/[0-9a-f]{40,}$", "", path)) for method, path, _ in hub.requests if method == "PUT"]


def train(folder, hub, home, *options, token="hf_owner", **changes):
    settings = TINY | {"train_file": write_counting_corpus(folder), "data_cache_dir": folder / "cache"} | changes
    settings |= {"output_dir": folder / "run", "push_to_hub": True, "hub_model_id": REPO}
    return run_command("run_clm.py", *as_options(settings), *options, cwd=folder, **hub.environment(home, token=token))


def test_a_run_pushes_itself_and_comes_back_by_its_name_in_a_fresh_process(hub, home, tmp_path):
    process = train(tmp_path, hub, home, "--sample_prompts", "Story 7. one two")
    assert process.returncode == 0, process.stderr[-3000:]
    assert f"Published: {hub.url}/{REPO}/commit/" in process.stdout
    at_home = greedy_text(tmp_path / "run", tmp_path)
    assert at_home == f"<|bos|>Story 7. {COUNTING}<|eos|>"
    shutil.rmtree(tmp_path / "run")

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

    environment = hub.environment(home)
    assert greedy_text(REPO, tmp_path, environment=environment) == at_home
    before = len(hub.requests)
    assert greedy_text(REPO, tmp_path, environment=environment, local_files_only=True) == at_home
    assert hub.requests[before:] == [], "local_files_only asks nobody"
    assert greedy_text(REPO, tmp_path, environment=environment | {"HF_HUB_OFFLINE": "1"}) == at_home


def test_every_checkpoint_is_published_when_asked_and_a_failed_upload_stops_no_training(hub, home, tmp_path):
    hub.fail("POST", "/preupload/", status=501)
    process = train(tmp_path, hub, home, hub_strategy="every_save", max_steps=100)
    assert process.returncode == 0, process.stderr[-3000:]
    assert "step 50 was not published" in process.stderr
    commits = hub.repositories[REPO].commits
    assert [commit.message for commit in commits][1:] == ["Training in progress, step 100", "End of training"]
    for commit in commits[1:]:
        assert {"modeling_tinystories.py", "README.md", "tokenizer.json"} <= set(commit.files)
        assert "optimizer.pt" not in commit.files
    assert "At step 100" in commits[1].files["README.md"].decode()
    assert "All 10 validation stories" in commits[2].files["README.md"].decode()


def test_a_run_that_may_not_push_stops_before_its_first_step(hub, home, tmp_path):
    error = the_error(train(tmp_path, hub, home, token="hf_wrong"))
    assert "hf auth login" in error and "401" in error
    assert not (tmp_path / "run").exists()


def test_a_push_that_fails_at_the_end_keeps_the_run_and_says_how_to_push_it(hub, home, tmp_path):
    hub.fail("POST", "/commit/", status=503)
    changes = {"max_steps": 20, "eval_strategy": "no", "load_best_model_at_end": False, "hub_private_repo": False}
    error = the_error(train(tmp_path, hub, home, **changes))
    assert f"python push_to_hub.py {tmp_path / 'run'} {REPO} --public" in error
    assert push(hub, home, tmp_path / "run", REPO).returncode == 0
    assert json.loads(hub.files(REPO)["all_results.json"]) == json.loads(
        (tmp_path / "run/all_results.json").read_text()
    )


def test_a_finished_run_is_pushed_by_itself_under_a_tag_and_pulled_by_it(hub, home, counting_run, tmp_path):
    process = push(hub, home, counting_run, "counting", "--tag", "v1", "--output_file", tmp_path / "push.json")
    assert process.returncode == 0, process.stderr[-2000:]
    assert f"run_generation.py {REPO} " in process.stdout and "--revision v1" in process.stdout
    pushed = json.loads((tmp_path / "push.json").read_text())
    assert pushed["commit"] == hub.repositories[REPO].tags["v1"] and pushed["repo_id"] == REPO
    assert "tag v1 already" in the_error(push(hub, home, counting_run, REPO, "--tag", "v1"))
    text = greedy_text(REPO, tmp_path, revision="v1", environment=hub.environment(home))
    assert text == f"<|bos|>Story 7. {COUNTING}<|eos|>"
    options = ("Story 7. one two", "--greedy", "--revision", "v1")
    process = run_command("run_generation.py", REPO, *options, cwd=tmp_path, **hub.environment(home))
    assert COUNTING in process.stdout, process.stderr[-2000:]


def test_a_branch_of_its_own_leaves_main_alone(hub, home, counting_run):
    assert push(hub, home, counting_run, REPO, "--revision", "trial").returncode == 0
    assert "model.safetensors" in hub.files(REPO, revision="trial")
    assert "model.safetensors" not in hub.files(REPO)


def test_public_takes_a_word_and_a_public_repository_is_pointed_out(hub, home, counting_run):
    assert push(hub, home, counting_run, REPO, "--public").returncode == 0
    assert not hub.repositories[REPO].private
    assert "exists and is public" in push(hub, home, counting_run, REPO).stderr


def test_a_connection_dropped_in_the_middle_of_the_weights_is_taken_up_again(hub, home, counting_run):
    hub.drop("PUT", "/upload/", after_bytes=10_000)
    assert push(hub, home, counting_run, REPO).returncode == 0
    assert hub.files(REPO)["model.safetensors"] == (counting_run / "model.safetensors").read_bytes()


def test_a_push_that_breaks_off_changes_nothing_and_the_next_one_sends_only_what_is_missing(hub, home, counting_run):
    hub.drop("POST", "/commit/", after_bytes=100)
    error = the_error(push(hub, home, counting_run, REPO))
    assert REPO in error and "push again" in error
    assert set(hub.files(REPO)) == {".gitattributes"}
    assert len(writes(hub)) == 1
    assert push(hub, home, counting_run, REPO).returncode == 0
    assert len(writes(hub)) == 1, "the weights had arrived"
    assert hub.files(REPO)["model.safetensors"] == (counting_run / "model.safetensors").read_bytes()


def test_a_push_killed_half_way_leaves_the_hub_as_it_was(hub, home, counting_run, tmp_path):
    """The Hub holds the weights' upload open until the process is gone."""
    hub.drop("PUT", "/upload/", after_bytes=10_000, times=100)
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "push_to_hub.py"), str(counting_run), REPO],
        cwd=tmp_path,
        env=os.environ | hub.environment(home),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    while not writes(hub) and process.poll() is None:
        pass
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode == (-signal.SIGKILL if os.name == "posix" else 1)
    assert set(hub.files(REPO)) == {".gitattributes"}
    hub.faults.clear()
    assert push(hub, home, counting_run, REPO).returncode == 0
    assert hub.files(REPO)["model.safetensors"] == (counting_run / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("request_line", "status", "words"),
    [
        (("POST", "/api/repos/create"), 401, "hf auth login"),
        (("POST", "/api/repos/create"), 403, "may not write there"),
        (("POST", "/commit/"), 409, "another push was faster"),
        (("POST", "/commit/"), 412, "another push was faster"),
        (("POST", "/commit/"), 503, "push again"),
        (("PUT", "/upload/"), 403, "may not write there"),
    ],
)
def test_a_refusal_is_one_line_with_the_remedy(request_line, status, words, hub, home, counting_run):
    hub.fail(*request_line, status=status)
    assert words in the_error(push(hub, home, counting_run, REPO))


def test_no_hub_at_all_is_one_line(hub, home, counting_run, tmp_path):
    environment = hub.environment(home) | {"HF_ENDPOINT": "http://127.0.0.1:9"}
    process = run_command("push_to_hub.py", counting_run, REPO, cwd=tmp_path, **environment)
    assert "check the name and the connection" in the_error(process)
    process = run_command("push_to_hub.py", counting_run, REPO, cwd=tmp_path, HF_HUB_OFFLINE="1", HF_HOME=str(home))
    assert "offline" in the_error(process).lower()


def test_nobody_is_asked_for_a_token_and_told_how_to_give_one(hub, home, counting_run):
    assert "hf auth login" in the_error(push(hub, home, counting_run, REPO, token=None))


def test_somebody_elses_model_is_not_overwritten(counting_run, tmp_path):
    with FakeHub(tokens={"hf_owner": "someone", "hf_other": "other"}) as hub:
        assert push(hub, tmp_path / "home", counting_run, REPO, "--public").returncode == 0
        assert "may not write" in the_error(push(hub, tmp_path / "home", counting_run, REPO, token="hf_other"))


def test_a_card_edited_on_the_hub_is_not_lost(hub, home, counting_run, tmp_path):
    assert push(hub, home, counting_run, REPO).returncode == 0
    repository = hub.repositories[REPO]
    edited = hub.files(REPO)["README.md"] + b"\nMy children love it.\n"
    repository.commit("main", "edited by hand", hub.files(REPO) | {"README.md": edited})
    error = the_error(push(hub, home, counting_run, REPO))
    assert "edited on the Hub" in error and "--overwrite_card" in error
    error = the_error(train(tmp_path, hub, home))
    assert "edited on the Hub" in error and not (tmp_path / "run").exists(), "a run learns of it before it trains"
    assert hub.files(REPO)["README.md"] == edited
    assert push(hub, home, counting_run, REPO, "--overwrite_card").returncode == 0
    assert hub.files(REPO)["README.md"] != edited
    assert push(hub, home, counting_run / "checkpoint-100", REPO).returncode == 0, "a card that a run wrote gives way"


def test_a_card_is_not_lost_where_the_hub_does_not_say_what_stands_there(hub, home, counting_run):
    """Neither a copy in the cache nor "I cannot tell" is taken for "there is none"."""
    assert push(hub, home, counting_run, REPO).returncode == 0
    edited = hub.files(REPO)["README.md"] + b"\nMy children love it.\n"
    hub.repositories[REPO].commit("main", "edited by hand", hub.files(REPO) | {"README.md": edited})
    hub.fail("HEAD", "README", status=501, times=100)
    the_error(push(hub, home, counting_run, REPO))
    assert hub.files(REPO)["README.md"] == edited


def test_only_what_a_run_writes_is_published_and_what_an_earlier_push_left_goes(hub, home, counting_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(counting_run, folder)
    (folder / "secrets.env").write_text("PASSWORD=1")
    (folder / "wandb").mkdir()
    (folder / "wandb" / "x.log").write_text("log")
    shutil.copytree(counting_run, folder / "finetuned")
    process = push(hub, home, folder, REPO)
    assert "left at home: " in process.stderr and "secrets.env" in process.stderr
    names = set(hub.files(REPO))
    assert not [name for name in names if "/" in name or "secret" in name or name.endswith(".pt")]
    hub.repositories[REPO].commit("main", "a picture", hub.files(REPO) | {"picture.png": b"png"})
    assert push(hub, home, folder / "checkpoint-50", REPO).returncode == 0
    files = hub.files(REPO)
    assert "picture.png" in files, "what somebody put there stays"
    assert names - set(files) >= {"all_results.json", "recipe.json", "samples.jsonl"}, "results of other weights do not"


def test_folders_of_the_author_are_not_published_however_they_are_written(hub, home, counting_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(counting_run, folder)
    recipe = json.loads((folder / "recipe.json").read_text())
    places = {"train_file": "../secret/a.txt", "validation_file": "secret\\b.txt", "output_dir": "secret/runs/demo"}
    recipe |= places | {"sample_prompts": ["/a/b once"], "model_name_or_path": "someone/base"}
    (folder / "recipe.json").write_text(json.dumps(recipe))
    report = json.loads((folder / "data_report.json").read_text())
    report["train"] |= {"source": "secret/a.txt", "first_bad": "secret/a.txt:3: no story"}
    (folder / "data_report.json").write_text(json.dumps(report))
    assert push(hub, home, folder, REPO).returncode == 0
    files = hub.files(REPO)
    assert not [name for name in files if b"secret" in files[name]]
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
def test_what_nobody_could_load_is_not_pushed(file, content, hub, home, counting_run, tmp_path):
    folder = tmp_path / "broken"
    shutil.copytree(counting_run, folder, ignore=shutil.ignore_patterns("checkpoint-*"))
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_text(content)
    error = the_error(push(hub, home, folder, REPO))
    assert "is not a complete checkpoint" in error if content is None else "holds a file that cannot be read" in error
    assert hub.requests == []


def test_a_wrong_word_on_the_command_line_is_named(hub, home, counting_run, tmp_path):
    assert "is no folder" in the_error(push(hub, home, tmp_path / "absent", REPO))
    assert "is no name of a repository" in the_error(push(hub, home, counting_run, "a/b/c"))
    assert "--message is empty" in the_error(push(hub, home, counting_run, REPO, "--message", " "))
    assert hub.requests == []


def test_a_tag_that_is_refused_does_not_hide_that_the_model_is_published(hub, home, counting_run):
    hub.fail("POST", "/tag/", status=400)
    error = the_error(push(hub, home, counting_run, REPO, "--tag", "v1"))
    assert "which is published, but has no tag v1" in error
    assert "model.safetensors" in hub.files(REPO)


def test_training_goes_on_from_a_model_on_the_hub_and_saves_it_whole(hub, home, counting_run, tmp_path):
    assert push(hub, home, counting_run, REPO, "--tag", "v1").returncode == 0
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
    process = run_command("run_clm.py", *as_options(settings), cwd=tmp_path, **hub.environment(home))
    assert process.returncode == 0, process.stderr[-3000:]
    assert "guard passed: known loss" in process.stderr
    card = ModelCard.load(tmp_path / "more" / "README.md")
    assert card.data.base_model == REPO and f"goes on with `{REPO}`" in card.text
    auto_map = json.loads((tmp_path / "more" / "config.json").read_text())["auto_map"]
    assert all("--" not in place for place in auto_map.values()), "the code is looked for where the weights are"
    assert greedy_text(tmp_path / "more", tmp_path) == f"<|bos|>Story 7. {COUNTING}<|eos|>"
