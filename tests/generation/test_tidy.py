"""The tidy-up of generated text: what it corrects, what it leaves alone, and that a second pass changes nothing."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tinystories.data.sample_corpus import sample_stories
from tinystories.evaluation.text.words import split_words
from tinystories.generation.tidy import edits, tidy


@pytest.mark.parametrize(
    ("text", "tidied"),
    [
        ("  the cat sat .  then it ran", "The cat sat. Then it ran."),
        ("It rained , and\tit rained !", "It rained, and it rained!"),
        ("He said  no. she  left.", "He said no. She left."),
        ('"come here," said Mia', '"Come here," said Mia.'),
        ("One. \n \n\n\nTwo", "One.\n\nTwo."),
        ("First line.\r\nsecond line.", "First line.\nSecond line."),
        ("", ""),
    ],
)
def test_corrections(text, tidied):
    """White space, capitals and full stops are corrected; paragraphs stay."""
    assert tidy(text) == tidied


@pytest.mark.parametrize(
    "text",
    [
        "He has toys, e.g. cars, and lives in the U.S. now.",
        "It cost 3.5 coins at www.foo.com today.",
        "www.foo.com is a page.",
        "Well... she did not know... yet.",
        '"Stop!" he said. "Why?" asked Ann.',
        "Mr. and mrs. fox slept.",
        "A line.\nAnother line.\n\nA paragraph.",
        '"I am here."',
        "J. and K. ran.",
    ],
)
def test_dot_inside_a_sentence(text):
    """A dot that ends no sentence is left alone."""
    assert tidy(text) == text
    assert edits(text) == 0


# Several of these letters have no capital of their own.
LETTERS = "\u00b5\u017f\u0131\u00df\u0149\u03c2\u01c6\u10d0\u03ac\u0390\u0450"
CHARACTERS = [*"aB .,!?'\"\n\t\r3(\u2026\u201d\u2019x ", *LETTERS]


@given(st.text(st.sampled_from(CHARACTERS), max_size=40) | st.text(max_size=30))
@example("a . b")
@example("\u0149 n")
@example("\u00b5")
@example("Stop! \u017fhe ran. \u0131t did")
def test_words_kept_and_idempotent(text):
    """Guards: a letter replaced by the capital of another one, a lost word, a second pass that changes more."""
    once = tidy(text)
    assert tidy(once) == once and edits(once) == 0
    assert split_words(once) == split_words(text)
    before, after = ("".join(each.split()) for each in (text, once))
    assert after[len(before) :] in ("", ".")
    for old, new in zip(before, after, strict=False):
        assert new == old or (new.istitle() and new.lower() == old), (old, new)


@pytest.mark.parametrize("letter", LETTERS)
def test_capital_gives_the_letter_back(letter):
    """Guards: "\u00b5", the micro sign, answered with a Greek capital that looks like an M."""
    assert tidy(f"{letter} is here.")[0].lower() == letter


@pytest.mark.parametrize(
    ("letter", "capital"),
    [("\u03ac", "\u0386"), ("\u0450", "\u0400"), ("\u01c6", "\u01c5"), ("\u10d0", "\u10d0")],
    ids=["Greek", "Cyrillic", "a digraph in title case", "Georgian without capitals"],
)
def test_capital_of_other_scripts(letter, capital):
    assert tidy(f"{letter} is here.")[0] == capital


def test_good_story_needs_no_edit():
    assert [edits(story) for story in sample_stories(20)] == [0] * 20
