"""Stories for the text metrics: each prompt continued once with each seed, several at a time."""

from collections.abc import Iterator

import torch
from transformers import GenerationConfig, GenerationMixin, PreTrainedModel, PreTrainedTokenizerBase

from tinystories.errors import UserError
from tinystories.evaluation.scoring import begin_of_story, context_length
from tinystories.evaluation.text.samples import Sample
from tinystories.generation.decoder import Decoder
from tinystories.generation.presets import generation_config
from tinystories.generation.sample import decoder_of
from tinystories.generation.sampler import Sampler, Settings
from tinystories.generation.story import continue_stories
from tinystories.progress import progress_bar
from tinystories.random_state import keep_random_state


# Between the random numbers of two prompts: with the same ones, stories would tend to the same words at the same place.
SEEDS_APART = 1_000_003


@torch.inference_mode()
def write_samples(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[str],
    preset: str,
    seeds: list[int],
    max_new_tokens: int = 200,
    batch_size: int = 16,
) -> list[Sample]:
    """Write len(seeds) x len(prompts) stories, `batch_size` at a time.

    Of a model of this project on the CPU, story `number` is what the command line writes with the seed
    seed + SEEDS_APART * number. Stories of other models also depend on `batch_size`. The caller's random state and the
    model's mode are restored.

    Raises:
        UserError: a prompt and `max_new_tokens` together are longer than the model's context, or its class cannot
            generate.
    """
    begin = begin_of_story(tokenizer)  # no other special tokens: some tokenizers append EOS to the prompt
    ids = [[*begin, *one] for one in tokenizer(prompts, add_special_tokens=False)["input_ids"]]
    _check_room(max(map(len, ids), default=0), max_new_tokens, context_length(model))
    was_training = model.training
    model.eval()
    config = generation_config(tokenizer, max_new_tokens, preset)
    settings = Settings.of(config)
    decoder = None if settings is None else decoder_of(model, slots=max(1, min(batch_size, len(ids))))
    samples = []
    with keep_random_state(model.device), progress_bar(total=len(seeds) * len(prompts), desc="writing") as bar:
        for seed in seeds:
            if settings is not None and decoder is not None:
                written = _decoded(decoder, ids, settings, seed, config)
            else:
                torch.manual_seed(seed)
                written = _generated(model, tokenizer, ids, config, batch_size)
            stories: dict[int, Sample] = {}
            for number, new in written:
                text = _text(tokenizer, ids[number], new)
                ended = tokenizer.eos_token_id in new
                stories[number] = Sample(prompts[number], text, ended, preset, seed)
                bar.update()
            samples += [stories[number] for number in range(len(prompts))]
    model.train(was_training)
    return samples


def _check_room(length: int, max_new_tokens: int, context: int) -> None:
    if length + max_new_tokens > context:
        raise UserError(
            f"a prompt of {length} tokens and {max_new_tokens} new ones do not fit into the model's context of "
            f"{context}: give a smaller max_new_tokens or shorter prompts"
        )


def _text(tokenizer: PreTrainedTokenizerBase, prompt: list[int], new: list[int]) -> str:
    """With some tokenizers, a text decoded without its prompt loses the space that it begins with."""
    whole, before = (str(tokenizer.decode(ids, skip_special_tokens=True)) for ids in ([*prompt, *new], prompt))
    return whole[len(before) :]


def _decoded(
    decoder: Decoder, prompts: list[list[int]], settings: Settings, seed: int, config: GenerationConfig
) -> Iterator[tuple[int, list[int]]]:
    """(number of the prompt, new tokens), in the order in which the stories end."""
    samplers = [Sampler(settings, seed + SEEDS_APART * number) for number in range(len(prompts))]
    return continue_stories(decoder, prompts, samplers, {config.eos_token_id}, config.max_new_tokens)


def _generated(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    config: GenerationConfig,
    batch_size: int,
) -> Iterator[tuple[int, list[int]]]:
    """The same by `generate`, in batches; after its end a story is padded."""
    if not isinstance(model, GenerationMixin):
        raise UserError(f"{type(model).__name__} has no method generate: transformers' GenerationMixin is missing")
    for start in range(0, len(prompts), batch_size):
        batch = {"input_ids": prompts[start : start + batch_size]}
        inputs = tokenizer.pad(batch, padding_side="left", return_tensors="pt").to(model.device)
        rows = model.generate(  # type: ignore[misc]  # the protocol that transformers declares for self does not fit its models
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], generation_config=config
        )
        if not isinstance(rows, torch.Tensor):  # return_dict_in_generate is off
            raise TypeError(f"generate returned a {type(rows).__name__}, not a tensor")
        yield from enumerate(rows[:, inputs["input_ids"].shape[1] :].tolist(), start)
