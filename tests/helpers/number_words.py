"""Find the numbers in a document that may be a claim: every figure of its text, and counts and durations in words.

Code is a setting and no claim, but for its comments and for `text` blocks, which show what a command prints.
"""

import re
from collections.abc import Iterator


COUNTS = "two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|fifteen|twenty|thirty|forty|fifty|sixty|ninety"
COUNTS += "|hundreds?|thousands?|millions?|half|few|several|dozens?"
NOUNS = "tokens|parameters|bytes|stories|seeds|pairs|cores|threads|clients|copies|words|steps|runs|stories|rules|files"
DURATIONS = "seconds|minutes?|hours?|days?|weeks?|months?|years?|milliseconds|percent|kilobytes|megabytes|gigabytes"
NUMBER = re.compile(
    r"(?<![\w/#.-])[-+]?(?:\d(?:[\d,]*\d)?|(?=\.\d))(?:\.\d+)*(?:e[-+]?\d+)?(?:[KMGBxs]|ms|th|min|h)?(?![\w])(?:\s?(?:%|[KMG]i?B\b))?"
    rf"|\b(?:{COUNTS})\b(?:[ -]\w+)?[ -](?:{NOUNS})\b"
    rf"|\b(?:(?:{COUNTS}|an?|one|per)[ -](?:an? )?)?(?:{DURATIONS})\b"
    r"|\b(?:per|within a|than a|in a|half a|about a) second\b"
    r"|[\u00bc-\u00be]|\border of magnitude\b|\bone second\b"
    rf"|\b(?:{COUNTS}) times\b|\b(?:twice|half|halves|doubles|thirds?|fifths?|quarters?|tenths?)\b",
    re.IGNORECASE,
)
FENCE = re.compile(r"^( *```)(\w*)\n(.*?)^\1 *$", re.DOTALL | re.MULTILINE)
NO_TEXT = re.compile(
    r"`(?:[^`\n]|\n(?!\n))+`|<!--(?s:.*?)-->|\]\([^)\n]*\)|\{[{%].*?[%}]\}|https?://\S+|^ {4,}\S.*$", re.MULTILINE
)
COMMENT = re.compile(r"(?<!\S)#\s.*")


def numbers(document: str) -> Iterator[tuple[int, int, str]]:
    """(begin, end, text) of each number."""
    text = FENCE.sub(_only_comments, document)
    text = NO_TEXT.sub(lambda found: _blank(found[0]), text)
    for found in NUMBER.finditer(text):
        yield found.start(), found.end(), found[0]


def _only_comments(block: re.Match) -> str:
    if block[2] == "text":
        return block[0].replace("`", "\0")
    comments = {place for found in COMMENT.finditer(block[0]) for place in range(*found.span())}
    return "".join(c if place in comments else _blank(c) for place, c in enumerate(block[0]))


def _blank(text: str) -> str:
    return re.sub(r"[^\n]", "\0", text)


def line_of(document: str, place: int) -> int:
    return document.count("\n", 0, place) + 1
