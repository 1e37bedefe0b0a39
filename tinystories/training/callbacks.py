"""What an evaluation does beside scoring, and the last question to a training: whether it changed the weights."""

import hashlib
import json
import logging
from pathlib import Path

import torch
from torch import nn
from transformers import TrainerCallback

from tinystories.errors import UserError
from tinystories.generation.sample import sample_story
from tinystories.run_files import SAMPLES
from tinystories.training.guards.loss import check_next_token_loss
from tinystories.training.log import set_off
from tinystories.training.recipe_trainer import RecipeTrainer


logger = logging.getLogger(__name__)


class SampleStories(TrainerCallback):
    """Continues fixed prompts with a fixed seed at each evaluation, into the log and samples.jsonl."""

    def __init__(self, prompts: list[str]):
        self.prompts = prompts

    def on_evaluate(self, args, state, control, model=None, processing_class=None, **kwargs):
        # On all processes, at no cost in time: a model sharded by FSDP can only be run by all of them together.
        texts = [sample_story(model, processing_class, prompt, seed=args.seed) for prompt in self.prompts]
        if not state.is_world_process_zero:
            return
        with (Path(args.output_dir) / SAMPLES).open("a", encoding="utf-8") as file:
            for prompt, text in zip(self.prompts, texts, strict=True):
                logger.info("%s", set_off(text))
                row = {"step": state.global_step, "prompt": prompt, "seed": args.seed, "text": text}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


class LossGuard(TrainerCallback):
    """Repeats the next-token guard at each evaluation: on a trained model a wrong shift changes the loss.

    It runs on every process, so that a failure ends all of them together and none waits for one that has ended.
    """

    def __init__(self, trainer: RecipeTrainer):
        self.trainer = trainer

    def on_evaluate(self, args, state, control, **kwargs):
        check_next_token_loss(self.trainer)


class WeightsMoved(TrainerCallback):
    """A training without a step, or after which the weights are what they were before, is no success.

    It is asked of every run, with and without guards: whatever the reason, such a run would be scored and published.
    """

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.before, self.first_step = _digest(model), state.global_step

    def on_train_end(self, args, state, control, model=None, **kwargs):
        steps = state.global_step - self.first_step
        if not steps:
            raise UserError(
                f"no step of {state.max_steps:,} was taken: nothing was trained",
                "look at num_train_epochs, max_steps, dataloader_drop_last and the callbacks",
            )
        if state.is_world_process_zero and _digest(model) == self.before:
            raise UserError(
                f"the weights did not change in {steps:,} step{'s' * (steps != 1)}: nothing was trained",
                "look at learning_rate, warmup_steps and lr_scheduler_type",
            )


def _digest(model: nn.Module) -> str:
    """SHA-256 of the trained weights, or of this process's shards of them. A weight below 1e-20 counts as zero."""
    digest = hashlib.sha256()
    for parameter in model.parameters():
        if parameter.requires_grad:
            local = (parameter.to_local() if hasattr(parameter, "to_local") else parameter).detach()
            digest.update(
                local.where(local.abs() > 1e-20, 0).cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
            )
    return digest.hexdigest()
