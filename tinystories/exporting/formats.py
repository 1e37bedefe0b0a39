"""The names of the formats; nothing heavy is imported, so that a mistyped one is answered at once."""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from tinystories.errors import UserError
from tinystories.run_files import is_checkpoint


FORMATS = {  # in the order of writing: the folder of each
    "llama": "llama",
    "onnx": "llama",  # transformers.js reads config and tokenizer beside onnx/
    "gguf": "gguf",
    "llama2c": "llama2c",
    "page": "page",
}
MODULES = {"llama": "plain", "gguf": "llama_cpp"}  # where a module is not called as its format


def parse_formats(words: Sequence[str], option: str) -> list[str]:
    """The formats that `words` name, separated by commas or spaces, in the order of writing and each once.

    The plain folder comes with ONNX, whose files stand in it.

    Raises:
        UserError: an unknown format, or none.
    """
    named = [name for word in words for name in word.split(",") if name]
    for name in named:
        if name not in FORMATS:
            nearest = get_close_matches(name.lower(), FORMATS, n=1)
            remedy = f"did you mean {nearest[0]}?" if nearest else f"the formats are {', '.join(FORMATS)}"
            raise UserError(f"{option} {name}: there is no such format", remedy)
    if not named:
        raise UserError(f"{option} names no format", f"the formats are {', '.join(FORMATS)}")
    return [name for name in FORMATS if name in named or (name == "llama" and "onnx" in named)]


def title_of(checkpoint: str) -> str:
    """The name of the model in a folder or of a Hub id; of a checkpoint-N the name of its run comes first."""
    folder = Path(checkpoint).resolve()
    return f"{folder.parent.name}-{folder.name}" if is_checkpoint(folder) else folder.name or "model"
