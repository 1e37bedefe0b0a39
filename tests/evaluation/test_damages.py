"""The damages of people's stories: each does what its name says, and leaves the rest of the text as it was."""

import pytest

from tinystories.evaluation.text.damages import DAMAGES
from tinystories.evaluation.text.samples import Sample
from tinystories.evaluation.text.words import split_sentences, split_words


TEXTS = (
    " had a red kite. He showed it to Lily. She was happy. The kite was big. They ran up the hill and saw Tom again.",
    ' found an old box. It was full of toys. The dog barked. He said, "Good day, Max!" The next day Max came back.',
    " wanted to bake. The oven was hot. Her mom helped her. They ate the cake with Anna. It was the best day for Anna.",
)


@pytest.fixture
def people() -> list[Sample]:
    prompts = ("One day, Tom", "Once, a dog", "Anna")
    return [Sample(prompt, text, False, "human", 0) for prompt, text in zip(prompts, TEXTS, strict=True)]


def damaged(name: str, people: list[Sample]) -> list[str]:
    return [sample.text for sample in DAMAGES[name](people)]


@pytest.mark.parametrize("name", DAMAGES)
def test_every_damage(name, people):
    """Each damage changes every text, keeps the prompts and their order, and is the same each time."""
    found = DAMAGES[name](people)
    assert [sample.prompt for sample in found] == [sample.prompt for sample in people]
    assert all(after.text != before.text for after, before in zip(found, people, strict=True))
    assert found == DAMAGES[name](people)


def test_names(people):
    """The first half keeps its names; in the second, each character has another one."""
    first, *_ = damaged("other names", people)
    assert first.startswith(" had a red kite. He showed it to Lily.") and first.endswith("saw Lily again.")


def test_gender(people):
    """He is she, her mom is his or him dad; capitals stay."""
    assert " She showed it to Lily. He was happy." in damaged("other gender", people)[0]


def test_antonyms(people):
    assert " He was" not in damaged("antonyms", people)[0]
    assert "She was sad. The kite was small. They ran down the hill" in damaged("antonyms", people)[0]


def test_sentences(people):
    """Reversed and mixed texts have whole sentences; each sentence of a mixed text is of another story."""
    sentences = [sentence.strip() for sentence in split_sentences(TEXTS[0])]
    assert [one.strip() for one in split_sentences(damaged("reversed", people)[0])] == sentences[::-1]
    assert damaged("one sentence", people)[0].strip() == sentences[0]
    assert split_sentences(damaged("no ending", people)[0].strip()) == sentences[:3]
    known = {sentence.strip() for text in TEXTS for sentence in split_sentences(text)}
    assert {sentence.strip() for sentence in split_sentences(damaged("mixed", people)[0])} <= known


def test_other_prompt(people):
    assert damaged("other prompt", people) == [*TEXTS[1:], TEXTS[0]]


def test_every_seventh_word(people):
    """Six words stay, the seventh is another."""
    before, after = split_words(TEXTS[0]), split_words(damaged("every 7th word", people)[0])
    different = [place for place, (a, b) in enumerate(zip(before, after, strict=True), start=1) if a != b]
    assert different and all(place % 7 == 0 for place in different)


def test_spanish(people):
    """As many words as the text has."""
    assert [len(split_words(text)) for text in damaged("Spanish", people)] == [len(split_words(t)) for t in TEXTS]
