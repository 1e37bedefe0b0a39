"""No token sees a later one, and all later ones see it: at full length, before the run and as the model is trained."""

import logging

import numpy as np
import torch
from transformers import TrainerCallback

from tinystories.errors import GuardError
from tinystories.random_state import keep_random_state
from tinystories.training.guards.batches import collate
from tinystories.training.guards.probe import TOLERANCE, Probe, change_tokens, must_run, relative_difference
from tinystories.training.recipe_trainer import RecipeTrainer


logger = logging.getLogger(__name__)

REACH = 1e-13  # relative: the least that a changed token must change, above the rounding of float64
ROUNDING_AS_TRAINED = 1e-6  # a row is rounded alike whatever comes after it, in half precision too
UNCOMPILED_ROWS = 4


@torch.no_grad()
def check_causality(probe: Probe) -> str:
    """Changing the tokens from t on changes no logit before t; changing token 0 changes all logits.

    Paths other than the plain one are compared with it in paths.py, token by token.
    """
    network, where = probe.network, f"row {probe.number}"
    t = int(probe.random.integers(1, probe.length))
    changed = change_tokens(probe.rows[0], t, probe.length, network.config.vocab_size, probe.random)
    with must_run("on a plain row"):
        logits = network(input_ids=changed.unsqueeze(0), use_cache=False).logits[0]
        difference = relative_difference(logits, probe.logits[0]).amax(-1)
    check_future(difference, t, TOLERANCE, where)
    unreached = (relative_difference(*probe.logits).amax(-1) <= REACH).nonzero().flatten()
    if len(unreached):
        raise GuardError(
            f"the model does not see its whole context: changing token 0 changes nothing at token {unreached[0]} of "
            f"{probe.length} ({where})",
            "correct the attention mask in modeling_tinystories.py",
        )
    return f"{where}: tokens from {t} on change nothing before it, and token 0 changes all {probe.length}"


def check_future(difference: torch.Tensor, t: int, rounding: float, where: str) -> None:
    """difference: (length,), how much the logits of each place changed when tokens from `t` on were changed."""
    seen = (difference[:t] > rounding).nonzero().flatten()
    if len(seen):
        raise GuardError(
            f"attention sees the future: changing the tokens from {t} on changes what is predicted at token {seen[0]} "
            f"(by {difference[seen[0]]:.1e} of the largest logit, {where}), so every score of this model is too good",
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
    second time, all rows but the first are changed from some place on. This reuses what torch.compile made for the
    first step. It runs on every process, so that a failure ends all of them together.
    """

    def __init__(self, trainer: RecipeTrainer):
        self.trainer = trainer
        self.checked = False

    def on_step_end(self, args, state, control, **kwargs):
        if not self.checked:
            self.checked = True
            logger.debug("guard passed: causality as trained: %s", check_causality_as_trained(self.trainer))


def check_causality_as_trained(trainer: RecipeTrainer) -> str:
    """See `CausalAsTrained`."""
    random = np.random.default_rng()
    number = trainer.args.train_batch_size
    if not trainer.args.torch_compile:
        number = min(number, UNCOMPILED_ROWS)
    numbers = random.choice(len(trainer.train_dataset), size=number, replace=number > len(trainer.train_dataset))
    batch = trainer.as_trained(collate(trainer, [trainer.train_dataset[int(i)] for i in numbers]))
    length, first = batch["input_ids"].shape[1], 1 if number > 1 else 0
    spread = (np.arange(number - first) + random.random(number - first)) / (number - first)
    places = dict(enumerate((spread * length).astype(int).tolist(), start=first))
    ends = {row: _end_of_story(batch, row, t) for row, t in places.items()}
    changed = batch | {"input_ids": batch["input_ids"].clone()}
    vocabulary = trainer.model.config.vocab_size
    for row, t in places.items():
        changed["input_ids"][row] = change_tokens(batch["input_ids"][row], t, ends[row], vocabulary, random)
    before, after = _states_as_trained(trainer, batch), _states_as_trained(trainer, changed)
    if not (before.isfinite().all() and after.isfinite().all() and before.any()):
        return "not checked: a step has spoilt the weights"  # which stops the run before its next one
    difference = (after - before).abs().amax(-1) / before.abs().max()
    if not (difference[:first] <= ROUNDING_AS_TRAINED).all():
        raise GuardError(
            "what the model predicts in a row depends on the other rows of the batch", "correct modeling_tinystories.py"
        )
    for row, t in places.items():
        _check_row(difference[row], t, ends[row], f"row {numbers[row]}, as it is trained")
    return f"{number} rows of {length} tokens"


def _end_of_story(batch: dict[str, torch.Tensor], row: int, t: int) -> int:
    """With document masking, where the next story begins: the next position 0. Else the end of the row."""
    length = batch["input_ids"].shape[1]
    if "position_ids" not in batch:
        return length
    begins = (batch["position_ids"][row, t + 1 :] == 0).nonzero().flatten()
    return t + 1 + int(begins[0]) if len(begins) else length


def _states_as_trained(trainer: RecipeTrainer, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The last hidden states of a forward pass as in a step, gradients recorded, with the same dropout each time.

    batch: as `trainer.as_trained` gives it. It has no logits; those of a token would be a product of its hidden state
    alone.
    """
    trainer.model_wrapped.train()
    targets = trainer._get_num_items_in_batch([batch], trainer.args.device)  # in the dtype that a step gives it
    with keep_random_state(trainer.args.device):
        torch.manual_seed(0)
        _, outputs = trainer.compute_loss(trainer.model_wrapped, batch, return_outputs=True, num_items_in_batch=targets)
    states = outputs.logits if outputs.hidden_states is None else outputs.hidden_states[-1]
    return states.detach().float()


def _check_row(difference: torch.Tensor, t: int, end: int, where: str) -> None:
    """difference: (length,), of the logits of one row whose tokens from `t` to `end` were changed."""
    check_future(difference, t, ROUNDING_AS_TRAINED, where)
    if not difference[t] > 0:
        raise GuardError(f"changing token {t} changes nothing that is predicted there ({where})")
    crossed = (difference[end:] > ROUNDING_AS_TRAINED).nonzero().flatten()
    if len(crossed):
        raise GuardError(
            f"attention crosses between the stories of a row: changing tokens {t} to {end} changes what is predicted "
            f"at token {end + int(crossed[0])}, in another story ({where})",
            "correct the attention mask in modeling_tinystories.py",
        )
