"""The command `tinystories`: one program, with a subcommand for each of the top-level scripts.

    tinystories train demo
    tinystories generate runs/demo "Once upon a time"

A subcommand is the module of its name in this package, which is imported when it is asked for.
"""

import sys
from difflib import get_close_matches
from importlib import import_module

from tinystories.config.packaged import recipe_names
from tinystories.console import run_command, shell_line, version
from tinystories.errors import UserError


COMMANDS = {
    "train": "train a model from a recipe: text to checkpoint",
    "tokenizer": "train a tokenizer alone",
    "generate": "write a story with a checkpoint",
    "chat": "write one story after another, in a terminal",
    "evaluate": "measure how good models are, and compare them",
    "serve": "a web page and an API that write stories",
    "check": "find out what is wrong with a recipe, a model or a text",
    "report": "write the report of a run as a page",
    "export": "write a checkpoint as Llama, GGUF, ONNX, llama2.c or a page",
    "push": "publish a checkpoint on the Hugging Face Hub",
}


def main() -> None:
    """Start the subcommand that the command line names."""
    run_command(dispatch)


def dispatch(argv: list[str]) -> None:
    if not argv:
        first = shell_line("generate", "Once upon a time")
        raise UserError("no command is named", f"the shortest that works is {first}; tinystories --help lists all")
    name, *arguments = argv
    if name in ("-h", "--help"):
        print(usage())
    elif name == "--version":
        print(f"tinystories {version()}, Python {sys.version.split()[0]}")
    elif name in COMMANDS:
        import_module(f"tinystories.commands.{name}").main(arguments)
    else:
        nearest = get_close_matches(name, COMMANDS, n=1)
        remedy = f"did you mean {nearest[0]}?" if nearest else f"the commands are {', '.join(COMMANDS)}"
        if name in recipe_names():
            remedy = f"it is a recipe: write {shell_line('train', name, options=arguments)}"
        raise UserError(f"unknown command {name!r}", remedy)


def usage() -> str:
    commands = "\n".join(f"  {name:<10} {line}" for name, line in COMMANDS.items())
    return (
        "usage: tinystories COMMAND ...\n\nTrain, measure and share a small language model that writes stories.\n\n"
        f"commands:\n{commands}\n\n`tinystories COMMAND --help` lists the options of a command."
    )
