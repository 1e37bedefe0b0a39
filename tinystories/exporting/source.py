"""The checkpoint that is exported: its model, its tokenizer, and what is known of where they come from."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub import ModelCard, snapshot_download
from safetensors import safe_open
from transformers import PreTrainedTokenizerBase

from modeling_tinystories import TinyStoriesForCausalLM
from tinystories.checkpoint.hub import hub_errors, weights_sha256
from tinystories.checkpoint.loading import load_checkpoint
from tinystories.errors import UserError
from tinystories.exporting.formats import title_of
from tinystories.run_files import CARD, PUBLISHED, Run


@dataclass(frozen=True)
class Source:
    """An opened checkpoint.

    name: as the user wrote it. title: the name of the model. slug: the same, fit for the name of a file.
    folder: where its files are. dtype: of the weights in them; `model` holds the same values in float32, in evaluation
    mode. weights_sha256: of its weight files, one after another. base_model: its Hub id, where it has one.
    metadata: of its card, such as `license` and `datasets`; may be empty.
    """

    name: str
    title: str
    folder: Path
    model: TinyStoriesForCausalLM
    tokenizer: PreTrainedTokenizerBase
    dtype: torch.dtype
    weights_sha256: str
    base_model: str | None
    metadata: dict[str, Any]

    @property
    def slug(self) -> str:
        return re.sub(r"[^A-Za-z0-9._-]+", "-", self.title).strip("-.") or "model"


def open_source(name: str, revision: str | None = None) -> Source:
    """The checkpoint of a folder or Hub id.

    Raises:
        UserError: it cannot be opened, is damaged, or is not a model of this project.
    """
    model, tokenizer = load_checkpoint(name, revision=revision)
    if not isinstance(model, TinyStoriesForCausalLM):
        raise UserError(
            f"{name} is a {type(model).__name__}, and only checkpoints of this project are exported",
            "other models have exporters of their own",
        )
    folder, of_the_hub = Path(name), not Path(name).is_dir()
    if of_the_hub:
        with hub_errors(name):
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=list(PUBLISHED)))
    recipe = Run(folder).recipe or {}
    base_model = name if of_the_hub else recipe.get("hub_model_id")
    return Source(
        name=name,
        title=title_of(name),
        folder=folder,
        model=model,
        tokenizer=tokenizer,
        dtype=_stored_dtype(folder),
        weights_sha256=weights_sha256(folder),
        base_model=base_model,
        metadata=_metadata(folder),
    )


def _stored_dtype(folder: Path) -> torch.dtype:
    with safe_open(sorted(folder.glob("model*.safetensors"))[0], "pt") as weights:
        return weights.get_tensor(next(iter(weights.keys()))).dtype


def _metadata(folder: Path) -> dict[str, Any]:
    """What the card of the checkpoint says about it; a card that is missing or damaged says nothing."""
    try:
        return ModelCard.load(folder / CARD).data.to_dict()
    except (OSError, ValueError, yaml.YAMLError):
        return {}
