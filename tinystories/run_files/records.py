"""What the files of a run say, as types that are checked when a file is read.

Listed are the keys that this project reads; a file may have more. In the .jsonl files a number that is not finite is
null.
"""

from types import UnionType
from typing import Any, Required, TypedDict, Union, get_args, get_origin, get_type_hints, is_typeddict


class Source(TypedDict, total=False):
    """Where stories come from, and how many rows could not be read."""

    source: str
    stories: int
    bad: int
    first_bad: str | None


class TokenizerReport(TypedDict, total=False):
    vocab_size: int


class BeganWith(TypedDict, total=False):
    """Keys of the content that a resumed run is compared with."""

    rows: str
    validation: str
    rows_per_step: int


class DataReport(TypedDict, total=False):
    train_stories: Required[int]
    validation_stories: Required[int]
    train: Source
    validation: Source
    tokenizer: TokenizerReport
    packing: dict[str, Any]
    guards: dict[str, Any]  # name of each guard: what it found
    began_with: BeganWith
    stream: dict[str, Any]


class TrainerState(TypedDict, total=False):
    global_step: Required[int]
    max_steps: int
    epoch: float | None
    num_input_tokens_seen: int | None
    best_global_step: int | None
    best_model_checkpoint: str | None
    log_history: list[dict[str, Any]]  # training and evaluations, in the order of the steps


class Results(TypedDict, total=False):
    """Of the final score: losses in nats per token, of all validation stories."""

    eval_loss: float
    eval_perplexity: float
    eval_bits_per_byte: float
    eval_stories: int
    eval_tokens: int
    eval_bytes: int
    elapsed_seconds: float
    num_input_tokens_seen: int
    training_flops: int
    energy_kwh: float | None
    energy_method: str
    energy_counted: dict[str, Any]
    resumed_from_step: int


class Environment(TypedDict, total=False):
    device_name: str
    processes: int
    parameters: int
    flops_per_token: float
    peak_flops_measured: float


class EvaluationData(TypedDict, total=False):
    name: Required[str]
    stories: Required[int]
    also_in_training: int | None


class EvaluationSettings(TypedDict, total=False):
    quick: Required[bool]
    prompts: int
    seeds: list[int]
    max_new_tokens: int


class Evaluation(TypedDict, total=False):
    """The result of one model, as run_evaluation.py saves it beside the weights."""

    data: Required[EvaluationData]
    settings: Required[EvaluationSettings]
    preset: Required[str]
    table: Required[list[dict[str, Any]]]
    samples: Required[dict[str, Any]]  # by preset


class EvaluationRow(TypedDict, total=False):
    step: Required[int]
    tokens_seen: int | None
    loss: float | None
    eval_loss: float | None
    eval_perplexity: float | None
    eval_bits_per_byte: float | None
    elapsed_seconds: float | None


class SampleRow(TypedDict):
    step: int
    prompt: str
    seed: int
    text: str


class StopRow(TypedDict, total=False):
    """One row of tokens at which a guard stopped the run; the worst row comes first."""

    step: Required[int]
    loss: float | None


class StepRow(TypedDict):
    step: int


def mismatch(value: Any, kind: Any) -> str | None:
    """Why a JSON object does not match a TypedDict; None if it does. Other keys are allowed."""
    if not isinstance(value, dict):
        return "not a JSON object"
    if not is_typeddict(kind):
        return None
    for name, expected in get_type_hints(kind).items():
        if name in value and not _fits(value[name], expected):
            return f"{name} has the wrong type"
        if name not in value and name in kind.__required_keys__:
            return f"{name} is missing"
    return None


def _fits(value: Any, kind: Any) -> bool:
    if kind is Any:
        return True
    if is_typeddict(kind):
        return mismatch(value, kind) is None
    if get_origin(kind) in (Union, UnionType):
        return any(_fits(value, option) for option in get_args(kind))
    if get_origin(kind) is list:
        return isinstance(value, list) and all(_fits(item, get_args(kind)[0]) for item in value)
    if kind in (int, float):  # JSON writes the float 5.0 as 5, and true is not a number
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    return isinstance(value, get_origin(kind) or kind)


def without_fraction(value: Any) -> Any:
    """A float without a fraction as an int: the parser reads `eval_steps: 500` as 500.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
