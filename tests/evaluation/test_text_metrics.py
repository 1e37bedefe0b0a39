"""Each text metric must expose nonsense of its kind and find nothing wrong with human-like text.

Human-like text, the reference and the training data are different stories of the sample corpus. Its sentences come from
templates, so the values to compare with are those of the reference, not fixed numbers.
"""

from importlib.util import find_spec

import pytest

from helpers.runs import ROOT, mistake
from tinystories.data.sample_corpus import sample_stories
from tinystories.evaluation.estimates import Estimate
from tinystories.evaluation.table import HIGHER, LIKE_HUMAN, LOWER
from tinystories.evaluation.text import determiners, grammar, names, novelty, repetition
from tinystories.evaluation.text.metrics import METRICS, TextMetric, measure_texts, texts_to_look_up
from tinystories.evaluation.text.prompts import PROMPTS
from tinystories.evaluation.text.samples import Sample, human_samples, human_stories, looped, shuffled, spliced
from tinystories.evaluation.text.words import first_words, split_words, without_first_words


BY_NAME = {metric.name: metric for metric in METRICS}
NUMBER = 20
WITHOUT_HARPER = (
    set() if find_spec("harper") else {"grammar_errors", "clean_sentences"}
)  # harper comes with the extra [eval]


def sample(text: str, prompt: str = "", ended: bool = True) -> Sample:
    return Sample(prompt, text, ended, "balanced", 0)


@pytest.fixture(scope="module")
def stories() -> dict[str, list[str]]:
    """Three parts of the sample corpus that share no story."""
    corpus = sample_stories(400, seed=5)
    return {"written": corpus[:NUMBER], "reference": corpus[NUMBER : 3 * NUMBER], "training": corpus[3 * NUMBER :]}


@pytest.fixture(scope="module")
def written(stories) -> list[Sample]:
    """Human-like samples: the first words of a story as the prompt, the rest as the text."""
    return human_samples([sample("word " * 400, "five words are its prompt")] * NUMBER, stories["written"])


def worse_than_human(metric: TextMetric, value: Estimate | None, human: Estimate | None) -> bool:
    """Whether the intervals do not overlap and `value` differs in the bad direction of `metric`."""
    if value is None or human is None:
        return False
    above, below = value.low > human.high, value.high < human.low
    return {LOWER: above, HIGHER: below, LIKE_HUMAN: above or below}[metric.good]


def exposed(samples: list[Sample], stories: dict[str, list[str]], by: set[str]) -> set[str]:
    """The metrics among `by` for which the samples are worse than human text."""
    texts = texts_to_look_up(samples + human_samples(samples, stories["reference"]))
    copied = novelty.look_up(texts, stories["training"])
    metrics = [BY_NAME[name] for name in by]
    measured = measure_texts(samples, stories["reference"], copied, metrics)
    return {name for name, both in measured.items() if worse_than_human(BY_NAME[name], both["value"], both["human"])}


@pytest.mark.slow
def test_human_like_text(written, stories):
    """No metric calls human-like text worse than human."""
    assert exposed(written, stories, BY_NAME.keys() - WITHOUT_HARPER) == set()


MASH = "asdkj qwepoi zxmnb lkjf wqer poiu mnbv asdf hjkl uiop "
PUNCTUATED = "The quiet spoon sang under seven Mondays. A purple law forgave the ladder, and glass honesty ate loudly. "


def stuffed(text: str) -> str:
    return " ".join(f"the {word} a" for word in text.split())


@pytest.mark.parametrize(
    ("nonsense", "must_see"),
    [
        pytest.param(
            lambda s: stuffed(s.text),
            {"doubled_determiners", "grammar_errors", "known_triples"},
            marks=pytest.mark.slow,
        ),
        (lambda s: "The dog ran to the park. " * 20, {"loops", "distinct_2", "repeated_4grams", "zlib_ratio"}),
        (lambda s: MASH * 12, {"known_triples", "longest_copy"}),
        (lambda s: PUNCTUATED * 6, {"known_triples"}),
        (lambda s: "", {"words"}),
    ],
    ids=["articles everywhere", "one sentence", "keyboard mash", "punctuated nonsense", "empty"],
)
def test_nonsense(nonsense, must_see, written, stories):
    """Nonsense is exposed by the metrics that are made for it."""
    samples, must_see = [sample(nonsense(s), s.prompt) for s in written], must_see - WITHOUT_HARPER
    assert exposed(samples, stories, must_see) == must_see


def test_copies(written, stories):
    """Copies of training stories are exposed by the metrics of novelty."""
    copies = [sample(story, s.prompt) for s, story in zip(written, stories["training"], strict=False)]
    must_see = {"near_copies", "seen_8grams", "longest_copy", "known_triples"}
    assert exposed(copies, stories, must_see) == must_see


@pytest.mark.parametrize(
    ("floor", "make"),
    [pytest.param("shuffled", shuffled, marks=pytest.mark.slow), ("looped", looped), ("spliced", spliced)],
)
def test_floors(floor, make, written, stories):
    """Each metric exposes the nonsense that it names as its floor; those of a critic do so in docs/results."""
    blind = {
        "self_bleu",  # stories from templates are as similar to each other as their shuffled words
    }
    should = {metric.name for metric in METRICS if metric.floor == floor and not metric.needs_critic}
    should -= blind | WITHOUT_HARPER
    assert exposed(make(written), stories, should) == should


def test_prompt_not_counted():
    """A bad prompt changes no metric, except those that read prompt and text together."""
    bad = "He saw dog and the the cat. The dog ran. The dog ran. The dog ran. The dog ran. The dog ran. "
    reads_the_prompt = {"untidy", "tidy_edits"}
    for metric in METRICS:
        if (
            not (metric.needs_training or metric.needs_critic)
            and metric.floor
            and metric.name not in reads_the_prompt | WITHOUT_HARPER
        ):
            clean, after_bad = (metric.measure([sample(" She met a boy. He had a ball.", p)]) for p in ("He sat.", bad))
            assert clean == after_bad, metric.name


def test_bare_nouns():
    """A bare noun is found behind its adjectives, and only where a determiner is required."""
    missing = determiners.missing([sample("He saw big red ball. The boy had a ball. My dog saw his ball.")])
    assert (missing.value, missing.number) == (pytest.approx(1 / 5), 1)
    assert determiners.missing([sample("Dog, ball and kite. Two of ball.")]) is None


def test_article_in_prompt():
    """A noun whose article is the last word of the prompt is not bare."""
    assert determiners.missing([sample(" ball.", "He found a")]).value == 0
    assert determiners.missing([sample(" ball.", "He found")]).value == 1


def test_error_in_prompt():
    """A grammar error that begins in the prompt counts, one entirely inside it does not."""
    pytest.importorskip("harper")
    wrong = "She go to the the park."
    assert grammar.errors_per_100_words([sample(" He was happy.", wrong)]).value == 0
    assert grammar.errors_per_100_words([sample(" the dog.", "He saw the")]).value > 0


def test_without_harper(monkeypatch):
    """Without harper, the error says what to install."""
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
def test_loop(text, loop):
    """A loop is three repetitions at the end of a text."""
    assert repetition.ends_in_loop(text) is loop


def test_distinct():
    """Distinct n-grams count repetition across texts, too."""
    same = [sample("one two three four")] * 4
    assert repetition.distinct(same, 2).value == 3 / 12
    assert repetition.distinct([sample("one"), sample("two")], 2) is None


def test_self_bleu():
    """Self-BLEU is 1 for equal texts and nearly 0 for texts without common n-grams."""
    text = " ".join(f"w{chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(50))
    assert repetition.self_bleu([sample(text)] * 3).value == pytest.approx(1)
    other = " ".join(word[::-1] + "z" for word in text.split())
    assert repetition.self_bleu([sample(text), sample(other)]).value < 0.01


def test_copied_run():
    """A copied run is found at its full length, with the story that contains it."""
    story = "long ago a small grey mouse lived under the old mill and ate only blue cheese every night"
    text = "She said that a small grey mouse lived under the old mill and ate only green cheese"
    found = novelty.look_up([text, "nothing"], ["other words here", story, "the old mill and ate only"])[text]
    assert (found.longest, found.story, found.story_text) == (12, 1, story)
    assert found.overlap == pytest.approx(12 / 17)
    assert found.seen[8] == (5, 10)
    assert found.seen[3] == (10, 15)


def test_run_within_one_story():
    """A run does not cross from one story into the next."""
    found = novelty.look_up(["red fox ran home"], ["a red fox", "ran home"])["red fox ran home"]
    assert (found.longest, found.seen[3]) == (2, (0, 2))


def test_story_numbers(monkeypatch):
    """Stories after the first batch keep their numbers."""
    monkeypatch.setattr(novelty, "STORIES_PER_BATCH", 2)
    text = "one two three four five six seven eight nine"
    assert novelty.look_up([text], ["x"] * 5 + [text] + ["x"])[text].story == 5


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("छोटी मछली, हाँ!", ["छोटी", "मछली", "हाँ"]),
        ("l'e\u0301te\u0301 fini", ["l'e\u0301te\u0301", "fini"]),
        ("ශ්\u200dරී 12", ["ශ්\u200dරී", "12"]),
        ("I ❤️ it's x²", ["i", "it's", "x²"]),
    ],
)
def test_words_with_marks(text, words):
    """Guards: words cut at their marks, which Python's regular expressions do not count to a word."""
    assert split_words(text) == words
    begun = first_words(text, 1)
    assert begun.lower().rstrip(",") == words[0] and begun + without_first_words(text, 1) == text


def test_introduced_names():
    """A name is introduced by the prompt or the first half."""
    assert names.introduced([sample(" sat down. Then he saw Lily", "There was Tom. He")]).value == 0
    assert names.introduced([sample(" sat down. Then he saw Tom", "There was Tom. He")]).value == 1


def test_human_samples(stories):
    """Human stories are cut to the lengths of the samples, and the seed decides which are used."""
    samples = [sample(" one two three", "a prompt"), sample(" " + "word " * 30, "of three words", ended=False)]
    humans = human_samples(samples, stories["reference"])
    assert [(len(split_words(h.prompt)), len(split_words(h.text))) for h in humans] == [(2, 3), (3, 30)]
    assert all(any(story.startswith(h.prompt + h.text) for story in stories["reference"]) for h in humans)
    assert {len(split_words(h.text)) for h in human_stories(samples, stories["reference"])} == {30}
    assert humans == human_samples(samples, stories["reference"])
    assert [h.text for h in humans] != [h.text for h in human_samples(samples, stories["reference"], seed=1)]


def test_draw_all_stories(stories):
    """No human story is drawn twice before every story was drawn once."""
    samples = [sample("word " * 40)] * 60
    firsts = [h.text for h in human_samples(samples, stories["reference"][:30])]
    assert len(set(firsts[:30])) == len(set(firsts[30:])) == 30
    assert firsts[:30] != firsts[30:]


def test_prompts():
    """Half of the prompts stop inside a sentence, at least half have no article, and all differ."""
    prompts = list(PROMPTS.values())
    assert len(set(prompts)) >= 44
    assert sum(not {"a", "an", "the"} & set(split_words(prompt)) for prompt in prompts) >= len(prompts) / 2
    assert sum(prompt[-1] not in '.!?"' for prompt in prompts) == len(prompts) / 2


@pytest.mark.slow
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
def test_evaluate_modules(module, name, options, tmp_path):
    """The modules in metrics/ load into the library evaluate and give the values of METRICS."""
    evaluate = pytest.importorskip("evaluate")
    if module == "grammar":
        pytest.importorskip("harper")
    texts = ["The dog ran home. He saw the the boy .", "She had ball and the ball was red."]
    metric = evaluate.load(str(ROOT / "metrics" / module), cache_dir=str(tmp_path / "cache"))
    result = metric.compute(predictions=texts, **options)
    copied = novelty.look_up(texts, options.get("training", []))
    assert result[name] == BY_NAME[name].measure([sample(text) for text in texts], copied).value
    assert result[name] > 0 and result[f"{name}_low"] <= result[name] <= result[f"{name}_high"]
