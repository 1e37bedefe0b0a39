"""The README: every command and every piece of Python in it runs, in a new environment, in a copy of the checkout.

test_numbers.py compares its numbers with the records.
"""

import re
import shlex
import time

import httpx
import pytest
import torch

from benchmarks.recipe_runs import TokenizerOfSize
from helpers.fake_hub import FakeHub
from helpers.forked import OURS
from helpers.installation import Installation, copy_of_checkout
from helpers.runs import ROOT
from helpers.session import Session
from tinystories.checkpoint.loading import new_model
from tinystories.config.recipe import read_recipe
from tinystories.data.sample_corpus import sample_stories


README = (ROOT / "README.md").read_text(encoding="utf-8")
FINETUNING = (ROOT / "docs/finetuning.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(bash|python)\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    part.strip() for kind, text in BLOCKS if kind == "bash" for part in re.split(r"[;\n]", text) if part.strip()
]
PICTURE = ROOT / "docs/figures/page.webp"

# What is not run, and why; its words are checked as far as that goes without running it.
NOT_RUN = {
    "uvx --from . -c constraints.txt tinystories generate": "uv downloads every library into a folder of its own",
    "uv tool install -c constraints.txt": "uv downloads every library into a folder of its own",
    "pipx install --pip-args": "pipx downloads every library into a folder of its own",
    'python -m pip install -c constraints.txt -e ".[dev]"': ".ci/run takes the line from the README, in a new venv",
    "python -m pytest -n auto": "this test is one of them; .ci/run takes the line from the README",
    "python run_clm.py configs/tinystories-24m.yaml": "needs the TinyStories dataset from the Hub, and a GPU",
    "hf auth login": "asks for a token; the small Hub of the tests has one",
}
# What is added to a command, so that it takes seconds: fewer steps, a smaller network, a free port. .ci/run installs
# the extras with their libraries, for the whole suite.
SIZES = "--vocab_size 512 --num_hidden_layers 1 --hidden_size 64 --intermediate_size 128 --num_attention_heads 2"
STEPS = "--max_steps 4 --eval_steps 4 --save_steps 4 --warmup_steps 1 --torch_compile false --data_cache_dir cache"
ADDED = {
    "configs/demo.yaml": f"{STEPS} {SIZES} --num_sample_stories 300",
    "configs/tinystories-cpu.yaml": f"{STEPS} {SIZES} --block_size 128",
    "tinystories train finetune": "--max_steps 2 --eval_steps 2 --save_steps 2 --data_cache_dir cache",
    "tinystories serve": "--port 0",
    '-e ".[eval]"': "--no-deps --dry-run",
    '-e ".[export]"': "--no-deps --dry-run",
    "run_evaluation.py": "--stories 8 --pairs 4 --prompts 2 --max_new_tokens 16",
}
PRINTED = {  # in either output
    "tinystories generate": "Once upon a time",
    "tinystories chat": "One day, a little fox",
    "run_clm.py configs/demo.yaml": r"(?m)^Once upon a time",
    "tinystories train finetune": "8 training stories, 2 validation stories",
    "run_evaluation.py": "Results: evaluation/evaluation.json",
    "check_run.py runs/demo": "verdict: UN(DER)?TRAINED",
    "push_to_hub.py": "Published: ",
    "export_model.py": "Exported: exports/demo",
}
# The code of the README needs nothing of this project: None in sys.modules is a module that cannot be imported.
WITHOUT_OURS = f"import sys; sys.modules.update(dict.fromkeys({OURS}))"
# The verdict on a model of so few steps is UNTRAINED or UNDERTRAINED.
STATUSES = {"python check_run.py runs/demo": (1,)}


def reason_not_to_run(command: str) -> str | None:
    return next((reason for begin, reason in NOT_RUN.items() if command.startswith(begin)), None)


def test_first_commands():
    """Install, a story, a page, a conversation: they come first."""
    assert COMMANDS[:4] == [
        'python -m pip install -c constraints.txt -e ".[web]"',
        'tinystories generate "Once upon a time" --seed 13',
        "tinystories serve",
        "tinystories chat",
    ]


def test_short():
    """A page that nobody reads to its end; a picture of megabytes on it."""
    assert len(README.splitlines()) <= 200
    assert f"]({PICTURE.relative_to(ROOT).as_posix()})" in README and PICTURE.stat().st_size <= 1_500_000


@pytest.mark.parametrize("command", COMMANDS)
def test_typed_in_powershell(command):
    """What bash and PowerShell read differently: single quotes, `&&`, continued lines, `$`; outside of quotes a comma,
    which makes a list there, and brackets, which bash looks for in file names."""
    assert not re.search(r"['`$\\<>|&]", command)
    assert not re.search(r"[,@\[\]{}()*?~%]", re.sub(r'"[^"]*"', "", command))
    assert "=" not in command.split()[0]


@pytest.mark.parametrize(
    "line", [r"\`a \\", "echo 'a'", "a && b", "echo $HOME", "--format llama,gguf", "pip install .[web]"]
)
def test_other_shells_are_seen(line):
    with pytest.raises(AssertionError):
        test_typed_in_powershell(line)


def test_commands_that_are_not_run():
    """Each has a reason, and is right as far as its words tell: files, recipes and extras exist."""
    skipped = [command for command in COMMANDS if reason_not_to_run(command)]
    assert len(skipped) == len(NOT_RUN)
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for command in skipped:
        words = [word for group in shlex.split(command) for word in group.split()]
        assert [word for word in words if word.endswith((".txt", ".yaml")) and not (ROOT / word).exists()] == []
        assert all(f"\n{extra} = [" in project for extra in re.findall(r"\.\[(\w+)\]", command))
        if "run_clm.py" in words:
            assert read_recipe([str(ROOT / word) for word in words[2:]]).training.output_dir


class Reader:
    """Types the README, from its top to its end, in a copy of the checkout."""

    def __init__(self, folder):
        self.checkout, self.home = copy_of_checkout(folder / "checkout"), folder / "home"
        self.home.mkdir()
        self.installation = Installation(folder / "venv")
        write_texts(self.checkout)

    def read(self, hub: FakeHub) -> list[str]:
        """The commands that were typed."""
        self.hub, typed = hub.environment(self.home), []
        with Session(self.installation, self.checkout, **self.hub) as self.session:
            for kind, text in BLOCKS:
                if kind == "python":
                    self.run_python(text)
                    continue
                for command in filter(None, map(str.strip, re.split(r"[;\n]", text))):
                    if not reason_not_to_run(command):
                        self.run(command)
                        typed.append(command)
            self.run_adapter()
        return typed

    def run_python(self, code: str) -> None:
        file = self.home / "snippet.py"
        file.write_text(code.replace("YOUR_NAME", "someone"), encoding="utf-8")
        process = self.session.run(file, folder=self.checkout, code=WITHOUT_OURS)
        assert process.returncode == 0, f"{code}\n{process.stderr[-3000:]}"

    def run_adapter(self) -> None:
        """The first code of docs/finetuning.md, a LoRA adapter of the README's model, and a story of the result."""
        self.run_python(re.search(r"```python\n(.*?)```", FINETUNING, re.DOTALL).group(1))
        self.run('python run_generation.py runs/merged "Once upon a time" --greedy')

    def run(self, command: str) -> None:
        added = next((words for part, words in ADDED.items() if part in command), "")
        words = shlex.split(f"{command} {added}".replace("YOUR_NAME", "someone"))
        if command == "tinystories serve":
            return self.open_page(words)
        if words[0] == "python" and words[1].endswith(".py"):
            process = self.session.run(*words[1:], folder=self.checkout)
        elif words[0] == "tinystories" and command != "tinystories chat":
            process = self.session.run(self.installation.programs / words[0], *words[1:], folder=self.checkout)
        else:
            words[0] = self.installation.python if words[0] == "python" else self.installation.programs / words[0]
            process = self.installation.run(*words, cwd=self.checkout, text="One day, a little fox\n")
        printed = process.stdout + process.stderr
        assert process.returncode in STATUSES.get(command, (0,)), f"{command}\n{printed[-3000:]}"
        expected = next((pattern for part, pattern in PRINTED.items() if part in command), "")
        assert re.search(expected, printed), f"{command}\n{printed[-3000:]}"

    def open_page(self, words: list[str]) -> None:
        log, deadline = self.home / "server.log", time.monotonic() + 120
        self.session.start(self.installation.programs / words[0], *words[1:], folder=self.checkout, log=log)
        while not (address := re.search(r"http://\S+:\d+", printed := log.read_text(encoding="utf-8"))):
            assert "error:" not in printed and time.monotonic() < deadline, printed
            time.sleep(0.02)
        client = httpx.Client(base_url=address[0], timeout=120, trust_env=False)
        while client.get("/health").status_code == 503:  # the model is being opened
            assert time.monotonic() < deadline
        assert "<title>" in client.get("/").text
        answer = client.post("/generate", json={"prompt": "Once upon a time", "stream": False})
        assert answer.status_code == 200 and answer.json()["text"], answer.text


def write_texts(folder) -> None:
    """The files that a reader has: stories.txt, held-out.txt and the folder my-stories."""
    for name, seed, number in (("stories.txt", 1, 200), ("held-out.txt", 2, 20)):
        text = "<|endoftext|>\n".join(sample_stories(number, seed))
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "my-stories").mkdir()
    for number, story in enumerate((ROOT / "tools/ten_stories.txt").read_text(encoding="utf-8").split("\n\n")):
        (folder / "my-stories" / f"{number}.txt").write_text(story, encoding="utf-8")


@pytest.mark.slow
@pytest.mark.hub
def test_every_command_as_it_stands(tmp_path):
    """A command that was right when it was written. Its words are typed as they stand in the README; ADDED says what is
    added to them, NOT_RUN what is left out."""
    with FakeHub() as hub:
        typed = Reader(tmp_path).read(hub)
        assert len(typed) + len(NOT_RUN) == len(COMMANDS)
        assert "model.safetensors" in hub.files("someone/demo")


def test_parameter_counts():
    rows = re.findall(r"\| \[[\w-]+\]\((configs/[\w-]+\.yaml)\) \| ([\d,]+) \|", README)
    sized = [path for path in (ROOT / "configs").glob("*.yaml") if "hidden_size" in path.read_text(encoding="utf-8")]
    assert len(rows) == len(sized) > 0
    for path, parameters in rows:
        recipe = read_recipe([str(ROOT / path)])
        with torch.device("meta"):
            model = new_model(recipe.model, TokenizerOfSize(recipe.tokenizer.vocab_size), recipe.data.block_size)
        assert f"{model.num_parameters():,}" == parameters, path
