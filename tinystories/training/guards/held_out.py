"""What evaluations score: the validation stories, and beside them training stories, each under its own name."""

import hashlib
from collections import Counter
from collections.abc import Iterable
from itertools import chain
from typing import cast

import datasets
import numpy as np
from transformers import PreTrainedTokenizerBase

from tinystories.data.corpus import Corpus
from tinystories.data.readers import STORIES_PER_BATCH
from tinystories.errors import GuardError
from tinystories.evaluation.scoring import ScoringRows
from tinystories.training.recipe_trainer import RecipeTrainer


def check_evaluation(trainer: RecipeTrainer, corpus: Corpus) -> str:
    """Decoded, the rows of an evaluation are validation stories, complete, and as many as the recipe says."""
    data = trainer.recipe.data
    wanted = min(len(corpus.validation), data.max_eval_samples or len(corpus.validation))
    validation, train = trainer.evaluation, trainer.training_stories
    _check_stories(validation, corpus.validation, wanted, trainer.processing_class, "validation")
    _check_stories(train, corpus.train, min(data.train_eval_samples, wanted), trainer.processing_class, "training")
    scored = trainer.compute_metrics.keywords  # type: ignore[union-attr]  # a partial of trainer_metrics
    if scored.get("stories") is not validation or scored.get("training_stories") is not train:
        raise GuardError("the evaluation scores other stories than it has rows of: eval_loss would be of others")
    _check_rows(cast(list[dict], trainer.eval_dataset), [*validation.rows, *train.rows])
    return f"{validation.num_stories:,} validation stories are scored, complete, and {train.num_stories} of training"


def _check_rows(evaluated: Iterable[dict], wanted: list[dict]) -> None:
    evaluated = list(evaluated)
    same = len(evaluated) == len(wanted) and all(
        one is other
        or (one["first_target"] == other["first_target"] and np.array_equal(one["input_ids"], other["input_ids"]))
        for one, other in zip(evaluated, wanted, strict=True)
    )
    if not same:
        raise GuardError(
            f"the Trainer evaluates {len(evaluated)} rows that are not the {len(wanted)} of the validation stories "
            "followed by those of the training stories: eval_loss would be of others"
        )


def _check_stories(
    rows: ScoringRows, stories: datasets.Dataset, wanted: int, tokenizer: PreTrainedTokenizerBase, name: str
) -> None:
    texts = scored_texts(rows, tokenizer)
    if len(texts) < min(wanted, len(stories)) or rows.num_stories != len(texts):
        raise GuardError(f"{len(texts)} {name} stories are scored in an evaluation, and the recipe says {wanted}")
    left = Counter(map(_hash, texts))
    for key in (_hash(text) for batch in stories.iter(STORIES_PER_BATCH) for text in batch["text"]):
        if left.get(key):
            left[key] -= 1
    for text in texts:
        if left[_hash(text)]:
            raise GuardError(
                f"an evaluation scores a story as one of {name} that is none of them, is not complete, or is "
                f"scored more than once: {text[:40]!r}..."
            )
    num_bytes = sum(len(text.encode()) for text in texts)
    if rows.num_bytes != num_bytes:
        raise GuardError(
            f"an evaluation counts {rows.num_bytes:,} bytes of {name} stories that have {num_bytes:,}: bits per byte "
            "would be wrong"
        )


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def scored_texts(rows: ScoringRows, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The text of each story, put together from the tokens that are scored in its windows."""
    windows: dict[int, list[dict]] = {}
    for row in rows.rows:
        windows.setdefault(row["story"], []).append(row)
    ids = []
    for story, parts in sorted(windows.items()):
        parts.sort(key=lambda row: row["ends"])  # longest first, so only the last one may be out of order
        tokens = np.concatenate([part["input_ids"][part["first_target"] :] for part in parts])
        if not parts[-1]["ends"] or tokens[-1] != tokenizer.eos_token_id or parts[0]["first_target"] != 1:
            raise GuardError(f"story {story + 1} of an evaluation is not scored to its end: EOS is missing")
        ids.append(tokens[:-1].tolist())
    batches = (ids[i : i + STORIES_PER_BATCH] for i in range(0, len(ids), STORIES_PER_BATCH))
    decode = tokenizer.backend_tokenizer.decode_batch
    return list(chain.from_iterable(decode(batch, skip_special_tokens=False) for batch in batches))
