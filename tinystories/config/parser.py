"""A command-line parser that takes exact names only and reports a mistake as one line."""

import json
import re
from argparse import SUPPRESS, Action, ArgumentDefaultsHelpFormatter, Namespace
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from tinystories.config.advice import Advisor, nearest
from tinystories.config.familiar import Familiar
from tinystories.config.installed import load_module
from tinystories.config.outside import from_outside
from tinystories.config.ranges import check_numbers
from tinystories.console import command_name
from tinystories.errors import UserError, one_line


if TYPE_CHECKING:
    from transformers.hf_argparser import HfArgumentParser, string_to_bool
else:
    _hf_argparser = load_module("transformers", "hf_argparser")
    HfArgumentParser, string_to_bool = _hf_argparser.HfArgumentParser, _hf_argparser.string_to_bool


class HelpFormatter(ArgumentDefaultsHelpFormatter):
    """Help with one spelling of each option, the type of its value, and its default where there is one."""

    def __init__(self, prog: str, **kwargs: Any):
        super().__init__(prog, max_help_position=28, **kwargs)

    def _format_action_invocation(self, action: Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        value = "" if action.nargs == 0 else self._format_args(action, self._get_default_metavar_for_optional(action))
        return " ".join([*(word for word in action.option_strings if "-" not in word.strip("-")), value]).rstrip()

    def _get_default_metavar_for_optional(self, action: Action) -> str:
        names = {string_to_bool: "yes|no", int: "INT", float: "FLOAT"}
        return names.get(action.type, "TEXT")

    def _get_help_string(self, action: Action) -> str | None:
        is_off = action.default is None or action.default is False or action.default == []
        return action.help if is_off or "(default: " in (action.help or "") else super()._get_help_string(action)


class StrictParser(HfArgumentParser):
    """HfArgumentParser that takes only exact names and reports a mistake as a `UserError`.

    Commands call `check`, then `build` for the dataclasses. `parse_exactly` is `check` without the ranges of a recipe's
    numbers, for a command whose options have other ranges.

    command: as in console.SCRIPTS, for the lines to type. familiar: what is typed by people who come from other
    programs (familiar.py).
    """

    def __init__(
        self, dataclass_types: Iterable[Any], command: str = "train", familiar: Sequence[Familiar] = (), **kwargs: Any
    ):
        super().__init__(dataclass_types, allow_abbrev=False, formatter_class=HelpFormatter, **kwargs)
        self.command = command
        self.advisor = Advisor(command, familiar, self._option_string_actions)
        for action in self._actions:
            if action.nargs == "+":  # a list may be empty
                action.nargs = "*"
            if action.type is string_to_bool and action.nargs is None:  # `--bf16` alone means yes
                action.nargs, action.const = "?", True
            if action.option_strings and action.option_strings[0].startswith("--no_"):
                action.help = SUPPRESS  # `--x no` is in the help
            elif action.choices is not None and len(names := ", ".join(map(str, action.choices))) > 40:
                action.metavar, action.help = "NAME", f"{action.help} One of: {names}."  # which can be wrapped

    def add_argument(self, *names: Any, **options: Any) -> Action:
        """As argparse's, with hyphens too: `--top-k`, as the keys of a dataclass have them."""
        hyphens = [name.replace("_", "-") for name in names if name.startswith("--") and "_" in name]
        return super().add_argument(*names, *(name for name in hyphens if name not in names), **options)

    def error(self, message: str) -> NoReturn:
        message = re.sub(r"^argument (?:-\w/)?--(\w+)[^:]*: ", r"\1: ", message)
        choice = re.match(r"(.*invalid choice: '(.*)') \(choose from (.*)\)$", message)
        if choice:
            choices = [word.strip("' ") for word in choice[3].split(",")]
            longer = [word for word in choices if word.startswith(choice[2]) and choice[2]]
            near = nearest(choice[2], choices) or next(iter(longer), None)
            raise UserError(choice[1], f"did you mean {near}?" if near else f"choose from {', '.join(choices)}")
        if missing := re.match(r"the following arguments are required: (.*)", message):
            words = [str(action.metavar or action.dest).upper() for action in self._positionals._group_actions]
            words += [name for name in missing[1].split(", ") if name.startswith("-")]
            raise UserError(
                f"{missing[1]} is missing", f"write {' '.join([*command_name(self.command).split(), *words])}"
            )
        if "ignored explicit argument" in message:  # -help is -h with the value elp
            raise UserError("an option with one hyphen takes no value", "--help lists the options")
        raise UserError(message)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """As argparse's, and every value is checked and every path without `~` (outside.py). All others call this."""
        namespace, unknown = super().parse_known_args(args, namespace)
        for key, value in vars(namespace).items():
            setattr(namespace, key, from_outside(key, value))
        return namespace, unknown

    def check(self, arguments: list[str], source: str = "") -> Namespace:
        """As `parse_exactly`, and every number in its range (ranges.py). `source` is put before a mistake's message.

        Raises:
            UserError: an unknown name (with the nearest known one), a value of the wrong type or out of its range.
        """
        try:
            namespace = self.parse_exactly(arguments, in_recipe=bool(source))
            check_numbers(vars(namespace))
        except UserError as error:
            raise UserError(f"{source}{error.message}", error.remedy) from None
        return namespace

    def parse_exactly(self, arguments: list[str], in_recipe: bool = False) -> Namespace:
        """Parse `arguments`. in_recipe: they are the keys of a recipe.

        Raises:
            UserError: an unknown name (with what to write instead), a value of the wrong type.
        """
        self.advisor.refuse_familiar(arguments, in_recipe)
        namespace, unknown = self.parse_known_args(arguments)
        if unknown and not unknown[0].startswith("-"):
            options = [word for word in arguments[: arguments.index(unknown[0])] if word.startswith("--")]
            after = options[-1].lstrip("-").split("=")[0] if options else ""
            raise self.advisor.unexpected(unknown[0], after, arguments)
        if unknown:
            raise self.advisor.unknown(unknown[0])
        return namespace

    def build(self, arguments: list[str]) -> tuple:
        """The dataclasses; a value that a dataclass refuses is a `UserError`."""
        try:
            return self.parse_args_into_dataclasses(arguments, look_for_args_file=False)
        except json.JSONDecodeError as error:
            values = vars(self.parse_known_args(arguments)[0])
            key = next((key for key, value in values.items() if value == error.doc), "a mapping")
            raise UserError(f"{key}: {error.doc!r} is not JSON ({error.msg})") from error
        except (ValueError, TypeError, ImportError, OSError) as error:  # the last: a file of settings
            raise UserError(one_line(error)) from error
