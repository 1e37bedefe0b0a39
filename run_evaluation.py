"""Measure how good a story model is, with confidence intervals, each number between its floor and its ceiling.

    python run_evaluation.py runs/demo --quick
    python run_evaluation.py runs/demo --data held-out.txt --train_file stories.txt
    python run_evaluation.py runs/a runs/b someone/model stories260K.bin --data held-out.txt --leaderboard results.jsonl

CHECKPOINT is a folder, a Hub id, or a llama2.c file. It prints a table, writes evaluation.json and the page index.html
to --output_dir, and, where the checkpoint is a folder of our own, its evaluation.json and its model card. What each
number means: docs/evaluation.md. A command that was stopped continues when it is started again.
"""

from tinystories.commands.evaluate import main
from tinystories.console import run_command


if __name__ == "__main__":
    run_command(main)
