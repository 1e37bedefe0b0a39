"""`training_flops` of a run is what its rows cost, counted by hand."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from datasets import Dataset
from torch.utils.flop_counter import FlopCounterMode

from configuration_tinystories import TinyStoriesConfig
from helpers.runs import TINY, as_options
from modeling_tinystories import TinyStoriesForCausalLM
from tinystories.config.recipe import read_recipe
from tinystories.data.packing import PackedRows
from tinystories.evaluation.scoring import ScoringRows
from tinystories.training.trainer import StoryTrainer


OF_MATRICES = 6 * (2 * (64 * 64 + 2 * 64 * 32 + 64 * 64 + 3 * 64 * 96) + 61 * 64)  # q, k and v, o, MLP; output layer
OF_ATTENTION = 6 * 2 * (4 * 16)  # for each token of the row: layers x width of all heads


class Tokenizer(SimpleNamespace):
    def __len__(self):
        return 61


def trainer_of(folder, rows: int, length: int, **changes) -> StoryTrainer:
    """A model with two layers, four heads that share two pairs of keys and values, and a tied output layer."""
    options = TINY | {"output_dir": folder, "eval_strategy": "no", "save_strategy": "no", "use_cpu": True}
    options |= {"load_best_model_at_end": False, "logging_steps": 3, "skip_guards": True} | changes
    recipe = read_recipe(as_options(options))
    config = TinyStoriesConfig(
        vocab_size=61, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=64,
    )  # fmt: skip
    ids = np.random.default_rng(0).integers(3, 61, (rows, length)).astype(np.uint16)
    packed = PackedRows(Dataset.from_dict({"input_ids": ids}).with_format("numpy"), {}, "")
    tokenizer = Tokenizer(pad_token_id=0, bos_token_id=1, eos_token_id=2)
    nothing = ScoringRows([], 0, 0)
    return StoryTrainer(TinyStoriesForCausalLM(config), tokenizer, recipe, packed, nothing, nothing, {})


@pytest.mark.parametrize(
    ("changes", "rows"),
    [
        ({}, [8, 8, 5, 8]),
        ({"gradient_accumulation_steps": 2, "max_steps": 3}, [8, 8, 5, 8, 8]),
        ({"dataloader_drop_last": True}, [8, 8, 8, 8]),
    ],
)
def test_count_by_hand(changes, rows, tmp_path):
    """21 rows in batches of 8, and one more epoch begun: the last batch counts as it is."""
    trainer = trainer_of(tmp_path, 21, 24, **({"max_steps": 4} | changes))
    trainer.train()
    assert trainer.flops.total == sum(rows) * 24 * (OF_MATRICES + OF_ATTENTION * 24)
    assert trainer.state.log_history[-1]["training_flops"] == trainer.flops.total


def test_filled_batch(tmp_path):
    """A compiled model computes the rows without labels too that fill up a batch."""
    trainer = trainer_of(tmp_path, 21, 24, max_steps=3)
    trainer.args.torch_compile = True  # the batches are those of a compiled model; nothing is compiled any more
    trainer.train()
    assert trainer.flops.total == 24 * 24 * (OF_MATRICES + OF_ATTENTION * 24)


def test_as_torch_counts(tmp_path):
    """Without the half of the attention that the causal mask hides; padding costs as much as text."""
    trainer = trainer_of(tmp_path, 8, 32)
    trainer.model.set_attn_implementation("eager")
    batch = trainer.data_collator([{"input_ids": [1, 5, 6]}, {"input_ids": list(range(3, 35))}])
    with FlopCounterMode(display=False) as counter:
        trainer.model(**batch).loss.backward()
    trainer.flops.add(*batch["input_ids"].shape)
    trainer.flops.gather(trainer.accelerator)
    assert trainer.flops.total == 64 * (OF_MATRICES + OF_ATTENTION * 32)
    assert counter.get_total_flops() == trainer.flops.total + 64 * OF_ATTENTION * 32


def test_rows_of_unequal_length(tmp_path):
    """Attention grows with the length of the row."""
    trainer = trainer_of(tmp_path, 8, 32)
    for rows, length in ((8, 16), (4, 64)):
        trainer.flops.add(rows, length)
    trainer.flops.gather(trainer.accelerator)
    assert trainer.flops.total == 384 * OF_MATRICES + (8 * 16**2 + 4 * 64**2) * OF_ATTENTION


def test_unknown_session(tmp_path):
    """After a checkpoint that did not count, the number would be too small: there is none."""
    trainer = trainer_of(tmp_path, 8, 16)
    trainer.flops.earlier = None
    trainer.flops.restart()
    trainer.flops.add(8, 16)
    trainer.flops.gather(trainer.accelerator)
    assert trainer.flops.total is None and trainer.flops.state() is None


@pytest.mark.slow
def test_finished_run(counting_run):
    """In the results, in each evaluation and in the card; 100 steps in epochs whose last batch is not full."""
    results, report, config = (
        json.loads((counting_run / f"{name}.json").read_text()) for name in ("all_results", "data_report", "config")
    )
    epochs, more = divmod(100, -(-report["packing"]["rows"] // 8))
    rows = epochs * report["packing"]["rows"] + 8 * more
    matrices = 2 * (4 * 64 * 64 + 3 * 64 * 128) + config["vocab_size"] * 64
    assert report["packing"]["rows"] % 8 and results["training_flops"] == rows * 64 * 6 * (matrices + 2 * 64 * 64)
    evaluations = [json.loads(line) for line in (counting_run / "evaluations.jsonl").read_text().splitlines()]
    assert evaluations[-1]["step"] == 100 and evaluations[-1]["training_flops"] == results["training_flops"]
    assert f"{results['training_flops']:.2e} floating-point operations" in (counting_run / "README.md").read_text()
