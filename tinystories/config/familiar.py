"""What people type who come from other programs, and what to write here instead: the one table of both.

The names here are those of transformers. Another name for the same thing is an error that gives the right one with the
value that means the same, rather than a second spelling that documents, recipes and records would have to know.
advice.py finds these names in a command line or a recipe; docs/coming_from.md is written from this table.
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field


RUN_GENERATION = "run_generation.py of transformers"
RUN_CLM, V4, TRL = "run_clm.py", "TrainingArguments of v4", "trl"
NANOGPT, NANOCHAT, LLAMA2C, LITGPT, TORCHTUNE = "nanoGPT", "nanochat", "llama2.c", "litgpt", "torchtune"
LLAMA_CPP, VLLM, TGI, OLLAMA, LM_EVAL = "llama.cpp", "vLLM", "text-generation-inference", "ollama", "lm-eval"
OPENAI, GENERATE, PYTORCH, ACCELERATE = "OpenAI", "generate() of transformers", "PyTorch", "accelerate"
AXOLOTL, UNSLOTH, MANY = "axolotl", "unsloth", "many scripts"

VALUE = "VALUE"  # stands for the value of an option that was typed without one
PERCENT = 100
ON, OFF = ("", "true", "yes", "1"), ("false", "no", "0")
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
DATA_SUFFIXES = (".txt", ".json", ".jsonl", ".csv", ".tsv", ".parquet")


@dataclass(frozen=True)
class Answer:
    """keys: what to write in its place, key and value. place: the value is written without a key, as this argument.
    say: a sentence, in addition or instead."""

    keys: dict[str, str] = field(default_factory=dict)
    place: str | None = None
    say: str = ""


@dataclass(frozen=True)
class Familiar:
    """typed: names with the same answer, separated by spaces. of: programs that call it so. write: the key here, which
    takes the same value, or what gives the answer for a value. example: a value, for the document and the tests."""

    typed: str
    of: str
    write: str | Answer | Callable[[str], Answer]
    example: str = ""

    @property
    def names(self) -> list[str]:
        return self.typed.split()

    def answer(self, value: str) -> Answer:
        """For `value`, "" where none was typed."""
        if isinstance(self.write, Answer):
            return self.write
        if isinstance(self.write, str):
            return Answer(dict.fromkeys(self.write.split(), value or VALUE))
        return self.write(value)


def leave_out(reason: str) -> Answer:
    return Answer(say=f"leave it out: {reason}")


def as_argument(place: str) -> Callable[[str], Answer]:
    return lambda value: Answer({place: value or VALUE}, place)


def switch(key: str) -> Callable[[str], Answer]:
    """A key that is on or off."""
    return lambda value: Answer({key: "no" if value.lower() in OFF else "true"})


def _number(value: str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None


def _percentage(value: str) -> Answer:
    number = _number(value)
    if number is None or not 0 < number < PERCENT:
        return Answer(say="validation_fraction is a share above 0 and below 1: --validation_fraction 0.05")
    return Answer({"validation_fraction": f"{number / PERCENT:.12g}"}, say="a share, not a percentage")


def _share_or_split(value: str) -> Answer:
    number = _number(value)
    if number is None:
        return Answer({"validation_split_name": value or VALUE})
    if 0 < number < 1:
        return Answer({"validation_fraction": value})
    return Answer(say="validation_fraction is a share above 0 and below 1, not a number of stories")


def _warmup_share(value: str) -> Answer:
    number = _number(value)
    if number is None or not 0 <= number < 1:
        return Answer(say="warmup_steps is a share of all steps where it is below 1, else a number of steps")
    return Answer({"warmup_steps": value}, say="below 1 it is a share of all steps")


def _precision(value: str) -> Answer:
    kind = value.lower().removeprefix("torch.").removesuffix("-mixed").removesuffix("-true")
    if kind in ("bfloat16", "bf16"):
        return Answer({"bf16": "true"})
    if kind in ("float16", "fp16", "half", "16"):
        return Answer({"fp16": "true"})
    if kind in ("float32", "fp32", "float", "32", *OFF):
        return Answer({"bf16": "no"})
    return leave_out("bf16 is used where the device is fast at it (--bf16 true or no decides)")


def _data(value: str) -> Answer:
    if os.path.exists(value) or value.lower().endswith(DATA_SUFFIXES) or value.startswith((".", "/", "~")):
        return Answer({"train_file": value})
    if HUB_ID.fullmatch(value):
        return Answer({"dataset_name": value})
    return Answer(say="write --train_file for a file or folder of stories, --dataset_name for a dataset on the Hub")


def _hub_data(value: str) -> Answer:
    answer = _data(value)
    return answer if answer.keys else Answer({"dataset_name": value or VALUE})


def _begin_from(value: str) -> Answer:
    if value == "scratch":
        return leave_out("a run begins with fresh weights unless model_name_or_path names a checkpoint")
    return Answer({"resume": "true"} if value == "resume" else {"model_name_or_path": value or VALUE})


def _decay(value: str) -> Answer:
    return Answer({"lr_scheduler_type": "constant_with_warmup" if value.lower() in OFF else "cosine"})


def _least_rate(value: str) -> Answer:
    kwargs = f'{{"min_lr": {value}}}' if _number(value) is not None else '{"min_lr": 5e-5}'
    return Answer({"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": kwargs})


def _device(value: str) -> Answer:
    return Answer({"use_cpu": "true"}) if value == "cpu" else leave_out("an accelerator is used where there is one")


def _no_accelerator(value: str) -> Answer:
    return leave_out("an accelerator is used where there is one") if value.lower() in OFF else _device("cpu")


def _tracker(value: str) -> Answer:
    return Answer({"report_to": "none" if value.lower() in OFF else "wandb"})


def _interval(value: str) -> Answer:
    keys = {"eval_steps": value or VALUE, "save_steps": value or VALUE}
    return Answer(keys, say="with eval_strategy and save_strategy steps")


def _on_one_device(value: str) -> Answer:
    keys = {"per_device_train_batch_size": value or VALUE, "gradient_accumulation_steps": "1"}
    return Answer(keys, say="on one device; their product with the number of devices is the batch of a step")


def _visible(value: str) -> Answer:
    return Answer({"public": ""}) if value.lower() in OFF else leave_out("a repository is private without --public")


def _sampled(value: str) -> Answer:
    return Answer({"greedy": ""}) if value.lower() in OFF else leave_out("it samples unless --greedy is given")


def _address(value: str) -> Answer:
    if value.isdecimal():
        return Answer({"port": value})
    host, separator, port = value.rpartition(":")
    if separator and port.isdecimal() and not host.endswith(":"):
        return Answer({"host": host.strip("[]") or "0.0.0.0", "port": port})
    return Answer({"host": value or "0.0.0.0"})


def _top_p_or_prompt(value: str) -> Answer:
    return Answer({"top_p": value}) if _number(value) is not None else _prompt(value)


def _prompt(value: str) -> Answer:
    if value.startswith("FILE:"):
        return Answer(say=f"a story for each line of a file: leave it out, and add < {value.removeprefix('FILE:')}")
    return as_argument("prompt")(value) if value else Answer(say="the prompt is written without a key, last")


def _interactive_or_prompt(value: str) -> Answer:
    return _prompt(value) if value else leave_out("without a prompt a session begins, as with tinystories chat")


def _most_tokens(value: str) -> Answer:
    if value.startswith("-"):  # of llama.cpp
        return Answer({"max_new_tokens": "1000000"}, say="a story ends at the end of the context at the latest")
    return Answer({"max_new_tokens": value or VALUE})


def _seed(value: str) -> Answer:
    return (
        leave_out("without it a random seed is drawn, and shown")
        if value.startswith("-")
        else Answer({"seed": value or VALUE})
    )


def _temperature_or_threads(value: str) -> Answer:
    return (
        leave_out("OMP_NUM_THREADS in the environment sets the threads")
        if value.isdecimal()
        else Answer({"temperature": value or VALUE})
    )


def _evaluated(value: str) -> Answer:
    if value in ("hf", "vllm", "local-completions"):  # of lm-eval
        return leave_out("a checkpoint is opened as what it is")
    return as_argument("checkpoint")(value)


def _model_arguments(value: str) -> Answer:
    named = re.search(r"\bpretrained=([^,]+)", value)
    return as_argument("checkpoint")(named[1]) if named else leave_out("the checkpoint is named without a key")


_MODEL = "model model_name model_path model_name_or_path checkpoint checkpoint_path checkpoint_dir ckpt ckpt_path"
_MODEL += " from_pretrained pretrained pretrained_model_name_or_path base_model hf_path"
_OUT = "out_dir outdir out output output_path save_dir save_path outfile o"
_TOKEN = Answer(say="leave it out: log in once with hf auth login, or set HF_TOKEN in the environment")

_WORDS_OF_A_RUN = (
    Familiar("lr peak_lr max_lr", f"{TORCHTUNE}, {MANY}", "learning_rate", "1e-3"),
    Familiar("epochs epoch num_epochs n_epochs max_epochs", f"{LITGPT}, {TORCHTUNE}", "num_train_epochs", "3"),
    Familiar(
        "max_iters num_iterations max_train_steps num_training_steps train_steps total_steps num_steps iterations",
        f"{NANOGPT}, {LLAMA2C}, {NANOCHAT}",
        "max_steps",
        "5000",
    ),
    Familiar(
        "batch_size bs micro_batch_size device_batch_size train_batch_size per_gpu_train_batch_size mini_batch_size",
        f"{NANOGPT}, {LLAMA2C}, {LITGPT}, {NANOCHAT}, {TORCHTUNE}",
        "per_device_train_batch_size",
        "64",
    ),
    Familiar("global_batch_size effective_batch_size", LITGPT, _on_one_device, "64"),
    Familiar(
        "max_tokens token_budget",
        LITGPT,
        Answer(
            say="max_steps is this number divided by per_device_train_batch_size x gradient_accumulation_steps x "
            "devices x block_size"
        ),
        "1000000",
    ),
    Familiar(
        "total_batch_size tokens_per_step",
        NANOCHAT,
        Answer(
            say="the tokens of a step are per_device_train_batch_size x gradient_accumulation_steps x devices x "
            "block_size"
        ),
        "524288",
    ),
    Familiar("eval_batch_size per_gpu_eval_batch_size val_batch_size", V4, "per_device_eval_batch_size", "32"),
    Familiar(
        "grad_accum grad_accum_steps grad_acc_steps gradient_accumulation accumulation_steps accumulate_grad_batches "
        "gradient_accumulation_iters",
        MANY,
        "gradient_accumulation_steps",
        "8",
    ),
    Familiar("warmup warmup_iters lr_warmup_steps num_warmup_steps", f"{NANOGPT}, {LITGPT}", "warmup_steps", "100"),
    Familiar("warmup_ratio lr_warmup_fraction warmup_fraction", f"{V4}, {LITGPT}", _warmup_share, "0.1"),
    Familiar("min_lr", f"{NANOGPT}, {LITGPT}", _least_rate, "6e-5"),
    Familiar("lr_scheduler scheduler scheduler_type lr_schedule", MANY, "lr_scheduler_type", "cosine"),
    Familiar("decay_lr", f"{NANOGPT}, {LLAMA2C}", _decay, "False"),
    Familiar("lr_decay_iters", NANOGPT, leave_out("the schedule ends with the last step"), "5000"),
    Familiar("beta1", f"{NANOGPT}, {LLAMA2C}", "adam_beta1", "0.9"),
    Familiar("beta2", f"{NANOGPT}, {LLAMA2C}", "adam_beta2", "0.99"),
    Familiar("wd", MANY, "weight_decay", "0.1"),
    Familiar("grad_clip max_norm clip_grad_norm clip gradient_clip_val", f"{NANOGPT}, {LITGPT}", "max_grad_norm", "1"),
    Familiar("label_smoothing", PYTORCH, "label_smoothing_factor", "0.1"),
    Familiar("matrix_lr muon_lr", NANOCHAT, "muon_learning_rate", "0.02"),
    Familiar("patience", MANY, "early_stopping_patience", "5"),
    Familiar("save_best save_best_only", MANY, switch("load_best_model_at_end"), "true"),
    Familiar("random_seed manual_seed random_state", f"{UNSLOTH}, {MANY}", "seed", "1"),
    Familiar("dtype torch_dtype precision mixed_precision", f"{RUN_CLM}, {NANOGPT}, {LITGPT}", _precision, "bfloat16"),
    Familiar("compile", f"{NANOGPT}, {TORCHTUNE}", switch("torch_compile"), "True"),
    Familiar(
        "enable_activation_checkpointing grad_checkpointing use_gradient_checkpointing",
        f"{TORCHTUNE}, {UNSLOTH}",
        switch("activation_checkpointing"),
        "True",
    ),
    Familiar("device device_type accelerator", f"{NANOGPT}, {LITGPT}", _device, "cpu"),
    Familiar("no_cuda", V4, _no_accelerator, "true"),
    Familiar("gpu gpu_id", MANY, Answer(say="CUDA_VISIBLE_DEVICES in the environment chooses the GPU"), "0"),
    Familiar("use_mps_device", V4, leave_out("an accelerator is used where there is one"), "true"),
    Familiar(
        "devices gpus num_gpus n_gpu nproc_per_node num_processes",
        f"{LITGPT}, {ACCELERATE}",
        Answer(say="accelerate launch starts several processes: docs/distributed.md"),
        "2",
    ),
    Familiar("backend", NANOGPT, "ddp_backend", "gloo"),
    Familiar("num_workers", PYTORCH, "dataloader_num_workers", "2"),
)

_EVALUATION_AND_FILES = (
    Familiar("evaluation_strategy", V4, "eval_strategy", "steps"),
    Familiar("eval_interval eval_every eval.interval", f"{NANOGPT}, {NANOCHAT}, {LITGPT}", _interval, "250"),
    Familiar(
        "eval_iters eval.max_iters eval_tokens",
        f"{NANOGPT}, {LITGPT}, {NANOCHAT}",
        Answer(say="max_eval_samples is the number of stories that an evaluation scores; without it, all of them"),
        "200",
    ),
    Familiar(
        "eval_only",
        NANOGPT,
        Answer(say="leave it out: run_evaluation.py (tinystories evaluate) measures a checkpoint"),
        "True",
    ),
    Familiar("sample_every", NANOCHAT, leave_out("stories are written at each evaluation, sample_prompts"), "2000"),
    Familiar("log_interval log_every log_every_n_steps", f"{NANOGPT}, {TORCHTUNE}", "logging_steps", "10"),
    Familiar("save_interval save_every checkpoint_every", f"{LITGPT}, {NANOCHAT}", "save_steps", "1000"),
    Familiar(
        "always_save_checkpoint", NANOGPT, leave_out("a checkpoint is saved every save_steps, the best one kept"), "1"
    ),
    Familiar("save_safetensors", V4, leave_out("weights are always saved as safetensors"), "true"),
    Familiar(f"{_OUT} run_dir", f"{NANOGPT}, {LITGPT}", "output_dir", "runs/mine"),
    Familiar("overwrite", MANY, switch("overwrite_output_dir"), "true"),
    Familiar("resume_from resume_from_step resume_from_ckpt", NANOCHAT, Answer({"resume": "true"}), "1000"),
    Familiar("init_from", f"{NANOGPT}, {LLAMA2C}", _begin_from, "resume"),
    Familiar(
        "from_scratch",
        MANY,
        leave_out("a run begins with fresh weights unless model_name_or_path names a checkpoint"),
        "true",
    ),
    Familiar(
        " ".join(name for name in _MODEL.split() if name != "model_name_or_path")
        + " initial_checkpoint_dir init_checkpoint",
        f"{LITGPT}, {TRL}",
        "model_name_or_path",
        "boxed",
    ),
    Familiar("wandb_log use_wandb wandb", f"{NANOGPT}, {LLAMA2C}", _tracker, "True"),
    Familiar("wandb_project", NANOGPT, Answer(say="set WANDB_PROJECT in the environment: docs/trackers.md"), "stories"),
    Familiar("wandb_run_name run", f"{NANOGPT}, {NANOCHAT}", "run_name", "first"),
    Familiar("logging_dir", V4, Answer(say="set TENSORBOARD_LOGGING_DIR in the environment: docs/trackers.md"), "logs"),
    Familiar("push_to_hub_model_id repo_id", V4, "hub_model_id", "me/stories"),
    Familiar("token use_auth_token hf_use_auth_token hf_token", f"{RUN_CLM}, {AXOLOTL}", _TOKEN, "true"),
)

_DATA = (
    Familiar("dataset dataset_path", f"{NANOGPT}, {TORCHTUNE}, {TRL}", _hub_data, "roneneldan/TinyStories"),
    Familiar(
        "data data_path data_dir data_file train_data train_path train_data_path train_data_file input_file input "
        "corpus files train_files",
        f"{LITGPT}, {MANY}",
        _data,
        "stories.txt",
    ),
    Familiar(
        "val_data val_file val_data_path valid_file validation_data eval_file eval_data_file test_file",
        f"{LITGPT}, {MANY}",
        "validation_file",
        "held-out.txt",
    ),
    Familiar("validation_split_percentage", RUN_CLM, _percentage, "10"),
    Familiar(
        "validation_split val_split val_split_fraction val_fraction val_ratio test_size valid_size val_size",
        f"{LITGPT}, {MANY}",
        _share_or_split,
        "0.1",
    ),
    Familiar("val_set_size", AXOLOTL, _share_or_split, "0.05"),
    Familiar("datasets json_path", f"{AXOLOTL}, {LITGPT}", _data, "stories.jsonl"),
    Familiar("dataset_prepared_path", AXOLOTL, "data_cache_dir", "cache"),
    Familiar("split train_split dataset_split dataset_train_split", TRL, "train_split_name", "train"),
    Familiar("dataset_test_split", TRL, "validation_split_name", "validation"),
    Familiar("dataset_text_field text_field text_column_name text_key content_column", TRL, "text_column", "story"),
    Familiar("train_samples max_examples", MANY, "max_train_samples", "1000"),
    Familiar("dataset_num_proc num_proc", TRL, "preprocessing_num_workers", "2"),
    Familiar("overwrite_cache", RUN_CLM, leave_out("tokenized data that no longer fits is made anew"), "true"),
    Familiar(
        "cache_dir",
        RUN_CLM,
        Answer(
            say="data_cache_dir is where tokenized data is kept; set HF_HOME in the environment for the Hub's files"
        ),
        "cache",
    ),
    Familiar("keep_linebreaks", RUN_CLM, leave_out("line breaks are kept"), "true"),
    Familiar(
        "packing sample_packing pad_to_sequence_len",
        f"{TRL}, {AXOLOTL}",
        leave_out("rows are always packed; align_to_stories pads instead of cutting"),
        "true",
    ),
    Familiar(
        "train_on_inputs chat_template", AXOLOTL, leave_out("stories are learned whole, and have no turns"), "false"
    ),
    Familiar("group_by_length", V4, leave_out("all rows have the same length"), "true"),
    Familiar("shuffle shuffle_dataset", f"{TORCHTUNE}, {TRL}", leave_out("rows are shuffled in each epoch"), "true"),
)

_NETWORK = (
    Familiar(
        "n_layer n_layers num_layers depth", f"{NANOGPT}, {LITGPT}, {LLAMA2C}, {NANOCHAT}", "num_hidden_layers", "6"
    ),
    Familiar("n_head n_heads num_heads", f"{NANOGPT}, {LITGPT}, {LLAMA2C}", "num_attention_heads", "8"),
    Familiar("n_kv_head n_kv_heads num_kv_heads n_query_groups", f"{LLAMA2C}, {LITGPT}", "num_key_value_heads", "2"),
    Familiar("n_embd n_embed dim d_model embed_dim model_dim", f"{NANOGPT}, {LITGPT}, {LLAMA2C}", "hidden_size", "384"),
    Familiar("n_inner d_ff ffn_dim intermediate_dim", f"GPT-2, {PYTORCH}", "intermediate_size", "1024"),
    Familiar(
        "hidden_dim",
        f"{LLAMA2C}, {PYTORCH}",
        Answer(say="hidden_size is the width, intermediate_size the inner width of the feed-forward block"),
        "512",
    ),
    Familiar("multiple_of", LLAMA2C, leave_out("intermediate_size is given itself"), "32"),
    Familiar("dropout", f"{NANOGPT}, {LLAMA2C}", "embd_pdrop resid_pdrop attention_dropout", "0.1"),
    Familiar("bias use_bias", NANOGPT, leave_out("the network has no biases"), "False"),
    Familiar(
        "max_seq_len max_seq_length max_length seq_len seq_length sequence_len sequence_length "
        "context_length context_size n_ctx n_positions "
        "model_max_length",
        f"{LLAMA2C}, {LITGPT}, {TRL}, {AXOLOTL}, {UNSLOTH}",
        "block_size",
        "256",
    ),
    Familiar("rotary_pct rotary_percentage", LITGPT, "partial_rotary_factor", "0.25"),
    Familiar("rope_base rope_freq_base", LITGPT, "rope_theta", "10000"),
    Familiar("norm_eps layer_norm_eps layer_norm_epsilon", f"{LITGPT}, GPT-2", "rms_norm_eps", "1e-5"),
    Familiar("tie_embeddings tie_weights", LITGPT, switch("tie_word_embeddings"), "true"),
    Familiar("init_std", MANY, "initializer_range", "0.02"),
    Familiar("flash use_flash_attn flash_attention", MANY, leave_out("sdpa uses it where the device has it"), "true"),
    Familiar(
        "config_name model_type config_overrides",
        RUN_CLM,
        leave_out("the sizes are keys of their own, such as hidden_size; the architecture is Llama's"),
        "gpt2",
    ),
    Familiar(
        "tokenizer tokenizer_path tokenizer_dir tokenizer_name_or_path", f"{LITGPT}, {VLLM}", "tokenizer_name", "boxed"
    ),
    Familiar("vocab n_vocab", MANY, "vocab_size", "4096"),
    Familiar("use_fast_tokenizer", RUN_CLM, leave_out("the tokenizer is always a fast one"), "true"),
    Familiar("low_cpu_mem_usage", RUN_CLM, leave_out("weights are read so anyway"), "true"),
    Familiar("trust_remote_code", RUN_CLM, leave_out("training runs no code of a checkpoint"), "true"),
    Familiar(
        "use_peft use_lora lora lora_r lora_alpha lora_dropout lora_target_modules adapter r load_in_8bit load_in_4bit",
        f"{TRL}, {AXOLOTL}, {UNSLOTH}",
        Answer(say="adapters are trained with peft: docs/finetuning.md"),
        "16",
    ),
    Familiar("config config_file recipe config_path", f"{TORCHTUNE}, {TRL}", as_argument("recipe"), "demo"),
)

TRAIN = (*_WORDS_OF_A_RUN, *_EVALUATION_AND_FILES, *_DATA, *_NETWORK)

TOKENIZER = (
    *(row for row in _DATA if row.names[0] != "dataset_test_split"),
    Familiar(f"{_OUT} model_prefix model_name", "SentencePiece", "output_dir", "tokenizer"),
    Familiar("min_freq", MANY, "min_frequency", "2"),
    Familiar("vocab n_vocab", MANY, "vocab_size", "4096"),
    Familiar(
        "model_type character_coverage special_tokens byte_fallback",
        "SentencePiece",
        leave_out("it is always a byte-level BPE, which can write every character"),
        "bpe",
    ),
    Familiar("limit num_examples", MANY, "max_samples", "1000"),
)

_CHECKPOINT = Familiar(f"{_MODEL} m", f"{LLAMA_CPP}, {VLLM}, {LITGPT}", as_argument("checkpoint"), "boxed")

WRITE = (
    _CHECKPOINT,
    Familiar("init_from out_dir", NANOGPT, as_argument("checkpoint"), "boxed"),
    Familiar("start text input inputs message", NANOGPT, _prompt, "Once upon a time"),
    Familiar("i interactive", f"{LLAMA2C}, {LLAMA_CPP}", _interactive_or_prompt, "Once upon a time"),
    Familiar(
        "f file prompt_file",
        LLAMA_CPP,
        lambda value: _prompt(f"FILE:{value or 'FILE'}"),
        "prompts.txt",
    ),
    Familiar("prompt", f"{LITGPT}, {LLAMA_CPP}", _prompt, "Once upon a time"),
    Familiar("p", f"{LLAMA2C}, {LLAMA_CPP}", _top_p_or_prompt, "0.9"),
    Familiar("temp", LLAMA_CPP, "temperature", "0.7"),
    Familiar("t", f"{LLAMA2C}, {LLAMA_CPP}", _temperature_or_threads, "0.8"),
    Familiar("k", RUN_GENERATION, "top_k", "40"),
    Familiar(
        "n n_predict predict num_predict max_tokens num_tokens max_gen_len tokens length",
        f"{LLAMA_CPP}, {OLLAMA}, {OPENAI}, {LLAMA2C}, {RUN_GENERATION}",
        _most_tokens,
        "100",
    ),
    Familiar(
        "max_length",
        GENERATE,
        lambda value: Answer({"max_new_tokens": value or VALUE}, say="without the tokens of the prompt"),
        "100",
    ),
    Familiar("s random_seed", f"{LLAMA_CPP}, {LLAMA2C}", _seed, "1"),
    Familiar("repeat_penalty rep_penalty", f"{LLAMA_CPP}, {OLLAMA}", "repetition_penalty", "1.1"),
    Familiar("do_sample", GENERATE, _sampled, "False"),
    Familiar("num_beams", GENERATE, leave_out("there is no beam search"), "4"),
    Familiar("stream streaming", f"{OLLAMA}, {MANY}", leave_out("a story is shown while it is written"), ""),
    Familiar(
        "c ctx_size n_ctx ngl n_gpu_layers color use_cache fp16 jit model_type batch_size",
        f"{LLAMA_CPP}, {RUN_GENERATION}",
        leave_out("it has no counterpart here"),
        "512",
    ),
    Familiar("use_cpu no_cuda", RUN_GENERATION, Answer({"device": "cpu"}), ""),
    Familiar(
        "num_samples num_return_sequences",
        f"{NANOGPT}, {LITGPT}",
        leave_out("a command writes one story; another --seed writes another"),
        "10",
    ),
    Familiar(
        "min_p presence_penalty frequency_penalty stop stop_token logit_bias echo",
        f"{LLAMA_CPP}, {OPENAI}, {RUN_GENERATION}",
        Answer(say="leave it out: only the server has it, in POST /v1/completions"),
        "0.1",
    ),
    Familiar("tokenizer tokenizer_path z", LLAMA2C, leave_out("a checkpoint has its own tokenizer"), "tok.bin"),
    Familiar("dtype torch_dtype precision compile quantize", f"{NANOGPT}, {LITGPT}", leave_out("it has none"), "auto"),
    Familiar("output out o output_path", MANY, "output_file", "story.json"),
)

CHAT = (
    Familiar(
        "prompt start text input inputs message i p interactive f file prompt_file",
        MANY,
        leave_out("it is typed in the session; tinystories generate takes a prompt"),
    ),
    Familiar("system", OLLAMA, leave_out("the model continues stories and follows no instructions")),
    *WRITE,
)

EVALUATE = (
    Familiar("model", f"{LITGPT}, {LM_EVAL}", _evaluated, "boxed"),
    Familiar("model_args", LM_EVAL, _model_arguments, "pretrained=boxed,dtype=auto"),
    Familiar(" ".join(_CHECKPOINT.names).replace("model ", "", 1), _CHECKPOINT.of, _CHECKPOINT.write, "boxed"),
    Familiar("models", MANY, as_argument("checkpoint"), "boxed"),
    Familiar(
        "dataset data_path data_file eval_file eval_data validation_file val_file test_file",
        f"{RUN_CLM}, {MANY}",
        "data",
        "held-out.txt",
    ),
    Familiar("train_data", MANY, "train_file", "stories.txt"),
    Familiar("limit max_eval_samples num_examples", f"{LM_EVAL}, {RUN_CLM}", "stories", "100"),
    Familiar(_OUT, f"{LM_EVAL}, {LITGPT}", "output_dir", "evaluation"),
    Familiar("seed", f"{LM_EVAL}", "seeds", "1"),
    Familiar("max_tokens max_length n_predict", OPENAI, "max_new_tokens", "100"),
    Familiar("per_device_eval_batch_size eval_batch_size", V4, "batch_size", "8"),
    Familiar(
        "tasks num_fewshot metrics",
        LM_EVAL,
        leave_out("its metrics are fixed; docs/evaluation.md says how to run lm-eval"),
        "blimp",
    ),
    Familiar("tokenizer_path tokenizer_name z", LLAMA2C, "tokenizer", "tok512.bin"),
)

SERVE = (
    _CHECKPOINT,
    Familiar("listen bind address", "Gradio, gunicorn", _address, "0.0.0.0:8000"),
    Familiar("server_name hostname ip", "Gradio", "host", "0.0.0.0"),
    Familiar("server_port p", "Gradio", "port", "8000"),
    Familiar("share", "Gradio", leave_out("docs/server.md says how to serve other people"), "true"),
    Familiar("api_key", f"{VLLM}, {LLAMA_CPP}", leave_out("a proxy in front checks keys: docs/server.md"), "secret"),
    Familiar(
        "ssl_keyfile ssl_certfile ssl_key_file ssl_cert_file",
        f"{VLLM}, {LLAMA_CPP}",
        leave_out("a proxy in front does TLS: docs/server.md"),
        "key.pem",
    ),
    Familiar("max_num_seqs parallel np n_parallel max_concurrent_requests", f"{VLLM}, {LLAMA_CPP}", "max_running", "8"),
    Familiar("t num_threads n_threads", LLAMA_CPP, "threads", "2"),
    Familiar("workers", "uvicorn", leave_out("one process serves; --max_running and --threads"), "2"),
    Familiar("rate_limit rpm", MANY, "requests_per_minute", "60"),
    Familiar("torch_dtype precision", f"{VLLM}, {LITGPT}", "dtype", "bfloat16"),
    Familiar("tokenizer tokenizer_name", VLLM, "tokenizer_path", "boxed"),
    Familiar(
        "max_model_len ctx_size c n_ctx", f"{VLLM}, {LLAMA_CPP}", leave_out("the context is the model's own"), "512"
    ),
    Familiar("cors_origins cors_allow_origins", MANY, "allowed_origins", "http://localhost:3000"),
    Familiar(
        "timeout",
        f"{LLAMA_CPP}, {MANY}",
        Answer(say="max_seconds is the limit for a story, request_timeout_seconds for a request to arrive"),
        "60",
    ),
    Familiar(
        "tensor_parallel_size gpu_memory_utilization served_model_name n_gpu_layers ngl",
        f"{VLLM}, {LLAMA_CPP}",
        leave_out("it has no counterpart here"),
        "1",
    ),
    Familiar(
        "temperature top_k top_p max_tokens max_new_tokens repetition_penalty",
        LITGPT,
        leave_out("a request names it: docs/server.md"),
        "1",
    ),
)

CHECK_MODEL = (
    _CHECKPOINT,
    Familiar("dataset data_file validation_file eval_file", MANY, "data", "held-out.txt"),
    Familiar("limit max_samples", LM_EVAL, "stories", "100"),
    Familiar("text start", NANOGPT, "prompt", "Once"),
)

CHECK_TEXT = (
    _CHECKPOINT,
    Familiar("config recipe config_file", TORCHTUNE, as_argument("recipe"), "demo"),
    Familiar("dataset input file input_file data_file", MANY, "data", "stories.txt"),
    Familiar("output out o output_path", MANY, "clean", "cleaned.txt"),
)

EXPORT = (
    _CHECKPOINT,
    Familiar("to type f formats", MANY, "format", "gguf"),
    Familiar(_OUT, LLAMA_CPP, "output_dir", "exports/mine"),
    Familiar("force", MANY, Answer({"overwrite": ""}), ""),
    Familiar(
        "outtype quantize quantization dtype q",
        LLAMA_CPP,
        leave_out("float32 is written, with int8 beside it where the format has that"),
        "q8_0",
    ),
)

PUSH = (
    Familiar(f"{_MODEL} folder folder_path local_dir", "hf upload", as_argument("checkpoint"), "boxed"),
    Familiar("repo repo_id hub_model_id repo_name name", "hf upload", as_argument("repo_id"), "me/stories"),
    Familiar("private", "hf upload", _visible, "true"),
    Familiar("commit_message m", "hf upload, git", "message", "First"),
    Familiar("branch", "git", "revision", "main"),
    Familiar("token hub_token hf_token", "hf upload", _TOKEN, ""),
    Familiar("format formats", MANY, "with", "gguf"),
    Familiar("repo_type", "hf upload", leave_out("it is a model"), "model"),
)

REPORT = (
    Familiar(f"{_MODEL} run run_dir run_folder", MANY, as_argument("run_folder"), "boxed"),
    Familiar(_OUT, MANY, "output_dir", "page"),
)


@dataclass(frozen=True)
class Field:
    """A field of a request to the server: names, who calls it so, and the field here or a sentence."""

    typed: str
    of: str
    here: str = ""
    say: str = ""

    @property
    def names(self) -> list[str]:
        return self.typed.split()


_LENGTH = f"{GENERATE}, {TGI}, {LLAMA_CPP}, {OLLAMA}"
_SAME_FIELDS = (
    Field("temp", LLAMA_CPP, "temperature"),
    Field("repeat_penalty rep_pen", f"{LLAMA_CPP}, {OLLAMA}", "repetition_penalty"),
    Field("random_seed", "Mistral", "seed"),
    Field("streaming", MANY, "stream"),
    Field("parameters options extra_body", f"{TGI}, {OLLAMA}", say="its fields stand beside the others, not inside it"),
    Field("num_beams use_beam_search", f"{GENERATE}, {VLLM}", say="there is no beam search"),
    Field("system", OLLAMA, say="this model continues stories and follows no instructions"),
    Field("keep_alive raw template", OLLAMA, say="it has no counterpart here: leave it out"),
    Field(
        "ignore_eos min_tokens skip_special_tokens length_penalty stop_token_ids",
        VLLM,
        say="it has no counterpart here: leave it out",
    ),
)
_OF_OPENAI = (
    Field("stop_sequences stop_words", f"{TGI}, Anthropic", "stop"),
    Field("num_return_sequences", GENERATE, "n"),
    Field("do_sample", f"{GENERATE}, {TGI}", say="temperature 0 always takes the likeliest token"),
    Field("preset tidy alternatives", "POST /generate", say="only POST /generate has it"),
)
_NOT_IN_GENERATE = "only POST /v1/completions has it"
REQUEST_FIELDS = {
    "/generate": (
        Field("max_new_tokens n_predict num_predict max_length max_completion_tokens", _LENGTH, "max_tokens"),
        Field("inputs input text message query", f"{TGI}, {MANY}", "prompt"),
        Field("messages", OPENAI, say="POST /v1/chat/completions takes messages"),
        Field(
            "stop stop_sequences n best_of logprobs echo logit_bias min_p presence_penalty frequency_penalty",
            f"{OPENAI}, {LLAMA_CPP}, {TGI}",
            say=_NOT_IN_GENERATE,
        ),
        Field("do_sample", f"{GENERATE}, {TGI}", say="POST /v1/completions takes temperature 0, the likeliest token"),
        *_SAME_FIELDS,
    ),
    "/v1/completions": (
        Field("max_new_tokens n_predict num_predict max_length max_completion_tokens", _LENGTH, "max_tokens"),
        Field("inputs input text message query", f"{TGI}, {MANY}", "prompt"),
        Field("messages", OPENAI, say="POST /v1/chat/completions takes messages"),
        *_OF_OPENAI,
        *_SAME_FIELDS,
    ),
    "/v1/chat/completions": (
        Field("max_new_tokens n_predict num_predict max_length max_output_tokens", _LENGTH, "max_tokens"),
        Field(
            "prompt inputs input text query",
            f"{OPENAI}, {TGI}",
            say='the text stands in messages: [{"role": "user", "content": ...}]; POST /v1/completions takes a prompt',
        ),
        *_OF_OPENAI,
        *_SAME_FIELDS,
    ),
}
