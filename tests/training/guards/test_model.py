"""Mistakes in the network are stopped before the first step, by what a sound network does and by no list of them.

Most mutations are put into modeling_tinystories.py alone and the guards run on a small model of that file; a few go
through a run, to show that it is the run's own model that is checked.
"""

import sys
import types

import datasets
import pytest
import torch

from configuration_tinystories import TinyStoriesConfig
from helpers.mutations import assert_stopped, small_run
from helpers.runs import ROOT, mistake, write_counting_corpus
from helpers.serving import counting_tokenizer
from helpers.untrained import save, untrained_model
from tinystories.config.keys import ModelArguments
from tinystories.data.packing import StoryCollator
from tinystories.errors import GuardError
from tinystories.training.guards.causality import check_causality, check_positions
from tinystories.training.guards.initial import check_initial_weights
from tinystories.training.guards.paths import check_paths
from tinystories.training.guards.probe import make_probe
from tinystories.training.guards.reference import check_reference
from tinystories.training.guards.saved import check_saved_model


SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 300,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def mutated_model(*changes: tuple[str, str], attention="sdpa", **sizes):
    """A model of modeling_tinystories.py with replaced text."""
    source = (ROOT / "modeling_tinystories.py").read_text(encoding="utf-8")
    for old, new in changes:
        assert old in source, f"modeling_tinystories.py no longer holds {old!r}: the mutation is out of date"
        source = source.replace(old, new)
    module = types.ModuleType("modeling_mutated")
    sys.modules[module.__name__] = module
    exec(compile(source, "modeling_mutated", "exec"), module.__dict__)
    torch.manual_seed(0)
    config = TinyStoriesConfig(**SIZES | sizes)
    config._attn_implementation = attention
    return module.TinyStoriesForCausalLM(config)


def rows_for(model) -> datasets.Dataset:
    """Rows as long as the context, with a BOS in each."""
    ids = torch.randint(3, model.config.vocab_size, (5, model.config.max_position_embeddings))
    ids[:, ids.shape[1] // 3] = 1
    return datasets.Dataset.from_dict({"input_ids": ids.numpy()}).with_format("numpy")


def guard(model, isolate=False, checkpointing=None, only=None) -> list[str]:
    """What the guards of a model find, as before a run. only: the name of one."""
    rows = rows_for(model)
    probe = make_probe(model, rows)
    batch = StoryCollator(0, 1 if isolate else None)([rows[probe.number]])
    guards = {
        "reference": lambda: check_reference(probe, batch, checkpointing),
        "causality": lambda: check_causality(probe),
        "paths": lambda: check_paths(probe),
    }
    return [check() for name, check in guards.items() if only in (None, name)]


def test_rows_of_one_token():
    """The rest of a story that was cut: nothing can be predicted in it, and its loss is no number."""
    ids = torch.zeros(50, 8, dtype=torch.long)
    ids[:, 0], ids[7, 1] = 5, 6
    rows = datasets.Dataset.from_dict({"input_ids": ids.numpy()}).with_format("numpy")
    assert make_probe(mutated_model(), rows).number == 7


SHAPES = {
    "as it is": {},
    "eager": {"attention": "eager"},
    "untied": {"tie_word_embeddings": False},
    "quarter of the head rotated": {"partial_rotary_factor": 0.25},
    "half of the head rotated, untied, eager": {
        "partial_rotary_factor": 0.5,
        "tie_word_embeddings": False,
        "attention": "eager",
    },
    "one head of width 4": {"hidden_size": 4, "num_attention_heads": 1, "num_key_value_heads": 1},
    "24 layers of width 16": {"num_hidden_layers": 24, "hidden_size": 16, "max_position_embeddings": 70},
    "wide heads": {"head_dim": 32},
    "rows of 8 tokens": {"max_position_embeddings": 8},
    "rows of 2 tokens": {"max_position_embeddings": 2},
    "large weights": {"initializer_range": 1.0},
    "small weights": {"initializer_range": 1e-3},
    "another base and eps": {"rope_theta": 500.0, "rms_norm_eps": 1e-3},
    "gelu": {"hidden_act": "gelu"},
    "dropout": {"embd_pdrop": 0.1, "resid_pdrop": 0.2, "attention_dropout": 0.3},
    "260 tokens": {"vocab_size": 260},
    "three tokens": {"vocab_size": 4, "max_position_embeddings": 8},
    "scaled positions": {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}},
}


@pytest.mark.parametrize("name", SHAPES)
def test_sound_model_passes(name):
    """No false alarm, whatever the shape."""
    guard(mutated_model(**SHAPES[name]))


def test_training_options_pass():
    """Document masking, and both kinds of gradient checkpointing."""
    model = mutated_model()
    guard(model, isolate=True)
    guard(model, checkpointing={"use_reentrant": True})
    guard(model, checkpointing={"use_reentrant": False}, isolate=True)


def test_zero_residual_init_passes():
    """Layers that begin as the identity: the guards see them with values."""
    model = mutated_model()
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.data.zero_()
        layer.mlp.down_proj.weight.data.zero_()
    guard(model)


ATTEND = "        output, weights = attend(\n"
CALL = "        for layer in self.layers:\n"
MASK = "        causal_mask = self._causal_mask(inputs_embeds, attention_mask, position_ids, past_key_values)\n"
FORWARD = "        attended, _ = self.self_attn(self.input_layernorm(hidden_states), **kwargs)\n"
ONE_AHEAD = (
    "        if query.shape[2] > 64 and query.shape[2] == key.shape[2]:\n"
    "            seen = torch.ones(key.shape[2], key.shape[2], dtype=torch.bool, device=key.device).tril()\n"
    "            seen[64:] |= torch.ones_like(seen).tril(1)[64:]\n"
    "            attention_mask = seen[None, None]\n"
    '            attend = ALL_ATTENTION_FUNCTIONS["sdpa"]\n'  # the one for training on a CPU takes no mask
)
WINDOW = (
    "        if query.shape[2] == key.shape[2] and query.shape[2] > 1:\n"
    "            seen = torch.ones(key.shape[2], key.shape[2], dtype=torch.bool, device=key.device).tril().triu(-255)\n"
    "            attention_mask = seen[None, None]\n"
)

REFERENCE = {
    "one future token from place 64 on": ((ATTEND, ONE_AHEAD + ATTEND), "of model.layers.0.self_attn differs first"),
    "window of 256": ((ATTEND, WINDOW + ATTEND), "of model.layers.0.self_attn differs first, from token 256 on"),
    "not causal": (("self.is_causal = True", "self.is_causal = False"), "output of model.layers.0.self_attn"),
    "scale of the scores": (("self.head_dim**-0.5", "self.head_dim**-0.51"), "output of model.layers.0.self_attn"),
    "eps": (("+ self.eps)", "+ 10 * self.eps)"), "output of model.layers.0.input_layernorm"),
    "base of the positions": (('rope["rope_theta"] **', "9999.0 **"), "output of model.layers.0.self_attn"),
    "interleaved halves": (
        ("first, second = x.chunk(2, dim=-1)", "first, second = x[..., ::2], x[..., 1::2]"),
        "output of model.layers.0.self_attn",
    ),
    "values rotated": (
        (
            "        value = self.v_proj(hidden_states).view(per_head).transpose(1, 2)\n",
            "        value = self.v_proj(hidden_states).view(per_head).transpose(1, 2)\n"
            "        value = apply_rotary(value, *position_embeddings)\n",
        ),
        "output of model.layers.0.self_attn",
    ),
    "a norm skipped in one layer": (
        (
            FORWARD,
            "        norm = self.input_layernorm if self.self_attn.layer_idx != 1 else nn.Identity()\n"
            + FORWARD.replace("self.input_layernorm(", "norm("),
        ),
        "model.layers.1.input_layernorm is not run",
    ),
    "a residual left out": (
        ("return hidden_states + self.resid", "return (self.self_attn.layer_idx != 2) * hidden_states + self.resid"),
        "output of model.layers.2 differs",
    ),
    "the last layer dead": (
        (CALL, CALL.replace("self.layers", "self.layers[:-1]")),
        "model.layers.2 is not run|model.layers.2.input_layernorm is not run",
    ),
    "no final norm": (
        ("last_hidden_state=self.norm(hidden_states)", "last_hidden_state=hidden_states"),
        "model.norm is not run",
    ),
    "norm without its weight": (("return self.weight * (", "return ("), "gets no gradient"),
    "untied weights": (('{"lm_head.weight": "model.embed_tokens.weight"}', "{}"), "lm_head.weight"),
    "a frozen layer": (
        ("        self.rotary_emb =", "        self.layers[1].requires_grad_(False)\n        self.rotary_emb ="),
        r"model.layers.1.\S+ gets no gradient: it is frozen",
    ),
    "attention detached": (
        ("self.resid_dropout(attended)", "self.resid_dropout(attended.detach())"),
        "the loss does not reach it",
    ),
    "a gradient halved": (
        (
            "self.down_proj(self.act_fn",
            "self.half(self.act_fn",
        ),
        "",
    ),
    "dropout that nobody asked for": (
        ("dropout=self.attention_dropout if self.training else 0.0", "dropout=0.1 if self.training else 0.0"),
        "in training mode",
    ),
    "wrong in training only": (
        (
            "        hidden_states = self.embed_dropout(inputs_embeds)",
            "        hidden_states = self.embed_dropout(inputs_embeds) * (1.1 if self.training else 1)",
        ),
        r"in training mode.*model.layers.0",
    ),
    "labels of long rows cut": (
        (
            "        loss = None\n",
            "        loss = None\n"
            "        if labels is not None:\n"
            "            labels = labels.clone().index_fill_(1, torch.arange(200, 300), -100)\n",
        ),
        "the model's loss of a row is",
    ),
    "something else in the loss": (
        (
            "            loss = self.loss_function(",
            "            loss = 1e-3 * logits.logsumexp(-1).pow(2).mean() + self.loss_function(",
        ),
        "something else is in the loss",
    ),
    "something else in the loss without logits": (
        ("        return total / (", "        return (total + hidden_states.pow(2).mean()) / ("),
        "something else is in the loss",
    ),
    "labels not shifted without logits": (
        ("value=-100)[:, 1:].flatten()", "value=-100)[:, :-1].flatten()"),
        "the model's loss of a row is",
    ),
    "tokens left out of the gradient": (
        (" * counted).to(logits.dtype)", " * counted * (wanted > 40)[:, None]).to(logits.dtype)"),
        "differs from that",
    ),
    "a future token in training alone": (("triu(begin + 1)", "triu(begin + 2)"), r"in training mode.*self_attn"),
    "the first block alone": (
        ("@ key[:, :end].transpose(1, 2) * scaling", "@ (key[:, :end] * (begin == 0)).transpose(1, 2) * scaling"),
        r"in training mode.*self_attn differs first, from token 128 on",
    ),
    "a gradient of attention": (("* ctx.scaling)", "* ctx.scaling**2)"), "the gradient of"),
}
del REFERENCE["a gradient halved"]


@pytest.mark.parametrize("name", REFERENCE)
def test_other_network(name):
    """Not the network of its configuration, in values, loss or gradients."""
    change, message = REFERENCE[name]
    with pytest.raises(GuardError, match=message):
        guard(mutated_model(change), only="reference")


@pytest.mark.parametrize("field", ["embd_pdrop", "resid_pdrop", "attention_dropout"])
def test_dropout_in_evaluation(field):
    change = {
        "embd_pdrop": (
            "self.embed_dropout(inputs_embeds)",
            "nn.functional.dropout(inputs_embeds, self.embed_dropout.p)",
        ),
        "resid_pdrop": ("self.resid_dropout(attended)", "nn.functional.dropout(attended, self.resid_dropout.p)"),
        "attention_dropout": ("self.attention_dropout if self.training else 0.0", "self.attention_dropout"),
    }[field]
    with pytest.raises(GuardError, match="in evaluation mode"):
        guard(mutated_model(change, **{field: 0.1}), only="reference")


def test_eager_attention():
    """Its own mask, softmax and heads."""
    for change in (
        ("scores = scores + attention_mask", "scores[..., :64, :] += attention_mask[..., :64, :]"),
        ("module.num_key_value_groups, dim=1)\n    value", "module.num_key_value_groups, dim=1).flip(1)\n    value"),
    ):
        with pytest.raises(GuardError, match=r"output of model.layers.0.self_attn differs first"):
            guard(mutated_model(change, attention="eager"), only="reference")


def test_gradient_checkpointing():
    """Layers that are run again for their gradients, without gradients."""
    model = mutated_model(
        (
            FORWARD,
            "        hidden_states = hidden_states.detach() if self.gradient_checkpointing else hidden_states\n"
            + FORWARD,
        )
    )
    guard(model)
    with pytest.raises(GuardError, match=r"gets no gradient|differs from that"):
        guard(model, checkpointing={"use_reentrant": False})


CAUSALITY = {
    "one future token from place 64 on": ((ATTEND, ONE_AHEAD + ATTEND), "sees the future"),
    "the mean of the row added": (
        (CALL, "        hidden_states = hidden_states + 1e-4 * hidden_states.mean(1, keepdim=True)\n" + CALL),
        "sees the future",
    ),
    "the last token seen by all": (
        (CALL, "        hidden_states = hidden_states + 1e-3 * hidden_states[:, -1:]\n" + CALL),
        "sees the future",
    ),
    "convolution that looks ahead": (
        (CALL, "        hidden_states = hidden_states + 1e-3 * hidden_states.roll(-1, 1)\n" + CALL),
        "sees the future",
    ),
    "blocks of 128": (
        (
            ATTEND,
            WINDOW.replace(".tril().triu(-255)", ".tril()").replace(
                "            attention_mask",
                "            block = torch.arange(len(seen)) // 128\n"
                "            seen &= block[:, None] == block\n"
                "            attention_mask",
            )
            + ATTEND,
        ),
        "does not see its whole context",
    ),
    "window of 32": ((ATTEND, WINDOW.replace("-255", "-32") + ATTEND), "does not see its whole context"),
    "attention switched off": (("self.o_proj(output", "0 * self.o_proj(output"), "does not see its whole context"),
}


@pytest.mark.parametrize("name", CAUSALITY)
def test_future_and_reach(name):
    """Seen without a reference: changed tokens change too much, or too little."""
    change, message = CAUSALITY[name]
    model = mutated_model(change)
    with pytest.raises(GuardError, match=message):
        for _ in range(20):  # the place that is changed is random: a run checks one
            guard(model, only="causality")


PAST = "past_length = past_key_values.get_seq_length() if past_key_values is not None else 0"
PATHS = {
    "cached positions wrong after 64": (
        (PAST, "past_length = min(past_key_values.get_seq_length(), 64) if past_key_values is not None else 0"),
        "with the cache.*token",
    ),
    "cached positions from zero": ((PAST, "past_length = 0"), "with the cache"),
    "cache not used": (
        (
            "        if past_key_values is not None:\n            key, value = past_key_values.update",
            "        if past_key_values is not None and self.layer_idx != 1:\n"
            "            key, value = past_key_values.update",
        ),
        "with the cache",
    ),
    "cache written twice": (
        (
            "            key, value = past_key_values.update(key, value, self.layer_idx)\n",
            "            past_key_values.update(key, value, self.layer_idx)\n"
            "            key, value = past_key_values.update(key, value, self.layer_idx)\n",
        ),
        "the cache holds 2",
    ),
    "long chunks not cached": (
        (
            "                past_key_values=past_key_values,\n                use_cache",
            "                past_key_values=past_key_values if hidden_states.shape[1] < 4 else None,\n"
            "                use_cache",
        ),
        "with the cache",
    ),
    "a mask ignored": (
        (
            "attention_mask=attention_mask,\n"
            "            past_key_values=past_key_values,\n"
            "            position_ids=position_ids,\n"
            "        )\n"
            "\n"
            "\n"
            "def",
            "attention_mask=None,\n"
            "            past_key_values=past_key_values,\n"
            "            position_ids=position_ids,\n"
            "        )\n"
            "\n"
            "\n"
            "def",
        ),
        "left-padded",
    ),
    "mask of the first row for all": (
        (
            MASK,
            "        if attention_mask is not None:\n"
            "            attention_mask = attention_mask[:1].expand(len(attention_mask), -1)\n" + MASK,
        ),
        "left-padded",
    ),
    "a mask makes it see the future": (
        (
            MASK,
            MASK + "        if attention_mask is not None and causal_mask is not None and past_key_values is None:\n"
            "            causal_mask = causal_mask | torch.ones_like(causal_mask).tril(1)\n",
        ),
        "right-padded",
    ),
    "positions of documents ignored": (
        (
            MASK,
            MASK + "        if attention_mask is None and past_key_values is None:\n            position_ids = None\n",
        ),
        "packed",
    ),
    "positions of late documents ignored": (
        (
            MASK,
            "        if position_ids is not None and attention_mask is None and past_key_values is None:\n"
            "            position_ids = position_ids.clone()\n"
            "            later = torch.arange(position_ids.shape[1] - 200) + 1\n"
            "            position_ids[:, 200:] = later + position_ids[:, 199:200]\n" + MASK,
        ),
        "packed",
    ),
    "documents see one another": (
        ("            position_ids=position_ids,\n        )\n\n\ndef", "        )\n\n\ndef"),
        "packed",
    ),
    "logits_to_keep keeps too many": (
        ("return hidden_states[:, -kept:]", "return hidden_states[:, -kept - (kept > 0) :]"),
        "logits_to_keep",
    ),
    "logits_to_keep keeps others": (
        ("return hidden_states[:, kept]", "return hidden_states[:, kept - 1]"),
        "logits_to_keep",
    ),
}


@pytest.mark.parametrize("name", PATHS)
def test_ways_to_run_differ(name):
    """A way to run the model gives something else than a plain forward pass, from some place on."""
    change, message = PATHS[name]
    with pytest.raises(GuardError, match=message):
        guard(mutated_model(change), only="paths")


def test_positions_of_a_batch():
    """Worked out again from the rows: document masking that stops after some places crosses stories."""
    batch = StoryCollator(0, 1)([{"input_ids": [1, 5, 6, 2, 1, 7, 8, 2]}])
    assert "restart" in check_positions(batch, 1)
    batch["position_ids"][:, 4:] += 4
    assert "token 4 of a row has position 4 and is number 0" in mistake(check_positions, batch, 1)
    del batch["position_ids"]
    assert "token 4 of a row" in mistake(check_positions, batch, 1)


def test_generate():
    """It reads everything again for each token."""
    forward = "    @can_return_tuple\n    def forward"
    again = (
        "    def prepare_inputs_for_generation(self, input_ids, **kwargs):\n"
        '        return {"input_ids": input_ids, "use_cache": False}\n\n'
    )
    with pytest.raises(GuardError, match="the cache is not used"):
        guard(mutated_model((forward, again + forward)), only="paths")


def test_saved_model(tmp_path):
    """A weight in the files that is not the trained one, or a configuration that is not that of the weights."""
    tokenizer = counting_tokenizer()
    model = untrained_model(tokenizer, context=64)
    save(model, tokenizer, tmp_path)
    rows = rows_for(model)
    assert "are those that were trained" in check_saved_model(tmp_path, rows, model)
    model.model.norm.weight.data[3] += 1e-3
    assert "the saved model.norm.weight is not the one" in mistake(check_saved_model, tmp_path, rows, model)
    assert "same logits" in check_saved_model(tmp_path, rows)
    model.model.norm.weight.data[3] = 1
    model.config.rms_norm_eps *= 2
    assert "config.json says rms_norm_eps 1e-06" in mistake(check_saved_model, tmp_path, rows, model)


RECIPE = {name: SIZES[name] for name in SIZES if name.endswith(("size", "layers", "heads")) and name != "vocab_size"}


def test_fresh_weights():
    """Not those of the recipe, or not fresh."""

    def check(model, **changes):
        return check_initial_weights(model, ModelArguments(**RECIPE | changes))

    assert "matrices" in check(mutated_model(**RECIPE))
    model = mutated_model(**RECIPE)
    model.model.layers[1].mlp.up_proj.weight.data *= 1.5
    assert "the fresh model.layers.1.mlp.up_proj.weight has" in mistake(check, model)
    model = mutated_model(**RECIPE)
    model.model.layers[1].load_state_dict(model.model.layers[0].state_dict())
    assert "is a copy of model.layers.0" in mistake(check, model)
    model = mutated_model(**RECIPE)
    model.model.norm.weight.data += 0.1
    assert "the fresh model.norm.weight is not all ones" in mistake(check, model)
    assert "rope_theta is 500.0 in the recipe, and 10000.0 in the model" in mistake(
        check, mutated_model(**RECIPE), rope_theta=500.0
    )


IN_A_RUN = {
    "future leak from place 64 on": (ONE_AHEAD, "output of model.layers.0.self_attn differs first"),
    "future leak in half precision only": (
        ONE_AHEAD.replace("64", "32").replace("if query", 'if torch.is_autocast_enabled("cpu") and query'),
        "sees the future",
    ),
    "future leak in batches of training only": (
        ONE_AHEAD.replace("64", "32").replace("if query", "if self.training and len(query) > 1 and query"),
        "a rehearsal of the first steps: the ",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", IN_A_RUN)
def test_mutated_run(name, mutated_tree, tmp_path):
    """What is checked is the run's own model, its first steps, and the model as it is trained."""
    added, message = IN_A_RUN[name]
    tree = mutated_tree("modeling_tinystories.py", ATTEND, added + ATTEND)
    corpus = write_counting_corpus(tmp_path)
    assert_stopped(small_run(tmp_path, corpus, "--block_size", "96", "--bf16", "true", tree=tree), message)
