"""Training from a checkpoint, a folder or from the Hub: what a recipe may change of it and what it may not.

    python run_clm.py configs/finetune.yaml --model_name_or_path runs/demo --train_file stories.txt

Weights, sizes and tokenizer are the checkpoint's; a recipe that names others is refused, because the weights mean
nothing in another network or under other token ids. Dropout, the attention implementation and the context may differ.
Optimizer and schedule start from the beginning: this is a new run, not the continuation of an old one.
"""

import logging
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedConfig, PreTrainedTokenizerBase

from configuration_tinystories import TinyStoriesConfig
from modeling_tinystories import TinyStoriesForCausalLM
from tinystories.checkpoint.loading import UNREADABLE
from tinystories.checkpoint.plausible import check_sizes
from tinystories.checkpoint.weights import check_finite, read_model
from tinystories.config.keys import ModelArguments, model_fields
from tinystories.config.names import check_found
from tinystories.config.recipe import Recipe
from tinystories.errors import UserError, one_line
from tinystories.generation.presets import generation_config


logger = logging.getLogger(__name__)

DROPOUTS = ("embd_pdrop", "resid_pdrop", "attention_dropout")


def apply_checkpoint(recipe: Recipe) -> None:
    """Fill in what the checkpoint decides: sizes, tokenizer, and the context where the recipe gives no block_size.

    Raises:
        UserError: no such checkpoint, one of another architecture, an output_dir that would replace it, or a recipe
            that asks for another network, vocabulary or tokenizer.
    """
    name = _base(recipe.model)
    output_dir, source = Path(recipe.training.output_dir).resolve(), Path(name).resolve()
    if source.exists() and (output_dir == source or output_dir in source.parents):
        raise UserError(
            f"output_dir {recipe.training.output_dir} contains the checkpoint to start from", "give another"
        )
    if recipe.tokenizer.tokenizer_name not in (None, name):
        raise UserError(f"tokenizer_name: {name} keeps the tokenizer it was trained with", "leave it out")
    if recipe.model.residual_init != "normal":
        raise UserError("residual_init: it applies to fresh weights only", "leave it out")
    config = _load_config(recipe.model)
    for field in model_fields(recipe.model):
        if field != "attn_implementation" and not (field in DROPOUTS and field in recipe.given):
            _take_from_checkpoint(recipe, recipe.model, field, _value(config, field))
    _take_from_checkpoint(recipe, recipe.tokenizer, "vocab_size", config.vocab_size)
    if "block_size" not in recipe.given:
        _take_from_checkpoint(recipe, recipe.data, "block_size", config.max_position_embeddings)
    _take_from_checkpoint(recipe, recipe.tokenizer, "tokenizer_name", name)
    _take_from_checkpoint(recipe, recipe.tokenizer, "tokenizer_revision", recipe.model.model_revision)


def continued_model(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> TinyStoriesForCausalLM:
    """The checkpoint's model, with the recipe's dropout and attention implementation.

    Rows longer than its context make the context longer. RoPE has no table of positions, but distances that the model
    has not seen mean nothing to it until it has been trained on them.
    """
    arguments, block_size = recipe.model, recipe.data.block_size
    config = _load_config(arguments)
    for field in DROPOUTS:
        setattr(config, field, getattr(arguments, field))
    config.auto_map = TinyStoriesConfig().auto_map  # the code that is saved beside the weights is this installation's
    if block_size > config.max_position_embeddings:
        logger.info("context: %d tokens from now on, %d before", block_size, config.max_position_embeddings)
        config.max_position_embeddings = block_size
    try:
        model = read_model(
            TinyStoriesForCausalLM,
            _base(arguments),
            revision=arguments.model_revision or "main",
            config=config,
            attn_implementation=arguments.attn_implementation,
            dtype=torch.float32,
        )
    except UNREADABLE as error:
        raise UserError(f"model_name_or_path: cannot open {arguments.model_name_or_path}: {one_line(error)}") from error
    assert isinstance(model, TinyStoriesForCausalLM)  # what its own `from_pretrained` gives
    check_finite(_base(arguments), model)
    model.generation_config = generation_config(tokenizer, max_new_tokens=config.max_position_embeddings * 3 // 4)
    return model


def _base(arguments: ModelArguments) -> str:
    """The folder or Hub id of the checkpoint, the recipe must name one."""
    if arguments.model_name_or_path is None:
        raise ValueError("the recipe names no checkpoint")
    return arguments.model_name_or_path


def _load_config(arguments: ModelArguments) -> PreTrainedConfig:
    name = _base(arguments)
    check_found(name, arguments.model_revision)
    check_sizes(name, arguments.model_revision)
    try:
        config = AutoConfig.from_pretrained(name, revision=arguments.model_revision, trust_remote_code=False)
    except UNREADABLE as error:
        raise UserError(f"model_name_or_path: cannot open {name} as a checkpoint: {one_line(error)}") from error
    if config.model_type != TinyStoriesConfig.model_type:
        raise UserError(
            f"model_name_or_path: {name} is a {config.model_type} model", "give one trained with this project"
        )
    return config


def _value(config: PreTrainedConfig, field: str) -> Any:
    return config.rope_parameters[field] if field in config.rope_parameters else getattr(config, field)


def _take_from_checkpoint(recipe: Recipe, part: Any, field: str, value: Any) -> None:
    """Set one key to the checkpoint's value. Raises UserError: the recipe gives another."""
    if field in recipe.given and getattr(part, field) not in (None, value):
        raise UserError(
            f"{field} is {getattr(part, field)} in the recipe and {value} in {recipe.model.model_name_or_path}, whose "
            "sizes cannot change",
            "leave the key out (configs/finetune.yaml contains no sizes)",
        )
    setattr(part, field, value)
    recipe.values[field] = value
