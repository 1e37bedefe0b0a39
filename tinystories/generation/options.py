"""The options of the commands that write stories, in this one place: their names, ranges and defaults.

The command line and the line `set NAME VALUE` of a session in a terminal (tinystories/terminal) read them here.
"""

import argparse
from dataclasses import asdict, dataclass, replace
from typing import Any

from tinystories.config.parser import StrictParser
from tinystories.errors import UserError
from tinystories.generation.presets import DEFAULT_PRESET, PRESETS
from tinystories.generation.sampler import GREEDY, Settings


DEFAULT_MAX_NEW_TOKENS = 256
LARGEST_SEED = 2**63 - 1
BOUNDS: dict[str, tuple[float, float]] = {
    "temperature": (1e-3, 10),  # and 0
    "top_k": (0, 10**6),
    "top_p": (1e-3, 1),
    "repetition_penalty": (0.1, 10),
    "max_new_tokens": (1, 10**6),
    "seed": (0, LARGEST_SEED),
}
WHOLE = {"top_k", "max_new_tokens", "seed"}  # numbers without a point
SAMPLING = tuple(PRESETS[DEFAULT_PRESET])
HELP = {
    "temperature": "above 1: more random; below 1: less; 0: always the likeliest token",
    "top_k": "sample from the k likeliest tokens; 0: from all",
    "top_p": "sample from the likeliest tokens that hold this probability",
    "repetition_penalty": "above 1 punishes tokens already used",
    "max_new_tokens": "stop after this many tokens",
    "seed": "the same seed writes the same story",
}


@dataclass(frozen=True)
class Options:
    """How the next story is written. seed None: another one for each story."""

    settings: Settings
    max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS
    seed: int | None = None

    def changed(self, values: dict[str, Any]) -> "Options":
        """With other values of some options, by their names."""
        own = {name: value for name, value in values.items() if name not in SAMPLING}
        sampling = {name: value for name, value in values.items() if name in SAMPLING}
        return replace(self, settings=replace(self.settings, **sampling), **own)

    def values(self) -> dict[str, Any]:
        """Every option by its name."""
        return asdict(self.settings) | {"max_new_tokens": self.max_new_tokens, "seed": self.seed}


def check_option(name: str, value: float) -> None:
    """Raises UserError: the value is out of the range of this option."""
    low, high = BOUNDS[name]
    if low <= value <= high or (name, value) == ("temperature", 0):
        return
    greedy = "0, for always the likeliest token, or " if name == "temperature" else ""
    remedy = "without one a random seed is drawn" if name == "seed" else None
    raise UserError(f"{name} must be {greedy}between {low} and {high}, got {value}", remedy)


def read_option(name: str, word: str) -> float:
    """The value of an option as it is typed, within its range.

    Raises:
        UserError: it is no such number.
    """
    try:
        value = int(word) if name in WHOLE else float(word)
    except ValueError:
        raise UserError(f"{name} must be a {'whole ' * (name in WHOLE)}number, got {word!r}") from None
    check_option(name, value)
    return value


def add_options(parser: StrictParser) -> None:
    """Those of every command that writes stories."""
    parser.add_argument("--revision", help="a branch, tag or commit of a Hub id")
    parser.add_argument("--preset", choices=PRESETS, default=DEFAULT_PRESET, help="sampling settings")
    for name, text in HELP.items():
        default = DEFAULT_MAX_NEW_TOKENS if name == "max_new_tokens" else None
        parser.add_argument(f"--{name}", type=int if name in WHOLE else float, default=default, help=text)
    parser.add_argument("--greedy", action="store_true", help="always the likeliest token, without repetition penalty")
    parser.add_argument("--device", help="cpu, cuda, mps (default: the accelerator if there is one)")


def check_options(arguments: argparse.Namespace) -> None:
    """Raises UserError: a number on the command line is out of its range."""
    for name in BOUNDS:
        if (value := getattr(arguments, name)) is not None:
            check_option(name, value)


def options_of(arguments: argparse.Namespace) -> Options:
    """What a command line gives, completed by its preset. `--greedy` takes nothing but a repetition penalty."""
    names = ("repetition_penalty",) if arguments.greedy else SAMPLING
    given = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    settings = GREEDY if arguments.greedy else Settings(**PRESETS[arguments.preset])
    return Options(replace(settings, **given), arguments.max_new_tokens, arguments.seed)
