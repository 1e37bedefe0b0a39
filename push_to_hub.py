"""Publish a finished run, or any checkpoint of it, on the Hugging Face Hub: private unless --public is given.

    python push_to_hub.py runs/demo USER/NAME
    python push_to_hub.py runs/demo USER/NAME --tag v1 --public
    python push_to_hub.py runs/demo USER/NAME --with llama,gguf,onnx

Needs a token that may write: `hf auth login` once, or HF_TOKEN in the environment. A push that is interrupted
changes nothing there; the same command continues it. `--with` exports the checkpoint first, as export_model.py does,
and publishes the files in the same commit. A file that is a link to a place outside the folder is refused by its name;
a hard link cannot be told from a file.
"""

from tinystories.commands.push import main
from tinystories.console import run_command


if __name__ == "__main__":
    run_command(main)
