"""How well a model predicts stories. Training, checks and evaluation all score text with these functions.

Every story is scored by itself as BOS + story + EOS, each token after BOS exactly once. A story longer than the context
is scored in overlapping windows (`stride` tokens apart, by default half a window), each token in the first window that
contains it. Sums run over tokens, not over batches, so the numbers do not depend on the batch size:

- `loss`: nats per token, the end-of-story token included;
- `perplexity`: exp(loss). Neither of the two compares models with different tokenizers;
- `bits_per_byte`: the same sum in bits, over the UTF-8 bytes of the stories. It compares models with any tokenizers;
- `text_bits_per_byte`: the same without the end-of-story token, to compare with models that have none;
- `article_loss`, `other_loss`: `loss` over the tokens of the words a, an and the, and over all other tokens. Articles
  are found in the text, not in the vocabulary: " a" may begin another word, and an article may be two tokens.

Any causal language model of the Hub can be scored. If its tokenizer has no BOS, a story begins with EOS; if it has
neither, the first token of a story is not predicted, and neither it nor its bytes count. Without EOS, none is appended.
If a tokenizer cannot map letters to tokens, `article_loss` and `other_loss` are None.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import datasets
import numpy as np
import torch
from transformers import BatchEncoding, EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase

from tinystories.data.packing import IGNORED
from tinystories.data.readers import STORIES_PER_BATCH
from tinystories.errors import GuardError, UserError
from tinystories.progress import progress_bar


DEFAULT_CONTEXT = 1024  # for a model whose configuration names no context length
ARTICLE = re.compile(r"(?<![\w'\u2019-])(?:an?|the)(?![\w'\u2019-])", re.IGNORECASE)


@dataclass
class ScoringRows:
    """Windows over stories, longest first, and the bytes of all their text.

    rows: `{"input_ids", "first_target", "articles", "story", "ends"}`. `articles` is true for each token of an article,
        `story` is the story's number, and `ends` says whether the last token is the end of the story.
    story_bytes: integers of shape (num_stories,); empty if only sums over all stories are needed.
    not_given_back: number of stories that the tokenizer does not decode to their own text, so that their bytes are not
        exactly the bytes of what was scored.
    """

    rows: list[dict[str, Any]]
    num_stories: int
    num_bytes: int
    story_bytes: np.ndarray = field(default_factory=lambda: np.array([], dtype=int))
    stride: int | None = None
    not_given_back: int = 0
    finds_articles: bool = True


@dataclass
class Score:
    """The score of a set of stories; losses in nats per token. `stride`: tokens from one window to the next."""

    loss: float
    perplexity: float
    bits_per_byte: float
    text_bits_per_byte: float
    tokens: int
    bytes: int
    stories: int
    article_loss: float | None  # None if there are no such tokens
    other_loss: float | None
    article_tokens: int
    stride: int | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class StorySums:
    """The sums behind a `Score`, by story: float64 or integers of shape (stories,).

    `nats` and `tokens` include the end of the story; `end_nats` is its part of `nats`. `articles` (nats) and
    `article_tokens` are the part of the words a, an and the.
    """

    nats: np.ndarray
    end_nats: np.ndarray
    tokens: np.ndarray
    articles: np.ndarray
    article_tokens: np.ndarray


def context_length(model: PreTrainedModel) -> int:
    """How many tokens `model` can read at once."""
    return getattr(model.config, "max_position_embeddings", None) or DEFAULT_CONTEXT


def begin_of_story(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The token before each story: BOS, else EOS, else none."""
    known = [token for token in (tokenizer.bos_token_id, tokenizer.eos_token_id) if token is not None]
    return known[:1]


def scoring_rows(
    stories: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, block_size: int, stride: int | None = None
) -> ScoringRows:
    """Cut `stories` into windows of at most `block_size` tokens, `stride` tokens apart (default: half of block_size).

    `first_target` of a row is the first token that is scored in it.

    Raises:
        UserError: a stride outside 1 .. block_size - 1.
    """
    stride = _checked(stride, block_size)
    rows: list[dict[str, Any]] = []
    story_bytes: list[int] = []
    not_given_back = 0
    begin, end = begin_of_story(tokenizer), [tokenizer.eos_token_id] * (tokenizer.eos_token_id is not None)
    dtype = np.min_scalar_type(len(tokenizer) - 1)
    for batch in stories.iter(STORIES_PER_BATCH):
        encoded = tokenizer(batch["text"], add_special_tokens=False)
        for i, (text, tokens) in enumerate(zip(batch["text"], encoded["input_ids"], strict=True)):
            ids = np.array([*begin, *tokens, *end], dtype=dtype)
            articles = np.zeros(len(ids), dtype=bool)
            articles[[len(begin) + token for token in article_tokens(encoded, i, text)]] = True
            story = {"story": len(story_bytes)}
            rows += [
                {"input_ids": ids[place], "first_target": first, "articles": articles[place]}
                | story
                | {"ends": bool(end) and place.stop == len(ids)}
                for place, first in windows(ids, block_size, stride)
                if len(ids) > 1
            ]
            not_given_back += _decoded(tokenizer, tokens) != text
            unscored = "" if begin else _decoded(tokenizer, tokens[:1])
            story_bytes.append(len(text.encode()) - len(unscored.encode()))
    rows.sort(key=lambda row: len(row["input_ids"]), reverse=True)  # little padding; too little memory shows at once
    sizes = np.array(story_bytes)
    return ScoringRows(rows, len(stories), int(sizes.sum()), sizes, stride, not_given_back, tokenizer.is_fast)


def _decoded(tokenizer: PreTrainedTokenizerBase, tokens: list[int]) -> str:
    return str(tokenizer.decode(tokens, clean_up_tokenization_spaces=False))


def _checked(stride: int | None, block_size: int) -> int:
    if stride is None:
        return max(1, block_size // 2)
    if not 1 <= stride < block_size:
        raise UserError(
            f"stride must be between 1 and {block_size - 1} (one token less than the context), got {stride}"
        )
    return stride


def article_tokens(encoded: BatchEncoding, index: int, text: str) -> set[int]:
    """Indices of the tokens that hold a letter of an article, in the story `index` of a tokenized batch.

    Empty with a slow tokenizer, which does not map letters to tokens.
    """
    if not encoded.is_fast:
        return set()
    letters = (place for word in ARTICLE.finditer(text) for place in range(*word.span()))
    tokens: Iterator[int | None] = (encoded.char_to_token(index, letter) for letter in letters)
    return {token for token in tokens if token is not None}


def windows(
    ids: np.ndarray, block_size: int, stride: int | None = None, first_target: int = 1
) -> Iterator[tuple[slice, int]]:
    """The windows in which a story is scored: a slice of its tokens, and the first token of the slice to be scored.

    stride: tokens from one window to the next (default: half a window).
    first_target: the first token of the story that is scored at all.
    """
    start, stride = 0, stride or max(1, block_size // 2)
    while True:
        yield slice(start, min(start + block_size, len(ids))), first_target
        if start + block_size >= len(ids):
            return
        start, first_target = start + stride, block_size - stride


def token_nll(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Negative log likelihood of each token given those before it, in nats.

    logits: (rows, length, vocabulary); labels: (rows, length), not shifted.

    Returns:
        float32 of shape (rows, length), on the same device: the value at an index belongs to the token at that index.
        0 for the first token and for ignored labels.
    """
    targets = labels[:, 1:]
    log_probabilities = torch.log_softmax(logits[:, :-1].float(), dim=-1)
    nll = -log_probabilities.gather(-1, targets.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return torch.nn.functional.pad(nll.masked_fill(targets == IGNORED, 0.0), (1, 0))


def story_sums(nll: Sequence[np.ndarray], stories: ScoringRows) -> StorySums:
    """Sum up by story. nll: for every row of `stories` the `token_nll` of its tokens; padding after them is ignored.

    Raises:
        GuardError: `nll` has fewer or more rows than `stories`.
    """
    if len(nll) != len(stories.rows):
        raise GuardError(f"{len(nll)} rows were scored instead of {len(stories.rows)}: the score would not be exact")
    nats, end_nats, article_nats = np.zeros((3, stories.num_stories))
    tokens, article_tokens = np.zeros((2, stories.num_stories), dtype=int)
    for number, (row, values) in enumerate(zip(stories.rows, nll, strict=True)):
        story, scored = row.get("story", number), slice(row["first_target"], len(row["input_ids"]))
        values, articles = values[scored].astype(np.float64), row["articles"][scored]
        nats[story] += values.sum()
        tokens[story] += len(values)
        article_nats[story] += values[articles].sum()
        article_tokens[story] += articles.sum()
        if row.get("ends"):
            end_nats[story] += values[-1]
    return StorySums(nats, end_nats, tokens, article_nats, article_tokens)


def score_from_tokens(nll: Sequence[np.ndarray], stories: ScoringRows) -> Score:
    """`nll` as in `story_sums`."""
    return score_from_sums(story_sums(nll, stories), stories)


def score_from_sums(sums: StorySums, stories: ScoringRows) -> Score:
    nats, tokens = sums.nats.sum(), int(sums.tokens.sum())
    article_nats, article_tokens = sums.articles.sum(), int(sums.article_tokens.sum())
    loss, bits = float(nats / tokens), math.log(2) * stories.num_bytes
    other_tokens = tokens - article_tokens if stories.finds_articles else 0
    return Score(
        loss=loss,
        perplexity=perplexity(loss),
        bits_per_byte=float(nats / bits),
        text_bits_per_byte=float((nats - sums.end_nats.sum()) / bits),
        tokens=tokens,
        bytes=stories.num_bytes,
        stories=stories.num_stories,
        article_loss=float(article_nats / article_tokens) if article_tokens else None,
        other_loss=float((nats - article_nats) / other_tokens) if other_tokens else None,
        article_tokens=article_tokens,
        stride=stories.stride,
    )


def perplexity(loss: float) -> float:
    """exp(loss), infinite where that overflows."""
    return math.inf if loss >= 700 else math.exp(loss)


def trainer_metrics(
    prediction: EvalPrediction, stories: ScoringRows, training_stories: ScoringRows
) -> dict[str, float]:
    """`compute_metrics` of the Trainer: its predictions are the `token_nll` of the rows of both, in this order.

    `gap` is how much lower the loss is on training stories than on held-out ones.
    """
    nll, number = list(prediction.predictions), len(stories.rows)
    score = score_from_tokens(nll[:number], stories).as_dict()
    names = ("loss", "perplexity", "bits_per_byte", "article_loss", "other_loss", "article_tokens")
    metrics = {name: score[name] for name in names if score[name] is not None}
    if training_stories.rows:
        metrics["train_loss"] = score_from_tokens(nll[number:], training_stories).loss
        metrics["gap"] = metrics["loss"] - metrics["train_loss"]
    return metrics


def score(model: PreTrainedModel, stories: ScoringRows, pad_token_id: int | None = None, batch_size: int = 16) -> Score:
    """Score `stories` in the model's own precision, without autocast. `pad_token_id`: any token will do."""
    return score_from_tokens(nll_of_rows(model, stories.rows, pad_token_id, batch_size), stories)


@torch.inference_mode()
def nll_of_rows(
    model: PreTrainedModel, rows: list[dict[str, Any]], pad_token_id: int | None = None, batch_size: int = 16
) -> list[np.ndarray]:
    """The `token_nll` of every row, with padding after it. The longest row should come first. Sets eval mode."""
    model.eval()
    nll: list[np.ndarray] = []
    for start in progress_bar(range(0, len(rows), batch_size), desc="scoring"):
        batch = rows[start : start + batch_size]
        longest = max(len(row["input_ids"]) for row in batch)
        input_ids = torch.full((len(batch), longest), pad_token_id or 0)
        labels = torch.full((len(batch), longest), IGNORED)
        for i, row in enumerate(batch):  # no StoryCollator: in other tokenizers PAD may be EOS, which is scored
            ids = torch.from_numpy(row["input_ids"].astype(np.int64))
            input_ids[i, : len(ids)] = labels[i, : len(ids)] = ids
        logits = model(input_ids=input_ids.to(model.device)).logits
        nll.extend(token_nll(logits, labels.to(model.device)).cpu().numpy())
    return nll


def continuation_nll(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    contexts: Sequence[str],
    texts: Sequence[str],
    batch_size: int = 32,
) -> np.ndarray:
    """Nats of each text given BOS + its context: float64 of shape (texts,).

    White space belongs to the text that it begins (" dog", not "dog "). With n tokens in the context alone, the tokens
    of a text are those of context + text after the first n. If that does not fit into the model, the context loses its
    beginning; a text that is itself too long is scored in windows.
    """
    begin, block_size = begin_of_story(tokenizer), context_length(model)
    whole = [context + text for context, text in zip(contexts, texts, strict=True)]
    ids, heads = (tokenizer(list(parts), add_special_tokens=False)["input_ids"] for parts in (whole, contexts))
    rows: list[dict[str, Any]] = []
    for number, (tokens, head) in enumerate(zip(ids, heads, strict=True)):
        one, first = np.array([*begin, *tokens]), max(1, len(begin) + len(head))
        cut = min(first - 1, max(0, len(one) - block_size))
        one, first = one[cut:], first - cut
        rows += [
            {"input_ids": one[place], "first_target": target, "number": number}
            for place, target in windows(one, block_size, first_target=first)
        ]
    rows.sort(key=lambda row: len(row["input_ids"]), reverse=True)
    nats = np.zeros(len(whole))
    for row, values in zip(rows, nll_of_rows(model, rows, tokenizer.pad_token_id, batch_size), strict=True):
        nats[row["number"]] += values[row["first_target"] : len(row["input_ids"])].astype(np.float64).sum()
    return nats
