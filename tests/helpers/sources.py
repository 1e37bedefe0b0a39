"""Where each number of the documents comes from. tests/test_numbers.py says how it is used.

MEASURED: sentences, written with the values of a record in docs/results. A new record makes the sentence wrong, and the
test fails until the document says what the record says. DEFINED: sentences with numbers that are settings, limits or
formats; where the code has the value, it is taken from there. A time, a speed or a score is never defined.
"""

import json
import re
from types import SimpleNamespace
from typing import Any

from benchmarks.claims_report import CLAIMS
from helpers.runs import ROOT, load_benchmark
from tinystories.checks.prediction import COVERAGE
from tinystories.config.arguments import RunArguments
from tinystories.errors import GuardError, UserError
from tinystories.evaluation.minimal_pairs.rules import RULES
from tinystories.evaluation.text.critic import HEAD, OTHER_PROMPTS
from tinystories.evaluation.text.prompts import PROMPTS
from tinystories.generation.sampler import STRONGEST_BIAS
from tinystories.reporting.comparison import MOST_RUNS
from tinystories.server.arguments import STORIES_PER_MINUTE
from tinystories.server.middleware import LARGEST_BODY, LARGEST_HEADERS
from tinystories.server.schema import BOUNDS, DEFAULT_MAX_TOKENS
from tinystories.training.loss_spike import WINDOW


SMALL = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]


JUDGE = load_benchmark("sequential_test")


def record(name: str) -> Any:
    """docs/results/`name`.json, with attributes for keys."""
    text = (ROOT / "docs" / "results" / f"{name}.json").read_text(encoding="utf-8")
    return json.loads(text, object_hook=lambda values: SimpleNamespace(**values))


def of_the_page(module: str, name: str) -> int:
    """A constant in the server's page."""
    text = (ROOT / "tinystories/server/static" / module).read_text(encoding="utf-8")
    found = re.search(rf"const {name} = ([\d_]+);", text)
    assert found, f"no {name} in {module}"
    return int(found[1])


def minutes(seconds: float) -> str:
    """Whole minutes; below half of one, the seconds."""
    number = round(seconds / 60)
    return f"{number} minute{'s' * (number != 1)}" if number else f"{seconds:.0f} seconds"


def cores(machine: Any) -> str:
    """`two shared cores of an AMD EPYC`."""
    shared = "shared " if machine.shared else ""
    return f"{SMALL[machine.cores]} {shared}cores of an {machine.processor}"


def threads(machine: Any) -> str:
    return f"{SMALL[machine.threads]} thread{'s' * (machine.threads != 1)}"


def others(machine: Any) -> str:
    share = f", while other processes used {100 * machine.load_by_others:.0f} % of its {SMALL[machine.cores]} cores"
    return share if machine.shared else ""


def amx(machine: Any) -> str:
    return "with" if "amx_bf16" in machine.instructions else "without"


def number_words(number: int) -> str:
    return SMALL[number] if number < len(SMALL) else f"{number:,}"


DEMO, CPU, OPTIMIZERS, PROCESSES = map(record, ("demo", "tinystories-cpu", "optimizers", "two-processes"))
GPU = record("tinystories-gpu")
GUARDS, BOXED, FIRST_STORY = map(record, ("guards", "boxed", "first_story"))
RECIPE, FIRST_RUN, CHECKED = OPTIMIZERS.recipe, OPTIMIZERS.runs[0], record("minimal_pairs_checked").pairs
SEEDS = number_words(len({run.seed for run in OPTIMIZERS.runs} - {0}))  # seed 0 is that of the sweep
DIFFERENCE = f"{PROCESSES.largest_difference.loss:.1e}".replace("e-0", "e-")
SIZES = [float(path.stem.removeprefix("tinystories-")[:-1]) for path in (ROOT / "configs" / "ladder").glob("*.yaml")]
DEMO_SCORE, CPU_SCORE = DEMO.all_results, CPU.all_results

MEASURED = {
    "README.md": [
        f"A story, {FIRST_STORY.goals[0].ratio:.1f} seconds of processor time later, by the model of "
        f"{BOXED.parameters:,} parameters",
        next(story.text for story in FIRST_STORY.stories if story.seed == FIRST_STORY.shown_seed),
        f"(seed {DEMO.provenance.seed}; {DEMO.provenance.seconds:.0f} seconds with {threads(DEMO.provenance.machine)} "
        f"on an {DEMO.provenance.machine.processor}{others(DEMO.provenance.machine)})",
        f"all {DEMO_SCORE.eval_stories:,} validation stories: loss {DEMO_SCORE.eval_loss:.4f} nats per token, "
        f"perplexity {DEMO_SCORE.eval_perplexity:.3f}, {DEMO_SCORE.eval_bits_per_byte:.4f} bits per byte",
        DEMO.story.text,
        f"| [demo](configs/demo.yaml) | {DEMO.parameters:,} | stories that come with the project |",
        f"A model of {CPU.parameters / 1e6:.1f} million parameters from one text file",
        f"Trained on {CPU.packing.stories:,} stories of TinyStories ({CPU.provenance.data.train.bytes / 1e6:.1f} MB; "
        f"{CPU_SCORE.num_input_tokens_seen:,} tokens in {number_words(round(CPU_SCORE.epoch))} epochs, seed "
        f"{CPU.provenance.seed}) it reached {CPU_SCORE.eval_bits_per_byte:.4f} bits per byte on "
        f"{CPU_SCORE.eval_stories:,} held-out stories, after {minutes(CPU_SCORE.train_runtime)} of training on "
        f"{cores(CPU.provenance.machine)} {amx(CPU.provenance.machine)} AMX",
        f"On one {GPU.provenance.machine.accelerator} the whole command took {GPU.provenance.seconds:.0f} seconds and "
        f"reached {GPU.all_results.eval_bits_per_byte:.4f}",
        f"| [tinystories-cpu](configs/tinystories-cpu.yaml) | {CPU.parameters:,} | a text file |",
    ],
    "docs/distributed.md": [
        f"the largest difference in {len(PROCESSES.one_process_16_rows.loss)} steps is {DIFFERENCE} nats",
    ],
    "docs/evaluation.md": [f"A sample of {len(CHECKED) // len(RULES)} pairs of each rule was read by hand"],
    "docs/experiments.md": [
        f"{OPTIMIZERS.provenance.data.train.bytes / 1e6:.1f} MB of its training stories",
        f"on the first {FIRST_RUN.stories:,} stories of its validation split",
        f"a {OPTIMIZERS.provenance.machine.cores}-core x86_64 machine",
        f"makes no difference that {SEEDS} seeds could show",
    ],
    "docs/guards.md": [f"with {GUARDS.provenance.data.train.bytes / 1e6:.1f} MB of stories"],
    "docs/installation.md": [
        f"takes {FIRST_STORY.goals[0].ratio:.1f} seconds of processor time after an installation",
        f"{BOXED.parameters:,} parameters in bfloat16, {BOXED.bytes / 1e6:.1f} MB with its tokenizer",
    ],
    "docs/server.md": [f"model opened: demo, {DEMO.parameters:,} parameters, cpu"],
}

ANYWHERE = [  # in every document
    "shifted twice",
    "second half",
    "first half",
    "two CPU cores",  # what a recipe is for
    f"exit status is {UserError.exit_status}",
    f"exit status {GuardError.exit_status}",
    "exit status 130",
    "SIGTERM (143)",
    "95 % interval",
    "24,557,120 parameters",  # tests/config/test_ladder.py counts them
    "| 24,557,120 |",
    "tokens per second",
    "Python 3.11 to 3.14",
    "transformers 5.17 or later",
]
DEFINED = {
    "README.md": [
        "chosen among those of twenty seeds",
        "[thirteen public clients](docs/server.md#openais-client) are tried",
        "`step 140/630 | loss ... | lr ... | grad ... | ... tok/s | ... left`",
        "ten are enough to influence a model",
        "takes a few real steps",
        "lays two runs over each other",
        "macOS 14 or later on Apple silicon",
        "| Python | 3.11 | 3.12 to 3.14 |",
        "0.25M, 1M, 3M, 8M, 15M, 42M, 110M",
    ],
    "docs/exports.md": [
        "up to 64 greedy tokens",
        "in the words of transformers 4 too",
        "a class that transformers 4 knows",
        "the plain folder and two files",
        "opset 18",
        "put 0 into `attention_mask` for padding",
        "**8-bit.**",
        "transformers.js 3.8 and 4.3 in node, and 4.3 in Chromium",
        "weights as 16-bit floats",
        "weights in 8-bit blocks",
        "tokenizers of version 0.1.0",
        "in blocks of 32 numbers",
        "the numbers of the two files",
        "It begins with token 1 and stops where it chooses token 1",
        "token 2 is BOS written as token 1 and a space",
        "Its norms add 1e-5 where the checkpoint adds `rms_norm_eps`",
        "of another base than 10,000",
        "its default is 256 steps",
        "within one per cent in reduced precision",
    ],
    "docs/distributed.md": [
        "`exitcode` is 1 for a user's mistake and 2 for a failed guard. The launcher itself returns 1.",
        "Version 2, one unit",
    ],
    "docs/evaluation.md": [
        "(default: half the context)",
        f"{number_words(len(RULES)).capitalize()} rules make the pairs",
        "is right half of the time",  # what chance gives
        f"The model continues {len(PROMPTS)} beginnings of our own with each preset and several seeds",
        "Half of the beginnings stop inside a sentence",
        "sentences of three words or more in which at least half of the word triples occur",
        "out of 10",
        "never graded 0",
        "0 is the floor, 1 is people",
        "reach 1, because too much",
        "before it sees each word, less 1",
        f"whether the first {HEAD} words are likelier after their own prompt than after {SMALL[OTHER_PROMPTS]} others",
        "names of the second half occur before",
        "the second half that it saves",
        "; 0 where the limit of tokens cut it",
        "characters change names half-way",
        "the first 5 MiB of TinyStories' V2 validation split",
    ],
    "docs/claims.md": [  # what others say, and what was changed; benchmarks/claims.py has the settings
        "A difference is that of two runs with one seed",
        "32,000 tokens are too many for a small application",
        "had 32K tokens in place of 10K",
        "The text does not hold 32,000 tokens",
        "by ten, so that its model would write them",
        "these tokens counts ten times",
        "[Khan et al., 2026]",
        "a quarter was slightly worse",
        "`partial_rotary_factor: 0.5` against 1.0",
        "padding wastes half",
        "[Krell et al., 2021]",
        "up to half of all tokens can be padding, and packing twice as fast",
        "have a context of 256",
        "Half the context and twice as many rows in a step",
        "with a hundredth",
        "[Press and Wolf, 2017]",
    ],
    "docs/experiments.md": [
        "AdamW (0.9, 0.95)",
        "matrices decay by 0.1",
        f"After {100 * RECIPE.warmup_steps:g} % of warm-up the learning rate follows a cosine to 10 % of its peak, or "
        "decays linearly to 0, or is constant and decays to 0 in the last 20 % of the steps (as 1 - sqrt(progress)",
        "(standard deviation 0.02), zero, or depth scaled (0.02 / sqrt(2 x layers))",
        "279,104 parameters (",
        f"({RECIPE.num_hidden_layers} layers, width {RECIPE.hidden_size}, {RECIPE.num_attention_heads} heads, ",
        f"vocabulary {RECIPE.vocab_size:,}, context {RECIPE.block_size}); {RECIPE.max_steps} steps of "
        f"{RECIPE.per_device_train_batch_size} rows = {FIRST_RUN.tokens:,} tokens of TinyStories, "
        f"{FIRST_RUN.tokens / 279104:.1f} for each parameter",
        "Muon at twice the width",
        "The sweep at twice the width",
        "until its last fifth begins",
        "*Linear to 0* lost to the cosine to 10 %",
        f"Recipes from {min(SIZES):g}M to {max(SIZES):g}M parameters",
        "the reference, 24.6M, is",
        "Each trains on 20 tokens for each parameter, and on at least 100M",
        "times sqrt(64 / width)",
    ],
    "docs/finetuning.md": [
        "A fifth of the stories is held out; they are scored ten times",
        "With ten stories, each would",
    ],
    "docs/guards.md": [
        "ends with status 0",
        "6 x (weights of the matrices",
        "+ 6 x layers x width of all heads",
        "attends to half of its row",
    ],
    "docs/installation.md": [
        "glibc 2.28 or later (`ldd --version` says which): Debian 10, Ubuntu 20.04, RHEL 8 and later ones",
        "| 3.11 to 3.14 |",
        "| macOS 14 or later |",
        "it has two words or more",
        "macOS 11 to 13 on Apple silicon",
        "the last PyTorch for these Macs is 2.2, and this project needs 2.9",
        "(CentOS 7, Ubuntu 18.04)",
    ],
    "docs/long_runs.md": [
        "a second Ctrl-C stops at once | 130 |",
        "| the same | 143 |",
        "it goes on | 129 |",
        "the ones before it are complete | 1 |",
        "with the two keys to give | 1 |",
        "the worst first | 2 |",
        "at steps 1, 2, 4, 8, ...",
        "over the seconds of training alone",
        f"lays the curves of two runs (at most {MOST_RUNS}) over each other",
        "lays the curves of two runs",
        "grams of CO2",
        "Grams of CO2",
        "codes of ISO 639 such as",
    ],
    "docs/scaling.md": [
        "What will a recipe score",
        f"{COVERAGE:.0%} interval ... to ...",
        "the first steps of the run itself",
        "in tens of megabytes, in bytes",
        "epochs after the first",
        "The first epoch is counted",
        "the score of nine runs of ten",
        "the spread of the recipes once more",
        "(M N / U repeats)^m        D = U (1 + R (1 - exp(-repeats / R)))",
        "--jobs 10",
    ],
    "docs/server.md": [
        "running stories have ten more seconds",
        "with 429 `retry_after`, the seconds of the header",
        f"| more than {BOUNDS['prompt'][1]:,} characters (`MAX_PROMPT_CHARACTERS`)",
        "calls of tools and their answers | refused with 422 |",
        "than the model reads | refused with 422: begin a new chat",
        f"a client on another machine has {STORIES_PER_MINUTE} a minute",
        f"and have {STORIES_PER_MINUTE} stories a minute",
        f"and share its {STORIES_PER_MINUTE} stories a minute",
        "between two tokens",
        *(
            f'"{key}": {value}'
            for key, value in (("seed", 1), ("prompt_tokens", 7), ("max_tokens", 6), ("new_tokens", 6))
        ),
        '"settings": {"temperature": 0.8, "top_k": 50, "top_p": 0.95, "repetition_penalty": 1.0}',
        '"tokens": 1}',
        '"seconds": ...',
        f"| `prompt` | 1 to {BOUNDS['prompt'][1]:,} characters",
        "| 0.1 to 2, 0 to 100 (0: all tokens), 0.1 to 1, 1 to 2 |",
        f"default {DEFAULT_MAX_TOKENS}; clamped",
        f"0 to {BOUNDS['seed'][1]}; default: random",
        f"0 to {BOUNDS['alternatives'][1]}: adds to each piece",
        "must be between 0.1 and 2.0",
        '"bounds": [0.1, 2.0]',
        "temperature 1, 16 tokens. Temperature 0 always",
        "With one `seed`",
        "no two tokens have one name",
        "With `max_tokens: 0` nothing",
        f"`logit_bias`: -{STRONGEST_BIAS:g} excludes a token and {STRONGEST_BIAS:g} excludes all others",
        "Other routes are 404",
        "`bytes:\\xf0`",
        '"seed": 1}\'',
        "for one busy client",
        "--batch_size 16",
        "max_length=512",
        "http://127.0.0.1:7779/v1",
        "curl http://127.0.0.1:7779/v1/chat/completions",
        "away from a server on this one",
        f"headers (at most {LARGEST_HEADERS // 1024} KiB) and body (at most {LARGEST_BODY // 1024} KiB, or",
        "in any 60 seconds",
        "still waiting then gets 503",
        "may have a quarter of `MAX_CONNECTIONS`",
        "4 bytes a parameter in float32",
        f"up to {of_the_page('learn.js', 'SHOWN_BY_ITSELF')} of them, one after the other",
        f"the newest {of_the_page('storage.js', 'MOST_STORIES')}, or "
        f"{of_the_page('storage.js', 'MOST_LETTERS'):,} characters of them",
        "where two words are nearly equally likely",
        "| 200 when a model is ready, else 503 with the reason |",
        "| 200 as long as the process answers",
        "7 + 117 tokens, ... tokens/s, stop, seed 1",
        "respond /metrics 404",
        "reverse_proxy 127.0.0.1:7779",
        "runs as uid 1000",
        "the default of ten seconds is too short",  # Docker's
    ],
    "docs/speedrun.md": [
        f"wrong in at most {100 * JUDGE.LEVEL:.0f} % of the cases",
        "better by 3 standard deviations",
        "One starts with 1 and bets",
        f"and at most {JUDGE.LARGEST_BET}",
        f"reach {1 / JUDGE.LEVEL:.0f} with a probability of at most 1/{1 / JUDGE.LEVEL:.0f}",
        f"At {1 / JUDGE.LEVEL:.0f} or more the candidate is the record, and 1 divided by",
        f"after {JUDGE.MOST_PAIRS} pairs, or when {1 / JUDGE.LEVEL:.0f} is out of reach",
        f"earliest record needs {SMALL[JUDGE.decide([1] * 9).pairs]} pairs",
    ],
    "docs/trackers.md": [
        f"more than `max_loss_spike` nats (default {RunArguments.max_loss_spike:g}), and more than ten times the usual "
        f"spread, above the median of the last {WINDOW} steps",
    ],
    "docs/your_text.md": [
        "`--validation_file`, 5 % of the distinct stories",
        "To train one separately, for several runs",
        "With a few stories only, for example ten files",
    ],
}
WHOLE = {  # documents that are written from records, and the test that compares them
    "benchmarks/README.md": "tests/test_benchmark_tables.py",
    "docs/compatibility.md": "tests/checkpoint/test_compatibility.py",
}
GENERATED = {  # blocks between two comments, and the test that compares them with their record or with the code
    ("scale: numbers", "scale: end"): "tests/evaluation/test_metric_scale.py",
    ("alarms: numbers", "alarms: end"): "tests/evaluation/test_metric_scale.py",
    ("penalties: numbers", "penalties: end"): "tests/evaluation/test_metric_scale.py",
    ("overall: numbers", "overall: end"): "tests/evaluation/test_metric_scale.py",
    ("presets: numbers", "presets: end"): "tests/evaluation/test_default_preset.py",
    ("damages: numbers", "damages: end"): "tests/evaluation/test_metric_scale.py",
    ("other damages: numbers", "other damages: end"): "tests/evaluation/test_metric_scale.py",
    ("checkpoints: numbers", "checkpoints: end"): "tests/evaluation/test_metric_scale.py",
    ("noise: numbers", "noise: end"): "tests/evaluation/test_metric_scale.py",
    ("peer: numbers", "peer: end"): "tests/evaluation/test_metric_scale.py",
    ("doors: table", "doors: end"): "tests/test_doors.py",
    ("scale of a run: tables", "scale of a run: end"): "tests/test_scale_arithmetic.py",
    ("corpus size: numbers", "corpus size: end"): "tests/test_corpus_size.py",
    ("training log: sample", "training log: end"): "tests/training/test_training_log.py",
    ("guards: costs", "guards: end"): "tests/training/guards/test_guards_document.py",
    ("optimizers: tables", "optimizers: end"): "tests/test_experiments.py",
    ("speedrun: results", "speedrun: end"): "tests/test_speedrun.py",
    ("pretokenizer: table", "pretokenizer: end"): "tests/test_experiments.py",
    ("ladder: recipes", "ladder: end"): "tests/config/test_ladder.py",
    ("claims: setting", "claims: end"): "tests/test_claims.py",
    ("claims: runs", "claims: end"): "tests/test_claims.py",
    **{(f"claim: {name}", "claim: end"): "tests/test_claims.py" for name in CLAIMS},
    ("scaling: tables", "scaling: end"): "tests/test_scaling.py",
    **{
        (f"familiar: {part}", "familiar: end"): "tests/config/test_familiar.py"
        for part in ("example", "options", "fields")
    },
    ("load", "/load"): "tests/server/test_document.py",
    ("clients: table", "clients: end"): "tests/server/test_document.py",
    ("settings", "/settings"): "tests/server/test_document.py",
    ("errors", "/errors"): "tests/server/test_document.py",
}
