"""How much a tidy-up would change in generated stories: white space, capitals, full stops.

    evaluate.load("metrics/surface").compute(predictions=texts)

This is about the looks of a text, not its grammar.
"""

import datasets
import evaluate

from tinystories.evaluation.text.metrics import measure_predictions


class Surface(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features({"predictions": datasets.Value("string")})
        return evaluate.MetricInfo(description=__doc__, citation="", inputs_description="", features=features)

    def _compute(self, predictions: list[str]) -> dict[str, float | None]:
        return measure_predictions(["untidy", "tidy_edits"], predictions)
