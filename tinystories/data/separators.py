"""What ends a story in a `.txt` file: the rules of `story_separator`, and the stories that they cut from lines.

- `auto`: `<|endoftext|>` where the file holds it, else blank lines. What else the file could be is asked
  (separator_survey.py).
- `endoftext`: `<|endoftext|>`, wherever it stands.
- `blank_line`: one or more blank lines. `two_blank_lines`: two or more; a single one is between paragraphs.
- `line`: each line is a story. `file`: each file is.
- anything else is a text that ends a story and is no part of it: one in angle or square brackets, such as `</s>` or
  `[END]`, wherever it stands; any other, such as `---`, where it is a line of its own.
"""

import shlex
from collections.abc import Iterable, Iterator

from tinystories.errors import UserError


END_OF_TEXT = "<|endoftext|>"
RULES = {  # and what ends a story, in words
    "auto": "",
    "endoftext": END_OF_TEXT,
    "blank_line": "blank lines",
    "two_blank_lines": "two or more blank lines",
    "line": "the end of each line",
    "file": "the end of the file",
}
LONGEST_SEPARATOR = 40  # characters

Story = tuple[int, str]  # the line of its first word, and its text


def check_separator(rule: str) -> None:
    """Refuse a `story_separator` that cannot stand in a line."""
    if not rule.strip() or "\n" in rule or "\r" in rule or len(rule) > LONGEST_SEPARATOR:
        raise UserError(
            f"story_separator {rule!r}: a text of its own has 1 to {LONGEST_SEPARATOR} characters in one line",
            f"or name a rule: {', '.join(RULES)}",
        )


def option(rule: str) -> str:
    """`--story_separator RULE` as it is typed."""
    return f"--story_separator{'=' if rule.startswith('-') else ' '}{shlex.quote(rule)}"


def describe(rule: str) -> str:
    """What ends a story."""
    return RULES.get(rule) or repr(rule)


def holds_separator(line: str, text: str) -> bool:
    """Whether a line holds the text of a user's own that ends stories."""
    return text.strip() in line if _is_bracketed(text) else line.strip() == text.strip()


def _is_bracketed(text: str) -> bool:
    return text.strip()[0] + text.strip()[-1] in ("<>", "[]")


def cut(lines: Iterable[str], rule: str) -> Iterator[Story]:
    """The stories of a file, also empty ones. lines: as `lines.read_lines` gives them; rule: any but `auto`.

    Memory: the longest story.
    """
    if rule == "endoftext":
        return _cut_at_text(lines, END_OF_TEXT)
    if rule not in RULES and _is_bracketed(rule):
        return _cut_at_text(lines, rule.strip())
    return _cut_at_lines(lines, rule)


def _cut_at_text(lines: Iterable[str], end: str) -> Iterator[Story]:
    story: list[str] = []
    begins, number, begun = 0, 1, ""  # begun: the last characters of a piece of a line, which may be a part of `end`
    for line in lines:
        line = begun + line
        if end in line:
            *ended, line = line.split(end)
            for piece in ended:
                yield begins or number, "".join([*story, piece])
                story, begins = [], 0
        begun = "" if line.endswith("\n") else line[1 - len(end) :]
        story.append(line[: len(line) - len(begun)])
        begins = begins or (number if line.strip() else 0)
        number += line.endswith("\n")
    story.append(begun)
    if "".join(story).strip():
        yield begins, "".join(story)


def _cut_at_lines(lines: Iterable[str], rule: str) -> Iterator[Story]:
    story: list[str] = []
    begins = blank = 0  # begins: the line of the story's first word; 0: there is none yet
    number = 1
    for line in lines:
        text = line.strip()
        blank = 0 if text else blank + 1
        if rule not in RULES and text == rule.strip():
            yield begins or number, "".join(story)
            story, begins = [], 0
        elif begins and (blank, rule) in ((1, "blank_line"), (2, "two_blank_lines")):
            yield begins, "".join(story)
            story, begins = [], 0
        elif text or begins:
            story.append(line)
            begins = begins or number
        if rule == "line" and begins and line.endswith("\n"):
            yield begins, "".join(story)
            story, begins = [], 0
        number += line.endswith("\n")
    if begins:
        yield begins, "".join(story)
