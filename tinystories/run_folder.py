"""The run folder: nothing in it is lost unasked, no old number stands beside a new recipe, and a run can go on in it.

    python run_clm.py RECIPE --resume_from_checkpoint true

goes on at the last checkpoint of the recipe's output_dir: weights, optimizer, schedule, random state and the place in
the data are those of the moment it was saved.
"""

import json
import shutil
from dataclasses import fields
from pathlib import Path

from transformers import PreTrainedTokenizerBase
from transformers.trainer import TRAINER_STATE_NAME

from tinystories.errors import UserError
from tinystories.recipe import DataArguments, ModelArguments, Recipe, RunArguments, TokenizerArguments


WRITTEN_BY_A_RUN = (
    "README.md",
    "*_tinystories.py",
    "*config.json",
    "generation_config_*.json",
    "tokenizer.json",
    "model*.safetensors*",
    "*_results.json",
    "trainer_state.json",
    "data_report.json",
    "recipe.json",
    "samples.jsonl",
)


def check_run_folder(training: RunArguments) -> str | None:
    """The checkpoint to go on with, if the recipe asks for that; else None.

    Raises:
        UserError: the folder holds something that is not to be replaced, or nothing to go on with.
    """
    folder = Path(training.output_dir)
    if training.resume_from_checkpoint is not None:
        return _checkpoint_to_resume(folder, training.resume_from_checkpoint)
    if not training.should_save or not folder.exists() or not any(folder.iterdir()):
        return None
    if not (folder / "recipe.json").exists():
        raise UserError(f"{folder} is not empty and holds no earlier run: give another --output_dir")
    if not training.overwrite_output_dir:
        raise UserError(
            f"{folder} holds an earlier run: give another --output_dir, or --resume_from_checkpoint true to go on with "
            "it, or --overwrite_output_dir to lose it"
        )
    return None


def _checkpoint_to_resume(folder: Path, which: str) -> str:
    """`which`: true for the last one, or the path of one. The Trainer writes its state last: without it, no save."""
    complete = [path.parent for path in folder.glob(f"checkpoint-*/{TRAINER_STATE_NAME}")]
    complete.sort(key=lambda path: int(path.name.removeprefix("checkpoint-")))
    if which.lower() not in ("true", "last"):
        complete = [path for path in complete if path.resolve() == Path(which).resolve()]
    if not complete:
        raise UserError(
            f"resume_from_checkpoint {which}: there is no complete checkpoint in {folder}; to start a new run from "
            "another model, use --model_name_or_path"
        )
    return str(complete[-1])


def check_resumed(checkpoint: str, recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> None:
    """A run goes on with the data, the network and the tokenizer it began with, or not at all."""
    earlier = json.loads((Path(checkpoint).parent / "recipe.json").read_text(encoding="utf-8"))
    names = [field.name for part in (ModelArguments, DataArguments, TokenizerArguments) for field in fields(part)]
    free = {"data_cache_dir", "preprocessing_num_workers", "attn_implementation"}
    for name in (*names, "seed", "data_seed"):
        if name not in free and earlier.get(name) != recipe.values.get(name):
            raise UserError(
                f"{name} was {earlier.get(name)} when {checkpoint} was saved and is {recipe.values.get(name)} now: a "
                "run goes on as it began; set it back, or give another --output_dir"
            )
    content = json.loads((Path(checkpoint) / "tokenizer.json").read_text(encoding="utf-8"))
    if content["model"] != json.loads(tokenizer.backend_tokenizer.to_str())["model"]:
        raise UserError(f"the tokenizer is not that of {checkpoint}: the training stories have changed since")


def prepare_run_folder(training: RunArguments, checkpoint: str | None) -> None:
    """Remove what an earlier run left; of one that goes on, only the samples it wrote after the checkpoint."""
    folder = Path(training.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    if checkpoint is not None:
        _cut_samples(folder / "samples.jsonl", last_step=int(Path(checkpoint).name.removeprefix("checkpoint-")))
        return
    for earlier in folder.glob("checkpoint-*"):
        shutil.rmtree(earlier)
    for pattern in WRITTEN_BY_A_RUN:
        for file in folder.glob(pattern):
            file.unlink()


def _cut_samples(path: Path, last_step: int) -> None:
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= last_step]
        path.write_text("".join(kept), encoding="utf-8")
