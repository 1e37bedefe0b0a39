"""Missing and doubled articles in generated stories.

    evaluate.load("metrics/articles").compute(predictions=texts)

The rule is in tinystories/evaluation/text/determiners.py. Compare with the values of human texts.
"""

import datasets
import evaluate

from tinystories.evaluation.text.metrics import measure_predictions


class Articles(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features({"predictions": datasets.Value("string")})
        return evaluate.MetricInfo(description=__doc__, citation="", inputs_description="", features=features)

    def _compute(self, predictions: list[str]) -> dict[str, float | None]:
        return measure_predictions(["missing_determiners", "doubled_determiners"], predictions)
