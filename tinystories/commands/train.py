"""Train a story-writing language model from a recipe: text to checkpoint in one command.

    python run_clm.py configs/demo.yaml
    python run_clm.py configs/tinystories-cpu.yaml --train_file stories.txt --learning_rate 1e-3

The run folder (`output_dir`) ends as a complete checkpoint with the best weights; every `checkpoint-N` in it is one
too. recipe.json holds every setting, all_results.json every number, samples.jsonl the stories written on the way, and
report/index.html shows it all.
"""

import logging
import shlex

from transformers import set_seed

from tinystories.checkpoint.loading import load_checkpoint
from tinystories.config.recipe import read_recipe
from tinystories.data.corpus import Corpus
from tinystories.errors import UserError, one_line
from tinystories.evaluation.scoring import score, scoring_rows
from tinystories.generation.sample import sample_story
from tinystories.reporting.model_card import read_facts, write_card
from tinystories.reporting.run_report import write_report
from tinystories.run_files import step_of
from tinystories.training.budget import check_room_for_checkpoints
from tinystories.training.build import make_trainer, prepare_data, use_compiler_if_it_works
from tinystories.training.distributed import check_launch, on_one_process
from tinystories.training.finetuning import settle_continued
from tinystories.training.optimizers import check_optimization
from tinystories.training.resume import check_resumed, check_run_folder, prepare_run_folder
from tinystories.training.trainer import StoryTrainer


logger = logging.getLogger("tinystories")


def main(argv: list[str]) -> None:
    recipe = read_recipe(argv)
    training = recipe.training
    if not training.should_log:
        logger.setLevel(logging.ERROR)
    check_launch(training)
    check_optimization(training)
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
    if not finished:
        on_one_process(lambda: check_room_for_checkpoints(trainer.model, training, len(packed.rows)))
    metrics = on_one_process(lambda: prepare_run_folder(recipe, corpus.report, checkpoint))
    if finished:
        logger.info("the training had come to its end: what is left is the final score")
    else:
        metrics = trainer.train(resume_from_checkpoint=checkpoint).metrics
        metrics["elapsed_seconds"] = trainer.meters.progress()["elapsed_seconds"]  # of all sessions
        if checkpoint is not None:
            metrics["resumed_from_step"] = step_of(checkpoint)  # runtime and train_loss are those of the steps since
    trainer.save_metrics("train", metrics)
    trainer.save_model(_internal_call=True)  # saves and does not push: the push comes last, with the final numbers
    trainer.save_state()
    if trainer.is_world_process_zero():
        finish(trainer, corpus)
        if training.push_to_hub:
            publish(trainer)


def finish(trainer: StoryTrainer, corpus: Corpus) -> None:
    """Score the checkpoint as it lies on disk, on every validation story, and show what it writes."""
    folder = trainer.args.output_dir
    model, tokenizer = load_checkpoint(folder, trainer.args.device)
    stories = scoring_rows(corpus.validation, tokenizer, model.config.max_position_embeddings)
    final = score(model, stories, tokenizer.pad_token_id, trainer.args.eval_batch_size).as_dict()
    trainer.save_metrics("eval", {f"eval_{name}": value for name, value in final.items()})
    facts = read_facts(folder)
    if facts is not None:  # as all files of this run lie there
        write_card(folder, model, facts)
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
    report(folder)


def report(folder: str) -> None:
    """The last thing of a run, which is finished and saved: whatever goes wrong with a page is no reason to fail."""
    try:
        print(f"Report: {write_report(folder)}")
    except Exception as error:
        logger.warning("no report (python report_run.py %s tries again): %s", folder, one_line(error))


def publish(trainer: StoryTrainer) -> None:
    try:
        print(f"Published: {trainer.push_to_hub().commit_url}")
    except UserError as error:
        options = ["--revision", trainer.args.hub_revision] if trainer.args.hub_revision else []
        options += [] if trainer.args.hub_private_repo else ["--public"]
        again = shlex.join(["python", "push_to_hub.py", trainer.args.output_dir, trainer.hub_model_id, *options])
        raise UserError(f"the run is finished and saved, but not published: {error}. Then: {again}") from error
