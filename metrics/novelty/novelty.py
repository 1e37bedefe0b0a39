"""How much of generated stories occurs in the training stories.

    evaluate.load("metrics/novelty").compute(predictions=texts, training=stories)

`training` is any iterable of stories, read once. Compare with held-out stories, which share much with them, too.
"""

from collections.abc import Iterable

import datasets
import evaluate

from tinystories.evaluation.text.metrics import measure_predictions


class Novelty(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features({"predictions": datasets.Value("string")})
        return evaluate.MetricInfo(description=__doc__, citation="", inputs_description="", features=features)

    def _compute(self, predictions: list[str], training: Iterable[str]) -> dict[str, float | None]:
        return measure_predictions(
            ["known_triples", "seen_8grams", "longest_copy", "near_copies"], predictions, training
        )
