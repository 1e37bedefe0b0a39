"""One number for a group of texts: the mean share of the way from floor to people, over the text metrics with a bar.

Only metrics of texts count, so it compares models with people and with people's damaged stories. A metric that finds
nothing to judge in the texts, such as no noun at all, counts as at its floor. Without any of the metrics (no critic, no
training stories, no grammar checker), there is no overall number: it would not compare.
"""

from collections.abc import Sequence

from tinystories.evaluation.estimates import Estimate
from tinystories.evaluation.table import HIGHER, Metric, Values, distance, farthest, standing
from tinystories.evaluation.text.metrics import METRICS


OVERALL = Metric(
    "overall",
    "overall",
    "",
    HIGHER,
    "how far the texts are from the floor (0) to people (1): the mean of the text metrics with a bar",
)
ENDS = {"floor": Estimate(0.0, 0.0, 0.0, 0).as_dict(), "people": Estimate(1.0, 1.0, 1.0, 0).as_dict()}


def overall(values: Values, floors: Sequence[Values], people: Values) -> Estimate | None:
    """The interval treats floors and people as fixed, and is as wide as if all metrics erred the same way at once.

    `number`: how many stories were measured, of the metric with the fewest; one that found nothing to judge has none.
    """
    metrics = [metric for metric in METRICS if not metric.alarm]
    shares, numbers = [], []
    for metric in metrics:
        top = people.get(metric.name)
        floor = farthest(metric, [column.get(metric.name) for column in floors], top)
        if top is None or floor is None:
            return None
        if distance(metric, floor, top) <= 0:
            continue  # such as endings where the limit of tokens cuts people's stories, too
        value = values.get(metric.name)
        shares.append(between(metric, value, floor, top) if value else (0.0, 0.0, 0.0))
        if value:
            numbers.append(int(value["number"]))
    if not numbers:
        return None
    low, middle, high = (sum(column) / len(shares) for column in zip(*shares, strict=True))
    return Estimate(middle, low, high, min(numbers))


def between(
    metric: Metric, value: dict[str, float], floor: dict[str, float], people: dict[str, float]
) -> tuple[float, float, float]:
    """The standing of a value with the standings of the ends of its interval: (low, value, high)."""
    ends = [standing(metric, value | {"value": value[end]}, floor, people) or 0.0 for end in ("low", "value", "high")]
    inside = value["low"] <= people["value"] <= value["high"]
    return min(ends), ends[1], 1.0 if inside else max(ends)
