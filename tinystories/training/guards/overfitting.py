"""What training must achieve: a sequence that was learned is continued by `generate`, and ended."""

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase

from modeling_tinystories import TinyStoriesForCausalLM
from tinystories.errors import GuardError
from tinystories.training.guards.batches import collate, frequent_tokens, narrow_copy
from tinystories.training.guards.paths import generate_with_cache
from tinystories.training.recipe_trainer import RecipeTrainer


OVERFIT_TOKENS = 48


def check_overfitting(trainer: RecipeTrainer) -> str:
    """A narrow copy of the model learns one sequence by the trainer's own loss; generate must continue it, and stop.

    The sequence is an irregular order of four tokens, so that the next one depends on more than the last one. A model
    that was taught the token after the next, that saw the future, or whose cache counts wrongly, cannot continue it.
    """
    tokenizer = trainer.processing_class
    length = min(OVERFIT_TOKENS, trainer.model.config.max_position_embeddings - 2)
    frequent = frequent_tokens(trainer, 4)
    order = torch.randint(len(frequent), (length,), generator=torch.Generator().manual_seed(0)).tolist()
    sequence = [tokenizer.bos_token_id, *(frequent[i] for i in order), tokenizer.eos_token_id]
    prompt = sequence[: len(sequence) // 2]
    for seed in range(2):  # twice, so that one unlucky initialization does not stop a run
        model = narrow_copy(trainer, seed)
        loss = _overfit(trainer, model, sequence)
        generated = _continue_greedily(model, tokenizer, prompt, max_new_tokens=len(sequence) - len(prompt) + 1)
        if generated == sequence:
            return f"{len(sequence)} tokens learned (loss {loss:.3f}), continued by generate and ended with EOS"
    at = next(
        (i for i, pair in enumerate(zip(sequence, generated, strict=False)) if pair[0] != pair[1]), len(generated)
    )
    wanted, got = (tokenizer.decode(ids[at : at + 8]) for ids in (sequence, generated))
    raise GuardError(
        f"after learning one sequence (loss {loss:.3f}) the model continues with {got!r}, not {wanted!r}, {at} tokens "
        "from its start: the loss does not teach the next token, or generate does not use it"
    )


def _overfit(trainer: RecipeTrainer, model: TinyStoriesForCausalLM, sequence: list[int]) -> float:
    """Train until every next token is likely: a low mean loss alone may hide one that is not."""
    batch = collate(trainer, [{"input_ids": sequence}])
    targets = torch.tensor(sequence[1:], device=model.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0)
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.05, total_iters=20)
    for _ in range(600):
        loss, outputs = trainer.compute_loss(model, {**batch, "loss_only": True}, return_outputs=True)
        with torch.no_grad():
            logits = model.lm_head(outputs.hidden_states[-1])[0, :-1]  # training makes none
        likelihood = logits.float().softmax(-1).gather(-1, targets[:, None])
        if loss.item() < 0.02 and likelihood.min() > 0.8:
            break  # before another update, which may lose it again
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        warmup.step()
    return loss.item()


def _continue_greedily(
    model: TinyStoriesForCausalLM, tokenizer: PreTrainedTokenizerBase, prompt: list[int], max_new_tokens: int
) -> list[int]:
    greedy = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.eval()
    return generate_with_cache(model, torch.tensor([prompt], device=model.device), greedy)[0].tolist()
