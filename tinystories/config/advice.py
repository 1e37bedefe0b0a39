"""One line for an option or a key that this project does not have: what to write instead.

Names of other programs are looked up in familiar.py; for the rest the nearest known name is given, if one is near. A
wrong suggestion is worse than none.
"""

import os
import re
from argparse import Action
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher, get_close_matches
from itertools import takewhile

from tinystories.config.familiar import DATA_SUFFIXES, VALUE, Answer, Familiar
from tinystories.console import command_name, quoted
from tinystories.errors import UserError


NEAR = 0.75  # of difflib: `dmeo` is as near to `demo`, and `batch_size` not to `block_size`
OPTION = re.compile(r"--?[A-Za-z][\w.-]*=")
NUMBER = re.compile(r"-(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$", re.IGNORECASE)
BOXED = "boxed"  # the model that comes with the package, where no other was typed
DEFAULTS = {"prompt": "Once upon a time", "repo_id": "USER/NAME", "recipe": "demo"}  # of arguments without a value


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that `word` is probably meant to be; `top_k or top_p` where two are equally near."""
    word = word.replace("-", "_").lower()
    found = get_close_matches(word, list(known), n=2, cutoff=NEAR)
    ratios = [SequenceMatcher(None, each, word).ratio() for each in found]
    return " or ".join(found[: ratios.count(max(ratios))]) if found else None


@dataclass(frozen=True)
class _Typed:
    """An option of another program in a command line: `typed` as it stands there, its `value` ("" without one)."""

    typed: str
    value: str
    answer: Answer


class Advisor:
    """command: of console.SCRIPTS, for the lines to type. table: of familiar.py. options: those that the command has,
    by their spellings (`--seed`)."""

    def __init__(self, command: str, table: Sequence[Familiar], options: dict[str, Action]):
        self.command, self.options = command, options
        self.table = {name: row for row in reversed(table) for name in row.names}

    def refuse_familiar(self, arguments: Sequence[str], in_recipe: bool = False) -> None:
        """Raises UserError: options of other programs are among `arguments`. The message says what to write.

        in_recipe: they are the keys of a recipe, which is told in lines of a recipe.
        """
        line = self._read(arguments)
        if line.familiar:
            unknown = [_Typed(word, "", Answer(say=self._near_option(word))) for word in line.unknown]
            found = [*line.familiar, *unknown]
            raise UserError(_unknown([each.typed for each in found]), self._remedy(line, found, in_recipe))

    def _read(self, arguments: Sequence[str]) -> "_Line":
        line = _Line()
        words = list(arguments[: arguments.index("--") if "--" in arguments else len(arguments)])
        while words:
            word = words.pop(0)
            values = list(takewhile(lambda each: not _is_option(each), words))
            if not _is_option(word):
                line.words.append(word)
            elif action := self.options.get(word.partition("=")[0]):
                taken = values[: _most_values(action)] if "=" not in word else []
                line.options += [word, *taken]
                words = words[len(taken) :]
            else:
                typed = self._familiar(word, values[0] if values else "")
                name, equals, _ = word.partition("=")
                if typed is not None:
                    line.familiar.append(typed)
                    words = words[bool(typed.value) and not equals :]
                else:
                    line.unknown.append(name.lstrip("-"))  # what follows is its value, if it is no prompt
                    words = words[bool(values) and " " not in values[0] and not equals :]
        return line

    def _familiar(self, word: str, follows: str) -> _Typed | None:
        name, equals, value = word.partition("=")
        key = name.lstrip("-")
        value = value if equals else follows
        if value.startswith("{"):
            return _Typed(key, value, Answer(say="a recipe is flat: write its keys without it"))
        row = self._row(key)
        if row is not None:
            return _Typed(key, value, row.answer(value))
        return self._switched_off(key)

    def _row(self, key: str) -> Familiar | None:
        """litgpt writes `train.epochs`, torchtune `optimizer.lr`."""
        plain = key.replace("-", "_").lower()
        return self.table.get(plain) or self.table.get(plain.rpartition(".")[2])

    def _switched_off(self, key: str) -> _Typed | None:
        """`--no_bf16`: a switch is turned off by its value."""
        plain = key.replace("-", "_").lower()
        for prefix in ("no_", "disable_"):
            name = plain.removeprefix(prefix)
            if name == plain:
                continue
            action = self.options.get(f"--{name}")
            if action is not None and action.nargs == "?":  # as StrictParser makes every boolean key
                return _Typed(key, "", Answer({name: "no"}))
            row = self._row(name)
            answer = row.answer("false") if row is not None else Answer()
            if "no" in answer.keys.values():
                return _Typed(key, "", answer)
        return None

    def _remedy(self, line: "_Line", found: list[_Typed], in_recipe: bool) -> str:
        if in_recipe:
            lines = [f"{key}: {value or 'true'}" for each in found for key, value in each.answer.keys.items()]
            return _joined([f"write {', '.join(lines)}"] if lines else [], found)
        placed = {place: each.answer.keys[place] for each in found if (place := each.answer.place)}
        options = [word for each in found if not each.answer.place for word in _as_options(each.answer)]
        if placed:
            words = [*_in_place(placed, line.words), *line.options, *options]
            return _joined([f"write {quoted(*command_name(self.command).split(), *words)}"], found)
        return _joined([f"write {quoted(*options)}"] if options else [], found)

    def unknown(self, word: str) -> UserError:
        """For an option that no table knows."""
        name = word.lstrip("-").split("=")[0]
        if name == "version":
            return UserError(_unknown([name]), "tinystories --version prints it")
        return UserError(_unknown([name]), self._near_option(name))

    def _near_option(self, name: str) -> str:
        known = nearest(name, [option.lstrip("-") for option in self.options if "-" not in option.lstrip("-")])
        return f"did you mean {known}?" if known else "--help lists the options"

    def unexpected(self, word: str, after: str, arguments: Sequence[str]) -> UserError:
        """For a word that is no option, after the option `after` ("" at the beginning)."""
        line = self._read(arguments)
        if self.command == "generate" and not after:  # each word of a prompt
            first, *text = line.words
            named = [first] if first == BOXED or "/" in first or os.path.isdir(first) else []
            words = [*named, " ".join(text if named else line.words), *line.options]
            remedy = f"a prompt is put in quotes: {quoted(*command_name(self.command).split(), *words)}"
            return UserError(f"unexpected {word!r}", remedy)
        for key in () if after else ("train_file", "data"):
            if word.lower().endswith(DATA_SUFFIXES) and f"--{key}" in self.options:
                return UserError(f"unexpected {word!r}", f"write {quoted(f'--{key}', word)}")
        name, equals, value = word.partition("=")
        if equals and (f"--{name}" in self.options or self._row(name)):  # as Hydra and torchtune write it
            row = self._row(name)
            answer = row.answer(value) if row and f"--{name}" not in self.options else Answer({name: value})
            if answer.keys and not answer.place:
                return UserError(f"unexpected {word!r}", f"write {quoted(*_as_options(answer))}")
        place = f" after {after}, which takes one value" if after else ""
        if not after and "--train_file" in self.options and os.path.exists(word):
            return UserError(f"unexpected {word!r}", f"write {quoted('--train_file', word)}")
        return UserError(f"unexpected {word!r}{place}", "options are written --key value, with quotes around spaces")


@dataclass
class _Line:
    """A command line in its parts. words: what stands without a key. unknown: names that nobody knows."""

    words: list[str] = field(default_factory=list)
    options: list[str] = field(default_factory=list)
    familiar: list[_Typed] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def _most_values(action: Action) -> int | None:
    """The words that may follow an option as its value; None: any number."""
    return None if action.nargs in ("*", "+") else int(action.nargs != 0)


def _is_option(word: str) -> bool:
    name = word if OPTION.match(word) is None else word.partition("=")[0]  # the value may have spaces
    return len(name) > 1 and name.startswith("-") and " " not in name and not NUMBER.match(name)


def _unknown(names: Sequence[str]) -> str:
    return f"unknown key{'s' * (len(names) > 1)} {', '.join(map(repr, names))}"


def _as_options(answer: Answer) -> list[str]:
    words = []
    for key, value in answer.keys.items():
        words += [f"--{key}={value}"] if value.startswith("-") else [f"--{key}", *([value] if value else [])]
    return words


def _joined(parts: list[str], found: list[_Typed]) -> str:
    """The line to write, and what is to be said of each name."""
    said = [(each.typed, each.answer) for each in found if each.answer.say]
    if len(found) == 1 and said:
        say = said[0][1].say
        return f"{parts[0]} ({say})" if parts else say
    return "; ".join([*parts, *(f"{name}: {answer.say}" for name, answer in said)])


def _in_place(placed: dict[str, str], typed: list[str]) -> list[str]:
    """What stands without a key, with the values of `placed`: the checkpoint, run or recipe first, the prompt or
    repository second."""
    second = {key: value for key, value in placed.items() if key in ("prompt", "repo_id")}
    first = [
        value if value != VALUE else DEFAULTS.get(key, BOXED) for key, value in placed.items() if key not in second
    ]
    words = first if "recipe" in placed else [*first, *typed]  # a command has one recipe
    return [*(words or [BOXED]), *(value if value != VALUE else DEFAULTS[key] for key, value in second.items())]
