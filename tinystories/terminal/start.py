"""The commands that write stories where no prompt is on the command line: who or what gives the prompts."""

import argparse
import os
import sys

from tinystories.config.parser import StrictParser
from tinystories.errors import UserError
from tinystories.generation.options import add_options, check_options, options_of
from tinystories.output_file import check_output_file


def add_arguments(parser: StrictParser) -> None:
    add_options(parser)
    parser.add_argument("--output_file", help="write text, settings and counts to this JSON file")
    parser.add_argument("--no_history", action="store_true", help="do not keep what is typed for the next session")


def check_arguments(arguments: argparse.Namespace) -> None:
    """Raises UserError: a number out of its range, a file that could not be written."""
    check_options(arguments)
    check_output_file(arguments.output_file)


def is_prompt(alone: str) -> bool:
    """Whether a single word of a command line can be nothing but how a story begins."""
    return len(alone.split()) > 1 and "/" not in alone and "\\" not in alone and not os.path.exists(alone)


def write_without_prompt(arguments: argparse.Namespace) -> None:
    """Where both ends are a terminal, a session; else a story for each line of stdin."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        from tinystories.terminal.standard_input import write_from_stdin

        write_from_stdin(arguments)
        return
    if arguments.output_file:
        raise UserError("output_file needs a prompt", "without one, save FILE writes the stories of a session")
    from tinystories.checkpoint.writer import open_writer

    writer = open_writer(arguments.folder, arguments.device, arguments.revision)
    from tinystories.terminal.prompt import converse

    converse(writer, arguments.checkpoint, options_of(arguments), not arguments.no_history)
