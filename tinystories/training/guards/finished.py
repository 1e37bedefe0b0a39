"""What is checked at the end of a run, before its numbers stand on a card: weights, scores, records, settings.

All of it is read again from the run folder, as somebody who downloads it would. A failure leaves the weights there, and
removes the scores.
"""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from huggingface_hub import ModelCard
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tinystories.data.corpus import Corpus, dataset_key, pick_stories
from tinystories.errors import GuardError
from tinystories.evaluation.ngrams import ngram_loss
from tinystories.evaluation.scoring import ScoringRows
from tinystories.evaluation.second_path import NotKnownError, SecondPath, StoryTokens, read_weights
from tinystories.random_state import keep_random_state
from tinystories.run_files import ALL_RESULTS, CARD, Run
from tinystories.training.guards.numbers import (
    BF16_TOLERANCE,
    FLOAT32_TOLERANCE,
    check_likelihoods,
    check_scored_rows,
    check_sums,
    reported,
)
from tinystories.training.guards.records import (
    check_best,
    check_derived,
    check_evaluation_files,
    check_speed,
    check_tokens_seen,
    check_training_flops,
    evaluations_of,
    plain,
)
from tinystories.training.guards.run import log_summary, passed
from tinystories.training.guards.saved import check_saved_model
from tinystories.training.guards.settings import (
    check_code,
    check_presets,
    check_saved_tokenizer,
    check_specials,
    check_story_ends,
)
from tinystories.training.guards.weights import check_kept, check_whole
from tinystories.training.recipe_trainer import RecipeTrainer


logger = logging.getLogger(__name__)

EXACT = (1e-4, 5e-4)  # nats per token between float32 and float64, as BF16_TOLERANCE; measured: 3e-7 and 1e-6
TEXTS = 20
SCORES = (ALL_RESULTS, "eval_results.json")
NGRAM_TOKENS = 200_000
FAR_BETTER = 0.2  # of what counting runs of tokens gives; the best published models of such stories have 0.25


@dataclass
class FinalScore:
    """The final score and what it was computed from. nll: by row of `rows`."""

    metrics: dict[str, Any]
    rows: ScoringRows
    nll: Sequence[np.ndarray]
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


def run_finished_guards(trainer: RecipeTrainer, corpus: Corpus, final: FinalScore) -> dict[str, str]:
    """Check a finished run; returns what each check found.

    Raises:
        GuardError: what was wrong first. The scores are removed, the weights stay.
    """
    folder = trainer.args.output_dir
    begin = time.process_time()
    try:
        with keep_random_state(trainer.args.device):
            found = {name: passed(name, check) for name, check in _checks(trainer, corpus, final).items()}
    except GuardError as error:
        for name in SCORES:
            Path(folder, name).unlink(missing_ok=True)
        raise GuardError(f"{error}; the weights are in {folder}, without scores and card") from error
    log_summary("guards of the finished run", found, time.process_time() - begin)
    return found


def _checks(trainer: RecipeTrainer, corpus: Corpus, final: FinalScore) -> dict[str, Callable[[], str]]:
    folder = trainer.args.output_dir
    run, weights, tokens = Run(folder), read_weights(folder), StoryTokens(folder)
    texts = list(corpus.validation["text"])
    config = final.model.config.to_dict()
    network = _network(config, weights)
    trained = None if trainer.is_fsdp_enabled else trainer.model
    checks = {
        "weights": lambda: check_whole(folder, weights),
        "saved model": lambda: check_saved_model(folder, trainer.train_dataset, trained),
        "weights kept": lambda: check_kept(run, weights),
        "best": lambda: check_best(run),
        "code": lambda: check_code(folder),
        "special tokens": lambda: check_specials(folder, tokens),
        "presets": lambda: check_presets(folder, final.model.config.max_position_embeddings),
        "saved tokenizer": lambda: check_saved_tokenizer(tokens, trainer.processing_class, texts[:TEXTS]),
        "final score": lambda: check_final(final, texts, tokens, network),
        "validation stories": lambda: check_unchanged(run, corpus.validation),
        "evaluation of the same step": lambda: check_same_step(trainer, corpus, final, run),
        "derived numbers": lambda: check_derived(run),
        "records": lambda: check_evaluation_files(run),
        "tokens seen": lambda: check_tokens_seen(run, config),
        "training FLOPs": lambda: check_training_flops(run, config),
        "speed": lambda: check_speed(run),
        "plausible": lambda: check_plausible(final, tokens, corpus.train, len(trainer.processing_class)),
    }
    if network is not None:
        text = texts[int(np.random.default_rng().integers(len(texts)))]
        prompt = text[: max(1, min(40, len(text) // 8))]
        checks["story ends"] = lambda: check_story_ends(final.model, network, tokens, prompt)
    return checks


def _network(config: dict[str, Any], weights: dict[str, np.ndarray]) -> SecondPath | None:
    try:
        return SecondPath(config, weights)
    except NotKnownError as error:
        logger.warning("the scores are not computed a second time: %s", error)
        return None


def check_final(final: FinalScore, texts: list[str], tokens: StoryTokens, network: SecondPath | None) -> str:
    """The final score is over all validation stories, and a second computation gives the same."""
    context = final.model.config.max_position_embeddings
    found = check_scored_rows(final.rows, texts, tokens, context, "validation stories")
    check_sums(final.metrics, reported(final.nll, final.rows), "the final score")
    if network is not None:
        tolerance = EXACT if final.model.device.type == "cpu" else FLOAT32_TOLERANCE  # others may round to TF32
        found += "; " + check_likelihoods(network, final.rows.rows, final.nll, tolerance, "the final score", number=4)
    return found


def check_unchanged(run: Run, validation: datasets.Dataset) -> str:
    """The stories that were scored are those that the run recorded when it began."""
    recorded = plain(run.data).get("began_with", {}).get("validation")
    if recorded is not None and recorded != dataset_key(validation):
        raise GuardError("the stories of the final score are not the validation stories that the run began with")
    return f"{len(validation):,}, those of the beginning"


def check_same_step(trainer: RecipeTrainer, corpus: Corpus, final: FinalScore, run: Run) -> str:
    """The final score, on the stories of the evaluations, is what the evaluation of that step gave."""
    state, recipe = plain(run.state), plain(run.recipe)
    best = state.get("best_global_step") if recipe.get("load_best_model_at_end") else None
    step = best if best is not None else state.get("global_step")
    logged = next((row["eval_loss"] for row in evaluations_of(run) if row["step"] == step), None)
    if logged is None:
        return f"step {step} was not evaluated"
    sums: dict[int, list[float]] = {}
    for row, values in zip(final.rows.rows, final.nll, strict=True):
        nats = sums.setdefault(row["story"], [0.0, 0])
        part = values[row["first_target"] : len(row["input_ids"])]
        nats[0], nats[1] = nats[0] + float(part.sum()), nats[1] + len(part)
    by_text = {text: sums[number] for number, text in enumerate(corpus.validation["text"]) if number in sums}
    evaluated = pick_stories(corpus.validation, trainer.recipe.data.max_eval_samples)["text"]
    both = np.array([by_text[text] for text in evaluated if text in by_text])
    loss = both[:, 0].sum() / both[:, 1].sum()
    tolerance = BF16_TOLERANCE[0] if trainer.args.bf16 or trainer.args.fp16 else 2e-3
    if not abs(loss - logged) <= tolerance:
        raise GuardError(
            f"the evaluation of step {step} gave {logged:.4f} nats per token, and the saved weights have {loss:.4f} on "
            "the same stories: they are not the weights of that step, or one of the two scores is wrong"
        )
    return f"step {step} had {logged:.4f}, the saved weights {loss:.4f} on the same stories"


def check_plausible(final: FinalScore, tokens: StoryTokens, train: datasets.Dataset, vocabulary: int) -> str:
    """The loss is between what is too good and that of a uniform guess. Only said: honest data can be anything."""
    loss, even = final.metrics["loss"], math.log(vocabulary)
    if loss > even:
        logger.warning("the final loss is %.3f, and a uniform guess has %.3f: nothing was learned", loss, even)
    counted = [tokens.encode(text) for text in _some(train, NGRAM_TOKENS)]
    scored = [tokens.encode(text) for text in pick_stories_of(final, 40)]
    baseline = ngram_loss(counted, scored)
    if loss < FAR_BETTER * baseline and baseline > 0.5:
        logger.warning(
            "the final loss is %.3f nats per token, and counting runs of tokens in the training stories gives %.3f: "
            "that is far better than honest models are; look for stories in both, or for a leak",
            loss,
            baseline,
        )
    return f"{loss:.3f} nats per token; counting runs of tokens gives {baseline:.3f}, a uniform guess {even:.3f}"


def pick_stories_of(final: FinalScore, number: int) -> list[str]:
    """The texts of some scored stories."""
    rows = [row for row in final.rows.rows if row["first_target"] == 1]
    chosen = np.random.default_rng().permutation(len(rows))[:number]
    return [str(final.tokenizer.decode(rows[i]["input_ids"], skip_special_tokens=True)) for i in chosen]


def _some(stories: datasets.Dataset, most_tokens: int) -> list[str]:
    """Stories from all over the data, of about that many tokens in all (of four bytes)."""
    places = np.random.default_rng().permutation(len(stories))[: max(1, most_tokens // 100)]
    texts, size = [], 0
    for text in stories.select(np.sort(places))["text"] if len(places) else []:
        texts.append(text)
        size += len(text)
        if size > 4 * most_tokens:
            break
    return texts


def check_new_card(folder: str | Path, final: dict[str, Any]) -> str:
    """As `check_card`; a card that is wrong is removed."""
    try:
        return check_card(folder, final)
    except GuardError as error:
        Path(folder, CARD).unlink()
        raise GuardError(f"{error}; the weights are in {folder}, without the card") from error


def check_card(folder: str | Path, final: dict[str, Any]) -> str:
    """The card shows the final score. final: without `eval_`."""
    path = Path(folder, CARD)
    results = {result.metric_type: result.metric_value for result in ModelCard.load(path).data.eval_results or []}
    text = path.read_text(encoding="utf-8")
    for name in ("perplexity", "bits_per_byte"):
        if not math.isfinite(final[name]):
            continue
        shown = f"{final[name]:.3f}" if name == "perplexity" else f"{final[name]:.4f}"
        if results.get(name) != round(final[name], 4) or shown not in text:
            raise GuardError(
                f"the card gives a {name} of {results.get(name)}, and the final score is {final[name]:.4f}"
            )
    return "shows the final score"
