"""Sample one story with a model's own generation config."""

import copy
import logging
from collections.abc import Iterable

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tinystories.generation.decode_graph import HEAD, sizes_of, weight_shapes
from tinystories.generation.decoder import Decoder, unsupported
from tinystories.generation.sampler import Sampler, Settings
from tinystories.generation.story import check_room, continue_story
from tinystories.random_state import keep_random_state


logger = logging.getLogger(__name__)

TOLERANCE = 1e-3  # of the largest logit: float32 in another order of summation differs by less than a hundredth of it


def decoder_of(model: PreTrainedModel, slots: int = 1) -> Decoder | None:
    """A decoder with the weights that `model` has now; None where `generate` has to write.

    That is for networks of others, on a GPU, in another precision, or split between processes, and for a network whose
    code was changed: the decoder is compared with it first.
    """
    if model.device.type != "cpu" or model.dtype != torch.float32 or unsupported(model.config.to_dict()):
        return None
    state = model.state_dict()
    whole = all(type(weight) in (torch.Tensor, torch.nn.Parameter) for weight in state.values())
    shapes = {name: tuple(weight.shape) for name, weight in state.items()}
    decoder = Decoder.from_model(model, slots) if whole and _has_shapes(shapes, model) else None
    if decoder is not None and not _agrees(decoder, model):
        logger.warning(
            "the decoder gives other logits than this network, whose code was changed: writing with generate"
        )
        return None
    return decoder


def _has_shapes(shapes: dict[str, tuple[int, ...]], model: PreTrainedModel) -> bool:
    """As in a checkpoint; `state_dict` has a tied head as well."""
    wanted = weight_shapes(sizes_of(model.config.to_dict()))
    return {name: shape for name, shape in shapes.items() if name in wanted or name != HEAD} == wanted


@torch.no_grad()
def _agrees(decoder: Decoder, model: PreTrainedModel) -> bool:
    """In one pass and in steps, over a few tokens; in float32 also where accelerate put autocast around the network."""
    ids = [(7 * place + 1) % decoder.vocab_size for place in range(min(6, decoder.context))]
    was_training = model.training
    model.eval()
    forward = getattr(model, "_original_forward", model.forward)
    expected = forward(input_ids=torch.tensor([ids]), use_cache=False).logits[0].numpy()
    model.train(was_training)
    logits = decoder.prefill(0, ids, all_logits=True)
    decoder.prefill(0, ids[:1])
    for token in ids[1:]:
        last = decoder.step({0: token})[0]
    worst = max(np.abs(logits - expected).max(), np.abs(last - expected[-1]).max() if len(ids) > 1 else 0)
    return bool(worst <= TOLERANCE * np.abs(expected).max())


def check_prompt(prompt: str, tokenizer: PreTrainedTokenizerBase, context: int) -> None:
    """Raises UserError: the prompt leaves no room for a token in a context of `context` tokens."""
    check_room(len(tokenizer(prompt)["input_ids"]), context)


def fitting_prompts(prompts: Iterable[str], tokenizer: PreTrainedTokenizerBase, context: int) -> list[str]:
    """Those after which there is room for a token."""
    return [prompt for prompt in prompts if len(tokenizer(prompt)["input_ids"]) < context]


def sample_story(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str, seed: int) -> str:
    """The prompt and its continuation, as text without special tokens. The random state is the same afterwards."""
    config, settings = model.generation_config, Settings.of(model.generation_config)
    ids: list[int] = tokenizer(prompt)["input_ids"]
    limit = max(1, min(config.max_new_tokens, model.config.max_position_embeddings - len(ids)))
    decoder = None if settings is None else decoder_of(model)
    if settings is None or decoder is None:
        written = _generated(model, tokenizer, prompt, seed, limit)
    else:
        ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
        written = [*ids, *continue_story(decoder, ids, Sampler(settings, seed), ends, limit)]
    return str(tokenizer.decode(written, skip_special_tokens=True))


@torch.no_grad()
def _generated(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str, seed: int, limit: int
) -> list[int]:
    """The tokens of prompt and continuation as `generate` writes them."""
    was_training = model.training
    model.eval()
    with keep_random_state(model.device):
        torch.manual_seed(seed)
        inputs = tokenizer(prompt, return_tensors="pt").to(model.device)
        config = copy.copy(model.generation_config)
        config.max_new_tokens = limit
        ids = model.generate(**inputs, generation_config=config)  # type: ignore[operator]  # of GenerationMixin
    model.train(was_training)
    written: list[int] = ids[0].tolist()
    return written
