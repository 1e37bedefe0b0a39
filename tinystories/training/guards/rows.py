"""What the packed rows and the batches made of them must be: the stories of the corpus, complete and in the loss."""

import logging
from collections.abc import Iterator
from itertools import islice, pairwise

import numpy as np
from transformers import PreTrainedTokenizerBase

from tinystories.data.corpus import text_hashes
from tinystories.data.packing import IGNORED
from tinystories.errors import GuardError
from tinystories.training.recipe_trainer import RecipeTrainer


logger = logging.getLogger(__name__)

SAMPLE_STORIES = 1000
SAMPLE_ROWS = 64
SCANNED_TOKENS = 2**20  # aligned rows may begin with many that continue long stories


def check_rows(trainer: RecipeTrainer, train_hashes: np.ndarray) -> str:
    """Packed rows, decoded, are complete stories of the training corpus, each closed by EOS."""
    tokenizer = trainer.processing_class
    aligned = trainer.recipe.data.align_to_stories
    rows = trainer.train_dataset.take(max(SAMPLE_ROWS, SCANNED_TOKENS // trainer.recipe.data.block_size))
    rows = rows[:]["input_ids"].astype(np.int64)
    if rows.max() >= len(tokenizer):
        raise GuardError(
            f"the packed rows hold token {rows.max()}, beyond the vocabulary: they were packed with another tokenizer"
        )
    bos = tokenizer.bos_token_id
    if bos not in rows and not any(
        (batch["input_ids"] == bos).any() for batch in trainer.train_dataset.iter(len(rows))
    ):
        raise GuardError(
            "no BOS in the packed rows: the model would not learn how a story begins", "pack BOS + story + EOS"
        )
    stories = list(islice(_packed_stories(rows, tokenizer, aligned), SAMPLE_STORIES))
    if not stories:
        logger.warning("the first %d rows hold no complete story: they are not compared with the corpus", len(rows))
    texts = tokenizer.batch_decode([story[1:-1].tolist() for story in stories])
    for story, text, story_hash in zip(stories, texts, text_hashes(texts), strict=True):
        if story[-1] != tokenizer.eos_token_id:
            raise GuardError("no EOS between packed stories: the model would never stop", "pack BOS + story + EOS")
        if story_hash not in train_hashes:
            raise GuardError(
                f"a packed story is not in this corpus: {text[:40]!r}...{text[-20:]!r}; it was cut, or the rows are "
                "of another corpus or tokenizer"
            )
    return f"{len(stories)} stories in the first rows are in the corpus, complete, each closed by EOS"


def _packed_stories(rows: np.ndarray, tokenizer: PreTrainedTokenizerBase, aligned: bool) -> Iterator[np.ndarray]:
    """The tokens from each BOS to the next, without stories cut by the sample's end or, if aligned, by a full row."""
    for tokens in rows if aligned else [rows.reshape(-1)]:
        tokens = tokens[tokens != tokenizer.pad_token_id]
        starts = np.flatnonzero(tokens == tokenizer.bos_token_id)
        if aligned:
            starts = np.append(starts, len(tokens))
        for start, end in pairwise(starts):
            if not aligned or end - start < rows.shape[1]:
                yield tokens[start:end]


def check_labels(trainer: RecipeTrainer) -> str:
    """In a collated batch the labels are the input ids, with EOS; only padding is left out of the loss."""
    tokenizer = trainer.processing_class
    story = [
        tokenizer.bos_token_id,
        *tokenizer("One day.", add_special_tokens=False)["input_ids"],
        tokenizer.eos_token_id,
    ]
    batch = trainer.data_collator([{"input_ids": story}, {"input_ids": story + story}])
    ids, labels = batch["input_ids"], batch["labels"]
    padding = ids == tokenizer.pad_token_id
    if not (labels[padding] == IGNORED).all():
        raise GuardError("padding is in the loss: the model would learn to pad", "label padding with -100")
    wrong = (labels != ids) & ~padding
    if wrong.any() and (labels[wrong] == IGNORED).all():
        raise GuardError("EOS is left out of the loss: the model would never learn to stop", "mask padding only")
    if wrong.any():
        raise GuardError(
            "the labels of a batch are not its input ids: the model shifts labels to the next token itself, so a batch "
            "must not shift them as well"
        )
    return "the input ids themselves, EOS learned, padding left out"
