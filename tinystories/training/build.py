"""From a recipe to a Trainer that may start: data, tokenizer, model, guards. Training and checking begin alike."""

import logging
import os

import datasets
import torch
from transformers import EarlyStoppingCallback, PreTrainedTokenizerBase, TrainerCallback

from tinystories.checkpoint.loading import describe_model, new_model
from tinystories.config.arguments import RunArguments
from tinystories.config.recipe import Recipe
from tinystories.data.corpus import Corpus, dataset_key, load_corpus, pick_stories
from tinystories.data.packing import PackedRows, pack
from tinystories.data.tokenizer import describe, load_or_train_tokenizer, tokenizer_report
from tinystories.errors import UserError, one_line
from tinystories.evaluation.scoring import scoring_rows
from tinystories.training.callbacks import LossGuard, SampleStories
from tinystories.training.checkpointing import LogSpacedCheckpoints
from tinystories.training.distributed import on_one_process
from tinystories.training.finetuning import continued_model
from tinystories.training.guards import run_guards
from tinystories.training.signals import GracefulStopCallback
from tinystories.training.trainer import StoryTrainer


logger = logging.getLogger(__name__)


def prepare_data(recipe: Recipe) -> tuple[Corpus, PreTrainedTokenizerBase, PackedRows]:
    """Stories, tokenizer and rows, built by the first process of a machine and read by the others."""
    training = recipe.training
    with training.main_process_first(desc="preparing the data"):
        corpus = load_corpus(recipe.data)
        tokenizer = load_or_train_tokenizer(recipe.tokenizer, corpus.train, recipe.data.data_cache_dir)
        packed = pack(corpus.train, tokenizer, recipe.data)
    corpus.report |= {
        "tokenizer": tokenizer_report(tokenizer, corpus.validation),
        "packing": packed.report,
        "began_with": {  # what a run that goes on is held to
            "rows": packed.key,
            "validation": dataset_key(corpus.validation),
            "rows_per_step": training.train_batch_size * training.gradient_accumulation_steps * training.world_size,
        },
    }
    logger.info(describe(corpus.report["tokenizer"]))
    return corpus, tokenizer, packed


def make_trainer(
    recipe: Recipe,
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerBase,
    packed: PackedRows,
    callbacks: list[TrainerCallback] | None = None,
) -> StoryTrainer:
    """Model and Trainer, with the guards passed. callbacks: instead of those of a run, as for a dry run."""
    if recipe.model.model_name_or_path is not None:
        model = continued_model(recipe, tokenizer)
    else:
        model = new_model(recipe.model, tokenizer, recipe.data.block_size)
    logger.info(describe_model(model))
    evaluated = pick_stories(corpus.validation, recipe.data.max_eval_samples)
    evaluation = scoring_rows(evaluated, tokenizer, model.config.max_position_embeddings)
    known = _some_training_stories(recipe, corpus, len(evaluated))
    training_stories = scoring_rows(known, tokenizer, model.config.max_position_embeddings)
    loss_guard = LossGuard()
    if callbacks is None:
        callbacks = _callbacks_of_a_run(recipe.training, loss_guard)
    try:
        trainer = StoryTrainer(model, tokenizer, recipe, packed, evaluation, training_stories, corpus.report, callbacks)
    except (
        ImportError,
        RuntimeError,
        ValueError,
        OSError,
    ) as error:  # such as a tracker that is unknown
        raise UserError(f"the Trainer cannot start: {one_line(error)}") from error
    if recipe.training.skip_guards:
        logger.warning("GUARDS SKIPPED: nothing checks that this run learns what it should")
    else:
        corpus.report["guards"] = on_one_process(lambda: run_guards(trainer, corpus))
        loss_guard.trainer = trainer
    return trainer


def _callbacks_of_a_run(training: RunArguments, loss_guard: LossGuard) -> list[TrainerCallback]:
    callbacks = [loss_guard, SampleStories(training.sample_prompts), GracefulStopCallback()]
    if training.save_log_spaced:
        callbacks.append(LogSpacedCheckpoints())
    if training.early_stopping_patience is not None:
        callbacks.append(EarlyStoppingCallback(training.early_stopping_patience))
    return callbacks


def _some_training_stories(recipe: Recipe, corpus: Corpus, evaluated: int) -> datasets.Dataset:
    """The same ones each time: what the model makes of them beside held-out stories shows what it knows by heart."""
    number = min(recipe.data.train_eval_samples, evaluated)
    return pick_stories(corpus.train, number) if number else corpus.train.select([])


def use_compiler_if_it_works(training: RunArguments) -> None:
    """torch.compile needs a C++ compiler on a CPU, and Triton on a GPU; a laptop without goes on uncompiled."""
    if not training.torch_compile:
        return
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.ones(8, device=training.device))
    except Exception as error:  # whatever a missing or broken compiler raises
        logger.warning("torch.compile does not work here (%s): training goes on without it", type(error).__name__)
        training.torch_compile = False
        os.environ.pop("ACCELERATE_DYNAMO_BACKEND", None)  # by which TrainingArguments tells accelerate to compile
        os.environ.pop("ACCELERATE_DYNAMO_MODE", None)
