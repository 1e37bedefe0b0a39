"""What guards need of a Trainer: some rows, its batches, its loss, and a narrow copy of its model."""

import copy

import numpy as np
import torch
from transformers import PreTrainedModel

from modeling_tinystories import TinyStoriesForCausalLM
from tinystories.training.recipe_trainer import RecipeTrainer


SAMPLE_ROWS = 64


def some_rows(trainer: RecipeTrainer, number: int) -> list[dict]:
    """Random rows: others with another seed and at another step, the same on every process, which run them together."""
    random = np.random.default_rng([abs(trainer.args.seed), trainer.state.global_step])
    places = random.permutation(len(trainer.train_dataset))[:number]
    return [trainer.train_dataset[int(place)] for place in places]


def batch_of(trainer: RecipeTrainer, number: int) -> dict[str, torch.Tensor]:
    return collate(trainer, some_rows(trainer, number))


def collate(trainer: RecipeTrainer, rows: list[dict]) -> dict[str, torch.Tensor]:
    return {name: tensor.to(trainer.model.device) for name, tensor in trainer.data_collator(rows).items()}


def training_loss(trainer: RecipeTrainer, model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The loss as training computes it."""
    loss = trainer.compute_loss(model, batch)
    assert isinstance(loss, torch.Tensor)  # no tuple: return_outputs is False
    return loss


def frequent_tokens(trainer: RecipeTrainer, number: int) -> list[int]:
    """The most frequent tokens of some rows, without special ones: of this corpus, whatever its language."""
    rows = np.concatenate([row["input_ids"] for row in some_rows(trainer, SAMPLE_ROWS)])
    ids, counts = np.unique(rows[~np.isin(rows, trainer.processing_class.all_special_ids)], return_counts=True)
    return ids[np.argsort(-counts, kind="stable")][:number].tolist()


def narrow_copy(trainer: RecipeTrainer, seed: int) -> TinyStoriesForCausalLM:
    """A model of the same class and vocabulary with two layers and two heads: the check does not depend on size."""
    config = copy.deepcopy(trainer.model.config)
    values = config.to_dict() | {
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "hidden_size": max(64, 2 * config.head_dim),
        "intermediate_size": max(128, 4 * config.head_dim),
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "attention_dropout": 0.0,
        "use_cache": False,
    }
    torch.manual_seed(seed)
    narrow = type(config).from_dict(values)
    narrow._attn_implementation = config._attn_implementation
    model = type(trainer.model)(narrow)
    return model.to(trainer.model.device)  # type: ignore[arg-type]  # its decorator hides that it is a method
