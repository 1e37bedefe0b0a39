"""The session in a terminal: its line editor, with history and completion, and the loop around it."""

import os
import sys
from collections.abc import Callable, Iterable

from prompt_toolkit import PromptSession, print_formatted_text
from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.utils import is_dumb_terminal

from tinystories.console import printable
from tinystories.errors import UserError
from tinystories.generation.options import BOUNDS, Options
from tinystories.generation.presets import PRESETS
from tinystories.generation.writers import Writer
from tinystories.terminal.history import open_history
from tinystories.terminal.lines import COMMANDS
from tinystories.terminal.session import Session
from tinystories.terminal.wrapping import WordWrap


WORDS = {"set": [*BOUNDS, "preset"], "preset": [*PRESETS], "seed": ["random"]}


def converse(writer: Writer, name: str, options: Options, keep_history: bool) -> None:
    """Until the user ends the session."""
    os.environ.setdefault("PROMPT_TOOLKIT_NO_CPR", "1")  # a terminal's late answer would be typed into the next story
    session = Session(writer, name, options, lambda text: print(text, end="", flush=True), say)
    say(session.welcome())
    next_line = _plain_line if is_dumb_terminal() else _line_editor(keep_history)
    while True:
        try:
            if not session.answer(next_line()):
                return
        except UserError as error:
            say(f"error: {printable(str(error))}", "ansired")
        except KeyboardInterrupt:
            continue
        except EOFError:
            return


def _line_editor(keep_history: bool) -> Callable[[], str]:
    history, reason = open_history(keep_history)
    if reason:
        say(f"What you type is not kept for the next session: {printable(reason)}.")
    editor: PromptSession[str] = PromptSession(
        "> ",
        history=history,
        completer=CommandCompleter(),
        complete_while_typing=False,
        auto_suggest=AutoSuggestFromHistory(),
        enable_suspend=True,
    )
    return editor.prompt


def _plain_line() -> str:
    """From a terminal that knows no control codes, such as the shell of Emacs: it would show them as characters."""
    print("> ", end="", flush=True)
    line = sys.stdin.buffer.readline()
    if not line:
        raise EOFError
    return line.decode("utf-8", "surrogateescape").rstrip("\r\n")


def say(text: str, style: str = "dim") -> None:
    lines: list[str] = []
    wrap = WordWrap(lines.append)
    wrap.add(text)
    wrap.flush()
    if is_dumb_terminal():
        print("".join(lines), flush=True)
    else:
        print_formatted_text(FormattedText([(style, "".join(lines))]))


class CommandCompleter(Completer):
    """Commands, and what may follow them; nothing within a story's beginning."""

    def get_completions(self, document: Document, event: CompleteEvent) -> Iterable[Completion]:
        before = document.text_before_cursor
        command, space, words = before.removeprefix("/").partition(" ")
        if not space:
            yield from _beginning_with(command, COMMANDS)
        elif command == "save":
            yield from PathCompleter(expanduser=True).get_completions(Document(words), event)
        elif command in WORDS and " " not in words:
            yield from _beginning_with(words, WORDS[command])
        elif before.startswith("set preset "):
            yield from _beginning_with(words.removeprefix("preset "), PRESETS)


def _beginning_with(text: str, words: Iterable[str]) -> Iterable[Completion]:
    return (Completion(word, start_position=-len(text)) for word in words if word.startswith(text))
