"""Words and sentences as every text metric counts them."""

import re

import regex


LETTERS = r"(?:[\p{L}\p{Nl}\p{No}][\p{M}\u200c\u200d]*)+"  # with their marks and joiners, which Python's \w leaves out
WORD = regex.compile(rf"{LETTERS}(?:['\u2019]{LETTERS})*|\d+")
CLOSING = re.compile(r"[.,;:!?\"'\u201d\u2019)]*")
SENTENCE_END = re.compile(r"(?<=[.!?])[\"'\u201d\u2019)]*\s+|\n+")


def split_words(text: str) -> list[str]:
    """The words of `text` in lower case: runs of letters, with an apostrophe inside, or of digits."""
    return WORD.findall(text.lower())


def ngrams(sequence: list[str], n: int) -> list[tuple[str, ...]]:
    """All runs of `n` words, in order."""
    return list(zip(*(sequence[i:] for i in range(n)), strict=False))


def first_words(text: str, number: int) -> str:
    """`text` up to the end of its `number`-th word, with the punctuation there; all of it if it has no more words."""
    return text[: _end_of_word(text, number)]


def without_first_words(text: str, number: int) -> str:
    """The rest of `text` after `first_words(text, number)`."""
    return text[_end_of_word(text, number) :]


def half_way(text: str) -> tuple[str, str]:
    """The first and the second half of `text`, by words."""
    first = first_words(text, len(split_words(text)) // 2)
    return first, text[len(first) :]


def _end_of_word(text: str, number: int) -> int:
    end = 0
    for place, word in enumerate(WORD.finditer(text), start=1):
        if place > number:
            return end
        closing = CLOSING.match(text, word.end())
        end = closing.end() if closing else word.end()
    return len(text) if number else 0


def split_sentences(text: str) -> list[str]:
    """The sentences of `text`. An abbreviation such as "Mr." ends one too; no metric here depends on that."""
    return [part for part in SENTENCE_END.split(text) if part and part.strip()]
