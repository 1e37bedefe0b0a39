"""What a run reports about itself while it trains: speed, memory, time left, and one row for each evaluation.

Definitions:

- `training_seconds`: wall clock since the last log (in a row of an evaluation: since the last evaluation) in which the
  run read data and trained. Evaluating, writing samples, saving and measuring `peak_flops` do not count;
- `tokens_per_second`: tokens trained on in these seconds (without padding, all processes) / `training_seconds`;
- `mfu`: `tokens_per_second` x `flops_per_token` / `peak_flops`. Padding does not count, so rows that are half empty
  halve it;
- `peak_flops`: the measured speed of the devices (environment.py): the highest that holds for these seconds. It is
  measured when training begins, again when `tokens_per_second` changes, and when `mfu` would exceed 1, which is
  impossible. If a new measurement is not higher either, the run's own speed is the peak, with a warning;
- `elapsed_seconds`: wall clock of all training so far, with evaluations, saves and earlier sessions;
- `eta_seconds`: time to the end of the training: steps left x seconds of the last 100 steps (without the first one,
  which may compile), and the evaluations and regular saves still to come x seconds of the last few. One that follows
  this row of the log is still to come. Before the first evaluation or save its time is not known and counts as 0;
- `memory_gb`: on a GPU the peak memory of tensors; elsewhere the largest resident memory at the end of a step. Of the
  first process, in GB of 1e9 bytes.

evaluations.jsonl and evaluations.csv in the run folder hold the same rows. A number that is not finite is null there.
"""

import csv
import json
import logging
import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate.utils import reduce
from transformers import PreTrainedModel, TrainerCallback, TrainerState

from tinystories.config.arguments import RunArguments
from tinystories.run_files import ENVIRONMENT, EVALUATIONS, EVALUATIONS_TABLE, read_lines
from tinystories.training.environment import PEAK_SECONDS, describe_environment, measured_peak, training_dtype


logger = logging.getLogger(__name__)

SPEED_CHANGE = 0.15  # relative change of tokens/s after which the peak is measured again
MEASURING_SHARE = 0.005  # largest share of the run's time for that
RECENT_STEPS, RECENT_PAUSES = 100, 5  # from which the time left is estimated


@dataclass
class Lap:
    """The beginning of an interval: tokens seen, seconds trained in this session; the highest peak in it so far."""

    tokens: int = 0
    seconds: float = 0.0
    peak_flops: float = 0.0


class ThroughputCallback(TrainerCallback):
    """Measures the run. Must come after all that do something at an evaluation, so that it does not count as training.

    flops_per_token: as `environment.flops_per_token` gives it.
    """

    def __init__(self, flops_per_token: float):
        self.flops_per_token = flops_per_token
        self.process = psutil.Process()
        self.peak_seconds = PEAK_SECONDS  # how long the peak is measured; a rehearsal needs none
        self.earlier: dict[str, Any] = {}  # `progress` of the session that this one continues

    def progress(self) -> dict[str, Any]:
        """What a session that continues from here has to know, to be saved with a checkpoint."""
        return {
            "elapsed_seconds": self._so_far()["elapsed_seconds"],
            "losses": self.losses,
            "lap_tokens": self.evaluation_lap.tokens,
            "lap_seconds": self.training_seconds - self.evaluation_lap.seconds,
        }

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.device_peak = 0.0  # of the device of this process
        self.peak_flops = self._measure_devices(args)
        if state.is_world_process_zero:
            self._write_environment(args, model)
        self.earlier_seconds = self.earlier.get("elapsed_seconds", 0.0)
        self.training_seconds = self.paused_seconds = self.seconds_at_step = 0.0
        self.step_seconds: deque[float] = deque(maxlen=RECENT_STEPS)
        self.evaluation_seconds: deque[float] = deque(maxlen=RECENT_PAUSES)
        self.save_seconds: deque[float] = deque(maxlen=RECENT_PAUSES)
        self.first_step = state.global_step
        self.usual_speed: float | None = None  # tokens/s in the first interval after the peak was measured
        self.log_lap = Lap(state.num_input_tokens_seen, peak_flops=self.peak_flops)
        lap_tokens = self.earlier.get("lap_tokens", state.num_input_tokens_seen)
        self.evaluation_lap = Lap(lap_tokens, -self.earlier.get("lap_seconds", 0.0), self.peak_flops)
        self.unlogged: list[float] = []  # of each step since the last log, which guards compare with it
        self.losses: list[float] = list(self.earlier.get("losses", []))  # of each step since the last evaluation
        self.last_step: dict[str, float] = {}
        self.memory = 0
        self.since = time.perf_counter()

    def _measure_devices(self, args: RunArguments) -> float:
        """Floating-point operations per second of all devices together."""
        start = time.perf_counter()
        try:
            self.device_peak = measured_peak(args.device, training_dtype(args), self.peak_seconds)
        except torch.OutOfMemoryError:  # during a run that fills the memory: the earlier measurement stays
            if not self.device_peak:
                raise
        peak = reduce(torch.tensor(self.device_peak, device=args.device), "sum").item()
        if args.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(args.device)
        self.measured_at = time.perf_counter()
        self.seconds_to_measure = self.measured_at - start
        return peak

    def _write_environment(self, args: RunArguments, model: PreTrainedModel) -> None:
        facts = describe_environment(args) | {
            "parameters": model.num_parameters(),
            "flops_per_token": self.flops_per_token,
            "peak_flops_measured": self.peak_flops,
        }
        path = Path(args.output_dir) / ENVIRONMENT
        path.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")

    def step(self, loss: float, grad_norm: float, learning_rate: float) -> None:
        """Note a step: mean loss over all processes in nats per token, norm of the gradients, learning rate."""
        self.losses.append(loss)
        self.unlogged.append(loss)
        self.last_step = {"learning_rate": learning_rate, "grad_norm": grad_norm}

    def on_step_end(self, args, state, control, **kwargs):
        self.training_seconds += self._lap(args.device)
        if state.global_step == self.first_step + 2:
            self.step_seconds.clear()
        self.step_seconds.append(self.training_seconds - self.seconds_at_step)
        self.seconds_at_step = self.training_seconds

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            self.unlogged = []

    def on_save(self, args, state, control, **kwargs):
        self._pause(self.save_seconds, args)

    def _pause(self, kind: deque[float], args: RunArguments) -> None:
        kind.append(self._lap(args.device))
        self.paused_seconds += kind[-1]

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        self._pause(self.evaluation_seconds, args)
        self._update_peak(self._speed(state, self.evaluation_lap), args)
        row = {
            "step": state.global_step,
            "epoch": state.epoch,
            "tokens_seen": state.num_input_tokens_seen,
            **{key: metrics[key] for key in ("training_flops",) if key in metrics},
            "loss": sum(self.losses) / len(self.losses) if self.losses else None,
            **{key: metrics[key] for key in metrics if key.startswith("eval_") and not key.endswith("_per_second")},
            **self.last_step,
            **self._speed(state, self.evaluation_lap),
            **self._so_far(),
        }
        self.losses = []
        self.evaluation_lap = Lap(state.num_input_tokens_seen, self.training_seconds, self.peak_flops)
        if state.is_world_process_zero:
            append_evaluation(Path(args.output_dir), row)

    def at_log(self, state: TrainerState, args: RunArguments) -> dict[str, float]:
        """What is added to a row of the log; ends the interval that began at the last one."""
        self.training_seconds += self._lap(args.device)
        speed = self._speed(state, self.log_lap)
        self._update_peak(speed, args, self._speed_changed(speed))
        speed = self._speed(state, self.log_lap)
        self.log_lap = Lap(state.num_input_tokens_seen, self.training_seconds, self.peak_flops)
        return speed | self._so_far() | {"eta_seconds": self.eta(state, args)}

    def _update_peak(self, speed: dict[str, float], args: RunArguments, changed: bool = False) -> None:
        """Measure the devices again if `changed`, or if the MFU is impossible: in all processes or in none.

        This counts as a pause of the training.
        """
        mfu = speed.get("mfu", 0.0)
        if not reduce(torch.tensor(float(changed or mfu > 1), device=args.device), "sum").item():
            return
        before, self.usual_speed = self.peak_flops, None
        self.peak_flops = self._measure_devices(args)
        if mfu > 1:
            used = speed["tokens_per_second"] * self.flops_per_token
            logger.warning(
                "an MFU of %.2f is impossible: the peak was measured again, %.3g FLOPS before and %.3g now%s",
                *(mfu, before, self.peak_flops),
                "" if used <= self.peak_flops else f"; the run itself reaches {used:.3g}, which counts as the peak",
            )
            self.peak_flops = max(self.peak_flops, used)
        for lap in (self.log_lap, self.evaluation_lap):
            lap.peak_flops = max(lap.peak_flops, self.peak_flops)
        self.paused_seconds += self._lap(args.device)

    def _speed_changed(self, speed: dict[str, float]) -> bool:
        """Whether it differs from the usual speed, and a measurement is not too expensive yet."""
        tokens_per_second = speed.get("tokens_per_second", 0.0)
        if not self.usual_speed:
            self.usual_speed = tokens_per_second
        changed = abs(tokens_per_second - self.usual_speed) > SPEED_CHANGE * self.usual_speed
        since = time.perf_counter() - self.measured_at
        return changed and self.seconds_to_measure <= MEASURING_SHARE * since

    def _lap(self, device: torch.device) -> float:
        now = time.perf_counter()
        seconds, self.since = now - self.since, now
        on_gpu = device.type == "cuda"
        memory = torch.cuda.max_memory_allocated(device) if on_gpu else self.process.memory_info().rss
        self.memory = max(self.memory, memory)
        return seconds

    def _speed(self, state: TrainerState, lap: Lap) -> dict[str, float]:
        tokens, seconds = state.num_input_tokens_seen - lap.tokens, self.training_seconds - lap.seconds
        if not tokens:  # include_num_input_tokens_seen no
            return {"training_seconds": seconds}
        speed = tokens / seconds
        mfu = speed * self.flops_per_token / lap.peak_flops
        return {"tokens_per_second": speed, "mfu": mfu, "peak_flops": lap.peak_flops, "training_seconds": seconds}

    def on_train_end(self, args, state, control, **kwargs):
        self.training_seconds += self._lap(args.device)

    def _so_far(self) -> dict[str, float]:
        elapsed = self.earlier_seconds + self.training_seconds + self.paused_seconds
        return {"memory_gb": self.memory / 1e9, "elapsed_seconds": elapsed}

    def eta(self, state: TrainerState, args: RunArguments) -> float:
        """Seconds to the end of the training."""
        training = (state.max_steps - state.global_step) * _mean(self.step_seconds)
        evaluations = to_come(args.eval_strategy, state.eval_steps, state, first=args.eval_delay)
        saves = to_come(args.save_strategy, state.save_steps, state)
        return training + evaluations * _mean(self.evaluation_seconds) + saves * _mean(self.save_seconds)


def to_come(strategy: str, every: int, state: TrainerState, first: float = 0) -> int:
    """How often a run does what it does every `every` steps, and at its end, or each epoch: from this step on."""
    if strategy == "steps":
        return math.ceil(state.max_steps / every) - (max(state.global_step, math.ceil(first), 1) - 1) // every
    if strategy == "epoch":
        return max(0, state.num_train_epochs + 1 - max(1, math.ceil(max(state.epoch or 0.0, first) - 1e-9)))
    return 0


def _mean(seconds: Sequence[float]) -> float:
    return sum(seconds) / len(seconds) if seconds else 0.0


def append_evaluation(folder: Path, row: dict[str, Any]) -> None:
    """Add a row to both files of evaluations."""
    finite = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()
    }
    with (folder / EVALUATIONS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(finite) + "\n")
    write_evaluations_table(folder)


def write_evaluations_table(folder: Path) -> None:
    """Write evaluations.csv from evaluations.jsonl, so that they cannot differ."""
    rows = read_lines(folder / EVALUATIONS)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    try:
        with (folder / EVALUATIONS_TABLE).open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, columns)
            table.writeheader()
            table.writerows(rows)
    except PermissionError as error:  # on Windows, while a spreadsheet has it open; the run must not end for that
        logger.warning("%s is not up to date: %s", folder / EVALUATIONS_TABLE, error.strerror)
