"""Small random checkpoints to export, and what they say themselves."""

import math
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import PreTrainedTokenizerBase

from configuration_tinystories import TinyStoriesConfig
from modeling_tinystories import TinyStoriesForCausalLM
from tinystories.config.keys import TokenizerArguments
from tinystories.data.sample_corpus import sample_stories
from tinystories.data.tokenizer import train_tokenizer
from tinystories.exporting.proof import Beginning, Expected, greedy, nats
from tinystories.exporting.source import Source
from tinystories.generation.presets import generation_config


CONTEXT = 64
STORIES = list(sample_stories(60, seed=9))
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.3,  # logits far enough apart for a greedy text that rounding does not change
}


def small_tokenizer() -> PreTrainedTokenizerBase:
    """Of a few stories, with a quotation, a line that ends in a space and letters with accents among them."""
    extra = ["\"Look,\" said Zoë. \nShe saw a café 'there'. Don't!", "Tom said 'the' and 'them'. \nIt's a café."] * 40
    return train_tokenizer(datasets.Dataset.from_dict({"text": [*STORIES, *extra]}), TokenizerArguments(vocab_size=500))


def random_source(
    tokenizer: PreTrainedTokenizerBase, card: dict[str, Any] | None = None, base_model: str | None = None, **fields: Any
) -> Source:
    """A checkpoint with random weights. fields: of `TinyStoriesConfig`, beside those of `SIZES`."""
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    torch.manual_seed(3)
    model = TinyStoriesForCausalLM(TinyStoriesConfig(**SIZES | special | {"vocab_size": len(tokenizer)} | fields))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("norm.weight"):
                weight.uniform_(0.5, 2.0)
    model.generation_config = generation_config(tokenizer, max_new_tokens=40)
    return Source(
        name="runs/small",
        title="small",
        folder=Path("runs/small"),
        model=model.eval(),
        tokenizer=tokenizer,
        dtype=torch.float32,
        weights_sha256="",
        base_model=base_model,
        metadata=card or {},
    )


@torch.inference_mode()
def expected_of_small(source: Source, texts: list[str]) -> Expected:
    """What the checkpoint says of `texts`, two beginnings and three stories."""
    tokenizer, beginnings = source.tokenizer, []
    for text in (STORIES[0][:24], STORIES[1][:24]):
        ids = tokenizer(text)["input_ids"]
        new_ids = greedy(source.model, tokenizer, ids, CONTEXT - len(ids))
        logits = source.model(torch.tensor([ids + new_ids])).logits[0].numpy()
        beginnings.append(Beginning(text, ids, new_ids, logits))
    rows = [(tokenizer(text)["input_ids"] + [tokenizer.eos_token_id])[:CONTEXT] for text in STORIES[:3]]
    total = sum(nats(source.model(torch.tensor([ids])).logits[0].numpy(), ids) for ids in rows)
    return Expected(
        texts=[(text, tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts],
        beginnings=beginnings,
        stories=rows,
        stories_from="sample corpus",
        story_bytes=round(total / math.log(2)),  # so that it is about one bit per byte
        nats=total,
    )
