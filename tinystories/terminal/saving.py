"""Write the stories of a session to a file: as text, or with everything that is needed to write them again."""

import json
from collections.abc import Sequence
from pathlib import Path

from tinystories.atomic import write_atomically
from tinystories.config.outside import word_from_outside
from tinystories.data.separators import END_OF_TEXT
from tinystories.errors import UserError, one_line
from tinystories.generation.written import Story
from tinystories.output_file import check_output_file


class StoryFile:
    """The files that a session has written: only these are written again."""

    def __init__(self) -> None:
        self._written: dict[Path, str] = {}

    def save(self, name: str, stories: Sequence[Story]) -> None:
        """Write all stories. `.json`: a list; `.jsonl`: a line each; any other name: text, with a line
        `<|endoftext|>` after each story, as the files have that a model is trained on.

        Raises:
            UserError: the file is there and holds something else, or cannot be written.
        """
        file = Path(word_from_outside("save", name))
        check_output_file(str(file), "save")
        text, place = _as_text(file.suffix.lower(), stories), file.resolve()
        if file.exists() and _content(file) != self._written.get(place):
            raise UserError(f"{file} is there already", "name another file")
        try:
            write_atomically(place, text)
        except OSError as error:
            raise UserError(f"{file} cannot be written ({one_line(error)})") from error
        self._written[place] = text


def _content(file: Path) -> str | None:
    """None for a file that no session has written."""
    try:
        return file.read_text(encoding="utf-8") if file.is_file() else ""
    except (OSError, UnicodeError):
        return ""


def _as_text(suffix: str, stories: Sequence[Story]) -> str:
    if suffix == ".jsonl":
        return "".join(json.dumps(story.record(), ensure_ascii=False) + "\n" for story in stories)
    if suffix == ".json":
        return json.dumps([story.record() for story in stories], indent=2, ensure_ascii=False) + "\n"
    return "".join(f"{story.text.strip()}\n{END_OF_TEXT}\n" for story in stories)
