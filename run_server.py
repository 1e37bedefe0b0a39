"""Serve a checkpoint: a page to write stories with, POST /generate, and /v1/completions for OpenAI's clients.

    python run_server.py
    python run_server.py runs/demo
    CHECKPOINT_PATH=runs/demo PORT=8000 python run_server.py --host 0.0.0.0

CHECKPOINT is a folder, a Hub id, or `boxed`, the model that comes with the package, which is taken where none is named.
If it is a run folder, each of its checkpoints can be chosen on the page. Every
option can also be given as an environment variable, its name in capitals. docs/server.md explains how to run a server
for other people.
"""

from tinystories.commands.serve import main
from tinystories.console import run_command


if __name__ == "__main__":
    run_command(main)
