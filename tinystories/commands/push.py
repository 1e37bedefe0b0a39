"""Publish a finished run, or any checkpoint of it, on the Hugging Face Hub: private unless --public is given.

    python push_to_hub.py runs/demo USER/NAME
    python push_to_hub.py runs/demo USER/NAME --tag v1 --public
    python push_to_hub.py runs/demo USER/NAME --with llama,gguf,onnx

Needs a token that may write: `hf auth login` once, or HF_TOKEN in the environment. A push that is interrupted
changes nothing there; the same command continues it. `--with` exports the checkpoint first, as export_model.py does,
and publishes the files in the same commit. A file that is a link to a place outside the folder is refused by its name;
a hard link cannot be told from a file.
"""

import argparse
from contextlib import nullcontext

from tinystories.commands.shortest import require_arguments
from tinystories.config.familiar import PUSH
from tinystories.config.names import check_folder
from tinystories.config.packaged import find_checkpoint
from tinystories.config.parser import StrictParser
from tinystories.console import program_name, shell_line
from tinystories.exporting.formats import FORMATS, parse_formats
from tinystories.output_file import check_output_file, write_output_file


def main(argv: list[str]) -> None:
    arguments = parse(argv)
    from tinystories.checkpoint.hub import check_words, push  # seconds of imports, for a line that is understood
    from tinystories.exporting.publishing import exported_beside

    check_words(arguments.repo_id, arguments.message)
    with exported_beside(arguments.checkpoint, arguments.formats) if arguments.formats else nullcontext() as beside:
        commit = push(
            arguments.checkpoint,
            arguments.repo_id,
            private=not arguments.public,
            revision=arguments.revision,
            tag=arguments.tag,
            message=arguments.message,
            overwrite_card=arguments.overwrite_card,
            beside=beside,
        )
    repo_id, revision = commit.repo_url.repo_id, arguments.tag or arguments.revision
    print(f"Published: {commit.commit_url}")
    options = ["--revision", revision] if revision else []
    print(f"Write with it: {shell_line('generate', repo_id, 'Once upon a time', options=options)}")
    result = {"repo_id": repo_id, "revision": arguments.revision, "tag": arguments.tag, "commit": commit.oid}
    write_output_file(arguments.output_file, result)


def parse(argv: list[str]) -> argparse.Namespace:
    require_arguments("push", argv)
    parser = StrictParser(
        (), "push", PUSH, prog=program_name("push"), description="Publish a checkpoint on the Hugging Face Hub."
    )
    parser.add_argument("checkpoint", help="a run folder, or a checkpoint-N in it")
    parser.add_argument("repo_id", help="USER/NAME, or NAME under your own account")
    parser.add_argument("--public", action="store_true", help="readable by everyone, if the repository is created")
    parser.add_argument("--revision", help="the branch to commit to (default: main); created where it does not exist")
    parser.add_argument("--tag", help="a name for this state, such as v1")
    parser.add_argument("--message", default="Upload the model", help="the commit's message")
    parser.add_argument("--overwrite_card", action="store_true", help="replace a card that was edited on the Hub")
    parser.add_argument(
        "--with", nargs="+", default=[], dest="formats", metavar="FORMAT", help=f"export too: {', '.join(FORMATS)}"
    )
    parser.add_argument("--output_file", help="write the repository and the commit to this JSON file")
    arguments = parser.parse_exactly(argv)
    arguments.checkpoint = find_checkpoint(arguments.checkpoint)
    check_folder(arguments.checkpoint)
    if arguments.formats:
        arguments.formats = parse_formats(arguments.formats, "--with")
    check_output_file(arguments.output_file)
    return arguments
