"""Find out what is wrong with a recipe, a model or a text, why, and what to do.

    python check_run.py configs/demo.yaml       will this run work, and how long?
    python check_run.py configs/demo.yaml --predict    what will it score?
    python check_run.py runs/demo               what is wrong with this model?
    python check_run.py --data stories.txt      what is wrong with this text?
    python check_run.py --data stories.txt --clean out.txt  and write a clean copy

A file that ends in .yaml, .yml or .json is a recipe, as is the name of a
packaged recipe; any of its keys can be overridden. Any other name is a
checkpoint, a folder or a Hub id. `--output_file FILE` writes the findings as
JSON too. `--help` after any of the three lists its options. Exit status: 0 if
nothing is wrong, 1 otherwise.
"""

from tinystories.commands.check import main
from tinystories.console import run_command


if __name__ == "__main__":
    run_command(main)
