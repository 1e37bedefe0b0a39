"""A recipe: the model, the data and the training of one run, as one flat YAML file.

`read_recipe(["configs/demo.yaml", "--learning_rate", "1e-3"])` reads the file, lets the command line override any key,
checks every name and type, and returns dataclasses. The names of the training keys are those of
`transformers.TrainingArguments`. Names and types are checked twice: first with keys that are read from its source, so
that a mistake is answered at once, then with the class itself, whose import takes seconds.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from yaml import MarkedYAMLError
from yaml.reader import ReaderError

from tinystories.atomic import write_atomically
from tinystories.config.familiar import TRAIN
from tinystories.config.keys import DataArguments, ModelArguments, TokenizerArguments
from tinystories.config.outside import word_from_outside
from tinystories.config.packaged import find_checkpoint, find_recipe, recipe_names
from tinystories.config.parser import StrictParser
from tinystories.config.training_keys import training_keys
from tinystories.console import command_name, program_name
from tinystories.errors import UserError, one_line
from tinystories.run_files import RECIPE


if TYPE_CHECKING:
    from tinystories.config.arguments import RunArguments


@dataclass
class Recipe:
    """One run. `values`: every key with its resolved value, which reads back as a recipe. `given`: the keys that the
    file or the command line names.
    """

    model: ModelArguments
    data: DataArguments
    tokenizer: TokenizerArguments
    training: "RunArguments"
    values: dict[str, Any]
    given: set[str]

    def save(self, folder: str | Path) -> None:
        text = json.dumps(self.values, indent=2, sort_keys=True, default=str, ensure_ascii=False)
        write_atomically(Path(folder) / RECIPE, text + "\n")


class _StrictLoader(yaml.SafeLoader):
    """YAML in which a key that is given twice is a mistake; plain YAML takes the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for place, key in enumerate(keys):
            if key in keys[:place]:
                raise MarkedYAMLError(None, None, f"key {key!r} is given twice", node.value[place][0].start_mark)
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except ValueError as error:  # a date that does not exist
            raise MarkedYAMLError(None, None, str(error), node.start_mark) from error


_StrictLoader.add_implicit_resolver(  # YAML 1.1 would read 5e-4 as text
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def read_recipe(argv: list[str]) -> Recipe:
    """Read `[RECIPE] [--key value ...]`. RECIPE is a file, or the name of a packaged recipe.

    Raises:
        UserError: a file that is missing or is not a flat mapping, an unknown key (with the nearest known one), a value
            of the wrong type. The message names the file or the option.
    """
    check_keys(argv)
    from tinystories.config.arguments import RunArguments

    parser = _parser(RunArguments)
    words = _words(argv, parser)
    namespace = parser.check(words)
    model, data, tokenizer, training = parser.build(words)
    if model.attn_implementation == "flex_attention" and training.use_cpu:
        raise UserError("attn_implementation flex_attention cannot train on a CPU, only generate", "use sdpa")
    values = {key: value for key, value in vars(namespace).items() if key not in _NOT_RECORDED}
    values |= {"bf16": training.bf16}
    named: tuple[tuple[Any, str], ...] = ((model, "model_name_or_path"), (tokenizer, "tokenizer_name"))
    for part, key in named:
        if values[key]:
            try:
                values[key] = find_checkpoint(values[key])
            except UserError as error:
                raise UserError(f"{error.message} ({key})", error.remedy) from None
            setattr(part, key, values[key])
    return Recipe(model, data, tokenizer, training, values, given=_names(words))


def check_keys(argv: list[str], command: str = "train") -> None:
    """Refuse most mistakes, and answer `--help`, without importing torch, which takes seconds.

    Raises:
        UserError: as `read_recipe` does for the same mistake.
        SystemExit: after `--help` and `--help_all`.
    """
    if "--help_all" in argv:
        from tinystories.config.arguments import RunArguments

        _parser(RunArguments).print_help()
        raise SystemExit(0)
    _words(argv, _parser(training_keys(), command))


def default_values() -> dict[str, Any]:
    """Every key that is recorded with a run, with its default. No device is looked at."""
    from tinystories.config.arguments import RunArguments

    namespace = _parser(RunArguments).check([])
    return {key: value for key, value in vars(namespace).items() if key not in _NOT_RECORDED}


def _parser(training: type, command: str = "train") -> StrictParser:
    start = command_name("train")
    return StrictParser(
        (ModelArguments, DataArguments, TokenizerArguments, training),
        command,
        TRAIN,
        prog=program_name("train"),
        usage=f"{start} RECIPE [--any_key value ...] [--debug]",
        description="Train a story-writing language model from a recipe; any key of the recipe can be overridden. "
        f"RECIPE is a file or one of: {', '.join(recipe_names())}.",
        epilog=f"All keys of transformers.TrainingArguments can be given too: {start} --help_all lists them.",
    )


def _words(argv: list[str], parser: StrictParser) -> list[str]:
    """The recipe file and then the command line as `--key value` words, each checked with `parser`."""
    parser.advisor.refuse_familiar(argv)  # before the keys of the file are among them
    overrides = list(argv)
    from_file: list[str] = []
    if overrides and not overrides[0].startswith("-"):
        path = find_recipe(word_from_outside("recipe", overrides.pop(0)))
        values = _read_file(path)
        parser.check(_as_arguments(values), source=f"{path}: ")
        replaced = _replaced_keys(overrides)
        kept = {key: value for key, value in values.items() if str(key).replace("-", "_") not in replaced}
        from_file = _as_arguments(kept)
    parser.check(overrides)
    return from_file + overrides


_NOT_RECORDED = ("hub_token", "push_to_hub_token", "resume", "resume_from_checkpoint", "overwrite_output_dir")
_DATA_SOURCES = (
    "train_file",
    "validation_file",
    "dataset_name",
    "dataset_revision",
    "dataset_config_name",
    "train_split_name",
    "validation_split_name",
    "num_sample_stories",
)


def _names(arguments: list[str]) -> set[str]:
    return {word.lstrip("-").split("=")[0].replace("-", "_") for word in arguments if word.startswith("--")}


def _replaced_keys(arguments: list[str]) -> set[str]:
    """Keys of the file that the command line replaces together: all of the data, the options of a schedule, the length
    of the run."""
    given = _names(arguments)
    names_data = not given.isdisjoint({"train_file", "dataset_name", "num_sample_stories"})
    replaced = set(_DATA_SOURCES if names_data else ())
    if "lr_scheduler_type" in given:
        replaced.add("lr_scheduler_kwargs")
    if "num_train_epochs" in given:
        replaced.add("max_steps")  # with which it would have no effect
    return replaced


def _read_file(path: Path) -> dict[str, Any]:
    """The keys of a recipe: a file that ends in .json is JSON, any other is YAML."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        values = _read_json(path, text) if path.suffix.lower() == ".json" else _read_yaml(path, text)
        if values is None:
            raise UserError(f"{path} must contain 'key: value' lines, and is empty")
        if not isinstance(values, dict):
            raise UserError(f"{path} must contain 'key: value' lines, not {type(values).__name__}")
        values = {key: _whole(f"{path}: {key}", value) for key, value in values.items()}
    except OSError as error:
        raise UserError(f"cannot read the recipe {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: not UTF-8", "save the file as UTF-8") from error
    except RecursionError as error:
        raise UserError(f"{path} must contain 'key: value' lines, and is nested too deeply") from error
    return values


def _whole(place: str, value: Any) -> Any:
    """`value` with a character that was written as two escapes, as in JSON, as one; half of one is a `UserError`."""
    if isinstance(value, list):
        return [_whole(place, item) for item in value]
    if not isinstance(value, str):
        return value
    try:
        return value.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        raise UserError(f"{place}: half of a character (a lone surrogate) in {value!r}") from None


def _read_json(path: Path, text: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        for place, key in enumerate(keys):
            if key in keys[:place]:
                raise UserError(f"{path}: not a valid recipe: key {key!r} is given twice")
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from error
    except ValueError as error:  # a number of thousands of digits
        raise UserError(f"{path}: not valid JSON: {one_line(error)}") from error


def _read_yaml(path: Path, text: str) -> Any:
    try:
        return yaml.load(text, Loader=_StrictLoader)
    except MarkedYAMLError as error:
        mark, problem = error.problem_mark or error.context_mark, error.problem or error.context
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        raise UserError(f"{place}: not valid YAML: {one_line(problem or '')}") from error
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UserError(f"{path}:{line}: a character that YAML does not allow, {chr(error.character)!r}") from error


def _as_arguments(values: dict[str, Any]) -> list[str]:
    """The recipe as command-line words, so that argparse converts and checks both alike (YAML reads 5e-4 as text)."""
    arguments: list[str] = []
    for key, value in values.items():
        if value is None:
            continue
        if key == "help":
            raise UserError(f"help: not a key of a recipe; {command_name('train')} --help lists the keys")
        if isinstance(value, bool):
            words = ["true" if value else "no"]  # a bare `no` is False to YAML: right for flags and for eval_strategy
        elif isinstance(value, dict):
            words = [_as_json(key, value)]
        elif isinstance(value, list):
            words = [str(item) for item in value]
        else:
            words = [str(value)]
        if len(words) == 1 and (not words[0] or words[0].startswith("-")):
            arguments.append(f"--{key}={words[0]}")
        else:
            arguments += [f"--{key}", *words]
    return arguments


def _as_json(key: str, value: dict) -> str:
    try:
        return json.dumps(value)
    except (TypeError, ValueError) as error:  # a date, a key that is a list; a mapping that holds itself
        raise UserError(f"{key}: a mapping may contain only numbers and text ({one_line(error)})") from error
