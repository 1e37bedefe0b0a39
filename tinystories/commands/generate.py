"""Write stories with a checkpoint: each streams to the terminal and stops where it ends.

    python run_generation.py "Once upon a time"
    python run_generation.py runs/demo "Once upon a time"
    python run_generation.py runs/demo "One day, a fox" --preset creative --seed 7 --output_file story.json
    python run_generation.py runs/demo
    python run_generation.py runs/demo < beginnings.txt > stories.txt

CHECKPOINT is a folder, a Hub id, or `boxed`, the model that comes with the package. A prompt alone is continued by that
model. It has at least two words and no slash, and no file has its name: anything else may be a mistyped checkpoint.

Without a prompt, a terminal becomes a session in which one story after another is written (docs/terminal.md); from a
pipe or a file each line is a prompt.

stdout is the story alone; counts and messages go to stderr. The command ends early, with exit status 0, when nobody
reads what it prints any more (`| head -c 100`) and no --output_file is named. The presets are those of
tinystories/generation/presets.py; single settings override them.
"""

import argparse
import os
import sys

from tinystories.config.familiar import WRITE
from tinystories.config.packaged import BOXED, find_checkpoint
from tinystories.config.parser import StrictParser
from tinystories.console import check_printed, command_name, program_name, shell_line
from tinystories.errors import UserError
from tinystories.generation.options import options_of
from tinystories.output_file import write_output_file
from tinystories.streams import reader_is_gone
from tinystories.terminal.start import add_arguments, check_arguments, is_prompt, write_without_prompt


def main(argv: list[str]) -> None:
    arguments = parse(argv)
    if arguments.prompt is None:
        write_without_prompt(arguments)
    else:
        generate(arguments)


def generate(arguments: argparse.Namespace) -> None:
    # They import what takes most of a second: a command line that is not understood does not need it.
    from tinystories.checkpoint.writer import open_writer
    from tinystories.generation.written import Story, random_seed
    from tinystories.terminal.wrapping import story_on_stdout

    writer, options = open_writer(arguments.folder, arguments.device, arguments.revision), options_of(arguments)
    seed = random_seed() if options.seed is None else options.seed
    story = Story(writer, arguments.checkpoint, arguments.prompt, options.settings, seed)

    def nobody_reads() -> bool:
        return not arguments.output_file and reader_is_gone()

    with story_on_stdout() as show:
        show(story.beginning)
        story.write(options.max_new_tokens, show, nobody_reads)
    if arguments.output_file:
        write_output_file(arguments.output_file, story.record())
    else:
        check_printed()
    if not nobody_reads():
        by = "; by the boxed model" if arguments.folder == str(BOXED) else ""  # the command line may not say it
        print(f"[{story.summary()}{by}]", file=sys.stderr)


def parse(argv: list[str]) -> argparse.Namespace:
    """prompt None: there is none on the command line; folder: what is to be opened, or a Hub id."""
    parser = StrictParser(
        (),
        "generate",
        WRITE,
        prog=program_name("generate"),
        usage=f"{command_name('generate')} [CHECKPOINT] [PROMPT] [--key value ...]",
        description="Write stories with a checkpoint. Without a prompt: a session in a terminal, or a story for each "
        "line of stdin.",
    )
    for name, text in (
        ("checkpoint", f"folder, Hub id or {BOXED.name} (the default)"),
        ("prompt", "how the story begins"),
    ):
        parser.add_argument(name, help=text).required = False  # what a single one is: `_named`
    add_arguments(parser)
    arguments = parser.parse_exactly(argv)
    check_arguments(arguments)
    return _named(arguments)


def _named(arguments: argparse.Namespace) -> argparse.Namespace:
    """The same with the `folder` to open (or Hub id); a single word is the prompt if it cannot be a checkpoint.

    Raises:
        UserError: it could be both.
    """
    alone = arguments.checkpoint if arguments.prompt is None else None
    if arguments.checkpoint is None:
        arguments.checkpoint = BOXED.name
    elif alone is not None and is_prompt(alone):
        arguments.checkpoint, arguments.prompt, arguments.folder = BOXED.name, alone, str(BOXED)
        return arguments
    elif alone is not None and not _is_checkpoint(alone):
        if not alone.strip():
            raise UserError("no prompt", f"{shell_line('generate', BOXED.name, 'Once upon a time')} begins a story")
        raise UserError(
            f"no prompt: {alone!r} may be the name of a checkpoint",
            f"{shell_line('generate', BOXED.name, alone)} begins a story with it",
        )
    arguments.folder = find_checkpoint(arguments.checkpoint)
    return arguments


def _is_checkpoint(alone: str) -> bool:
    """A folder, or what has the form of a path or a Hub id: no prompt looks like it."""
    named = ("/" in alone or "\\" in alone) and len(alone.split()) == 1
    return named or alone == BOXED.name or os.path.isdir(alone)
