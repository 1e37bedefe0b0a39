"""Prompts from a pipe or a file: a line each, and a story for each, as one command for each line would write it."""

import argparse
import codecs
import sys
import time
from collections.abc import Iterator
from itertools import chain
from typing import BinaryIO

from tinystories.checkpoint.writer import open_writer
from tinystories.config.packaged import BOXED
from tinystories.console import check_printed, printable, shell_line
from tinystories.errors import UserError, one_line
from tinystories.generation.options import options_of
from tinystories.generation.written import Story, counts, random_seed
from tinystories.output_file import LINES, lines_of_output
from tinystories.streams import reader_is_gone
from tinystories.terminal.lines import check_text
from tinystories.terminal.wrapping import story_on_stdout


LONGEST = 2**20  # bytes of a line; a longer one is no beginning of a story, and would fill the memory


class Prompts:
    """(number of the line, text) of each line with text. A line that cannot be read is named on stderr and counted.

    The memory is that of one line.
    """

    def __init__(self, stream: BinaryIO):
        self.stream = stream
        self.lines = self.empty = self.failed = 0

    def __iter__(self) -> Iterator[tuple[int, str]]:
        while raw := self._next_line():
            self.lines += 1
            try:
                text = _text(raw if self.lines > 1 else raw.removeprefix(codecs.BOM_UTF8))
            except UserError as error:
                self.fail(self.lines, error)
                continue
            if text.strip():
                yield self.lines, text
            else:
                self.empty += 1

    def fail(self, number: int, error: UserError) -> None:
        self.failed += 1
        print(f"error: line {number}: {printable(str(error))}", file=sys.stderr)

    def _next_line(self) -> bytes:
        """More than LONGEST bytes of a line that is longer, whose rest is left out."""
        try:
            line = part = self.stream.readline(LONGEST + 1)
            while len(part) > LONGEST and not part.endswith(b"\n"):
                part = self.stream.readline(LONGEST + 1)
        except OSError as error:
            raise UserError(f"stdin cannot be read: {one_line(error)}") from error
        return line


def _text(raw: bytes) -> str:
    """Raises UserError: the line is too long, not UTF-8, or has a control character."""
    if len(raw) > LONGEST:
        raise UserError(f"the line has more than {LONGEST:,} bytes")
    try:
        text = raw.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"the text is not UTF-8 (byte 0x{raw[error.start]:02x} at column {error.start + 1})") from None
    check_text(text)
    return text


def write_from_stdin(arguments: argparse.Namespace) -> None:
    """Write a story for each line of stdin, each as soon as its line is there.

    Raises:
        UserError: no line has text; some lines have no story, after those of the others were written.
    """
    if arguments.output_file and not arguments.output_file.endswith(LINES):
        raise UserError(f"output_file {arguments.output_file}: of several stories must end in {LINES}", "rename it")
    if sys.stdin.isatty():
        print("[each line is how a story begins; Ctrl-D ends]", file=sys.stderr)
    prompts = Prompts(sys.stdin.buffer)
    lines = iter(prompts)
    first = next(lines, None)
    if first is None and not prompts.failed:
        example = shell_line("generate", BOXED.name, "Once upon a time")
        raise UserError("no prompt: nothing is on stdin", f"{example} begins a story with it")
    if first is not None:
        _write(arguments, prompts, chain([first], lines))
    if prompts.failed:
        raise UserError(f"{prompts.failed} of {prompts.lines} lines have no story", "the messages above say why")


def _write(arguments: argparse.Namespace, prompts: Prompts, lines: Iterator[tuple[int, str]]) -> None:
    writer, options = open_writer(arguments.folder, arguments.device, arguments.revision), options_of(arguments)
    stories, tokens, begin = 0, 0, time.perf_counter()

    def nobody_reads() -> bool:
        return not arguments.output_file and reader_is_gone()

    with lines_of_output(arguments.output_file) as put:
        for number, text in lines:
            seed = random_seed() if options.seed is None else options.seed
            try:
                story = Story(writer, arguments.checkpoint, text, options.settings, seed)
            except UserError as error:
                prompts.fail(number, error)
                continue
            with story_on_stdout() as show:
                show(story.beginning)
                story.write(options.max_new_tokens, show, nobody_reads)
            if nobody_reads():
                return
            print(flush=True)
            put(story.record())
            stories, tokens = stories + 1, tokens + story.new_tokens
    if not arguments.output_file:
        check_printed()
    skipped = f"; empty lines skipped: {prompts.empty}" if prompts.empty else ""
    number_of = f"{stories} {'story' if stories == 1 else 'stories'}"
    print(f"[{number_of}, {counts(tokens, time.perf_counter() - begin)}{skipped}]", file=sys.stderr)
