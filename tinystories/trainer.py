"""The Trainer, changed in two places only: every checkpoint is a complete Hub repository, and evaluation is exact.

Everything else (the loop, accumulation, mixed precision, schedules, processes) is transformers' and accelerate's.
"""

import logging
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerState
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import HubStrategy

from tinystories.checkpoint import write_card
from tinystories.decoding import save_presets
from tinystories.errors import UserError
from tinystories.hub import create_repository, hub_errors, push, refuse_to_lose_a_card
from tinystories.optimizers import make_schedule, muon_and_adamw
from tinystories.packing import PackedRows, StoryCollator
from tinystories.processes import on_one_process
from tinystories.recipe import Recipe
from tinystories.scoring import ScoringRows, row_sums, trainer_metrics


logger = logging.getLogger(__name__)


class StoryTrainer(Trainer):
    """Trains on packed rows; evaluates story by story, weighting tokens and not batches."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        recipe: Recipe,
        packed: PackedRows,
        evaluation: ScoringRows,
        data_report: dict[str, Any],
        callbacks: list | None = None,
    ):
        super().__init__(
            model=model,
            args=recipe.training,
            data_collator=StoryCollator(
                tokenizer.pad_token_id, tokenizer.bos_token_id if recipe.data.isolate_stories else None
            ),
            train_dataset=packed.rows,
            eval_dataset=evaluation.rows,
            processing_class=tokenizer,
            # The sums of each row stand in for its logits, so that the metrics are sums over tokens: the Trainer's own
            # eval_loss, a mean over batches, is replaced by the `loss` that these metrics hold.
            preprocess_logits_for_metrics=row_sums,
            compute_metrics=partial(trainer_metrics, stories=evaluation),
            callbacks=callbacks,
        )
        self.recipe = recipe
        self.evaluation = evaluation
        self.data_report = data_report

    def create_optimizer(self, model=None):
        """AdamW is the Trainer's own."""
        if self.optimizer is None and self.args.optimizer == "muon":
            self.optimizer = muon_and_adamw((model or self.model).named_parameters(), self.args)
        return super().create_optimizer(model)

    def create_scheduler(self, num_training_steps, optimizer=None):
        if self.lr_scheduler is None:
            self.lr_scheduler = make_schedule(self.args, optimizer or self.optimizer, num_training_steps)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def get_eval_dataloader(self, eval_dataset=None):
        """Every row is scored: `dataloader_drop_last`, which the Trainer obeys here as well, is for training only."""
        drop_last, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.args.dataloader_drop_last = drop_last

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Every save, of `checkpoint-N` and of the run folder, passes here."""
        folder = Path(output_dir or self.args.output_dir)
        self.model.config.use_cache = True  # the Trainer turns it off while it trains
        super()._save(str(folder), state_dict)
        self.model.config.use_cache = self.args.use_cache
        if self.args.should_save:
            (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)  # a pickle; recipe.json says the same in the open
            save_presets(folder, self.model.generation_config)
            if folder != Path(self.args.output_dir):  # the run folder's card waits for the final score of its weights
                write_card(folder, self.model, self.card_facts())

    def restore_finished(self, checkpoint: str) -> bool:
        """Whether the run had done all its steps; if so, its state and its best (or last) weights are restored."""
        state = TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME))
        steps = self.args.max_steps
        if steps <= 0:
            steps = round(state.max_steps / state.num_train_epochs * self.args.num_train_epochs)
        if state.global_step > steps:
            raise UserError(
                f"the run has done {state.global_step} steps and the recipe ends at {steps}: set max_steps or "
                "num_train_epochs higher"
            )
        if state.global_step < steps:
            return False
        self.state = state
        best = state.best_model_checkpoint
        if self.args.load_best_model_at_end and best is not None and Path(best).is_dir():
            self._load_best_model()
        else:
            self._load_from_checkpoint(checkpoint)
        return True

    def _load_best_model(self) -> None:
        """Where the best weights are gone, the Trainer keeps the last ones and calls them the best; we do not."""
        if not any(Path(self.state.best_model_checkpoint).glob("model*.safetensors*")):
            logger.warning("the best checkpoint %s holds no weights any more", self.state.best_model_checkpoint)
            self.state.best_model_checkpoint = self.state.best_global_step = None
            return
        super()._load_best_model()

    def _issue_warnings_after_load(self, load_result) -> None:
        """The Trainer reports tied weights as missing when it loads the best checkpoint: they are not in the file."""
        tied = set(self.model.all_tied_weights_keys)
        load_result.missing_keys[:] = [name for name in load_result.missing_keys if name not in tied]
        super()._issue_warnings_after_load(load_result)

    def init_hf_repo(self, *args, **kwargs) -> None:
        """With push_to_hub, before the first step: what would stop the push stops the run here, and not at its end."""
        name = self.args.hub_model_id or Path(self.args.output_dir).absolute().name
        self.hub_model_id = on_one_process(lambda: self._open_repository(name))

    def _open_repository(self, name: str) -> str:
        api = HfApi(token=self.args.hub_token)
        with hub_errors(name):
            repo_id = create_repository(api, name, self.args.hub_private_repo)
            refuse_to_lose_a_card(api, repo_id, self.args.hub_revision)
        return repo_id

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """With hub_strategy every_save: each checkpoint, a whole repository of its own. A failure stops no training."""
        if not self.is_world_process_zero() or self.args.hub_strategy == HubStrategy.END:
            return
        try:
            self.push_to_hub(f"Training in progress, step {self.state.global_step}", folder=checkpoint_folder)
        except UserError as error:
            logger.warning("step %d was not published: %s", self.state.global_step, error)

    def push_to_hub(self, commit_message: str = "End of training", folder: str | None = None, **kwargs):
        """Publish the run folder as it lies on disk, its card included; the Trainer would save it again."""
        if not self.is_world_process_zero():
            return None
        return push(
            folder or self.args.output_dir,
            self.hub_model_id,
            private=self.args.hub_private_repo,
            revision=self.args.hub_revision,
            message=commit_message,
            token=self.args.hub_token,
        )

    def card_facts(self, final: dict[str, Any] | None = None) -> dict[str, Any]:
        """What the card says of this run at this moment; `final` is the score of the finished checkpoint."""
        evaluations = [row for row in self.state.log_history if "eval_bits_per_byte" in row]
        return {
            "recipe": self.recipe.values,
            "data": self.data_report,
            "step": self.state.global_step,
            "epoch": self.state.epoch,
            "best_step": self.state.best_global_step if self.args.load_best_model_at_end else None,
            "tokens_seen": self.state.num_input_tokens_seen,
            "last_evaluation": evaluations[-1] if evaluations else None,
            "evaluated_stories": self.evaluation.num_stories,
            "final": final,
        }
