"""From a recipe to a Trainer that may start: data, tokenizer, model, guards. `check_run.py` uses it too."""

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
from tinystories.training.callbacks import SampleStories
from tinystories.training.checkpointing import LogSpacedCheckpoints
from tinystories.training.finetuning import continued_model
from tinystories.training.guards.numbers import NumbersGuard
from tinystories.training.guards.run import run_guards
from tinystories.training.signals import GracefulStopCallback
from tinystories.training.trainer import StoryTrainer


logger = logging.getLogger(__name__)

MESSAGE_END = 150  # characters kept of each end of a compiler's message


def prepare_data(recipe: Recipe, resumed: str | None = None) -> tuple[Corpus, PreTrainedTokenizerBase, PackedRows]:
    """Stories, tokenizer and rows, built by the first process of a machine and read by the others.

    resumed: the checkpoint of a run that continues.
    """
    training = recipe.training
    with training.main_process_first(desc="preparing the data"):
        corpus = load_corpus(recipe.data)
        tokenizer = load_or_train_tokenizer(recipe.tokenizer, corpus.train, recipe.data.data_cache_dir, resumed)
        packed = pack(corpus.train, tokenizer, recipe.data)
    corpus.report |= {
        "tokenizer": tokenizer_report(tokenizer, corpus.validation),
        "packing": packed.report,
        "began_with": {  # a resumed run must have the same
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
    """Model and Trainer, after the guards have passed.

    callbacks: in place of those that a run has (`run_callbacks`); guards and throughput are always there.

    Raises:
        GuardError: the run would train a silently broken model.
        UserError: a checkpoint that cannot be continued, or a Trainer that cannot start.
    """
    if recipe.model.model_name_or_path is not None:
        model = continued_model(recipe, tokenizer)
    else:
        model = new_model(recipe.model, tokenizer, recipe.data.block_size)
    logger.info(describe_model(model))
    evaluated = pick_stories(corpus.validation, recipe.data.max_eval_samples)
    evaluation = scoring_rows(evaluated, tokenizer, model.config.max_position_embeddings)
    known = _some_training_stories(recipe, corpus, len(evaluated))
    training_stories = scoring_rows(known, tokenizer, model.config.max_position_embeddings)
    if callbacks is None:
        callbacks = run_callbacks(recipe.training)
    numbers = NumbersGuard(recipe.data, corpus)
    if not recipe.training.skip_guards:
        callbacks = [numbers, *callbacks]
    try:
        trainer = StoryTrainer(model, tokenizer, recipe, packed, evaluation, training_stories, corpus.report, callbacks)
    except (ImportError, RuntimeError, ValueError, OSError) as error:  # such as an unknown tracker
        raise UserError(f"the Trainer cannot start: {one_line(error)}") from error
    if recipe.training.skip_guards:
        logger.warning("GUARDS SKIPPED: nothing checks that this run learns what it should")
    else:
        numbers.watch(trainer)
        corpus.report["guards"] = run_guards(trainer, corpus, numbers)
    return trainer


def run_callbacks(training: RunArguments) -> list[TrainerCallback]:
    """What a run does beside training, in this order: sample stories, stopping at a signal, saving, stopping early."""
    callbacks: list[TrainerCallback] = [SampleStories(training.sample_prompts), GracefulStopCallback()]
    if training.save_log_spaced:
        callbacks.append(LogSpacedCheckpoints())
    if training.early_stopping_patience is not None:
        callbacks.append(EarlyStoppingCallback(training.early_stopping_patience))
    return callbacks


def _some_training_stories(recipe: Recipe, corpus: Corpus, evaluated: int) -> datasets.Dataset:
    """The same stories at each evaluation; their loss against the held-out loss shows memorization."""
    number = min(recipe.data.train_eval_samples, evaluated)
    return pick_stories(corpus.train, number) if number else corpus.train.select([])


def use_compiler_if_it_works(training: RunArguments) -> str | None:
    """Switch torch_compile off where it does not work: it needs a C++ compiler on a CPU, and Triton on a GPU.

    Returns why it does not work, in one line; None where it works or was not requested.
    """
    if not training.torch_compile:
        return None
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.ones(8, device=training.device))
    except Exception as error:  # whatever a missing or broken compiler raises
        reason = _compiler_message(error)
        logger.warning("torch.compile does not work here (%s): training continues without it", reason)
        training.torch_compile = False
        os.environ.pop("ACCELERATE_DYNAMO_BACKEND", None)  # set by TrainingArguments to make accelerate compile
        os.environ.pop("ACCELERATE_DYNAMO_MODE", None)
        return reason
    return None


def _compiler_message(error: Exception) -> str:
    """Kind and message of what torch.compile raised, without its advice on debugging.

    Of a long message both ends are kept: it begins with what failed and ends with what the compiler printed.
    """
    message = one_line(str(error).partition("Set TORCHDYNAMO_VERBOSE")[0]) or "no message"
    if len(message) > 2 * MESSAGE_END:
        message = f"{message[:MESSAGE_END]} ... {message[-MESSAGE_END:]}"
    return f"{type(error).__name__}: {message}"
