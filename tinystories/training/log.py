"""The log of a run, made for people: one line an event, and on a terminal a last line that shows where the run is.

    training: 500 steps of 8 rows, bf16 on cpu
    step  50/500 | loss 2.76 | lr 1.2e-2 | grad 0.41 | 4.9k tok/s | 3m46s left

    eval at step 250: 0.4492 nats | 0.1632 bits per byte | best so far
      | Once upon a time, there was a little unicorn named Plum ...
    saved runs/demo/checkpoint-250

The numbers are those that trackers and the files of the run get in full; throughput.py defines them.
"""

import logging
import re
import textwrap
import time
from typing import Any

from transformers import TrainerCallback, TrainerState
from transformers.trainer_utils import has_length

from tinystories.config.arguments import RunArguments
from tinystories.console import printable
from tinystories.progress import BOLD, USUAL_COLUMNS, columns, is_live, progress_bar
from tinystories.reporting.format import power_of_ten, short, short_count, short_duration
from tinystories.training.environment import training_dtype
from tinystories.training.throughput import ThroughputCallback


logger = logging.getLogger(__name__)

RULE = "  | "
WIDEST = 100  # columns of a sample story on a terminal: longer lines are hard to read
SECONDS_BETWEEN = 0.1  # two changes of the status line
SMALLEST_BAR = 10  # columns


class TrainingLog(TrainerCallback):
    """Takes the place of the Trainer's own bar and printer. To be called after `throughput`, whose numbers it shows."""

    def __init__(self, throughput: ThroughputCallback):
        self.throughput = throughput
        self.status: StatusLine | None = None
        self.last: dict[str, float] = {}  # row of the log
        self.scored_batches = 0
        self.apart = False  # an evaluation was the last event: the next step comes after an empty line

    def close(self) -> None:
        """Remove the status line, also when the training ends by an error."""
        if self.status is not None:
            self.status.close()
            self.status = None

    def on_train_begin(self, args, state, control, **kwargs):
        self.close()
        if not state.is_world_process_zero:
            return
        logger.info("%s", beginning(args, state))
        self.last, self.apart, self.first_step = {}, False, state.global_step
        if is_live() and not args.disable_tqdm and logger.isEnabledFor(logging.INFO):
            self.status = StatusLine(state)

    def on_step_end(self, args, state, control, **kwargs):
        self.scored_batches = 0
        if self.status is not None:
            losses = self.throughput.unlogged
            loss = self.last.get("loss", sum(losses) / len(losses) if losses else None)
            self.status.show(state, _fields(self.last | {"loss": loss}, self.throughput.eta(state, args)))

    def on_prediction_step(self, args, state, control, eval_dataloader=None, **kwargs):
        self.scored_batches += 1
        if self.status is not None and has_length(eval_dataloader):
            fields = [f"evaluating {self.scored_batches}/{len(eval_dataloader)}"]
            self.status.show(state, fields, at_once=self.scored_batches == 1)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero:
            return
        logs = logs or {}
        if "eval_loss" in logs:
            self.apart = True
            logger.info("\n%s", evaluation_line(logs, state, args), extra={"style": BOLD})
        elif "loss" in logs:
            self.last = logs
            self._after_evaluation(step_line(logs, state))
        elif "train_loss" in logs:
            self._after_evaluation(end_line(logs, state, self.first_step))

    def _after_evaluation(self, line: str) -> None:
        logger.info("%s%s", "\n" * self.apart, line)
        self.apart = False

    def on_evaluate(self, args, state, control, **kwargs):
        if state.is_world_process_zero and control.should_training_stop and state.global_step < state.max_steps:
            logger.info("stopping early: no better evaluation in the last %s", args.early_stopping_patience)

    def on_save(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            logger.info("saved %s/checkpoint-%d", args.output_dir, state.global_step)

    def on_train_end(self, args, state, control, **kwargs):
        self.close()


class StatusLine:
    """Step, time left, loss and speed in the last line of a terminal: those that fit, and a bar in what is left."""

    def __init__(self, state: TrainerState):
        self.shown = 0.0
        self.bar = progress_bar(total=state.max_steps, delay=0, bar_format="{desc}")
        self.show(state, [])

    def show(self, state: TrainerState, fields: list[str], at_once: bool = False) -> None:
        now = time.monotonic()
        if now - self.shown < SECONDS_BETWEEN and not at_once:
            return
        self.shown = now
        width = (columns() or USUAL_COLUMNS) - 1
        text = _place(state)
        for field in fields:
            if len(f"{text} | {field}") <= width:
                text = f"{text} | {field}"
        self.bar.bar_format = "{desc} |{bar}|" if width - len(text) > SMALLEST_BAR else "{desc}"
        self.bar.n = state.global_step
        self.bar.set_description_str(text)

    def close(self) -> None:
        self.bar.close()


def beginning(args: RunArguments, state: TrainerState) -> str:
    """What begins: "training: 500 steps of 8 rows, bf16 on cpu"."""
    rows = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    steps = _steps(state.max_steps)
    if state.global_step:
        steps = f"resumed at step {state.global_step:,} of {state.max_steps:,}, steps"
    precision = str(training_dtype(args)).removeprefix("torch.").replace("bfloat16", "bf16").replace("float16", "fp16")
    devices = f"{args.world_size} processes on {args.device.type}" if args.world_size > 1 else str(args.device)
    return f"training: {steps} of {rows:,} rows, {precision} on {devices}" + ", compiled" * bool(args.torch_compile)


def step_line(logs: dict[str, Any], state: TrainerState) -> str:
    """loss: the mean of the steps since the last line. The other numbers are those of throughput.py."""
    fields = [_place(state), f"loss {short(logs['loss'])}", f"lr {power_of_ten(logs['learning_rate'])}"]
    if "grad_norm" in logs:
        fields.append(f"grad {short(logs['grad_norm'], 2)}")
    *speed, left = _fields({**logs, "loss": None}, logs["eta_seconds"])[::-1]
    return " | ".join([*fields, *speed, left])


def evaluation_line(logs: dict[str, Any], state: TrainerState, args: RunArguments) -> str:
    """Scores in full, and how they compare with those before by `metric_for_best_model`."""
    metric = "eval_" + (args.metric_for_best_model or "loss").removeprefix("eval_")
    before = [row for row in state.log_history if metric in row][:-1]
    best = min(before, key=lambda row: row[metric], default=None)
    place = "best so far" if best is None or logs[metric] < best[metric] else f"best at step {best['step']:,}"
    loss, bits = logs["eval_loss"], logs["eval_bits_per_byte"]
    return f"eval at step {state.global_step:,}: {loss:.4f} nats | {bits:.4f} bits per byte | {place}"


def end_line(logs: dict[str, Any], state: TrainerState, first_step: int) -> str:
    """train_loss and train_runtime are those of this session, and the time is with evaluations and saves."""
    steps = f"steps {first_step + 1:,} to {state.global_step:,}" if first_step else _steps(state.global_step)
    flops = f" | {power_of_ten(logs['training_flops'], 4)} FLOPs" if "training_flops" in logs else ""
    return f"trained {steps} in {short_duration(logs['train_runtime'])} | mean loss {short(logs['train_loss'])}{flops}"


def set_off(story: str) -> str:
    """A sample story behind a rule; on a terminal in lines of its width. Characters that control it are escaped."""
    width = columns()
    lines = [printable(line) for line in re.split(r"\n\s*", story.strip())]
    if width is not None:
        narrow = max(1, min(width - len(RULE), WIDEST))
        lines = [part for line in lines for part in textwrap.wrap(line, narrow) or [""]]
    return "\n".join(RULE + line for line in lines)


def _steps(number: int) -> str:
    return f"{number:,} step" + "s" * (number != 1)


def _place(state: TrainerState) -> str:
    return f"step {state.global_step:>{len(str(state.max_steps))}}/{state.max_steps}"


def _fields(logs: dict[str, Any], seconds_left: float) -> list[str]:
    """Time left, loss and speed; those that are not known yet are left out."""
    fields = [f"{short_duration(seconds_left)} left"]
    if logs.get("loss") is not None:
        fields.append(f"loss {short(logs['loss'])}")
    if "tokens_per_second" in logs:
        fields.append(f"{short_count(logs['tokens_per_second'])} tok/s")
    return fields
