"""No token sees a later one, and all later ones see it: at full length, before the run and as the model is trained."""

import logging

import numpy as np
import torch
from transformers import TrainerCallback

from tinystories.errors import GuardError
from tinystories.random_state import keep_random_state
from tinystories.training.guards.batches import collate
from tinystories.training.guards.probe import TOLERANCE, Probe, change_token, relative_difference
from tinystories.training.recipe_trainer import RecipeTrainer


logger = logging.getLogger(__name__)

REACH = 1e-13  # relative: the least that a changed token must change, above the rounding of float64
ROUNDING_AS_TRAINED = 1e-6  # a row is rounded alike whatever comes after it, in half precision too
UNCOMPILED_ROWS = 4


@torch.no_grad()
def check_causality(probe: Probe) -> str:
    """Changing token t changes no logit before t and the one at t; changing token 0 changes all logits.

    Paths other than the plain one are compared with it in paths.py, token by token.
    """
    network, where = probe.network, f"row {probe.number}"
    t = int(probe.random.integers(1, probe.length))
    changed = change_token(probe.rows[0], t, network.config.vocab_size, probe.random)
    logits = network(input_ids=changed.unsqueeze(0), use_cache=False).logits[0]
    for place, others in ((t, logits), (0, probe.logits[1])):
        difference = relative_difference(others, probe.logits[0]).amax(-1)
        check_future(difference[:place], place, TOLERANCE, where)
        unreached = (difference[place:] <= REACH).nonzero().flatten()
        if len(unreached):
            raise GuardError(
                f"the model does not see its whole context: changing token {place} changes nothing at token "
                f"{place + int(unreached[0])} of {probe.length} ({where})",
                "correct the attention mask in modeling_tinystories.py",
            )
    return f"{where}: token {t} changes nothing before it and all after it, token 0 all {probe.length}"


def check_future(before: torch.Tensor, t: int, rounding: float, where: str) -> None:
    """before: (t,), how much the logits of the places before token `t` changed when that was changed."""
    if not (before <= rounding).all():
        first = int((before > rounding).nonzero()[0])
        raise GuardError(
            f"attention sees the future: changing token {t} changes what is predicted at token {first} "
            f"(by {before[first]:.1e} of the largest logit, {where}), so every score of this model is too good",
            "correct the attention mask in modeling_tinystories.py",
        )


def check_positions(batch: dict[str, torch.Tensor], bos_token_id: int) -> str:
    """With `isolate_stories` the positions of a batch restart at each BOS, and only there."""
    ids, positions = batch["input_ids"].tolist(), batch.get("position_ids")
    for number, row in enumerate(ids):
        position = -1
        for place, token in enumerate(row):
            position = 0 if token == bos_token_id else position + 1
            found = place if positions is None else int(positions[number, place])
            if found != position:
                raise GuardError(
                    f"with isolate_stories, token {place} of a row has position {found} and is number {position} of "
                    "its story: attention crosses between the stories of a row, or is cut inside one",
                    "restart position_ids at each BOS",
                )
    return f"position_ids restart at each BOS of {len(ids)} rows"


class CausalAsTrained(TrainerCallback):
    """After the first step: causality of the model that is trained, wrapped, compiled and in its precision.

    A batch of the very shape of training runs twice as in a step, in training mode and with the same dropout; the
    second time each row but the first has one token changed. This reuses what torch.compile made for the first step.
    It runs on every process, so that a failure ends all of them together.
    """

    def __init__(self, trainer: RecipeTrainer):
        self.trainer = trainer
        self.checked = False

    def on_step_end(self, args, state, control, **kwargs):
        if not self.checked:
            self.checked = True
            logger.info("guard passed: causality as trained: %s", check_causality_as_trained(self.trainer))


def check_causality_as_trained(trainer: RecipeTrainer) -> str:
    """See `CausalAsTrained`."""
    random = np.random.default_rng()
    number = trainer.args.train_batch_size
    if not trainer.args.torch_compile:
        number = min(number, UNCOMPILED_ROWS)
    numbers = random.choice(len(trainer.train_dataset), size=number, replace=number > len(trainer.train_dataset))
    batch = collate(trainer, [trainer.train_dataset[int(i)] for i in numbers])
    length, first = batch["input_ids"].shape[1], 1 if number > 1 else 0
    places = {row: int(random.integers(length)) for row in range(first, number)}
    changed = batch | {"input_ids": batch["input_ids"].clone()}
    for row, t in places.items():
        changed["input_ids"][row] = change_token(batch["input_ids"][row], t, trainer.model.config.vocab_size, random)
    before, after = _logits_as_trained(trainer, batch), _logits_as_trained(trainer, changed)
    difference = (after - before).abs().amax(-1) / before.abs().max()
    if not (difference[:first] <= ROUNDING_AS_TRAINED).all():
        raise GuardError(
            "what the model predicts in a row depends on the other rows of the batch", "correct modeling_tinystories.py"
        )
    for row, t in places.items():
        positions = batch["position_ids"][row] if "position_ids" in batch else None
        _check_row(difference[row], t, int(numbers[row]), positions)
    return f"{number} rows of {length} tokens"


def _logits_as_trained(trainer: RecipeTrainer, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Of a forward pass as in a step, gradients recorded, with the same dropout each time."""
    trainer.model_wrapped.train()
    targets = trainer._get_num_items_in_batch([batch], trainer.args.device)  # in the dtype that a step gives it
    with keep_random_state(trainer.args.device):
        torch.manual_seed(0)
        _, outputs = trainer.compute_loss(
            trainer.model_wrapped, dict(batch), return_outputs=True, num_items_in_batch=targets
        )
    return outputs.logits.detach().float()


def _check_row(difference: torch.Tensor, t: int, number: int, positions: torch.Tensor | None) -> None:
    """difference: (length,), of the logits of one row whose token `t` was changed."""
    where = f"row {number}, as it is trained"
    check_future(difference[:t], t, ROUNDING_AS_TRAINED, where)
    if not difference[t] > 0:
        raise GuardError(f"changing token {t} changes nothing that is predicted there ({where})")
    if positions is not None:  # document masking: the next story begins at the next position 0
        begins = (positions[t + 1 :] == 0).nonzero().flatten()
        end = t + 1 + int(begins[0]) if len(begins) else len(difference)
        crossed = (difference[end:] > ROUNDING_AS_TRAINED).nonzero().flatten()
        if len(crossed):
            raise GuardError(
                f"attention crosses between the stories of a row: changing token {t} changes what is predicted at "
                f"token {end + int(crossed[0])}, in another story ({where})",
                "correct the attention mask in modeling_tinystories.py",
            )
