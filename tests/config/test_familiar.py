"""Names of other programs: each is refused with a line that, followed literally, is right."""

import re
import shlex

import pytest
import yaml

from helpers.runs import ROOT, load_script, mistake
from tinystories.commands import chat, check, evaluate, export, generate, push, report, serve, tokenizer
from tinystories.config.familiar import CHECK_MODEL, CHECK_TEXT, Familiar
from tinystories.config.recipe import check_keys, read_recipe


COMMANDS = load_script("tools/coming_from.py").COMMANDS
WORDS = {  # a command line that is right: an option after it is the only mistake
    "train": ["demo"],
    "generate": ["boxed", "Once upon a time"],
    "serve": ["boxed"],
    "evaluate": ["boxed"],
    "tokenizer": ["--num_sample_stories", "10"],
    "export": ["boxed", "--format", "llama"],
    "push": ["boxed", "me/stories"],
    "report": ["boxed"],
}
PLACED = {"checkpoint": "boxed", "prompt": "Once upon a time", "repo_id": "me/stories", "recipe": "demo"}
PLACED["run_folder"] = "boxed"


PARSERS = {  # what a command does before anything heavy, where its main does more
    "train": check_keys,
    "generate": generate.parse,
    "serve": serve.parse,
    "evaluate": evaluate.parse,
    "export": export.parse,
    "push": push.parse,
}
MAINS = {"check": check.main, "tokenizer": tokenizer.main, "report": report.main}


def answer(command: str, words: list[str]) -> str:
    return mistake((PARSERS | MAINS)[command], words)


def written(message: str) -> list[str]:
    """The words that a message says to write; none where it says something else."""
    found = re.search(r"; write (.*?)(?: \([^(]*\))?$", message)
    return shlex.split(found[1]) if found else []


TABLES = {(command, tuple(words)): COMMANDS[command] for command, words in WORDS.items()}
TABLES |= {("check", ("boxed",)): CHECK_MODEL, ("check", ("--data", "stories.txt")): CHECK_TEXT}
ROWS = [
    pytest.param(command, list(words), row, id=f"{command}-{row.names[0]}")
    for (command, words), rows in TABLES.items()
    for row in rows
]


@pytest.mark.parametrize(("command", "base", "row"), ROWS)
def test_every_row(command, base, row: Familiar, monkeypatch, tmp_path):
    """Each name of each row. What it says to write is taken by the command, and a sentence names no unknown option."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["tinystories"])
    (tmp_path / "held-out.txt").write_text("Once.", encoding="utf-8")
    (tmp_path / "tok512.bin").touch()
    given = row.answer(row.example)
    right = [word for word in base if word != PLACED.get(given.place)]
    for name in row.names:
        dashes = "--" if len(name) > 1 else "-"
        typed = [f"{dashes}{name}", *([row.example] if row.example else [])]
        message = answer(command, [*right, *typed])
        assert message.startswith(f"unknown key {name!r}; "), message
        words = written(message)
        assert bool(words) == bool(given.keys), message
        if given.place:
            assert words[:2] == ["tinystories", command] and given.keys[given.place] in words[2:4], message
        elif words:
            assert [word.lstrip("-") for word in words if word.startswith("--")] == list(given.keys), message
        followed = (words[2:] if given.place else [*right, *words]) if words else right
        if followed[:1] == ["demo"] and command == "check":
            continue  # a recipe of train
        assert answer(command, [*followed, "--zzz", "1"]).startswith("unknown key 'zzz'"), followed
        if command in PARSERS and words:
            PARSERS[command](followed)
        for option in re.findall(r"--(\w+)", given.say):
            assert f"unknown key {option!r}" not in answer(command, [*base, f"--{option}", "", "--zzz", "1"])


def names_of(command: str) -> list[str]:
    return [name for row in COMMANDS[command] for name in row.names]


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "check"])
def test_a_name_has_one_answer(command):
    names = names_of(command)
    assert len(set(names)) == len(names), sorted({name for name in names if names.count(name) > 1})


@pytest.mark.parametrize("row", [pytest.param(row, id=row.names[0]) for row in COMMANDS["train"]])
def test_every_row_in_a_recipe(row: Familiar, tmp_path):
    """In a recipe the answer is in lines of YAML, and a recipe with these lines is right."""
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"num_sample_stories": 10, row.names[0]: row.example}), encoding="utf-8")
    message = mistake(check_keys, [str(path)])
    assert message.startswith(f"{path}: unknown key {row.names[0]!r}; "), message
    given = row.answer(row.example)
    if not given.keys or given.place:
        return
    lines = re.findall(r"\w+: (?:\{.*?\}|[^,( ]+)", message.partition("; write ")[2])
    assert [line.partition(":")[0] for line in lines] == list(given.keys), message
    path.write_text("\n".join(["num_sample_stories: 10", *lines]), encoding="utf-8")
    check_keys([str(path)])


@pytest.mark.parametrize(
    ("typed", "written"),
    [
        ("--validation_split_percentage 10", "--validation_fraction 0.1 (a share, not a percentage)"),
        ("--validation_split_percentage=1", "--validation_fraction 0.01 (a share, not a percentage)"),
        ("--validation_split_percentage 99.5", "--validation_fraction 0.995 (a share, not a percentage)"),
        ("--dtype float16", "--fp16 true"),
        ("--dtype torch.float32", "--bf16 no"),
        ("--precision bf16-mixed", "--bf16 true"),
        ("--precision 32-true", "--bf16 no"),
        ("--compile=False", "--torch_compile no"),
        ("--compile", "--torch_compile true"),
        ("--dropout 0.1", "--embd_pdrop 0.1 --resid_pdrop 0.1 --attention_dropout 0.1"),
        ("--warmup_ratio 0.05", "--warmup_steps 0.05 (below 1 it is a share of all steps)"),
        ("--init_from gpt2", "--model_name_or_path gpt2"),
        ("--dataset stories.jsonl", "--train_file stories.jsonl"),
        ("--dataset roneneldan/TinyStories", "--dataset_name roneneldan/TinyStories"),
        ("--val_split 0.1", "--validation_fraction 0.1"),
        ("--val_split test", "--validation_split_name test"),
        ("--min_lr 6e-5", """--lr_scheduler_type cosine_with_min_lr --lr_scheduler_kwargs '{"min_lr": 6e-5}'"""),
        ("--lr 1e-3 --epochs 3 --batch-size=8", "--learning_rate 1e-3 --num_train_epochs 3 "
         "--per_device_train_batch_size 8"),
        ("--train.epochs 3", "--num_train_epochs 3"),
        ("--optimizer.lr 1e-3", "--learning_rate 1e-3"),
        ("-lr 1e-3", "--learning_rate 1e-3"),
        ("--LR 1e-3", "--learning_rate 1e-3"),
        ("--lr", "--learning_rate VALUE"),
        ("--no_bf16", "--bf16 no"),
        ("--no-streaming", "--streaming no"),
        ("--no_compile", "--torch_compile no"),
        ("lr=1e-3", "--learning_rate 1e-3"),
        ("model.n_layer=3", "--num_hidden_layers 3"),
        ("learning_rate=1e-3", "--learning_rate 1e-3"),
    ],
)  # fmt: skip
def test_value(typed, written):
    """The value that means the same, in the unit of the key here."""
    assert mistake(check_keys, ["demo", *typed.split()]).endswith(f"; write {written}")


@pytest.mark.parametrize("percentage", ["0", "100", "-5", "many", "1e9"])
def test_percentage_without_a_share(percentage):
    """At and beyond the boundaries no share is advised that would be refused."""
    message = mistake(check_keys, ["demo", f"--validation_split_percentage={percentage}"])
    assert "above 0 and below 1" in message and "write" not in message


@pytest.mark.parametrize(("ratio", "is_share"), [("0", True), ("0.999", True), ("1", False), ("5", False)])
def test_warmup_of_one(ratio, is_share):
    """warmup_steps 1 is one step and not all of them."""
    assert ("; write --warmup_steps" in mistake(check_keys, ["demo", "--warmup_ratio", ratio])) is is_share


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        (["--model", "boxed", "--prompt", "Once upon a time", "--seed", "3"], "boxed 'Once upon a time' --seed 3"),
        (["boxed", "--prompt=Once upon a time"], "boxed 'Once upon a time'"),
        (["Once upon a time", "--ckpt=boxed"], "boxed 'Once upon a time'"),
        (["--prompt", "Once upon a time"], "boxed 'Once upon a time'"),
        (["--model", "boxed", "Once", "--temp", "0.5"], "boxed Once --temperature 0.5"),
        (["--init_from=boxed", "--start=What is it"], "boxed 'What is it'"),
        (["--seed", "3", "boxed", "--prompt", "Once"], "boxed Once --seed 3"),
        (["-t", "0.8", "boxed", "-n", "20", "-i", "One day"], "boxed 'One day' --temperature 0.8 --max_new_tokens 20"),
    ],
)
def test_whole_command(typed, line, monkeypatch):
    """What stands without a key is put in its place, the rest is kept."""
    monkeypatch.setattr("sys.argv", ["run_generation.py"])
    message = mistake(generate.parse, typed)
    assert message.endswith(f"; write python run_generation.py {line}")
    assert generate.parse(shlex.split(line)).checkpoint == "boxed"


def test_recipe_as_an_option(monkeypatch):
    monkeypatch.setattr("sys.argv", ["tinystories"])
    for words in (["--config", "demo", "--seed", "3"], ["pretrain", "me/x", "--config=demo", "--seed", "3"]):
        assert mistake(check_keys, words).endswith("; write tinystories train demo --seed 3")


@pytest.mark.parametrize(
    ("parse", "typed", "message"),
    [
        (generate.parse, "boxed Once -n -1", "write --max_new_tokens 1000000 (a story ends at the end of the context"),
        (generate.parse, "boxed Once -s -1", "without it a random seed is drawn"),
        (generate.parse, "boxed Once -t 4", "OMP_NUM_THREADS"),
        (generate.parse, "boxed Once --color -i", "i: leave it out: without a prompt a session begins"),
        (generate.parse, "boxed --start=FILE:p.txt", "a story for each line of a file: leave it out, and add < p.txt"),
        (generate.parse, "boxed Once upon a time", "put in quotes: tinystories generate boxed 'Once upon a time'"),
        (generate.parse, "Once upon a time -n 3", "write --max_new_tokens 3"),
        (generate.parse, "Once upon a time --seed 3", "in quotes: tinystories generate 'Once upon a time' --seed 3"),
        (evaluate.parse, "--model hf --model_args pretrained=boxed,dtype=auto", "tinystories evaluate boxed; "),
        (tokenizer.main, "stories.txt", "unexpected 'stories.txt'; write --train_file stories.txt"),
        (check.main, "boxed a.txt", "unexpected 'a.txt'; write --data a.txt"),
        (check.main, "--data a.txt b.txt", "unexpected 'b.txt' after data, which takes one value"),
        (chat.parse, "--temp 0.5", "write --temperature 0.5"),
        (chat.parse, "-m boxed -p Once", "write tinystories chat boxed; p: leave it out: it is typed in the session"),
        (check_keys, "demo --sequence_len 64 --foo 3 --seeed 1",
         "write --block_size 64; foo: --help lists the options; seeed: did you mean seed?"),
        (check_keys, "demo --train.max_tokens 1000", "max_steps is this number divided by"),
    ],
)  # fmt: skip
def test_line_of_another_program(parse, typed, message, monkeypatch):
    """Advice that would be refused as it stands, or does something else than what was wanted."""
    monkeypatch.setattr("sys.argv", ["tinystories"])
    assert message in mistake(parse, typed.split())


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["Once upon a time"], "generate 'Once upon a time'"),
        (["boxed", "Once upon a time"], "generate boxed 'Once upon a time'"),
    ],
)
def test_chat_with_a_prompt(words, line, monkeypatch):
    """It was taken for the name of a checkpoint."""
    monkeypatch.setattr("sys.argv", ["tinystories"])
    assert mistake(chat.parse, words) == f"chat takes no prompt; tinystories {line} writes one story"


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("0.0.0.0:8000", "--host 0.0.0.0 --port 8000"),
        (":80", "--host 0.0.0.0 --port 80"),
        ("[::1]:80", "--host ::1 --port 80"),
        ("::1", "--host ::1"),
        ("8000", "--port 8000"),
        ("", "--host 0.0.0.0"),
    ],
)
def test_address(address, words):
    message = mistake(serve.parse, ["boxed", "--listen", *([address] if address else [])])
    assert message.endswith(f"; write {words}")
    assert serve.parse(["boxed", *words.split()])[1].port in (7779, 80, 8000)


def test_private_repository():
    """What is private here already, and what makes it public."""
    assert mistake(push.parse, ["boxed", "me/x", "--private", "false"]).endswith("; write --public")
    assert "leave it out" in mistake(push.parse, ["boxed", "me/x", "--private"])


@pytest.mark.parametrize(
    "typed", ["--batch_sise 3", "--fraction 0.5", "--shufle_all 1", "--layers_count 3", "--x 1", "--rate 3"]
)
def test_no_suggestion_is_better_than_a_wrong_one(typed):
    message = mistake(check_keys, ["demo", *typed.split()])
    assert message.endswith("; --help lists the options"), message


@pytest.mark.parametrize(
    ("typed", "near"),
    [
        ("--Max_Steps 3", "max_steps"),
        ("--MAX-STEPS 3", "max_steps"),
        ("--seeed 1", "seed"),
        ("--hiden_size 3", "hidden_size"),
    ],
)
def test_near_name(typed, near):
    assert mistake(check_keys, ["demo", *typed.split()]).endswith(f"; did you mean {near}?")


def test_two_near_names():
    assert mistake(generate.parse, ["boxed", "Once", "--top_q", "3"]).endswith("; did you mean top_p or top_k?")


def test_hyphens():
    """Of every option, as of the keys of a recipe; the value of a bare `=` too."""
    assert generate.parse(["boxed", "Once", "--top-k", "5", "--max-new-tokens=7"]).top_k == 5
    check_keys(["demo", "--max-steps", "3", "--learning-rate=1e-3"])


def test_nested_recipe(tmp_path):
    """litgpt and torchtune nest their recipes."""
    path = tmp_path / "mine.yaml"
    path.write_text("num_sample_stories: 10\ntrain: {epochs: 3}\n", encoding="utf-8")
    assert (
        mistake(check_keys, [str(path)]) == f"{path}: unknown key 'train'; a recipe is flat: write its keys without it"
    )


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("--version", "unknown key 'version'; tinystories --version prints it"),
        ("-help", "an option with one hyphen takes no value; --help lists the options"),
    ],
)
def test_other_mistakes(typed, message):
    assert mistake(check_keys, ["demo", *typed.split()]) == message


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("--optim adamw", "optim: invalid choice: 'adamw'; did you mean adamw_torch?"),
        ("--lr_scheduler_type cosin", "lr_scheduler_type: invalid choice: 'cosin'; did you mean cosine?"),
        ("--eval_strategy never", "eval_strategy: invalid choice: 'never'; choose from no, steps, epoch"),
    ],
)
def test_choices(typed, message):
    """One line that can be read, where the library lists forty values."""
    assert mistake(read_recipe, ["demo", *typed.split()]) == message


def test_epochs_replace_steps(tmp_path):
    """A recipe's max_steps would leave num_train_epochs of the command line without effect."""
    path = tmp_path / "mine.yaml"
    path.write_text("num_sample_stories: 10\nmax_steps: 500\nuse_cpu: true\n", encoding="utf-8")
    options = ["--output_dir", str(tmp_path / "run"), "--num_train_epochs", "3"]
    recipe = read_recipe([str(path), *options])
    assert (recipe.training.num_train_epochs, recipe.training.max_steps) == (3, -1)
    assert read_recipe([str(path), *options, "--max_steps", "7"]).training.max_steps == 7
    assert read_recipe([str(path), *options[:2]]).training.max_steps == 500


def test_document():
    """docs/coming_from.md has the rows of the table: `python tools/coming_from.py`."""
    document = (ROOT / "docs/coming_from.md").read_text(encoding="utf-8")
    assert load_script("tools/coming_from.py").with_tables(document) == document


def test_other_words_stay():
    """What follows `--` and what begins with a minus as a number does are values."""
    assert generate.parse(["--", "boxed", "--prompt"]).prompt == "--prompt"
