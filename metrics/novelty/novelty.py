"""What of generated stories stands in the training stories.

    evaluate.load("metrics/novelty").compute(predictions=texts, training=stories)

`training` is any iterable of stories, read once. Held-out stories are the bar: they share much with training ones too.
"""

import datasets
import evaluate

from tinystories.evaluation.text.metrics import measure_predictions


class Novelty(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features({"predictions": datasets.Value("string")})
        return evaluate.MetricInfo(description=__doc__, citation="", inputs_description="", features=features)

    def _compute(self, predictions: list[str], training) -> dict[str, float | None]:
        return measure_predictions(
            ["known_triples", "seen_8grams", "longest_copy", "near_copies"], predictions, training
        )
