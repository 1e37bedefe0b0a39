"""Whether blank lines end the stories of a `.txt` file, where `story_separator` is `auto` and has to guess.

A wrong guess makes one giant story of a corpus, or a story of each paragraph, and no number shows it. Refused with the
options to choose from, because the guess is almost certainly wrong:

- a text like `</s>`, or a line like `***`, stands at regular places: at least once for every ten blocks of lines
  between blank lines, and no part without it is longer than three quarters of the text;
- a few words are again and again all that stands between two blank lines, at such places; or a line like `THE END` or
  `The End` is again and again amid the lines of a block;
- between blocks there is one blank line here and several there, each at least twice and in 5 % of the gaps;
- blocks of a hundred lines or 50,000 characters on average; or, in a single file without a blank line, twenty lines
  each like a story (they end as sentences do and have 40 characters on average), or one that is repeated.

Where there is less of it, it is said and the guess is kept. `<|endoftext|>`, and any rule that is named, is never
questioned.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from tinystories.data.lines import PIECE
from tinystories.data.separators import END_OF_TEXT, LONGEST_SEPARATOR, option


BRACKETED = re.compile(r"<[^<>]+>|\[[^\[\]]+\]")
END_TOKEN = re.compile(  # of what stands in brackets: </s>, <eos>, <|im_end|>, <|end_of_text|>, [END], [SEP], ...
    r"(?:^|[\W_])(?:/s|eo[sdt]|end|endof\w*|sep|separator|story)(?:[\W_]|$)", re.I
)
SENTENCE_ENDS = ".,;:!?…。！？'\"“”‘’«»()"  # noqa: RUF001 (a line of these alone is speech)
SURVEYED = 2**22  # characters: enough to see what is regular
MARKS = 1000  # different short texts that are counted
PER_BLOCK, LONGEST_PART = 0.1, 0.75
REPEATED, OTHERS = 5, 2  # times that words are a line, and times as often as any others
THE_END = re.compile(r"\W*(the\s+end|end|fin)\W*", re.I)
GAPS, GAPS_SHARE = 2, 0.05
MANY_LINES, LONG_BLOCK = 100, 50_000
FEW_LINES, SOME_LINES, LINE_LENGTH, SENTENCES = 5, 20, 40, 0.9


@dataclass
class Doubt:
    """What speaks against blank lines, and the options to choose from. certain: the guess is refused."""

    found: str
    remedy: str
    certain: bool


@dataclass
class Mark:
    """A short text that may end stories. Places are in characters of the lines that are not blank."""

    count: int = 0
    alone: int = 0  # times that it is all that stands between two blank lines
    closing: int = 0  # times that it is the last line before a blank one
    ends: int = 0
    line: int = 0  # the last one
    longest_part: int = 0  # characters without it
    adjacent: bool = False  # it is two lines in a row

    def add(self, begins: int, ends: int, line: int) -> None:
        self.adjacent |= self.count > 0 and line == self.line + 1
        self.longest_part = max(self.longest_part, begins - self.ends)
        self.count, self.ends, self.line = self.count + 1, ends, line


@dataclass
class Survey:
    """What is counted in a file without `<|endoftext|>`, in its first `SURVEYED` characters."""

    lines: int = 0  # that are not blank
    characters: int = 0
    sentences: int = 0  # lines that end as sentences do
    blocks: int = 0  # of lines between blank lines
    single: int = 0  # gaps of one blank line between blocks
    several: int = 0  # gaps of more
    tokens: dict[str, Mark] = field(default_factory=dict)  # in brackets, anywhere
    short_lines: dict[str, Mark] = field(default_factory=dict)

    def add_line(self, text: str) -> None:
        self.lines += 1
        if "<" in text or "[" in text:
            for match in BRACKETED.finditer(text):
                if END_TOKEN.search(match[0]) and len(match[0]) <= LONGEST_SEPARATOR:
                    self._mark(self.tokens, match[0], *match.span())
        if len(text) <= LONGEST_SEPARATOR and text not in self.tokens:
            self._mark(self.short_lines, text, 0, len(text))
        self.characters += len(text)
        self.sentences += text[-1] in SENTENCE_ENDS

    def _mark(self, marks: dict[str, Mark], text: str, begins: int, ends: int) -> None:
        if text in marks or len(marks) < MARKS:
            marks.setdefault(text, Mark()).add(self.characters + begins, self.characters + ends, self.lines)

    def end_block(self, lines: int, last: str, blank: int) -> None:
        """A block of `lines` lines ends with `last`, and `blank` blank lines follow."""
        self.blocks += 1
        self.single += blank == 1
        self.several += blank > 1
        if last in self.short_lines:
            self.short_lines[last].closing += 1
            self.short_lines[last].alone += lines == 1


def survey(lines: Iterable[str]) -> Survey | None:
    """Read a file; None where it holds `<|endoftext|>`."""
    found, block, blank, last = Survey(), 0, 0, ""
    lines = iter(lines)
    for line in lines:
        if END_OF_TEXT in line:
            return None
        if not (text := line.strip()):
            blank += 1
            continue
        if blank and block:
            found.end_block(block, last, blank)
            block = 0
        found.add_line(text)
        found.lines -= len(line) == PIECE and not line.endswith("\n")  # the rest of the line follows
        block, blank, last = block + 1, 0, text
        if found.characters > SURVEYED:
            break
    if block:
        found.end_block(block, last, 0)
    return None if any(END_OF_TEXT in line for line in lines) else found


def doubt(found: Survey, only_file: bool) -> Doubt | None:
    """What speaks against blank lines. only_file: the source is one file, so that one story would be all of it."""
    return (
        _separator(found)
        or _gaps(found)
        or _repeated_line(found, only_file)
        or _giant_story(found, only_file)
        or _rare_mark(found)
    )


def _separator(found: Survey) -> Doubt | None:
    """A text that stands where stories could end."""
    once = 1 if found.blocks == 1 else 2
    regular = {text: mark for text, mark in found.tokens.items() if _is_regular(mark, found, once)}
    if not regular:
        ornaments = {text: mark for text, mark in found.short_lines.items() if _is_ornament(text)}
        regular = {text: mark for text, mark in ornaments.items() if _is_regular(mark, found) and not mark.adjacent}
    return _question(max(regular.items(), key=lambda item: (item[1].count, item[1].ends))) if regular else None


def _repeated_line(found: Survey, only_file: bool) -> Doubt | None:
    """Words that are again and again a line where blank lines do not end the story."""
    for text, mark in _repeated_words(found).items():
        is_end = THE_END.fullmatch(text) or text.isupper() or (only_file and found.blocks == 1)
        if mark.alone == mark.count or (is_end and mark.closing < mark.count / 2):
            return _question((text, mark))
    return None


def _question(separator: tuple[str, Mark]) -> Doubt:
    text, mark = separator
    return Doubt(
        f"{text!r} stands in it {_times(mark.count)}, at regular places",
        f"give {option(text)} if it ends a story; if it is text, {option('blank_line')}, or {option('file')} where the "
        "file is one story",
        certain=True,
    )


def _is_regular(mark: Mark, found: Survey, at_least: int = 2) -> bool:
    longest = max(mark.longest_part, found.characters - mark.ends)
    return mark.count >= max(at_least, PER_BLOCK * found.blocks) and longest <= LONGEST_PART * found.characters


def _is_ornament(text: str) -> bool:
    """Whether a line is no text: `***`, `---`, `<story>`."""
    words = any(character.isalnum() for character in text)
    return bool(re.fullmatch(r"<[^<>]+>", text)) if words else not set(text) <= set(SENTENCE_ENDS + " ")


def _repeated_words(found: Survey) -> dict[str, Mark]:
    """The one short line of words that is repeated at regular places, and far more often than any other.

    The name of a speaker in a play, `ROMEO:`, is none.
    """
    words = {text: mark for text, mark in found.short_lines.items() if not (_is_ornament(text) or text[-1] == ":")}
    most, *others = sorted(words.items(), key=lambda item: -item[1].count)[:2] or [("", Mark())]
    mark = most[1]
    if mark.count < max(REPEATED, OTHERS * max((other.count for _, other in others), default=0) + 1):
        return {}
    return {most[0]: mark} if _is_regular(mark, found) and not mark.adjacent else {}


def _gaps(found: Survey) -> Doubt | None:
    """One blank line here, and several there."""
    rarer = min(found.single, found.several)
    if not rarer:
        return None
    return Doubt(
        f"one blank line stands between its blocks of text {_times(found.single)}, and several do "
        f"{_times(found.several)}",
        f"give {option('two_blank_lines')} if stories end at several, or {option('blank_line')} if each block is one",
        certain=rarer >= max(GAPS, GAPS_SHARE * (found.single + found.several)),
    )


def _giant_story(found: Survey, only_file: bool) -> Doubt | None:
    """Blocks that are too large for a story, or lines that are each like one."""
    lines, characters = found.lines / max(1, found.blocks), found.characters / max(1, found.blocks)
    like_stories = (
        only_file
        and found.blocks == 1
        and found.sentences >= SENTENCES * found.lines
        and found.characters >= LINE_LENGTH * found.lines
    )
    certain = lines >= MANY_LINES or characters >= LONG_BLOCK or (like_stories and lines >= SOME_LINES)
    if not certain and lines < (FEW_LINES if like_stories else MANY_LINES / 2):
        return None
    size = f"{found.lines} lines" if found.lines > 1 else "one long line"
    others = [(text, "that line ends one") for text in _repeated_words(found)]
    others += [("line", "each line is a story")] if found.lines > 1 else []
    others += [("blank_line", "blank lines end them")] if found.blocks > 1 else []
    options = [f"{option(rule)} if {meaning}" for rule, meaning in [*others, ("file", "the file is one story")]]
    return Doubt(
        f"{size} without a blank line would be one story"
        if found.blocks == 1
        else f"{size} with blank lines at only {found.blocks - 1} places would be {found.blocks} stories",
        f"give {', or '.join(options)}",
        certain,
    )


def _rare_mark(found: Survey) -> Doubt | None:
    """A text that would end stories if it stood at more places."""
    ornaments = {text: mark for text, mark in found.short_lines.items() if _is_ornament(text)}
    marks = found.tokens | ornaments
    if not marks:
        return None
    text = max(marks, key=lambda text: marks[text].count)
    found_it = f"{text!r} stands in it {_times(marks[text].count)}"
    return Doubt(found_it, f"give {option(text)} if it ends a story", certain=False)


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"
