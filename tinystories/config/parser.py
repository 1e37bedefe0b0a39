"""A command-line parser that takes exact names only and reports a mistake as one line."""

import json
import re
from difflib import get_close_matches
from typing import Any

from transformers import HfArgumentParser
from transformers.hf_argparser import string_to_bool

from tinystories.config.ranges import check_numbers
from tinystories.errors import UserError, one_line


class StrictParser(HfArgumentParser):
    """HfArgumentParser that takes only exact names and reports a mistake as a `UserError`."""

    def __init__(self, dataclass_types, **kwargs):
        super().__init__(dataclass_types, allow_abbrev=False, **kwargs)
        for action in self._actions:  # a list may be empty
            action.nargs = "*" if action.nargs == "+" else action.nargs
        for action in self._actions:  # `--bf16` alone means yes for flags that may also be None
            if action.type is string_to_bool and action.nargs is None:
                action.nargs, action.const = "?", True

    def error(self, message: str):
        raise UserError(re.sub(r"^argument --(\w+)[^:]*: ", r"\1: ", message))

    def check(self, arguments: list[str], source: str = "") -> Any:
        """Parse `arguments`; an unknown name stops with the nearest known one. `source` is put before the message."""
        try:
            namespace, unknown = self.parse_known_args(arguments)
            check_numbers(vars(namespace))
        except UserError as error:
            raise UserError(f"{source}{error}") from None
        if unknown and not unknown[0].startswith("-"):
            options = [word for word in arguments[: arguments.index(unknown[0])] if word.startswith("--")]
            after = f" after {options[-1].lstrip('-').split('=')[0]}, which takes one value" if options else ""
            raise UserError(f"{source}unexpected {unknown[0]!r}{after}; options are written --key value")
        if unknown:
            name = unknown[0].lstrip("-").split("=")[0]
            nearest = get_close_matches(name.replace("-", "_"), [action.dest for action in self._actions], n=1)
            hint = f"; did you mean {nearest[0]}?" if nearest else "; --help lists all keys"
            raise UserError(f"{source}unknown key {name!r}{hint}")
        return namespace

    def build(self, arguments: list[str]) -> tuple:
        """The dataclasses; a value that a dataclass refuses is a `UserError`."""
        try:
            return self.parse_args_into_dataclasses(arguments, look_for_args_file=False)
        except json.JSONDecodeError as error:
            values = vars(self.parse_known_args(arguments)[0])
            key = next((key for key, value in values.items() if value == error.doc), "a mapping")
            raise UserError(f"{key}: {error.doc!r} is not JSON ({error.msg})") from error
        except (ValueError, TypeError, ImportError) as error:
            raise UserError(one_line(error)) from error
