"""What the records of a run must be: each derived number follows from the others, and the best is the best.

All of it is read from the files of a run folder, so it can be checked long after the run as well.
"""

import csv
import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from tinystories.atomic import damage
from tinystories.errors import GuardError
from tinystories.run_files import EVALUATIONS_TABLE, Run, step_of


def plain(record: Mapping[str, Any] | None) -> dict[str, Any]:
    """A record as a dictionary; an empty one where it is absent or damaged."""
    return dict(record or {})


def evaluations_of(run: Run) -> list[dict[str, Any]]:
    """The evaluations in the log, in the order of their steps; of one step the last."""
    history = run.state.get("log_history", []) if run.state else []
    return list({row["step"]: row for row in history if "eval_loss" in row}.values())


def check_derived(run: Run) -> str:
    """Perplexity is exp(loss), bits per byte follow from loss, tokens and bytes; both in the log and in the result."""
    rows, final = evaluations_of(run), plain(run.results)
    for row in rows:
        _check_perplexity(row, f"the evaluation at step {row['step']}")
        if {"eval_gap", "eval_train_loss"} <= row.keys():
            gap = row["eval_loss"] - row["eval_train_loss"]
            _compare(f"eval_gap at step {row['step']}", row["eval_gap"], gap, "eval_loss - eval_train_loss")
    ratios = [row["eval_bits_per_byte"] / row["eval_loss"] for row in rows if _has_bits(row)]
    if ratios and not np.allclose(ratios, ratios[0], rtol=1e-6):
        raise GuardError("bits per byte / loss differs between the evaluations: they are not of the same stories")
    if "eval_loss" in final:
        _check_perplexity(final, "the final score")
        if {"eval_tokens", "eval_bytes", "eval_bits_per_byte"} <= final.keys():
            bits = final["eval_loss"] * final["eval_tokens"] / math.log(2) / final["eval_bytes"]
            _compare(
                "eval_bits_per_byte of the final score", final["eval_bits_per_byte"], bits, "loss x tokens / bytes"
            )
    return f"{len(rows)} evaluations and the final score agree in themselves"


def _has_bits(row: dict[str, Any]) -> bool:
    return bool(row.get("eval_bits_per_byte") and row["eval_loss"] and math.isfinite(row["eval_loss"]))


def _check_perplexity(row: dict[str, Any], where: str) -> None:
    if "eval_perplexity" in row and math.isfinite(row["eval_perplexity"]):
        _compare(f"eval_perplexity of {where}", row["eval_perplexity"], math.exp(row["eval_loss"]), "exp(loss)")


def _compare(name: str, found: float, expected: float, source: str, relative: float = 1e-5) -> None:
    if not math.isclose(found, expected, rel_tol=relative, abs_tol=1e-7):
        raise GuardError(f"{name} is {found:.6g}, and by {source} it is {expected:.6g}")


def check_best(run: Run) -> str:
    """The checkpoint that the records call the best has the lowest metric of all evaluations.

    A better one before a resumption may have been lost: then its checkpoint is not there any more, or damaged.
    """
    recipe, state, rows = plain(run.recipe), plain(run.state), evaluations_of(run)
    best = state.get("best_global_step")
    if best is None or not rows:
        return "no best checkpoint was chosen"
    metric = f"eval_{(recipe.get('metric_for_best_model') or 'loss').removeprefix('eval_')}"
    values = {row["step"]: row[metric] for row in rows if row.get(metric) is not None}
    if best not in values:
        raise GuardError(f"step {best} is called the best, and there is no evaluation of it")
    resumed = plain(run.results).get("resumed_from_step") or 0
    for step, value in values.items():
        lost = step <= resumed and damage(run.run_folder / f"checkpoint-{step}") is not None
        if value < values[best] and not lost:
            raise GuardError(
                f"step {best} is called the best with {metric} {values[best]:.4f}, and step {step} has {value:.4f}",
                f"the weights of step {step} are better",
            )
    named = state.get("best_model_checkpoint")
    if isinstance(named, str) and step_of(named.replace("\\", "/").rsplit("/", 1)[-1]) != best:
        raise GuardError(f"the best step is {best}, and the best checkpoint is given as {named}")
    return f"step {best} has the lowest {metric} of {len(values)} evaluations"


def check_evaluation_files(run: Run) -> str:
    """evaluations.jsonl and .csv have the numbers of the log."""
    logged, rows = {row["step"]: row for row in evaluations_of(run)}, run.evaluations
    for row in rows:
        expected = logged.get(row["step"])
        for key in ("eval_loss", "eval_bits_per_byte", "eval_perplexity", "eval_train_loss"):
            found, log = row.get(key), (expected or {}).get(key)
            if isinstance(found, float) and isinstance(log, float) and found != log:
                raise GuardError(f"evaluations.jsonl has {key} {found} at step {row['step']}, and the log {log}")
    steps = [row["step"] for row in rows]
    last = plain(run.state).get("global_step", 0)
    missing = sorted(step for step in logged.keys() - set(steps) if step <= last)
    if rows and missing:
        raise GuardError(f"evaluations.jsonl has no row of step {missing[0]}, which was evaluated")
    table = run.run_folder / EVALUATIONS_TABLE
    if rows and table.exists():
        with table.open(encoding="utf-8", newline="") as file:
            columns = [(int(row["step"]), row.get("eval_loss")) for row in csv.DictReader(file)]
        if [step for step, _ in columns] != steps[: len(columns)]:  # shorter where a spreadsheet had it open
            raise GuardError(f"{EVALUATIONS_TABLE} has the steps {[step for step, _ in columns]}, not {steps}")
    return f"{len(rows)} rows as in the log"


def check_speed(run: Run) -> str:
    """tokens/s x seconds are the tokens between two rows of the log; MFU is the speed over the peak of its row."""
    resumed = plain(run.results).get("resumed_from_step") or 0
    history = run.state.get("log_history", []) if run.state else []
    rows = [row for row in history if "tokens_per_second" in row and row["step"] > resumed]
    for before, row in pairwise(rows):
        tokens = row["num_input_tokens_seen"] - before["num_input_tokens_seen"]
        counted = row["tokens_per_second"] * row["training_seconds"]
        _compare(f"tokens/s x training_seconds at step {row['step']}", counted, tokens, "the tokens seen", 1e-3)
    environment = plain(run.environment)
    if rows and {"flops_per_token", "peak_flops_measured"} <= environment.keys():
        for row in rows:
            peak = row.get("peak_flops", environment["peak_flops_measured"])  # measured again when the speed changes
            mfu = row["tokens_per_second"] * environment["flops_per_token"] / peak
            _compare(f"mfu at step {row['step']}", row["mfu"], mfu, "tokens per second and the measured peak", 1e-3)
    return f"{len(rows)} rows of the log"


def check_tokens_seen(run: Run, config: dict[str, Any]) -> str:
    """The tokens seen are those of the rows of all steps; floating-point operations follow from the sizes."""
    state, recipe, data = plain(run.state), plain(run.recipe), plain(run.data)
    packing, seen = data.get("packing", {}), state.get("num_input_tokens_seen")
    rows_per_step = data.get("began_with", {}).get("rows_per_step")
    if not seen or not rows_per_step or not {"rows", "padding_tokens"} <= packing.keys():
        return "not counted"
    rows, block, steps = packing["rows"], recipe["block_size"], state["global_step"]
    visited, _, _ = _rows_of_steps(run)
    padding = 0.0 if recipe.get("include_num_input_tokens_seen") == "all" else packing["padding_tokens"] / rows
    expected = visited * (block - padding)
    processes = plain(run.environment).get("processes", 1)
    exact = processes == 1 and not padding and recipe.get("per_device_train_batch_size", 1) <= rows
    slack = 1e-9 if exact else 0.25
    if abs(seen - expected) > slack * expected + (0 if exact else rows_per_step * block):
        raise GuardError(f"{seen:,} tokens were counted, and {steps:,} steps have {expected:,.0f} in their rows")
    return f"{seen:,} in {steps:,} steps"


def _rows_of_steps(run: Run) -> tuple[int, int, int]:
    """Rows in all steps so far: those of the data, and with those that fill up last batches; and the epochs begun."""
    recipe, data, steps = plain(run.recipe), plain(run.data), plain(run.state)["global_step"]
    rows, rows_per_step = data["packing"]["rows"], data["began_with"]["rows_per_step"]
    if "stream" in data:  # it has no epochs
        return steps * rows_per_step, steps * rows_per_step, 1
    at_once = max(1, rows_per_step // (recipe.get("gradient_accumulation_steps") or 1))
    per_epoch = max(1, rows - rows % at_once if recipe.get("dataloader_drop_last") else rows)
    filled = math.ceil(per_epoch / at_once) * at_once
    epochs, more = divmod(steps, math.ceil(per_epoch / rows_per_step))
    return epochs * per_epoch + more * rows_per_step, epochs * filled + more * rows_per_step, epochs + 1


def check_training_flops(run: Run, config: dict[str, Any]) -> str:
    """Those of a token are what the sizes in config.json give, those of the run what the rows of its steps give."""
    data, results = plain(run.data), plain(run.results)
    if (
        not plain(run.state)
        or "rows" not in data.get("packing", {})
        or "rows_per_step" not in data.get("began_with", {})
    ):
        return "not counted"
    block = plain(run.recipe)["block_size"]
    of_row = block * _check_flops_per_token(run, config, block)
    found = results.get("training_flops")
    if found is None:  # a run of version 0.1.0
        return f"{of_row:.4g} for each row"
    fewest, most, epochs = _rows_of_steps(run)
    if results.get("resumed_from_step") is not None:  # the sessions may differ in what they fill up or drop
        slack = epochs * data["began_with"]["rows_per_step"]
        fewest, most = fewest - slack, most + slack
    elif plain(run.environment).get("processes", 1) == 1:
        fewest = most = most if plain(run.recipe).get("torch_compile") else fewest
    if not fewest * of_row <= found <= most * of_row:
        raise GuardError(
            f"training_flops is {found:.6g}, and {plain(run.state)['global_step']:,} steps have {fewest:,} to {most:,} "
            f"rows of {of_row:.6g}"
        )
    return f"{found:.4g}, {of_row:.4g} for each row"


def _check_flops_per_token(run: Run, config: dict[str, Any], row_length: int) -> int:
    """6 for each weight of a matrix that a token meets, and those of attention, by the sizes in config.json."""
    found = plain(run.environment).get("flops_per_token")
    heads = config["num_attention_heads"] * config["head_dim"]
    shared = config["num_key_value_heads"] * config["head_dim"]
    layer = config["hidden_size"] * (2 * heads + 2 * shared + 3 * config["intermediate_size"])
    matrices = config["num_hidden_layers"] * layer + config["vocab_size"] * config["hidden_size"]
    expected = 6 * matrices + 6 * config["num_hidden_layers"] * heads * row_length
    if found is not None:
        _compare("flops_per_token", found, expected, "the sizes of the model")
    return expected
