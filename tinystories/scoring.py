"""How well a model predicts stories: the only place that scores text.

Every story is scored by itself as BOS + story + EOS, each token after BOS exactly once. A story longer than the context
is scored in windows that overlap by half, each token in the first window that holds it. Sums run over tokens, not over
batches, so the numbers do not depend on the batch size:

- `loss`: nats per token, the end-of-story token included;
- `perplexity`: exp(loss). Neither compares models with different tokenizers;
- `bits_per_byte`: the same sum in bits, over the UTF-8 bytes of the stories. This one does;
- `article_loss`, `other_loss`: `loss` over the tokens of the words a, an and the, and over all the others. Which is
  which is looked up in the text and not in the vocabulary: " a" may be the start of another word, and an article may
  be two tokens.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import datasets
import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import BatchEncoding, EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase

from tinystories.corpus import STORIES_PER_BATCH
from tinystories.errors import GuardError
from tinystories.packing import IGNORED, StoryCollator


ARTICLE = re.compile(r"(?<![\w'\u2019-])(?:an?|the)(?![\w'\u2019-])", re.IGNORECASE)


@dataclass
class ScoringRows:
    """Windows over stories, longest first, and the bytes of all their text.

    A row is `{"input_ids", "first_target", "articles"}`: the last one is true for each token of an article.
    """

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
    article_loss: float | None  # None where there is no such token
    other_loss: float | None
    article_tokens: int

    def as_dict(self) -> dict:
        return asdict(self)


def scoring_rows(stories: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, block_size: int) -> ScoringRows:
    """Cut `stories` into windows of at most `block_size` tokens; `first_target` is the first token to score."""
    rows, num_bytes = [], 0
    dtype = np.min_scalar_type(len(tokenizer) - 1)
    for batch in stories.iter(STORIES_PER_BATCH):
        num_bytes += sum(len(text.encode()) for text in batch["text"])
        encoded = tokenizer(batch["text"], add_special_tokens=False)
        for i, ids in enumerate(encoded["input_ids"]):
            ids = np.array([tokenizer.bos_token_id, *ids, tokenizer.eos_token_id], dtype=dtype)
            articles = np.zeros(len(ids), dtype=bool)
            articles[[1 + token for token in article_tokens(encoded, i, batch["text"][i])]] = True
            rows += [
                {"input_ids": ids[place], "first_target": first_target, "articles": articles[place]}
                for place, first_target in windows(ids, block_size)
            ]
    rows.sort(key=lambda row: len(row["input_ids"]), reverse=True)  # little padding, and a lack of memory shows at once
    return ScoringRows(rows, len(stories), num_bytes)


def article_tokens(encoded: BatchEncoding, index: int, text: str) -> set[int]:
    """Places of the tokens that hold a letter of an article in the story `index` of a tokenized batch."""
    letters = (place for word in ARTICLE.finditer(text) for place in range(*word.span()))
    return {encoded.char_to_token(index, letter) for letter in letters} - {None}


def windows(ids: np.ndarray, block_size: int) -> Iterator[tuple[slice, int]]:
    """The windows that a story is scored in: a slice of its tokens, and the first token in it that is scored there."""
    start, first_target, stride = 0, 1, max(1, block_size // 2)
    while True:
        yield slice(start, min(start + block_size, len(ids))), first_target
        if start + block_size >= len(ids):
            return
        start, first_target = start + stride, block_size - stride


def token_nll(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Negative log likelihood of each token given those before it, in nats; 0 where the label is ignored, and first.

    logits: (rows, length, vocabulary); labels: (rows, length), not shifted. Returns float32 (rows, length), on the
    device: what stands at a place belongs to the token at that place.
    """
    targets = labels[:, 1:]
    log_probabilities = torch.log_softmax(logits[:, :-1].float(), dim=-1)
    nll = -log_probabilities.gather(-1, targets.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return torch.nn.functional.pad(nll.masked_fill(targets == IGNORED, 0.0), (1, 0))


def score_from_tokens(nll: Sequence[np.ndarray], stories: ScoringRows) -> Score:
    """nll: for every row of `stories` what `token_nll` gives its tokens; what follows them is padding."""
    if len(nll) != len(stories.rows):
        raise GuardError(f"{len(nll)} rows were scored instead of {len(stories.rows)}: the score would not be exact")
    sums, tokens = np.zeros(2), np.zeros(2, dtype=int)  # of articles, of other tokens
    for row, values in zip(stories.rows, nll, strict=True):
        scored = slice(row["first_target"], len(row["input_ids"]))
        values, articles = values[scored].astype(np.float64), row["articles"][scored]
        sums += values[articles].sum(), values[~articles].sum()
        tokens += articles.sum(), (~articles).sum()
    loss = float(sums.sum() / tokens.sum())
    article_loss, other_loss = (
        float(nats / number) if number else None for nats, number in zip(sums, tokens, strict=True)
    )
    return Score(
        loss=loss,
        perplexity=math.inf if loss >= 700 else math.exp(loss),
        bits_per_byte=float(sums.sum() / math.log(2) / stories.num_bytes),
        tokens=int(tokens.sum()),
        bytes=stories.num_bytes,
        stories=stories.num_stories,
        article_loss=article_loss,
        other_loss=other_loss,
        article_tokens=int(tokens[0]),
    )


def trainer_metrics(
    prediction: EvalPrediction, stories: ScoringRows, training_stories: ScoringRows
) -> dict[str, float]:
    """`compute_metrics` of the Trainer, whose predictions are the `token_nll` of the rows of both, in this order.

    `gap` is how much better the model does on stories of its training data than on held-out ones.
    """
    nll, number = prediction.predictions, len(stories.rows)
    score = score_from_tokens(nll[:number], stories).as_dict()
    names = ("loss", "perplexity", "bits_per_byte", "article_loss", "other_loss", "article_tokens")
    metrics = {name: score[name] for name in names if score[name] is not None}
    if training_stories.rows:
        metrics["train_loss"] = score_from_tokens(nll[number:], training_stories).loss
        metrics["gap"] = metrics["loss"] - metrics["train_loss"]
    return metrics


@torch.inference_mode()
def score(model: PreTrainedModel, stories: ScoringRows, pad_token_id: int, batch_size: int = 16) -> Score:
    """Score `stories` in the model's own precision, without autocast."""
    model.eval()
    collate = StoryCollator(pad_token_id)
    nll = []
    for start in tqdm(range(0, len(stories.rows), batch_size), desc="scoring", delay=2):
        batch = collate(stories.rows[start : start + batch_size])
        input_ids = batch["input_ids"].to(model.device)
        # not the batch's labels, which leave out every token equal to the padding: some models end stories with theirs
        nll.extend(token_nll(model(input_ids=input_ids).logits, input_ids).cpu().numpy())
    return score_from_tokens(nll, stories)
