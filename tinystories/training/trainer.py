"""The Trainer, changed in three places only: evaluation is exact, a step that goes wrong stops the run, and a
checkpoint is whole, or not there, and a complete Hub repository.

Everything else (the loop, accumulation, mixed precision, schedules, processes) is transformers' and accelerate's.
"""

import json
import logging
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerState
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import HubStrategy

from tinystories.checkpoint.hub import create_repository, hub_errors, push, refuse_to_lose_a_card
from tinystories.config.recipe import Recipe
from tinystories.data.packing import PackedRows, StoryCollator
from tinystories.errors import GuardError, UserError
from tinystories.evaluation.scoring import ScoringRows, token_nll, trainer_metrics
from tinystories.generation.presets import save_presets
from tinystories.reporting.model_card import CardFacts, write_card
from tinystories.run_files import PROGRESS, Run
from tinystories.training.budget import planned_steps
from tinystories.training.checkpointing import AtomicCheckpointMixin
from tinystories.training.distributed import on_one_process
from tinystories.training.environment import flops_per_token
from tinystories.training.loss_spike import LossSpikeGuard
from tinystories.training.optimizers import make_schedule, muon_and_adamw
from tinystories.training.out_of_memory import evaluating_in_memory, train_in_memory
from tinystories.training.signals import IgnoreSignals
from tinystories.training.throughput import ThroughputCallback


logger = logging.getLogger(__name__)


class StoryTrainer(AtomicCheckpointMixin, Trainer):
    """Trains on packed rows; evaluates story by story, weighting tokens and not batches.

    evaluation: held-out stories. training_stories: some of those trained on, scored in the same pass; may be empty.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        recipe: Recipe,
        packed: PackedRows,
        evaluation: ScoringRows,
        training_stories: ScoringRows,
        data_report: dict[str, Any],
        callbacks: list | None = None,
    ):
        self.meters = ThroughputCallback(flops_per_token(model, recipe.data.block_size))
        self.loss_spike_guard = LossSpikeGuard(recipe.training.max_loss_spike)
        super().__init__(
            model=model,
            args=recipe.training,
            data_collator=StoryCollator(
                tokenizer.pad_token_id, tokenizer.bos_token_id if recipe.data.isolate_stories else None
            ),
            train_dataset=packed.rows,
            eval_dataset=evaluation.rows + training_stories.rows,
            processing_class=tokenizer,
            # The losses of a row's tokens stand in for its logits, so that the metrics are sums over tokens: the
            # Trainer's own eval_loss, a mean over batches, is replaced by the `loss` that these metrics hold.
            preprocess_logits_for_metrics=token_nll,
            compute_metrics=partial(trainer_metrics, stories=evaluation, training_stories=training_stories),
            callbacks=[self.loss_spike_guard, *(callbacks or []), self.meters],
        )
        self.recipe = recipe
        self.evaluation, self.training_stories = evaluation, training_stories
        self.rows_per_step = self.args.train_batch_size * self.args.gradient_accumulation_steps
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

    def _get_dataloader(self, *args, **kwargs):
        loader = super()._get_dataloader(*args, **kwargs)
        loader.worker_init_fn = IgnoreSignals(loader.worker_init_fn)
        return loader

    def progress(self) -> dict[str, Any]:
        return {"meters": self.meters.progress(), "recent_losses": list(self.loss_spike_guard.before)}

    def _inner_training_loop(self, batch_size: int | None = None, **kwargs):
        loop, checkpoint = super()._inner_training_loop, kwargs.get("resume_from_checkpoint")
        if checkpoint is not None:
            progress = json.loads(Path(checkpoint, PROGRESS).read_text(encoding="utf-8"))
            self.meters.earlier = progress["meters"]
            self.loss_spike_guard.before.extend(progress["recent_losses"])
        return train_in_memory(self, loop, batch_size or self._train_batch_size, self.rows_per_step, **kwargs)

    def _evaluate(self, *args, **kwargs):
        with evaluating_in_memory(self.args.per_device_eval_batch_size):
            return super()._evaluate(*args, **kwargs)

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.loss_spike_guard.see(inputs, loss)
        return loss

    def _get_grad_norm(self, model, grad_norm=None):
        """Called at each step between the gradients and the optimizer: the last moment to stop."""
        grad_norm = super()._get_grad_norm(model, grad_norm)
        self.meters.step(*self.loss_spike_guard.check(self, grad_norm), self._get_learning_rate())
        return grad_norm

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """With our own speed: the Trainer's, for which it takes `start_time`, counts evaluations as training."""
        if "loss" in logs:
            logs.update(self.meters.at_log(self.state, self.args.device))
        super().log(logs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Nothing is saved that nobody can go on with: a step may pass its guard and its update may overflow."""
        for name, weight in self.model.named_parameters():
            if not torch.isfinite(weight).all():
                raise GuardError(
                    f"{name} is not finite after step {self.state.global_step}: nothing of it was saved; lower the "
                    "learning_rate. Checkpoints before it are kept"
                )
        super().save_model(output_dir, _internal_call)

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
        steps, _ = planned_steps(self.args, len(self.train_dataset))
        if state.global_step > steps:
            raise UserError(
                f"the run has done {state.global_step} steps and the recipe ends at {steps}: set max_steps or "
                "num_train_epochs higher"
            )
        if state.global_step < steps and not _stopped_early(state, self.args.early_stopping_patience):
            return False
        self.state = state
        self._find_the_best()
        if self.args.load_best_model_at_end and state.best_model_checkpoint is not None:
            self._load_best_model()
        else:
            self._load_from_checkpoint(checkpoint)
        return True

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

    def _save_checkpoint(self, model, trial) -> None:
        super()._save_checkpoint(model, trial)
        if self.args.push_to_hub and self.args.hub_strategy == HubStrategy.EVERY_SAVE:
            self._publish(Path(self.args.output_dir, f"checkpoint-{self.state.global_step}"))

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Not from the folder that is still being written: `_publish` follows when it is whole."""

    def _publish(self, checkpoint: Path) -> None:
        """With hub_strategy every_save: each checkpoint, a whole repository of its own. A failure stops no training."""
        try:
            self.push_to_hub(f"Training in progress, step {self.state.global_step}", folder=str(checkpoint))
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

    def card_facts(self) -> CardFacts:
        """What the card of a checkpoint says of a run that goes on; a finished one has it in its files."""
        evaluations = [row for row in self.state.log_history if "eval_bits_per_byte" in row]
        return CardFacts(
            recipe=self.recipe.values,
            data=self.data_report,
            step=self.state.global_step,
            epoch=self.state.epoch,
            tokens_seen=self.state.num_input_tokens_seen,
            last_evaluation=evaluations[-1] if evaluations else None,
            evaluated_stories=self.evaluation.num_stories,
            environment=Run(self.args.output_dir).environment,
        )


def _stopped_early(state: TrainerState, patience: int | None) -> bool:
    saved = state.stateful_callbacks.get("EarlyStoppingCallback", {})
    return patience is not None and saved.get("attributes", {}).get("early_stopping_patience_counter", 0) >= patience
