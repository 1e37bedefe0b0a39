"""transformers' Trainer for this project. What `StoryTrainer` changes, by overriding methods of it:

- evaluation is exact: tokens are weighted and not batches, and no row is dropped;
- a step that goes wrong stops the run before the optimizer applies it (on a GPU it may stop one step later, and the
  device leaves the wrong update out: loss_spike.py), and weights that are not finite are not saved;
- training makes no logits; batches have one shape, for which a model is compiled once, or on a CPU, where it is not
  compiled, no columns of padding alone;
- a checkpoint is complete or absent (checkpointing.py), holds no pickled arguments, and is a complete Hub repository;
- evaluations and checkpoints may be of an average of the weights (averaging.py);
- the optimizer may be Muon, and a schedule may count its decay in shares of the run (optimizers.py);
- out of memory: a step is cut into smaller batches and keeps its rows (out_of_memory.py);
- the log is made for people (log.py) and holds this project's speed (throughput.py);
- data workers leave signals to their parent (signals.py);
- pushing to the Hub uploads a folder as it is on disk, and what would stop it stops the run before its first step.

The loop, accumulation, mixed precision and processes are those of transformers and accelerate. Many of the methods are
private: tests/training/test_trainer_contract.py compares them with the installed version and says why each is needed.
"""

import logging
from functools import partial
from pathlib import Path
from typing import Any, cast

import datasets
import torch
from huggingface_hub import CommitInfo, HfApi
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
    TrainerState,
)
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK, TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import HubStrategy, TrainOutput

from modeling_tinystories import TinyStoriesForCausalLM
from tinystories.checkpoint.hub import check_card_unedited, create_repository, hub_errors, push
from tinystories.checkpoint.loading import share_weights
from tinystories.config.recipe import Recipe
from tinystories.data.packing import IGNORED, PackedRows, StoryCollator
from tinystories.data.reshuffling import ReshuffledRows, count_rows_by_epoch
from tinystories.errors import GuardError, UserError
from tinystories.evaluation.scoring import ScoringRows, token_nll, trainer_metrics
from tinystories.generation.presets import save_presets
from tinystories.reporting.card_facts import CardFacts, evaluated
from tinystories.reporting.model_card import write_card
from tinystories.run_files import PROGRESS, Run, read_json
from tinystories.training.averaging import AveragingTrainer
from tinystories.training.budget import planned_steps
from tinystories.training.callbacks import LossGuard, WeightsMoved
from tinystories.training.distributed import on_one_process
from tinystories.training.energy import Energy
from tinystories.training.environment import flops_per_token
from tinystories.training.flops import FlopCount
from tinystories.training.guards.average import AverageWitness
from tinystories.training.guards.causality import CausalAsTrained
from tinystories.training.guards.sampler import VisitWitness
from tinystories.training.guards.witness import StepWitness
from tinystories.training.log import TrainingLog
from tinystories.training.loss_spike import LossSpikeGuard
from tinystories.training.optimizers import make_schedule, muon_and_adamw
from tinystories.training.out_of_memory import evaluating_in_memory, train_in_memory
from tinystories.training.signals import IgnoreSignals
from tinystories.training.streaming import StepsAsEpoch, StreamFeed, feed_of, planned_rows
from tinystories.training.throughput import ThroughputCallback


logger = logging.getLogger(__name__)


class StoryTrainer(AveragingTrainer):
    """Trains on packed rows; evaluates story by story, weighting tokens and not batches.

    evaluation: held-out stories. training_stories: some of those trained on, scored in the same pass; may be empty.
    callbacks: called after the guards and before the throughput.
    """

    loss_spike_guard: LossSpikeGuard
    stream: StreamFeed | None

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        recipe: Recipe,
        packed: PackedRows,
        evaluation: ScoringRows,
        training_stories: ScoringRows,
        data_report: dict[str, Any],
        callbacks: list[TrainerCallback] | None = None,
    ):
        self.throughput = ThroughputCallback(flops_per_token(model, recipe.data.block_size))
        self.training_log = TrainingLog(self.throughput)
        self.flops, self.energy = FlopCount(model), Energy()
        self.loss_spike_guard = LossSpikeGuard(recipe.training.max_loss_spike)
        guards: list[TrainerCallback] = [self.loss_spike_guard]
        if not recipe.training.skip_guards:
            guards += [LossGuard(self), StepWitness(self), AverageWitness(self), CausalAsTrained(self)]
        super().__init__(
            model=model,
            args=recipe.training,
            data_collator=StoryCollator(
                tokenizer.pad_token_id, tokenizer.bos_token_id if recipe.data.isolate_stories else None
            ),
            train_dataset=packed.rows,
            eval_dataset=evaluation.rows + training_stories.rows,
            processing_class=tokenizer,
            # The losses of a row's tokens take the place of its logits, so that the metrics are sums over tokens. The
            # `loss` among them replaces the Trainer's own eval_loss, which is a mean over batches.
            preprocess_logits_for_metrics=token_nll,
            compute_metrics=partial(trainer_metrics, stories=evaluation, training_stories=training_stories),
            callbacks=[*guards, *(callbacks or []), WeightsMoved(), self.throughput, self.training_log],
        )
        for shown in (PrinterCallback, DEFAULT_PROGRESS_CALLBACK):  # the Trainer's own: rows of the log as Python
            self.remove_callback(shown)
        self.loss_spike_guard.trainer = self
        self.unread_tokens: torch.Tensor | int = 0  # of the steps since the last log, evaluation or save
        self.recipe = recipe
        self.evaluation, self.training_stories = evaluation, training_stories
        self.stream = feed_of(self, packed)
        if self.stream is not None:
            self.add_callback(StepsAsEpoch())
        self.num_rows = planned_rows(self.args, packed)
        self.visits = None if self.args.skip_guards else VisitWitness(self)
        self.rows_per_step = self.args.train_batch_size * self.args.gradient_accumulation_steps
        self.data_report = data_report

    def rehearsal(
        self, model: TinyStoriesForCausalLM, recipe: Recipe, rows: datasets.Dataset, callback: TrainerCallback
    ) -> "StoryTrainer":
        packed = PackedRows(rows, report={}, key="")
        evaluated = (self.evaluation, self.training_stories)
        return type(self)(
            model, self.processing_class, recipe, packed, *evaluated, data_report={}, callbacks=[callback]
        )

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """Note the token ids of the step as they come from the data; guards compare what is made of them with that."""
        batches, number_of_targets = super().get_batch_samples(*args, **kwargs)
        self.step_rows = [batch["input_ids"].clone() for batch in batches]
        return batches, number_of_targets

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW is the Trainer's own."""
        if self.optimizer is None and self.args.optimizer == "muon":
            self.optimizer = muon_and_adamw((model or self.model).named_parameters(), self.args)
        return super().create_optimizer(model)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LRScheduler:
        if self.lr_scheduler is None:
            self.lr_scheduler = make_schedule(self.args, optimizer or self.create_optimizer(), num_training_steps)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def get_train_dataloader(self) -> DataLoader:
        """The feed of a stream needs only what the loop needs: to be iterated."""
        if self.stream is not None:
            return cast(DataLoader, self.stream)
        loader = super().get_train_dataloader()
        if isinstance(self.train_dataset, ReshuffledRows):
            count_rows_by_epoch(loader, len(self.train_dataset))
        return loader

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """Every row is scored: `dataloader_drop_last`, which the Trainer obeys here as well, is for training only."""
        drop_last, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.args.dataloader_drop_last = drop_last

    def _get_dataloader(self, *args: Any, **kwargs: Any) -> DataLoader:
        loader = super()._get_dataloader(*args, **kwargs)
        starts_workers = getattr(loader, "base_dataloader", loader)  # accelerate wraps one loader in another
        starts_workers.worker_init_fn = IgnoreSignals(starts_workers.worker_init_fn)
        return loader

    def progress(self) -> dict[str, Any]:
        """What a checkpoint holds beside the Trainer's own state."""
        self.loss_spike_guard.read()
        progress: dict[str, Any] = {
            "meters": self.throughput.progress(),
            "recent_losses": list(self.loss_spike_guard.before),
            "flops": self.flops.state(),
            "energy": self.energy.counted,
        }
        return progress | ({"stream": self.stream_state} if self.stream is not None else {})

    def _inner_training_loop(
        self,
        batch_size: int | None = None,
        args: Any = None,
        resume_from_checkpoint: str | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        energy: dict[str, int] | None = {}
        if resume_from_checkpoint is not None:
            progress = read_progress(Path(resume_from_checkpoint))
            energy = progress.get("energy")  # an earlier version did not count it
            self.throughput.earlier = progress["meters"]
            self.loss_spike_guard.before.extend(progress["recent_losses"])
            self.flops.earlier = progress.get("flops")  # a checkpoint of version 0.1.0 has none
            if self.stream is not None:
                self.stream.restore(progress.get("stream"), resume_from_checkpoint)
        self.energy.begin(self.args.device, self.is_local_process_zero(), energy)
        self.begin_average(resume_from_checkpoint)
        trained = partial(
            super()._inner_training_loop,
            args=args,
            resume_from_checkpoint=resume_from_checkpoint,
            trial=trial,
            ignore_keys_for_eval=ignore_keys_for_eval,
        )

        def loop(rows: int) -> TrainOutput:
            self.unread_tokens = 0  # an attempt that ran out of memory may have counted a part of its first step
            self.flops.restart()
            return trained(rows)

        try:
            return train_in_memory(self, loop, batch_size or self._train_batch_size, self.rows_per_step)
        finally:
            self.training_log.close()

    def _evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        with evaluating_in_memory(self.args.per_device_eval_batch_size):
            return super()._evaluate(*args, **kwargs)

    def as_trained(self, batch: dict[str, Any]) -> dict[str, Any]:
        """What the model is given in a step: no logits, and one shape, for which it is compiled once.

        Not compiled on a CPU, where the time of a step is that of its columns: those with a target only.
        """
        if self.args.torch_compile:
            batch = with_rows(batch, self._train_batch_size)
        elif self.args.device.type == "cpu":
            batch = without_padding(batch)
        return {**batch, "loss_only": True}

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Called in every step of training and evaluating."""
        self.energy.look()
        return super()._prepare_inputs(inputs)

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        if self.visits is not None:
            self.visits.look(inputs)
        batch, inputs = inputs, self.as_trained(inputs)
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.flops.add(len(inputs["input_ids"]), batch["input_ids"].shape[1])
        self.loss_spike_guard.record(batch, loss)
        return loss

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: Any = None) -> Any:
        """Called once a step, after the gradients and before the optimizer: the last moment to stop."""
        grad_norm = super()._get_grad_norm(model, grad_norm)
        self.loss_spike_guard.check(grad_norm, self._get_learning_rate())
        return grad_norm

    def _track_num_input_tokens(self, inputs: dict[str, torch.Tensor]) -> None:
        """Count the tokens where they are; the Trainer waits for the device to add them up in every step."""
        counts = self.args.include_num_input_tokens_seen
        if counts == "no":
            return
        ids = inputs["input_ids"]
        seen = ids.ne(self.processing_class.pad_token_id).sum() if counts == "non_padding" else ids.numel()
        self.unread_tokens = self.unread_tokens + seen

    def _read_tokens(self) -> None:
        unread = torch.as_tensor(self.unread_tokens, device=self.args.device, dtype=torch.int64)
        self.state.num_input_tokens_seen += int(self.accelerator.gather(unread).sum())
        self.unread_tokens = 0
        self.flops.gather(self.accelerator)
        self.energy.gather(self.accelerator)

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        """What is still on the device is read before anything is logged, evaluated or saved."""
        control = self.control
        if control.should_log or control.should_evaluate or control.should_save:
            self.loss_spike_guard.read()
            self._read_tokens()
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log this project's speed. `start_time` is not passed on: the Trainer's counts evaluations as training."""
        if "train_loss" in logs:  # the end of the training
            self.loss_spike_guard.read()
            self._read_tokens()
        if "loss" in logs:
            logs.update(self.throughput.at_log(self.state, self.args))
        if self.flops.total is not None:
            logs["training_flops"] = self.flops.total
        super().log(logs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Refuse to save weights that are not finite: a step may pass its guard and its update may overflow."""
        for name, weight in self.model.named_parameters():
            if not torch.isfinite(weight).all():
                raise GuardError(
                    f"{name} is not finite after step {self.state.global_step}, which was not saved",
                    "lower the learning_rate. Checkpoints before it are kept",
                )
        super().save_model(output_dir, _internal_call)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Every save of a `checkpoint-N` and of the run folder calls this."""
        folder = Path(output_dir or self.args.output_dir)
        self.model.config.use_cache = True  # the Trainer turns it off while it trains
        super()._save(str(folder), state_dict)
        self.model.config.use_cache = self.args.use_cache
        if self.args.should_save:
            (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)  # a pickle; recipe.json holds the same as text
            share_weights(folder)
            save_presets(folder, self.model.generation_config)
            if folder != Path(self.args.output_dir):  # the run folder's card is written after the final score
                write_card(folder, self.model, self.card_facts())

    def restore_finished(self, checkpoint: str) -> bool:
        """Whether the run had done all its steps; if so, restore its state and its best (or last) weights.

        Raises:
            UserError: the checkpoint has done more steps than the recipe has.
        """
        state = TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME))
        steps, _ = planned_steps(self.args, self.num_rows)
        if state.global_step > steps:
            raise UserError(
                f"the run has done {state.global_step} steps and the recipe ends at {steps}",
                "set max_steps or num_train_epochs higher",
            )
        if state.global_step < steps and not _stopped_early(state, self.args.early_stopping_patience):
            return False
        self.state = state
        progress = read_progress(Path(checkpoint))
        self.flops.earlier, self.energy.counted = progress.get("flops"), progress.get("energy")
        self.flops.restart()
        self._locate_best()
        if self.args.load_best_model_at_end and state.best_model_checkpoint is not None:
            self._load_best_model()
        else:
            self._load_from_checkpoint(checkpoint)
        return True

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Without the warning that tied weights are missing in the best checkpoint: they are never in the file."""
        tied = set(self.model.all_tied_weights_keys)
        load_result.missing_keys[:] = [name for name in load_result.missing_keys if name not in tied]
        super()._issue_warnings_after_load(load_result)

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """With push_to_hub, before the first step: what would stop the push stops the run here, and not at its end."""
        self.hub_model_id = on_one_process(self._open_repository)

    def _open_repository(self) -> str:
        name = self.args.hub_model_id or Path(self.args.output_dir).absolute().name
        api = HfApi(token=self.args.hub_token)
        with hub_errors(name):
            repo_id = create_repository(api, name, self.args.hub_private_repo)
            check_card_unedited(api, repo_id, self.args.hub_revision, self.args.output_dir)
        return repo_id

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        if self.stream is not None:
            self.stream_state = self.stream.state()  # of all processes, which all are here
        super()._save_checkpoint(model, trial)
        if self.args.push_to_hub and self.args.hub_strategy == HubStrategy.EVERY_SAVE:
            self._publish_checkpoint(Path(self.args.output_dir, f"checkpoint-{self.state.global_step}"))

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Does nothing: the folder is not complete yet. `_publish_checkpoint` follows when it is."""

    def _publish_checkpoint(self, checkpoint: Path) -> None:
        """With hub_strategy every_save: each checkpoint is a complete repository. A failure does not stop training."""
        if self.is_world_process_zero():
            try:
                self._push(checkpoint, f"Training in progress, step {self.state.global_step}")
            except UserError as error:
                logger.warning("step %d was not published: %s", self.state.global_step, error)

    def push_to_hub(  # type: ignore[override]  # the Trainer's returns None too, where it does not push
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> CommitInfo | None:
        """Publish the run folder as it is on disk, with its card; the Trainer's method would save it again.

        Where and as whom is decided by the recipe (hub_model_id, hub_revision, hub_private_repo, hub_token) alone.
        """
        if not self.is_world_process_zero():
            return None
        return self._push(Path(self.args.output_dir), commit_message or "End of training")

    def _push(self, folder: Path, message: str) -> CommitInfo:
        return push(
            folder,
            self.hub_model_id or self._open_repository(),
            private=self.args.hub_private_repo,
            revision=self.args.hub_revision,
            message=message,
            token=self.args.hub_token,
        )

    def card_facts(self) -> CardFacts:
        """What the card of a checkpoint says during the run; a finished run has it in its files."""
        evaluations = evaluated(self.state.log_history)
        return CardFacts(
            recipe=self.recipe.values,
            data=self.data_report,
            step=self.state.global_step,
            epoch=self.state.epoch,
            tokens_seen=self.state.num_input_tokens_seen,
            training_flops=self.flops.total,
            last_evaluation=evaluations[-1] if evaluations else None,
            evaluated_stories=self.evaluation.num_stories,
            environment=Run(self.args.output_dir).environment,
        )


def with_rows(batch: dict[str, torch.Tensor], rows: int) -> dict[str, torch.Tensor]:
    """The batch with so many rows, as the last one of an epoch may not have: the added ones have no labels."""
    missing = rows - len(batch["labels"])
    if missing <= 0:
        return batch
    added = {name: tensor[:1].expand(missing, -1) for name, tensor in batch.items()}
    added["labels"] = torch.full_like(added["labels"], IGNORED)
    return {name: torch.cat([tensor, added[name]]) for name, tensor in batch.items()}


def without_padding(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The batch without the last columns, if they have no label in any row: no other column depends on them."""
    labelled = (batch["labels"] != IGNORED).any(dim=0).nonzero()
    length = int(labelled[-1]) + 1 if len(labelled) else 1
    return {name: tensor[:, :length] for name, tensor in batch.items()}


def read_progress(checkpoint: Path) -> dict[str, Any]:
    """Raises UserError: progress.json is absent or damaged."""
    progress = read_json(checkpoint / PROGRESS)
    if progress is None or not {"meters", "recent_losses"} <= progress.keys():
        raise UserError(f"{checkpoint} cannot be resumed: {PROGRESS} is missing or incomplete")
    return progress


def _stopped_early(state: TrainerState, patience: int | None) -> bool:
    saved: Any = state.stateful_callbacks  # by name in a state that was loaded, whatever its annotation says
    counted = saved.get("EarlyStoppingCallback", {}).get("attributes", {}).get("early_stopping_patience_counter", 0)
    return patience is not None and counted >= patience
