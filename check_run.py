"""Look before a run, after a run, and at the text: what is wrong, why, and what to do.

    python check_run.py configs/demo.yaml                    will this run work, and how long will it take?
    python check_run.py runs/demo                            what is wrong with this model, if anything?
    python check_run.py --data stories.txt                   what is wrong with this text?
    python check_run.py --data stories.txt --clean out.txt   the same, and a copy without it

A file that ends in .yaml, .yml or .json is a recipe, and any of its keys can be overridden; what is no option is a
checkpoint, a folder or a Hub id. `--output_file FILE` writes the findings as JSON too. `--help` after any of the three
tells its options. Exit status: 0 if all is well, 1 if not.
"""

from tinystories.commands.check import main
from tinystories.console import run_command


if __name__ == "__main__":
    run_command(main)
