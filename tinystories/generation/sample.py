"""Sample one story with a model's own generation config."""

import copy
from collections.abc import Iterable

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tinystories.errors import UserError
from tinystories.random_state import keep_random_state


def check_prompt(prompt: str, tokenizer: PreTrainedTokenizerBase, context: int) -> None:
    """Raises UserError: the prompt leaves no room for a token in a context of `context` tokens."""
    length = len(tokenizer(prompt)["input_ids"])
    if length >= context:
        raise UserError(f"the prompt has {length} tokens, and the context is {context}", "shorten it")


def fitting_prompts(prompts: Iterable[str], tokenizer: PreTrainedTokenizerBase, context: int) -> list[str]:
    """Those after which there is room for a token."""
    return [prompt for prompt in prompts if len(tokenizer(prompt)["input_ids"]) < context]


@torch.no_grad()
def sample_story(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str, seed: int) -> str:
    """The prompt and its continuation, as text without special tokens. The random state is the same afterwards."""
    was_training = model.training
    model.eval()
    with keep_random_state(model.device):
        torch.manual_seed(seed)
        inputs = tokenizer(prompt, return_tensors="pt").to(model.device)
        config = copy.copy(model.generation_config)
        room = model.config.max_position_embeddings - inputs["input_ids"].shape[1]
        config.max_new_tokens = max(1, min(config.max_new_tokens, room))
        ids = model.generate(**inputs, generation_config=config)  # type: ignore[operator]  # of GenerationMixin
    model.train(was_training)
    return str(tokenizer.decode(ids[0], skip_special_tokens=True))
