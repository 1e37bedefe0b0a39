"""The rules: where one small change makes a sentence of a story wrong.

A rule takes a sentence and yields every `Change` that it finds. A rule should miss changes rather than make doubtful
ones. Each change has a `group`, and pairs.py takes equal numbers from each group: "was" is right as often as "were", so
a model that only prefers one of the two words is right half of the time.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from tinystories.evaluation.minimal_pairs import vocabulary
from tinystories.evaluation.minimal_pairs.vocabulary import (
    BASES,
    BOY_NAMES,
    FEMALE,
    GIRL_NAMES,
    MALE,
    NAMES,
    OTHERS,
    VERBS,
)


BREAK = re.compile(r"(?<!\bMr)(?<!\bMs)(?<!\bMrs)(?<!\bDr)[.!?]+[\"\u201d\u2019')]*\s+|\n+")
QUOTE = re.compile('["\u201c\u201d]')
WORD = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)*")


@dataclass(frozen=True)
class Sentence:
    """A sentence of a story.

    start: where it begins in the story. before: the sentences before it.
    spoken: it is inside quotation marks, or in a line whose quotation marks do not match.
    """

    text: str
    start: int
    before: tuple["Sentence", ...] = field(repr=False)
    spoken: bool

    @property
    def words(self) -> list[str]:
        return WORD.findall(self.text)


@dataclass(frozen=True)
class Change:
    """`sentence.text[start:end]` becomes `new`.

    new: None where it comes from another story: a name or a sentence (EXCHANGED).
    group: each group of a rule gives equally many pairs.
    key: the word that the pair turns on; few pairs of a group may share it.
    """

    start: int
    end: int
    new: str | None
    group: str
    key: str


def sentences_in_context(story: str) -> Iterator[Sentence]:
    """The sentences of a story, in order."""
    before: list[Sentence] = []
    start = 0
    for end, after in [*(found.span() for found in BREAK.finditer(story)), (len(story), len(story))]:
        stop = max(end, start + len(story[start:after].rstrip()))
        line = story.rfind("\n", 0, start) + 1
        line_end = story.find("\n", start) if "\n" in story[start:] else len(story)
        quotes = len(QUOTE.findall(story, line, start)), len(QUOTE.findall(story, line, line_end))
        spoken = bool(quotes[0] % 2 or quotes[1] % 2 or QUOTE.search(story, start, stop))
        if story[start:stop].strip():
            sentence = Sentence(story[start:stop], start, tuple(before), spoken)
            yield sentence
            before.append(sentence)
        start = after


def _any(words: Iterable[str]) -> str:
    """A pattern that matches any of `words`."""
    return "(?:" + "|".join(sorted(map(re.escape, words), key=len, reverse=True)) + ")"


ADJECTIVE, NOUN, PLURAL = map(_any, (vocabulary.ADJECTIVES, vocabulary.COUNT_NOUNS, vocabulary.PLURAL_NOUNS))
PAST, BASE, NAME = map(_any, (VERBS, BASES, NAMES))
HEAD = rf"(?=[.,;!?]|$|\s{_any(vocabulary.AFTER_NOUN)}\b)"  # the noun before it is not part of a compound
SINGULAR_SUBJECT = rf"(?:He|She|It|{NAME}|(?:The|His|Her) (?:{ADJECTIVE} )?{NOUN})"
PLURAL_SUBJECT = rf"(?:They|{NAME} and {NAME}|(?:The|His|Her) (?:{ADJECTIVE} )?{PLURAL})"

NOUN_PHRASE = re.compile(rf"(?<=[a-z,] )(an?|the) (?:{ADJECTIVE} )?({NOUN}){HEAD}")


def article_dropped(sentence: Sentence) -> Iterator[Change]:
    for found in NOUN_PHRASE.finditer(sentence.text):
        if not re.search(r"\b(?:and|or|by|from|to) $", sentence.text[: found.start()]):
            group = "the" if found[1] == "the" else "a"
            yield Change(found.start(), found.end(1) + 1, "", group, found[2])


ARTICLE_AND_WORD = re.compile(r"(?<=[a-z,] )(an?) ([a-z]+)\b")
OTHER_SOUND = re.compile("hour|honest|honou?r|heir|herb|one|once|use|uni|eu|ew|ukulele")


def article_a_an(sentence: Sentence) -> Iterator[Change]:
    for found in ARTICLE_AND_WORD.finditer(sentence.text):
        right = "an" if found[2][0] in "aeiou" else "a"
        if found[1] == right and len(found[2]) > 1 and not OTHER_SOUND.match(found[2]):
            yield Change(found.start(1), found.end(1), {"a": "an", "an": "a"}[right], right, found[2])


ONLY_A = re.compile(
    r"(?:(?<=\bupon )|(?<=\bsuch )|(?<=\bWhat )|(?<=\bthere was )|(?<=\bthere lived )|(?<=\bThere was ))(an?)(?= [a-z])"
    r"|(?<=[a-z,] )(an?)(?= (?:lot of|few|bit|long time|while|moment|walk|nap|ride|hurry)\b)"
    r"|(?<=[a-z,] )(an?)(?= (?:big hug|deep breath|great time|good time|big smile)\b)"
)
THE_ONE = (
    r"same|ground|sky|sun|moon|only|rest of|other (?:kids|children|animals|side)|next day|end|morning|first|afternoon"
)
ONLY_THE = re.compile(
    rf"(?<=[a-z,] )the(?= (?:{THE_ONE}|{_any(vocabulary.SUPERLATIVES)}(?! friend)|(?:{ADJECTIVE} )?{PLURAL})\b(?!'))"
)


def article_a_the(sentence: Sentence) -> Iterator[Change]:
    for found in ONLY_A.finditer(sentence.text):
        yield Change(*found.span(), "the", "a", sentence.text[max(0, found.start() - 5) : found.start()] + "a")
    for found in ONLY_THE.finditer(sentence.text):
        noun = sentence.text[found.end() + 1 :].split()[0].strip(".,!?;")
        yield Change(*found.span(), "an" if noun[0] in "aeiou" else "a", "the", noun)


SECOND_ARTICLE = re.compile(rf"(?<=[a-z,] )(a|the) ({ADJECTIVE}) (?=(?![aeiou]){NOUN}\b)")


def article_doubled(sentence: Sentence) -> Iterator[Change]:
    """The article replaces an adjective: every model, good or bad, would give one more word a lower probability."""
    for found in SECOND_ARTICLE.finditer(sentence.text):
        yield Change(*found.span(2), found[1], found[1], found[2])


SINGULAR = re.compile(
    rf"(?:^{SINGULAR_SUBJECT}|\b(?:but|because|so|when|that) (?:he|she|it)|\b[Tt]here) (was)(?!n't)\b"
)
MANY = re.compile(rf"(?:^{PLURAL_SUBJECT}|\b(?:but|because|so|when|that) they|\b[Tt]here) (were)(?!n't)\b")


def agreement(sentence: Sentence) -> Iterator[Change]:
    if re.search(r"\b(?:if|wish|wished|though)\b", sentence.text, re.IGNORECASE):
        return
    for pattern, other in ((SINGULAR, "were"), (MANY, "was")):
        for found in pattern.finditer(sentence.text):
            subject = sentence.text[: found.start(1)].split()[-1].lower()
            yield Change(*found.span(1), other, found[1], subject)


COORDINATED = re.compile(rf"^(?:{SINGULAR_SUBJECT}|{PLURAL_SUBJECT}) ({PAST})\b(.*?) and ({PAST})\b")
INFINITIVE = re.compile(rf"\b(?:to|could|would|did not|didn't|couldn't|could not) ({BASE})\b")


def tense(sentence: Sentence) -> Iterator[Change]:
    """ "They ran and played" against "They ran and play"; "wanted to play" against "wanted to played"."""
    found = COORDINATED.match(sentence.text)
    if found and vocabulary.BARE_VERB_AFTER.isdisjoint(WORD.findall(sentence.text[: found.end(2)])):
        yield Change(*found.span(3), VERBS[found[3]], "past", found[3])
    for found in INFINITIVE.finditer(sentence.text):
        yield Change(*found.span(1), BASES[found[1]], "base", BASES[found[1]])


def _persons(text: str) -> set[str]:
    """Names and words that a pronoun could refer to. Any other capitalized word counts too, since it may be a name."""
    inner = set(re.findall(r"(?<=[a-z,] )[A-Z][a-z]+", text))
    return (set(WORD.findall(text)) & (FEMALE | MALE | OTHERS)) | inner


SUBJECT_PRONOUN = re.compile(r"(He|She|They) (?=[a-z])")
PLURAL_ENDING = re.compile(r"\b(?!(?:was|is|his|its|has|as|this|always|dress|grass|lots|yes|James)\b)[A-Za-z]+s\b")


def pronoun_gender(sentence: Sentence) -> Iterator[Change]:
    """He and she, after a sentence that begins with a name or ends with "named Lily" and mentions nobody else."""
    found = SUBJECT_PRONOUN.match(sentence.text)
    if not found or found[1] == "They" or not sentence.before or sentence.before[-1].spoken:
        return
    own, other, names = (MALE, FEMALE, BOY_NAMES) if found[1] == "He" else (FEMALE, MALE, GIRL_NAMES)
    near = sentence.before[-1].text
    name = _only_name(near)
    if name in names and not _persons(sentence.text) & other and _persons(near) <= own:
        yield Change(*found.span(1), "She" if found[1] == "He" else "He", found[1], name)


def _only_name(text: str) -> str | None:
    """The only name in `text`, if it is the subject or follows "named" at the end; else None."""
    names = [word for word in WORD.findall(text) if word in NAMES]
    at_its_place = re.match(rf"({NAME}) [a-z]|.*\bnamed ({NAME})[.,!]?$", text)
    return names[0] if at_its_place and len(set(names)) == 1 else None


PAIR = re.compile(
    rf"(?:^|, |named )({NAME}) and (?:({NAME})|(?:her|his) (mom|mommy|sister|grandma|dad|daddy|brother|grandpa))"
    r"(?: [a-z]|[.]$)"
)
VERB_NEXT = re.compile(r"(?:were|was|are|is|have|has|both|all|each)\b")


def pronoun_number(sentence: Sentence) -> Iterator[Change]:
    """He or she becomes they after one person; after two people, they becomes the pronoun of the other gender.

    Not before "was" and the like: "They was" would be wrong without any context.
    """
    found = SUBJECT_PRONOUN.match(sentence.text)
    if not found or not sentence.before or VERB_NEXT.match(sentence.text, found.end()):
        return
    near = sentence.before[-1].text
    persons = set().union(*(_persons(earlier.text) for earlier in sentence.before))
    if found[1] != "They":
        own, names = (MALE, BOY_NAMES) if found[1] == "He" else (FEMALE, GIRL_NAMES)
        alone = persons <= own and len(persons & NAMES) == 1 and not PLURAL_ENDING.search(near)
        if alone and (name := _only_name(near)) in names:
            yield Change(*found.span(1), "They", found[1], name)
    elif pair := PAIR.search(near):
        both, nearest = {pair[1], pair[2] or pair[3]}, _persons(" ".join(one.text for one in sentence.before[-2:]))
        for own, other, pronoun in ((FEMALE, MALE, "He"), (MALE, FEMALE, "She")):
            if both <= own and not persons & other and nearest <= own | vocabulary.SEVERAL:
                yield Change(*found.span(1), pronoun, f"they, not {pronoun}", pair[1])


def wrong_name(sentence: Sentence) -> Iterator[Change]:
    """A name that is in the sentence before, too. Another story supplies a name that is not in this story."""
    near = set(sentence.before[-1].words) if sentence.before else set()
    for found in re.finditer(rf"(?<!named )\b{NAME}\b", sentence.text):
        if found[0] in near:
            yield Change(*found.span(), None, "girl" if found[0] in GIRL_NAMES else "boy", found[0])
            return


ORDERS = {
    "determiner, noun": re.compile(rf"(?<=[a-z,] )({_any(vocabulary.DETERMINERS)}) ({NOUN}|{PLURAL}){HEAD}"),
    "preposition, determiner": re.compile(
        rf"(?<=[a-z] )({_any(vocabulary.PREPOSITIONS)}) ({_any(vocabulary.DETERMINERS)})(?= )"
    ),
    "adjective, noun": re.compile(rf"(?<=[a-z,] )({ADJECTIVE}) ({NOUN}|{PLURAL}){HEAD}"),
    "to, verb": re.compile(rf"(?<=[a-z] )(to) ({BASE})\b"),
    "pronoun, verb": re.compile(rf"(?<=[a-z,] )(he|she|they|it) (?!said)({PAST})\b"),
}


def word_order(sentence: Sentence) -> Iterator[Change]:
    for group, pattern in ORDERS.items():
        for found in pattern.finditer(sentence.text):
            yield Change(*found.span(), f"{found[2]} {found[1]}", group, found[0])


def _content(texts: list[str]) -> set[str]:
    known = {word for text in texts for word in WORD.findall(text)}
    return {word.lower() for word in known if len(word) > 3 or word in NAMES} - vocabulary.STOP_WORDS


DEFINITE = re.compile(rf"\b(?:{NAME}|[Tt]he (?:{ADJECTIVE} )?(?:{NOUN}|{PLURAL}))\b")


def next_sentence(sentence: Sentence) -> Iterator[Change]:
    """A sentence that shares two content words with the three before it and mentions something definite."""
    before = [earlier.text for earlier in sentence.before[-3:]]
    if len(before) == 3 and DEFINITE.search(sentence.text) and len(_content(before) & _content([sentence.text])) > 1:
        yield Change(0, len(sentence.text), None, "", sentence.text)


def fits(rule: str, new: str, story: str, context: str) -> bool:
    """Whether `new`, from another story, is wrong here: a name not in `story`, or a sentence unrelated to `context`."""
    if rule == "wrong_name":
        return not re.search(rf"\b{new}\b", story)
    return _content([context]).isdisjoint(_content([new]))


RULES = {
    rule.__name__: rule
    for rule in (
        article_dropped,
        article_a_an,
        article_a_the,
        article_doubled,
        agreement,
        tense,
        pronoun_gender,
        pronoun_number,
        wrong_name,
        word_order,
        next_sentence,
    )
}
EXCHANGED = ("wrong_name", "next_sentence")
