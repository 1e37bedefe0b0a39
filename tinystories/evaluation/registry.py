"""Every metric of an evaluation, in the order of the table."""

from collections.abc import Iterable

from tinystories.evaluation.estimates import Estimate
from tinystories.evaluation.minimal_pairs.rules import RULES
from tinystories.evaluation.overall import OVERALL
from tinystories.evaluation.table import HIGHER, LOWER, Metric, Values
from tinystories.evaluation.text.metrics import METRICS


LIKELIHOOD = (
    Metric("bits_per_byte", "bits per byte", "", LOWER, "bits to encode the held-out stories, ends included, per byte"),
    Metric("text_bits_per_byte", "bits per byte, text alone", "", LOWER, "the same without the ends of the stories"),
    Metric(
        "loss",
        "loss",
        "nats per token",
        LOWER,
        "per token: does not compare different tokenizers",
    ),
    Metric("perplexity", "perplexity", "", LOWER, "exp(loss)"),
)
MEAN_OF_RULES = "mean_of_rules"
ALL_RIGHT = Estimate(1.0, 1.0, 1.0, 0).as_dict()  # people's text is right, except in the pairs that are bad


def all_metrics() -> list[Metric]:
    """The overall number, the metrics of the likelihood, the minimal pairs and the generated text."""
    pairs = [
        Metric(
            f"pair_{rule}",
            "minimal pairs, mean of the rules" if rule == MEAN_OF_RULES else f"minimal pairs: {rule.replace('_', ' ')}",
            "share right",
            HIGHER,
            "a piece of a held-out story is more likely than the same piece with one mistake",
        )
        for rule in (MEAN_OF_RULES, *RULES)
    ]
    return [OVERALL, *LIKELIHOOD, *pairs, *METRICS]


def all_right(rules: Iterable[str]) -> Values:
    """The ceiling of the minimal pairs."""
    return {f"pair_{rule}": ALL_RIGHT for rule in rules}
