"""What the trainer's loss must be: the next-token loss of the rows, and ln(vocabulary) before the first step."""

import logging
import math

import numpy as np
import torch

from tinystories.errors import GuardError
from tinystories.training.guards.batches import batch_of, collate, some_rows, training_loss
from tinystories.training.recipe_trainer import RecipeTrainer


logger = logging.getLogger(__name__)

LOSS_ROWS = 2


def check_fresh_loss(trainer: RecipeTrainer) -> str:
    """The loss of an untrained model is ln(vocabulary), within a tenth of it."""
    loss, nothing = _starting_loss(trainer)
    if not abs(loss - nothing) < 0.1 * nothing:
        raise GuardError(
            f"the untrained model has a loss of {loss:.3f} instead of about ln({trainer.model.config.vocab_size}) = "
            f"{nothing:.3f}: its initialization is off (initializer_range {trainer.model.config.initializer_range})"
        )
    return f"{loss:.3f} nats, ln(vocabulary) = {nothing:.3f}"


def check_known_loss(trainer: RecipeTrainer) -> str:
    """The loss of a trained model on the new stories is below ln(vocabulary), that of a uniform guess.

    Somewhat above, the model may know one kind of text by heart and see another; far above, its token ids mean other
    things than in its training.
    """
    loss, nothing = _starting_loss(trainer)
    if not loss < 1.5 * nothing:
        raise GuardError(
            f"{trainer.recipe.model.model_name_or_path} has a loss of {loss:.3f} on these stories, and a uniform guess "
            f"has {nothing:.3f}: the tokenizer in it is not the one it was trained with"
        )
    if not loss < nothing:
        logger.warning("these stories are unlike anything the model has seen: a fresh model may do better")
    return f"{loss:.3f} nats before the first step, ln(vocabulary) = {nothing:.3f}"


def _starting_loss(trainer: RecipeTrainer) -> tuple[float, float]:
    """The model's loss on a few rows, and that of a uniform guess; nats per token."""
    trainer.model.eval()
    with torch.no_grad():
        loss = training_loss(trainer, trainer.model, batch_of(trainer, LOSS_ROWS)).item()
    return loss, math.log(trainer.model.config.vocab_size)


def check_next_token_loss(trainer: RecipeTrainer) -> str:
    """The trainer's loss on a row equals a next-token loss computed here, from the row's tokens alone.

    With `isolate_stories` each story of the row is run by itself here, so attention between stories is noticed.
    """
    model, pad = trainer.model, trainer.processing_class.pad_token_id
    was_training = model.training
    model.eval()
    differences = []
    with torch.no_grad():
        for row in some_rows(trainer, LOSS_ROWS):
            reported = training_loss(trainer, model, collate(trainer, [row])).item()
            ids = torch.from_numpy(np.asarray(row["input_ids"], dtype=np.int64))
            pieces = _stories_of_row(ids, trainer) if trainer.recipe.data.isolate_stories else [ids]
            logits = torch.cat([model(input_ids=piece.unsqueeze(0).to(model.device)).logits[0] for piece in pieces])
            logits = logits.cpu().double()
            nll = [logits[t].logsumexp(0) - logits[t, ids[t + 1]] for t in range(len(ids) - 1) if ids[t + 1] != pad]
            differences.append(abs(reported - torch.stack(nll).mean().item()))
    model.train(was_training)
    difference = float(np.max(differences))  # NaN stays NaN
    if math.isnan(difference):
        raise GuardError("the loss is not a number", "lower the learning_rate, or set max_grad_norm")
    if not difference < 1e-3:
        raise GuardError(
            f"the trainer's loss is not the next-token loss of its rows (they differ by {difference:.4f} nats): labels "
            "are shifted twice or not at all, something else is in the loss (label_smoothing_factor must be 0)"
            + (", or attention crosses between the stories of a row" if trainer.recipe.data.isolate_stories else "")
        )
    return f"equals the trainer's on {len(differences)} rows within {difference:.1e} nats"


def _stories_of_row(ids: torch.Tensor, trainer: RecipeTrainer) -> tuple[torch.Tensor, ...]:
    """The row cut before each BOS."""
    starts = (ids == trainer.processing_class.bos_token_id).nonzero().flatten().tolist()
    return ids.tensor_split([start for start in starts if start > 0])
