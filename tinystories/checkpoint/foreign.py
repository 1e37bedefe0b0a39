"""Open any model that is compared with ours: a checkpoint, a causal language model of the Hub, a llama2.c file.

Each comes back with what scoring and generating need: float32 weights in evaluation mode and a fast tokenizer that has
a BOS, an EOS and a PAD token.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from tinystories.checkpoint import llama2c
from tinystories.checkpoint.loading import (
    UNREADABLE,
    CodeNotTrustedError,
    check_usable,
    load_checkpoint,
    on_device,
    reason_for,
)
from tinystories.checkpoint.plausible import check_sizes
from tinystories.checkpoint.weights import read_model
from tinystories.config.names import check_found
from tinystories.data.tokenizer import read_tokenizer
from tinystories.errors import UserError


def open_model(
    name: str,
    device: str | torch.device = "cpu",
    revision: str | None = None,
    trust_remote_code: bool = False,
    tokenizer: str | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, dict[str, Any]]:
    """Model, tokenizer and facts {"model", "kind", "revision", "parameters", "vocabulary", "context", "notes"}.

    name: a folder, a Hub id, or a llama2.c file that ends in .bin.
    tokenizer: the tokenizer file of a llama2.c model. Default: the file tok*.bin beside the model that fits it.
    trust_remote_code: run the Python files of the model's author.

    The fact `context` is None where the model does not say it; `notes` are sentences for the reader.

    Raises:
        UserError: it cannot be opened, or its tokenizer cannot score text.
    """
    path = Path(name)
    if path.suffix == ".bin":
        kind = "llama2.c"
        model, words = _open_llama2c(path, device, tokenizer)
    elif tokenizer is not None:
        raise UserError(f"--tokenizer is for llama2.c files; {name} has its own tokenizer")
    else:
        kind = "checkpoint" if path.is_dir() else "Hub"
        model, words = _open_auto(name, device, revision, trust_remote_code)
    facts = {
        "model": path.resolve().name if path.exists() else name,  # published, so without the folder of this machine
        "kind": kind,
        "revision": revision,
        "parameters": model.num_parameters(),
        "vocabulary": len(words),
        "context": getattr(model.config, "max_position_embeddings", None),
        "notes": _complete(words, name),
    }
    return model, words, facts


def _open_auto(
    name: str, device: str | torch.device, revision: str | None, trust_remote_code: bool
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A checkpoint folder or Hub id; code of its author is run only with `trust_remote_code`."""
    if not trust_remote_code:
        try:
            return load_checkpoint(name, device, revision)
        except CodeNotTrustedError as error:
            raise CodeNotTrustedError(
                f"{name} contains Python code of its author", "run it with --trust_remote_code if you trust the author"
            ) from error
    check_found(name, revision)
    check_sizes(name, revision)
    try:
        tokenizer = read_tokenizer(name, revision, trust_remote_code=True)
        model = read_model(AutoModelForCausalLM, name, dtype=torch.float32, revision=revision, trust_remote_code=True)
    except UNREADABLE as error:
        raise UserError(f"cannot open {name} with its own code: {reason_for(name, error)}") from error
    check_usable(name, model, tokenizer)
    return on_device(model, device), tokenizer


def _open_llama2c(
    path: Path, device: str | torch.device, tokenizer: str | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    model = llama2c.read_model(path)
    size = model.config.vocab_size
    if tokenizer is not None:
        words = llama2c.read_tokenizer(Path(tokenizer))
        if len(words) != size:
            raise UserError(f"{tokenizer} holds {len(words):,} tokens, and the model {path} has {size:,}: not its own")
        return on_device(model, device), words
    beside = [file for file in sorted(path.parent.glob("tok*.bin")) if file != path]
    fitting = [words for words in map(llama2c.read_tokenizer, beside) if len(words) == size]
    if len(fitting) != 1:
        found = "none" if not fitting else f"{len(fitting)} files tok*.bin"
        raise UserError(f"{path}: {found} beside it for its {size:,} tokens; name one with --tokenizer tok512.bin")
    return on_device(model, device), fitting[0]


def _complete(tokenizer: PreTrainedTokenizerBase, name: str) -> list[str]:
    """Use EOS where the tokenizer has no BOS or PAD token; the sentences that tell the reader so."""
    if not tokenizer.is_fast:
        raise UserError(f"{name} has no fast tokenizer (tokenizer.json), which finds the words of a text in its tokens")
    if tokenizer.eos_token_id is None:
        raise UserError(f"the tokenizer of {name} has no token that ends a text: it cannot score stories")
    notes = []
    if tokenizer.bos_token_id is None:
        tokenizer.bos_token = tokenizer.eos_token
        notes.append("the tokenizer has no BOS token: a text begins with its EOS token")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return notes
