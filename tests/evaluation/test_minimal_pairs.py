"""Minimal pairs: what each rule changes and does not change, the balance of the pairs, and which models are right."""

import json
import random
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import datasets
import pytest
import torch

from helpers.runs import ROOT, load_benchmark, mistake
from tinystories.checkpoint.loading import new_model
from tinystories.config.keys import ModelArguments, TokenizerArguments
from tinystories.data import sample_corpus
from tinystories.data.sample_corpus import sample_stories
from tinystories.data.tokenizer import train_tokenizer
from tinystories.evaluation.minimal_pairs.pairs import (
    blimp_pairs,
    build_pairs,
    score_pairs,
)
from tinystories.evaluation.minimal_pairs.rules import RULES, sentences_in_context


EXCHANGED = ("wrong_name", "next_sentence")
LOCAL = ("article_a_an", "article_doubled", "agreement", "word_order")  # the word before decides


def texts_of_one_and_two(number: int, seed: int) -> list[str]:
    """Stories of the sample corpus, which have one hero each, and every eighth one of two: "they were"."""
    rng, texts = random.Random(seed), sample_stories(number, seed)
    for place in range(0, number, 8):
        names, family = rng.choice([(sample_corpus.GIRLS, "sisters"), (sample_corpus.BOYS, "brothers")])
        one, two = rng.sample(names, 2)
        trait, home = rng.choice(["little", "young", "happy", "funny"]), rng.choice(sample_corpus.HOMES)
        what, felt = rng.choice(["kite", "ball", "drum", "doll"]), rng.choice(["tired", "happy", "proud", "hungry"])
        texts[place] = (
            f"Once upon a time, there were two {trait} {family} named {one} and {two}. They lived {home}.\n"
            f"One day, {one} and {two} took a {what} to the park. They played until the sun went down.\n"
            f"{one} and {two} went home. They were {felt}."
        )
    return texts


@pytest.fixture(scope="module")
def stories() -> datasets.Dataset:
    return datasets.Dataset.from_dict({"text": texts_of_one_and_two(1500, seed=3)})


@pytest.fixture(scope="module")
def pairs(stories):
    return build_pairs(stories, number=80)


@pytest.fixture(scope="module")
def tokenizer():
    texts = texts_of_one_and_two(300, seed=4)
    return train_tokenizer(datasets.Dataset.from_dict({"text": texts}), TokenizerArguments(vocab_size=1200))


def made_worse(rule: str, story: str) -> set[str]:
    """The sentences of `story` after each change of the rule, with ??? for a piece from another story."""
    return {
        sentence.text[: change.start] + ("???" if change.new is None else change.new) + sentence.text[change.end :]
        for sentence in sentences_in_context(story)
        if not sentence.spoken
        for change in RULES[rule](sentence)
    }


@pytest.mark.parametrize(
    ("rule", "story", "expected"),
    [
        ("article_dropped", "Mia saw a big dog.", {"Mia saw big dog."}),
        ("article_dropped", "He hid behind the tree and slept.", {"He hid behind tree and slept."}),
        (
            "article_a_an",
            "She ate a pear and an apple.",
            {"She ate an pear and an apple.", "She ate a pear and a apple."},
        ),
        ("article_a_the", "Once upon a time it rained.", {"Once upon the time it rained."}),
        ("article_a_the", "They looked at the sky.", {"They looked at a sky."}),
        ("article_doubled", "He had a big boat.", {"He had a a boat."}),
        ("agreement", "Tom was late.", {"Tom were late."}),
        ("agreement", "Tom and Mia were late.", {"Tom and Mia was late."}),
        ("agreement", "There was a king.", {"There were a king."}),
        ("tense", "They ran and played.", {"They ran and play."}),
        ("tense", "Sue wanted to go.", {"Sue wanted to went."}),
        ("pronoun_gender", "Mia was sad. She sang a song.", {"He sang a song."}),
        ("pronoun_number", "Tom was sad. He sang a song.", {"They sang a song."}),
        ("pronoun_number", "Tom and Ben were sad. They sang a song.", {"She sang a song."}),
        ("wrong_name", "Mia had a hat. Then Mia ran home.", {"Then ??? ran home."}),
        ("word_order", "Soon they ran in the sun.", {"Soon ran they in the sun.", "Soon they ran the in sun."}),
    ],
)
def test_changes(rule, story, expected):
    """A rule makes the change that it is named after, and no other."""
    assert made_worse(rule, story) == expected


@pytest.mark.parametrize(
    ("rule", "story"),
    [
        ("article_dropped", "They ate the soup at the school."),  # right without an article too
        ("article_dropped", "He saw the dog house."),  # the noun may be part of a name
        ("article_dropped", "He saw Max and a fork."),  # "Max and fork" might be a list
        ("article_a_an", "She waited an hour near a university."),  # the sound decides
        ("article_a_an", "He ate an pear."),  # wrong already
        ("article_a_the", "He saw a dog and the cat."),  # either may be right
        ("article_doubled", "He had a big old boat."),  # "a a old boat" has two mistakes
        ("agreement", "Tom wished he was tall."),  # "were" is right
        ("agreement", "Ben said that Tom and Mia were late."),  # begins in the middle: who is the subject?
        ("tense", "They could not ski and played."),  # "could not ski and play"
        ("tense", "She saw him run and jumped."),  # "saw him run and jump"
        ("pronoun_gender", "Mia had a dog. He was big."),  # the dog
        ("pronoun_gender", "Mia met Tom. She smiled."),
        ("pronoun_number", "Mia had two boats. She loved boats."),  # "They loved"
        ("pronoun_number", "Tom was sad. He was alone."),  # "They was" is another mistake
        ("pronoun_number", "Tom and Mia were sad. They sang a song."),  # "He sang" may be right
        ("wrong_name", "It rained. Then Mia ran home."),  # nobody has been named
        ("word_order", "The red and blue ball fell."),  # "blue and red" is as good
        ("next_sentence", "It rained. Mia was sad. She had no boat. Then the cow ate grass."),  # takes up nothing
    ],
)
def test_no_changes(rule, story):
    """A rule does not change a sentence that would still be right."""
    assert made_worse(rule, story) == set()


def test_spoken():
    """Sentences in quotation marks, or in a line whose quotation marks do not match, are not used."""
    said = 'Tom ran. "I am Mia. I was late. We had a boat," he said. Ben sat.\nBen "sat down. Tom ran.\nThe dog ran.'
    found = [sentence.text for sentence in sentences_in_context(said) if not sentence.spoken]
    assert found == ["Tom ran.", "Ben sat.", "The dog ran."]


def test_groups_balanced(pairs):
    """Every rule finds pairs, equally many in each of its groups."""
    assert {pair.rule for pair in pairs} == set(RULES)
    for rule in RULES:
        numbers = Counter(pair.group for pair in pairs if pair.rule == rule)
        assert len(set(numbers.values())) == 1, f"{rule}: {numbers}"
        assert 16 <= sum(numbers.values()) <= 80


def test_good_text_is_from_story(pairs, stories):
    """The good text is in the story, and a story gives each rule at most one pair."""
    text = "\n\n".join(stories["text"])
    for pair in pairs:
        assert pair.context + pair.good in text
        assert pair.good != pair.bad
        assert pair.context == pair.context.rstrip()  # white space goes with the word after it
    assert max(Counter((pair.rule, pair.story) for pair in pairs).values()) == 1


def test_exchanged_balanced(pairs):
    """Each exchanged piece is good as often as bad: else a model that knows which names are frequent would be right."""
    good, bad = (
        Counter(getattr(pair, side).split(None, 1)[0] for pair in pairs if pair.rule == "next_sentence")
        for side in ("good", "bad")
    )
    assert good == bad
    names = [
        next((x, y) for x, y in zip(pair.good.split(), pair.bad.split(), strict=True) if x != y)
        for pair in pairs
        if pair.rule == "wrong_name"
    ]
    good, bad = (Counter(name.strip(".,!?").removesuffix("'s") for name in side) for side in zip(*names, strict=True))
    assert good == bad


def test_sentences_and_verbs_balanced(pairs):
    """A sentence gives a pair to one rule only, and each verb is right equally often in both forms."""
    places = [(pair.story, pair.context + pair.good) for pair in pairs if pair.rule not in EXCHANGED]
    assert len(set(places)) == len(places)
    forms = [
        (pair.group, pair.good.split()[0].strip(".,!?"), pair.bad.split()[0].strip(".,!?"))
        for pair in pairs
        if pair.rule == "tense"
    ]
    past = Counter(good for group, good, _ in forms if group == "past")
    base = Counter(bad for group, _, bad in forms if group == "base")
    assert past == base


def test_seed(stories):
    """The seed decides which pairs are built."""
    some = stories.select(range(300))
    first, again, other = (build_pairs(some, 10, seed, ["article_dropped", "next_sentence"]) for seed in (0, 0, 1))
    assert first == again != other
    assert {pair.digest for pair in first} == {pair.digest for pair in again}


class TableModel(torch.nn.Module):
    """The probabilities of the next token depend on the present token alone, by a table."""

    device = torch.device("cpu")
    config = SimpleNamespace(max_position_embeddings=256)

    def __init__(self, log_p: torch.Tensor):
        super().__init__()
        self.log_p = log_p

    def forward(self, input_ids):
        return SimpleNamespace(logits=self.log_p[input_ids])


def counted(tokenizer, distance: int) -> TableModel:
    """A model counted from other stories: which token comes `distance` after another; 2 means labels shifted twice."""
    size = len(tokenizer)
    counts = torch.full((size, size), 0.01)
    for text in texts_of_one_and_two(600, seed=5):
        ids = torch.tensor([tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]])
        counts.index_put_((ids[:-distance], ids[distance:]), torch.ones(len(ids) - distance), accumulate=True)
    return TableModel((counts / counts.sum(1, keepdim=True)).log())


def test_unigram_model(tokenizer, pairs):
    """A model that knows only word frequencies does well in no rule."""
    size = len(tokenizer)
    texts = tokenizer(texts_of_one_and_two(600, seed=5), add_special_tokens=False)["input_ids"]
    frequency = torch.bincount(torch.tensor([token for ids in texts for token in ids]), minlength=size) + 0.1
    results = score_pairs(TableModel((frequency / frequency.sum()).log().expand(size, size)), tokenizer, pairs)
    assert set(results) == {*RULES, "mean_of_rules"}
    for rule, result in results.items():
        assert result.value < 0.6, f"{rule}: {result}"


@pytest.mark.slow
def test_untrained_network(tokenizer, pairs):
    """An untrained network does well in no rule."""
    for seed in (0, 1):
        torch.manual_seed(seed)
        small = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
        results = score_pairs(new_model(ModelArguments(**small), tokenizer, 256), tokenizer, pairs)
        for rule, result in results.items():
            assert result.low < 0.55, f"{rule}: {result}"
        assert results["article_dropped"].value < 0.1  # the shorter text is more likely
        assert results["mean_of_rules"].value < 0.5


@pytest.mark.slow
def test_bigram_models(tokenizer, pairs):
    """A model of the next token does well in local rules; a model of the token after it does worse."""
    local = [pair for pair in pairs if pair.rule in LOCAL]
    right, shifted = (score_pairs(counted(tokenizer, distance), tokenizer, local) for distance in (1, 2))
    for rule in LOCAL:
        assert right[rule].value > 0.8, f"{rule}: {right[rule]}"
        assert shifted[rule].value < right[rule].value - 0.2, f"{rule}: {shifted[rule]} against {right[rule]}"


def test_blimp(tmp_path):
    """BLiMP is read from its files; a folder without any and a line that is not a pair are named."""
    row = {"sentence_good": "Tom sleeps.", "sentence_bad": "Tom sleep."}
    (tmp_path / "agreement.jsonl").write_text(f"{json.dumps(row)}\n" * 2, encoding="utf-8")
    found = blimp_pairs(tmp_path)
    assert [(pair.rule, pair.context, pair.good, pair.bad) for pair in found] == [
        ("agreement", "", "Tom sleeps.", "Tom sleep.")
    ] * 2
    assert "has no .jsonl files" in mistake(blimp_pairs, tmp_path / "absent")
    (tmp_path / "broken.jsonl").write_text(json.dumps(row) + "\n{}\n", encoding="utf-8")
    assert "broken.jsonl:2: not a pair" in mistake(blimp_pairs, tmp_path)


CHECKED = ROOT / "docs" / "results" / "minimal_pairs_checked.json"
CHECKED_PAIRS = load_benchmark("checked_pairs")


def test_committed_verdicts():
    """The committed verdicts are 50 a rule, few of them bad, and each bad one has a reason."""
    verdicts = json.loads(CHECKED.read_text(encoding="utf-8"))["pairs"]
    assert Counter(verdict["rule"] for verdict in verdicts) == dict.fromkeys(RULES, 50)
    assert len({verdict["digest"] for verdict in verdicts}) == len(verdicts)
    bad = Counter(verdict["rule"] for verdict in verdicts if not verdict["good_is_better"])
    assert all(number <= 2 for number in bad.values()), bad
    assert all(verdict["good_is_better"] != bool(verdict.get("reason")) for verdict in verdicts)


def test_label_noise(pairs, tmp_path):
    """Verdicts find their pairs by hash; verdicts on other data are refused."""
    chosen = CHECKED_PAIRS.sample_to_check(pairs, number=4)
    rows = [{"rule": pair.rule, "digest": pair.digest, "good_is_better": i % 4 > 0} for i, pair in enumerate(chosen)]
    path = Path(tmp_path, "checked.json")
    path.write_text(json.dumps({"pairs": rows}), encoding="utf-8")
    noise = CHECKED_PAIRS.label_noise(path, pairs)
    assert {rule: (result.value, result.number) for rule, result in noise.items()} == dict.fromkeys(RULES, (0.25, 4))
    assert "not a pair of article_dropped in this data" in mistake(CHECKED_PAIRS.label_noise, CHECKED, pairs)
