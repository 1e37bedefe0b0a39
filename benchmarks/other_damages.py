"""More damages of people's stories, which no metric was made for: metric_scale.py says which of them are seen.

The metrics are not to be tuned for them.
"""

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from tinystories.evaluation.text.damages import GENDER, renamed, replaced, sentences
from tinystories.evaluation.text.determiners import lexicon
from tinystories.evaluation.text.names import names_in
from tinystories.evaluation.text.samples import Sample
from tinystories.evaluation.text.words import first_words, half_way, split_words


PRESENT = {"was": "is", "were": "are", "had": "has", "said": "says", "went": "goes", "saw": "sees", "ran": "runs"}
PRESENT |= {"came": "comes", "did": "does", "found": "finds", "took": "takes", "made": "makes", "felt": "feels"}
VERBS = ["went", "saw", "ran", "played", "looked", "wanted", "liked", "loved", "found", "took", "made", "said", "came"]
ADJECTIVES = "big|little|small|happy|sad|old|new|red|blue|green|good|bad|nice|pretty|kind|brave|scared|special|best"
SAID = "said|asked|replied|shouted|answered"

Damage = Callable[[Sample, Sample, np.random.Generator], str]  # of a sample, with the next one


def present(word: str) -> str | None:
    return PRESENT.get(word) or (f"{word[:-2]}s" if word.endswith("ed") and len(word) > 4 else None)


def turned(words: list[str]) -> dict[str, str]:
    """Each word -> the next one."""
    return dict(zip(words, words[1:] + words[:1], strict=True))


def objects(sample: Sample) -> str:
    """From half-way on, each thing is another one of the story."""
    first, second = half_way(sample.text)
    nouns = [word for word in dict.fromkeys(split_words(sample.text)) if word in lexicon().nouns]
    return first + replaced(second, turned(nouns).get)


def speakers(sample: Sample) -> str:
    """Who said it is another character of the story."""
    other = turned([*sorted(names_in(sample.prompt + sample.text)), "mom", "dad"])
    text = re.sub(rf"({SAID}) (\w+)", lambda match: f"{match[1]} {other.get(match[2], match[2])}", sample.text)
    return re.sub(rf"(\w+) ({SAID})\b", lambda match: f"{other.get(match[1], match[1])} {match[2]}", text)


def from_others(text: str, other: str, random: np.random.Generator, each: int = 10) -> str:
    """One word in `each` is of the other text."""
    words = split_words(other) or ["the"]
    return replaced(text, lambda _: str(random.choice(words)) if random.random() < 1 / each else None)


def later(sample: Sample, change: Callable[[str], str]) -> str:
    """A change of the second half."""
    first, second = half_way(sample.text)
    return first + change(second)


def one_name(sample: Sample) -> str:
    return renamed(sample.text, dict.fromkeys(names_in(sample.prompt + sample.text), "Tim"))


def shuffled_threes(text: str, random: np.random.Generator) -> str:
    """Paragraphs of three sentences in random order."""
    parts = sentences(text)
    threes = [" ".join(parts[i : i + 3]) for i in range(0, len(parts), 3)]
    return " " + " ".join(random.permutation(threes))


def twice(text: str) -> str:
    """Each sentence twice, as many words as before."""
    doubled = " ".join(sentence for sentence in sentences(text) for _ in range(2))
    return first_words(f" {doubled}", len(split_words(text)))


OTHER_DAMAGES: dict[str, Damage] = {
    "other gender from half-way": lambda s, _, r: later(s, lambda text: replaced(text, GENDER.get)),
    "present tense from half-way": lambda s, _, r: later(s, lambda text: replaced(text, present)),
    "other things from half-way": lambda s, _, r: objects(s),
    "wrong speaker": lambda s, _, r: speakers(s),
    "paragraphs shuffled": lambda s, _, r: shuffled_threes(s.text, r),
    "1 word in 10 of another story": lambda s, other, r: from_others(s.text, other.text, r),
    "verbs replaced": lambda s, _, r: replaced(s.text, lambda word: str(r.choice(VERBS)) if word in VERBS else None),
    "last sentence of another story": lambda s, other, r: (
        " " + " ".join([*sentences(s.text)[:-1], sentences(other.text)[-1]])
    ),
    "no punctuation": lambda s, _, r: re.sub(r"[.,!?;:\"]", "", s.text),
    "first sentence again at the end": lambda s, _, r: " " + " ".join([*sentences(s.text), sentences(s.text)[0]]),
    "each sentence twice": lambda s, _, r: twice(s.text),
    "one name for all": lambda s, _, r: one_name(s),
    "no adjectives": lambda s, _, r: re.sub(rf"\b({ADJECTIVES}) ", "", s.text),
    "no articles": lambda s, _, r: re.sub(r"\b(a|an|the) ", "", s.text),
    "lower case": lambda s, _, r: s.text.lower(),
    "negated": lambda s, _, r: re.sub(r"\b(was|were|could|did|had)\b", r"\1 not", s.text),
    "every second sentence": lambda s, _, r: " " + " ".join(sentences(s.text)[::2]),
}


def apply(damage: Damage, samples: list[Sample], seed: int = 0) -> list[Sample]:
    random, others = np.random.default_rng(seed), samples[1:] + samples[:1]
    return [replace(one, text=damage(one, other, random)) for one, other in zip(samples, others, strict=True)]
