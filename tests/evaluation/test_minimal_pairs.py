"""Minimal pairs: what each rule changes and leaves alone, the balance that keeps the floor, and who wins them."""

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import datasets
import pytest
import torch

from helpers.runs import ROOT, mistake
from tinystories.checkpoint.loading import new_model
from tinystories.config.arguments import ModelArguments, TokenizerArguments
from tinystories.data.sample_corpus import sample_stories
from tinystories.data.tokenizer import train_tokenizer
from tinystories.evaluation.minimal_pairs.pairs import (
    blimp_pairs,
    build_pairs,
    label_noise,
    sample_to_check,
    score_pairs,
)
from tinystories.evaluation.minimal_pairs.rules import RULES, sentences


EXCHANGED = ("wrong_name", "next_sentence")
LOCAL = ("article_a_an", "article_doubled", "agreement", "word_order")  # the word before tells


@pytest.fixture(scope="module")
def stories() -> datasets.Dataset:
    return datasets.Dataset.from_dict({"text": sample_stories(1500, seed=3)})


@pytest.fixture(scope="module")
def pairs(stories):
    return build_pairs(stories, number=80)


@pytest.fixture(scope="module")
def tokenizer():
    texts = sample_stories(300, seed=4)
    return train_tokenizer(datasets.Dataset.from_dict({"text": texts}), TokenizerArguments(vocab_size=1200))


def made_worse(rule: str, story: str) -> set[str]:
    """The sentences of `story` after each change of the rule; of an exchange, with ??? where the new piece goes."""
    return {
        sentence.text[: change.start] + ("???" if change.new is None else change.new) + sentence.text[change.end :]
        for sentence in sentences(story)
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
def test_a_rule_makes_the_one_change_it_is_named_after(rule, story, expected):
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
def test_a_rule_leaves_alone_what_would_still_be_right(rule, story):
    assert made_worse(rule, story) == set()


def test_what_somebody_says_is_left_alone_and_so_is_a_line_whose_quotes_do_not_match():
    said = 'Tom ran. "I am Mia. I was late. We had a boat," he said. Ben sat.\nBen "sat down. Tom ran.\nThe dog ran.'
    found = [sentence.text for sentence in sentences(said) if not sentence.spoken]
    assert found == ["Tom ran.", "Ben sat.", "The dog ran."]


def test_every_rule_finds_pairs_and_each_of_its_groups_equally_often(pairs):
    assert {pair.rule for pair in pairs} == set(RULES)
    for rule in RULES:
        numbers = Counter(pair.group for pair in pairs if pair.rule == rule)
        assert len(set(numbers.values())) == 1, f"{rule}: {numbers}"
        assert 16 <= sum(numbers.values()) <= 80


def test_the_good_text_stands_in_the_story_and_a_story_gives_one_pair_to_a_rule(pairs, stories):
    text = "\n\n".join(stories["text"])
    for pair in pairs:
        assert pair.context + pair.good in text
        assert pair.good != pair.bad
        assert pair.context == pair.context.rstrip()  # white space goes with the word after it
    assert max(Counter((pair.rule, pair.story) for pair in pairs).values()) == 1


def test_what_is_exchanged_is_as_often_good_as_bad(pairs):
    """Were bad names drawn at random, a model that knows which names are frequent would find the good ones."""
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


def test_no_sentence_serves_two_rules_and_each_verb_is_right_in_both_of_its_forms(pairs):
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


def test_the_same_seed_gives_the_same_pairs_and_another_seed_others(stories):
    some = stories.select(range(300))
    first, again, other = (build_pairs(some, 10, seed, ["article_dropped", "next_sentence"]) for seed in (0, 0, 1))
    assert first == again != other
    assert {pair.digest for pair in first} == {pair.digest for pair in again}


class TableModel(torch.nn.Module):
    """Gives every next token what a table says about the present one."""

    device = torch.device("cpu")
    config = SimpleNamespace(max_position_embeddings=256)

    def __init__(self, log_p: torch.Tensor):
        super().__init__()
        self.log_p = log_p

    def forward(self, input_ids):
        return SimpleNamespace(logits=self.log_p[input_ids])


def counted(tokenizer, distance: int) -> TableModel:
    """How often a token stands `distance` after another in other stories of the same kind; 2: labels shifted twice."""
    size = len(tokenizer)
    counts = torch.full((size, size), 0.01)
    for text in sample_stories(600, seed=5):
        ids = torch.tensor([tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]])
        counts.index_put_((ids[:-distance], ids[distance:]), torch.ones(len(ids) - distance), accumulate=True)
    return TableModel((counts / counts.sum(1, keepdim=True)).log())


def test_a_model_that_knows_only_how_frequent_words_are_wins_no_rule(tokenizer, pairs):
    size = len(tokenizer)
    texts = tokenizer(sample_stories(600, seed=5), add_special_tokens=False)["input_ids"]
    frequency = torch.bincount(torch.tensor([token for ids in texts for token in ids]), minlength=size) + 0.1
    results = score_pairs(TableModel((frequency / frequency.sum()).log().expand(size, size)), tokenizer, pairs)
    assert set(results) == {*RULES, "mean_of_rules"}
    for rule, result in results.items():
        assert result.value < 0.6, f"{rule}: {result}"


def test_an_untrained_network_wins_no_rule(tokenizer, pairs):
    for seed in (0, 1):
        torch.manual_seed(seed)
        small = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
        results = score_pairs(new_model(ModelArguments(**small), tokenizer, 256), tokenizer, pairs)
        for rule, result in results.items():
            assert result.low < 0.55, f"{rule}: {result}"
        assert results["article_dropped"].value < 0.1  # shorter is likelier
        assert results["mean_of_rules"].value < 0.5


def test_a_model_of_the_next_word_wins_and_one_of_the_word_after_it_does_not(tokenizer, pairs):
    local = [pair for pair in pairs if pair.rule in LOCAL]
    right, shifted = (score_pairs(counted(tokenizer, distance), tokenizer, local) for distance in (1, 2))
    for rule in LOCAL:
        assert right[rule].value > 0.8, f"{rule}: {right[rule]}"
        assert shifted[rule].value < right[rule].value - 0.2, f"{rule}: {shifted[rule]} against {right[rule]}"


def test_blimp_is_read_from_its_files_and_a_line_that_is_no_pair_is_named(tmp_path):
    row = {"sentence_good": "Tom sleeps.", "sentence_bad": "Tom sleep."}
    (tmp_path / "agreement.jsonl").write_text(f"{json.dumps(row)}\n" * 3, encoding="utf-8")
    found = blimp_pairs(tmp_path, number=2)
    assert [(pair.rule, pair.context, pair.good, pair.bad) for pair in found] == [
        ("agreement", "", "Tom sleeps.", "Tom sleep.")
    ] * 2
    assert "passive.jsonl" in mistake(blimp_pairs, tmp_path, names=["passive"])
    (tmp_path / "broken.jsonl").write_text(json.dumps(row) + "\n{}\n", encoding="utf-8")
    assert "broken.jsonl:2: no pair" in mistake(blimp_pairs, tmp_path)


CHECKED = ROOT / "docs" / "results" / "minimal_pairs_checked.json"


def test_the_committed_verdicts_are_fifty_a_rule_with_little_noise_and_a_reason_for_each_bad_pair():
    verdicts = json.loads(CHECKED.read_text(encoding="utf-8"))["pairs"]
    assert Counter(verdict["rule"] for verdict in verdicts) == dict.fromkeys(RULES, 50)
    assert len({verdict["digest"] for verdict in verdicts}) == len(verdicts)
    bad = Counter(verdict["rule"] for verdict in verdicts if not verdict["good_is_better"])
    assert all(number <= 2 for number in bad.values()), bad
    assert all(verdict["good_is_better"] != bool(verdict.get("reason")) for verdict in verdicts)


def test_verdicts_are_found_again_in_the_data_by_hash_and_those_on_other_data_refused(pairs, tmp_path):
    chosen = sample_to_check(pairs, number=4)
    rows = [{"rule": pair.rule, "digest": pair.digest, "good_is_better": i % 4 > 0} for i, pair in enumerate(chosen)]
    path = Path(tmp_path, "checked.json")
    path.write_text(json.dumps({"pairs": rows}), encoding="utf-8")
    noise = label_noise(path, pairs)
    assert {rule: (result.value, result.number) for rule, result in noise.items()} == dict.fromkeys(RULES, (0.25, 4))
    assert "no pair of article_dropped in this data" in mistake(label_noise, CHECKED, pairs)
