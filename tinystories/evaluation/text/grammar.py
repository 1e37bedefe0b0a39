"""Grammar errors per 100 words, found by harper, an offline checker (the extra `eval`).

harper is made for letters and reports and reports errors in good stories too. So these of its several hundred rules are
off: rules of style, spelling (because of names), typography and British English, and rules that give false alarms on
people's stories. benchmarks/grammar_checker.py measures how many deliberate mistakes the other rules find, and how
often they are wrong about unchanged stories. harper overlooks most missing articles; determiners.py is for those.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

from tinystories.errors import UserError, install_hint
from tinystories.evaluation.estimates import Estimate, ratio
from tinystories.evaluation.text.novelty import Copied
from tinystories.evaluation.text.samples import Sample
from tinystories.evaluation.text.words import split_sentences, split_words


KINDS_OF_TASTE = {"Enhancement", "Formatting", "Readability", "Redundancy", "Regionalism", "Spelling", "Style"}
FALSE_ALARMS = {  # rules that find errors in good stories
    "AdjectiveDoubleDegree",
    "CompoundNouns",
    "HopHope",
    "Everyday",
    "IntroCueCommaBeforeThanks",
    "MassNouns",
    "MissingPreposition",
    "OkToOkay",
    "OrthographicConsistency",
    "OutOfTheWindow",
    "Overall",
    "OxfordComma",
    "PronounKnew",
    "QuantifierNumeralConflict",
    "SpellCheck",
    "ToTwoToo",
}


@cache
def checker() -> Any:
    """harper's linter with the rules above off. Creating it takes a second.

    Raises:
        UserError: harper is not installed.
    """
    try:
        import harper
    except ImportError as error:
        raise UserError("the grammar metric needs harper", install_hint("eval")) from error
    linter = harper.Linter()
    linter.set_lint_config({**harper.get_default_lint_config(), **dict.fromkeys(FALSE_ALARMS, False)})
    return linter


def find_errors(text: str) -> list[tuple[int, int, str]]:
    """(begin, end, rule) of each error in `text`, in order."""
    found = checker().organized_lints(text, language="plaintext")
    return sorted(
        (lint.span.start, lint.span.end, rule)
        for rule, lints in found.items()
        for lint in lints
        if lint.lint_kind not in KINDS_OF_TASTE
    )


def errors_per_100_words(samples: list[Sample]) -> Estimate | None:
    """The checker reads prompt and text together; an error entirely inside the prompt is not counted."""
    errors = [
        sum(end > len(sample.prompt) for _, end, _ in find_errors(sample.prompt + sample.text)) for sample in samples
    ]
    return ratio([100 * number for number in errors], [len(split_words(sample.text)) for sample in samples], one=100.0)


def clean_sentences(samples: list[Sample], copied: Mapping[str, Copied]) -> Estimate | None:
    """Share of the sentences of three words or more that are English and in which the checker finds no error.

    A checker alone finds few errors in gibberish: an untrained network may have fewer than a trained one. So at least
    half of the word 3-grams of a sentence must occur in a training story. copied: `novelty.look_up` of every sentence.
    """
    clean, judged = [], []
    for sample in samples:
        story, end = sample.prompt + sample.text, len(sample.prompt)
        errors, good = find_errors(story), []
        for sentence in split_sentences(sample.text):
            begin = story.index(sentence, end)
            end = begin + len(sentence)
            seen, triples = copied[sentence].seen[3]
            faulty = any(error < end and after > begin for error, after, _ in errors)
            good += [2 * seen >= triples and not faulty] if triples else []
        clean.append(sum(good))
        judged.append(len(good))
    return ratio(clean, judged)
