"""What an evaluation does beside scoring: it writes sample stories and checks the next-token loss again."""

import json
import logging
from pathlib import Path

from transformers import TrainerCallback

from tinystories.generation.sample import sample_story
from tinystories.run_files import SAMPLES
from tinystories.training.guards.loss import check_next_token_loss
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
                logger.info("step %d: %s\n", state.global_step, text)
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
