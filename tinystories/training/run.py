"""One run from its recipe to the finished, scored and described checkpoint."""

import logging
import sys

from transformers import set_seed

from tinystories.checkpoint.loading import load_checkpoint
from tinystories.config.arguments import RunArguments
from tinystories.config.recipe import Recipe
from tinystories.console import printable, shell_line
from tinystories.data.corpus import Corpus
from tinystories.data.reshuffling import check_reshuffling
from tinystories.errors import UserError, one_line
from tinystories.evaluation.scoring import nll_of_rows, score_from_tokens, scoring_rows
from tinystories.generation.sample import fitting_prompts, sample_story
from tinystories.progress import wrapped
from tinystories.provenance import Stopwatch
from tinystories.reporting.card_facts import read_facts
from tinystories.reporting.model_card import write_card
from tinystories.run_files import step_of
from tinystories.training.budget import check_room_for_checkpoints
from tinystories.training.build import make_trainer, prepare_data
from tinystories.training.compiler import compiler_cache, use_compiler_if_it_works
from tinystories.training.distributed import check_launch, on_one_process
from tinystories.training.finetuning import apply_checkpoint
from tinystories.training.guards.finished import FinalScore, check_new_card, run_finished_guards
from tinystories.training.optimizers import check_optimization
from tinystories.training.provenance import RunProvenance
from tinystories.training.resume import check_resumed, check_run_folder, prepare_run_folder, run_folder_taken
from tinystories.training.streaming import check_streaming
from tinystories.training.trainer import StoryTrainer


logger = logging.getLogger("tinystories")


def run(recipe: Recipe) -> None:
    """Train as the recipe says, or resume; score, describe and, where it asks for that, publish the result.

    Raises:
        UserError: a mistake in the recipe or the data, a failed guard, too little disk space, a push that failed.
    """
    training, began = recipe.training, Stopwatch()
    if not training.should_log:
        logger.setLevel(logging.ERROR)
    elif training.log_level != "passive":
        logger.setLevel(training.get_process_log_level())
    check_launch(training)
    check_optimization(training)
    check_streaming(recipe)
    check_reshuffling(recipe)
    with run_folder_taken(training), compiler_cache(training):
        _run(recipe, began)


def _run(recipe: Recipe, began: Stopwatch) -> None:
    training = recipe.training
    if recipe.model.model_name_or_path is not None:
        apply_checkpoint(recipe)
    checkpoint = on_one_process(lambda: check_run_folder(training))
    set_seed(training.seed)
    use_compiler_if_it_works(training)

    corpus, tokenizer, packed = prepare_data(recipe, checkpoint)
    if checkpoint is not None:
        check_resumed(checkpoint, recipe, corpus.report)
    trainer = make_trainer(recipe, corpus, tokenizer, packed)
    recipe.values |= {"torch_compile": training.torch_compile, "vocab_size": len(tokenizer)}
    finished = checkpoint is not None and trainer.restore_finished(checkpoint)
    if not finished:
        on_one_process(lambda: check_room_for_checkpoints(trainer.model, training, trainer.num_rows))
    metrics = on_one_process(lambda: prepare_run_folder(recipe, corpus.report, checkpoint))
    provenance = RunProvenance(recipe, corpus, began) if trainer.is_world_process_zero() else None
    if provenance is not None:
        provenance.write()
    if finished:
        logger.info("the training had ended before: what is left is the final score")
        trainer.energy.counted = metrics.get("energy_counted") or trainer.energy.counted  # or that of the checkpoint
    else:
        metrics = trainer.train(resume_from_checkpoint=checkpoint).metrics
        metrics["elapsed_seconds"] = trainer.throughput.progress()["elapsed_seconds"]  # of all sessions
        if trainer.stream is not None:
            metrics |= trainer.stream.numbers()
        if checkpoint is not None:
            metrics["resumed_from_step"] = step_of(checkpoint)  # runtime and train_loss are those of the steps since
    if trainer.flops.total is not None:
        metrics["training_flops"] = trainer.flops.total
    metrics |= trainer.energy.result(training.watts_per_core)
    trainer.save_metrics("train", metrics)
    trainer.save_model(_internal_call=True)  # saves and does not push: the push comes last, with the final numbers
    trainer.save_state()
    if provenance is not None:  # as on the first process
        finish(trainer, training, corpus)
        provenance.write()  # complete, with its time
        if training.push_to_hub:
            publish(trainer, training)


def finish(trainer: StoryTrainer, training: RunArguments, corpus: Corpus) -> None:
    """Score the saved checkpoint on every validation story; write its card, a sample story and the report."""
    folder = training.output_dir
    model, tokenizer = load_checkpoint(folder, training.device)
    stories = scoring_rows(corpus.validation, tokenizer, model.config.max_position_embeddings)
    nll = nll_of_rows(model, stories.rows, tokenizer.pad_token_id, training.eval_batch_size)
    final = score_from_tokens(nll, stories).as_dict()
    trainer.save_metrics("eval", {f"eval_{name}": value for name, value in final.items()})
    if not training.skip_guards:
        run_finished_guards(trainer, corpus, FinalScore(final, stories, nll, model, tokenizer))
    facts = read_facts(folder)
    if facts is None:
        raise UserError(f"{folder}: its recipe.json, data_report.json or trainer_state.json was removed during the run")
    write_card(folder, model, facts)
    if not training.skip_guards:
        check_new_card(folder, final)
    best = training.load_best_model_at_end and trainer.state.best_model_checkpoint
    averaged = f", averaged with ema_decay {training.ema_decay:g}" if training.ema_decay else ""
    logger.info("weights: %s%s", f"the best checkpoint, {best}" if best else "those of the last step", averaged)
    logger.info(
        "all %s validation stories: loss %.4f nats per token, perplexity %.3f, %.4f bits per byte",
        f"{final['stories']:,}",
        final["loss"],
        final["perplexity"],
        final["bits_per_byte"],
    )
    beginnings = (*training.sample_prompts, "Once upon a time", "Once")
    fitting = fitting_prompts(beginnings, tokenizer, model.config.max_position_embeddings)[:1]
    for prompt in fitting:
        story = "\n".join(map(printable, sample_story(model, tokenizer, prompt, training.seed).split("\n")))
        print(wrapped(story, indent="") if sys.stdout.isatty() else story)
    print(f"\nYour model: {folder}")
    for prompt in fitting:
        print(f"Write more: {shell_line('generate', folder, prompt)}")
    report(folder)


def report(folder: str) -> None:
    """Write the report. The run is finished and saved: a page that cannot be written does not make it fail."""
    try:
        from tinystories.reporting.run_report import write_report  # matplotlib: only now, a run must start fast

        print(f"Report: {write_report(folder)}")
    except Exception as error:
        logger.warning("no report (%s tries again): %s", shell_line("report", folder), one_line(error))


def publish(trainer: StoryTrainer, training: RunArguments) -> None:
    try:
        commit = trainer.push_to_hub()
        if commit is not None:  # as on the first process
            print(f"Published: {commit.commit_url}")
    except UserError as error:
        options = ["--revision", training.hub_revision] if training.hub_revision else []
        options += [] if training.hub_private_repo else ["--public"]
        again = shell_line("push", training.output_dir, str(trainer.hub_model_id), options=options)
        raise UserError(f"the run is finished and saved, but not published: {error}. Then: {again}") from error
