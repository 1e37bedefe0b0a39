"""Write stories with a checkpoint, one after another, in a terminal.

    tinystories chat
    tinystories chat runs/demo --preset creative

CHECKPOINT is a folder, a Hub id, or `boxed`, the model that comes with the package, which is taken where none is named.
What is typed is how a story begins, or a command: `help` lists them, docs/terminal.md describes them. It is what
`run_generation.py` does without a prompt.
"""

import argparse

from tinystories.config.packaged import BOXED, find_checkpoint
from tinystories.config.parser import StrictParser
from tinystories.console import command_name, program_name
from tinystories.terminal.start import add_arguments, check_arguments, write_without_prompt


def main(argv: list[str]) -> None:
    write_without_prompt(parse(argv))


def parse(argv: list[str]) -> argparse.Namespace:
    parser = StrictParser(
        (),
        prog=program_name("chat"),
        usage=f"{command_name('chat')} [CHECKPOINT] [--key value ...]",
        description="Write stories with a checkpoint, one after another, in a terminal. From a pipe or a file, each "
        "line is how a story begins.",
    )
    text = f"folder, Hub id or {BOXED.name} (the default)"
    parser.add_argument("checkpoint", nargs="?", default=BOXED.name, help=text)
    add_arguments(parser)
    arguments = parser.parse_exactly(argv)
    check_arguments(arguments)
    arguments.folder = find_checkpoint(arguments.checkpoint)
    return arguments
