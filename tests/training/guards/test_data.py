"""Corpus, tokenizer and evaluation: mistakes that make scores look better than they are, or lose stories silently."""

import random

import datasets
import numpy as np
import pytest

from helpers.mutations import assert_stopped, small_run
from helpers.runs import mistake, write_counting_corpus
from tinystories.config.keys import DataArguments
from tinystories.data.corpus import load_corpus, story_hashes
from tinystories.errors import GuardError
from tinystories.training.guards.corpus import check_kind, check_near_copies, check_sizes
from tinystories.training.guards.samples import SEED_VARIABLE, Sample
from tinystories.training.guards.sources import check_sources


CORPUS, BUILD, TRAINER = (
    "tinystories/data/corpus.py",
    "tinystories/training/build.py",
    "tinystories/training/trainer.py",
)
TOKENIZER, SCORING = "tinystories/data/tokenizer.py", "tinystories/evaluation/scoring.py"
BOTH = "datasets.concatenate_datasets([corpus.train, corpus.validation])"
KEPT = "            yield story\n"
MUTATIONS = {
    "every 97th story not read": (
        CORPUS,
        KEPT,
        f'            if report["stories"] % 97:\n    {KEPT}',
        "is not in the corpus",
    ),
    "a story read twice": (CORPUS, KEPT, f"{KEPT}            if report['stories'] == 77:\n    {KEPT}", "lost, doubled"),
    "the last letter lost": (CORPUS, '"\\n").strip():', '"\\n").strip()[:-1]:', "lost, doubled or changed"),
    "files read up to a marker": (
        "tinystories/data/separators.py",
        "*ended, line = line.split(end)",
        "*ended, line = line.split(end, 1)\n            ended = ended if number % 50 else []",
        "is not in the corpus",
    ),
    "stories lost in the division": (
        CORPUS,
        "stories.select(np.flatnonzero(~held_out))",
        "stories.select(np.flatnonzero(~held_out)[1:])",
        "is not in the corpus",
    ),
    "half as many held out": (CORPUS, "round(fraction *", "round(fraction / 2 *", "validation_fraction 0.05 asks for"),
    "tokenizer of the validation stories too": (
        BUILD,
        "load_or_train_tokenizer(recipe.tokenizer, corpus.train,",
        f"load_or_train_tokenizer(recipe.tokenizer, {BOTH},",
        "trained on other stories",
    ),
    "tokenizer of ten stories": (
        TOKENIZER,
        "_batches(stories), seen",
        "_batches(stories.take(10)), seen",
        "trained on other",
    ),
    "tokenizer of other settings": (
        TOKENIZER,
        "vocab_size=arguments.vocab_size,\n        min",
        "vocab_size=arguments.vocab_size - 40,\n        min",
        "not what training on the training stories gives",
    ),
    "evaluation on training stories": (
        BUILD,
        "evaluated = pick_stories(corpus.validation,",
        "evaluated = pick_stories(corpus.train,",
        "stories are scored as",
    ),
    "evaluation on one story many times": (
        BUILD,
        "evaluated = pick_stories(corpus.validation, recipe.data.max_eval_samples)",
        "evaluated = corpus.validation.select([0] * len(corpus.validation))",
        "validation stories",
    ),
    "evaluation of the begin of stories": (
        SCORING,
        'encoded = tokenizer(batch["text"], add_special_tokens=False)',
        'encoded = tokenizer([text[:30] for text in batch["text"]], add_special_tokens=False)',
        "what is scored as one of",
    ),
    "evaluation without the end": (
        SCORING,
        "ids = np.array([*begin, *tokens, *end], dtype=dtype)",
        "ids = np.array([*begin, *tokens], dtype=dtype); end = []",
        "tokens of the story",
    ),
    "bytes counted as letters": (
        SCORING,
        "story_bytes.append(len(text.encode())",
        "story_bytes.append(len(text) // 2",
        "bits per byte would be over",
    ),
}


def write_corpus(folder):
    return write_counting_corpus(folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTATIONS)
def test_mutation_is_caught(name, mutated_tree, tmp_path):
    file, old, new, reason = MUTATIONS[name]
    assert_stopped(small_run(tmp_path, write_corpus(tmp_path), tree=mutated_tree(file, old, new)), reason)


@pytest.fixture(scope="module")
def people():
    """600 stories of random words, 550 to train on and 50 held out, and a few words."""
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 8))) for _ in range(3000)]
    texts = [f"Once upon a time, {' '.join(draw.choices(words, k=120))}. The end." for _ in range(600)]
    return texts[:550], texts[550:], words


def _seventh(text, words):
    draw = random.Random(text)
    return " ".join(draw.choice(words) if i % 7 == 3 else word for i, word in enumerate(text.split()))


CHANGES = {
    "case": lambda text, words: text.upper(),
    "punctuation": lambda text, words: text.replace(" ", ", ").replace(".", "!"),
    "white space": lambda text, words: text.replace(" ", "\n\n"),
    "a prefix": lambda text, words: f"Write a story. Story: {text}",
    "one word in seven": _seventh,
    "the first half": lambda text, words: text[: len(text) // 2],
    "the second half": lambda text, words: text[len(text) // 2 :],
}


def near_copies(train, validation, held_out=False):
    train, validation = (datasets.Dataset.from_dict({"text": texts}) for texts in (train, validation))
    return check_near_copies(train, validation, story_hashes(train), held_out, Sample())


@pytest.mark.parametrize("change", CHANGES)
def test_near_copies(people, change, caplog):
    """Changed copies in training are refused; two are said; none is silent. On either side."""
    train, validation, words = people
    assert "0 of 50" in near_copies(train, validation)
    copies = [CHANGES[change](text, words) for text in validation]
    with pytest.raises(GuardError, match=rf"near-copies of training.*--remove_overlap|.*{SEED_VARIABLE}="):
        near_copies([*train, *copies], validation)
    with pytest.raises(GuardError, match="50 of 50 validation stories are near-copies"):
        near_copies([*train, *validation], copies)
    assert not caplog.records
    near_copies([*train, *copies[:2]], validation)
    assert "2 of 50 validation stories are near-copies" in caplog.text


def test_marks_are_read():
    """Guards: stories of Hindi that differ in their vowels, which are marks, taken for copies of one another."""
    draw = random.Random(0)
    consonants = [chr(0x915 + i) for i in range(37)]
    words = [[draw.choice(consonants) + "{}" + draw.choice(consonants) + "{}" for _ in range(60)] for _ in range(50)]

    def spoken(words, vowels):
        return " ".join(words).format(*(draw.choice(vowels) for _ in range(120)))

    train, validation = ([spoken(one, vowels) for one in words] for vowels in ("ािी", "ुूेै"))
    assert "0 of 50" in near_copies(train, validation)
    with pytest.raises(GuardError, match="50 of 50 validation stories are near-copies"):
        near_copies(train, [f"{text} और" for text in train])


def test_remove_overlap_removes_near_copies(people, tmp_path):
    train, validation, words = people
    copies = [_seventh(text, words) for text in validation]
    for name, texts in (("train", [*train, *copies, *validation[:3]]), ("validation", validation)):
        (tmp_path / f"{name}.txt").write_text("\n\n".join(texts), encoding="utf-8")
    arguments = DataArguments(
        train_file=str(tmp_path / "train.txt"),
        validation_file=str(tmp_path / "validation.txt"),
        remove_overlap=True,
        data_cache_dir=str(tmp_path / "cache"),
    )
    corpus = load_corpus(arguments)
    assert corpus.report["overlap_removed"] == 3
    assert corpus.report["near_copies_removed"] == 50
    assert corpus.train["text"][:] == train
    check_sources(corpus, arguments)


def test_honest_stories_alike_pass(caplog):
    """Stories from templates share most of their phrases, copies of one story all of them: neither is a near-copy."""
    sample = load_corpus(DataArguments(num_sample_stories=3000))
    near_copies(sample.train["text"][:], sample.validation["text"][:], held_out=True)
    near_copies(
        ["One day a dog sat. " * 20] * 1000 + [f"{i} cats came home, and {i} went." for i in range(40)], ["A hen."]
    )


def test_kind_of_text(people, caplog):
    """Another language, code instead of prose; parts of one corpus, also small ones, are one kind."""
    train = load_corpus(DataArguments(num_sample_stories=2000)).train
    halves = train.select(range(0, 1900, 2)), train.select(range(1, 1900, 2))
    check_kind(*halves, Sample())
    check_kind(halves[0], halves[1].take(3), Sample())
    assert not caplog.records
    spanish = "Había una vez una niña que vivía en una casa pequeña y quería mucho a su perro. "
    for other in (spanish, "def add(a, b):\n    return a + b\n\nprint(add(1, 2))\n", "从前有一只小猫。它住在河边。"):
        caplog.clear()
        check_kind(train, datasets.Dataset.from_dict({"text": [f"{other * 5}{i}" for i in range(40)]}), Sample())
        assert "in another language or of another kind" in caplog.text


def test_sizes(caplog):
    """A file that was read as one story, a handful of stories: said, and not refused."""
    many = datasets.Dataset.from_dict({"text": [f"A story of {i} words." for i in range(30)]})
    check_sizes(many, many)
    assert not caplog.records
    check_sizes(datasets.Dataset.from_dict({"text": [*many["text"], "A long walk. " * 2000]}), many.take(3))
    assert "is that one story?" in caplog.text and "31 stories to train on, and 3 to validate on" in caplog.text


@pytest.mark.parametrize("separator", ["auto", "endoftext", "blank_line", "two_blank_lines", "line", "file"])
@pytest.mark.parametrize(
    "text",
    [
        "One.\r\n\r\nTwo.\n \nThree\n",
        "\ufeffOne\n<|endoftext|>\n\n Two\n\nTwo<|endoftext|><|endoftext|>Three",
        "\n\n\nOne\rtwo\r\rthree\n\u2028\nfour\x0b\nfive\nTwo",
        "One\n\n\n\n\nTwo\nThree\n\nTwo\n",
        "Two",
    ],
)
def test_second_reader_agrees(text, separator, tmp_path):
    """On odd line ends, white space and markers as on plain text."""
    (tmp_path / "train.txt").write_bytes(text.encode())
    data = DataArguments(
        train_file=str(tmp_path / "train.txt"), story_separator=separator, data_cache_dir=str(tmp_path)
    )
    data.validation_file = data.train_file
    check_sources(load_corpus(data), data)


@pytest.mark.parametrize("separator", ["---", "[END]", "</s>"])
def test_second_reader_agrees_on_own_separators(separator, tmp_path):
    parts = [
        "One",
        f"{separator}\n",
        "\n",
        " ---",
        "\r\n---\r\n",
        "</s>\r",
        "[END]",
        "\n\n",
        "x---y",
        "Two\n",
        "\n[END] \n",
    ]
    draw = random.Random(separator)
    for number in range(20):
        path = tmp_path / f"{number}.txt"
        path.write_bytes("".join(["Begin\n", f"{separator}\n", *draw.choices(parts, k=20), "\nThe end"]).encode())
        data = DataArguments(
            train_file=str(path), story_separator=separator, validation_fraction=0.5, data_cache_dir=str(tmp_path)
        )
        data.validation_file = data.train_file
        check_sources(load_corpus(data), data)


def test_sample_of_all_data(monkeypatch):
    """Other places in each run; the seed that a message names gives the same again."""
    places = [Sample().places(10**6, 5).tolist() for _ in range(3)]
    assert len({tuple(some) for some in places}) == 3
    one = Sample()
    monkeypatch.setenv(SEED_VARIABLE, str(one.seed))
    assert np.array_equal(one.places(10**6, 5), Sample().places(10**6, 5))
    monkeypatch.setenv(SEED_VARIABLE, "x")
    assert SEED_VARIABLE in mistake(Sample)
