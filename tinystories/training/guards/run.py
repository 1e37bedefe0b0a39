"""All guards of a run, in order: cheapest first, each with its processor time.

A guard is a function that returns what it measured, for data_report.json, or raises `GuardError`: one line with the
reason and the remedy, exit status 2. The log has one line for all of them and one for each that could not check;
`--log_level debug` shows what each one found. `--skip_guards` trains without them and logs a warning.
"""

import logging
import time
from collections.abc import Callable
from functools import cache
from typing import Any

from transformers import TrainingArguments

from tinystories.data.corpus import Corpus, story_hashes
from tinystories.data.reshuffling import ReshuffledRows
from tinystories.progress import progress_bar
from tinystories.random_state import keep_random_state
from tinystories.run_files import DATA_REPORT
from tinystories.training.distributed import on_one_process
from tinystories.training.guards.causality import check_causality, check_positions
from tinystories.training.guards.corpus import check_kind, check_near_copies, check_overlap, check_sizes, check_text
from tinystories.training.guards.graphemes import check_graphemes
from tinystories.training.guards.initial import check_initial_weights
from tinystories.training.guards.loss import check_fresh_loss, check_known_loss, check_next_token_loss
from tinystories.training.guards.numbers import NumbersGuard
from tinystories.training.guards.overfitting import check_overfitting
from tinystories.training.guards.paths import check_paths
from tinystories.training.guards.probe import probe_of
from tinystories.training.guards.reference import check_reference
from tinystories.training.guards.reshuffled import StoriesOfEpochs, check_reshuffled
from tinystories.training.guards.rows import check_labels, check_rows
from tinystories.training.guards.sampler import Walk, check_visits, walk
from tinystories.training.guards.samples import Sample
from tinystories.training.guards.sources import check_division, check_sources
from tinystories.training.guards.step import check_schedule, check_step
from tinystories.training.guards.tokenizer import check_tokenizer, check_tokenizer_training, check_vocabulary
from tinystories.training.guards.updates import check_weights
from tinystories.training.recipe_trainer import RecipeTrainer
from tinystories.training.streaming import check_stream


logger = logging.getLogger(__name__)

SAMPLE_STORIES = 250
OF_THE_STORIES = (  # guards of all training stories
    *("sizes", "text", "graphemes", "validation", "division", "packed rows", "tokenizer training", "near-copies"),
    "kind of text",
)


def run_guards(trainer: RecipeTrainer, corpus: Corpus, numbers: NumbersGuard) -> dict[str, str]:
    """Run all guards before the first step; returns what each one found, by name.

    Most run on the first process; all processes walk through their rows and rehearse steps together. If one fails, it
    fails for all.
    """
    begin = time.process_time()
    with keep_random_state(trainer.args.device):  # a run with guards and one without draw the same random numbers
        walks = walk(trainer, Sample())
        findings = on_one_process(lambda: _run_on_one_process(trainer, corpus, numbers, walks))
        if trainer.stream is not None:
            findings["stream"] = passed("stream", lambda: check_stream(trainer))
        findings["learning rates"] = passed("learning rates", lambda: check_schedule(trainer))
        findings["step"] = passed("step", lambda: check_step(trainer))
    log_summary("guards", findings, time.process_time() - begin, f"; {DATA_REPORT} says what each found")
    return findings


def _run_on_one_process(
    trainer: RecipeTrainer, corpus: Corpus, numbers: NumbersGuard, walks: list[Walk]
) -> dict[str, str]:
    """walks: of all processes (`walk`)."""
    tokenizer, data, sample = trainer.processing_class, trainer.recipe.data, Sample()
    texts = [*sample.texts(corpus.train, SAMPLE_STORIES), *sample.texts(corpus.validation, SAMPLE_STORIES)]
    drawn = data.validation_file is None and data.dataset_name is None
    train_hashes, validation_hashes = story_hashes(corpus.train), story_hashes(corpus.validation)
    training, continued = trainer.recipe.training, trainer.recipe.model.model_name_or_path is not None
    fixed = continued or training.resume or training.resume_from_checkpoint is not None
    guards: dict[str, Callable[[], str]] = {
        "sizes": lambda: check_sizes(corpus.train, corpus.validation),
        "text": lambda: check_text(corpus.train, sample),
        "tokenizer": lambda: check_tokenizer(tokenizer, texts, sample),
        "graphemes": lambda: check_graphemes(tokenizer, [corpus.train, corpus.validation], sample, fixed),
        "vocabulary": lambda: check_vocabulary(trainer),
        "weights": lambda: check_weights(trainer.model),
        "labels": lambda: check_labels(trainer, sample),
        "visits": lambda: check_visits(trainer, walks),
        "validation": lambda: check_overlap(trainer, corpus.train, train_hashes, validation_hashes),
        "sources": lambda: check_sources(corpus, data),
        "division": lambda: check_division(train_hashes, validation_hashes, data),
        "packed rows": lambda: _check_packing(trainer, corpus, sample),
        "tokenizer training": lambda: check_tokenizer_training(tokenizer, corpus.train, trainer.recipe),
        "near-copies": lambda: check_near_copies(corpus.train, corpus.validation, train_hashes, drawn, sample),
        "kind of text": lambda: check_kind(corpus.train, corpus.validation, sample),
        "scored stories": numbers.check_rows,
        "next-token loss": lambda: check_next_token_loss(trainer),
        **(
            {"known loss": lambda: check_known_loss(trainer)}
            if continued
            else {
                "fresh weights": lambda: check_initial_weights(trainer.model, trainer.recipe.model),
                "fresh loss": lambda: check_fresh_loss(trainer),
            }
        ),
        **_guards_of_the_model(trainer),
        "overfitting": lambda: check_overfitting(trainer),
    }
    if trainer.stream is not None:
        guards |= {name: _of_the_sample(guards[name]) for name in OF_THE_STORIES}
    found = {}
    with progress_bar(total=len(guards), desc="guards") as bar:
        for name, check in guards.items():
            bar.set_postfix_str(name)
            found[name] = passed(name, check)
            bar.update()
    return found


def _check_packing(trainer: RecipeTrainer, corpus: Corpus, sample: Sample) -> str:
    """With `reshuffle_stories` each later epoch is compared with the corpus too, when it begins."""
    rows, tokenizer = trainer.train_dataset, trainer.processing_class
    if not isinstance(rows, ReshuffledRows):
        return check_rows(rows, corpus.train, tokenizer, trainer.recipe.data.align_to_stories, sample)
    compared = StoriesOfEpochs(rows, corpus.train, tokenizer)
    trainer.check_epoch = compared.compare
    return check_reshuffled(trainer, compared, sample)


def _of_the_sample(check: Callable[[], str]) -> Callable[[], str]:
    return lambda: f"only of the first stories of the stream: {check()}"


def _checkpointing(args: TrainingArguments) -> dict[str, Any] | None:
    """The settings of activation checkpointing, which earlier transformers call gradient checkpointing; None: off."""
    for name in ("activation_checkpointing", "gradient_checkpointing"):
        if getattr(args, name, None):
            return getattr(args, f"{name}_kwargs") or {}
    return None


def _guards_of_the_model(trainer: RecipeTrainer) -> dict[str, Callable[[], str]]:
    """They share one float64 copy of the model, made by the first of them."""
    probe = cache(lambda: probe_of(trainer))
    checkpointing = _checkpointing(trainer.args)
    batch = cache(lambda: trainer.data_collator([trainer.train_dataset[probe().number]]))
    guards = {
        "reference": lambda: check_reference(probe(), batch(), checkpointing),
        "causality": lambda: check_causality(probe()),
        "paths": lambda: check_paths(probe()),
    }
    if trainer.recipe.data.isolate_stories:
        guards["positions"] = lambda: check_positions(batch(), trainer.processing_class.bos_token_id)
    return guards


def passed(name: str, check: Callable[[], str]) -> str:
    """What `check` found, logged with its processor time. Raises GuardError: what it found is a mistake."""
    begin = time.process_time()
    found = check()
    logger.debug("guard passed: %s: %s (%.1f s)", name, found, time.process_time() - begin)
    return found


def log_summary(what: str, findings: dict[str, str], seconds: float, where: str = "") -> None:
    """A line for all guards, and one for each that says that it could not check. where: more words for the first."""
    unchecked = {name: found for name, found in findings.items() if found.startswith("not ") or "not checked" in found}
    number = len(findings) - len(unchecked)
    logger.info("%s: %d passed in %.1f s of processor time%s", what, number, seconds, where)
    for name, found in unchecked.items():
        logger.info("  %s: %s", name, found)
