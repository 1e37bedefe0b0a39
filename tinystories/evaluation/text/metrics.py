"""Every metric of generated text, in one list: what the table, the page and the card know about them.

Each names the nonsense that it must tell from what people wrote (`floor`), made out of human stories by samples.py. One
that did not, on held-out TinyStories, is not here.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from tinystories.evaluation.estimates import Estimate
from tinystories.evaluation.text import determiners, grammar, names, novelty, repetition
from tinystories.evaluation.text import tidiness as surface
from tinystories.evaluation.text.novelty import Copied
from tinystories.evaluation.text.samples import Sample, human_samples, human_stories
from tinystories.evaluation.text.words import sentences


LOWER, LIKE_HUMAN, HIGHER = "lower", "like human", "higher"


@dataclass(frozen=True)
class TextMetric:
    """function: list[Sample] -> Estimate | None; with `needs_training` also what `novelty.look_up` found.

    good: which direction is better. floor: the nonsense it exposes, "shuffled", "looped", "spliced" or "copied" (from
    the training stories); None of length, which is no question of sense.
    alarm: a value far from people's is a fault, and a good one proves nothing: a model that has learnt nothing, or the
    wrong thing, may have it too. It is shown apart and no model is better for it.
    whole: the human column is of whole stories up to the limit of tokens, not of ones cut to the same length.
    """

    name: str
    title: str
    unit: str
    good: str
    floor: str | None
    explanation: str
    function: Callable[..., Estimate | None]
    needs_training: bool = False
    whole: bool = False
    alarm: bool = False

    def measure(self, samples: list[Sample], copied: dict[str, Copied] | None = None) -> Estimate | None:
        return self.function(samples, copied) if self.needs_training else self.function(samples)


DISTINCT = tuple(
    TextMetric(
        f"distinct_{n}",
        f"distinct {n}-grams",
        "share",
        LIKE_HUMAN,
        "looped",
        f"different runs of {n} word{'s' * (n > 1)} among all of them, over all texts",
        partial(repetition.distinct, n=n),
        alarm=n == 2,  # of the token after the next, a model has as many different pairs as people have
    )
    for n in range(1, 5)
)

METRICS: tuple[TextMetric, ...] = (
    TextMetric(
        "clean_sentences",
        "clean sentences",
        "share",
        HIGHER,
        "shuffled",
        "sentences whose word triples are mostly known and in which the grammar checker harper finds nothing",
        grammar.clean_sentences,
        needs_training=True,
    ),
    TextMetric(
        "missing_determiners",
        "bare singular nouns",
        "share",
        LOWER,
        "shuffled",
        "singular count nouns with no article or other determiner where they need one",
        determiners.missing,
    ),
    TextMetric(
        "doubled_determiners",
        "doubled articles",
        "per 100 articles",
        LOWER,
        "shuffled",
        "articles that stand right before another determiner",
        determiners.doubled,
        alarm=True,
    ),
    TextMetric(
        "grammar_errors",
        "grammar errors",
        "per 100 words",
        LOWER,
        "shuffled",
        "what the grammar checker harper finds, without its rules of taste",
        grammar.errors_per_100_words,
        alarm=True,
    ),
    TextMetric(
        "known_triples",
        "known word triples",
        "share",
        LIKE_HUMAN,
        "shuffled",
        "runs of 3 words that stand in a training story: of nonsense hardly any do, of a copy all",
        novelty.known_triples,
        needs_training=True,
    ),
    TextMetric(
        "introduced_names",
        "names introduced before",
        "share",
        HIGHER,
        "spliced",
        "names in the second half of the text that the prompt or the first half has already",
        names.introduced,
        alarm=True,
    ),
    *DISTINCT,
    TextMetric(
        "repeated_4grams",
        "repeated 4-grams",
        "share",
        LIKE_HUMAN,
        "looped",
        "runs of 4 words that stood in the same text before",
        repetition.repeated_fourgrams,
        alarm=True,
    ),
    TextMetric(
        "self_bleu",
        "self-BLEU",
        "0 to 1",
        LIKE_HUMAN,
        "shuffled",
        "how much the texts are like each other: BLEU-4 of the first 50 words of each against all others",
        repetition.self_bleu,
    ),
    TextMetric(
        "loops",
        "texts that end in a loop",
        "share",
        LOWER,
        "looped",
        "the last words come three times over or more",
        repetition.looping,
        alarm=True,
    ),
    TextMetric(
        "zlib_ratio",
        "compressed size",
        "share of bytes",
        LIKE_HUMAN,
        "looped",
        "bytes after compression: few where a text repeats itself",
        repetition.compressed,
        alarm=True,
    ),
    TextMetric(
        "seen_8grams",
        "8-grams seen in training",
        "share",
        LIKE_HUMAN,
        "copied",
        "runs of 8 words that stand in a training story",
        novelty.seen_eightgrams,
        needs_training=True,
    ),
    TextMetric(
        "longest_copy",
        "longest copied run",
        "words",
        LIKE_HUMAN,
        "copied",
        "longest run of words that stands in a training story, mean over the texts",
        novelty.longest_copy,
        needs_training=True,
    ),
    TextMetric(
        "near_copies",
        "near-exact copies",
        "share",
        LOWER,
        "copied",
        "texts of which one training story holds 80 % or more",
        novelty.near_copies,
        needs_training=True,
        alarm=True,
    ),
    TextMetric(
        "ended",
        "stories that end",
        "share",
        LIKE_HUMAN,
        None,
        "stories that the model ended within the limit of tokens",
        repetition.ended,
        whole=True,
    ),
    TextMetric(
        "words",
        "words per story",
        "words",
        LIKE_HUMAN,
        None,
        "length of what was written, the prompt not counted",
        repetition.length,
        whole=True,
        alarm=True,
    ),
    TextMetric(
        "untidy",
        "stories to tidy up",
        "share",
        LOWER,
        "shuffled",
        "stories in which white space, a capital or a full stop is wrong",
        surface.changed,
        alarm=True,
    ),
    TextMetric(
        "tidy_edits",
        "tidy-up edits",
        "per 100 words",
        LOWER,
        "shuffled",
        "what a tidy-up changes",
        surface.edits_per_100_words,
        alarm=True,
    ),
)


def measure_texts(
    samples: list[Sample],
    reference: list[str],
    copied: dict[str, Copied] | None = None,
    metrics: Sequence[TextMetric] = METRICS,
    seed: int = 0,
) -> dict[str, dict[str, Estimate | None]]:
    """{name: {"value": of the samples, "human": of `reference` at equal length}}.

    copied: `novelty.look_up` of the `texts_to_look_up` of both; without it the metrics that need it are left out.
    """
    cut, whole = human_samples(samples, reference, seed), human_stories(samples, reference, seed)
    return {
        metric.name: {
            "value": metric.measure(samples, copied),
            "human": metric.measure(whole if metric.whole else cut, copied),
        }
        for metric in metrics
        if copied is not None or not metric.needs_training
    }


def texts_to_look_up(samples: list[Sample]) -> list[str]:
    """The texts and their sentences, for `novelty.look_up`."""
    return [text for sample in samples for text in (sample.text, *sentences(sample.text))]


def worse_than_human(metric: TextMetric, value: Estimate | None, human: Estimate | None) -> bool:
    """Whether the intervals lie apart, in the direction that is bad for this metric."""
    if value is None or human is None:
        return False
    above, below = value.low > human.high, value.high < human.low
    return {LOWER: above, HIGHER: below, LIKE_HUMAN: above or below}[metric.good]


def measure_predictions(
    names: Sequence[str], texts: list[str], training: Iterable[str] | None = None
) -> dict[str, float | None]:
    """What the modules under metrics/ return for bare texts: {name, name_low, name_high}, the 95 % interval.

    training: the stories that the metrics of novelty compare with.
    """
    samples = [Sample(prompt="", text=text, ended=True, preset="", seed=0) for text in texts]
    copied = novelty.look_up(texts_to_look_up(samples), training) if training is not None else None
    result = {}
    for metric in METRICS:
        if metric.name in names:
            estimate = metric.measure(samples, copied)
            for suffix, field in (("", "value"), ("_low", "low"), ("_high", "high")):
                result[metric.name + suffix] = getattr(estimate, field, None)
    return result
