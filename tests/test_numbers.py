"""Every number in the documents comes from a record, or is defined; tests/helpers/sources.py says from which.

A new number without a source fails here, and so does a record that says something else than the document.
"""

import re

import pytest

from helpers.number_words import line_of, numbers
from helpers.runs import ROOT
from helpers.sources import ANYWHERE, DEFINED, GENERATED, MEASURED, WHOLE


DOCUMENTS = ["README.md", *sorted(f"docs/{path.name}" for path in ROOT.glob("docs/*.md")), "model_card.md"]
DOCUMENTS += ["benchmarks/README.md"]
TESTS = {**GENERATED, **WHOLE}


def places(sentence, document):
    """(begin, end) of each place where the sentence stands; line breaks count as spaces."""
    pattern = r"\s+".join(re.escape(word) for word in sentence.split())
    return [found.span() for found in re.finditer(pattern, document)]


def generated(document):
    for begin, end in GENERATED:
        yield from (m.span() for m in re.finditer(f"<!-- {begin} -->.*?<!-- {end} -->", document, re.DOTALL))


def without_source(name, document):
    """`file:line: number` of each number that no sentence in sources.py and no generated block covers."""
    sentences = [*MEASURED.get(name, ()), *DEFINED.get(name, ()), *ANYWHERE]
    known = [place for sentence in sentences for place in places(sentence, document)] + list(generated(document))
    return [
        f"{name}:{line_of(document, begin)}: {text}"
        for begin, end, text in numbers(document)
        if not any(low <= begin and end <= high for low, high in known)
    ]


@pytest.mark.parametrize("name", [name for name in DOCUMENTS if name not in WHOLE])
def test_numbers_have_sources(name):
    """A number that was typed by hand. Add its sentence to MEASURED or DEFINED in tests/helpers/sources.py."""
    assert without_source(name, (ROOT / name).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("name", sorted({*MEASURED, *DEFINED}))
def test_sentences_stand_in_the_document(name):
    """A document that says something else than its record, or than the code."""
    document = (ROOT / name).read_text(encoding="utf-8")
    sentences = [*MEASURED.get(name, ()), *DEFINED.get(name, ())]
    assert [sentence for sentence in sentences if not places(sentence, document)] == []


def test_durations_are_measured():
    """A time, a score or a size in bytes that is listed as defined, without a limit of the code or of the format."""
    allowed = (
        "seconds of training",
        "more seconds",
        "60 seconds",
        "of ten seconds",
        '"seconds": ...',
        "minutes of wall",
        "a minute",  # the rate limit
        "seconds of the header",
    )
    claims = re.compile(r"\d\s*(?:seconds|minutes|hours|ms|[MG]B|bits)\b|\bminutes?\b|\bhours?\b|\bseconds\b")
    found = [s for sentences in DEFINED.values() for s in sentences if claims.search(s)]
    assert [sentence for sentence in found if not any(words in sentence for words in allowed)] == []


def test_generated_blocks_are_compared():
    """The test that is named for a generated block or document reads that document."""
    for mark, test in TESTS.items():
        source = (ROOT / test).read_text(encoding="utf-8")
        documents = [mark] if isinstance(mark, str) else [n for n in DOCUMENTS if f"<!-- {mark[0]} -->" in _text(n)]
        assert documents, mark
        for name in documents:
            assert name in source.replace('" / "', "/").replace("experiments.md", "docs/experiments.md"), (mark, test)


def _text(name):
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "claim",
    [
        "It takes three minutes.",
        "It is done in half an hour.",
        "about a minute on a laptop",
        "It reaches 0.71 bits per byte.",
        "at 4,500 tokens/s",
        "It takes 12.5 MB.",
        "twice as fast",
        "ten times faster",
        "in 95% of all stories",
        "a tenth of a second",
        "an accuracy of .93",
        "1.4e-6 nats",
        "| 0.93 |",
        "```text\nloss 0.93\n```",
        "```bash\npython run_clm.py  # 90 seconds\n```",
        "trained on two hundred stories",
        "within a second",
        "a third of the time",
        "3x faster",
        "in 90s",
        "an order of magnitude",
        "\u00bd of it",
        "thousands of stories",
    ],
)
def test_claims_are_found(claim):
    """The finder sees a number however it is written."""
    assert without_source("README.md", claim)


@pytest.mark.parametrize(
    "text", ["bf16 and float32, UTF-8, SHA-256", "`--max_new_tokens 200`", "a second copy", "a story"]
)
def test_names_are_no_numbers(text):
    assert without_source("README.md", text) == []
