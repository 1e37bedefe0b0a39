"""From a recipe to a Trainer that may start: data, tokenizer, model, guards. `check_run.py` uses it too."""

import logging

import datasets
from transformers import EarlyStoppingCallback, PreTrainedTokenizerBase, TrainerCallback

from tinystories.checkpoint.loading import describe_model, new_model
from tinystories.config.arguments import RunArguments
from tinystories.config.recipe import Recipe
from tinystories.data.corpus import Corpus, dataset_key, load_corpus, pick_stories
from tinystories.data.packing import PackedRows, pack
from tinystories.data.reshuffling import reshuffled_rows
from tinystories.data.streaming import NOT_CHECKED, stream_rows
from tinystories.data.tokenizer import describe, load_or_train_tokenizer, tokenizer_report
from tinystories.errors import UserError, one_line
from tinystories.evaluation.scoring import scoring_rows
from tinystories.generation.sample import fitting_prompts
from tinystories.training.callbacks import SampleStories
from tinystories.training.checkpointing import LogSpacedCheckpoints
from tinystories.training.finetuning import continued_model
from tinystories.training.guards.numbers import NumbersGuard
from tinystories.training.guards.run import run_guards
from tinystories.training.signals import GracefulStopCallback
from tinystories.training.trainer import StoryTrainer


logger = logging.getLogger(__name__)


def prepare_data(recipe: Recipe, resumed: str | None = None) -> tuple[Corpus, PreTrainedTokenizerBase, PackedRows]:
    """Stories, tokenizer and rows, built by the first process of a machine and read by the others.

    resumed: the checkpoint of a run that continues.
    """
    training = recipe.training
    with training.main_process_first(desc="preparing the data"):
        corpus = load_corpus(recipe.data)
        tokenizer = load_or_train_tokenizer(recipe.tokenizer, corpus.train, recipe.data.data_cache_dir, resumed)
        packed = packed_rows(recipe, corpus, tokenizer)
    corpus.report |= {
        "tokenizer": tokenizer_report(tokenizer, corpus.validation),
        "packing": packed.report,
        "began_with": {  # a resumed run must have the same
            "rows": packed.key,
            "validation": dataset_key(corpus.validation),
            "rows_per_step": training.train_batch_size * training.gradient_accumulation_steps * training.world_size,
        },
    }
    logger.info(describe(corpus.report["tokenizer"], articles=False))
    return corpus, tokenizer, packed


def packed_rows(recipe: Recipe, corpus: Corpus, tokenizer: PreTrainedTokenizerBase) -> PackedRows:
    """All rows; of a stream those of its sample, and the stream."""
    training = recipe.training
    seed = training.seed if training.data_seed is None else training.data_seed
    if recipe.data.reshuffle_stories:
        return reshuffled_rows(corpus.train, tokenizer, recipe.data, seed)
    packed = pack(corpus.train, tokenizer, recipe.data)
    if not recipe.data.streaming:
        return packed
    logger.info("streaming: the tokenizer, if it is trained here, and the guards see the first stories only")
    logger.info("streaming: not checked: %s", NOT_CHECKED)
    return stream_rows(packed, corpus, tokenizer, recipe.data, seed)


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
    keep_fitting_prompts(recipe, tokenizer)
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


def keep_fitting_prompts(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> None:
    """Leave out sample prompts that are as long as the context, with a warning: no story can follow them."""
    given, context = recipe.training.sample_prompts, recipe.data.block_size
    kept = fitting_prompts(given, tokenizer, context)
    for prompt in given:
        if prompt not in kept:
            logger.warning("the sample prompt %r fills the context of %d tokens: it is left out", prompt, context)
    recipe.training.sample_prompts = kept
    recipe.values |= {"sample_prompts": kept}


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
