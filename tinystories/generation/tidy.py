"""Tidy generated text: white space, capitals, the space before a comma, the full stop at the end.

Words are never changed. Text that is measured is not tidied; the number of edits is a metric of its own, because a
tidied text would make the model look better than it is.

A dot that does not end a sentence is left alone (`e.g.`, `U.S.`, `3.5`, `www.foo.com`, "Mr.", "..."), and so are the
words after a quotation ("Stop!" he said), line ends and paragraphs.
"""

import re


ABBREVIATIONS = {"mr.", "mrs.", "ms.", "dr.", "st.", "vs.", "etc.", "jr.", "sr."}
RULES = (
    (re.compile(r"[^\S\n]+(?=\n)|(?<=\n)[^\S\n]+"), ""),  # at the ends of a line
    (re.compile(r"\n{3,}"), "\n\n"),
    (re.compile(r"[^\S\n]{2,}|[^\S\n ]"), " "),
    (re.compile(r"(?<=\w) (?=[,;:.!?][\"\u201d]?(?:\s|$))"), ""),
)
SENTENCE_START = re.compile(r"(?P<last>\S*[.!?])\s+[\"\u201c]?(?P<letter>[^\W\d_])")
FIRST_LETTER = re.compile(r"[\"'\u201c\u2018(]*(?P<letter>[^\W\d_])(?![\w-]*[./:@]\w)")
NO_END = re.compile(r"\w[\"'\u201d\u2019)]*$")


def tidy(text: str) -> str:
    """`text` tidied. Tidying the result again changes nothing."""
    return _tidied(text)[0]


def edits(text: str) -> int:
    """The number of places at which `tidy` changes `text`, without the white space around it."""
    return _tidied(text)[1]


def _tidied(text: str) -> tuple[str, int]:
    text, number = text.replace("\r\n", "\n").replace("\r", "\n").strip(), 0
    for pattern, replacement in RULES:
        text, times = pattern.subn(replacement, text)
        number += times
    starts = [match.start("letter") for match in SENTENCE_START.finditer(text) if _ends_sentence(match["last"])]
    first = FIRST_LETTER.match(text)
    for place in starts + ([first.start("letter")] if first else []):
        letter = text[place]
        capital = letter.title()  # upper() would be wrong for digraphs and for Georgian
        # Some letters, such as the micro sign and the long s, have no capital of their own: they stay as they are.
        if capital != letter and capital.lower() == letter:
            text, number = text[:place] + capital + text[place + 1 :], number + 1
    if NO_END.search(text):
        text, number = text + ".", number + 1
    return text, number


def _ends_sentence(word: str) -> bool:
    """Whether a word with its punctuation ends a sentence: not "e.g.", "J.", "Mr." or "well..."."""
    return word[-1] in "!?" or not (
        len(word) < 3 or "." in word[:-1] or word.strip("\"'(\u201c\u2018").lower() in ABBREVIATIONS
    )
