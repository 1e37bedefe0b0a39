"""Make tinystories/boxed, the model that comes with the package, of a finished run.

    python tools/box.py runs/tinystories-1m-box
    python tools/box.py runs/tinystories-1m-box --train_file train.txt --validation_file valid.txt
    python tools/box.py --sample_corpus
    python tools/box.py

The second line is for a run that was trained where its files had other paths; they must hold the same validation
stories. The weights are rounded to bfloat16, and every score on the card is of the rounded ones: all validation stories
of the run, some stories of the sample corpus, which a test scores again, and run_evaluation.py. What would be left out
of a push to the Hub, and the folders of this machine, are left out here too. docs/results/boxed.json is the record.

The third line is for a sample corpus that was changed: only the score on its stories is computed again. The last line
writes the card of the boxed model again, of the records beside it: after a change of model_card.md.
"""

import argparse
import json
import math
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase


sys.path.insert(0, str(Path(__file__).parent.parent))

from tinystories.atomic import discard, new_folder, write_atomically
from tinystories.checkpoint.hub import check_complete, weights_sha256
from tinystories.checkpoint.loading import load_checkpoint, share_weights
from tinystories.checkpoint.quick import open_quickly
from tinystories.config.packaged import BOXED
from tinystories.console import run_command
from tinystories.data.held_out import find_held_out
from tinystories.data.sample_corpus import sample_stories
from tinystories.errors import UserError
from tinystories.evaluation.arguments import EvaluationArguments
from tinystories.evaluation.scoring import score, scoring_rows
from tinystories.evaluation.suite import evaluate
from tinystories.generation.presets import DEFAULT_PRESET, generation_config, save_presets
from tinystories.provenance import Stopwatch, hash_texts, provenance
from tinystories.reporting.card_facts import read_facts
from tinystories.reporting.card_metadata import data_license
from tinystories.reporting.model_card import write_card
from tinystories.run_files import (
    ALL_RESULTS,
    DATA_REPORT,
    ENVIRONMENT,
    EVALUATION,
    PROVENANCE,
    RECIPE,
    TRAINER_STATE,
    Run,
    read_json,
    without_local_paths,
)


ROOT = Path(__file__).parent.parent
RECORD = ROOT / "docs" / "results" / "boxed.json"
MOST_BYTES = 2_500_000  # of the whole folder, which every installation carries
SAMPLE_STORIES, SAMPLE_SEED = 200, 1  # a seed whose stories no run trains on
SHOWN_SAMPLES = 3  # of an evaluation, on a card
LICENSE = "mit"  # of the weights, as of the project
JSON_FILES = (RECIPE, DATA_REPORT, ENVIRONMENT, TRAINER_STATE)


def main(argv: list[str]) -> None:
    given, began = options(argv), Stopwatch()
    if given.sample_corpus:
        score_sample_corpus_again(began)
    elif given.run is None:
        write_card_again()
    if given.run is None:
        return
    run = Run(given.run)
    if run.results is None or run.recipe is None or run.data is None or run.state is None or run.environment is None:
        raise UserError(f"{given.run} is not a finished run: {', '.join([*run.missing, *run.problems])}")
    aside = new_folder(BOXED.parent, "unfinished-")
    try:
        folder = aside / BOXED.name
        folder.mkdir()
        write_checkpoint(folder, given.run)
        size_of(folder)  # before minutes of scoring
        write_records(folder, run, given)
        results = score_again(folder, run)
        write_evaluation(folder, given.quick)
        finish_card(folder)
        size = check(folder)
        if BOXED.exists():
            discard(BOXED)
        os.replace(folder, BOXED)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    write_record(run, results, size, began)
    print(f"{BOXED}: {size:,} bytes, {results['eval_bits_per_byte']:.4f} bits per byte\n{RECORD}")


def options(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Make the model that comes with the package.")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("run", type=Path, nargs="?", help="the output_dir of a finished run (default: only the card)")
    what.add_argument("--sample_corpus", action="store_true", help="score the boxed model on the sample corpus again")
    parser.add_argument("--train_file", help="the training stories, where they are now")
    parser.add_argument("--validation_file", help="the validation stories, where they are now")
    parser.add_argument("--source_dataset", help="the Hub dataset that they are of, where the recipe does not name it")
    parser.add_argument("--data_license", help="of the training stories, where the recipe does not state it")
    parser.add_argument("--quick", action="store_true", help="a quick evaluation on the card")
    return parser.parse_args(argv)


def write_card_again() -> None:
    """The boxed model's card by the template as it is now; the record has the size of the folder."""
    finish_card(BOXED)
    record = read_json(RECORD) or {}
    write_json(RECORD, record | {"bytes": check(BOXED)})


def write_checkpoint(folder: Path, run: Path) -> None:
    """The run's weights in bfloat16, with the code and presets of this version and the run's own tokenizer."""
    model, tokenizer = load_checkpoint(str(run))
    model.generation_config = generation_config(tokenizer, max(1, model.config.max_position_embeddings * 3 // 4))
    model.to(torch.bfloat16).save_pretrained(folder)
    save_presets(folder, model.generation_config)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(run / name, folder / name)
    shutil.copyfile(ROOT / "LICENSE", folder / "LICENSE")
    share_weights(folder)


def write_records(folder: Path, run: Run, given: argparse.Namespace) -> None:
    """The run's records, with paths as they are on this machine: `finish_card` removes them."""
    for name in JSON_FILES:
        shutil.copyfile(run.folder / name, folder / name)
    recipe = dict(run.recipe or {})
    for key in ("train_file", "validation_file", "source_dataset", "data_license"):
        recipe[key] = getattr(given, key) or recipe.get(key)
    recipe["model_license"], recipe["output_dir"] = LICENSE, BOXED.name
    if data_license(recipe) is None:
        raise UserError(f"{given.run}: its recipe does not say the licence of its stories", "give --data_license")
    write_json(folder / RECIPE, recipe)


def score_again(folder: Path, run: Run) -> dict[str, Any]:
    """Score the rounded weights, read from `folder`; writes and returns the content of all_results.json."""
    model, tokenizer = load_checkpoint(str(folder))
    held_out = find_held_out(Run(folder))
    if held_out.origin != "run" or not held_out.unchanged:
        reason = held_out.unreadable or "they are not the stories that it recorded"
        raise UserError(f"{run.folder}: its validation stories: {reason}", "give --train_file and --validation_file")
    results = {key: value for key, value in dict(run.results or {}).items() if not key.startswith("eval_")}
    rows = scoring_rows(held_out.stories, tokenizer, model.config.max_position_embeddings)
    found = score(model, rows, tokenizer.pad_token_id).as_dict()
    results |= {f"eval_{name}": number for name, number in found.items()}
    results |= score_sample_corpus(model, tokenizer)
    write_json(folder / ALL_RESULTS, results)
    return results


def score_sample_corpus(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    stories = datasets.Dataset.from_dict({"text": sample_stories(SAMPLE_STORIES, SAMPLE_SEED)})
    rows = scoring_rows(stories, tokenizer, model.config.max_position_embeddings)
    found = score(model, rows, tokenizer.pad_token_id).as_dict()
    return {f"eval_sample_corpus_{name}": found[name] for name in ("bits_per_byte", "stories")}


def score_sample_corpus_again(began: Stopwatch) -> None:
    """Change that score in the boxed model, on its card and in its record."""
    results = read_json(BOXED / ALL_RESULTS) | score_sample_corpus(*load_checkpoint(str(BOXED)))
    write_json(BOXED / ALL_RESULTS, results)
    finish_card(BOXED)
    data = {"sample corpus": hash_texts(sample_stories(SAMPLE_STORIES, SAMPLE_SEED))}
    origin = {"sample_corpus_provenance": provenance(began, SAMPLE_SEED, data)}
    write_json(RECORD, read_json(RECORD) | {"bytes": check(BOXED), "all_results": results} | origin)
    print(f"{BOXED}: {results['eval_sample_corpus_bits_per_byte']:.4f} bits per byte on the sample corpus\n{RECORD}")


def write_evaluation(folder: Path, quick: bool) -> None:
    """What run_evaluation.py measures; of the samples those that the card shows."""
    with_output = EvaluationArguments(quick=quick, device="cpu", output_dir=str(folder.parent / "evaluation"))
    (found,) = evaluate([str(folder)], with_output)
    shown = {DEFAULT_PRESET: found["samples"][DEFAULT_PRESET][:SHOWN_SAMPLES]}
    copies = [copy | {"training_story": None} for copy in found["copies"]]
    write_json(folder / EVALUATION, found | {"samples": shown, "copies": copies})


def finish_card(folder: Path) -> None:
    """The card of all these files, which then lose the paths of this machine."""
    model, _ = load_checkpoint(str(folder))
    facts = read_facts(folder)
    if facts is None:
        raise UserError(f"{folder}: its records cannot be read")
    write_card(folder, model, facts)
    for name in (*JSON_FILES, EVALUATION, ALL_RESULTS):
        write_json(folder / name, without_local_paths(read_json(folder / name)))


def check(folder: Path) -> int:
    """The bytes of a folder that is complete, small enough, and opens without transformers."""
    check_complete(folder)
    if open_quickly(str(folder)) is None:
        raise UserError(f"{folder}: checkpoint/quick.py does not open it", "teach it the new field")
    return size_of(folder)


def size_of(folder: Path) -> int:
    """Its bytes. Raises UserError: too many."""
    size = sum(path.stat().st_size for path in folder.iterdir())
    if size > MOST_BYTES:
        raise UserError(f"the boxed model would have {size:,} bytes, and at most {MOST_BYTES:,} are carried")
    return size


def write_record(run: Run, results: dict[str, Any], size: int, began: Stopwatch) -> None:
    """docs/results/boxed.json: the rounded weights beside those of the run."""
    lines = (run.folder / PROVENANCE).read_text(encoding="utf-8").splitlines()
    sessions = [json.loads(line) for line in lines]
    before, after = (found["eval_bits_per_byte"] for found in (dict(run.results or {}), results))
    record = {
        "provenance": provenance(began, sessions[0]["seed"], sessions[0]["data"]),
        "run": sessions[0],
        "resumed": sessions[1:],
        "parameters": dict(run.environment or {})["parameters"],
        "bytes": size,
        "weights_sha256": weights_sha256(BOXED),
        "bits_per_byte_of_the_run": before,
        "lost_by_rounding": after - before,
        "sample_seed": SAMPLE_SEED,
        "all_results": results,
    }
    if not math.isfinite(after):
        raise UserError(f"{BOXED}: its score is not a number")
    write_json(RECORD, record)


def write_json(path: Path, content: object) -> None:
    write_atomically(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    run_command(main)
