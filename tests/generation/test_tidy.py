"""The tidy-up of generated text: what it mends, what it must leave alone, and that it is done in one go."""

import pytest
from hypothesis import example, given, settings
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
def test_mends_white_space_capitals_stops_and_keeps_paragraphs(text, tidied):
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
def test_a_dot_that_ends_no_sentence_is_left_alone(text):
    assert tidy(text) == text
    assert edits(text) == 0


@settings(max_examples=150, deadline=None)
@given(st.text(st.sampled_from(list("aB .,!?'\"\n\t\r3(\u2026\u201d\u2019x ")), max_size=40) | st.text(max_size=30))
@example("a . b")
@example("\u0149 n")
def test_tidying_twice_is_tidying_once_and_no_word_is_lost(text):
    once = tidy(text)
    assert tidy(once) == once and edits(once) == 0
    assert split_words(once) == split_words(text)


def test_a_well_written_story_needs_no_edit():
    assert [edits(story) for story in sample_stories(20)] == [0] * 20
