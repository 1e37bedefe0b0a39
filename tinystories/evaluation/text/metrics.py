"""Every metric of generated text, in one list, with the facts that the table, the page and the card show.

Each metric names the nonsense (`floor`) that it must tell from people's stories; samples.py makes it from them. Metrics
that could not do so on held-out TinyStories were left out.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec

from tinystories.errors import install_hint
from tinystories.evaluation.estimates import Estimate
from tinystories.evaluation.table import HIGHER, LIKE_HUMAN, LOWER, Metric
from tinystories.evaluation.text import critic, determiners, grammar, names, novelty, repetition, tidiness
from tinystories.evaluation.text.critic import Critic
from tinystories.evaluation.text.novelty import Copied
from tinystories.evaluation.text.samples import Sample, human_samples, human_stories
from tinystories.evaluation.text.words import split_sentences


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TextMetric(Metric):
    """A metric of generated text.

    function: list[Sample] -> Estimate | None; with `needs_training`, its second argument is what `novelty.look_up`
        found, with `needs_critic` a critic.
    floor: the nonsense that it exposes: "shuffled", "looped", "spliced", "copied" (from the training stories) or one of
        the DAMAGES; None for metrics of length.
    whole: its human column is of stories cut only at the limit of tokens, not to the lengths of the samples.
    """

    floor: str | None = field(kw_only=True)
    function: Callable[..., Estimate | None] = field(kw_only=True)
    needs_training: bool = field(default=False, kw_only=True)
    needs_critic: bool = field(default=False, kw_only=True)
    whole: bool = field(default=False, kw_only=True)

    def measure(
        self, samples: list[Sample], copied: Mapping[str, Copied] | None = None, critic: Critic | None = None
    ) -> Estimate | None:
        """copied: `novelty.look_up` of the `texts_to_look_up`, which metrics with `needs_training` need."""
        if self.needs_critic:
            return self.function(samples, critic)
        return self.function(samples, copied) if self.needs_training else self.function(samples)


DISTINCT = tuple(
    TextMetric(
        f"distinct_{n}",
        f"distinct {n}-grams",
        "share",
        LIKE_HUMAN,
        f"different runs of {n} word{'s' * (n > 1)} among all of them, over all texts",
        floor="looped",
        function=partial(repetition.distinct, n=n),
        alarm=True,  # a model of the token after the next has as many different words and pairs as people have
    )
    for n in range(1, 5)
)

CRITIC = (
    TextMetric(
        "surprise",
        "surprise",
        "share",
        LIKE_HUMAN,
        "the bits that the critic needs for the texts, over those it expects before it sees each word, less 1",
        floor="shuffled",
        function=critic.surprise,
        needs_critic=True,
    ),
    TextMetric(
        "coherence",
        "coherence",
        "share",
        LIKE_HUMAN,
        "bits for the second half of a text that the critic saves if it has read all before it",
        floor="spliced",
        function=critic.coherence,
        needs_critic=True,
    ),
    TextMetric(
        "prompt_fit",
        "fit to the prompt",
        "share",
        HIGHER,
        "other prompts after which the critic finds the first 20 words less likely than after their own",
        floor="other prompt",
        function=critic.prompt_fit,
        needs_critic=True,
    ),
    TextMetric(
        "characters",
        "characters kept",
        "share",
        HIGHER,
        "how likely the critic finds each he or she against the other; and names of the second half that occur before",
        floor="other gender",
        function=critic.characters,
        needs_critic=True,
    ),
    TextMetric(
        "ending",
        "endings",
        "probability",
        HIGHER,
        "how probable the critic finds it that a story ends where the text ends; 0 where the limit of tokens cut it",
        floor="no ending",
        function=critic.ending,
        needs_critic=True,
        whole=True,
    ),
)

METRICS: tuple[TextMetric, ...] = (
    *CRITIC,
    TextMetric(
        "clean_sentences",
        "clean sentences",
        "share",
        HIGHER,
        "sentences whose word triples are mostly known and in which the grammar checker harper finds no error",
        floor="shuffled",
        function=grammar.clean_sentences,
        needs_training=True,
    ),
    TextMetric(
        "missing_determiners",
        "bare singular nouns",
        "share",
        LOWER,
        "singular count nouns with no article or other determiner where they need one",
        floor="shuffled",
        function=determiners.missing,
    ),
    TextMetric(
        "doubled_determiners",
        "doubled articles",
        "per 100 articles",
        LOWER,
        "articles that stand right before another determiner",
        floor="shuffled",
        function=determiners.doubled,
        alarm=True,
    ),
    TextMetric(
        "grammar_errors",
        "grammar errors",
        "per 100 words",
        LOWER,
        "errors that the grammar checker harper finds, without its rules of style",
        floor="shuffled",
        function=grammar.errors_per_100_words,
        alarm=True,
    ),
    TextMetric(
        "known_triples",
        "known word triples",
        "share",
        LIKE_HUMAN,
        "runs of 3 words that occur in a training story: hardly any in nonsense, all in a copy",
        floor="shuffled",
        function=novelty.known_triples,
        needs_training=True,
    ),
    TextMetric(
        "introduced_names",
        "names introduced before",
        "share",
        HIGHER,
        "names in the second half of the text that also occur in the prompt or the first half",
        floor="spliced",
        function=names.introduced,
        alarm=True,
    ),
    *DISTINCT,
    TextMetric(
        "repeated_4grams",
        "repeated 4-grams",
        "share",
        LIKE_HUMAN,
        "runs of 4 words that occurred before in the same text",
        floor="looped",
        function=repetition.repeated_fourgrams,
        alarm=True,
    ),
    TextMetric(
        "self_bleu",
        "self-BLEU",
        "0 to 1",
        LIKE_HUMAN,
        "how similar the texts are to each other: BLEU-4 of the first 50 words of each against all others",
        floor="shuffled",
        function=repetition.self_bleu,
        alarm=True,
    ),
    TextMetric(
        "loops",
        "texts that end in a loop",
        "share",
        LOWER,
        "texts whose last words are repeated three times or more",
        floor="looped",
        function=repetition.looping,
        alarm=True,
    ),
    TextMetric(
        "zlib_ratio",
        "compressed size",
        "share of bytes",
        LIKE_HUMAN,
        "bytes after compression: few if a text repeats itself",
        floor="looped",
        function=repetition.compressed,
        alarm=True,
    ),
    TextMetric(
        "seen_8grams",
        "8-grams seen in training",
        "share",
        LIKE_HUMAN,
        "runs of 8 words that occur in a training story",
        floor="copied",
        function=novelty.seen_eightgrams,
        needs_training=True,
        alarm=True,
    ),
    TextMetric(
        "longest_copy",
        "longest copied run",
        "words",
        LIKE_HUMAN,
        "longest run of words that occurs in a training story, mean over the texts",
        floor="copied",
        function=novelty.longest_copy,
        needs_training=True,
        alarm=True,
    ),
    TextMetric(
        "near_copies",
        "near-exact copies",
        "share",
        LOWER,
        "texts with 80 % or more of their words in runs shared with one training story",
        floor="copied",
        function=novelty.near_copies,
        needs_training=True,
        alarm=True,
    ),
    TextMetric(
        "ended",
        "stories that end",
        "share",
        LIKE_HUMAN,
        "stories that the model ended within the limit of tokens",
        floor=None,
        function=repetition.ended,
        whole=True,
        alarm=True,
    ),
    TextMetric(
        "words",
        "words per story",
        "words",
        LIKE_HUMAN,
        "length of the text, without the prompt",
        floor=None,
        function=repetition.length,
        whole=True,
        alarm=True,
    ),
    TextMetric(
        "untidy",
        "stories to tidy up",
        "share",
        LOWER,
        "stories in which white space, a capital or a full stop is wrong",
        floor="shuffled",
        function=tidiness.changed,
        alarm=True,
    ),
    TextMetric(
        "tidy_edits",
        "tidy-up edits",
        "per 100 words",
        LOWER,
        "what a tidy-up changes",
        floor="shuffled",
        function=tidiness.edits_per_100_words,
        alarm=True,
    ),
)


def available_metrics(critic: Critic | None = None) -> list[TextMetric]:
    """METRICS that can be measured here; a warning names what is left out."""
    metrics = [metric for metric in METRICS if critic is not None or not metric.needs_critic]
    if critic is None:
        titles = ", ".join(metric.title for metric in CRITIC)
        logger.warning("NOT MEASURED without --critic: %s, and the overall number", titles)
    if find_spec("harper") is None:
        logger.warning("GRAMMAR NOT MEASURED: harper is not installed; %s", install_hint("eval"))
        metrics = [metric for metric in metrics if metric.name not in ("grammar_errors", "clean_sentences")]
    return metrics


def measure_texts(
    samples: list[Sample],
    reference: list[str],
    copied: Mapping[str, Copied] | None = None,
    metrics: Sequence[TextMetric] = METRICS,
    seed: int = 0,
    critic: Critic | None = None,
) -> dict[str, dict[str, Estimate | None]]:
    """{name: {"value": of the samples, "human": of `reference` at equal length}}.

    copied: `novelty.look_up` of the `texts_to_look_up` of both. Without it, the metrics that need it are left out; so
    are those that need a critic.
    """
    cut, whole = human_samples(samples, reference, seed), human_stories(samples, reference, seed)
    return {
        metric.name: {
            "value": metric.measure(samples, copied, critic),
            "human": metric.measure(whole if metric.whole else cut, copied, critic),
        }
        for metric in metrics
        if (copied is not None or not metric.needs_training) and (critic is not None or not metric.needs_critic)
    }


def texts_to_look_up(samples: list[Sample]) -> list[str]:
    """The texts and their sentences, for `novelty.look_up`."""
    return [text for sample in samples for text in (sample.text, *split_sentences(sample.text))]


def measure_predictions(
    names: Sequence[str], texts: list[str], training: Iterable[str] | None = None
) -> dict[str, float | None]:
    """What the modules in metrics/ return for texts: {name, name_low, name_high}, with the 95 % interval.

    training: the stories for the metrics of novelty.
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
