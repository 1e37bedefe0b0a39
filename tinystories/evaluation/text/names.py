"""Names that turn up out of nowhere: a story keeps its heroes, and stitched-together text does not.

A name is a word that stands with a capital inside a sentence of the story, where only names have one (and words such
as "I" and "Mom", which are left out). Counted are the names in the second half of the text; one is *introduced* if it
stands in the prompt or in the first half. Shuffled words keep their names, so the nonsense that this metric exposes is
text whose second half belongs to another story.
"""

import re

from tinystories.evaluation.estimates import Estimate, ratio
from tinystories.evaluation.text.samples import Sample
from tinystories.evaluation.text.words import first_words, words


# A capital after a lower-case word, or after a comma that follows one: not where a sentence or a quotation begins.
INSIDE = re.compile(r"[a-z],? ([A-Z][a-z]+)(?![\w'\u2019]*\w)")
NO_NAMES = {"I", "God", "Christmas", "Halloween", "Easter", "Mr", "Mrs", "Ms", "Miss", "Dr", "Sir"}
NO_NAMES |= {"Mom", "Mommy", "Mama", "Mum", "Mummy", "Mother", "Dad", "Daddy", "Papa", "Father", "Aunt", "Uncle"}
NO_NAMES |= {"Grandma", "Granny", "Grandpa", "Grandmother", "Grandfather"}
NO_NAMES |= {"Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"}
NO_NAMES |= {"The", "And", "But", "So", "Then", "He", "She", "They", "It", "We", "You", "Yes", "No", "OK"}


def names_in(text: str) -> set[str]:
    return set(INSIDE.findall(text)) - NO_NAMES


def introduced(samples: list[Sample]) -> Estimate | None:
    """Share of the different names in the second half of each text that the story has had before."""
    known, number = [], []
    for sample in samples:
        first = first_words(sample.text, len(words(sample.text)) // 2)
        before = set(re.findall(r"\w+", sample.prompt + first))
        names = names_in(sample.text[len(first) :])
        known.append(len(names & before))
        number.append(len(names))
    return ratio(known, number)
