"""Recipes: what a file and a command line may say, what is refused and in which words, and what is written down."""

import json

import pytest
import torch

from helpers.runs import ROOT, mistake
from tinystories.config.recipe import read_recipe
from tinystories.errors import UserError
from tinystories.training.optimizers import make_schedule


CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


@pytest.fixture
def recipe_file(tmp_path):
    """Write a recipe, give its path."""

    def write(text: str | bytes, name: str = "recipe.yaml") -> str:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write


def recipe_mistake(*argv) -> str:
    """The one line that the user sees."""
    with pytest.raises(UserError) as caught:
        read_recipe([str(word) for word in argv])
    message = str(caught.value)
    assert message and "\n" not in message
    return message


# What a recipe says


def test_every_kind_of_field(recipe_file):
    recipe = read_recipe(
        [
            recipe_file(
                "hidden_size: 64\nrope_theta: 5000.0\ntie_word_embeddings: false\nstory_separator: file\n"
                "train_file: my stories.txt\nvocab_size: 500\nlearning_rate: 0.01\nskip_guards: yes\n"
                "sample_prompts: [The hen sat, 'One day, a fox']\nlr_scheduler_kwargs: {min_lr_rate: 0.1}\n"
                "lr_scheduler_type: cosine_with_min_lr\n"
            )
        ]
    )
    assert (recipe.model.hidden_size, recipe.model.rope_theta, recipe.model.tie_word_embeddings) == (64, 5000.0, False)
    assert (recipe.data.train_file, recipe.data.story_separator) == ("my stories.txt", "file")
    assert recipe.tokenizer.vocab_size == 500
    assert (recipe.training.learning_rate, recipe.training.skip_guards) == (0.01, True)
    assert recipe.training.sample_prompts == ["The hen sat", "One day, a fox"]
    assert recipe.training.lr_scheduler_kwargs == {"min_lr_rate": 0.1}


@pytest.mark.parametrize(("text", "number"), [("5e-4", 5e-4), ("1E-3", 1e-3), ("3e-3", 3e-3), ("+2.5e-1", 0.25)])
def test_exponents(recipe_file, text, number):
    """YAML 1.1 reads 5e-4 as text."""
    assert read_recipe([recipe_file(f"learning_rate: {text}")]).training.learning_rate == number


def test_exponent_in_a_mapping(recipe_file):
    text = "lr_scheduler_type: cosine_with_min_lr\nlr_scheduler_kwargs: {min_lr: 5e-5}"
    assert read_recipe([recipe_file(text)]).training.lr_scheduler_kwargs == {"min_lr": 5e-5}


@pytest.mark.parametrize("word", ["no", "'no'", "off", "false"])
def test_strategy_no(recipe_file, word):
    """YAML reads a bare `no` as false."""
    recipe = read_recipe([recipe_file(f"eval_strategy: {word}\nsave_strategy: {word}")])
    assert recipe.training.eval_strategy == recipe.training.save_strategy == "no"


@pytest.mark.parametrize("word", ["no", "false", "off"])
def test_flag_off(recipe_file, word):
    """A flag that is on by default."""
    assert read_recipe([recipe_file(f"tie_word_embeddings: {word}")]).model.tie_word_embeddings is False


def test_negative_values(recipe_file):
    assert read_recipe([recipe_file("split_seed: -3")]).data.split_seed == -3
    assert read_recipe([recipe_file("split_seed: -3"), "--split_seed", "-4"]).data.split_seed == -4
    assert read_recipe(["--split_seed=-5"]).data.split_seed == -5


def test_value_with_a_dash(recipe_file):
    """A value that begins with a dash is not an option."""
    recipe = read_recipe([recipe_file("train_file: -stories.txt\nsample_prompts: ['--hidden_size']")])
    assert recipe.data.train_file == "-stories.txt"
    assert recipe.training.sample_prompts == ["--hidden_size"]


def test_empty_list(recipe_file):
    """It is empty, not the default."""
    assert read_recipe([recipe_file("sample_prompts: []")]).training.sample_prompts == []


def test_key_without_value(recipe_file):
    """It has its default."""
    recipe = read_recipe([recipe_file("train_file:\nhidden_size: null")])
    assert recipe.data.train_file is None
    assert recipe.model.hidden_size == read_recipe([]).model.hidden_size


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "byte order mark"])
def test_utf8(recipe_file, mark):
    assert read_recipe([recipe_file(f"{mark}sample_prompts: [Übung 🦊]")]).training.sample_prompts == ["Übung 🦊"]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_schedules_of_our_recipes(config):
    """The learning rate rises to its peak and falls to a tenth of it, or to nothing after a stable phase."""
    recipe = read_recipe([str(config), "--bf16", "false"])
    training = recipe.training
    assert training.output_dir == f"runs/{config.stem}"
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=training.learning_rate)
    steps = int(training.warmup_steps) + 100  # of warm-up steps below 1, a share, this is 0 + 100
    schedule = make_schedule(training, optimizer, steps)
    rates = []
    for _ in range(steps):
        optimizer.step()
        schedule.step()
        rates.append(schedule.get_last_lr()[0])
    assert max(rates) == pytest.approx(training.learning_rate)
    last = 0 if training.lr_scheduler_type == "warmup_stable_decay" else training.learning_rate / 10
    assert rates[-1] == pytest.approx(last, rel=1e-2)


def test_recipes_exist():
    assert len(CONFIGS) >= 3


# What the command line adds


def test_override(recipe_file):
    path = recipe_file("hidden_size: 64\nlearning_rate: 1e-2\nsample_prompts: [a, b]\nskip_guards: true")
    recipe = read_recipe([path, "--hidden_size", "32", "--sample_prompts", "c", "--skip_guards", "no"])
    assert (recipe.model.hidden_size, recipe.training.learning_rate) == (32, 1e-2)
    assert (recipe.training.sample_prompts, recipe.training.skip_guards) == (["c"], False)
    assert recipe.values["hidden_size"] == 32


@pytest.mark.parametrize("argv", [["--hidden-size", "32"], ["--hidden-size=32"], ["--hidden_size=32"]])
def test_option_spellings(recipe_file, argv):
    assert read_recipe([recipe_file("hidden_size: 64"), *argv]).model.hidden_size == 32


def test_key_with_hyphen(recipe_file):
    assert read_recipe([recipe_file("hidden-size: 64")]).model.hidden_size == 64


@pytest.mark.parametrize("underscores", [True, False], ids=["underscores", "hyphens"])
@pytest.mark.parametrize(
    "argv", [["--num_sample_stories", "9"], ["--num-sample-stories=9"]], ids=["underscores", "hyphens"]
)
def test_data_on_the_command_line(recipe_file, underscores, argv):
    """It replaces all data sources of the recipe."""
    keys = ["train_file: a.txt", "validation_file: b.txt", "validation_split_name: test", "dataset_config_name: en"]
    text = "\n".join([*keys, "text_column: story"])
    data = read_recipe([recipe_file(text if underscores else text.replace("_", "-")), *argv]).data
    assert data.num_sample_stories == 9
    assert (data.train_file, data.validation_file, data.validation_split_name) == (None, None, None)
    assert data.dataset_config_name is None
    assert data.text_column == "story"  # says how to read, not what


def test_validation_file_option(recipe_file):
    """--validation_file replaces only the validation data: the training data stays that of the recipe."""
    data = read_recipe([recipe_file("train_file: a.txt\nvalidation_file: b.txt"), "--validation_file", "c.txt"]).data
    assert (data.train_file, data.validation_file) == ("a.txt", "c.txt")


# What is refused


@pytest.mark.parametrize(
    ("key", "nearest"), [("learning_rte", "learning_rate"), ("hiden_size", "hidden_size"), ("trainfile", "train_file")]
)
def test_unknown_key(recipe_file, key, nearest):
    """Refused, with the nearest known key."""
    path = recipe_file(f"seed: 1\n{key}: 3")
    message = recipe_mistake(path)
    assert path in message and repr(key) in message and message.endswith(f"did you mean {nearest}?")
    message = recipe_mistake(f"--{key}", "3")
    assert repr(key) in message and message.endswith(f"did you mean {nearest}?")


def test_unknown_key_near_to_nothing(recipe_file):
    assert "--help" in recipe_mistake(recipe_file("zzzzzz: 3"))
    assert "--help" in recipe_mistake("--zzzzzz", "3")


@pytest.mark.parametrize("argv", [["--learning_rat", "1"], ["--learning_rat=1"], ["--num_train", "1"]])
def test_abbreviation(argv):
    assert "unknown key" in recipe_mistake(*argv)


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("hidden_size: wide", "hidden_size"),
        ("hidden_size: 4.5", "hidden_size"),
        ("hidden_size: true", "hidden_size"),
        ("hidden_size: ''", "hidden_size"),
        ("hidden_size: [64, 32]", "hidden_size"),
        ("hidden_size: {a: 1}", "hidden_size"),
        ("learning_rate: fast", "learning_rate"),
        ("skip_guards: perhaps", "skip_guards"),
        ("on_bad_row: ignore", "on_bad_row"),
        ("eval_strategy: sometimes", "eval_strategy"),
        ("model: {hidden_size: 3}", "model"),
    ],
)
def test_wrong_value_in_file(recipe_file, line, key):
    """The message names the file and the key."""
    path = recipe_file(f"seed: 1\n{line}\nvocab_size: 300")
    message = recipe_mistake(path)
    assert path in message and key in message


@pytest.mark.parametrize("argv", [["--hidden_size", "wide"], ["--hidden-size=wide"], ["--hidden_size"]])
def test_wrong_value_on_command_line(argv):
    assert recipe_mistake(*argv).startswith("hidden_size: ")


def test_mapping_not_json(recipe_file):
    assert "is not JSON" in recipe_mistake(recipe_file("lr_scheduler_kwargs: '{min_lr'"))


def test_key_twice(recipe_file):
    path = recipe_file("seed: 1\nhidden_size: 64\nseed: 2")
    message = recipe_mistake(path)
    assert path in message and "'seed'" in message and "twice" in message


@pytest.mark.parametrize(
    "content",
    ["", "# nothing", "just text", "- seed\n- 1", "7", "seed: [", "seed: 1\n  x: 2", b"seed: 1\n\xff\xfe", "a: \x01"],
)
def test_not_a_mapping(recipe_file, content):
    """The message names the file."""
    path = recipe_file(content)
    assert path in recipe_mistake(path)


def test_impossible_date(recipe_file):
    path = recipe_file("output_dir: 2024-99-99")
    assert path in recipe_mistake(path)


def test_missing_recipe_and_folder(tmp_path):
    assert str(tmp_path / "none.yaml") in recipe_mistake(tmp_path / "none.yaml")
    assert str(tmp_path) in recipe_mistake(tmp_path)


def test_yaml_runs_no_code(recipe_file, tmp_path):
    recipe_mistake(recipe_file(f"output_dir: !!python/object/apply:os.mkdir [{tmp_path / 'made'}]"))
    assert not (tmp_path / "made").exists()


def test_stray_word(recipe_file):
    path = recipe_file("seed: 1")
    assert "'other.yaml'" in recipe_mistake(path, "other.yaml")
    assert path in recipe_mistake("--seed", "1", path)


# What is written down


def test_recipe_json_reads_back(recipe_file, tmp_path):
    text = (
        "train_file: a b.txt\nlearning_rate: 5e-5\neval_strategy: no\nskip_guards: yes\nsplit_seed: -3\n"
        "tie_word_embeddings: false\nlr_scheduler_type: cosine_with_min_lr\nlr_scheduler_kwargs: {min_lr_rate: 0.1}\n"
        "weight_decay: 1e-07\nsample_prompts: ['One \"fox\",\\', 'Zoë', '#1: no', 'yes']\nreport_to: none\n"
    )
    first = read_recipe([recipe_file(text)])
    first.save(tmp_path)
    again = read_recipe([str(tmp_path / "recipe.json")])
    assert again.values == first.values
    assert (again.model, again.data, again.tokenizer) == (first.model, first.data, first.tokenizer)
    assert again.training.to_dict() == first.training.to_dict()
    assert again.training.sample_prompts == ['One "fox",\\', "Zoë", "#1: no", "yes"]


def test_recipe_json_with_emoji(tmp_path):
    """JSON writes it as two escapes, which YAML would read as two broken characters."""
    first = read_recipe(["--sample_prompts", "The fox 🦊 smiled"])
    first.save(tmp_path)
    assert read_recipe([str(tmp_path / "recipe.json")]).training.sample_prompts == ["The fox 🦊 smiled"]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_recipe_json_of_our_recipes(config, tmp_path):
    first = read_recipe([str(config)])
    first.save(tmp_path)
    again = read_recipe([str(tmp_path / "recipe.json")])
    assert again.values == first.values
    assert again.training.to_dict() == first.training.to_dict()


def test_recipe_json_is_complete(recipe_file, tmp_path):
    read_recipe([recipe_file("hidden_size: 64"), "--seed", "5"]).save(tmp_path)
    saved = json.loads((tmp_path / "recipe.json").read_text(encoding="utf-8"))
    assert (saved["hidden_size"], saved["seed"], saved["block_size"]) == (64, 5, 512)
    assert isinstance(saved["bf16"], bool)  # as decided for this machine


def test_hub_token_not_saved(recipe_file, tmp_path):
    recipe = read_recipe([recipe_file("hub_token: hf_mysecret"), "--hub_model_id", "me/model"])
    assert recipe.training.hub_token == "hf_mysecret"
    recipe.save(tmp_path)
    text = (tmp_path / "recipe.json").read_text(encoding="utf-8")
    assert "mysecret" not in text and "me/model" in text


def test_help(capsys):
    """--help shows the keys of this project in groups, --help_all those of TrainingArguments too."""
    for option in ("--help", "--help_all"):
        with pytest.raises(SystemExit) as caught:
            read_recipe([option])
        assert not caught.value.code
        text = capsys.readouterr().out
        groups = [text.index(f"\n{name}:\n") for name in ("model", "data", "tokenizer", "training")]
        assert groups == sorted(groups)
        assert "--hidden_size INT " in text and "(default: 448)" in text and "--help_all" in text
        assert ("--learning_rate FLOAT" in text) == (option == "--help_all")
        assert max(map(len, text.splitlines())) <= 80


def test_json_is_read_as_json(tmp_path):
    """json.dump writes a character beyond U+FFFF as two escapes, which YAML reads as two halves."""
    for name in ("recipe.json", "recipe.JSON", "recipe.yaml"):
        text = '{"sample_prompts": ["A \\ud83e\\udd8a ran"], "seed": 3, "weight_decay": 1e-05}'
        (tmp_path / name).write_text("\ufeff" + text, encoding="utf-8")
        recipe = read_recipe([str(tmp_path / name)])
        assert recipe.training.sample_prompts == ["A 🦊 ran"]
        assert (recipe.training.seed, recipe.training.weight_decay) == (3, 1e-5)
        recipe.save(tmp_path)
        assert "A 🦊 ran" in (tmp_path / "recipe.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b'{"sample_prompts": ["half \\ud83e"]}', "a.json: sample_prompts: half of a character"),
        ("a.yaml", b'sample_prompts: ["half \\udd8a"]', "a.yaml: sample_prompts: half of a character"),
        ("a.yaml", b"sample_prompts: &a [*a]", "nested too deeply"),
        ("a.json", b'{"seed": 1,\n"seed": 2}', "a.json: not a valid recipe: key 'seed' is given twice"),
        ("a.json", b'{"lr_scheduler_kwargs": {"a": 1, "a": 2}}', "key 'a' is given twice"),
        ("a.json", b'{"seed": 1,\n}', "a.json:2: not valid JSON"),
        ("a.json", b"seed: 1", "a.json:1: not valid JSON"),
        ("a.json", b"[1]", "must contain 'key: value' lines, not list"),
        ("a.json", b'{"seed": ' + b"1" * 5000 + b"}", "a.json: not valid JSON"),
        ("a.json", b"[" * 10**5, "nested too deeply"),
        ("a.json", '{"seed": 1}'.encode("utf-16"), "a.json:1: not UTF-8"),
        ("a.json", b'{"output_dir": "a\\u0000b"}', "output_dir 'a\\x00b': contains a zero byte"),
        ("a.json", b'{"adam_epsilon": Infinity}', "adam_epsilon must be above 0 and finite"),
        ("a.json", b'{"adam_beta1": NaN}', "adam_beta1 must be from 0 to below 1, got nan"),
    ],
)
def test_file_that_is_refused(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    assert message in mistake(read_recipe, [str(tmp_path / name)])
