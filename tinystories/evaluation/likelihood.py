"""How well a model predicts held-out stories, each number with its interval. scoring.py does the scoring.

The bootstrap resamples stories, not tokens: the tokens of one story are not independent of each other.
"""

import math

import datasets
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tinystories.evaluation.estimates import Estimate, ratio
from tinystories.evaluation.scoring import context_length, nll_of_rows, perplexity, scoring_rows, story_sums


def likelihood(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    stories: datasets.Dataset,
    stride: int | None = None,
    batch_size: int = 16,
) -> dict[str, Estimate | int | float | None]:
    """Score `stories` (column `text`) with any causal language model.

    Returns:
        `loss` (nats a token), `perplexity`, `bits_per_byte`, `text_bits_per_byte`, `article_loss`, `other_loss`:
        estimates, None where the divisor is 0. Also the counts `stories`, `tokens`, `bytes`, the `stride`, and
        `share_not_given_back`: the share of stories that the tokenizer does not decode to their own text.

    Raises:
        UserError: a stride outside 1 .. context - 1.
    """
    rows = scoring_rows(stories, tokenizer, context_length(model), stride)
    sums = story_sums(nll_of_rows(model, rows.rows, tokenizer.pad_token_id, batch_size), rows)
    bits = math.log(2) * rows.story_bytes
    loss = ratio(sums.nats, sums.tokens)
    others = (sums.nats - sums.articles, sums.tokens - sums.article_tokens)
    return {
        "loss": loss,
        "perplexity": loss and _perplexity(loss),
        "bits_per_byte": ratio(sums.nats, bits),
        "text_bits_per_byte": ratio(sums.nats - sums.end_nats, bits),
        "article_loss": ratio(sums.articles, sums.article_tokens),
        "other_loss": ratio(*others) if rows.finds_articles else None,
        "stories": rows.num_stories,
        "tokens": int(sums.tokens.sum()),
        "bytes": rows.num_bytes,
        "stride": rows.stride,
        "share_not_given_back": rows.not_given_back / max(1, rows.num_stories),
    }


def _perplexity(loss: Estimate) -> Estimate:
    return Estimate(perplexity(loss.value), perplexity(loss.low), perplexity(loss.high), loss.number)
