"""Train a story-writing language model from a recipe: text to checkpoint in one command.

    python run_clm.py configs/demo.yaml
    python run_clm.py configs/tinystories-cpu.yaml --train_file stories.txt --learning_rate 1e-3

The run folder (`output_dir`) ends as a complete checkpoint with the best weights; every `checkpoint-N` in it is one
too. recipe.json holds every setting, all_results.json every number, samples.jsonl the stories written on the way.
"""

import logging
import os
import shlex

import torch
from transformers import PreTrainedTokenizerBase, set_seed

from tinystories.callbacks import LossGuard, SampleStories, sample_story
from tinystories.checkpoint import describe_model, load_checkpoint, new_model, write_card
from tinystories.console import run_command
from tinystories.continuation import continued_model, settle_continued
from tinystories.corpus import Corpus, dataset_key, load_corpus, pick_stories
from tinystories.errors import UserError, one_line
from tinystories.guards import run_guards
from tinystories.packing import PackedRows, pack
from tinystories.processes import check_launch, on_one_process
from tinystories.recipe import Recipe, RunArguments, read_recipe
from tinystories.run_folder import check_resumed, check_run_folder, prepare_run_folder, step_of
from tinystories.scoring import score, scoring_rows
from tinystories.tokenization import describe, load_or_train_tokenizer, tokenizer_report
from tinystories.trainer import StoryTrainer


logger = logging.getLogger("tinystories")


def main(argv: list[str]) -> None:
    recipe = read_recipe(argv)
    training = recipe.training
    if not training.should_log:
        logger.setLevel(logging.ERROR)
    check_launch(training)
    if recipe.model.model_name_or_path is not None:
        settle_continued(recipe)
    checkpoint = on_one_process(lambda: check_run_folder(training))
    set_seed(training.seed)
    use_compiler_if_it_works(training)

    corpus, tokenizer, packed = prepare_data(recipe)
    if checkpoint is not None:
        check_resumed(checkpoint, recipe, corpus.report)
    trainer = make_trainer(recipe, corpus, tokenizer, packed)
    recipe.values |= {"torch_compile": training.torch_compile, "vocab_size": len(tokenizer)}
    finished = checkpoint is not None and trainer.restore_finished(checkpoint)
    metrics = on_one_process(lambda: prepare_run_folder(recipe, corpus.report, checkpoint))
    if finished:
        logger.info("the training had come to its end: what is left is the final score")
    else:
        metrics = trainer.train(resume_from_checkpoint=checkpoint).metrics
        if checkpoint is not None:
            metrics["resumed_from_step"] = step_of(checkpoint)  # runtime and train_loss are those of the steps since
    trainer.save_metrics("train", metrics)
    trainer.save_model(_internal_call=True)  # saves and does not push: the push comes last, with the final numbers
    trainer.save_state()
    if trainer.is_world_process_zero():
        finish(trainer, corpus)
        if training.push_to_hub:
            publish(trainer)


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
    recipe: Recipe, corpus: Corpus, tokenizer: PreTrainedTokenizerBase, packed: PackedRows
) -> StoryTrainer:
    """Model and Trainer, with the guards passed: from here on the run is sound."""
    if recipe.model.model_name_or_path is not None:
        model = continued_model(recipe, tokenizer)
    else:
        model = new_model(recipe.model, tokenizer, recipe.data.block_size)
    logger.info(describe_model(model))
    evaluated = pick_stories(corpus.validation, recipe.data.max_eval_samples)
    evaluation = scoring_rows(evaluated, tokenizer, model.config.max_position_embeddings)
    loss_guard = LossGuard()
    callbacks = [loss_guard, SampleStories(recipe.training.sample_prompts)]
    try:
        trainer = StoryTrainer(model, tokenizer, recipe, packed, evaluation, corpus.report, callbacks)
    except (ImportError, RuntimeError) as error:  # a tracker or an option whose package is not installed
        raise UserError(f"the Trainer cannot start: {one_line(error)}") from error
    if recipe.training.skip_guards:
        logger.warning("GUARDS SKIPPED: nothing checks that this run learns what it should")
    else:
        corpus.report["guards"] = on_one_process(lambda: run_guards(trainer, corpus))
        loss_guard.trainer = trainer
    return trainer


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


def finish(trainer: StoryTrainer, corpus: Corpus) -> None:
    """Score the checkpoint as it lies on disk, on every validation story, and show what it writes."""
    folder = trainer.args.output_dir
    model, tokenizer = load_checkpoint(folder, trainer.args.device)
    stories = scoring_rows(corpus.validation, tokenizer, model.config.max_position_embeddings)
    final = score(model, stories, tokenizer.pad_token_id, trainer.args.eval_batch_size).as_dict()
    trainer.save_metrics("eval", {f"eval_{name}": value for name, value in final.items()})
    write_card(folder, model, trainer.card_facts(final))
    best = trainer.args.load_best_model_at_end and trainer.state.best_model_checkpoint
    logger.info("weights: %s", f"the best checkpoint, {best}" if best else "those of the last step")
    logger.info(
        "all %s validation stories: loss %.4f nats per token, perplexity %.3f, %.4f bits per byte",
        f"{final['stories']:,}",
        final["loss"],
        final["perplexity"],
        final["bits_per_byte"],
    )
    prompt = next(iter(trainer.args.sample_prompts), "Once upon a time")
    print(sample_story(model, tokenizer, prompt, trainer.args.seed))
    print(f'\nYour model: {folder}\nWrite more: python run_generation.py {folder} "{prompt}"')


def publish(trainer: StoryTrainer) -> None:
    try:
        print(f"Published: {trainer.push_to_hub().commit_url}")
    except UserError as error:
        options = ["--revision", trainer.args.hub_revision] if trainer.args.hub_revision else []
        options += [] if trainer.args.hub_private_repo else ["--public"]
        again = shlex.join(["python", "push_to_hub.py", trainer.args.output_dir, trainer.hub_model_id, *options])
        raise UserError(f"the run is finished and saved, but not published: {error}. Then: {again}") from error


if __name__ == "__main__":
    run_command(main)
