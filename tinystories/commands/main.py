"""The command `tinystories`: one program, with a subcommand for each of the top-level scripts.

    tinystories train demo
    tinystories generate runs/demo "Once upon a time"

A subcommand is the module of its name in this package, which is imported when it is asked for.
"""

import sys
from importlib import import_module

from tinystories.config.packaged import recipe_names
from tinystories.console import run_command, shell_line, version
from tinystories.errors import UserError


COMMANDS = {
    "train": "train a model from a recipe: text to checkpoint",
    "tokenizer": "train a tokenizer alone",
    "generate": "write a story with a checkpoint",
    "chat": "write one story after another, in a terminal",
    "evaluate": "measure how good models are, and compare them",
    "serve": "a web page and an API that write stories",
    "check": "find out what is wrong with a recipe, a model or a text",
    "report": "write the report of a run as a page",
    "export": "write a checkpoint as Llama, GGUF, ONNX, llama2.c or a page",
    "push": "publish a checkpoint on the Hugging Face Hub",
}
FAMILIAR = {  # commands of ollama, litgpt, axolotl, hf and git, and what to type here
    "run infer inference sample predict complete completion": "tinystories generate writes a story, and "
    "tinystories chat as many as you like",
    "pretrain fit": "tinystories train RECIPE trains a model",
    "finetune finetune_full fine-tune sft": "tinystories train finetune --model_name_or_path boxed --train_file "
    "FILE fine-tunes a model",
    "eval test bench benchmark perplexity": "tinystories evaluate measures models",
    "server web ui": "tinystories serve starts the page and the API",
    "upload publish push_to_hub": "tinystories push publishes a checkpoint",
    "convert quantize": "tinystories export writes other formats",
    "lint validate verify": "tinystories check looks at a recipe, a model or a text",
    "help": "tinystories --help lists all",
    "version -v -V": "tinystories --version prints it",
}


def main() -> None:
    """Start the subcommand that the command line names."""
    run_command(dispatch)


def dispatch(argv: list[str]) -> None:
    if not argv:
        first = shell_line("generate", "Once upon a time")
        raise UserError("no command is named", f"the shortest that works is {first}; tinystories --help lists all")
    name, *arguments = argv
    if name in ("-h", "--help"):
        print(usage())
    elif name == "--version":
        print(f"tinystories {version()}, Python {sys.version.split()[0]}")
    elif name in COMMANDS:
        import_module(f"tinystories.commands.{name}").main(arguments)
    else:
        raise UserError(f"unknown command {name!r}", _instead_of(name, arguments))


def _instead_of(name: str, arguments: list[str]) -> str:
    known = [remedy for names, remedy in FAMILIAR.items() if name in names.split()]
    if name in recipe_names() and (arguments or not known):
        return f"it is a recipe: write {shell_line('train', name, options=arguments)}"
    if known:
        return known[0]
    from tinystories.config.advice import nearest  # not before a mistake: `--version` answers at once

    near = nearest(name, COMMANDS)
    return f"did you mean {near}?" if near else f"the commands are {', '.join(COMMANDS)}"


def usage() -> str:
    commands = "\n".join(f"  {name:<10} {line}" for name, line in COMMANDS.items())
    return (
        "usage: tinystories COMMAND ...\n\nTrain, measure and share a small language model that writes stories.\n\n"
        f"commands:\n{commands}\n\n`tinystories COMMAND --help` lists the options of a command."
    )
