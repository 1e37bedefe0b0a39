"""A command-line parser that takes exact names only and reports a mistake as one line."""

import json
import re
from argparse import SUPPRESS, Action, ArgumentDefaultsHelpFormatter, Namespace
from collections.abc import Iterable
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, NoReturn

from tinystories.config.installed import load_module
from tinystories.config.outside import from_outside
from tinystories.config.ranges import check_numbers
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
    """

    def __init__(self, dataclass_types: Iterable[Any], **kwargs: Any):
        super().__init__(dataclass_types, allow_abbrev=False, formatter_class=HelpFormatter, **kwargs)
        for action in self._actions:
            if action.nargs == "+":  # a list may be empty
                action.nargs = "*"
            if action.type is string_to_bool and action.nargs is None:  # `--bf16` alone means yes
                action.nargs, action.const = "?", True
            if action.option_strings and action.option_strings[0].startswith("--no_"):
                action.help = SUPPRESS  # `--x no` is in the help
            elif action.choices is not None and len(names := ", ".join(map(str, action.choices))) > 40:
                action.metavar, action.help = "NAME", f"{action.help} One of: {names}."  # which can be wrapped

    def error(self, message: str) -> NoReturn:
        raise UserError(re.sub(r"^argument --(\w+)[^:]*: ", r"\1: ", message))

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
            namespace = self.parse_exactly(arguments)
            check_numbers(vars(namespace))
        except UserError as error:
            raise UserError(f"{source}{error.message}", error.remedy) from None
        return namespace

    def parse_exactly(self, arguments: list[str]) -> Namespace:
        """Parse `arguments`.

        Raises:
            UserError: an unknown name (with the nearest known one), a value of the wrong type.
        """
        namespace, unknown = self.parse_known_args(arguments)
        if unknown and not unknown[0].startswith("-"):
            options = [word for word in arguments[: arguments.index(unknown[0])] if word.startswith("--")]
            after = f" after {options[-1].lstrip('-').split('=')[0]}, which takes one value" if options else ""
            raise UserError(f"unexpected {unknown[0]!r}{after}", "options are written --key value")
        if unknown:
            name = unknown[0].lstrip("-").split("=")[0]
            nearest = get_close_matches(name.replace("-", "_"), [action.dest for action in self._actions], n=1)
            remedy = f"did you mean {nearest[0]}?" if nearest else "--help lists the options"
            raise UserError(f"unknown key {name!r}", remedy)
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
