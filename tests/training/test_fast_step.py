"""The fast parts of a training step compute what the plain ones do: attention in blocks, the loss without logits."""

import math

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch import nn
from transformers import TrainerCallback

import modeling_tinystories
from benchmarks.recipe_runs import TokenizerOfSize
from configuration_tinystories import TinyStoriesConfig
from helpers.runs import TINY, as_options
from modeling_tinystories import BlockAttention, TinyStoriesForCausalLM, kept_by_dropout
from tinystories.checkpoint.stock import exact_network
from tinystories.config.recipe import read_recipe
from tinystories.data.packing import IGNORED, PackedRows
from tinystories.errors import GuardError
from tinystories.evaluation.scoring import ScoringRows
from tinystories.training.loss_spike import FEWEST, is_spike, went_wrong
from tinystories.training.trainer import StoryTrainer, with_rows, without_padding


SUMMATION_ORDER = 1e-10  # relative, in float64: what is left after a few steps of AdamW


def make_model(attention: str = "sdpa", **changes) -> TinyStoriesForCausalLM:
    sizes = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 300}
    torch.manual_seed(0)
    config = TinyStoriesConfig(**sizes | changes)
    return TinyStoriesForCausalLM._from_config(config, attn_implementation=attention).double().train()


def tokens(rows: int = 2, length: int = 40) -> torch.Tensor:
    return torch.randint(3, 61, (rows, length), generator=torch.Generator().manual_seed(1))


def gradients(model: nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    names, weights = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, weights), strict=True))


@pytest.mark.parametrize("length", [1, 2, 127, 128, 129, 300])
def test_attention_in_blocks(length):
    """Logits and gradients are those of plain attention, below, at and beyond the length of a block."""
    fast, plain, ids = make_model(), make_model("eager"), tokens(2, length)
    weight = torch.randn(2, length, 61, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    found, expected = fast(ids, use_cache=False).logits, plain(ids, use_cache=False).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(fast.eval()(ids).logits, expected, rtol=0, atol=1e-12)
    expected = gradients(plain, (expected * weight).sum())
    for name, gradient in gradients(fast, (found * weight).sum()).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-9, atol=1e-10, msg=name)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gradients_of_attention(dropout, monkeypatch):
    """By finite differences, with the same elements dropped each time, over three blocks of which one is short."""
    monkeypatch.setattr(modeling_tinystories, "BLOCK", 2)
    parts = [torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True) for _ in range(3)]

    def attend(*parts):
        torch.manual_seed(3)
        return BlockAttention.apply(*parts, 0.7, dropout)

    assert torch.autograd.gradcheck(attend, parts)


def test_dropout_drops_weights():
    """Each weight is dropped by itself or divided by the share that is kept; where attention may not look is zero."""
    length, dropout = 200, 0.1
    query, key = torch.randn(2, 8, length, 16, dtype=torch.float64)
    seen_by = torch.eye(length, dtype=torch.float64).expand(8, -1, -1)  # so that the output is the weights
    torch.manual_seed(4)
    weights = BlockAttention.apply(query, key, seen_by, 0.25, 0.0)
    kept = BlockAttention.apply(query, key, seen_by, 0.25, dropout)
    past = torch.ones(length, length, dtype=torch.bool).tril().expand_as(kept)
    dropped = (kept == 0) & past
    torch.testing.assert_close(kept[past & ~dropped], weights[past & ~dropped] / (1 - dropout), rtol=1e-9, atol=0)
    assert not kept[~past].any()
    number = int(past.sum())
    assert abs(int(dropped.sum()) - dropout * number) < 5 * math.sqrt(number * dropout * (1 - dropout))


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("dropout", [0.001, 0.1, 0.9])
def test_dropped_elements_are_independent(dropout, compiled):
    """The share is exact to five standard deviations, also of pairs: of two masks, and at any power of two apart."""
    mask = torch.compile(kept_by_dropout, backend="eager") if compiled else kept_by_dropout
    torch.manual_seed(5)
    shape, device = (64, 128, 128), torch.device("cpu")
    first, second = (~mask(shape, dropout, device) for _ in range(2))
    flat = first.flatten()
    pairs = [first & second, *(flat[1 << power :] & flat[: -(1 << power)] for power in range(20))]
    for pair, share in ((first, dropout), *((pair, dropout**2) for pair in pairs)):
        number = pair.numel()
        assert abs(int(pair.sum()) - share * number) < 5 * math.sqrt(number * share) + 1, number
    torch.manual_seed(5)
    assert torch.equal(~mask(shape, dropout, device), first), "the same with the same seed"


def test_evaluation_has_no_dropout():
    model, ids = make_model(attention_dropout=0.5), tokens()
    assert torch.equal(model.eval()(ids).logits, model(ids).logits)
    assert not torch.equal(model.train()(ids).logits, model(ids).logits)


@pytest.mark.parametrize(("rows", "length"), [(1, 2), (1, 9), (3, 41)])
@pytest.mark.parametrize("counted", [None, 7, torch.tensor(50)])
@pytest.mark.parametrize("tied", [True, False])
def test_loss_without_logits(rows, length, counted, tied):
    """Loss and gradients are those with logits, with fewer tokens than parts and numbers that they do not divide."""
    model, ids = make_model(tie_word_embeddings=tied), tokens(rows, length)
    labels = ids.clone()
    labels[0, : length // 2] = IGNORED
    arguments = {"labels": labels, "num_items_in_batch": counted, "use_cache": False}
    plain, alone = model(ids, **arguments), model(ids, **arguments, loss_only=True)
    assert alone.logits is None and alone.hidden_states[-1].shape == (rows, length, 32)
    torch.testing.assert_close(alone.loss.float(), plain.loss, rtol=1e-6, atol=0)  # transformers' is in float32
    expected = gradients(model, plain.loss)
    for name, gradient in gradients(model, alone.loss).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-7, msg=name)


def test_logits_where_the_head_is_replaced():
    """A head that is adapted or quantized is no plain product: it is run, and its logits are there."""
    model, ids = make_model(), tokens()
    model.lm_head = nn.Sequential(model.lm_head)
    output = model(ids, labels=ids, loss_only=True)
    assert output.logits is not None and output.loss is not None
    assert make_model()(ids, loss_only=True).logits is not None, "no labels, no loss"


def test_trained_weights_are_those_of_the_plain_step():
    """Twenty steps of AdamW in float64, with attention in blocks and without logits, beside transformers' own Llama."""
    fast = make_model(num_key_value_heads=4)
    plain = exact_network(fast.config, fast.state_dict()).train()
    optimizers = [torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True) for model in (fast, plain)]
    for step in range(20):
        ids = (tokens(3, 140) + step) % 61
        logits = plain(ids, use_cache=False).logits[:, :-1]
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        alone = fast(ids, labels=ids, loss_only=True, use_cache=False).loss
        torch.testing.assert_close(alone, loss, rtol=SUMMATION_ORDER, atol=0)
        for optimizer, one in zip(optimizers, (alone, loss), strict=True):
            optimizer.zero_grad()
            one.backward()
            optimizer.step()
    expected = dict(plain.named_parameters())
    for name, weight in fast.named_parameters():
        torch.testing.assert_close(weight, expected[name], rtol=1e-6, atol=1e-6, msg=name)


def test_last_batch_keeps_its_shape():
    """Rows without labels are added, and none to a batch that has them all."""
    ids = tokens(3, 8)
    batch = {"input_ids": ids, "labels": ids.clone(), "position_ids": torch.arange(8).expand(3, 8)}
    longer = with_rows(batch, 5)
    assert {name: tuple(tensor.shape) for name, tensor in longer.items()} == dict.fromkeys(batch, (5, 8))
    assert torch.equal(longer["labels"][:3], ids) and (longer["labels"][3:] == IGNORED).all()
    assert with_rows(batch, 3) is batch and with_rows(batch, 2) is batch
    model = make_model()
    losses = [model(**one, loss_only=True, num_items_in_batch=21, use_cache=False).loss for one in (batch, longer)]
    torch.testing.assert_close(*losses, rtol=1e-12, atol=0)


def test_padding_columns_are_left_out():
    """Those after the last label of all rows, and none between; the loss is the same."""
    ids = tokens(3, 8)
    labels = ids.clone()
    labels[:, 6:] = labels[1, 3:] = labels[2, :5] = IGNORED
    batch = {"input_ids": ids, "labels": labels, "position_ids": torch.arange(8).expand(3, 8)}
    shorter = without_padding(batch)
    assert {name: tensor.tolist() for name, tensor in shorter.items()} == {
        name: tensor[:, :6].tolist() for name, tensor in batch.items()
    }
    model = make_model()
    losses = [model(**one, loss_only=True, use_cache=False).loss for one in (batch, shorter)]
    torch.testing.assert_close(*losses, rtol=1e-12, atol=0)
    full = batch | {"labels": ids}
    assert torch.equal(without_padding(full)["labels"], ids)
    assert without_padding(batch | {"labels": torch.full_like(ids, IGNORED)})["input_ids"].shape == (3, 1)


class Numbers(TokenizerOfSize):
    def decode(self, ids: torch.Tensor) -> str:
        return " ".join(map(str, ids.tolist()))


class Deferred(TrainerCallback):
    """As on a GPU: the numbers of a step are read one step later. `spoilt`: a step whose loss is not a number."""

    def __init__(self, is_deferred: bool, spoilt: int | None = None):
        self.is_deferred, self.spoilt = is_deferred, spoilt
        self.weights: list[torch.Tensor] = []

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.trainer.loss_spike_guard.is_deferred = self.is_deferred
        model.model.norm.register_forward_hook(
            lambda module, inputs, output: output * math.nan if state.global_step == self.spoilt else output
        )

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        self.weights.append(nn.utils.parameters_to_vector(model.parameters()).detach().clone())


def trained(folder, callback: Deferred, **changes) -> StoryTrainer:
    options = TINY | {"output_dir": folder, "max_steps": 8, "eval_strategy": "no", "save_strategy": "no"}
    options |= {"load_best_model_at_end": False, "logging_steps": 3, "skip_guards": True, "use_cpu": True} | changes
    recipe = read_recipe(as_options(options))
    rows = Dataset.from_dict({"input_ids": tokens(40, 16).numpy().astype(np.uint16)}).with_format("numpy")
    nothing = ScoringRows([], 0, 0)
    trainer = StoryTrainer(
        make_model().float(), Numbers(61), recipe, PackedRows(rows, {}, ""), nothing, nothing, {}, [callback]
    )
    callback.trainer = trainer
    trainer.train()
    return trainer


def test_numbers_read_one_step_later(tmp_path):
    """They and the weights are those of a run that reads them at once; nothing is logged before they are read."""
    callbacks = Deferred(False), Deferred(True)
    now, later = (trained(tmp_path / str(i), one) for i, one in enumerate(callbacks))
    for name, weight in now.model.named_parameters():
        assert torch.equal(weight, later.model.get_parameter(name)), name
    assert list(now.loss_spike_guard.before) == list(later.loss_spike_guard.before)
    assert len(later.loss_spike_guard.before) == len(later.throughput.losses) == 8
    keys = ("step", "loss", "grad_norm", "num_input_tokens_seen")
    logs = [[[row.get(key) for key in keys] for row in one.state.log_history] for one in (now, later)]
    assert logs[0] == logs[1] and now.state.num_input_tokens_seen == 8 * 8 * 16


@pytest.mark.parametrize("spoilt", [0, 1, 2, 7])  # the first; before a log; just logged; the last
def test_bad_step_is_left_out_on_the_device(tmp_path, spoilt):
    """The run ends at the next step or log, names the bad step, and has the weights that this step began with."""
    callback = Deferred(True, spoilt)
    with pytest.raises(GuardError, match=f"the loss is not finite at step {spoilt + 1},"):
        trained(tmp_path, callback)
    assert len(callback.weights) in (spoilt + 1, spoilt + 2)
    after = nn.utils.parameters_to_vector(callback.trainer.model.parameters())
    assert torch.equal(after, callback.weights[spoilt])
    assert (tmp_path / f"stopped_at_step_{spoilt + 1}.jsonl").exists()


def test_device_and_host_find_the_same_spikes():
    """`went_wrong` is `is_spike`, whatever the losses before were."""
    random = np.random.default_rng(6)
    for number in (0, FEWEST - 1, FEWEST, FEWEST + 1, 100):
        before = random.normal(3, 0.2, number).tolist()
        for loss in (3.0, 4.9, 5.1, 9.0):
            for nats in (0, 2.0):
                both = torch.tensor([loss, 1.0])
                found = went_wrong(both, torch.tensor(before, dtype=torch.float64), nats)
                assert bool(found) == is_spike(both[0].item(), before, nats), (number, loss, nats)
    nothing = torch.empty(0, dtype=torch.float64)
    for both in ([math.nan, 1.0], [1.0, math.inf]):
        assert went_wrong(torch.tensor(both), nothing, 0)
