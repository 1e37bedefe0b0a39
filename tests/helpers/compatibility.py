"""What a checkpoint works with: tries every route of loading, generating, compiling and training it.

docs/results/compatibility.json and, from it, docs/compatibility.md are written by this script:

    python tests/helpers/compatibility.py runs/demo --write
    python tests/helpers/compatibility.py runs/demo --quick

Nothing of this project is imported: the checkpoint's own code runs. A route passes if it gives what plain float32
greedy decoding, or a plain forward pass, gives. `--quick` leaves out routes that take more than a few seconds. Exit
status 1 if a route fails; one whose package or compiler is missing is listed as not tried, and one that another library
closes as "no", with what works instead, which is tried.
"""

import argparse
import json
import math
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib import util
from pathlib import Path
from threading import Thread

import torch
import transformers
from datasets import Dataset
from safetensors.torch import load_file, save_file
from transformers import (
    AttentionInterface,
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    StaticCache,
    TextIteratorStreamer,
    Trainer,
    TrainingArguments,
    pipeline,
)


ROOT = Path(__file__).parent.parent.parent
PROMPTS = ["Once upon a time", "One day, a girl named Lily went to the", "The"]


class NotTried(Exception):
    """The route cannot be tried here; the message says what it needs."""


class Closed(Exception):
    """Another library closes the route, as was tried; the message says why, and what works instead."""


@dataclass
class Route:
    group: str
    name: str
    quick: bool
    walk: Callable[["Checkpoint"], str]


ROUTES: list[Route] = []


def route(group: str, name: str, quick: bool = True):
    """Register a route: a function that returns what it found, or raises."""

    def register(walk):
        ROUTES.append(Route(group, name, quick, walk))
        return walk

    return register


class Checkpoint:
    """A checkpoint folder, and what plain greedy decoding and a plain forward pass give for it."""

    def __init__(self, folder: str, scratch: str):
        self.folder, self.scratch = folder, Path(scratch)
        self.tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
        self.model = self.load()
        self.inputs = self.tokenizer(PROMPTS[1], return_tensors="pt")
        self.ids = self.inputs["input_ids"]
        self.greedy = GenerationConfig(
            do_sample=False,
            max_new_tokens=16,
            pad_token_id=self.tokenizer.pad_token_id,
            eos_token_id=self.tokenizer.eos_token_id,
        )

    def load(self, auto_class=AutoModelForCausalLM, **options):
        options = {"dtype": torch.float32} | options
        return auto_class.from_pretrained(self.folder, trust_remote_code=True, **options).eval()

    @cached_property
    def expected(self) -> torch.Tensor:
        """Greedy ids of the second prompt."""
        return self.generate(self.model)

    @cached_property
    @torch.no_grad()
    def logits(self) -> torch.Tensor:
        return self.model(self.ids).logits

    def generate(self, model, inputs=None, **options) -> torch.Tensor:
        return model.generate(**(inputs or self.inputs), generation_config=self.greedy, **options)

    def same_text(self, model, **options) -> str:
        ids = self.generate(model, **options)
        assert torch.equal(ids, self.expected), f"{self.tokenizer.decode(ids[0])!r}"
        return "the same greedy tokens"

    @torch.no_grad()
    def same_logits(self, model, tolerance: float) -> str:
        difference = (model(self.ids).logits.float() - self.logits).abs().max().item()
        assert difference <= tolerance, f"logits differ by {difference:.1e}"
        return "the same logits, bit by bit" if difference == 0 else f"logits within {difference:.1e}"


def need(package: str) -> None:
    if util.find_spec(package) is None:
        raise NotTried(f"needs the package {package}")


def refused(words: str, function: Callable, *arguments, **options) -> None:
    """Assert that the call is a ValueError with these words: where it is none any more, the route is open."""
    try:
        function(*arguments, **options)
    except ValueError as error:
        assert words in str(error), error
    else:
        raise AssertionError("it is not refused any more")


def need_compiler() -> None:
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.ones(8))
    except Exception as error:
        raise NotTried("needs a C++ compiler") from error


# --- loading


@route("Loading", "`AutoConfig`, `AutoTokenizer`")
def auto_config(checkpoint):
    config = AutoConfig.from_pretrained(checkpoint.folder, trust_remote_code=True)
    assert config.vocab_size == len(checkpoint.tokenizer)
    for name in ("bos", "eos", "pad"):
        assert getattr(config, f"{name}_token_id") == getattr(checkpoint.tokenizer, f"{name}_token_id")
    return f"`{config.model_type}`, the tokenizer's BOS, EOS and PAD"


@route("Loading", "`AutoModelForCausalLM`, `local_files_only=True`")
def local_files_only(checkpoint):
    return checkpoint.same_text(checkpoint.load(local_files_only=True))


@route("Loading", "`dtype=torch.bfloat16`, `torch.float16`")
def half_precision(checkpoint):
    found = []
    for dtype in (torch.bfloat16, torch.float16):
        model = checkpoint.load(dtype=dtype)
        assert {parameter.dtype for parameter in model.parameters()} == {dtype}
        found.append(checkpoint.same_logits(model, 0.5))
    return " and ".join(found)


@route("Loading", '`dtype="auto"`')
def dtype_auto(checkpoint):
    return checkpoint.same_logits(checkpoint.load(dtype="auto"), 0)


@route("Loading", '`device_map="auto"`')
def device_map(checkpoint):
    need("accelerate")
    model = checkpoint.load(device_map="auto")
    ids = checkpoint.generate(model, inputs=dict(checkpoint.inputs.to(model.device))).cpu()
    checkpoint.inputs.to("cpu")
    assert torch.equal(ids, checkpoint.expected)
    return f"on {model.device}, the same greedy tokens"


@route("Loading", "layers offloaded to disk by `device_map`")
def disk_offload(checkpoint):
    need("accelerate")
    folders = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.norm": "cpu", "lm_head": "cpu"}
    layers = {f"model.layers.{i}": "disk" if i else "cpu" for i in range(checkpoint.model.config.num_hidden_layers)}
    model = checkpoint.load(device_map=folders | layers, offload_folder=str(checkpoint.scratch / "offload"))
    return checkpoint.same_text(model)


@route("Loading", '`attn_implementation="eager"`')
def eager(checkpoint):
    return checkpoint.same_logits(checkpoint.load(attn_implementation="eager"), 1e-3)


@route("Loading", '`attn_implementation="flex_attention"`', quick=False)
def flex(checkpoint):
    need_compiler()
    return checkpoint.same_logits(checkpoint.load(attn_implementation="flex_attention"), 1e-3)


@route("Loading", '`attn_implementation="flash_attention_2"`')
def flash(checkpoint):
    if not torch.cuda.is_available():
        raise NotTried("needs a GPU")
    return checkpoint.same_logits(checkpoint.load(attn_implementation="flash_attention_2", dtype=torch.bfloat16), 0.5)


@route("Loading", "sharded safetensors")
def sharded(checkpoint):
    folder = checkpoint.scratch / "sharded"
    checkpoint.model.save_pretrained(folder, max_shard_size="150KB")
    shards = len(list(folder.glob("model-*.safetensors")))
    assert shards > 1
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32)
    return checkpoint.same_logits(model.eval(), 0) + ", from several files"


@route("Loading", "saved again and loaded")
def saved_again(checkpoint):
    folder = checkpoint.scratch / "again"
    checkpoint.load().save_pretrained(folder)
    assert len(list(folder.glob("*_tinystories.py"))) == 2
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32)
    return checkpoint.same_logits(model.eval(), 0) + ", the code beside them"


@route("Loading", "`AutoModel`")
@torch.no_grad()
def auto_model(checkpoint):
    hidden = checkpoint.load(AutoModel)(checkpoint.ids).last_hidden_state
    assert torch.equal(checkpoint.model.lm_head(hidden), checkpoint.logits)
    return "hidden states that give the same logits"


@route("Loading", "`AutoModelForSequenceClassification`")
@torch.no_grad()
def classification(checkpoint):
    model = checkpoint.load(AutoModelForSequenceClassification, num_labels=3)
    batch = checkpoint.tokenizer(PROMPTS, return_tensors="pt", padding=True)
    batch.pop("token_type_ids", None)
    scores = model(**batch).logits
    assert scores.shape == (3, 3) and torch.isfinite(scores).all()
    return "three labels, a fresh head"


@route("Loading", "`from_config`: an untrained model")
@torch.no_grad()
def from_config(checkpoint):
    config = AutoConfig.from_pretrained(checkpoint.folder, trust_remote_code=True)
    model = AutoModelForCausalLM.from_config(config, trust_remote_code=True).eval()
    loss = model(checkpoint.ids, labels=checkpoint.ids).loss.item()
    assert abs(loss / math.log(config.vocab_size) - 1) < 0.15
    return "a loss near ln(vocabulary)"


@route("Loading", "the meta device, filled afterwards")
def meta(checkpoint):
    config = AutoConfig.from_pretrained(checkpoint.folder, trust_remote_code=True)
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config, trust_remote_code=True)
    assert all(parameter.is_meta for parameter in empty.parameters())
    rotary, filled = checkpoint.model.model.rotary_emb, checkpoint.load(low_cpu_mem_usage=True).model.rotary_emb
    assert torch.equal(rotary.inv_freq, filled.inv_freq) and filled.inv_freq.abs().sum() > 0
    return "buffers intact"


@route("Loading", "the weights in transformers' own Llama or Phi-3")
def native(checkpoint):
    config = checkpoint.model.config
    if config.rope_parameters["partial_rotary_factor"] != 1:
        raise NotTried(f"this checkpoint rotates half of each head: its twin is {Phi3ForCausalLM.__name__}")
    names = set(LlamaConfig().to_dict()) & set(Phi3Config().to_dict()) - {"model_type", "architectures", "auto_map"}
    values = {name: value for name, value in config.to_dict().items() if name in names}
    llama = LlamaForCausalLM(LlamaConfig(**values)).eval()
    llama.load_state_dict(checkpoint.model.state_dict(), strict=True)
    return checkpoint.same_logits(llama, 0) + ", in `LlamaForCausalLM`"


@route("Loading", "what the Transformers backends of vLLM and SGLang ask of a model, imitated")
@torch.no_grad()
def serving_backend(checkpoint):
    calls = []

    def attend(module, query, key, value, mask, scaling=None, attention_instances=None, **_):
        calls.append((module.layer_idx, mask))
        assert module.is_causal and scaling == module.scaling and attention_instances == "instances"
        key, value = (states.repeat_interleave(module.num_key_value_groups, dim=1) for states in (key, value))
        output = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling)
        return output.transpose(1, 2), None

    AttentionInterface.register("outside", attend)  # and no function for its mask
    model = checkpoint.load(AutoModel, attn_implementation="outside")
    assert model._supports_attention_backend and model.base_model_prefix == "model" and model.get_decoder() is model
    assert model.tp_plan and model.get_input_embeddings() is model.embed_tokens
    positions = torch.arange(checkpoint.ids.shape[1]).unsqueeze(0)
    options = {"use_cache": False, "return_dict": False, "attention_instances": "instances"}
    hidden = model(input_ids=checkpoint.ids, position_ids=positions, **options)[0]
    assert calls == [(layer, None) for layer in range(model.config.num_hidden_layers)]
    assert (checkpoint.model.lm_head(hidden) - checkpoint.logits).abs().max() < 1e-4
    assert type(model.norm)(1).weight.item() == 1, "how SGLang finds a norm whose weight is an offset"
    assert any("rsqrt" in str(node.target) for node in torch.fx.symbolic_trace(model.norm).graph.nodes)
    return "their attention in every layer, without a mask; a norm that they can replace"


# --- generation


@route("Generation", "greedy")
def greedy(checkpoint):
    return checkpoint.same_text(checkpoint.load())


@route("Generation", "without a cache")
def without_cache(checkpoint):
    return checkpoint.same_text(checkpoint.model, use_cache=False)


@route("Generation", "sampling with a seed, each preset of the checkpoint")
def sampling(checkpoint):
    names = sorted(file.name for file in Path(checkpoint.folder).glob("generation_config*.json"))
    for name in names:
        config = GenerationConfig.from_pretrained(checkpoint.folder, name)
        config.max_new_tokens = 12
        runs = []
        for _ in range(2):
            torch.manual_seed(7)
            runs.append(checkpoint.model.generate(**checkpoint.inputs, generation_config=config))
        assert torch.equal(*runs), name
    assert len(names) == 5
    return "the same story twice"


@route("Generation", "a left-padded batch")
def left_padded(checkpoint):
    batch = checkpoint.tokenizer(PROMPTS, return_tensors="pt", padding=True, return_token_type_ids=False)
    together = checkpoint.generate(checkpoint.model, inputs=batch)[:, batch["input_ids"].shape[1] :]
    for row, prompt in zip(together, PROMPTS, strict=True):
        single = checkpoint.tokenizer(prompt, return_tensors="pt")
        alone = checkpoint.generate(checkpoint.model, inputs=single)[0, single["input_ids"].shape[1] :]
        assert torch.equal(row[: len(alone)], alone), prompt
    return "each row as alone"


@route("Generation", "beam search")
def beam_search(checkpoint):
    checkpoint_ids = checkpoint.generate(checkpoint.model, num_beams=4)

    def likelihood(ids):
        length = checkpoint.ids.shape[1]
        with torch.no_grad():
            log_probabilities = checkpoint.model(ids).logits.log_softmax(-1)[0, length - 1 : -1]
        return log_probabilities.gather(-1, ids[0, length:, None]).mean().item()

    assert likelihood(checkpoint_ids) >= likelihood(checkpoint.expected) - 1e-4
    return "at least as likely as greedy, by its length-normalised score"


@route("Generation", "beam search with sampling")
def beam_sampling(checkpoint):
    ids = checkpoint.model.generate(**checkpoint.inputs, do_sample=True, num_beams=3, max_new_tokens=8)
    assert ids.shape[1] > checkpoint.ids.shape[1]
    return "runs"


@route("Generation", "assisted decoding")
def assisted(checkpoint):
    return checkpoint.same_text(checkpoint.model, assistant_model=checkpoint.load())


@route("Generation", "prompt lookup decoding")
def prompt_lookup(checkpoint):
    return checkpoint.same_text(checkpoint.model, prompt_lookup_num_tokens=3)


@route("Generation", "contrastive search, DoLa, group beam search")
def community(checkpoint):
    raise NotTried("transformers 5 moved them to repositories on the Hub (`custom_generate=`)")


@route("Generation", "static cache, compiled by `generate`", quick=False)
def static_cache(checkpoint):
    need_compiler()
    return checkpoint.same_text(checkpoint.load(), cache_implementation="static")


@route("Generation", "offloaded cache")
def offloaded_cache(checkpoint):
    if not torch.accelerator.is_available():
        raise NotTried("needs a GPU")
    return checkpoint.same_text(checkpoint.model, cache_implementation="offloaded")


@route("Generation", "continuous batching, `generate_batch`", quick=False)
def continuous_batching(checkpoint):
    model = checkpoint.load(attn_implementation="sdpa")
    config = GenerationConfig(**checkpoint.greedy.to_diff_dict() | {"use_cuda_graph": False})
    prompts = [checkpoint.tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    outputs = model.generate_batch(inputs=prompts, generation_config=config, progress_bar=False)
    by_prompt = {tuple(output.prompt_ids): output.generated_tokens for output in outputs.values()}
    for prompt in prompts:
        alone = checkpoint.generate(checkpoint.model, inputs={"input_ids": torch.tensor([prompt])})
        assert by_prompt[tuple(prompt)] == alone[0, len(prompt) :].tolist(), "another text than alone"
    return "each request as alone"


@route("Generation", "streaming with `TextIteratorStreamer`")
def streaming(checkpoint):
    streamer = TextIteratorStreamer(checkpoint.tokenizer, skip_special_tokens=True)
    Thread(target=checkpoint.generate, args=[checkpoint.model], kwargs={"streamer": streamer}).start()
    assert "".join(streamer) == checkpoint.tokenizer.decode(checkpoint.expected[0], skip_special_tokens=True)
    return "the pieces make up the text"


@route("Generation", '`pipeline("text-generation")`, a batch of prompts')
def text_generation_pipeline(checkpoint):
    write = pipeline("text-generation", model=checkpoint.folder, trust_remote_code=True)
    rows = write(PROMPTS, batch_size=3, generation_config=checkpoint.greedy)
    text = checkpoint.tokenizer.decode(checkpoint.expected[0], skip_special_tokens=True)
    assert rows[1][0]["generated_text"] == text, rows[1]
    return "the same greedy text"


@route("Generation", '`pipeline("text-generation")` with messages')
def messages_pipeline(checkpoint):
    messages, template = [{"role": "user", "content": PROMPTS[1]}], "{{ bos_token }}{{ messages[0].content }}"
    write = pipeline("text-generation", model=checkpoint.folder, trust_remote_code=True)
    refused("chat_template is not set", write, messages)
    rendered = checkpoint.tokenizer.apply_chat_template(messages, chat_template=template)["input_ids"]
    assert checkpoint.tokenizer.bos_token_id not in rendered, "a template can write BOS now"
    rows = write(messages[0]["content"], generation_config=checkpoint.greedy)
    assert rows[0]["generated_text"] == checkpoint.tokenizer.decode(checkpoint.expected[0], skip_special_tokens=True)
    raise Closed(
        "transformers adds no BOS to what a chat template writes, and this tokenizer reads a special token in a text "
        "as text: a story could not begin as in training. Give the messages as one text"
    )


@route("Generation", '`pipeline("text-classification")` with a score head')
def classification_pipeline(checkpoint):
    folder = checkpoint.scratch / "grader"
    checkpoint.load(AutoModelForSequenceClassification, num_labels=2).save_pretrained(folder)
    checkpoint.tokenizer.save_pretrained(folder)
    grade = pipeline("text-classification", model=str(folder), trust_remote_code=True)
    assert {row["label"] for row in grade(PROMPTS)} <= {"LABEL_0", "LABEL_1"}
    return "labels for a batch"


# --- compilation and export


@route("Compilation", "`torch.compile(fullgraph=True)`, no cache")
@torch.no_grad()
def compiled(checkpoint):
    model = torch.compile(checkpoint.load(), fullgraph=True, backend="eager")
    return checkpoint.same_logits(model, 1e-4) + ", one graph"


@route("Compilation", "`torch.compile(fullgraph=True)`, static cache")
@torch.no_grad()
def compiled_with_cache(checkpoint):
    model = checkpoint.load()
    cache = StaticCache(config=model.config, max_cache_len=64)
    step = torch.compile(model, fullgraph=True, backend="eager")
    pieces = [
        step(checkpoint.ids[:, i : i + 1], past_key_values=cache, use_cache=True).logits
        for i in range(checkpoint.ids.shape[1])
    ]
    difference = (torch.cat(pieces, dim=1) - checkpoint.logits).abs().max().item()
    assert difference < 1e-3, difference
    return "token by token as in one pass"


@route("Compilation", "inductor, the default backend", quick=False)
def inductor(checkpoint):
    need_compiler()
    return checkpoint.same_logits(torch.compile(checkpoint.load()), 1e-3)


@route("Compilation", "`torch.export`", quick=False)
@torch.no_grad()
def exported(checkpoint):
    model = checkpoint.load()
    length = torch.export.Dim("length", min=2, max=model.config.max_position_embeddings)
    arguments = {"input_ids": torch.ones(1, 8, dtype=torch.long), "use_cache": False}
    shapes = {"input_ids": {1: length}, "use_cache": None}
    program = torch.export.export(model, (), arguments, dynamic_shapes=shapes, strict=False)
    logits = program.module()(input_ids=checkpoint.ids, use_cache=False).logits
    assert (logits - checkpoint.logits).abs().max() < 1e-3
    return "logits within 0.001 at another length"


# --- training


@route("Training", "transformers' `Trainer`, gradient checkpointing, bf16")
def trainer(checkpoint):
    model = checkpoint.load()
    rows = [{"input_ids": checkpoint.expected[0].tolist()}] * 4
    arguments = TrainingArguments(
        output_dir=str(checkpoint.scratch / "trainer"),
        max_steps=3,
        learning_rate=1e-3,
        use_cpu=not torch.accelerator.is_available(),
        bf16=True,
        gradient_checkpointing=True,
        disable_tqdm=True,
        save_strategy="no",
        logging_steps=1,
    )
    collate = DataCollatorForLanguageModeling(checkpoint.tokenizer, mlm=False)
    trained = Trainer(model, arguments, data_collator=collate, train_dataset=rows)
    trained.train()
    losses = [row["loss"] for row in trained.state.log_history if "loss" in row]
    assert losses[-1] < losses[0]
    return "the loss falls"


@route("Training", "stories packed in one row, `position_ids` that restart")
@torch.no_grad()
def packed(checkpoint):
    first, second = (checkpoint.tokenizer(prompt, return_tensors="pt")["input_ids"] for prompt in PROMPTS[:2])
    positions = torch.cat([torch.arange(first.shape[1]), torch.arange(second.shape[1])]).unsqueeze(0)
    model = checkpoint.load(dtype=torch.float64)
    logits = model(torch.cat([first, second], dim=1), position_ids=positions, use_cache=False).logits
    assert (logits[:, first.shape[1] :] - model(second).logits).abs().max() < 1e-9
    return "each as alone, in double precision"


@route("Training", "peft: a LoRA adapter trained, saved, loaded, merged")
def lora(checkpoint):
    need("peft")
    from peft import LoraConfig, PeftModel, get_peft_model

    torch.manual_seed(0)
    settings = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(checkpoint.load(), settings).train()
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-2)
    ids, losses = checkpoint.expected, []
    for _ in range(5):
        losses.append(model(input_ids=ids, labels=ids).loss)
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0]
    model.eval().save_pretrained(checkpoint.scratch / "adapter")
    loaded = PeftModel.from_pretrained(checkpoint.load(), checkpoint.scratch / "adapter").eval()
    with torch.no_grad():
        trained = model(input_ids=ids).logits
        assert torch.equal(loaded(input_ids=ids).logits, trained), "the loaded adapter gives other logits"
        loaded.merge_and_unload().save_pretrained(checkpoint.scratch / "merged")
        merged = AutoModelForCausalLM.from_pretrained(checkpoint.scratch / "merged", trust_remote_code=True).eval()
        difference = (merged(ids).logits - trained).abs().max().item()
    assert difference < 1e-3, difference
    return "the merged model is a checkpoint of its own"


@route("Training", "peft: an adapter that lacks a weight")
def incomplete_adapter(checkpoint):
    need("peft")
    from peft import LoraConfig, PeftModel, get_peft_model

    folder = checkpoint.scratch / "incomplete"
    get_peft_model(checkpoint.load(), LoraConfig(target_modules=["q_proj"])).save_pretrained(folder)
    weights = load_file(folder / "adapter_model.safetensors")
    weights.pop(min(weights))
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        PeftModel.from_pretrained(checkpoint.load(), folder)
    assert any("missing adapter keys" in str(warning.message) for warning in caught)
    return "peft warns of it and goes on; the commands of this project refuse adapters"


@route("Training", "peft: LoRA without `target_modules`")
def lora_without_modules(checkpoint):
    need("peft")
    from peft import LoraConfig, get_peft_model

    refused("specify `target_modules`", get_peft_model, checkpoint.load(), LoraConfig(task_type="CAUSAL_LM"))
    model = get_peft_model(checkpoint.load(), LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"))
    model(input_ids=checkpoint.ids, labels=checkpoint.ids).loss.backward()
    adapted = {name.split(".")[-4] for name, weight in model.named_parameters() if weight.requires_grad}
    assert adapted == {f"{part}_proj" for part in ("q", "k", "v", "o", "gate", "up", "down")}
    raise Closed(
        "peft looks the layers up by model type in a table of its own, which a model cannot add to: "
        '`target_modules="all-linear"` works'
    )


@route("Training", "TRL: `SFTTrainer` with a model object")
def trl_sft(checkpoint):
    need("trl")
    from trl import SFTConfig, SFTTrainer

    tokenizer = tokenizer_of_markers(checkpoint)
    arguments = SFTConfig(**trl_arguments(checkpoint), max_length=64)
    data = Dataset.from_dict({"text": PROMPTS[:2] * 4})
    trainer = SFTTrainer(checkpoint.load(), arguments, train_dataset=data, processing_class=tokenizer)
    check_ends(tokenizer, [row["input_ids"] for row in trainer.train_dataset])
    losses = trl_losses(trainer)
    assert losses[-1] < losses[0], losses
    return TRL


@route("Training", "TRL: `DPOTrainer` with a model object, its reference and LoRA")
def trl_dpo(checkpoint):
    need("trl")
    need("peft")
    from peft import LoraConfig
    from trl import DPOConfig, DPOTrainer

    tokenizer = tokenizer_of_markers(checkpoint)
    data = Dataset.from_list([{"prompt": PROMPTS[0], "chosen": " there was a dog.", "rejected": " dog the."}] * 8)
    for adapter in (None, LoraConfig(target_modules="all-linear")):
        arguments = DPOConfig(**trl_arguments(checkpoint), trust_remote_code=True)  # for the reference, loaded anew
        trainer = DPOTrainer(
            checkpoint.load(), args=arguments, train_dataset=data, processing_class=tokenizer, peft_config=adapter
        )
        check_ends(tokenizer, [row["prompt_ids"] + row["chosen_ids"] for row in trainer.train_dataset])
        losses = trl_losses(trainer)
        assert abs(losses[0] - math.log(2)) < 1e-4 and losses[-1] < losses[0], "at first it is its reference"
    return f"{TRL}; `DPOConfig(trust_remote_code=True)`"


TRL = "BOS and EOS are tokens, and the loss falls, with `tokenizer.split_special_tokens = False` while it trains"


def tokenizer_of_markers(checkpoint):
    """TRL writes EOS into the text, and this tokenizer would read it there as letters."""
    return AutoTokenizer.from_pretrained(checkpoint.folder, trust_remote_code=True, split_special_tokens=False)


def trl_arguments(checkpoint) -> dict:
    place = {"output_dir": str(checkpoint.scratch / "trl"), "use_cpu": not torch.accelerator.is_available()}
    quiet = {"report_to": "none", "disable_tqdm": True, "save_strategy": "no", "logging_steps": 1, "bf16": False}
    return place | quiet | {"max_steps": 3, "per_device_train_batch_size": 2, "learning_rate": 1e-3}


def check_ends(tokenizer, rows: list[list[int]]) -> None:
    """Each row is one story: BOS at its beginning, EOS at its end, and neither in it."""
    for row in rows:
        assert row[0] == tokenizer.bos_token_id and row[-1] == tokenizer.eos_token_id, row
        assert not {tokenizer.bos_token_id, tokenizer.eos_token_id} & set(row[1:-1]), row


def trl_losses(trainer) -> list[float]:
    trainer.train()
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


# --- the table


def walk_all(checkpoint: Checkpoint, quick: bool, only: str) -> list[dict]:
    rows = []
    for entry in ROUTES:
        if (quick and not entry.quick) or only not in entry.name:
            continue
        try:
            found, state = entry.walk(checkpoint), "yes"
        except NotTried as reason:
            found, state = str(reason), "not tried"
        except Closed as reason:
            found, state = str(reason), "no"
        except Exception as error:
            message = " ".join(str(error).split())[:200]
            found, state = f"{type(error).__name__}: {message}", "NO"
        print(f"{state:10}{entry.name}: {found}", flush=True)
        rows.append({"group": entry.group, "route": entry.name, "works": state, "found": found})
    return rows


def describe(checkpoint: Checkpoint) -> dict:
    config = checkpoint.model.config
    return {
        "parameters": checkpoint.model.num_parameters(),
        "layers": config.num_hidden_layers,
        "width": config.hidden_size,
    }


def as_markdown(record: dict) -> str:
    checkpoint, origin, rows = record["checkpoint"], record["provenance"], record["routes"]
    names = [name for name in ("transformers", "torch", "accelerate", "peft", "trl") if name in origin["versions"]]
    versions = ", ".join(f"{name} {origin['versions'][name]}" for name in names)
    lines = [
        "# What a checkpoint works with",
        "",
        "Written by `tests/helpers/compatibility.py`, which tries every route with nothing but the checkpoint's own",
        "code and compares the result with a plain float32 forward pass or plain greedy decoding. The tests try the",
        "quick ones each time.",
        "",
        f"Checkpoint: {checkpoint['parameters']:,} parameters, {checkpoint['layers']} layers, width "
        f"{checkpoint['width']}. {versions}, Python {origin['versions']['python']}, "
        f"{origin['machine']['system'].split()[0]}, {'a GPU' if origin['machine']['accelerator'] else 'no GPU'}.",
        "[Record](results/compatibility.json).",
    ]
    for group in dict.fromkeys(row["group"] for row in rows):
        lines += ["", f"## {group}", "", "| route | works | what was found |", "|---|---|---|"]
        lines += [f"| {row['route']} | {row['works']} | {row['found']} |" for row in rows if row["group"] == group]
    return "\n".join(lines) + "\n"


def provenance_module():
    """The one module of this project that is used, and only to write a record; it imports no other."""
    spec = util.spec_from_file_location("provenance", ROOT / "tinystories" / "provenance.py")
    sys.modules["provenance"] = util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["provenance"])
    return sys.modules["provenance"]


def origin(began, folder: str) -> dict:
    module = sys.modules["provenance"]
    weights = module.hash_files(sorted(Path(folder).glob("model*.safetensors")))
    return module.provenance(began, [0], {"checkpoint": {"source": Path(folder).name, **weights}}, ["peft", "trl"])


def write_down(record: dict) -> None:
    text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    (ROOT / "docs" / "results" / "compatibility.json").write_text(text, encoding="utf-8")
    (ROOT / "docs" / "compatibility.md").write_text(as_markdown(record), encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    """Exit status: 1 if a route fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="a checkpoint folder")
    parser.add_argument("--quick", action="store_true", help="leave out the routes that take long")
    parser.add_argument("--only", metavar="WORDS", default="", help="only the routes whose name holds these words")
    parser.add_argument("--write", action="store_true", help="write the record and the document")
    parser.add_argument("--json", metavar="FILE.json", help="write the rows here")
    arguments = parser.parse_args(argv)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    scratch, began = tempfile.mkdtemp(), provenance_module().Stopwatch() if arguments.write else None
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        checkpoint = Checkpoint(arguments.checkpoint, scratch)
        facts = describe(checkpoint)
        rows = walk_all(checkpoint, arguments.quick, arguments.only)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if arguments.write:
        write_down({"provenance": origin(began, arguments.checkpoint), "checkpoint": facts, "routes": rows})
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return int(any(row["works"] == "NO" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
