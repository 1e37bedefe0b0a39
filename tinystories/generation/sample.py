"""Sample one story with a model's own generation config."""

import copy

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tinystories.random_state import keep_random_state


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
