"""The sample stories are clean, plain English, the same for the same seed, and different from each other."""

import hashlib
import os
import random
import re
import subprocess
import sys
import time
from collections import Counter

import pytest

from helpers.runs import ROOT
from tinystories.data import sample_corpus
from tinystories.data.sample_corpus import PLOTS, Teller, sample_stories


SEED = 0
# One sentence that only this plot writes, in every story of it.
PLOT_MARKS = {
    "lost_toy": r"There was the (toy )?\w+! ",
    "sharing": r'"I am sorry[^"]*,"',
    "afraid_of_the_dark": r" came in and held (his|her) hand\.",
    "hurt_animal": r" with a hurt \w+\.",
    "rainy_day": r"\nBut (big drops of rain|the sky turned gray)",
    "new_friend": r'"Hello, I am \w+,"',
    "planting": r" made a hole ",
    "broken_thing": r"\nCrash! ",
    "birthday": r" opened the door\. ",
    "kite": r"It was stuck!",
}
# Written down here by ear, so that the rule of the module is checked by another one.
VOWEL_LETTER_CONSONANT_SOUND = {"unicorn", "useful", "one-eyed"}
SILENT_H = {"hour", "honest"}
NO_ARTICLE_BEFORE = {
    "some",
    "water",
    "flour",
    "sugar",
    "salt",
    "butter",
    "milk",
    "dust",
    "glue",
    "tape",
    "soup",
    "bread",
    "lemonade",
    "pudding",
    "honey",
    "corn",
    "pancakes",
    "cookies",
    "muffins",
    "oranges",
    "seeds",
    "berries",
    "nuts",
    "oats",
    "pillows",
    "socks",
    "balloons",
    "lights",
    "clothes",
    "books",
    "children",
    "a",
    "an",
    "the",
    "his",
    "her",
    "their",
}


@pytest.fixture(scope="module")
def stories() -> list[str]:
    return sample_stories(20_000, SEED)


@pytest.fixture(scope="module")
def names(stories) -> dict[str, set[str]]:
    """Which names belong to girls and which to boys, as the stories themselves introduce them."""
    return {
        sex: {name for story in stories for name in re.findall(rf"\b{sex} named (\w+)", story)}
        for sex in ("girl", "boy")
    }


def sentences(paragraph: str) -> list[str]:
    """Split behind . ! and ?, but keep a tag such as 'asked Mia.' with the words it belongs to."""
    return re.split(r'(?<=[.!?])\s+(?="?[A-Z])|(?<=[.!?]")\s+(?="?[A-Z])', paragraph)


def digest(stories: list[str]) -> str:
    return hashlib.sha256("\0".join(stories).encode()).hexdigest()


def show(bad: list) -> str:
    return f"{len(bad)} bad, such as {bad[:5]}"


def test_number_of_stories(stories):
    assert len(stories) == 20_000
    assert len(set(stories)) == 20_000


def test_repeated_story_is_drawn_again(monkeypatch):
    monkeypatch.setattr(sample_corpus, "PLOTS", (lambda teller: f"Story {teller.rng.randrange(50)}.",))
    assert len(set(sample_stories(50, SEED))) == 50


@pytest.mark.parametrize("plot", PLOTS, ids=lambda plot: plot.__name__)
def test_no_plot_runs_dry(plot):
    # n draws from N stories bring about n * n / 2N repeats: at most 5 in 1,000 mean 100,000 stories of this plot.
    rng = random.Random(SEED)
    drawn = [plot(Teller(rng)) for _ in range(1_000)]
    assert len(drawn) - len(set(drawn)) <= 5


def test_smaller_number_is_a_prefix(stories):
    assert sample_stories(1, SEED) == stories[:1]
    assert sample_stories(137, SEED) == stories[:137]


def test_other_seed(stories):
    others = sample_stories(1_000, SEED + 1)
    assert len(set(others) & set(stories)) <= 10


@pytest.mark.slow
@pytest.mark.parametrize("hash_seed", ["1", "4321"])
def test_hash_randomisation(stories, hash_seed):
    """It changes nothing."""
    code = (
        "import hashlib; from tinystories.data.sample_corpus import sample_stories as s;"
        f"print(hashlib.sha256('\\0'.join(s(2000, {SEED})).encode()).hexdigest())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == digest(stories[:2000])


@pytest.mark.parametrize("num_stories", [0, -3])
def test_less_than_one_story(num_stories):
    with pytest.raises(ValueError, match=str(num_stories)) as caught:
        sample_stories(num_stories)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_command_on_a_windows_console(stories):
    command = [sys.executable, "-m", "tinystories.data.sample_corpus", "--num_stories", "3", "--seed", str(SEED)]
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252:strict", "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, check=True)
    printed = result.stdout.decode("cp1252").replace("\r\n", "\n")
    assert printed == "\n<|endoftext|>\n".join(stories[:3]) + "\n"


def test_is_fast():
    start = time.process_time()
    sample_stories(5_000, SEED + 2)
    assert time.process_time() - start < 2.5  # 20,000 in less than 10 seconds


def test_characters(stories):
    """Only plain characters, and no untidy white space."""
    allowed = re.compile(r"[A-Za-z0-9 \n.,!?'\"-]+")
    assert not (bad := [story for story in stories if not allowed.fullmatch(story)]), show(bad)
    untidy = re.compile(r"  |\n\n| \n|\n | [.,!?]|^\s|\s$|[.,!?]{2}|,[^ \"]")
    assert not (bad := [story for story in stories if untidy.search(story)]), show(bad)


def test_length(stories):
    lengths = [len(story.split()) for story in stories]
    assert min(lengths) >= 60
    assert max(lengths) <= 180
    assert {story.count("\n") + 1 for story in stories} <= {3, 4, 5}


def test_sentences(stories):
    """Each begins with a capital and ends with a mark."""
    whole = re.compile(r'"?[A-Z].*[.!?]"?')
    tag = re.compile(r'[.!?]" (?=[a-z])(?!(she|he|everybody|(his|her|the) \w+) |(asked|cried|called|shouted) )')
    bad = []
    for story in stories:
        for paragraph in story.split("\n"):
            # A small letter is right only behind the closing quote of a question or a cry, as the start of its tag.
            if re.search(r"[.!?] [^A-Z\"]|\"[a-z]", paragraph) or tag.search(paragraph):
                bad.append(paragraph)
            bad += [sentence for sentence in sentences(paragraph) if not whole.fullmatch(sentence)]
    assert not bad, show(bad)


def test_quotation_marks(stories):
    bad = []
    for story in stories:
        for paragraph in story.split("\n"):
            outside = paragraph.split('"')[::2]
            inside = paragraph.split('"')[1::2]
            balanced = paragraph.count('"') % 2 == 0
            spoken = all(words[0].isupper() and words[-1] in ".,!?" for words in inside)
            spaced = all(part == "" or part[0] == " " for part in outside[1:]) and all(
                part == "" or part[-1] == " " for part in outside[:-1]
            )
            # Words that end with a comma need a tag, and a full stop closes the sentence.
            tagged = all(
                part[1:2].isalpha() for words, part in zip(inside, outside[1:], strict=False) if words[-1] == ","
            )
            closed = all(
                part == "" or not part[1:2].islower()
                for words, part in zip(inside, outside[1:], strict=False)
                if words[-1] == "."
            )
            if not (balanced and spoken and spaced and tagged and closed):
                bad.append(paragraph)
    assert not bad, show(bad)


def test_tags(stories):
    """They fit what is said: a question is asked."""
    text = "\n".join(stories)
    assert not (bad := re.findall(r'\?" \w+ said|\?" said \w+|," \w+ asked|," asked \w+', text)), show(bad)


def test_articles(stories):
    """The article follows the sound of the next word."""
    bad, seen = [], Counter()
    for article, word in re.findall(r"\b([Aa]n?) ([\w-]+)", "\n".join(stories)):
        vowel_sound = word in SILENT_H or (word[0].lower() in "aeiou" and word not in VOWEL_LETTER_CONSONANT_SOUND)
        seen[word] += 1
        if (article.lower() == "an") != vowel_sound or word in NO_ARTICLE_BEFORE:
            bad.append(f"{article} {word}")
    assert not bad, show(sorted(set(bad)))
    exceptions = VOWEL_LETTER_CONSONANT_SOUND | SILENT_H | {"old", "orange", "umbrella", "empty"}
    assert not (never := [word for word in sorted(exceptions) if not seen[word]]), f"never tried: {never}"


def test_no_doubled_word(stories):
    # "tap, tap" and "up, up" are fine: there is a comma between them.
    assert not (bad := re.findall(r"\b(\w+)\s+\1\b", "\n".join(stories), flags=re.IGNORECASE)), show(bad)


def test_adjectives_of_size(stories):
    size = "little|small|tiny|big|long|round|tall"
    assert not (bad := re.findall(rf"\b(?:{size}),? (?:{size}) \w+", "\n".join(stories))), show(sorted(set(bad)))


def test_names_differ(stories):
    assert not (bad := [story for story in stories if re.search(r"\b([A-Z]\w+) and \1\b", story)]), show(bad)
    bad = [story for story in stories if len(heroes := re.findall(r" named (\w+)", story)) != len(set(heroes))]
    assert not bad, show(bad)


@pytest.mark.parametrize(("sex", "wrong"), [("girl", r"\b(he|him|his|himself)\b"), ("boy", r"\b(she|her|herself)\b")])
def test_pronouns(stories, names, sex, wrong):
    """Where nobody of the other sex is in the story, nobody may be called "he" ("she")."""
    other = "boy" if sex == "girl" else "girl"
    relatives = {"girl": {"mom", "grandma", "woman"}, "boy": {"dad", "grandpa", "man"}}
    strangers = relatives[other] | names[other] | {other}
    alone = [story for story in stories if f" {sex} " in story and not strangers & set(re.findall(r"\w+", story))]
    assert len(alone) > 1_000
    assert not (bad := [story for story in alone if re.search(wrong, story, flags=re.IGNORECASE)]), show(bad)


def test_many_different_names(names):
    assert not names["girl"] & names["boy"]
    assert len(names["girl"]) >= 8
    assert len(names["boy"]) >= 8


def test_one_name_in_a_story(stories):
    """A second one, which the demo's model would mix up with the hero's."""
    everyone = {*sample_corpus.GIRLS, *sample_corpus.BOYS, *sample_corpus.ANIMAL_NAMES}
    bad = [story for story in stories if len(everyone & set(re.findall(r"\w+", story))) != 1]
    assert not bad, show(bad)


def test_others_keep_what_they_are(stories):
    """An animal is introduced before it is "the fox", and a story has one grown-up: models learn to repeat both."""
    kinds, bad = "|".join(sample_corpus.ANIMALS), []
    for story in stories:
        before = [(kind[1], story[: kind.start()].lower()) for kind in re.finditer(rf"\b[Tt]he ({kinds})\b", story)]
        if any(not re.search(rf"\ban? (\w+ )?{kind}\b", told) for kind, told in before):
            bad.append(story)
        if len(set(re.findall(rf"\b({'|'.join(sample_corpus.ELDERS)})\b", story, re.IGNORECASE))) > 1:
            bad.append(story)
    assert not bad, show(bad)


def test_every_plot_occurs(stories):
    assert sorted(PLOT_MARKS) == sorted(plot.__name__ for plot in PLOTS)
    assert len(PLOTS) >= 10
    found = Counter()
    for story in stories:
        found.update(name for name, mark in PLOT_MARKS.items() if re.search(mark, story))
    for name in PLOT_MARKS:
        assert 0.7 / len(PLOTS) < found[name] / len(stories) < 1.4 / len(PLOTS), (name, found[name])


def test_openings(stories):
    openings = Counter(" ".join(story.split()[:3]) for story in stories)
    share = {opening: count / len(stories) for opening, count in openings.items()}
    assert 0.4 <= share["Once upon a"] <= 0.6
    assert max(share.values()) <= 0.6
    assert len(openings) >= 30


def test_variety(stories, record_property):
    words = {word for story in stories for word in re.findall(r"[a-z'-]+", story.lower())}
    assert len(words) >= 600
    every = [sentence for story in stories for paragraph in story.split("\n") for sentence in sentences(paragraph)]
    share = len(set(every)) / len(every)
    record_property("distinct_sentence_share", share)
    print(f"{len(words)} different words, {share:.3f} of {len(every)} sentences are different")
    assert share >= 0.12, "few plots, which a very small model can hold, and not fewer"
