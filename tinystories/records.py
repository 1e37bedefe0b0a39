"""What a run wrote down beside its weights, and its stories read again: what a checkpoint says of where it comes from.

A checkpoint of somebody else may have none of it. What is missing or damaged is not known, and no error.
"""

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from tinystories.corpus import dataset_key, load_corpus, pick_stories, read_files
from tinystories.errors import UserError
from tinystories.recipe import DataArguments


SAMPLE_CORPUS_STORIES = 400


@dataclass
class Records:
    """What the run wrote down beside the weights; None where it is not known."""

    recipe: dict[str, Any] | None = None
    step: int | None = None
    planned_steps: int | None = None
    tokens_seen: int | None = None
    dataset: str | None = None
    tokenizer_size: int | None = None
    bits_per_byte: float | None = None
    validation_key: str | None = None  # of its validation stories, see corpus.dataset_key
    evaluations: list[float] = field(default_factory=list)  # losses, in the order of the steps


@dataclass
class Texts:
    """Stories to read: held out, and of the training if they can be had. `own`: known to be those of the run."""

    held_out: list[str]
    training: list[str] | None
    source: str
    own: bool


def read_records(checkpoint: str, revision: str | None) -> Records:
    """What stands beside the weights, or in the run folder above a checkpoint-N."""
    folder = Path(checkpoint)
    above = str(folder.parent) if folder.name.startswith("checkpoint-") else checkpoint
    state, results = (_record(checkpoint, name, revision) for name in ("trainer_state.json", "all_results.json"))
    recipe, report = (_record(above, name, revision) for name in ("recipe.json", "data_report.json"))
    history = [row for row in state.get("log_history", []) if isinstance(row, dict) and "eval_loss" in row]
    return Records(
        recipe=recipe or None,
        step=state.get("global_step"),
        planned_steps=state.get("max_steps"),
        tokens_seen=state.get("num_input_tokens_seen"),
        dataset=report.get("train", {}).get("source"),
        tokenizer_size=report.get("tokenizer", {}).get("vocab_size"),
        bits_per_byte=results.get("eval_bits_per_byte"),
        validation_key=report.get("began_with", {}).get("validation"),
        evaluations=[row["eval_loss"] for row in history],
    )


def _record(checkpoint: str, name: str, revision: str | None) -> dict[str, Any]:
    try:
        record = json.loads(Path(cached_file(checkpoint, name, revision=revision)).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):  # missing, damaged, or not on the Hub
        return {}
    return record if isinstance(record, dict) else {}


def find_texts(records: Records, data: str | None, stories: int) -> Texts:
    """The text named by the user, else the run's own held-out stories, else those of the embedded corpus."""
    training, source = None, "the embedded sample corpus: it fits models trained on it, name another with --data"
    if records.recipe is not None:
        known = {item.name: records.recipe[item.name] for item in fields(DataArguments) if item.name in records.recipe}
        try:
            corpus = load_corpus(DataArguments(**known))
            own = dataset_key(corpus.validation) == records.validation_key
            training = list(pick_stories(corpus.train, stories)["text"]) if own else None
            if data is None:
                held_out = list(pick_stories(corpus.validation, stories)["text"])
                number = f"{len(held_out):,} of the {len(corpus.validation):,} validation stories of its run"
                changed = "" if own else ", whose text has changed since or was not recorded"
                return Texts(held_out, training, number + changed, own)
        except UserError as error:
            source = f"{source} (those of its run cannot be read: {error})"
    if data is not None:
        held_out, _ = read_files(data, DataArguments())
        return Texts(list(pick_stories(held_out, stories)["text"]), training, data, own=False)
    corpus = load_corpus(DataArguments(num_sample_stories=SAMPLE_CORPUS_STORIES, validation_fraction=0.5))
    return Texts(list(pick_stories(corpus.validation, stories)["text"]), None, source, own=False)
