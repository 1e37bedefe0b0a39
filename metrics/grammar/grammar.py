"""Grammar errors per 100 words of generated stories, by harper (the extra `eval`).

    evaluate.load("metrics/grammar").compute(predictions=texts)

docs/results/grammar_checker.json says how many mistakes it finds.
"""

import datasets
import evaluate

from tinystories.evaluation.text.metrics import measure_predictions


class Grammar(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features({"predictions": datasets.Value("string")})
        return evaluate.MetricInfo(description=__doc__, citation="", inputs_description="", features=features)

    def _compute(self, predictions: list[str]) -> dict[str, float | None]:
        return measure_predictions(["grammar_errors"], predictions)
