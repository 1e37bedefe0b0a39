"""Watches real steps of the run: its first two, and the one after each evaluation.

The rehearsal (step.py) shows that the Trainer's code is right on a narrow model in float32. Here the run itself is
looked at, in its own size and precision: every weight is float32, trained, and in the optimizer once with the recipe's
numbers; the learning rate of every step is the schedule's; the loss of a micro-batch is the plain next-token loss of
its token ids; gradients are clipped, there is one for each weight, and none is left after the step; weights change as
AdamW and Muon change them (checked at random elements, and at a few whole matrices for Muon), from the state that the
optimizer had before. An evaluation must not change any of that.

Random numbers of the run are not used. With FSDP, whose weights are cut up, and in fp16, whose steps may be skipped,
less is checked.
"""

import logging
import math
import random
import time
from dataclasses import dataclass

import torch
from accelerate.utils import gather_object
from torch import nn
from transformers import TrainerCallback, TrainingArguments

from tinystories.errors import GuardError
from tinystories.training.guards.plain_step import Moments, Settings, clipping_factor, learning_rates, targets_of
from tinystories.training.guards.updates import gradients_left, wrong_change, wrong_dtype, wrong_groups
from tinystories.training.recipe_trainer import RecipeTrainer


logger = logging.getLogger(__name__)

ELEMENTS = 1000  # of each weight
MUON_MATRICES = 3
# Nats per token between a step's loss and a plain forward: rounding, in bf16 of every matrix product, and that
# compiled and plain code round differently.
OF_LOSS, OF_LOSS_IN_HALF = 1e-4, 2e-3
DROPOUTS = ("embd_pdrop", "resid_pdrop", "attention_dropout")


@dataclass
class Sample:
    """Elements of a weight before a step. places: flat indices; None for all."""

    places: torch.Tensor | None
    before: torch.Tensor
    gradient: torch.Tensor
    moments: Moments
    after: torch.Tensor

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        return _at(tensor, self.places)


def _at(tensor: torch.Tensor, places: torch.Tensor | None) -> torch.Tensor:
    tensor = tensor.detach()
    chosen = tensor if places is None else tensor.reshape(-1)[places.to(tensor.device)]
    return chosen.cpu().double()


class StepWitness(TrainerCallback):
    """Stops the run, on all processes together, at a step that is not what the recipe asks for."""

    def __init__(self, trainer: RecipeTrainer):
        self.trainer = trainer
        self.random = random.SystemRandom()
        self.watching = self.after_evaluation = False
        self.problem: str | None = None
        self.samples: dict[str, Sample] = {}

    def on_train_begin(self, args, state, control, model=None, optimizer=None, **kwargs):
        self.settings = Settings.of(self.trainer.recipe)
        self.rates = None if args.fp16 else learning_rates(self.settings, state.max_steps)
        self.first, self.resumed = state.global_step, state.global_step > 0
        self.watching, self.after_evaluation, self.problem = False, False, None
        self.watched, self.furthest, self.seconds = 0, 0.0, 0.0
        if self.trainer.is_fsdp_enabled:
            logger.warning("the steps of this run are not watched: FSDP cuts the weights up")
            return
        # Before the first step, so that nothing is trained in vain; a resumed run has the rate of its last session.
        rates = self.rates(state.global_step) if self.rates is not None and not self.resumed else None
        problem = self._wrong_model(model, optimizer, rates)
        if problem is not None:
            raise GuardError(f"before the first step: {problem}")

    def _wrong_model(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, rates: tuple[float, float] | None
    ) -> str | None:
        groups = wrong_groups(model, optimizer, self.settings, rates)
        return wrong_dtype(model) or self._wrong_dropout(model) or groups

    def _wrong_dropout(self, model: nn.Module) -> str | None:
        asked = {name: self.trainer.recipe.values.get(name) for name in DROPOUTS}
        for name, share in asked.items():
            if share is not None and getattr(self.trainer.model.config, name) != share:
                return f"the model has {name} {getattr(self.trainer.model.config, name):g}, and the recipe {share:g}"
        for name, module in model.named_modules():
            if isinstance(module, nn.Dropout) and module.p not in asked.values() and None not in asked.values():
                return f"{name} drops out {module.p:g}, which the recipe does not ask for"
        return None

    def on_evaluate(self, args, state, control, **kwargs):
        self.after_evaluation = True

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if self.trainer.is_fsdp_enabled:
            return
        if self.watching and not self.after_evaluation:
            self._find(self._changed_since(model))
            self._stop_together(state.global_step)
        self.watching = state.global_step < self.first + 2 or self.after_evaluation
        self.after_evaluation = False

    def _find(self, problem: str | None) -> None:
        self.problem = self.problem or problem

    def _changed_since(self, model: nn.Module) -> str | None:
        """Compare with the elements that the step before, which was watched, left."""
        for name, weight in model.named_parameters():
            sample = self.samples.get(name)
            if sample is not None and not torch.equal(sample.after, sample.of(weight)):
                return f"{name} was changed after the optimizer's step {self.trainer.state.global_step}"
        return None

    def on_pre_optimizer_step(self, args, state, control, model=None, optimizer=None, **kwargs):
        if self.trainer.is_fsdp_enabled:
            return
        same_schedule = self.rates is not None and not (self.resumed and state.global_step == self.first)
        self.now = self.rates(state.global_step) if self.rates is not None and same_schedule else None
        if not self.watching:
            self._check_rates(optimizer, state.global_step)
            return
        begin = time.process_time()
        self.trainer.loss_spike_guard.read()
        self._find(self._wrong_model(model, optimizer, self.now))
        if state.global_step > self.first or state.max_steps == 1:  # of fresh weights any loss is near ln(vocabulary)
            self._find(self._wrong_loss(model, args))
        self._find(self._wrong_gradients(model, state.global_step))
        if self.problem is None:
            self._find(self._take_samples(model, optimizer, state.global_step))
        self.watched, self.seconds = self.watched + 1, self.seconds + time.process_time() - begin

    def _check_rates(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        """The same on every process."""
        if self.now is None:
            return
        for group in optimizer.param_groups:
            wanted = self.now["momentum" in group and self.settings.muon_rate is not None]
            if abs(group["lr"] - wanted) > 1e-6 * max(wanted, self.settings.rate * 1e-3):
                raise GuardError(
                    f"the learning rate of step {step + 1} is {group['lr']:.4g}, and that of the recipe's schedule "
                    f"({self.settings.schedule}) is {wanted:.4g}"
                )

    def _wrong_loss(self, model: nn.Module, args: TrainingArguments) -> str | None:
        """Compare the loss of a micro-batch with the plain one of its token ids; without dropout alone."""
        rows, losses = self.trainer.step_rows, self.trainer.loss_spike_guard.losses
        if len(rows) != len(losses):
            return f"{len(losses)} of the {len(rows)} micro-batches were trained on"
        tokenizer = self.trainer.processing_class
        bos = tokenizer.bos_token_id if self.trainer.recipe.data.isolate_stories else None
        parts = [targets_of(list(ids), tokenizer.pad_token_id, bos) for ids in rows]
        number = sum(self._gathered(sum(part.number for part in parts)))
        if args.neftune_noise_alpha or any(self.trainer.recipe.values.get(name) for name in DROPOUTS):
            return None
        at = self.random.randrange(len(parts))
        part = parts[at]
        was_training = model.training
        model.eval()
        with torch.no_grad():
            plain = part.nats(model(input_ids=part.ids, use_cache=False).logits).item() / part.number
        model.train(was_training)
        found = losses[at].item() * number / args.world_size / part.number
        allowed = OF_LOSS_IN_HALF if args.bf16 or args.fp16 else OF_LOSS
        if abs(found - plain) <= allowed * (1 + plain):
            self.furthest = max(self.furthest, abs(found - plain))
            return None
        return (
            f"the loss of micro-batch {at + 1} of {len(rows)} is {found:.4f} nats per token, as a share of the "
            f"{number} tokens of the step, and the next-token loss of its token ids is {plain:.4f}"
        )

    def _gathered(self, value: int) -> list[int]:
        return gather_object([value])

    def _wrong_gradients(self, model: nn.Module, step: int) -> str | None:
        norms = []
        # Exactly zero in honest first steps: behind a projection that begins at zero, and queries without a choice.
        may_be_zero = (self.trainer.recipe.model.residual_init == "zero" and step <= 1) or (
            self.trainer.recipe.data.block_size <= 2
        )
        for name, weight in model.named_parameters():
            if weight.grad is None:
                return f"{name} has no gradient: the loss does not depend on it, or it is cut off"
            norms.append(weight.grad.detach().float().norm())
            if not may_be_zero and not weight.grad.any():
                return f"the gradient of {name} is zero everywhere"
        found = torch.stack(norms).norm().item()
        reported = self.trainer.throughput.last_step["grad_norm"]
        expected = reported * clipping_factor(reported, self.settings.max_grad_norm)
        if math.isfinite(reported) and abs(found - expected) > 1e-3 * expected:
            how = "are not clipped" if found > expected else "are smaller than they should be"
            return (
                f"the gradients {how}: their norm is {found:.4g}, it should be {expected:.4g} (max_grad_norm "
                f"{self.settings.max_grad_norm:g}, norm before clipping {reported:.4g})"
            )
        return None

    def _take_samples(self, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> str | None:
        self.samples = {}
        matrices = [name for name, weight in model.named_parameters() if self.settings.uses_muon(name, weight)]
        whole = set(self.random.sample(matrices, min(MUON_MATRICES, len(matrices))))
        generator = torch.Generator().manual_seed(self.random.randrange(2**31))
        for name, weight in model.named_parameters():
            places = None
            if name not in whole and weight.numel() > ELEMENTS:
                places = torch.randint(weight.numel(), (ELEMENTS,), generator=generator)
            state = optimizer.state.get(weight, {})
            for key, value in state.items():
                if torch.is_tensor(value) and value.is_floating_point() and value.dtype != torch.float32:
                    return f"the optimizer's {key} of {name} is {str(value.dtype).removeprefix('torch.')}, not float32"
            counted = state.get("step", 0)
            if self.settings.is_adamw and "momentum_buffer" not in state and int(counted) not in (step, 0):
                return f"the optimizer has made {int(counted)} steps with {name}, and the run {step}"
            if self.settings.is_adamw and step > 0 and not state and not self.trainer.args.fp16:
                return f"the optimizer's state of {name} is lost: it would begin again at step {step + 1}"
            first = state.get("exp_avg", state.get("momentum_buffer"))
            second = state.get("exp_avg_sq", state.get("row_squares"))
            assert weight.grad is not None  # `_wrong_gradients`
            before = _at(weight, places)
            nothing = torch.zeros_like(before)
            moments = Moments(
                nothing if first is None else _at(first, places),
                nothing if second is None else _at(second, places if "exp_avg_sq" in state else None),
            )
            self.samples[name] = Sample(places, before, _at(weight.grad, places), moments, after=before)
        return None

    def on_optimizer_step(self, args, state, control, model=None, optimizer=None, **kwargs):
        if not self.watching or self.problem is not None or args.fp16:
            return
        rates = {id(weight): group["lr"] for group in optimizer.param_groups for weight in group["params"]}
        for name, weight in model.named_parameters():
            sample, rate = self.samples[name], rates[id(weight)]
            sample.after = sample.of(weight)
            known = self.settings.is_adamw and not (sample.places is not None and self.settings.uses_muon(name, weight))
            if known:
                problem = wrong_change(
                    name,
                    sample.before,
                    sample.after,
                    sample.gradient,
                    sample.moments,
                    state.global_step + 1,
                    rate,
                    self.settings,
                    weight.ndim,
                )
                self._find(problem)
            elif rate > 1e-5 and bool(sample.gradient.any()) and torch.equal(sample.before, sample.after):
                self._find(f"{name} did not move in the step, with a learning rate of {rate:.4g}")

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if self.trainer.is_fsdp_enabled:
            return
        left = gradients_left(model)
        if self.watching:
            rows = sum(len(ids) for ids in self.trainer.step_rows)
            if not math.isclose(state.epoch, round(state.epoch), abs_tol=1e-9) and rows != self.trainer.rows_per_step:
                self._find(f"the step trained on {rows} rows, and the recipe asks for {self.trainer.rows_per_step}")
            self._find(left)
            self._stop_together(state.global_step)
        elif left is not None:
            raise GuardError(f"step {state.global_step}: {left}")

    def _stop_together(self, step: int) -> None:
        """Raises GuardError: a process has found something."""
        found = next((one for one in gather_object([self.problem]) if one is not None), None)
        if found is not None:
            raise GuardError(f"step {step}: {found}")

    def on_log(self, args, state, control, logs=None, **kwargs):
        unlogged = self.trainer.throughput.unlogged
        if "loss" not in logs or not unlogged:
            return
        mean = sum(unlogged) / len(unlogged)
        if abs(logs["loss"] - mean) > 1e-3 * (1 + abs(mean)) and not args.logging_nan_inf_filter:
            raise GuardError(
                f"the loss logged at step {state.global_step} is {logs['loss']:.4f}, and the mean of its steps is "
                f"{mean:.4f} nats per token"
            )

    def on_train_end(self, args, state, control, **kwargs):
        logger.debug(
            "%d steps watched: losses within %.0e nats of plain ones (%.1f s)",
            self.watched,
            self.furthest,
            self.seconds,
        )
