"""Names that were not introduced: a story keeps its characters, text pieced together from several stories does not.

A name is a word with a capital inside a sentence. Other words with a capital there, such as "I" or "Mom", do not count.
The metric counts the names in the second half of the text; a name is *introduced* if it occurs in the prompt or in the
first half. Shuffled text keeps its names, so this metric exposes text whose second half belongs to another story.
"""

import re

from tinystories.evaluation.estimates import Estimate, ratio
from tinystories.evaluation.text.samples import Sample
from tinystories.evaluation.text.words import first_words, split_words


# A capital after a lower-case word, with or without a comma between: not at the start of a sentence or quotation.
INSIDE = re.compile(r"[a-z],? ([A-Z][a-z]+)(?![\w'\u2019]*\w)")
NO_NAMES = {"I", "God", "Christmas", "Halloween", "Easter", "Mr", "Mrs", "Ms", "Miss", "Dr", "Sir"}
NO_NAMES |= {"Mom", "Mommy", "Mama", "Mum", "Mummy", "Mother", "Dad", "Daddy", "Papa", "Father", "Aunt", "Uncle"}
NO_NAMES |= {"Grandma", "Granny", "Grandpa", "Grandmother", "Grandfather"}
NO_NAMES |= {"Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"}
NO_NAMES |= {"The", "And", "But", "So", "Then", "He", "She", "They", "It", "We", "You", "Yes", "No", "OK"}


def names_in(text: str) -> set[str]:
    """The different names in `text`."""
    return set(INSIDE.findall(text)) - NO_NAMES


def introduced(samples: list[Sample]) -> Estimate | None:
    """Share of the different names in the second half of each text that occur before it."""
    known, number = [], []
    for sample in samples:
        first = first_words(sample.text, len(split_words(sample.text)) // 2)
        before = set(re.findall(r"\w+", sample.prompt + first))
        names = names_in(sample.text[len(first) :])
        known.append(len(names & before))
        number.append(len(names))
    return ratio(known, number)
