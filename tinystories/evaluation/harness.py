"""Our pairs, our stories and BLiMP as tasks of the Language Model Evaluation Harness (lm-eval), from local files.

    python -m tinystories.evaluation.harness --data valid.txt --output_dir tasks --blimp blimp
    lm_eval --model hf --model_args pretrained=runs/demo,logits_cache=False --include_path tasks \\
        --tasks tinystories_pairs,local_blimp
    lm_eval --model hf --model_args pretrained=runs/demo,add_bos_token=False --include_path tasks \\
        --tasks tinystories_bits_per_byte

`logits_cache=False` matters. The cache of lm-eval 0.4.13 confuses two requests whose tokens are the same but split at
different places into context and continuation, which happens with beginnings that many stories share. One of them then
gets the numbers of other tokens: a model scored 0.87 instead of 0.97. Without the cache the results equal score_pairs.

`tinystories_bits_per_byte` equals our `text_bits_per_byte` for stories that fit into the context; lm-eval cuts longer
ones into other windows. It is a rolling task, which adds BOS itself: without `add_bos_token=False`, a tokenizer that
adds BOS gives a second BOS, which would be scored.

The tasks name their data by absolute path: write them again after moving the folder. They use neither `!function` nor
data sets of the Hub.
"""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from tinystories.config.keys import DataArguments
from tinystories.config.parser import StrictParser
from tinystories.console import quoted, run_command
from tinystories.data.corpus import pick_stories, read_files
from tinystories.errors import UserError
from tinystories.evaluation.minimal_pairs.pairs import NUMBER, Pair, blimp_pairs, build_pairs
from tinystories.output_file import check_output_folder


PAIRS, BLIMP, BITS_PER_BYTE = "tinystories_pairs", "local_blimp", "tinystories_bits_per_byte"
STORIES = 500  # in the task for bits per byte


def write_pairs(folder: Path, group: str, pairs: Iterable[Pair]) -> list[str]:
    """Write a task for each rule (`group`_`rule`) and a group of them, whose score is the mean of the rules."""
    by_rule: dict[str, list[dict[str, str]]] = {}
    for pair in pairs:
        by_rule.setdefault(pair.rule, []).append(pair.as_dict())
    tasks = [f"{group}_{rule}" for rule in by_rule]
    for task, rows in zip(tasks, by_rule.values(), strict=True):
        _write_task(
            folder,
            {
                "task": task,
                "output_type": "multiple_choice",
                "doc_to_text": "{{context}}",
                "doc_to_choice": "{{[good, bad]}}",
                "doc_to_target": 0,
                "target_delimiter": "",
                "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
            },
            rows,
        )
    mean = {"metric": "acc", "aggregation": "mean", "weight_by_size": False}
    _write_yaml(folder / f"{group}.yaml", {"group": group, "task": tasks, "aggregate_metric_list": [mean]})
    return tasks


def write_stories(folder: Path, texts: Iterable[str]) -> None:
    """Write the task `tinystories_bits_per_byte`."""
    metric = {"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": False}
    task = {
        "task": BITS_PER_BYTE,
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [metric],
    }
    _write_task(folder, task, [{"text": text} for text in texts])


def _write_task(folder: Path, task: dict[str, Any], rows: list[dict[str, str]]) -> None:
    data = folder / f"{task['task']}.jsonl"
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    data.write_text("".join(lines), encoding="utf-8", newline="\n")
    source = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": data.resolve().as_posix()}},
        "test_split": "test",
        "num_fewshot": 0,
        "metadata": {"version": 1.0},
    }
    _write_yaml(folder / f"{task['task']}.yaml", task | source)


def _write_yaml(path: Path, content: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8", newline="\n")


def main(argv: list[str]) -> None:
    parser = StrictParser(
        (), prog="tinystories.evaluation.harness", description="Write lm-eval tasks from local files."
    )
    parser.formatter_class = argparse.HelpFormatter
    parser.add_argument("--data", required=True, help="held-out stories: a file or folder")
    parser.add_argument("--output_dir", required=True, help="folder for the tasks")
    parser.add_argument("--blimp", help="folder of BLiMP's .jsonl files, for the group local_blimp")
    parser.add_argument("--number", type=int, default=NUMBER, help="at most this many pairs of each rule")
    parser.add_argument("--stories", type=int, default=STORIES, help="number of stories for bits per byte")
    parser.add_argument("--seed", type=int, default=0, help="seed that decides which pairs are drawn")
    arguments = parser.parse_args(argv)
    for name in ("number", "stories"):
        if getattr(arguments, name) < 1:
            raise UserError(f"{name} must be at least 1, got {getattr(arguments, name)}")
    folder = Path(arguments.output_dir)
    check_output_folder(folder)
    stories, _ = read_files(arguments.data, DataArguments())
    pairs = build_pairs(stories, arguments.number, arguments.seed)
    blimp = blimp_pairs(arguments.blimp) if arguments.blimp else []
    folder.mkdir(parents=True, exist_ok=True)
    tasks = [BITS_PER_BYTE, *write_pairs(folder, PAIRS, pairs)]
    write_stories(folder, pick_stories(stories, arguments.stories)["text"])
    if blimp:
        tasks += write_pairs(folder, BLIMP, blimp)
    start = quoted("lm_eval", "--include_path", str(folder))
    print(f"{len(tasks)} tasks, {len(pairs) + len(blimp):,} pairs in {folder}; {start}")


if __name__ == "__main__":
    run_command(main)
