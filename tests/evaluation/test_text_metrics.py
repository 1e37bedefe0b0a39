"""What each metric of generated text must see: nonsense of every kind, and nothing wrong with human-like text.

Human-like are the stories of the sample corpus; those that the metrics are compared with and those that count as
training data are other stories of it, and the bar is the human column itself: its sentences come from templates.
"""

from importlib.util import find_spec

import pytest

from helpers.runs import ROOT, mistake
from tinystories.data.sample_corpus import sample_stories
from tinystories.evaluation.text import determiners, grammar, names, novelty, repetition
from tinystories.evaluation.text.metrics import METRICS, measure_texts, texts_to_look_up, worse_than_human
from tinystories.evaluation.text.prompts import PROMPTS
from tinystories.evaluation.text.samples import Sample, human_samples, human_stories, looped, shuffled, spliced
from tinystories.evaluation.text.words import words


BY_NAME = {metric.name: metric for metric in METRICS}
NUMBER = 20
WITHOUT_HARPER = (
    set() if find_spec("harper") else {"grammar_errors", "clean_sentences"}
)  # it comes with the extra [eval]


def sample(text: str, prompt: str = "", ended: bool = True) -> Sample:
    return Sample(prompt, text, ended, "balanced", 0)


@pytest.fixture(scope="module")
def stories() -> dict[str, list[str]]:
    """Three parts of the sample corpus without a story in common."""
    corpus = sample_stories(400, seed=5)
    return {"written": corpus[:NUMBER], "reference": corpus[NUMBER : 3 * NUMBER], "training": corpus[3 * NUMBER :]}


@pytest.fixture(scope="module")
def written(stories) -> list[Sample]:
    """Human-like samples: a few words of a story as the prompt, the rest as what was written."""
    return human_samples([sample("word " * 400, "five words are its prompt")] * NUMBER, stories["written"])


def exposed(samples: list[Sample], stories: dict[str, list[str]], by: set[str]) -> set[str]:
    """Those of the metrics named `by` that call the samples worse than human text."""
    texts = texts_to_look_up(samples + human_samples(samples, stories["reference"]))
    copied = novelty.look_up(texts, stories["training"])
    metrics = [BY_NAME[name] for name in by]
    measured = measure_texts(samples, stories["reference"], copied, metrics)
    return {name for name, both in measured.items() if worse_than_human(BY_NAME[name], both["value"], both["human"])}


def test_every_metric_passes_human_like_text(written, stories):
    assert exposed(written, stories, BY_NAME.keys() - WITHOUT_HARPER) == set()


MASH = "asdkj qwepoi zxmnb lkjf wqer poiu mnbv asdf hjkl uiop "
PUNCTUATED = "The quiet spoon sang under seven Mondays. A purple law forgave the ladder, and glass honesty ate loudly. "


def stuffed(text: str) -> str:
    return " ".join(f"the {word} a" for word in text.split())


@pytest.mark.parametrize(
    ("nonsense", "must_see"),
    [
        (lambda s: stuffed(s.text), {"doubled_determiners", "grammar_errors", "known_triples"}),
        (lambda s: "The dog ran to the park. " * 20, {"loops", "distinct_2", "repeated_4grams", "zlib_ratio"}),
        (lambda s: MASH * 12, {"known_triples", "longest_copy"}),
        (lambda s: PUNCTUATED * 6, {"known_triples"}),
        (lambda s: "", {"words"}),
    ],
    ids=["articles everywhere", "one sentence", "keyboard mash", "punctuated nonsense", "empty"],
)
def test_nonsense_is_exposed(nonsense, must_see, written, stories):
    samples, must_see = [sample(nonsense(s), s.prompt) for s in written], must_see - WITHOUT_HARPER
    assert exposed(samples, stories, must_see) == must_see


def test_copies_of_training_stories_are_exposed(written, stories):
    copies = [sample(story, s.prompt) for s, story in zip(written, stories["training"], strict=False)]
    must_see = {"near_copies", "seen_8grams", "longest_copy", "known_triples"}
    assert exposed(copies, stories, must_see) == must_see


@pytest.mark.parametrize(
    ("floor", "make"),
    [("shuffled", shuffled), ("looped", looped), ("spliced", spliced)],
)
def test_each_metric_tells_its_floor_from_human_text(floor, make, written, stories):
    blind = {
        "self_bleu",  # stories of templates are as like each other as their shuffled words
    }
    should = {metric.name for metric in METRICS if metric.floor == floor} - blind - WITHOUT_HARPER
    assert exposed(make(written), stories, should) == should


def test_a_prompt_is_never_counted():
    bad = "He saw dog and the the cat. The dog ran. The dog ran. The dog ran. The dog ran. The dog ran. "
    reads_the_prompt = {"untidy", "tidy_edits"}
    for metric in METRICS:
        if not metric.needs_training and metric.floor and metric.name not in reads_the_prompt | WITHOUT_HARPER:
            clean, after_bad = (metric.measure([sample(" She met a boy. He had a ball.", p)]) for p in ("He sat.", bad))
            assert clean == after_bad, metric.name


def test_a_bare_noun_is_seen_through_its_adjectives_and_only_where_a_determiner_must_stand():
    missing = determiners.missing([sample("He saw big red ball. The boy had a ball. My dog saw his ball.")])
    assert (missing.value, missing.number) == (pytest.approx(1 / 5), 1)
    assert determiners.missing([sample("Dog, ball and kite. Two of ball.")]) is None


def test_the_noun_after_a_prompt_that_stops_at_its_article_is_not_bare():
    assert determiners.missing([sample(" ball.", "He found a")]).value == 0
    assert determiners.missing([sample(" ball.", "He found")]).value == 1


def test_grammar_counts_an_error_that_begins_in_the_prompt_but_none_inside_it():
    pytest.importorskip("harper")
    wrong = "She go to the the park."
    assert grammar.errors_per_100_words([sample(" He was happy.", wrong)]).value == 0
    assert grammar.errors_per_100_words([sample(" the dog.", "He saw the")]).value > 0


def test_without_harper_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "harper", None)
    grammar.checker.cache_clear()
    assert "tinystories[eval]" in mistake(grammar.errors_per_100_words, [sample("A dog.")])
    grammar.checker.cache_clear()


@pytest.mark.parametrize(
    ("text", "loop"),
    [
        ("He ran and ran and ran.", False),
        ("Once he sat. " + "The dog ran to the park. " * 3, True),
        ("Once he sat. " + "The dog ran to the park. " * 3 + "The dog", True),
        ("The dog ran to the park. " * 2, False),
        ("The dog ran to the park. " * 5 + "Then it slept.", False),
        ("no " * 12, True),
        ("no " * 11, False),
        ("", False),
    ],
)
def test_a_loop_is_three_rounds_at_the_end_of_a_text(text, loop):
    assert repetition.ends_in_loop(text) is loop


def test_distinct_counts_repetition_across_texts_too():
    same = [sample("one two three four")] * 4
    assert repetition.distinct(same, 2).value == 3 / 12
    assert repetition.distinct([sample("one"), sample("two")], 2) is None


def test_self_bleu_is_one_for_equal_texts_and_near_zero_for_texts_with_nothing_in_common():
    text = " ".join(f"w{chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(50))
    assert repetition.self_bleu([sample(text)] * 3).value == pytest.approx(1)
    other = " ".join(word[::-1] + "z" for word in text.split())
    assert repetition.self_bleu([sample(text), sample(other)]).value < 0.01


def test_a_copied_run_is_followed_to_its_full_length_and_to_the_story_that_holds_it():
    story = "long ago a small grey mouse lived under the old mill and ate only blue cheese every night"
    text = "She said that a small grey mouse lived under the old mill and ate only green cheese"
    found = novelty.look_up([text, "nothing"], ["other words here", story, "the old mill and ate only"])[text]
    assert (found.longest, found.story, found.story_text) == (12, 1, story)
    assert found.overlap == pytest.approx(12 / 17)
    assert found.seen[8] == (5, 10)
    assert found.seen[3] == (10, 15)


def test_runs_do_not_cross_from_one_story_into_the_next():
    found = novelty.look_up(["red fox ran home"], ["a red fox", "ran home"])["red fox ran home"]
    assert (found.longest, found.seen[3]) == (2, (0, 2))


def test_stories_beyond_the_first_batch_are_numbered_right(monkeypatch):
    monkeypatch.setattr(novelty, "STORIES_PER_BATCH", 2)
    text = "one two three four five six seven eight nine"
    assert novelty.look_up([text], ["x"] * 5 + [text] + ["x"])[text].story == 5


def test_a_name_is_introduced_by_the_prompt_or_the_first_half():
    assert names.introduced([sample(" sat down. Then he saw Lily", "There was Tom. He")]).value == 0
    assert names.introduced([sample(" sat down. Then he saw Tom", "There was Tom. He")]).value == 1


def test_the_human_column_has_the_lengths_of_the_samples(stories):
    samples = [sample(" one two three", "a prompt"), sample(" " + "word " * 30, "of three words", ended=False)]
    humans = human_samples(samples, stories["reference"])
    assert [(len(words(h.prompt)), len(words(h.text))) for h in humans] == [(2, 3), (3, 30)]
    assert all(any(story.startswith(h.prompt + h.text) for story in stories["reference"]) for h in humans)
    assert {len(words(h.text)) for h in human_stories(samples, stories["reference"])} == {30}
    assert humans == human_samples(samples, stories["reference"])
    assert [h.text for h in humans] != [h.text for h in human_samples(samples, stories["reference"], seed=1)]


def test_no_human_story_is_drawn_twice_before_each_was_drawn_once(stories):
    samples = [sample("word " * 40)] * 60
    firsts = [h.text for h in human_samples(samples, stories["reference"][:30])]
    assert len(set(firsts[:30])) == len(set(firsts[30:])) == 30
    assert firsts[:30] != firsts[30:]


def test_prompts_are_of_every_kind():
    prompts = list(PROMPTS.values())
    assert len(set(prompts)) >= 44
    assert sum(not {"a", "an", "the"} & set(words(prompt)) for prompt in prompts) >= len(prompts) / 2
    assert sum(prompt[-1] not in '.!?"' for prompt in prompts) == len(prompts) / 2


@pytest.mark.parametrize(
    ("module", "name", "options"),
    [
        ("articles", "missing_determiners", {}),
        ("repetition", "distinct_2", {}),
        ("novelty", "longest_copy", {"training": ["The dog ran home. He saw"]}),
        ("grammar", "grammar_errors", {}),
        ("surface", "tidy_edits", {}),
    ],
)
def test_evaluate_loads_the_modules_and_they_say_what_the_registry_says(module, name, options, tmp_path):
    evaluate = pytest.importorskip("evaluate")
    if module == "grammar":
        pytest.importorskip("harper")
    texts = ["The dog ran home. He saw the the boy .", "She had ball and the ball was red."]
    metric = evaluate.load(str(ROOT / "metrics" / module), cache_dir=str(tmp_path / "cache"))
    result = metric.compute(predictions=texts, **options)
    copied = novelty.look_up(texts, options.get("training", []))
    assert result[name] == BY_NAME[name].measure([sample(text) for text in texts], copied).value
    assert result[name] > 0 and result[f"{name}_low"] <= result[name] <= result[f"{name}_high"]
