"""A run folder without weights, written by hand: the JSON files as a run of 100 steps writes them."""

import json
import math
from pathlib import Path

from tinystories.atomic import seal


RECIPE = {"max_steps": 100, "seed": 42, "hidden_size": 64, "load_best_model_at_end": True, "max_eval_samples": 8}
DATA = {
    "train": {"source": "/home/somebody/stories.txt", "stories": 200, "empty": 0, "bad": 0, "first_bad": None},
    "validation": {"source": "0.05 of the distinct training stories, split_seed 0"},
    "train_stories": 190,
    "validation_stories": 10,
    "tokenizer": {"vocab_size": 315, "articles": {" a": ["a"]}},
    "packing": {"stories": 190, "rows": 60},
    "guards": {"padding": "none in the loss"},
    "began_with": {"rows": "1" * 24, "validation": "2" * 24, "rows_per_step": 8},
}
RESULTS = {
    "eval_loss": 0.5,
    "eval_perplexity": 1.649,
    "eval_bits_per_byte": 0.25,
    "eval_stories": 10,
    "eval_tokens": 290,
    "eval_bytes": 610,
    "elapsed_seconds": 12.5,
    "num_input_tokens_seen": 40_000,
}
ENVIRONMENT = {"device_name": "a CPU", "processes": 1, "parameters": 7408, "flops_per_token": 47232}


def write_run(folder: Path) -> Path:
    """Evaluated and saved at steps 50 and 100, logged every 10 steps."""
    folder.mkdir(parents=True)
    evaluations = [
        {"step": step, "tokens_seen": 400 * step, "eval_loss": 50 / step, "eval_bits_per_byte": 25 / step}
        for step in (50, 100)
    ]
    samples = [{"step": step, "prompt": "One", "seed": 42, "text": f"One day at step {step}."} for step in (50, 100)]
    for step in (50, 100):
        (folder / f"checkpoint-{step}").mkdir()
        write_json(folder / f"checkpoint-{step}" / "trainer_state.json", _state(step))
        seal(folder / f"checkpoint-{step}")
    files = {"recipe": RECIPE, "data_report": DATA, "all_results": RESULTS, "environment": ENVIRONMENT}
    for name, content in (files | {"trainer_state": _state(100)}).items():
        write_json(folder / f"{name}.json", content)
    for name, rows in {"evaluations": evaluations, "samples": samples}.items():
        write_rows(folder / f"{name}.jsonl", rows)
    return folder


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def write_rows(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _state(step: int) -> dict:
    log = [{"step": at, "loss": 100 / at} for at in range(10, step + 1, 10)]
    evaluations = [
        {"step": at, "eval_loss": 50 / at, "eval_perplexity": math.exp(50 / at), "eval_bits_per_byte": 25 / at}
        for at in range(50, step + 1, 50)
    ]
    return {
        "global_step": step,
        "max_steps": 100,
        "epoch": step / 50,
        "best_global_step": step,
        "num_input_tokens_seen": 400 * step,
        "log_history": sorted(log + evaluations, key=lambda row: row["step"]),
    }
