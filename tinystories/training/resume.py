"""The run folder: it is never overwritten without --overwrite_output_dir, and a run can be resumed in it.

    python run_clm.py RECIPE --resume

With --resume a run continues from the last complete checkpoint of the recipe's output_dir: weights, optimizer,
schedule, random state and the place in the data are restored. A run that ended before its first checkpoint begins
again. No file of an earlier run is left beside a new recipe.
"""

import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain, count
from pathlib import Path
from typing import Any

from tinystories.atomic import discard, write_atomically
from tinystories.config.arguments import RunArguments
from tinystories.config.recipe import Recipe
from tinystories.errors import UserError, one_line
from tinystories.links import links_out_of
from tinystories.lock import HeldError, held, holder
from tinystories.output_file import check_output_folder
from tinystories.reporting.model_card import is_as_written
from tinystories.run_files import (
    CARD,
    DATA_REPORT,
    ENVIRONMENT,
    EVALUATIONS,
    EVALUATIONS_TABLE,
    LOCK,
    NEVER_PUBLISHED,
    RECIPE,
    REPORT,
    SAMPLES,
    TRAIN_RESULTS,
    WRITTEN_BY_A_RUN,
    checkpoints,
    read_json,
    read_lines,
    step_of,
    without_fraction,
)
from tinystories.training.checkpointing import check_undamaged
from tinystories.training.distributed import on_one_process
from tinystories.training.throughput import write_evaluations_table


logger = logging.getLogger(__name__)

# Files that a resumed run appends to or replaces in one step. They are not deleted first: a run killed between the two
# could not be resumed.
KEPT_ON_RESUME = {SAMPLES, EVALUATIONS, EVALUATIONS_TABLE, ENVIRONMENT, DATA_REPORT, RECIPE}
# Keys that may change when a run is resumed: its length and folder, and how it is watched, shared and fed with data.
FREE_ON_RESUME = {
    "max_steps",
    "num_train_epochs",
    "output_dir",
    "per_device_train_batch_size",  # together with the next one and the number of processes: rows_per_step is checked
    "gradient_accumulation_steps",
    "per_device_eval_batch_size",
    "vocab_size",  # of a tokenizer that is trained: its content is checked
    "data_cache_dir",
    "preprocessing_num_workers",
    "dataloader_num_workers",
    "dataloader_prefetch_factor",
    "dataloader_persistent_workers",
    "dataloader_pin_memory",
    "attn_implementation",
    "torch_compile",
    "use_cpu",
    "save_total_limit",
    "save_log_spaced",
    "auto_find_batch_size",
    "sample_prompts",
    "train_eval_samples",
    "max_loss_spike",
    "skip_guards",
    "disable_tqdm",
    "report_to",
    "trackio_space_id",
    "trackio_bucket_id",
    "trackio_static_space_id",
    "run_name",
    "project",
    "log_level",
    "log_level_replica",
    "ddp_timeout",
    "push_to_hub",
    "hub_model_id",
    "hub_private_repo",
    "hub_revision",
    "hub_strategy",
    "hub_always_push",
    "model_license",
    "data_license",
    "language",
    "source_dataset",
    "watts_per_core",
    "grid_intensity",
}


@contextmanager
def run_folder_taken(training: RunArguments) -> Iterator[None]:
    """Hold the run folder inside the `with` block: two runs in one folder would mix their files.

    A folder that the run makes and leaves empty, because of a mistake in its recipe, is removed.

    Raises:
        UserError: another run is at work in it, or it cannot be made.
    """
    folder = Path(training.output_dir)
    with ExitStack() as stack:

        def take() -> None:
            check_output_folder(folder)
            stack.callback(_remove_empty, [place for place in (folder, *folder.parents) if not os.path.lexists(place)])
            try:
                folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(held(folder / LOCK))
            except HeldError as error:
                raise _taken(folder, str(error)) from error
            except OSError as error:
                raise UserError(f"output_dir {folder} cannot be taken: {one_line(error)}", "give another") from error

        on_one_process(take)
        yield


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def _taken(folder: Path, holder: str) -> UserError:
    return UserError(
        f"{folder}: another run is at work in it ({holder})", "wait for its end, stop it, or give another --output_dir"
    )


def check_not_taken(training: RunArguments) -> None:
    """Raises UserError: a run is at work in the run folder."""
    folder = Path(training.output_dir)
    at_work = holder(folder / LOCK)
    if at_work is not None:
        raise _taken(folder, at_work)


def check_run_folder(training: RunArguments) -> str | None:
    """The checkpoint to resume from, if the recipe asks for that; else None.

    Raises:
        UserError: the folder holds something that must not be replaced, or nothing to resume from.
    """
    folder = Path(training.output_dir)
    check_output_folder(folder)
    if links := links_out_of(folder, (*WRITTEN_BY_A_RUN, *NEVER_PUBLISHED, REPORT)):
        raise UserError(
            f"{folder}: {links[0]} leads out of this folder by a link, and would be overwritten", "remove the link"
        )
    if training.resume or training.resume_from_checkpoint is not None:
        found = _checkpoint_to_resume(folder, training.resume_from_checkpoint)
        if found is not None or _began_here(folder):
            return found
    if not training.should_save or not folder.exists():
        return None
    if all(path.name.startswith(LOCK) for path in folder.iterdir()):
        return None
    if not (folder / RECIPE).exists():
        raise UserError(f"{folder} is not empty and contains no earlier run", "give another --output_dir")
    if not training.overwrite_output_dir:
        raise UserError(
            f"{folder} contains an earlier run",
            "give another --output_dir, --resume to continue it, or --overwrite_output_dir to replace it",
        )
    return None


def _began_here(folder: Path) -> bool:
    """Whether a run began in this folder and saved no weights: it can start again."""
    has_weights = checkpoints(folder, complete=False) or any(folder.glob("model*.safetensors"))
    if not (folder / RECIPE).exists() or has_weights:
        return False
    logger.warning("%s has no checkpoint yet: the run begins again", folder)
    return True


def _checkpoint_to_resume(folder: Path, which: str | None) -> str | None:
    """The last complete checkpoint in `folder`.

    which: resume_from_checkpoint, its path or true. None, for --resume, allows that there is none yet.
    """
    complete = checkpoints(folder)
    last = complete[-1] if complete else None
    for path in set(checkpoints(folder, complete=False)) - set(complete):
        logger.warning("%s is not a complete checkpoint: it is not used", path)
    if last is None and which is None:
        return None
    if last is None:
        raise UserError(
            f"resume_from_checkpoint {which}: there is no complete checkpoint in {folder}",
            "to start a new run from another model, use --model_name_or_path",
        )
    if which is not None and which.lower() not in ("true", "last") and Path(which).resolve() != last.resolve():
        raise UserError(
            f"resume_from_checkpoint {which}: a run can only be resumed from its last checkpoint, {last}",
            "move later ones away first, or start a new run with --model_name_or_path",
        )
    for name, key in ((RECIPE, "seed"), (DATA_REPORT, "began_with")):
        if key not in (read_json(folder / name) or {}):
            raise UserError(f"{folder} cannot be resumed: {name} is missing or has no {key}")
    check_undamaged(last)
    return str(last)


def check_resumed(checkpoint: str, recipe: Recipe, data_report: dict[str, Any]) -> None:
    """Raises UserError: the settings, the stories or the tokenizer changed since the run began."""
    folder = Path(checkpoint).parent
    earlier = read_json(folder / RECIPE) or {}
    began = (read_json(folder / DATA_REPORT) or {})["began_with"]
    for name, value in earlier.items():
        now = _as_saved(recipe.values.get(name))
        if name not in FREE_ON_RESUME and value != now:
            raise UserError(
                f"{name} was {without_fraction(value)} when {folder} began and is {without_fraction(now)} now: "
                "these settings cannot change in a resumed run",
                "set it back, or give another --output_dir",
            )
    saved, processes = len(list(Path(checkpoint).glob("rng_state*.pth"))), recipe.training.world_size
    if saved != processes:
        logger.warning("%s was saved by %d processes, this run has %d: dropout differs", checkpoint, saved, processes)
    changed = {
        "rows_per_step": "the number of rows in a step (rows on a device x accumulation x processes)",
        "rows": "the training stories or the tokenizer",
        "validation": "the validation stories",
    }
    for name, words in changed.items():
        if began[name] != data_report["began_with"][name]:
            raise UserError(f"{words} changed since {folder} began", "restore them, or give another --output_dir")


def _as_saved(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))


def prepare_run_folder(recipe: Recipe, data_report: dict[str, Any], checkpoint: str | None) -> dict[str, Any]:
    """Remove the files of an earlier run, and write recipe.json and data_report.json.

    A resumed run keeps its checkpoints, and samples and evaluations up to the last of them. Returns what the earlier
    session measured, which is needed if only the final score is missing.
    """
    folder = Path(recipe.training.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    measured = read_json(folder / TRAIN_RESULTS, logger.warning) or {}
    card = folder / CARD
    if checkpoint is not None:
        for name in (SAMPLES, EVALUATIONS):
            _cut(folder / name, last_step=step_of(checkpoint))
        if (folder / EVALUATIONS).exists():
            write_evaluations_table(folder)
        if card.exists() and not is_as_written(card.read_text(encoding="utf-8")):
            names = chain(["README.edited.md"], (f"README.edited-{number}.md" for number in count(2)))
            kept = next(folder / name for name in names if not (folder / name).exists())
            logger.warning("%s was edited: it is kept as %s", card, kept.name)
            card.replace(kept)
    else:
        for earlier in (*checkpoints(folder, complete=False), folder / REPORT):
            if earlier.is_dir():
                discard(earlier)
    for leftover in folder.glob("unfinished-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    for pattern in WRITTEN_BY_A_RUN if checkpoint is not None else (*WRITTEN_BY_A_RUN, *NEVER_PUBLISHED):
        for file in folder.glob(pattern):
            if checkpoint is None or file.name not in KEPT_ON_RESUME:
                file.unlink()
    recipe.save(folder)
    write_atomically(folder / DATA_REPORT, json.dumps(data_report, indent=2) + "\n")
    return measured


def _cut(path: Path, last_step: int) -> None:
    """Remove rows after `last_step` from a .jsonl file, and damaged lines, with a warning."""
    if path.exists():
        rows = read_lines(path, logger.warning)
        kept = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows if row["step"] <= last_step]
        write_atomically(path, "".join(kept))
