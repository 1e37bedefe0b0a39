"""The allowed range of each number of a recipe. transformers and torch report most violations late and some never.

A learning rate of -1 or a batch of 0 rows would be a traceback after the data has been prepared, `max_steps: 0` would
train three epochs, `save_total_limit: 0` would keep everything.
"""

import math
from numbers import Real
from typing import Any

from tinystories.errors import UserError


RANGES = (
    (
        "at least 1",
        lambda value: 1 <= value < math.inf,
        "hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads num_sample_stories "
        "max_train_samples max_eval_samples preprocessing_num_workers vocab_size min_frequency max_samples "
        "per_device_train_batch_size per_device_eval_batch_size gradient_accumulation_steps save_total_limit "
        "early_stopping_patience streaming_sample_stories streaming_lanes",
    ),
    ("at least 2", lambda value: value >= 2, "block_size"),
    ("-1 (num_train_epochs counts) or at least 1", lambda value: value == -1 or value >= 1, "max_steps"),
    (
        "above 0 and finite",
        lambda value: 0 < value < math.inf,
        "num_train_epochs eval_steps save_steps logging_steps rope_theta rms_norm_eps adam_epsilon watts_per_core",
    ),
    (
        "0 or more, and finite",
        lambda value: 0 <= value < math.inf,
        "muon_learning_rate train_eval_samples tokenizer_sample_stories max_loss_spike "
        "learning_rate weight_decay max_grad_norm warmup_steps initializer_range dataloader_num_workers eval_delay "
        "neftune_noise_alpha shuffle_buffer_size grid_intensity",
    ),
    (
        "from 0 to below 1",
        lambda value: 0 <= value < 1,
        "muon_momentum adam_beta1 adam_beta2 ema_decay label_smoothing_factor embd_pdrop resid_pdrop attention_dropout",
    ),
    ("between 0 and 1", lambda value: 0 < value < 1, "validation_fraction"),
    ("above 0 and at most 1", lambda value: 0 < value <= 1, "partial_rotary_factor"),
    ("from 0 to 4294967295", lambda value: 0 <= value < 2**32, "seed data_seed"),
)
RANGE_OF = {key: (words, is_allowed) for words, is_allowed, keys in RANGES for key in keys.split()}


def check_numbers(values: dict[str, Any]) -> None:
    """Keys that no range is named for may be anything that is finite, and None.

    Raises:
        UserError: naming the key, what it must be and what it is.
    """
    for key, value in values.items():
        words, is_allowed = RANGE_OF.get(key, ("finite", math.isfinite))
        if isinstance(value, Real) and not is_allowed(value):
            raise UserError(f"{key} must be {words}, got {value}")
