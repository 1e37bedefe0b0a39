"""The first steps of a run, timed, to estimate the time and memory of the whole run on this machine.

The Trainer itself takes the steps, on the run's own rows and in its precision, in a folder that is removed afterwards:
this measures what training does, data loading and compilation included. Nothing is logged, saved or published.
"""

import statistics
import threading
import time
from dataclasses import dataclass

import numpy as np
import psutil
import torch
from transformers import TrainerCallback

from tinystories.config.arguments import RunArguments
from tinystories.evaluation.scoring import nll_of_rows
from tinystories.generation.sample import sample_story
from tinystories.training.log import TrainingLog
from tinystories.training.trainer import StoryTrainer


WARM_UP_STEPS = 2  # the first ones compile and fill caches
MOST_STEPS = 12
SECONDS = 15  # no step starts after these
SCORED_BATCHES = 3


@dataclass
class DryRun:
    """Times in seconds. steps: how many were taken. peak_memory: bytes, on the device."""

    steps: int
    warm_up: float
    batch: float  # forward, backward and optimizer on the rows of one device; the median
    fastest: float  # a tenth of the steps took less than this
    slowest: float  # a tenth took more
    evaluation: float  # with its sample stories
    final_score: float
    peak_memory: int


def as_dry_run(training: RunArguments, folder: str) -> None:
    """Change the arguments of a run so that a Trainer made with them writes to `folder` only."""
    training.output_dir = folder
    training.gradient_accumulation_steps = 1
    training.eval_strategy = training.save_strategy = training.logging_strategy = "no"
    training.load_best_model_at_end = training.push_to_hub = False
    training.resume_from_checkpoint = None
    training.report_to = []
    training.disable_tqdm = True


def take_first_steps(trainer: StoryTrainer, validation_stories: int) -> DryRun:
    """Train for some seconds and score a few batches. trainer: made with arguments of `as_dry_run`, without callbacks.

    Raises:
        GuardError: the loss is not a number.
    """
    clock = _StepClock()
    trainer.remove_callback(TrainingLog)
    trainer.add_callback(clock)
    with PeakMemory(trainer.args.device) as memory:
        trainer.train()
        scoring = _seconds_to_score(trainer)
        samples = _seconds_to_write_samples(trainer)
    times = clock.seconds[WARM_UP_STEPS:] or clock.seconds
    evaluated = trainer.evaluation.num_stories + trainer.training_stories.num_stories
    return DryRun(
        steps=len(clock.seconds),
        warm_up=sum(clock.seconds[:WARM_UP_STEPS]),
        batch=statistics.median(times),
        fastest=float(np.quantile(times, 0.1)),
        slowest=float(np.quantile(times, 0.9)),
        evaluation=scoring + samples,
        final_score=scoring * validation_stories / evaluated,
        peak_memory=memory.peak,
    )


class _StepClock(TrainerCallback):
    """Seconds from the end of one step to the end of the next; stops the training after enough steps."""

    def __init__(self):
        self.seconds: list[float] = []

    def on_train_begin(self, args, state, control, **kwargs):
        self.last = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        if args.device.type == "cuda":
            torch.cuda.synchronize(args.device)
        now = time.perf_counter()
        self.seconds.append(now - self.last)
        self.last = now
        enough = sum(self.seconds) > SECONDS and len(self.seconds) > WARM_UP_STEPS
        if enough or len(self.seconds) == MOST_STEPS:
            control.should_training_stop = True


def _seconds_to_score(trainer: StoryTrainer) -> float:
    """For all rows of an evaluation, from a few batches: of the longest rows, the shortest, and some between."""
    rows, size = trainer.evaluation.rows + trainer.training_stories.rows, trainer.args.eval_batch_size
    step = max(1, (len(rows) - size) // (SCORED_BATCHES - 1))
    some = [row for start in range(0, len(rows), step) for row in rows[start : start + size]][: SCORED_BATCHES * size]
    started = time.perf_counter()
    nll_of_rows(trainer.model, some, trainer.processing_class.pad_token_id, size)
    tokens, scored = (sum(len(row["input_ids"]) for row in part) for part in (rows, some))
    return (time.perf_counter() - started) * tokens / scored


def _seconds_to_write_samples(trainer: StoryTrainer) -> float:
    prompts = trainer.recipe.training.sample_prompts
    if not prompts:
        return 0.0
    started = time.perf_counter()
    sample_story(trainer.model, trainer.processing_class, prompts[0], trainer.args.seed)
    return (time.perf_counter() - started) * len(prompts)


class PeakMemory:
    """`peak`: bytes. On a GPU what torch reserved; elsewhere the resident memory of the process, read every 20 ms."""

    def __init__(self, device: torch.device):
        self.device, self.peak = device, 0
        self._done = threading.Event()
        self._watch = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "PeakMemory":
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            self._watch.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.device.type == "cuda":
            self.peak = torch.cuda.max_memory_reserved(self.device)
        else:
            self._done.set()
            self._watch.join()

    def _sample(self) -> None:
        process = psutil.Process()
        while not self._done.wait(0.02):
            self.peak = max(self.peak, process.memory_info().rss)
