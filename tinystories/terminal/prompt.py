"""The session in a terminal: its line editor, with history and completion, and the loop around it."""

import os
from collections.abc import Iterable

from prompt_toolkit import PromptSession, print_formatted_text
from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import FormattedText

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
    history, reason = open_history(keep_history)
    editor: PromptSession[str] = PromptSession(
        "> ",
        history=history,
        completer=CommandCompleter(),
        complete_while_typing=False,
        auto_suggest=AutoSuggestFromHistory(),
        enable_suspend=True,
    )
    say(session.welcome())
    if reason:
        say(f"What you type is not kept for the next session: {printable(reason)}.")
    while True:
        try:
            if not session.answer(editor.prompt()):
                return
        except UserError as error:
            say(f"error: {printable(str(error))}", "ansired")
        except KeyboardInterrupt:
            continue
        except EOFError:
            return


def say(text: str, style: str = "dim") -> None:
    lines: list[str] = []
    wrap = WordWrap(lines.append)
    wrap.add(text)
    wrap.flush()
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
