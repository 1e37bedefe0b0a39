"""The keys of a recipe and options of the command line, as fields of dataclasses: model, data, tokenizer, training.

Nothing heavy is imported here, so that a mistyped key is refused at once. `RunArguments`, which is built on
transformers' `TrainingArguments` and so on torch, is in arguments.py.
"""

from dataclasses import dataclass, field, fields
from typing import Any


@dataclass
class ModelArguments:
    """The network. The context is `block_size`, the vocabulary is the tokenizer's."""

    _argument_group_name = "model"  # heading in --help

    model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "Train this checkpoint further (a folder or Hub id), with its tokenizer."},
    )
    model_revision: str | None = field(default=None, metadata={"help": "Its branch, tag or commit on the Hub."})
    hidden_size: int = field(default=448, metadata={"help": "Width of the residual stream."})
    intermediate_size: int = field(default=1536, metadata={"help": "Inner width of the SwiGLU feed-forward block."})
    num_hidden_layers: int = field(default=7, metadata={"help": "Number of decoder layers."})
    num_attention_heads: int = field(default=7, metadata={"help": "Query heads; must divide hidden_size."})
    num_key_value_heads: int | None = field(
        default=None, metadata={"help": "Key/value heads (default: num_attention_heads)."}
    )
    partial_rotary_factor: float = field(
        default=1.0, metadata={"help": "Share of the dimensions of each head that RoPE rotates."}
    )
    rope_theta: float = field(default=10000.0, metadata={"help": "Base of the RoPE frequencies."})
    rms_norm_eps: float = field(default=1e-6, metadata={"help": "Epsilon of the RMS norms."})
    initializer_range: float = field(default=0.02, metadata={"help": "Standard deviation of the fresh weights."})
    tie_word_embeddings: bool = field(default=True, metadata={"help": "Share the embedding with the output layer."})
    embd_pdrop: float = field(default=0.0, metadata={"help": "Dropout on the embeddings."})
    resid_pdrop: float = field(default=0.0, metadata={"help": "Dropout on what each block adds."})
    attention_dropout: float = field(default=0.0, metadata={"help": "Dropout on the attention weights."})
    attn_implementation: str = field(default="sdpa", metadata={"help": "sdpa, eager, flex_attention, ..."})
    residual_init: str = field(
        default="normal",
        metadata={
            "help": "Initial weights of the two projections that add to the residual stream: like all weights, zero, "
            "or with their standard deviation divided by sqrt(2 x layers).",
            "choices": ["normal", "zero", "depth_scaled"],
        },
    )


@dataclass
class DataArguments:
    """Where the stories come from. Exactly one of train_file, dataset_name, num_sample_stories."""

    _argument_group_name = "data"  # heading in --help

    train_file: str | None = field(
        default=None, metadata={"help": "A .txt, .jsonl, .csv, .tsv or .parquet file, or a folder of them."}
    )
    validation_file: str | None = field(
        default=None, metadata={"help": "The same for validation (default: validation_fraction of the training data)."}
    )
    dataset_name: str | None = field(default=None, metadata={"help": "A dataset on the Hub: roneneldan/TinyStories."})
    dataset_revision: str | None = field(default=None, metadata={"help": "Its branch, tag or commit on the Hub."})
    dataset_config_name: str | None = field(default=None, metadata={"help": "Its configuration, if it has several."})
    train_split_name: str = field(default="train", metadata={"help": "Its split to train on."})
    validation_split_name: str | None = field(
        default=None, metadata={"help": "Its split to validate on (default: 'validation' where it has one)."}
    )
    num_sample_stories: int | None = field(
        default=None, metadata={"help": "Use this many stories of the embedded sample corpus; no file, no download."}
    )
    text_column: str = field(default="text", metadata={"help": "The field with the story (jsonl, csv, tsv, parquet)."})
    story_separator: str = field(
        default="auto",
        metadata={
            "help": "What ends a story in a .txt file. endoftext: <|endoftext|>; blank_line: one or more; "
            "two_blank_lines: two or more, one is between paragraphs; line: each line is a story; file: each file is; "
            "any other text ends a story itself: in <> or [], such as </s>, wherever it stands, else where it is a "
            "whole line, such as ***; auto: endoftext where the file has one, else blank_line if nothing speaks "
            "against it."
        },
    )
    on_bad_row: str = field(
        default="error",
        metadata={"help": "A row that cannot be read: stop, or skip it and count.", "choices": ["error", "skip"]},
    )
    validation_fraction: float = field(
        default=0.05, metadata={"help": "Share of the distinct stories held out when no validation data is named."}
    )
    split_seed: int = field(default=0, metadata={"help": "Seed for the choice of held-out stories."})
    remove_overlap: bool = field(
        default=False,
        metadata={
            "help": "Drop training stories that are also in the validation data, near-copies too, and count them."
        },
    )
    max_train_samples: int | None = field(
        default=None, metadata={"help": "Train on at most this many stories, the first."}
    )
    streaming: bool = field(
        default=False,
        metadata={"help": "Read the shards of dataset_name or train_file while training; needs max_steps."},
    )
    streaming_sample_stories: int = field(
        default=20_000,
        metadata={"help": "First stories of a stream, for the tokenizer, the guards and what is held out."},
    )
    streaming_lanes: int = field(
        default=8,
        metadata={
            "help": "Shards of a stream that are read side by side; a multiple of processes x data workers lets each "
            "read only its own."
        },
    )
    shuffle_buffer_size: int = field(
        default=10_000,
        metadata={"help": "Stories of a lane that are shuffled together, shards too; 0: in the order of the files."},
    )
    max_eval_samples: int | None = field(
        default=None, metadata={"help": "Stories scored at each evaluation (the final one scores all of them)."}
    )
    train_eval_samples: int = field(
        default=200,
        metadata={"help": "Training stories also scored at each evaluation, at most as many as the others; 0: none."},
    )
    block_size: int = field(default=512, metadata={"help": "Tokens in a training row; the context of the model."})
    align_to_stories: bool = field(
        default=False,
        metadata={"help": "Begin every row with a story and pad the rest (first-fit packing), instead of one stream."},
    )
    reshuffle_stories: bool = field(
        default=False,
        metadata={"help": "Put the stories into another order in each epoch before they are packed, not rows alone."},
    )
    isolate_stories: bool = field(default=False, metadata={"help": "Mask attention between the stories of a row."})
    preprocessing_num_workers: int | None = field(
        default=None, metadata={"help": "Threads that tokenize (default: one for each core)."}
    )
    data_cache_dir: str | None = field(
        default=None, metadata={"help": "Where tokenized data is kept (default: in the datasets cache)."}
    )


@dataclass(frozen=True)
class ReadingArguments:
    """How a file of stories is read that a command beside training names; None: as the run has read its own files."""

    text_column: str | None = field(
        default=None, metadata={"help": "The field with the story (default: that of the run)."}
    )
    story_separator: str | None = field(
        default=None, metadata={"help": "What ends a story in a .txt file, as in training (default: that of the run)."}
    )
    on_bad_row: str | None = field(
        default=None,
        metadata={"help": "A row that cannot be read: stop, or skip it and count.", "choices": ["error", "skip"]},
    )


@dataclass
class TokenizerArguments:
    """The tokenizer: one that exists, or how to train one on the training stories."""

    _argument_group_name = "tokenizer"  # heading in --help

    tokenizer_name: str | None = field(default=None, metadata={"help": "A folder or Hub id (default: train one)."})
    tokenizer_revision: str | None = field(default=None, metadata={"help": "Its branch, tag or commit on the Hub."})
    vocab_size: int = field(default=10000, metadata={"help": "Vocabulary of a tokenizer trained here."})
    min_frequency: int = field(default=2, metadata={"help": "Merge a pair of tokens if it occurs at least this often."})
    max_samples: int | None = field(
        default=None, metadata={"help": "Train the tokenizer on at most this many stories, the first."}
    )
    tokenizer_sample_stories: int = field(
        default=50_000,
        metadata={
            "help": "Of more stories than that, train the tokenizer on this many, drawn with a fixed seed from all of "
            "them; 0: train on all."
        },
    )


@dataclass
class QualityArguments:
    """`check --data`: which text is looked at, what counts as a problem, and where a clean copy goes."""

    data: str = field(
        metadata={"help": "A .txt, .jsonl, .csv, .tsv or .parquet file, a folder of them, or a Hub dataset."}
    )
    clean: str | None = field(
        default=None, metadata={"help": "Write a clean copy to this .jsonl or .txt file, which must not exist."}
    )
    min_characters: int = field(default=20, metadata={"help": "A story with fewer characters is too short."})
    max_characters: int = field(default=20000, metadata={"help": "A story with more characters is too long."})


@dataclass
class TrainingDefaults:
    """The training keys that this project adds to `TrainingArguments`, or whose default it changes.

    `RunArguments` (arguments.py) is both together.
    """

    _argument_group_name = "training"

    output_dir: str = field(default="runs/model", metadata={"help": "The run folder; a checkpoint when the run ends."})
    overwrite_output_dir: bool = field(default=False, metadata={"help": "Replace an earlier run in output_dir."})
    resume: bool = field(
        default=False,
        metadata={"help": "Resume the run in output_dir at its last checkpoint; start it if there is none."},
    )
    save_total_limit: int | None = field(
        default=None,
        metadata={"help": "Checkpoints kept: the best, the last, and the others spread evenly over log(steps)."},
    )
    save_log_spaced: bool = field(
        default=False, metadata={"help": "Also save at steps 1, 2, 4, 8, ... before the first save of save_strategy."}
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={"help": "Stop after this many evaluations in a row without a better metric_for_best_model."},
    )
    restore_callback_states_from_checkpoint: bool = field(
        default=True, metadata={"help": "A resumed run keeps its early-stopping count."}
    )
    bf16: bool | None = field(
        default=None,
        metadata={"help": "bf16 autocast (default: where the device is fast at it)."},
    )
    optimizer: str = field(
        default="adamw",
        metadata={
            "help": "adamw, by optim, for all weights; or muon for the matrices of the layers and adamw for the rest.",
            "choices": ["adamw", "muon"],
        },
    )
    muon_learning_rate: float | None = field(
        default=None,
        metadata={"help": "Peak learning rate of Muon (default: learning_rate, which is then that of AdamW only)."},
    )
    muon_momentum: float = field(default=0.95, metadata={"help": "Momentum of Muon; lower for runs of few steps."})
    muon_normalization: str = field(
        default="none",
        metadata={
            "help": "Bring the rows of an update of Muon to one size: before its iteration (MuonEq) or after it "
            "(NorMuon).",
            "choices": ["none", "before", "after"],
        },
    )
    muon_cautious_decay: bool = field(
        default=False, metadata={"help": "Of Muon's weights, decay only those that the step makes smaller."}
    )
    ema_decay: float = field(
        default=0.0,
        metadata={
            "help": "Score and save an exponential moving average of the weights, of which this share stays in each "
            "step (0.998); 0: the weights as they are."
        },
    )
    adam_beta2: float = field(default=0.95, metadata={"help": "Beta2 of AdamW."})
    weight_decay: float = field(default=0.1, metadata={"help": "Weight decay, on matrices only."})
    include_num_input_tokens_seen: str = field(
        default="non_padding", metadata={"help": "Which training tokens are counted: non_padding, all, no."}
    )
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Must stay off: the collator chooses the columns."}
    )
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Hide NaN losses in the log."})
    hub_private_repo: bool | None = field(
        default=True, metadata={"help": "With push_to_hub: whether a repository that is created is private."}
    )
    hub_strategy: str = field(
        default="end",
        metadata={"help": "Publish the finished run (end), or each checkpoint too (every_save)."},
    )
    ddp_find_unused_parameters: bool = field(
        default=False, metadata={"help": "Search each step for weights without a gradient (this model has none)."}
    )
    skip_guards: bool = field(
        default=False, metadata={"help": "Train without the guards against mistakes that show no other sign."}
    )
    max_loss_spike: float = field(
        default=3.0,
        metadata={"help": "Stop at a loss this many nats above the median of the last 100 steps; 0: never."},
    )
    model_license: str | None = field(
        default=None, metadata={"help": "Licence of the weights, for the model card, such as mit or cc-by-4.0."}
    )
    data_license: str | None = field(
        default=None, metadata={"help": "Licence of the training stories, for the model card."}
    )
    language: str | None = field(
        default=None,
        metadata={"help": "Language of the stories, for the model card: en, or more codes of ISO 639 with commas."},
    )
    source_dataset: str | None = field(
        default=None,
        metadata={"help": "Dataset on the Hub that train_file is a copy of, for the model card: USER/NAME."},
    )
    watts_per_core: float = field(
        default=10.0,
        metadata={"help": "Power of a busy processor core, by which energy is estimated that no meter shows."},
    )
    grid_intensity: float | None = field(
        default=None,
        metadata={"help": "Grams of CO2 equivalent for a kWh of your electricity, for the model card (default: none)."},
    )
    sample_prompts: list[str] = field(
        default_factory=lambda: ["Once upon a time"],
        metadata={"help": "Prompts that are continued in the log at each evaluation."},
    )


def model_fields(arguments: ModelArguments) -> dict[str, Any]:
    """The keyword arguments of `TinyStoriesConfig` that a recipe sets."""
    names = [item.name for item in fields(arguments) if not item.name.startswith(("model_", "residual_init"))]
    return {name: getattr(arguments, name) for name in names}
