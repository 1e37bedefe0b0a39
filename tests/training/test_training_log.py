"""The log of a run: one line an event, with the true numbers. In a pipe nothing else; on a terminal a status line."""

import json
import os
import re
import signal
import struct
import subprocess
import sys
import threading

import pytest
from transformers import TrainerState

from helpers.forked import ForkedCommand, fork_command
from helpers.runs import ROOT, TINY, as_options, load_benchmark, write_counting_corpus
from tinystories.config.arguments import RunArguments
from tinystories.reporting.format import power_of_ten, short, short_count, short_duration
from tinystories.training.log import evaluation_line, set_off


if os.name == "posix":
    import fcntl
    import termios
    import tty

slow = pytest.mark.slow
posix = pytest.mark.skipif(os.name != "posix", reason="opens a pseudo-terminal")

NUMBER = r"(?:\d+(?:\.\d+)?(?:e-?\d+)?)"
STEP = re.compile(
    rf"step +(?P<step>\d+)/(?P<of>\d+) \| loss (?P<loss>{NUMBER}) \| lr (?P<lr>{NUMBER}) \| grad (?P<grad>{NUMBER}) \| "
    r"(?P<speed>\d+(?:\.\d)?[kM]?) tok/s \| (?P<left>(?:\d+[dhms])+) left"
)
EVAL = re.compile(
    r"eval at step (?P<step>\d+): (?P<loss>\d+\.\d{4}) nats \| (?P<bits>\d+\.\d{4}) bits per byte \| (?P<place>.+)"
)
OTHERS = [
    r".*: stories end at <\|endoftext\|>",
    r"corpus: \d+ training stories, \d+ validation stories",
    r"training a tokenizer on \d+ of \d+ stories",
    r"packed: [\d,]+ tokens in \d+ rows of \d+, [\d.]+% padding \(\d+ dropped at the end\)",
    r"tokenizer: .*",
    r"model: [\d,]+ parameters \(.*\)",
    r"guards: \d+ passed in [\d.]+ s of processor time; data_report.json says what each found",
    r"training: (resumed at step \d+ of )?\d+(, | )steps of 8 rows, float32 on cpu",
    r"  \| .*",
    r"saved .*/checkpoint-\d+",
    r"trained (\d+ steps?|steps \d+ to \d+) in \d+s \| mean loss [\d.]+ \| [\d.]+e\d+ FLOPs",
    r"guards of the finished run: \d+ passed in [\d.]+ s of processor time",
    r"weights: .*",
    r"all \d+ validation stories: loss .*",
    r"warning: .*",
    "",
]
SHORT = {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}


def steps_of(log):
    return [int(found["step"]) for found in map(STEP.fullmatch, log.splitlines()) if found]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A function: changed settings -> the finished process. In folders of their own unless `output_dir` is given."""
    folder = tmp_path_factory.mktemp("log")
    corpus, number = write_counting_corpus(folder), iter(range(99))

    def run(*options, command=fork_command, **changes):
        settings = TINY | {"train_file": corpus, "data_cache_dir": folder / "cache", "skip_guards": True}
        settings |= SHORT | {"output_dir": folder / f"run-{next(number)}"} | changes
        words = as_options({name: value for name, value in settings.items() if value is not None})
        return command("run_clm.py", *words, *options)

    return run


@slow
def test_lines_of_a_run(counting_run):
    """Each one is ours, in its order: a library that begins to talk is found here. No bar and no codes in a pipe."""
    log = (counting_run / "stderr.txt").read_bytes().decode()
    assert "\x1b" not in log and "\r" not in log.replace("\r\n", "")
    lines = log.splitlines()
    unknown = [
        line
        for line in lines
        if not (STEP.fullmatch(line) or EVAL.fullmatch(line) or any(re.fullmatch(known, line) for known in OTHERS))
    ]
    assert not unknown
    assert steps_of(log) == list(range(10, 101, 10))
    first = next(place for place, line in enumerate(lines) if line.startswith("eval at step 50: "))
    assert (lines[first - 2].split(" |")[0], lines[first - 1]) == ("step  50/100", "")
    assert lines[first + 1].startswith("  | Story 7. one two") and lines[first + 2].endswith("checkpoint-50")
    assert lines[first + 3] == "" and lines[first + 4].startswith("step  60/100 |")
    assert all(line.startswith("warning: ") for line in lines if "phrases" in line or "copies" in line)


@slow
def test_numbers_of_the_lines(counting_run):
    """Those of trainer_state.json, which the Trainer wrote."""
    history = json.loads((counting_run / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    lines = (counting_run / "stderr.txt").read_text(encoding="utf-8").splitlines()
    steps = [found for found in map(STEP.fullmatch, lines) if found]
    rows = [row for row in history if "loss" in row]
    assert len(steps) == len(rows) == 10
    for found, row in zip(steps, rows, strict=True):
        assert float(found["loss"]) == pytest.approx(row["loss"], rel=5e-3)
        assert float(found["lr"]) == pytest.approx(row["learning_rate"], rel=5e-2)
        assert float(found["grad"]) == pytest.approx(row["grad_norm"], rel=5e-2)
        assert found["speed"] == short_count(row["tokens_per_second"])
        assert found["left"] == short_duration(row["eta_seconds"])
    evaluations = [found for found in map(EVAL.fullmatch, lines) if found]
    for found, row in zip(evaluations, [row for row in history if "eval_loss" in row], strict=True):
        assert (int(found["step"]), found["loss"]) == (row["step"], f"{row['eval_loss']:.4f}")
        assert found["bits"] == f"{row['eval_bits_per_byte']:.4f}"


@slow
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"max_steps": 1, "logging_steps": 1}, [1]),
        ({"max_steps": 3, "logging_steps": 50}, []),
        ({"max_steps": 5, "logging_steps": 0.4, "logging_first_step": True}, [1, 2, 4]),
        ({"max_steps": -1, "num_train_epochs": 2, "logging_strategy": "epoch", "max_train_samples": 64}, "epochs"),
        ({"max_steps": 2, "logging_steps": 1, "streaming": True}, [1, 2]),
    ],
    ids=str,
)
def test_lines_are_those_of_logging_steps(run, changes, expected):
    """At the boundaries: one step, none, the first, shares of the run with a rest, by epochs, on a stream."""
    process = run(**changes, warmup_steps=0)
    assert process.returncode == 0, process.stderr[-3000:]
    steps = steps_of(process.stderr)
    if expected == "epochs":
        last = int(re.search(r"^training: (\d+) steps", process.stderr, re.MULTILINE)[1])
        expected = [last // 2, last]
    assert steps == expected
    assert len(re.findall(r"^(step|trained) ", process.stderr, re.MULTILINE)) == len(expected) + 1
    assert process.stdout.count("Your model: ") == 1 and "{" not in process.stdout + process.stderr


@slow
def test_lines_of_a_resumed_run(run, tmp_path):
    """It counts on, and says where it began; the best before the pause stays the best."""
    saving = {"eval_strategy": "steps", "eval_steps": 3, "save_strategy": "steps", "save_steps": 3, "logging_steps": 1}
    saving |= {"output_dir": tmp_path / "run", "learning_rate": 1e-4, "lr_scheduler_type": "constant"}
    assert run(**saving, max_steps=3).returncode == 0
    process = run("--resume", **saving, max_steps=6)
    assert steps_of(process.stderr) == [4, 5, 6]
    assert "training: resumed at step 3 of 6, steps of 8 rows, float32 on cpu" in process.stderr
    assert re.search(r"^trained steps 4 to 6 in ", process.stderr, re.MULTILINE)
    assert "do not match" not in process.stderr, "the Trainer's comparison of max_steps"


@slow
def test_lines_of_a_run_that_stops_early(run):
    """An evaluation that is no better names the best one; the reason why the run ends follows it."""
    saving = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
    process = run(
        **saving | {"load_best_model_at_end": True, "early_stopping_patience": 1, "max_steps": 60, "warmup_steps": 0},
        **{"learning_rate": 0.5, "max_loss_spike": 0, "max_grad_norm": 0},
    )
    assert process.returncode == 0, process.stderr[-3000:]
    lines = process.stderr.splitlines()
    stopped = lines.index("stopping early: no better evaluation in the last 1")
    scores = [EVAL.fullmatch(line) for line in lines if line.startswith("eval at ")]
    best = min(scores, key=lambda found: float(found["loss"]))
    assert best["place"] == "best so far" and scores[-1]["place"] == f"best at step {best['step']}"
    assert max(place for place, line in enumerate(lines) if line.startswith("eval at ")) < stopped


@slow
def test_log_level(run):
    """The Trainer's key holds for this project's lines too: nothing but errors."""
    process = run(max_steps=2, logging_steps=1, log_level="error")
    assert (process.returncode, process.stderr) == (0, "")


class Terminal:
    """A pseudo-terminal of `columns` as the stderr of a forked command; `text()` is what it was sent so far."""

    def __init__(self, columns):
        self.master, self.slave = os.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        tty.setraw(self.slave)  # line feeds arrive as they were written
        self.received = bytearray()
        self.arrived = threading.Condition()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        self.code = f"import os; os.dup2(os.open({os.ttyname(self.slave)!r}, os.O_RDWR | os.O_NOCTTY), 2)"

    def _read(self):
        while True:
            try:
                part = os.read(self.master, 65536)
            except OSError:
                part = b""
            with self.arrived:
                self.received += part
                self.arrived.notify_all()
            if not part:
                return

    def wait_for(self, pattern, timeout=120):
        with self.arrived:
            assert self.arrived.wait_for(lambda: re.search(pattern, self.text()), timeout), self.text()[-3000:]

    def text(self):
        return self.received.decode(errors="replace")

    def finish(self):
        """All that was sent. Lines as they stand at the end: what a carriage return was followed by."""
        os.close(self.slave)
        self.reader.join()
        os.close(self.master)
        self.sent = self.text()
        return [line.split("\r")[-1] for line in self.sent.split("\n")]

    def bars(self):
        """What stood in the last line: it ends with a carriage return, and a line of the log with a line feed."""
        return [part for part in re.findall(r"[^\r\n]+(?=\r)", self.sent) if part.startswith("step ")]


PLAIN = {"TERM": "xterm", "CI": "", "JPY_PARENT_PID": "", "NO_COLOR": ""}


def in_terminal(terminal, **environment):
    return lambda *words: ForkedCommand(*words, code=terminal.code, **(PLAIN | environment))


@slow
@posix
def test_narrow_terminal_and_stop(run):
    """40 columns: the status line fits, with step and time left first. Ctrl-C and what follows are on own lines."""
    terminal = Terminal(40)
    process = run(
        *("--sample_prompts", "Story 7. one two"),
        command=in_terminal(terminal),
        **{"max_steps": 100_000, "logging_steps": 20, "disable_tqdm": None, "save_strategy": "steps"},
        **{"save_steps": 100_000, "eval_strategy": "steps", "eval_steps": 30},
    )
    terminal.wait_for(r"step +60/100000 \| loss[^\r]+\n\r")
    os.kill(process.pid, signal.SIGINT)
    assert process.wait().returncode == 130
    lines = terminal.finish()
    bars = terminal.bars()
    assert any(re.match(r"step +\d+/100000 \| \d\S+ left", bar) for bar in bars)
    assert any("evaluating 1/" in bar for bar in bars)
    assert max(map(len, bars)) < 40, max(bars, key=len)
    assert "\x1b[33mwarning:\x1b[0m GUARDS SKIPPED: nothing checks" in lines
    assert any(line.startswith("\x1b[1m") for line in terminal.sent.splitlines()), "an evaluation is bold"
    words = " ".join(lines)
    assert "  | Story 7. one two three" in words, "the sample"
    assert any(line.endswith("stopping: this step is finished and saved first (Ctrl-C: stop now)") for line in lines)
    assert [line for line in lines if line.startswith("stopped by a signal; saved in ")] == [lines[-2]]
    visible = [re.sub(r"\x1b\[[\d;]*[mK]", "", line) for line in lines if "/" not in line and "(Ctrl-C" not in line]
    assert max(map(len, visible)) <= 40, "broken between words"


@slow
@posix
def test_error_after_the_status_line(run):
    """It stands on a line of its own, and the status line is gone."""
    terminal = Terminal(100)
    process = run(
        command=in_terminal(terminal, NO_COLOR="1"), max_steps=50, learning_rate=1e30, warmup_steps=0, disable_tqdm=None
    )
    assert process.wait().returncode == 2
    lines = terminal.finish()
    assert terminal.bars() and "\x1b" not in terminal.sent
    assert lines[-2].startswith("error: ") and "at step " in lines[-2] and lines[-1] == ""
    assert not [line for line in lines if line.startswith("step ")]


@slow
@posix
def test_status_line_is_turned_off(run):
    """By the Trainer's key for its bars; the lines are the same."""
    terminal = Terminal(100)
    process = run(command=in_terminal(terminal, NO_COLOR="1"), max_steps=2, logging_steps=1, disable_tqdm=True)
    assert process.wait().returncode == 0
    lines = terminal.finish()
    assert not terminal.bars() and "\r" not in terminal.sent and "\x1b" not in terminal.sent
    assert steps_of("\n".join(lines)) == [1, 2]


SHOWN = """
from tinystories.progress import *
with progress_bar(total=9, delay=0, desc="reading"):
    print_above(styled(wrapped("a warning of " + "nine words " * 9), YELLOW))
"""


@posix
@pytest.mark.parametrize(
    ("environment", "bar", "colour"),
    [
        ({}, True, True),
        ({"NO_COLOR": "1"}, True, False),
        ({"TERM": "dumb"}, False, False),
        ({"CI": "true"}, False, False),
        ({"JPY_PARENT_PID": "7"}, False, False),
    ],
    ids=str,
)
def test_what_a_terminal_gets(environment, bar, colour):
    """Nothing but lines where it knows no codes, in CI and in a notebook; no colour with NO_COLOR."""
    terminal = Terminal(40)
    variables = os.environ | PLAIN | {"PYTHONPATH": str(ROOT)} | environment
    subprocess.run([sys.executable, "-c", SHOWN], env=variables, stderr=terminal.slave, check=True)
    lines = terminal.finish()
    assert ("reading: " in terminal.sent) == bar and ("\r" in terminal.sent) == bar
    assert ("\x1b[33m" in terminal.sent) == colour and ("\x1b" in terminal.sent) == colour
    assert lines[-1].strip() == "", "the bar is gone at the end"
    assert (len(lines) == 4) == bar, "broken between words, or one line"


def test_sample_of_the_document():
    """docs/long_runs.md shows lines of a recorded run, and they are of the form that runs print."""
    benchmark = load_benchmark("training_log")
    record = json.loads(benchmark.RECORD.read_text(encoding="utf-8"))
    document = (ROOT / "docs/long_runs.md").read_text(encoding="utf-8")
    assert benchmark.with_sample(document, record) == document
    shown = benchmark.excerpt(record["log"])
    assert steps_of("\n".join(shown)) and any(EVAL.fullmatch(line) for line in shown)


def test_place_of_an_evaluation():
    """Among those before it, by the metric that decides; the first and a better one are the best so far."""
    args = RunArguments(output_dir="x", use_cpu=True, bf16=False, metric_for_best_model="bits_per_byte")
    rows = [(10, 3.0, 0.9), (20, 2.0, 0.8), (30, 1.0, 0.85), (40, 2.5, 0.8)]
    history = [{"step": step, "eval_loss": loss, "eval_bits_per_byte": bits} for step, loss, bits in rows]
    lines = []
    for number, row in enumerate(history, start=1):
        state = TrainerState(global_step=row["step"], log_history=[{"step": 1, "loss": 9.0}, *history[:number]])
        lines.append(evaluation_line(row, state, args))
    assert lines[0] == "eval at step 10: 3.0000 nats | 0.9000 bits per byte | best so far"
    assert [line.rpartition("| ")[2] for line in lines] == ["best so far", "best so far"] + ["best at step 20"] * 2


def test_sample_is_set_off():
    """Behind a rule, without empty lines; bytes that an untrained model writes do not control the terminal."""
    assert set_off("One.\n\n\n Two \x1b[2J\x07.\n") == "  | One.\n  | Two \\x1b[2J\\x07."
    assert set_off("") == "  | "


@pytest.mark.parametrize(
    ("function", "values"),
    [
        (
            short,
            {2.764: "2.76", 0.4492: "0.449", 10.82: "10.8", 999.6: "1000", 0.00099: "9.90e-4", 0: "0", 1e6: "1.00e6"},
        ),
        (power_of_ten, {0.0039: "3.9e-3", 0.0: "0", 1.0: "1.0e0", 9.96e-5: "1.0e-4", float("nan"): "nan"}),
        (short_count, {0.4: "0", 980: "980", 999.6: "1.0k", 4949: "4.9k", 9960: "10k", 12_345: "12k", 1.2e6: "1.2M"}),
        (short_duration, {0: "0s", 59.4: "59s", 59.6: "1m00s", 226: "3m46s", 3599.6: "1h00m", 3900: "1h05m"}),
        (short_duration, {86_369: "23h59m", 86_370: "1d00h", 183_600: "2d03h", 8_640_000: "100d00h"}),
    ],
)
def test_short_numbers(function, values):
    """Below, at and above each change of unit."""
    assert {value: function(value) for value in values} == pytest.approx(values, nan_ok=True)
