"""What is wrong with a model, if anything: one verdict (rules.py), the numbers that it rests on, and what to do.

    python check_run.py runs/demo
    python check_run.py someone/model --data my-stories.txt

A model without the records of a run is measured in the same way; what only the records say is "not known".
"""

import logging
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tinystories.checkpoint.loading import describe_model, load_checkpoint
from tinystories.checks.invariants import Invariants, Opened, check_invariants, local_folder
from tinystories.checks.measurements import (
    human_repeated_share,
    is_lossless,
    next_tokens,
    read_stories,
    vocabulary_of,
    write_stories,
)
from tinystories.checks.rules import Measurements, Records, verdict
from tinystories.config.keys import ReadingArguments
from tinystories.data.corpus import pick_stories
from tinystories.data.held_out import find_held_out
from tinystories.errors import UserError
from tinystories.generation.sample import check_prompt
from tinystories.run_files import Run


logger = logging.getLogger(__name__)


def records_of(run: Run) -> Records:
    """What the verdict needs of a run, or of a checkpoint that may have no records."""
    data = run.data
    history = run.state.get("log_history", []) if run.state else []
    return Records(
        recipe=run.recipe,
        step=run.state["global_step"] if run.state else None,
        planned_steps=run.state.get("max_steps") if run.state else None,
        tokens_seen=run.state.get("num_input_tokens_seen") if run.state else None,
        dataset=data.get("train", {}).get("source") if data else None,
        tokenizer_size=data.get("tokenizer", {}).get("vocab_size") if data else None,
        bits_per_byte=run.results.get("eval_bits_per_byte") if run.results else None,
        validation_key=data.get("began_with", {}).get("validation") if data else None,
        evaluations=[row["eval_loss"] for row in history if "eval_loss" in row],
    )


@dataclass
class Texts:
    """Stories to read: held out, and those trained on where they are known. `own`: known to be those of the run."""

    held_out: list[str]
    training: list[str] | None
    source: str
    own: bool


def find_texts(run: Run, data: str | None, number: int, reading: ReadingArguments | None = None) -> Texts:
    """At most `number` stories of each kind. data: a file of held-out stories (default: those of the run), read as
    `reading` says.
    """
    found = find_held_out(run, data, reading=reading or ReadingArguments())
    held_out = list(pick_stories(found.stories, number)["text"])
    training = None
    if found.training is not None and found.unchanged:
        training = list(pick_stories(found.training, number)["text"])
    if found.origin == "named":
        source = str(data)
    elif found.origin == "run":
        source = f"{len(held_out):,} of the {len(found.stories):,} validation stories of its run"
        source += "" if found.unchanged else ", whose text has changed since or was not recorded"
    else:
        source = "the embedded sample corpus: it fits models trained on it, name another with --data"
        source += f" (those of its run cannot be read: {found.unreadable})" if found.unreadable else ""
    return Texts(held_out, training, source, own=found.origin == "run" and found.unchanged)


def diagnose(
    checkpoint: str,
    revision: str | None = None,
    data: str | None = None,
    prompt: str | None = None,
    stories: int = 200,
    device: str = "cpu",
    reading: ReadingArguments | None = None,
) -> dict[str, Any]:
    """Measure a checkpoint (a folder or Hub id) on at most `stories` stories; returns everything found, ready for JSON.

    data: a file of held-out stories (default: those of its run), read as `reading` says. prompt: show the likeliest
    tokens after this.

    Raises:
        UserError: the checkpoint cannot be opened, or its tokenizer has neither BOS nor EOS.
    """
    model, tokenizer = load_checkpoint(checkpoint, device, revision, usable=False)
    if prompt is not None:
        check_prompt(prompt, tokenizer, model.config.max_position_embeddings)
    if tokenizer.bos_token_id is None and tokenizer.eos_token_id is None:
        raise UserError(f"{checkpoint}: its tokenizer has neither BOS nor EOS, so a story has no beginning and no end")
    run = Run(checkpoint, revision)
    records, texts = records_of(run), find_texts(run, data, stories, reading)
    for problem in run.problems:
        logger.warning("%s: %s", checkpoint, problem)
    symptoms = measure(model, tokenizer, records, texts)
    if symptoms.reading is not None and math.isfinite(symptoms.reading.loss):
        symptoms.invariants = _invariants(checkpoint, revision, run, model, tokenizer, texts)
    known = symptoms.reading is not None
    prompt = prompt or next(iter((records.recipe or {}).get("sample_prompts") or []), "Once upon a time")
    return verdict(symptoms) | {
        "checkpoint": checkpoint,
        "model": describe_model(model).removeprefix("model: "),
        "gives_text_back": is_lossless(tokenizer),
        "held_out": texts.source,
        "own_text": texts.own,
        "prompt": prompt,
        "next_tokens": next_tokens(model, tokenizer, prompt) if known else [],
        "symptoms": asdict(symptoms),
    }


def _invariants(
    checkpoint: str,
    revision: str | None,
    run: Run,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Texts,
) -> Invariants:
    folder = local_folder(checkpoint, revision)
    if folder is None:
        return Invariants(not_checked={"files": "they cannot be read from the Hub"})
    return check_invariants(Opened(folder, run, model, tokenizer, texts.held_out, texts.own))


def measure(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, records: Records, texts: Texts) -> Measurements:
    """Everything that the rules need. A tokenizer with more tokens than the model cannot be read with."""
    symptoms = Measurements(
        vocab_size=vocabulary_of(model),
        tokenizer_size=len(tokenizer),
        special_ids=_special_ids_that_differ(model, tokenizer),
        records=records,
        own_text=texts.own,
    )
    if symptoms.tokenizer_size > symptoms.vocab_size:
        return symptoms
    symptoms.reading = read_stories(model, tokenizer, texts.held_out, texts.training)
    if math.isfinite(symptoms.reading.loss):
        if texts.training is not None:
            symptoms.training_loss = read_stories(model, tokenizer, texts.training).loss
        symptoms.writings = write_stories(model, tokenizer, texts.held_out)
        symptoms.human_repeated = human_repeated_share(tokenizer, texts.held_out)
    return symptoms


def _special_ids_that_differ(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, tuple[Any, int]]:
    """BOS and EOS, as far as both state them. A model may have several EOS."""
    differ = {}
    for name in ("bos_token_id", "eos_token_id"):
        of_model, of_tokenizer = getattr(model.config, name, None), getattr(tokenizer, name)
        several = of_model if isinstance(of_model, list) else [of_model]
        if of_model is not None and of_tokenizer is not None and of_tokenizer not in several:
            differ[name] = (of_model, of_tokenizer)
    return differ


def describe(result: dict[str, Any]) -> Iterator[str]:
    """The diagnosis as lines for the terminal; the verdict comes last."""
    s = result["symptoms"]
    yield f"model: {result['model']}"
    yield from _describe_training(s["records"])
    back = "decodes text as it was" if result["gives_text_back"] else "DOES NOT DECODE TEXT AS IT WAS"
    differ = "".join(f"; {name} {a} in the model, {b} in the tokenizer" for name, (a, b) in s["special_ids"].items())
    yield f"tokenizer: {s['tokenizer_size']:,} tokens for a vocabulary of {s['vocab_size']:,}, {back}{differ}"
    if s["reading"] is not None:
        yield from _describe_reading(result["held_out"], s["reading"], s["training_loss"])
        yield f"after {result['prompt']!r}: " + ", ".join(f"{token!r} {p:.3f}" for token, p in result["next_tokens"])
        for name, writing in s["writings"].items():
            yield (
                f"written by {name}: loss {writing['loss']:.2f} by its own probabilities, {writing['repeated']:.1%} of "
                f"runs of four words repeated (human text {s['human_repeated']:.1%}), {writing['ended']:.0%} ended"
            )
    remedy = f" — {result['remedy']}" if result["remedy"] else ""
    yield f"verdict: {result['verdict'].upper()}: {result['reason']}{remedy}"


def _describe_training(records: dict[str, Any]) -> Iterator[str]:
    known = {
        "step": records["step"] and f"{records['step']:,} of {records['planned_steps'] or 0:,}",
        "tokens": records["tokens_seen"] and f"{records['tokens_seen']:,}",
        "trained on": records["dataset"],
    }
    yield "training: " + ", ".join(f"{name} {value or 'not known'}" for name, value in known.items())
    if losses := records["evaluations"]:
        yield f"  loss at its evaluations: first {losses[0]:.3f}, best {min(losses):.3f}, last {losses[-1]:.3f}"


def _describe_reading(source: str, r: dict[str, Any], training_loss: float | None) -> Iterator[str]:
    yield f"held-out text: {r['stories']} stories, {r['tokens']:,} tokens ({source})"
    yield (
        f"  loss {r['loss']:.3f} nats per token, {r['bits_per_byte']:.3f} bits per byte (token frequencies "
        f"{r['unigram_entropy']:.2f}, pairs of tokens {r['pairs_loss']:.2f})"
    )
    same, following, second = r["by_distance"]
    yield f"  token just read {same:.2f}, next token {following:.2f}, the one after it {second:.2f}"
    yield (
        f"  EOS where stories end: probability {r['end_probability']:.2g}, median rank {r['end_median_rank']}; "
        f"elsewhere {r['elsewhere_end_probability']:.2g}"
    )
    if r["article_loss"] is not None:
        yield f"  articles {r['article_loss']:.2f}, other tokens {r['other_loss']:.2f}"
    seen = "not known (its training text cannot be read)" if training_loss is None else f"{training_loss:.3f}"
    yield f"  loss on stories it was trained on: {seen}"
