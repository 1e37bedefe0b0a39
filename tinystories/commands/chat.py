"""Write stories with a checkpoint, one after another, in a terminal.

    tinystories chat
    tinystories chat runs/demo --preset creative

CHECKPOINT is a folder, a Hub id, or `boxed`, the model that comes with the package, which is taken where none is named.
What is typed is how a story begins, or a command: `help` lists them, docs/terminal.md describes them. It is what
`run_generation.py` does without a prompt.
"""

import argparse

from tinystories.config.familiar import CHAT
from tinystories.config.packaged import BOXED, find_checkpoint
from tinystories.config.parser import StrictParser
from tinystories.console import command_name, program_name, shell_line
from tinystories.errors import UserError
from tinystories.terminal.start import add_arguments, check_arguments, is_prompt, write_without_prompt


def main(argv: list[str]) -> None:
    write_without_prompt(parse(argv))


def parse(argv: list[str]) -> argparse.Namespace:
    parser = StrictParser(
        (),
        "chat",
        CHAT,
        prog=program_name("chat"),
        usage=f"{command_name('chat')} [CHECKPOINT] [--key value ...]",
        description="Write stories with a checkpoint, one after another, in a terminal. From a pipe or a file, each "
        "line is how a story begins.",
    )
    text = f"folder, Hub id or {BOXED.name} (the default)"
    parser.add_argument("checkpoint", nargs="?", default=BOXED.name, help=text)
    parser.add_argument("prompt", nargs="?", help=argparse.SUPPRESS)  # for the message
    add_arguments(parser)
    arguments = parser.parse_exactly(argv)
    check_arguments(arguments)
    words = [word for word in (arguments.checkpoint, arguments.prompt) if word is not None]
    if arguments.prompt is not None or is_prompt(arguments.checkpoint):
        raise UserError("chat takes no prompt", f"{shell_line('generate', *words)} writes one story")
    arguments.folder = find_checkpoint(arguments.checkpoint)
    return arguments
