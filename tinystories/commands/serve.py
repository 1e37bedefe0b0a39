"""Serve a checkpoint: a page to write stories with, POST /generate, and /v1/completions for OpenAI's clients.

    python run_server.py
    python run_server.py runs/demo
    CHECKPOINT_PATH=runs/demo PORT=8000 python run_server.py --host 0.0.0.0

CHECKPOINT is a folder, a Hub id, or `boxed`, the model that comes with the package, which is taken where none is named.
If it is a run folder, each of its checkpoints can be chosen on the page. Every
option can also be given as an environment variable, its name in capitals. docs/server.md explains how to run a server
for other people.
"""

import os
from dataclasses import fields

from tinystories.config.familiar import SERVE
from tinystories.config.packaged import BOXED, find_checkpoint
from tinystories.config.parser import StrictParser
from tinystories.console import command_name, program_name
from tinystories.errors import UserError, install_hint
from tinystories.server.arguments import RENAMED, ServerArguments


def main(argv: list[str]) -> None:
    checkpoint, arguments = parse(argv)
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UserError(f"the server needs {error.name}", install_hint("web")) from None
    from tinystories.server.run import serve

    serve(checkpoint, arguments)


def parse(argv: list[str]) -> tuple[str, ServerArguments]:
    """The checkpoint and the arguments, from the environment and the command line; the command line wins."""
    parser = StrictParser(
        (ServerArguments,),
        "serve",
        SERVE,
        prog=program_name("serve"),
        usage=f"{command_name('serve')} [CHECKPOINT] [--key value ...]",
        description="Serve a checkpoint. Every option can also be set by an environment variable of its name in "
        "capitals, the checkpoint by CHECKPOINT_PATH.",
    )
    default = os.environ.get("CHECKPOINT_PATH") or str(BOXED)
    parser.add_argument("checkpoint", nargs="?", help="folder, Hub id or boxed (the default)", default=default)
    refuse_old_names(argv)
    names = [field.name for field in fields(ServerArguments)]
    argv = [f"--{name}={value}" for name in names if (value := os.environ.get(name.upper()))] + argv
    parser.check(argv)
    arguments, other = parser.build(argv)
    if not other.checkpoint:
        raise UserError("the name of the checkpoint is empty", "name a folder or Hub id, or leave it out")
    return find_checkpoint(other.checkpoint), arguments


def refuse_old_names(argv: list[str]) -> None:
    given = {word.split("=")[0] for word in argv}
    for old, new in RENAMED.items():
        if f"--{old}" in given:
            raise UserError(f"--{old} is now called --{new}")
        if old.upper() in os.environ:  # it would have no effect
            raise UserError(f"the environment variable {old.upper()} is now called {new.upper()}")
