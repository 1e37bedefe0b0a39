"""A rehearsal: the run's own Trainer takes real steps on a narrow copy of the model, beside steps written down plainly.

Before the first step of the run a Trainer of the same class, with the run's optimizer, schedule, clipping, accumulation
and processes, trains on a few real rows in a folder that is removed afterwards. The rows have different lengths, so
that a mean of the micro-batches' means is not the mean over tokens. At every step its loss, gradients, clipping,
learning rates and new weights are compared with those of `plain_step.py`, from the same weights, in float64; so
rounding does not add up, and the first thing that differs is named. It computes in float32, without compilation and
dropout: what the run itself does in its own precision is watched by `witness.py`.
"""

import copy
import os
import random
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import datasets
import numpy as np
import torch
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import broadcast_object_list, gather_object
from torch import nn
from torch.func import functional_call
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback

from modeling_tinystories import TinyStoriesForCausalLM
from tinystories.checkpoint.stock import fuse_projections, stock_twin
from tinystories.config.recipe import Recipe
from tinystories.data.packing import IGNORED
from tinystories.errors import GuardError
from tinystories.training.budget import planned_steps
from tinystories.training.guards.batches import narrow_copy
from tinystories.training.guards.plain_step import Settings, Targets, clipping_factor, learning_rates, targets_of
from tinystories.training.guards.updates import WeightsBefore, gradients_left, wrong_dtype, wrong_groups
from tinystories.training.log import TrainingLog
from tinystories.training.recipe_trainer import RecipeTrainer


STEPS = 20
ROWS_AT_ONCE = 2
LOGITS = 2**17  # of the longest row, times the vocabulary: float64 on a CPU is slow
ENOUGH_PLACES = 2000  # of a schedule
OF_LOSS, OF_GRADIENTS = 1e-5, 1e-3  # relative, in float32 on a CPU; honest steps differ by 1e-7 and 1e-5
ON_ACCELERATORS = 20  # times as much: their matrix products may round to fewer bits
DIVERGED = 2.0  # times the first loss: the learning rate is too high, rounding grows, and the run itself will say so


def check_schedule(trainer: RecipeTrainer) -> str:
    """The learning rate at steps all over the run is that of the schedule and the warm-up that the recipe names."""
    steps, _ = planned_steps(trainer.args, trainer.num_rows)
    rates = learning_rates(Settings.of(trainer.recipe), steps)
    if rates is None:
        return "it follows the losses: not checked"
    weight = torch.nn.Parameter(torch.zeros(1))
    schedule = trainer.create_scheduler(steps, torch.optim.SGD([weight], lr=trainer.args.learning_rate))
    trainer.lr_scheduler, trainer._created_lr_scheduler = None, False  # the run makes its own
    if not isinstance(schedule, LambdaLR):
        raise GuardError(f"the schedule is a {type(schedule).__name__}, not the recipe's {_schedule_in_words(trainer)}")
    places = sorted(random.SystemRandom().sample(range(steps), min(steps, ENOUGH_PLACES)))
    for step in places:
        expected, found = rates(step)[0], float(schedule.base_lrs[0] * schedule.lr_lambdas[0](step))
        if not abs(found - expected) <= 1e-6 * max(expected, 1e-3 * trainer.args.learning_rate):
            raise GuardError(
                f"the learning rate of step {step + 1} of {steps} would be {found:.4g}, and that of the recipe's "
                f"schedule is {expected:.4g} {_schedule_in_words(trainer)}"
            )
    return f"{len(places):,} of {steps:,} learning rates are the schedule's"


def _schedule_in_words(trainer: RecipeTrainer) -> str:
    settings = Settings.of(trainer.recipe)
    return f"({settings.schedule}, {settings.warmup:g} steps of warm-up, peak {settings.rate:g})"


def check_step(trainer: RecipeTrainer) -> str:
    """Steps of the run's own Trainer equal plain ones. All processes call it together, and pass or fail together."""
    if trainer.is_fsdp_enabled:
        return "not rehearsed: FSDP cuts the weights up"
    seed = broadcast_object_list([random.SystemRandom().randrange(2**31)])[0]
    settings = Settings.of(trainer.recipe).shortened(STEPS)
    with tempfile.TemporaryDirectory() as folder, _apart_from_the_run(), narrow_random(seed):
        recipe = _rehearsed_recipe(trainer.recipe, settings, folder)
        number = ROWS_AT_ONCE * recipe.training.gradient_accumulation_steps * recipe.training.world_size
        rows = _some_rows(trainer, number, random.Random(seed))
        model = narrow_copy(trainer, seed)
        comparison = Comparison(model, settings, _targets(trainer, rows))
        dataset = datasets.Dataset.from_dict({"input_ids": [row.tolist() for row in rows]}).with_format("numpy")
        rehearsal = trainer.rehearsal(model, recipe, dataset, comparison)
        rehearsal.remove_callback(TrainingLog)
        comparison.trainer, rehearsal.throughput.peak_seconds = rehearsal, 0.0
        try:
            rehearsal.train()
        except GuardError:  # numbers that are not finite, in a rehearsal that has a problem or a rate that is too high
            if comparison.compares:
                raise
    problem = next((one for one in gather_object([comparison.problem]) if one is not None), None)
    if problem is not None:
        raise GuardError(problem)
    return comparison.summary()


@contextmanager
def _apart_from_the_run() -> Iterator[None]:
    """Another Trainer may be made, and nothing is left of it: accelerate keeps its state in two singletons."""
    shared = (AcceleratorState._shared_state, GradientState._shared_state)
    saved = [dict(state) for state in shared]
    names = [name for name in os.environ if name.startswith(("ACCELERATE_DYNAMO_", "ACCELERATE_MIXED_PRECISION"))]
    environment = {name: os.environ.pop(name) for name in names}
    for state in shared:
        state.clear()
    try:
        yield
    finally:
        for state, before in zip(shared, saved, strict=True):
            state.clear()
            state.update(before)
        os.environ.update(environment)


@contextmanager
def narrow_random(seed: int) -> Iterator[None]:
    """The random numbers of Python and numpy, which a new Trainer seeds, go on as before; torch's are kept by `run`."""
    state, numpy_state = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)


def _rehearsed_recipe(recipe: Recipe, settings: Settings, folder: str) -> Recipe:
    """The run's own arguments but for its length, its batch, its precision, and all that it writes and reports."""
    args = copy.copy(recipe.training)
    args.output_dir = folder
    args.max_steps, args.per_device_train_batch_size = STEPS, ROWS_AT_ONCE
    args.gradient_accumulation_steps = min(4, max(2, args.gradient_accumulation_steps))
    args.warmup_steps, args.lr_scheduler_kwargs = settings.warmup, settings.schedule_options
    args.eval_strategy = args.save_strategy = "no"
    args.logging_strategy, args.logging_steps, args.logging_first_step = "steps", 2, False
    args.eval_on_start = args.load_best_model_at_end = args.push_to_hub = args.resume = False
    args.resume_from_checkpoint = args.neftune_noise_alpha = None
    args.report_to, args.disable_tqdm, args.skip_guards, args.max_loss_spike = [], True, True, 0.0
    args.bf16 = args.fp16 = args.torch_compile = args.auto_find_batch_size = False
    args.mixed_precision, args.torch_compile_backend, args.torch_compile_mode = "no", None, None
    args.dataloader_num_workers, args.dataloader_persistent_workers, args.dataloader_prefetch_factor = 0, False, None
    rehearsed = copy.copy(recipe)
    rehearsed.training, rehearsed.values = args, dict(recipe.values)
    return rehearsed


def _some_rows(trainer: RecipeTrainer, number: int, rng: random.Random) -> list[torch.Tensor]:
    """Pieces of rows from anywhere in the data, each half as long as the one before."""
    vocabulary, pad = trainer.model.config.vocab_size, trainer.processing_class.pad_token_id
    length = min(trainer.recipe.data.block_size, 256, max(8, LOGITS // vocabulary))
    rows = []
    for i in range(number):
        ids = np.asarray(trainer.train_dataset[rng.randrange(len(trainer.train_dataset))]["input_ids"]).astype(np.int64)
        ids = ids[: max(2, int((ids != pad).sum()))]
        wanted = min(len(ids), max(2, length >> i))
        begin = rng.randrange(len(ids) - wanted + 1)
        rows.append(torch.from_numpy(ids[begin : begin + wanted]))
    return rows


def _targets(trainer: RecipeTrainer, rows: list[torch.Tensor]) -> Targets:
    tokenizer = trainer.processing_class
    return targets_of(
        rows, tokenizer.pad_token_id, tokenizer.bos_token_id if trainer.recipe.data.isolate_stories else None
    )


class Comparison(TrainerCallback):
    """Compares each step with a plain one; `problem` is the first thing that differs, in words."""

    def __init__(self, model: TinyStoriesForCausalLM, settings: Settings, targets: Targets):
        self.settings, self.targets = settings, targets
        self.rates = learning_rates(settings, STEPS)
        self.twin = stock_twin(model).cpu()
        self.fuses = model.config.rope_parameters["partial_rotary_factor"] != 1.0
        self.slack = 1.0 if model.device.type == "cpu" else ON_ACCELERATORS
        self.problem: str | None = None
        self.compares = True
        self.losses: list[float] = []
        self.furthest = {"losses": 0.0, "gradients": 0.0}  # relative differences so far
        self.trainer: RecipeTrainer
        self.updates: WeightsBefore | None = None

    def summary(self) -> str:
        first, last = self.losses[0], self.losses[-1]
        return (
            f"{len(self.losses)} steps of the Trainer on {self.targets.number} tokens equal plain ones: "
            f"loss {first:.3f} to {last:.3f}, "
            + ", ".join(f"{name} within {share:.0e}" for name, share in self.furthest.items())
        )

    def _found(self, step: int, problem: str | None) -> None:
        if problem is not None and self.problem is None:
            self.problem, self.compares = f"a rehearsal of the first steps: {problem} (step {step})", False

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        """The plain loss and its gradients at the weights that the step begins with."""
        if not self.compares:
            return
        self._found(state.global_step + 1, wrong_dtype(model))
        if self.updates is not None:
            self._found(state.global_step, self.updates.changed_since(model))
        weights = {name: w.detach().cpu().double().requires_grad_() for name, w in model.named_parameters()}
        self.logits = self._logits(weights)
        loss = self.targets.nats(self.logits) / self.targets.number
        gradients = torch.autograd.grad(loss, list(weights.values()))
        if self.losses and not loss.item() <= DIVERGED * self.losses[0]:
            self.compares = False
            return
        self.losses.append(loss.item())
        self.gradients = dict(zip(weights, gradients, strict=True))

    def _logits(self, weights: dict[str, torch.Tensor]) -> torch.Tensor:
        own = fuse_projections(weights) if self.fuses else weights
        return functional_call(self.twin, own, kwargs={"input_ids": self.targets.ids, "use_cache": False}).logits

    def on_pre_optimizer_step(self, args, state, control, model=None, optimizer=None, **kwargs):
        if not self.compares:
            return
        step = state.global_step + 1
        rates = None if self.rates is None else self.rates(state.global_step)
        for problem in (
            self._wrong_loss(),
            self._wrong_gradients(model),
            wrong_groups(model, optimizer, self.settings, rates),
        ):
            self._found(step, problem)
        self.updates = WeightsBefore(model, optimizer, self.settings, self.updates)

    def _wrong_loss(self) -> str | None:
        found, expected = self.trainer.progress()["recent_losses"][-1], self.losses[-1]
        if abs(found - expected) <= OF_LOSS * self.slack * (1 + expected):
            self.furthest["losses"] = max(self.furthest["losses"], abs(found - expected) / (1 + expected))
            return None
        return (
            f"the loss is {found:.5f}, and the sum over the tokens / the tokens of the whole step is {expected:.5f}"
            + _cause(found, self._other_losses())
        )

    @torch.no_grad()
    def _other_losses(self) -> dict[str, float]:
        """What the loss would be with one mistake or another."""
        logits, following, number = self.logits.detach(), self.targets.following, self.targets.number
        later = Targets(self.targets.ids[:, :-1], following[:, 1:])
        same = Targets(self.targets.ids, self.targets.ids.masked_fill(following == IGNORED, IGNORED))
        sums = {
            "the labels are shifted twice": later.nats(logits[:, :-1]).item(),
            "the labels are not shifted": same.nats(logits).item(),
        }
        counts = {number, later.number}
        losses = {f"{cause}": value / count for cause, value in sums.items() for count in counts}
        args = self.trainer.args
        for name, factor in (("accumulated batches", args.gradient_accumulation_steps), ("processes", args.world_size)):
            if factor > 1:
                losses[f"it is multiplied by the number of {name}"] = self.losses[-1] * factor
                losses[f"it is divided by the number of {name}"] = self.losses[-1] / factor
        return losses | self._losses_of_micro_batches(number)

    def _losses_of_micro_batches(self, number: int) -> dict[str, float]:
        means, last = [], 0.0
        for ids in self.trainer.step_rows:
            part = _targets(self.trainer, list(ids.cpu()))
            weights = {name: w.detach().cpu().double() for name, w in self.trainer.model.named_parameters()}
            own = fuse_projections(weights) if self.fuses else weights
            logits = functional_call(self.twin, own, kwargs={"input_ids": part.ids, "use_cache": False}).logits
            last = part.nats(logits).item()
            means.append(last / part.number)
        return {
            "it is a mean of the micro-batches' means": float(np.mean(means)),
            "it is a sum of the micro-batches' means": float(np.sum(means)),
            "only the last micro-batch counts": last / number,
            "it is a mean of the last micro-batch alone": means[-1],
        }

    def _wrong_gradients(self, model: nn.Module) -> str | None:
        """Compare the gradients, after clipping, and the norm that was reported, which is before it."""
        pairs = {}
        for name, weight in model.named_parameters():
            if weight.grad is None:
                return f"{name} has no gradient" + ("" if weight.requires_grad else ": it is frozen")
            pairs[name] = (weight.grad.cpu().double(), self.gradients[name])
        norm = _norm(expected for _, expected in pairs.values())
        factor, allowed = clipping_factor(norm, self.settings.max_grad_norm), OF_GRADIENTS * self.slack
        reported = self.trainer.throughput.last_step["grad_norm"]
        errors = {
            name: ((found / factor - expected).norm() / (expected.norm() + 1e-2 * norm)).item()
            for name, (found, expected) in pairs.items()
        }
        wrong = [name for name, error in errors.items() if not error <= allowed]
        if wrong:
            return self._gradients_in_words(pairs, wrong, norm, factor)
        if abs(reported - norm) > allowed * norm:
            return f"the reported norm of the gradients is {reported:.4g}, and that of the plain loss is {norm:.4g}"
        self.furthest["gradients"] = max(self.furthest["gradients"], *errors.values())
        return None

    def _gradients_in_words(
        self, pairs: dict[str, tuple[torch.Tensor, torch.Tensor]], wrong: list[str], norm: float, factor: float
    ) -> str:
        """The most likely reason: they are the right ones times a number, or some of them are others."""
        found = _norm(gradient for gradient, _ in pairs.values())
        product = sum((gradient * expected).sum().item() for gradient, expected in pairs.values())
        scale, is_scaled = product / norm**2, product > (1 - 1e-6) * found * norm
        if is_scaled and abs(scale - 1) < 1e-3:
            limit = self.settings.max_grad_norm
            return f"the gradients are not clipped: their norm is {found:.4g}, and max_grad_norm is {limit:g}"
        if is_scaled:
            return f"the gradients are {scale:.4g} times those of the loss, and clipping makes them {factor:.4g} times"
        gradient, expected = pairs[wrong[0]]
        share = ((gradient - factor * expected).norm() / (factor * expected.norm()).clamp(min=1e-300)).item()
        return (
            f"the gradients are not those of the loss: {len(wrong)} of {len(pairs)} differ, first {wrong[0]} by "
            f"{share:.2%} of its gradient (norm {gradient.norm():.4g}, plain {factor * expected.norm():.4g})"
        )

    def on_optimizer_step(self, args, state, control, model=None, optimizer=None, **kwargs):
        if self.compares and self.updates is not None:
            rates = None if self.rates is None else self.rates(state.global_step)
            self._found(state.global_step + 1, self.updates.wrong_update(model, rates))

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if self.compares:
            self._found(state.global_step, gradients_left(model))
        if not self.compares and args.world_size == 1:  # several processes must stop at the same step
            control.should_training_stop = True

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.compares and "loss" in logs and state.global_step:
            expected = float(np.mean(self.losses[-2:] if state.global_step % 2 == 0 else self.losses[-1:]))
            if abs(logs["loss"] - expected) > OF_LOSS * self.slack * (1 + expected):
                causes = {"it is a sum over the steps since the last log": 2 * expected}
                self._found(
                    state.global_step,
                    f"the logged loss is {logs['loss']:.5f}, and {expected:.5f} nats per token were measured"
                    + _cause(logs["loss"], causes),
                )
            rates = None if self.rates is None else self.rates(state.global_step - 1)
            if rates is not None and abs(logs["learning_rate"] - rates[0]) > 1e-6 * self.settings.rate:
                self._found(
                    state.global_step,
                    f"the logged learning rate is {logs['learning_rate']:.4g}, and {rates[0]:.4g} is the schedule's",
                )


def _norm(tensors: Iterable[torch.Tensor]) -> float:
    return torch.stack([tensor.norm() for tensor in tensors]).norm().item()


def _cause(found: float, others: dict[str, float]) -> str:
    """The mistakes that would give just this number, if some are known."""
    near = [cause for cause, value in others.items() if abs(found - value) <= 5 * OF_LOSS * (1 + abs(value))]
    return f": {' or '.join(near)}" if near else ""
