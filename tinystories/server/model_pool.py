"""The models that a request can name: a checkpoint, and every checkpoint-N of a run folder.

A checkpoint-N that is, or contains, a link out of the run folder is not served: whoever wrote the folder could name any
other one. The default is opened when the server starts, the others when they are first requested. At most
`OPEN_AT_ONCE` models are open; the idle one that was used least recently is closed for another.
"""

import logging
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tinystories.checkpoint.loading import load_checkpoint
from tinystories.errors import UserError
from tinystories.links import leads_outside
from tinystories.run_files import checkpoints, is_checkpoint, step_of
from tinystories.server.arguments import ServerArguments
from tinystories.server.continuous_batching import ContinuousBatcher, end_tokens
from tinystories.server.decoders import open_decoder
from tinystories.server.torch_decoder import context_of


logger = logging.getLogger(__name__)

OPEN_AT_ONCE = 5  # the default, and the four that the page can compare


@dataclass(frozen=True)
class Entry:
    """id: the name in requests; source: folder or Hub id; step: the training step, if the folder's name has one."""

    id: str
    source: str
    step: int | None


class ModelPool:
    """Opens models by name, and closes idle ones. `batchers`: the open models, least recently used first."""

    def __init__(self, checkpoint: str, arguments: ServerArguments):
        self.checkpoint, self.arguments = checkpoint, arguments
        self.device = _device(arguments.device)
        self.entries = {entry.id: entry for entry in find_checkpoints(checkpoint)}
        self.default = next(iter(self.entries))
        self.batchers: OrderedDict[str, ContinuousBatcher] = OrderedDict()

    def has_room_for(self, name: str) -> bool:
        """Whether this model is open or can be opened now. It cannot while all open models are generating."""
        return name in self.batchers or len(self.batchers) < OPEN_AT_ONCE or bool(self._idle())

    def batcher(self, name: str) -> ContinuousBatcher:
        """The batcher of the model, which is opened if necessary.

        Raises:
            UserError: the checkpoint cannot be opened or served.
        """
        if name not in self.batchers:
            self.make_room()
            self.batchers[name] = self.load(name)
        self.batchers.move_to_end(name)
        return self.batchers[name]

    def make_room(self) -> None:
        """Close an idle model if no other can be opened beside those that are."""
        for idle in self._idle()[: max(0, len(self.batchers) - OPEN_AT_ONCE + 1)]:
            del self.batchers[idle]

    def _idle(self) -> list[str]:
        return [name for name, batcher in self.batchers.items() if not batcher.stories and name != self.default]

    def load(self, name: str) -> ContinuousBatcher:
        """A batcher for the model. It is not in `batchers` yet: this may run in another thread than all else.

        Raises:
            UserError: the checkpoint cannot be opened or served.
        """
        entry, given = self.entries[name], self.arguments
        if entry.source != self.checkpoint and leads_out_of_run(Path(entry.source)):
            raise UserError(f"cannot serve {name}: it leads out of the run folder by a link")
        model, tokenizer = load_checkpoint(entry.source, self.device, given.revision, given.tokenizer_path)
        _check(entry.source, model, tokenizer)
        ends, parameters = end_tokens(model, tokenizer), model.num_parameters()
        try:
            decoder, dtype = open_decoder(model, given.max_running, given.threads, given.dtype, name)
        except UserError as error:
            raise UserError(f"cannot serve {entry.source}: {error}") from error
        logger.info("model opened: %s, %s parameters, %s, %s", entry.id, f"{parameters:,}", self.device, dtype)
        return ContinuousBatcher(decoder, tokenizer, ends, parameters, dtype)


def find_checkpoints(checkpoint: str) -> list[Entry]:
    """The checkpoint itself, then the checkpoint-N folders in it by step. In a folder that has only those, the last one
    comes first. A Hub id has one entry. A checkpoint-N that leads out of the folder by a link is named and left out.

    Raises:
        UserError: the folder has such links alone.
    """
    folder = Path(checkpoint)
    opened = [path for path in checkpoints(folder, complete=False) if (path / "config.json").is_file()]
    links = [path for path in opened if leads_out_of_run(path)]
    for path in links:
        logger.warning("not served: %s, which leads out of the run folder by a link", path)
    inner = [Entry(path.name, str(path), step_of(path)) for path in opened if path not in links]
    if not (folder / "config.json").is_file():
        if inner:
            return [inner[-1], *inner[:-1]]
        if links:
            raise UserError(
                f"cannot serve {folder}: its checkpoints lead out of it by links", "name one of them itself"
            )
    name = folder.resolve().name if folder.is_dir() else checkpoint
    return [Entry(name, checkpoint, step_of(name) if is_checkpoint(Path(name)) else None), *inner]


def leads_out_of_run(checkpoint: Path) -> bool:
    """Whether a checkpoint-N, or a file in it, is a link to a place outside the run folder above it."""
    run = checkpoint.parent
    return leads_outside(checkpoint, run) or any(leads_outside(file, run) for file in checkpoint.glob("*"))


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.accelerator.current_accelerator() or torch.device("cpu")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device: {name!r} is not a device; give auto, cpu, cuda or mps") from error


def _check(name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    config = model.config.get_text_config()
    if context_of(model) is None:
        raise UserError(f"cannot serve {name}: its config has no max_position_embeddings (the context length)")
    if not tokenizer.is_fast:
        raise UserError(f"cannot serve {name}: its tokenizer has no tokenizer.json, which streaming requires")
    if len(tokenizer) > config.vocab_size:
        raise UserError(
            f"cannot serve {name}: the tokenizer has {len(tokenizer)} tokens and the model {config.vocab_size}: they "
            "do not belong together"
        )
