"""Stories for the text metrics: each prompt continued once with each seed, in batches."""

import torch
from tqdm.auto import tqdm
from transformers import GenerationConfig, GenerationMixin, PreTrainedModel, PreTrainedTokenizerBase

from tinystories.errors import UserError
from tinystories.evaluation.scoring import begin_of_story, context_length
from tinystories.evaluation.text.samples import Sample
from tinystories.generation.presets import generation_config
from tinystories.random_state import keep_random_state


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
    """Write len(seeds) x len(prompts) stories. On one machine, the seed and `batch_size` determine them.

    The caller's random state and the model's mode are restored.

    Raises:
        UserError: a prompt and `max_new_tokens` together are longer than the model's context, or its class cannot
            generate.
    """
    config = generation_config(tokenizer, max_new_tokens, preset)
    was_training = model.training
    model.eval()
    samples = []
    with keep_random_state(model.device), tqdm(total=len(seeds) * len(prompts), desc="writing", delay=2) as bar:
        for seed in seeds:
            torch.manual_seed(seed)
            for start in range(0, len(prompts), batch_size):
                batch = prompts[start : start + batch_size]
                texts = _continue(model, tokenizer, batch, config)
                samples += [
                    Sample(prompt, text, ended, preset, seed)
                    for prompt, (text, ended) in zip(batch, texts, strict=True)
                ]
                bar.update(len(batch))
    model.train(was_training)
    return samples


def _continue(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[str], config: GenerationConfig
) -> list[tuple[str, bool]]:
    """What the model writes after each prompt, and whether it ended the story."""
    if not isinstance(model, GenerationMixin):
        raise UserError(f"{type(model).__name__} has no method generate: transformers' GenerationMixin is missing")
    begin = begin_of_story(tokenizer)  # no other special tokens: some tokenizers append EOS to the prompt
    ids = [[*begin, *one] for one in tokenizer(prompts, add_special_tokens=False)["input_ids"]]
    inputs = tokenizer.pad({"input_ids": ids}, padding_side="left", return_tensors="pt").to(model.device)
    length, context = inputs["input_ids"].shape[1], context_length(model)
    if length + config.max_new_tokens > context:
        raise UserError(
            f"a prompt of {length} tokens and {config.max_new_tokens} new ones do not fit into the model's context of "
            f"{context}: give a smaller max_new_tokens or shorter prompts"
        )
    rows = model.generate(  # type: ignore[misc]  # the protocol that transformers declares for self does not fit its models
        input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], generation_config=config
    )
    if not isinstance(rows, torch.Tensor):  # return_dict_in_generate is off
        raise TypeError(f"generate returned a {type(rows).__name__}, not a tensor")
    # Decode with the prompt: with some tokenizers, a text decoded alone loses the space that it begins with.
    whole, before = (tokenizer.batch_decode(part, skip_special_tokens=True) for part in (rows, rows[:, :length]))
    texts = [text[len(prompt) :] for text, prompt in zip(whole, before, strict=True)]
    return list(zip(texts, (rows[:, length:] == tokenizer.eos_token_id).any(dim=1).tolist(), strict=True))
