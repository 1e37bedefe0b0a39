"""One run of claims.py: run_clm.py with one thing done as others do it, and then what its stories are like.

    python benchmarks/claims_run.py configs/demo.yaml --variant no_eos --stories_each 3 --skip_guards true

Besides the first two options, the command line is that of run_clm.py. The variants are no keys of a recipe, because
nobody should train with them; the guards stop three of the four. With --stories_each the finished checkpoint continues
each prompt of the evaluation so many times, and measures.json in the run folder says how it uses articles and whether
its stories end.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase


sys.path.insert(0, str(Path(__file__).parent.parent))

from tinystories.checkpoint.loading import load_checkpoint
from tinystories.config.recipe import read_recipe
from tinystories.console import run_command
from tinystories.data import packing
from tinystories.data.corpus import load_corpus
from tinystories.data.packing import IGNORED
from tinystories.evaluation.estimates import Estimate, as_json, share
from tinystories.evaluation.minimal_pairs.pairs import build_pairs, score_pairs
from tinystories.evaluation.scoring import context_length, token_nll
from tinystories.evaluation.text import determiners
from tinystories.evaluation.text.generation import write_samples
from tinystories.evaluation.text.prompts import PROMPTS
from tinystories.evaluation.text.samples import Sample
from tinystories.generation.presets import DEFAULT_PRESET, PRESETS
from tinystories.training import build
from tinystories.training.run import run
from tinystories.training.trainer import StoryTrainer


MEASURES = "measures.json"  # in a run folder
ARTICLE_WEIGHT = 10.0
ARTICLE_RULES = ("article_dropped", "article_a_an", "article_a_the")
MOST_TOKENS = 400  # of a story; people's are about half as long
PLAIN = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0}  # the model's own probabilities


class ArticlesWeighted(StoryTrainer):
    """A mistake in an article counts `ARTICLE_WEIGHT` times. The loss is the weighted mean over the tokens."""

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        if return_outputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels = inputs["labels"]
        articles = torch.tensor(article_ids(self.processing_class), device=labels.device)
        weights = torch.where(torch.isin(labels, articles), ARTICLE_WEIGHT, 1.0).masked_fill(labels == IGNORED, 0)
        weights[:, 0] = 0  # nothing predicts the first token
        nll = token_nll(model(input_ids=inputs["input_ids"]).logits, labels)
        return (weights * nll).sum() / weights.sum()


class ShiftedTwice(StoryTrainer):
    """Shifts the labels, although the model shifts them too."""

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        labels = torch.nn.functional.pad(inputs["labels"][:, 1:], (0, 1), value=IGNORED)
        return super().compute_loss(model, {**inputs, "labels": labels}, return_outputs, num_items_in_batch)


def article_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that are an article as a whole; such a token may also begin another word."""
    texts = [word for article in ("a", "an", "the") for word in (article, f" {article}", article.capitalize())]
    encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return sorted({ids[0] for ids in encoded if len(ids) == 1})


def weight_articles() -> None:
    build.StoryTrainer = ArticlesWeighted


def shift_twice() -> None:
    build.StoryTrainer = ShiftedTwice


def leave_out_eos() -> None:
    """Rows are BOS + story, one after the other."""
    encode = packing.encode_stories

    def without_ends(stories: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, workers: int | None = None) -> Any:
        for tokens, lengths in encode(stories, tokenizer, workers):
            yield tokens[tokens != tokenizer.eos_token_id], lengths - 1

    _pack_with("encode_stories", without_ends)


def pad_each_story() -> None:
    """With align_to_stories: each row holds one story, and padding after it. A longer story takes several rows."""

    def one_a_row(stories: list[np.ndarray], block_size: int, pad_token_id: int) -> np.ndarray:
        pieces = [story[i : i + block_size] for story in stories for i in range(0, len(story), block_size)]
        block = np.full((len(pieces), block_size), pad_token_id, dtype=stories[0].dtype)
        for row, piece in zip(block, pieces, strict=True):
            row[: len(piece)] = piece
        return block

    _pack_with("fit_rows", one_a_row)


def _pack_with(name: str, function: Callable[..., Any]) -> None:
    """Replace a function of packing.py, and its part of the cache key, so that no run takes the rows of another."""
    setattr(packing, name, function)
    packing.LAYOUT = f"{packing.LAYOUT} {function.__name__}"


VARIANTS = {
    "weighted_articles": weight_articles,
    "shifted_twice": shift_twice,
    "no_eos": leave_out_eos,
    "one_story_a_row": pad_each_story,
}


def measure(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    held_out: datasets.Dataset,
    seeds: list[int],
    ends_at_bos: bool = False,
) -> dict[str, Any]:
    """Shares with their intervals, and the first story. model: in evaluation mode; it is moved to the CPU.

    ends_at_bos: also count stories as ended where the model begins the next one, as llama2.c does.
    """
    known = score_pairs(model, tokenizer, build_pairs(held_out, rules=ARTICLE_RULES))
    prompts = list(PROMPTS.values())
    longest = max(len(ids) for ids in tokenizer(prompts)["input_ids"])
    room = min(MOST_TOKENS, context_length(model) - longest)
    model.to("cpu")  # there the decoder writes
    PRESETS["plain"] = PLAIN  # without a penalty that might cost articles; after the run, so that no checkpoint has it

    def write(preset: str) -> list[Sample]:
        return write_samples(model, tokenizer, prompts, preset, seeds, room)

    written = {preset: write(preset) for preset in (DEFAULT_PRESET, "plain")}
    measured = {f"pairs_{rule}": known.get(rule) for rule in ARTICLE_RULES}
    for name, preset in (("", DEFAULT_PRESET), ("_plain", "plain")):
        measured[f"missing_articles{name}"] = determiners.missing(written[preset])
        measured[f"doubled_articles{name}"] = determiners.doubled(written[preset])
        measured[f"ended{name}"] = ended(written[preset])
    if ends_at_bos:
        tokenizer.eos_token = tokenizer.bos_token
        measured["ended_at_bos"] = ended(write("plain"))  # a penalty would count the BOS before the prompt
    first = written[DEFAULT_PRESET][0]
    settings = {"stories": len(seeds) * len(prompts), "most_tokens": room, "preset": PRESETS[DEFAULT_PRESET]}
    return {
        **{name: as_json(value) for name, value in measured.items()},
        "settings": settings,
        "sample": {"prompt": first.prompt, "text": first.text},
    }


def ended(stories: list[Sample]) -> Estimate | None:
    return share(sum(story.ended for story in stories), len(stories))


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False, add_help=False)
    parser.add_argument("--variant", choices=VARIANTS)
    parser.add_argument("--stories_each", type=int, default=0)
    own, rest = parser.parse_known_args(argv)
    if own.variant:
        VARIANTS[own.variant]()
    recipe = read_recipe(rest)
    run(recipe)
    if own.stories_each:
        folder = Path(recipe.training.output_dir)
        model, tokenizer = load_checkpoint(str(folder), recipe.training.device)
        held_out, seeds = load_corpus(recipe.data).validation, list(range(1, own.stories_each + 1))
        found = measure(model, tokenizer, held_out, seeds, ends_at_bos=own.variant == "no_eos")
        (folder / MEASURES).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run_command(main)
