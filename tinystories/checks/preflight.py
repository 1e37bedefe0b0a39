"""Before a long run: check all that can go wrong with it, and report every failure, not only the first.

    python check_run.py configs/tinystories-cpu.yaml --train_file stories.txt

Each check reads `Facts`, the results of the checks before it, and adds its own. A check that needs a result that is
missing is reported as skipped. The checks use the parts of the run itself: its data, tokenizer, model, guards and
Trainer, which takes some steps in a folder that is removed afterwards (dry_run.py).
"""

import logging
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Never, cast

import numpy as np
import psutil
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from tinystories.checkpoint.loading import describe_model, new_model
from tinystories.checks.dry_run import DryRun, as_dry_run, take_first_steps
from tinystories.checks.prediction import COMPARED_STORIES, FIT, NoPredictionError, predict_recipe, read_fit
from tinystories.config.recipe import Recipe, read_recipe
from tinystories.data.corpus import Corpus, load_corpus, pick_stories
from tinystories.data.packing import PackedRows, encode_story
from tinystories.data.reshuffling import check_reshuffling
from tinystories.data.tokenizer import load_or_train_tokenizer, tokenizer_report
from tinystories.errors import UserError, one_line
from tinystories.training.budget import check_room_for_checkpoints, planned_steps, readable, times
from tinystories.training.build import make_trainer, packed_rows
from tinystories.training.compiler import compiler_cache, use_compiler_if_it_works
from tinystories.training.distributed import check_launch
from tinystories.training.finetuning import apply_checkpoint, continued_model
from tinystories.training.optimizers import check_optimization
from tinystories.training.resume import check_not_taken, check_run_folder
from tinystories.training.streaming import check_streaming, planned_rows
from tinystories.training.trainer import StoryTrainer


MEASURED_STORIES = 1000
MANY_CUT = 0.2  # warn if a larger share of the stories is longer than a row
MUCH_PADDING = 0.4  # warn if a larger share of the tokens is padding
MANY_EPOCHS = 40  # beyond these, repeated text adds almost nothing (Muennighoff et al., 2023)
COMPUTE_OPTIMAL = 20  # tokens per parameter (Hoffmann et al., 2022); small models are often given many more
TIME_APART = 0.1  # the time of a whole run is this far from the estimate, beside what its steps differ
SECONDS = ("seconds", "seconds_low", "seconds_high")
NEEDED = {
    "recipe": "the recipe is",
    "corpus": "the stories are",
    "tokenizer": "the tokenizer is",
    "packed": "the rows are",
    "model": "the model is",
    "steps": "the length is",
    "epochs": "the length is",
    "trainer": "whether the guards pass is",
}


@dataclass
class Finding:
    """One line of the report. `status`: ok, warn, FAIL, or skip where something it needs is not known."""

    name: str
    status: str
    finding: str
    remedy: str | None = None

    def __str__(self) -> str:
        return f"{self.status:4}  {self.name}: {self.finding}" + (f" — {self.remedy}" if self.remedy else "")


class _NotKnown(Exception):
    pass


class _Warned(Exception):
    """Raised with (finding, remedy) by a check that passed with a warning."""


class Facts:
    """The results of the checks so far. Reading one that is missing ends the check that reads it: it is skipped.

    fit: for the score. folder: for the dry run. memory: bytes of the device. steps, evaluations: how many the whole run
    takes.
    """

    argv: list[str]
    fit: Path
    folder: str
    stack: ExitStack
    recipe: Recipe
    resumed: str | None
    memory: int
    corpus: Corpus
    tokenizer: PreTrainedTokenizerBase
    tokenizer_report: dict[str, Any]
    model: PreTrainedModel
    packed: PackedRows
    tokens_per_row: float
    steps: int
    accumulation: int
    evaluations: int
    epochs: float
    prediction: dict[str, Any]
    trainer: StoryTrainer
    estimate: dict[str, float]

    def __getattr__(self, name: str) -> Never:
        raise _NotKnown(name)


def preflight(
    argv: list[str],
    report: Callable[[Finding], None] = lambda finding: None,
    left_out: Collection[str] = (),
    fit: Path = FIT,
) -> dict[str, Any]:
    """The checks of the recipe that `argv` names. report: is called with each finding as soon as it is there.
    left_out: names of checks that are not made. fit: the file that the score is predicted from.

    Returns {"ready", "checks", "estimate", "prediction"}; `ready` is false if a check failed. Times are in seconds,
    memory in bytes. prediction: the score of the run in bits per byte, or `refused` with the reason.
    """
    facts = Facts()
    findings: list[Finding] = []
    with _quiet(), tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as facts.folder, ExitStack() as facts.stack:
        facts.argv, facts.fit = argv, fit
        for name, check in CHECKS.items():
            if name in left_out:
                continue
            findings.append(_find(name, check, facts))
            report(findings[-1])
    return {
        "ready": all(finding.status in ("ok", "warn") for finding in findings),
        "checks": [asdict(finding) for finding in findings],
        "estimate": vars(facts).get("estimate"),
        "prediction": vars(facts).get("prediction"),
    }


def _find(name: str, check: Callable[[Facts], str], facts: Facts) -> Finding:
    try:
        return Finding(name, "ok", check(facts))
    except _NotKnown as missing:
        return Finding(name, "skip", f"not checked: {NEEDED.get(str(missing), str(missing))} not known")
    except _Warned as warned:
        return Finding(name, "warn", *warned.args)
    except UserError as error:
        return Finding(name, "FAIL", error.message, error.remedy)


@contextmanager
def _quiet() -> Iterator[None]:
    """Show the warnings of this library only: what else it logs is in the report."""
    logger = logging.getLogger("tinystories")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def check_recipe(facts: Facts) -> str:
    recipe = read_recipe(facts.argv)
    check_launch(recipe.training)
    check_optimization(recipe.training)
    check_streaming(recipe)
    check_reshuffling(recipe)
    if recipe.model.model_name_or_path is not None:
        apply_checkpoint(recipe)
    facts.recipe = recipe
    return f"{len(recipe.given)} keys given, the others have their defaults"


def check_output(facts: Facts) -> str:
    check_not_taken(facts.recipe.training)
    checkpoint = facts.resumed = check_run_folder(facts.recipe.training)
    folder = facts.recipe.training.output_dir
    return f"the run resumes from {checkpoint}" if checkpoint else f"{folder} is free"


def check_device(facts: Facts) -> str:
    training = facts.recipe.training
    device = training.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    precision = "bf16" if training.bf16 else "fp16" if training.fp16 else "float32"
    facts.memory = (
        torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else psutil.virtual_memory().total
    )  # macOS shares one memory between CPU and GPU
    if training.use_cpu and torch.accelerator.is_available():
        raise _Warned(f"CPU, although there is {torch.accelerator.current_accelerator()}", "leave out --use_cpu")
    return f"{device.type} ({name}, {readable(facts.memory)} of memory), {precision}"


def check_compiler(facts: Facts) -> str:
    training = facts.recipe.training
    if not training.torch_compile:
        return "not requested"
    facts.stack.enter_context(compiler_cache(training))
    reason = use_compiler_if_it_works(training)
    if reason is not None:
        finding = f"torch.compile does not work here, the run will be slower: {reason}"
        raise _Warned(finding, "install a C++ compiler, or Triton")
    return "torch.compile works"


def check_stories(facts: Facts) -> str:
    corpus = facts.corpus = load_corpus(facts.recipe.data)
    counts = f"{len(corpus.train):,} to train on, {len(corpus.validation):,} to validate on"
    skipped = corpus.report["train"]["bad"]
    if skipped:
        raise _Warned(f"{counts}; {skipped} rows could not be read", f"look at {corpus.report['train']['first_bad']}")
    return counts


def check_tokenizer(facts: Facts) -> str:
    recipe = facts.recipe
    given = recipe.tokenizer.tokenizer_name is not None
    stories = None if given else facts.corpus.train
    tokenizer = facts.tokenizer = load_or_train_tokenizer(
        recipe.tokenizer, stories, recipe.data.data_cache_dir, vars(facts).get("resumed")
    )
    sample = pick_stories(facts.corpus.validation, MEASURED_STORIES)
    facts.tokenizer_report = tokenizer_report(tokenizer, sample)
    found = f"{len(tokenizer):,} tokens"
    if not given and len(tokenizer) < recipe.tokenizer.vocab_size:
        wanted = recipe.tokenizer.vocab_size
        raise _Warned(f"{found}, not the {wanted:,} of vocab_size", "give more text, or a smaller vocab_size")
    return f"{found}, {facts.tokenizer_report['bytes_per_token']:.2f} bytes per token on held-out stories"


@dataclass
class _PromisedTokenizer:
    """What building a model needs of a tokenizer, with the size that the recipe gives."""

    size: int
    bos_token_id, eos_token_id, pad_token_id = 1, 2, 0

    def __len__(self) -> int:
        return self.size


def check_model(facts: Facts) -> str:
    """Build the model without memory for its weights, to see whether its sizes fit together."""
    recipe = facts.recipe
    known = vars(facts).get("tokenizer") or _PromisedTokenizer(recipe.tokenizer.vocab_size)
    tokenizer = cast(PreTrainedTokenizerBase, known)  # building a model reads the size and three ids
    if recipe.model.model_name_or_path is not None:
        facts.model = continued_model(recipe, tokenizer)
    else:
        with torch.device("meta"):
            facts.model = new_model(recipe.model, tokenizer, recipe.data.block_size)
    return describe_model(facts.model).removeprefix("model: ")


def check_rows(facts: Facts) -> str:
    data, tokenizer = facts.recipe.data, facts.tokenizer
    packed = facts.packed = packed_rows(facts.recipe, facts.corpus, tokenizer)
    sample = pick_stories(facts.corpus.train, MEASURED_STORIES)["text"]
    lengths = np.array([len(encode_story(text, tokenizer)) for text in sample])
    cut = float((lengths > data.block_size).mean())
    padding = packed.report["padding_tokens"] / (packed.report["rows"] * data.block_size)
    facts.tokens_per_row = data.block_size * (1 - padding)
    found = (
        f"{packed.report['rows']:,} rows of {data.block_size}, {padding:.1%} padding; of {len(sample):,} stories the "
        f"median is {np.median(lengths):.0f} tokens, the longest {lengths.max()}, {cut:.1%} are longer than a row"
    )
    if padding > MUCH_PADDING:
        raise _Warned(found, "much of each step is padding: leave out align_to_stories, or give a larger block_size")
    if cut > MANY_CUT:
        raise _Warned(found, "many stories are cut: give a larger block_size")
    return found


def check_length(facts: Facts) -> str:
    training = facts.recipe.training
    rows = planned_rows(training, facts.packed)
    facts.steps, epochs = planned_steps(training, rows)
    facts.epochs = epochs
    facts.accumulation = training.gradient_accumulation_steps
    facts.evaluations = times(training.eval_strategy, training.eval_steps, facts.steps, epochs)
    rows_in_step = training.train_batch_size * training.world_size * facts.accumulation
    tokens = round(epochs * rows * facts.tokens_per_row)
    per_parameter = tokens / facts.model.num_parameters()
    found = (
        f"{facts.steps:,} steps of {rows_in_step} rows, {tokens:,} tokens, {epochs:.3g} epochs, "
        f"{per_parameter:.2g} tokens per parameter (compute-optimal: {COMPUTE_OPTIMAL})"
    )
    if epochs > MANY_EPOCHS:
        raise _Warned(found, "so many epochs are memorized: train shorter, or give more text")
    if training.get_warmup_steps(facts.steps) >= facts.steps:
        raise _Warned(found, "the run ends before its warm-up: lower warmup_steps")
    return found


def check_score(facts: Facts) -> str:
    """Predict the score of the run, before as_dry_run changes its keys. That there is no prediction is no failure."""
    texts = pick_stories(facts.corpus.train, COMPARED_STORIES)["text"]
    reports = {"packing": facts.packed.report, "tokenizer": facts.tokenizer_report}
    try:
        found = predict_recipe(facts.recipe, facts.model, reports, facts.epochs, texts, read_fit(facts.fit))
    except NoPredictionError as error:
        facts.prediction = {"refused": error.message}
        return f"no prediction: {error.message}"
    facts.prediction = asdict(found)
    return f"the whole run: about {found}"


def check_disk(facts: Facts) -> str:
    training = facts.recipe.training
    return check_room_for_checkpoints(facts.model, training, planned_rows(training, facts.packed))


def check_guards(facts: Facts) -> str:
    as_dry_run(facts.recipe.training, facts.folder)
    set_seed(facts.recipe.training.seed)
    facts.trainer = make_trainer(facts.recipe, facts.corpus, facts.tokenizer, facts.packed, callbacks=[])
    if facts.recipe.training.skip_guards:
        raise _Warned("skipped: nothing checks what the run learns", "leave out skip_guards")
    return f"{len(facts.corpus.report['guards'])} passed: {', '.join(facts.corpus.report['guards'])}"


def check_steps(facts: Facts) -> str:
    try:
        dry_run = take_first_steps(facts.trainer, len(facts.corpus.validation))
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"a step does not fit into the memory ({one_line(error)})",
            "halve per_device_train_batch_size and double gradient_accumulation_steps",
        ) from error
    facts.estimate = estimate(facts, dry_run)
    seconds, low, high = (timedelta(seconds=round(facts.estimate[name])) for name in SECONDS)
    tokens = facts.recipe.training.train_batch_size * facts.tokens_per_row / dry_run.batch
    found = (
        f"the whole run: about {seconds}, between {low} and {high} (an estimate from {dry_run.steps} steps: "
        f"{facts.estimate['seconds_per_step']:.3g} s a step, {tokens:,.0f} tokens/s; {facts.evaluations} evaluations "
        f"of {dry_run.evaluation:.3g} s, the final score {dry_run.final_score:.3g} s); "
        f"memory up to {readable(dry_run.peak_memory)}"
    )
    if dry_run.peak_memory > 0.9 * facts.memory:
        raise _Warned(found, "that is nearly all of the memory: halve per_device_train_batch_size")
    return found


def estimate(facts: Facts, dry_run: DryRun) -> dict[str, float]:
    """Seconds of the whole run from its first step to its final score, and bytes of memory.

    Low and high: if all steps were like the faster or the slower ones of the dry run, and TIME_APART beyond.
    """
    step = dry_run.batch * facts.accumulation
    evaluations = facts.evaluations * dry_run.evaluation
    seconds = dry_run.warm_up + step * facts.steps + evaluations + dry_run.final_score
    return {
        "seconds": seconds,
        "seconds_low": seconds * dry_run.fastest / dry_run.batch / (1 + TIME_APART),
        "seconds_high": seconds * dry_run.slowest / dry_run.batch * (1 + TIME_APART),
        "seconds_per_step": step,
        "seconds_of_evaluations": evaluations,
        "seconds_of_final_score": dry_run.final_score,
        "peak_memory_bytes": dry_run.peak_memory,
    }


CHECKS = {
    "recipe": check_recipe,
    "output_dir": check_output,
    "device": check_device,
    "compiler": check_compiler,
    "stories": check_stories,
    "tokenizer": check_tokenizer,
    "model": check_model,
    "rows": check_rows,
    "length": check_length,
    "score": check_score,
    "disk": check_disk,
    "guards": check_guards,
    "steps": check_steps,
}
PREDICTIONS = ("score", "steps")  # what --predict shows
NOT_PREDICTING = ("output_dir", "disk")  # what it needs no answer to
