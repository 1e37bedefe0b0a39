"""How much generated stories repeat themselves and each other.

    evaluate.load("metrics/repetition").compute(predictions=texts)

The values depend on length: compare with human texts cut to the same numbers of words.
"""

import datasets
import evaluate

from tinystories.evaluation.text.metrics import measure_predictions


class Repetition(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features({"predictions": datasets.Value("string")})
        return evaluate.MetricInfo(description=__doc__, citation="", inputs_description="", features=features)

    def _compute(self, predictions: list[str]) -> dict[str, float | None]:
        return measure_predictions(
            [
                "distinct_1",
                "distinct_2",
                "distinct_3",
                "distinct_4",
                "repeated_4grams",
                "self_bleu",
                "loops",
                "zlib_ratio",
            ],
            predictions,
        )
