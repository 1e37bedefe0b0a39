"""How well a model predicts stories: the only place that scores text.

Every story is scored by itself as BOS + story + EOS, each token after BOS exactly once. A story longer than the context
is scored in windows that overlap by half, each token in the first window that holds it. Sums run over tokens, not over
batches, so the numbers do not depend on the batch size:

- `loss`: nats per token, the end-of-story token included;
- `perplexity`: exp(loss). Neither compares models with different tokenizers;
- `bits_per_byte`: the same sum in bits, over the UTF-8 bytes of the stories. This one does.
"""

import math
from dataclasses import asdict, dataclass

import datasets
import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase

from tinystories.corpus import STORIES_PER_BATCH
from tinystories.errors import GuardError
from tinystories.packing import IGNORED, StoryCollator


@dataclass
class ScoringRows:
    """Windows over stories, longest first: `{"input_ids", "first_target"}` each, and the bytes of all their text."""

    rows: list[dict]
    num_stories: int
    num_bytes: int


@dataclass
class Score:
    """What a model gives a set of stories; loss in nats per token."""

    loss: float
    perplexity: float
    bits_per_byte: float
    tokens: int
    bytes: int
    stories: int

    def as_dict(self) -> dict:
        return asdict(self)


def scoring_rows(stories: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, block_size: int) -> ScoringRows:
    """Cut `stories` into windows of at most `block_size` tokens; `first_target` is the first token to score."""
    rows, num_bytes = [], 0
    dtype = np.min_scalar_type(len(tokenizer) - 1)
    for batch in stories.iter(STORIES_PER_BATCH):
        num_bytes += sum(len(text.encode()) for text in batch["text"])
        for ids in tokenizer(batch["text"], add_special_tokens=False)["input_ids"]:
            ids = np.array([tokenizer.bos_token_id, *ids, tokenizer.eos_token_id], dtype=dtype)
            rows += windows(ids, block_size)
    rows.sort(key=lambda row: len(row["input_ids"]), reverse=True)  # little padding, and a lack of memory shows at once
    return ScoringRows(rows, len(stories), num_bytes)


def windows(ids: np.ndarray, block_size: int) -> list[dict]:
    windows = [{"input_ids": ids[:block_size], "first_target": 1}]
    end, stride = block_size, max(1, block_size // 2)
    while end < len(ids):
        start = end - (block_size - stride)
        window = ids[start : start + block_size]
        windows.append({"input_ids": window, "first_target": end - start})
        end = start + len(window)
    return windows


def row_sums(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Sum of the negative log likelihoods and number of targets in each row; shape (rows, 2), float32, on the device.

    logits: (rows, length, vocabulary); labels: (rows, length), not shifted.
    """
    targets = labels[:, 1:]
    scored = targets != IGNORED
    log_probabilities = torch.log_softmax(logits[:, :-1].float(), dim=-1)
    nll = -log_probabilities.gather(-1, targets.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return torch.stack([(nll * scored).sum(-1), scored.sum(-1).float()], dim=-1)


def score_from_sums(sums: np.ndarray, stories: ScoringRows) -> Score:
    """sums: (rows, 2) as `row_sums` gives them, for every row of `stories`."""
    if len(sums) != len(stories.rows):
        raise GuardError(f"{len(sums)} rows were scored instead of {len(stories.rows)}: the score would not be exact")
    nll, tokens = sums.astype(np.float64).sum(axis=0)
    loss = float(nll / tokens)
    perplexity = math.inf if loss >= 700 else math.exp(loss)
    bits_per_byte = float(nll / math.log(2) / stories.num_bytes)
    return Score(loss, perplexity, bits_per_byte, int(tokens), stories.num_bytes, stories.num_stories)


def trainer_metrics(prediction: EvalPrediction, stories: ScoringRows) -> dict[str, float]:
    """`compute_metrics` of the Trainer, whose predictions are the `row_sums`."""
    score = score_from_sums(prediction.predictions, stories)
    return {"loss": score.loss, "perplexity": score.perplexity, "bits_per_byte": score.bits_per_byte}


@torch.inference_mode()
def score(model: PreTrainedModel, stories: ScoringRows, pad_token_id: int, batch_size: int = 16) -> Score:
    """Score `stories` in the model's own precision, without autocast."""
    model.eval()
    collate = StoryCollator(pad_token_id)
    sums = []
    for start in tqdm(range(0, len(stories.rows), batch_size), desc="scoring", delay=2):
        batch = collate(stories.rows[start : start + batch_size])
        logits = model(input_ids=batch["input_ids"].to(model.device)).logits
        sums.append(row_sums(logits, batch["labels"].to(model.device)).cpu().numpy())
    return score_from_sums(np.concatenate(sums), stories)
