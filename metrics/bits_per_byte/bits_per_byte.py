"""Bits per byte of texts under any causal language model, as a module of the library evaluate.

    import evaluate
    bits_per_byte = evaluate.load("metrics/bits_per_byte")
    bits_per_byte.compute(predictions=stories, model_id="runs/demo")

Total nats / ln 2 / bytes of UTF-8, over all texts together and not a mean over texts. Each text includes its end, as in
tinystories/evaluation/scoring.py. `low` and `high` are the 95 % interval over resampled texts.
"""

import datasets
import evaluate

from tinystories.checkpoint.loading import load_checkpoint
from tinystories.evaluation.likelihood import likelihood


_DESCRIPTION = "Bits per byte of UTF-8 that a causal language model needs for texts; lower is better."
_INPUTS = """
Args:
    predictions: texts to score, whole stories.
    model_id: a checkpoint folder or Hub id.
    batch_size: number of windows scored at once.
    stride: tokens from one window of a long text to the next (default: half the context).
    device: such as cpu or cuda.
Returns:
    bits_per_byte, low, high: with the end of each text; text_bits_per_byte: without it.
"""


class BitsPerByte(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features({"predictions": datasets.Value("string")})
        return evaluate.MetricInfo(description=_DESCRIPTION, citation="", inputs_description=_INPUTS, features=features)

    def _compute(
        self,
        predictions: list[str],
        model_id: str,
        batch_size: int = 16,
        stride: int | None = None,
        device: str = "cpu",
    ) -> dict[str, float]:
        model, tokenizer = load_checkpoint(model_id, device)
        stories = datasets.Dataset.from_dict({"text": predictions})
        result = likelihood(model, tokenizer, stories, stride, batch_size)
        whole = result["bits_per_byte"]
        return {
            "bits_per_byte": whole.value,
            "low": whole.low,
            "high": whole.high,
            "text_bits_per_byte": result["text_bits_per_byte"].value,
        }
