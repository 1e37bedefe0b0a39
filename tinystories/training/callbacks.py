"""What happens at each evaluation beside the numbers: sample stories are written, and the loss is checked again."""

import json
import logging
from pathlib import Path

from transformers import TrainerCallback

from tinystories.generation.sample import sample_story
from tinystories.run_files import SAMPLES
from tinystories.training.guards import check_next_token_loss


logger = logging.getLogger(__name__)


class SampleStories(TrainerCallback):
    """Continues fixed prompts with a fixed seed at each evaluation, in the log and in samples.jsonl."""

    def __init__(self, prompts: list[str]):
        self.prompts = prompts

    def on_evaluate(self, args, state, control, model, processing_class, **kwargs):
        # All processes ask the model, which costs no time: one sharded by FSDP answers only to all of them together.
        texts = [sample_story(model, processing_class, prompt, seed=args.seed) for prompt in self.prompts]
        if not state.is_world_process_zero:
            return
        with (Path(args.output_dir) / SAMPLES).open("a", encoding="utf-8") as file:
            for prompt, text in zip(self.prompts, texts, strict=True):
                logger.info("step %d: %s\n", state.global_step, text)
                row = {"step": state.global_step, "prompt": prompt, "seed": args.seed, "text": text}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


class LossGuard(TrainerCallback):
    """Repeats the next-token guard at each evaluation: on a trained model a wrong shift cannot hide.

    On every process, so that a failure ends all of them together, and none waits for one that has ended.
    """

    def __init__(self):
        self.trainer = None

    def on_evaluate(self, args, state, control, **kwargs):
        if self.trainer is not None:
            check_next_token_loss(self.trainer)
