"""The two Hub files: bit-identical to Llama and Phi-3, causal, cached, padded and compiled without a difference."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    DynamicCache,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    StaticCache,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaPreTrainedModel

from configuration_tinystories import TinyStoriesConfig
from modeling_tinystories import TinyStoriesForCausalLM, TinyStoriesForSequenceClassification, TinyStoriesModel
from tinystories.data.packing import StoryCollator


SIZES = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def make_model(attention="sdpa", **changes) -> TinyStoriesForCausalLM:
    torch.manual_seed(0)
    config = TinyStoriesConfig(**(SIZES | {"initializer_range": 0.3} | changes))
    config._attn_implementation = attention
    return TinyStoriesForCausalLM(config).eval()


def tokens(rows=2, length=24) -> torch.Tensor:
    return torch.randint(3, SIZES["vocab_size"], (rows, length), generator=torch.Generator().manual_seed(1))


def test_parameters_of_the_reference_model():
    model = TinyStoriesForCausalLM(TinyStoriesConfig(partial_rotary_factor=0.5))
    assert model.num_parameters() == 24_557_120


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("tied", [True, False])
def test_same_logits_as_llama(attention, tied):
    ours = make_model(attention, tie_word_embeddings=tied)
    llama = LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=tied, attn_implementation=attention)).eval()
    llama.load_state_dict(ours.state_dict(), strict=True)
    ids = tokens()
    assert torch.equal(ours(ids).logits, llama(ids).logits)


def as_llama(ours, **options) -> LlamaForCausalLM:
    """transformers' Llama with the weights of `ours`."""
    attention = ours.config._attn_implementation
    llama = LlamaForCausalLM(LlamaConfig(**(SIZES | options), tie_word_embeddings=True, attn_implementation=attention))
    llama.load_state_dict(ours.state_dict(), strict=True)
    return llama.to(ours.dtype).eval()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_same_logits_as_llama_in(dtype, attention):
    """Norms, angles and the eager softmax are computed in float32 where the weights are not."""
    ours, ids = make_model(attention).to(dtype), tokens()
    logits = ours(ids).logits
    assert logits.dtype == dtype
    # In float64 our norm is more exact than Llama's, which is computed in float32.
    tolerance = 1e-4 if dtype == torch.float64 else 0
    torch.testing.assert_close(logits, as_llama(ours)(ids).logits, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "dynamic", "factor": 2.0},
        {"rope_type": "linear", "factor": 4.0},
        {"rope_type": "yarn", "factor": 2.0},
    ],
    ids=lambda rope: rope["rope_type"],
)
def test_other_rotary_embeddings(rope):
    """As Llama's, for rows longer than the context that the model was trained with, and for shorter ones after them."""
    rope = {"rope_theta": 10000.0, **rope}
    ours = make_model(max_position_embeddings=16, rope_parameters=dict(rope))
    llama = as_llama(ours, max_position_embeddings=16, rope_parameters=dict(rope))
    for length in (8, 40, 12):
        assert torch.equal(ours(tokens(length=length)).logits, llama(tokens(length=length)).logits), length


def test_what_it_supports():
    """As Llama: attention implementations, compilation, splitting over devices."""
    names = [
        name for name in vars(LlamaPreTrainedModel) if name.startswith(("_supports_", "_can_compile", "supports_"))
    ]
    assert len(names) >= 6
    for name in names:
        assert getattr(TinyStoriesForCausalLM, name) == getattr(LlamaForCausalLM, name), name
    assert TinyStoriesForCausalLM._tp_plan == LlamaForCausalLM._tp_plan
    assert TinyStoriesForCausalLM._pp_plan == LlamaForCausalLM._pp_plan
    model = make_model()
    assert model.vocab_size == SIZES["vocab_size"] and model.model.embed_tokens.padding_idx == 0
    assert not model.model.gradient_checkpointing


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_same_logits_as_phi3(attention):
    """With half of each head rotated."""
    ours = make_model(attention, partial_rotary_factor=0.5)
    config = Phi3Config(
        **SIZES, partial_rotary_factor=0.5, tie_word_embeddings=True, rms_norm_eps=1e-6, attn_implementation=attention
    )
    phi3 = Phi3ForCausalLM(config).eval()
    fused = {}
    for name, weight in ours.state_dict().items():
        if name.endswith(("k_proj.weight", "v_proj.weight", "up_proj.weight")):
            continue
        if name.endswith("q_proj.weight"):
            parts = [ours.state_dict()[name.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")]
            name, weight = name.replace("q_proj", "qkv_proj"), torch.cat(parts)
        elif name.endswith("gate_proj.weight"):
            weight = torch.cat([weight, ours.state_dict()[name.replace("gate_proj", "up_proj")]])
            name = name.replace("gate_proj", "gate_up_proj")
        fused[name] = weight
    phi3.load_state_dict(fused, strict=True)
    ids = tokens()
    # One fused matrix product and three separate ones may round differently in the last bit on some processors.
    torch.testing.assert_close(ours(ids).logits, phi3(ids).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_causal(attention):
    """No token sees the ones after it."""
    model, ids = make_model(attention), tokens()
    changed = ids.clone()
    changed[:, 12:] = (changed[:, 12:] - 3 + 1) % 90 + 3
    before, after = model(ids).logits, model(changed).logits
    torch.testing.assert_close(before[:, :12], after[:, :12])
    assert not torch.allclose(before[:, 12:], after[:, 12:])


def test_sdpa_and_eager_agree():
    torch.testing.assert_close(
        make_model("sdpa")(tokens()).logits, make_model("eager")(tokens()).logits, rtol=0, atol=1e-4
    )


def test_position_matters():
    """Without rotary embeddings a causal model still sees order, but not the distance of a repeated token."""
    model = make_model(num_hidden_layers=1)
    ids = torch.tensor([[5, 6, 7, 7, 7, 7]])
    moved = torch.tensor([[6, 5, 7, 7, 7, 7]])
    assert not torch.allclose(model(ids).logits[0, -1], model(moved).logits[0, -1], atol=1e-4)


def static_cache(model):
    return StaticCache(config=model.config, max_cache_len=32)


@pytest.mark.parametrize("make_cache", [lambda model: DynamicCache(config=model.config), static_cache])
@pytest.mark.parametrize("partial_rotary_factor", [0.5, 1.0])
def test_cached_decoding(make_cache, partial_rotary_factor):
    """Without position ids it equals the full pass."""
    model, ids = make_model(partial_rotary_factor=partial_rotary_factor), tokens()
    cache = make_cache(model)
    pieces = [model(ids[:, :10], past_key_values=cache, use_cache=True).logits]
    pieces += [model(ids[:, i : i + 1], past_key_values=cache, use_cache=True).logits for i in range(10, 24)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), model(ids).logits, rtol=0, atol=1e-4)


def test_use_cache():
    """A cache is made where it is asked for, by default too, and only there."""
    model, ids = make_model(), tokens()
    assert model(ids).past_key_values.get_seq_length() == 24
    assert model(ids, use_cache=True).past_key_values.get_seq_length() == 24
    assert model(ids, use_cache=False).past_key_values is None
    model.config.use_cache = False
    assert model(ids).past_key_values is None


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_left_padding(attention):
    """It changes nothing."""
    model = make_model(attention)
    prompts = [tokens(1, 9), tokens(1, 5) + 1]
    padded = torch.zeros(2, 9, dtype=torch.long)
    mask = torch.zeros(2, 9, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        padded[row, 9 - prompt.shape[1] :] = prompt
        mask[row, 9 - prompt.shape[1] :] = 1
    settings = {"do_sample": False, "max_new_tokens": 12, "pad_token_id": 0, "eos_token_id": None}
    together = model.generate(padded, attention_mask=mask, **settings)[:, 9:]
    for row, prompt in enumerate(prompts):
        alone = model.generate(prompt, attention_mask=torch.ones_like(prompt), **settings)[:, prompt.shape[1] :]
        assert torch.equal(together[row], alone[0])


@pytest.mark.parametrize(
    ("attention", "compiled", "tolerance"),
    [
        ("sdpa", False, 1e-12),
        pytest.param("sdpa", True, 1e-12, marks=pytest.mark.slow),
        ("eager", False, 1e-5),  # its softmax is float32 and sums over the other story's zeros too
    ],
)
@torch.no_grad()
def test_document_masking(attention, compiled, tolerance):
    """In double precision, where what another story adds to a logit could not hide behind rounding."""
    model = make_model(attention).double()
    first, second = tokens(1, 10), tokens(1, 14) + 1
    packed = torch.cat([first, second], dim=1)
    positions = torch.cat([torch.arange(10), torch.arange(14)]).unsqueeze(0)
    run = torch.compile(model, fullgraph=True, backend="eager") if compiled else model
    logits = run(packed, position_ids=positions, use_cache=False).logits
    torch.testing.assert_close(logits[:, :10], model(first).logits, rtol=0, atol=tolerance)
    torch.testing.assert_close(logits[:, 10:], model(second).logits, rtol=0, atol=tolerance)


def test_document_masking_by_the_collator():
    """Packed stories have the logits that they have alone."""
    model, collate = make_model().double(), StoryCollator(pad_token_id=0, bos_token_id=1)
    stories = [[1, *tokens(1, length)[0].tolist(), 2] for length in (5, 9, 3)]
    rows = [stories[0] + stories[1], stories[2]]
    batch = collate([{"input_ids": row} for row in rows])
    assert batch["position_ids"][0].tolist() == [*range(7), *range(11)]
    logits = model(**{name: batch[name] for name in ("input_ids", "position_ids")}, use_cache=False).logits
    alone = [model(torch.tensor([story])).logits[0] for story in stories]
    torch.testing.assert_close(logits[0], torch.cat(alone[:2]), rtol=0, atol=1e-9)
    torch.testing.assert_close(logits[1, :5], alone[2], rtol=0, atol=1e-9)
    assert "position_ids" not in collate([{"input_ids": story} for story in stories]), "one story a row: nothing to do"
    assert "position_ids" not in StoryCollator(pad_token_id=0)([{"input_ids": row} for row in rows]), "off by default"


def test_gradient_checkpointing():
    """The gradients are the same."""
    ids = tokens()
    gradients = []
    for checkpointing in (False, True):
        model = make_model().train()
        if checkpointing:
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable()
        model(ids, labels=ids).loss.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert all(gradients[0][name] is not None for name in gradients[0])
    for name in gradients[0]:
        torch.testing.assert_close(gradients[0][name], gradients[1][name])


def test_logits_to_keep():
    model, ids = make_model(), tokens()
    full = model(ids).logits
    torch.testing.assert_close(model(ids, logits_to_keep=3).logits, full[:, -3:])
    torch.testing.assert_close(model(ids, logits_to_keep=torch.tensor([0, 5])).logits, full[:, [0, 5]])
    each = torch.tensor([[0, 5], [7, 1]])
    torch.testing.assert_close(model(ids, logits_to_keep=each).logits, full[torch.tensor([[0], [1]]), each])
    torch.testing.assert_close(model(ids, logits_to_keep=ids > 40).logits, full[ids > 40])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("field", ["embd_pdrop", "resid_pdrop", "attention_dropout"])
def test_dropout(field, attention):
    """Each kind acts in training only."""
    model, ids = make_model(attention, **{field: 0.5}), tokens()
    assert torch.equal(model(ids).logits, make_model(attention)(ids).logits)
    model.train()
    assert not torch.allclose(model(ids).logits, model(ids).logits)


def test_loss():
    """Labels are shifted once, and ignored labels do not count."""
    model, ids = make_model(), tokens()
    labels = ids.clone()
    labels[:, :5] = -100
    log_probabilities = model(ids).logits.double().log_softmax(-1)
    wanted = [-log_probabilities[row, t - 1, ids[row, t]] for row in range(2) for t in range(5, 24)]
    assert model(ids, labels=labels).loss.item() == pytest.approx(torch.stack(wanted).mean().item(), abs=1e-5)


def test_num_items_in_batch():
    """With gradient accumulation the loss is a sum over the given number of items."""
    model, ids = make_model(), tokens()
    mean = model(ids, labels=ids).loss
    scaled = model(ids, labels=ids, num_items_in_batch=92).loss
    torch.testing.assert_close(scaled, mean * 46 / 92)


def test_attention_arguments():
    """Keyword arguments reach the attention function."""
    seen = []

    def spy(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
        seen.append((module.layer_idx, kwargs.get("marker")))
        return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, attention_mask, scaling=scaling)

    ALL_ATTENTION_FUNCTIONS.register("spy", spy)
    model = make_model()
    model.config._attn_implementation = "spy"
    model(tokens(), marker="here")
    assert seen == [(0, "here"), (1, "here"), (2, "here")]


def test_recorded_outputs():
    outputs = make_model("eager")(tokens(), output_hidden_states=True, output_attentions=True)
    assert len(outputs.hidden_states) == SIZES["num_hidden_layers"] + 1
    assert outputs.attentions[0].shape == (2, 4, 24, 24)


@pytest.mark.slow
def test_compiled():
    """As one graph, with the same logits."""
    model, ids = make_model(), tokens()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(ids, labels=ids).logits, model(ids).logits)


def test_inputs_embeds():
    """They replace the ids; exactly one of the two is needed."""
    model, ids = make_model(), tokens()
    torch.testing.assert_close(model(inputs_embeds=model.model.embed_tokens(ids)).logits, model(ids).logits)
    for wrong in ({}, {"input_ids": ids, "inputs_embeds": model.model.embed_tokens(ids)}):
        with pytest.raises(ValueError, match="exactly one"):
            model(**wrong)


def test_base_model(tmp_path):
    """It loads from a checkpoint of the language model."""
    model = make_model()
    model.save_pretrained(tmp_path)
    base = TinyStoriesModel.from_pretrained(tmp_path).eval()
    assert torch.equal(base(tokens()).last_hidden_state, model.model(tokens()).last_hidden_state)
    assert torch.equal(base.rotary_emb.inv_freq, model.model.rotary_emb.inv_freq)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hiden_size": 64}, "no field 'hiden_size'; did you mean 'hidden_size'"),
        ({"hidden_size": "64"}, "hidden_size.*expected int"),
        ({"hidden_size": 66}, r"hidden_size \(66\) must be a multiple of num_attention_heads"),
        ({"num_key_value_heads": 3}, "multiple of num_key_value_heads"),
        ({"num_attention_heads": 0}, "num_attention_heads must be at least 1"),
        ({"partial_rotary_factor": 0.35}, "even number of rotated dimensions"),
        ({"partial_rotary_factor": 1.5}, "even number of rotated dimensions"),
        ({"resid_pdrop": 1.0}, r"resid_pdrop must be in \[0, 1\)"),
    ],
)
def test_wrong_config(fields, message):
    with pytest.raises((ValueError, StrictDataclassError), match=f"(?s){message}"):
        TinyStoriesConfig(**(SIZES | fields))


def test_saved_config(tmp_path):
    config = TinyStoriesConfig(**SIZES, partial_rotary_factor=0.5, rope_theta=5000.0)
    config.save_pretrained(tmp_path)
    loaded = TinyStoriesConfig.from_pretrained(tmp_path)
    assert loaded.rope_parameters == {"rope_type": "default", "rope_theta": 5000.0, "partial_rotary_factor": 0.5}
    assert loaded.to_diff_dict() == config.to_diff_dict()


def test_unknown_field_in_a_saved_config(tmp_path):
    """Other libraries add fields of their own to config.json: it opens nevertheless."""
    config = TinyStoriesConfig(**SIZES)
    config.note_of_another_library = 1
    config.save_pretrained(tmp_path)
    assert TinyStoriesConfig.from_pretrained(tmp_path).note_of_another_library == 1


def test_sequence_classification(tmp_path):
    """The score is that of the last token of each text, whatever the padding."""
    model = make_model()
    model.save_pretrained(tmp_path)
    grader = TinyStoriesForSequenceClassification.from_pretrained(tmp_path, num_labels=3).eval()
    assert torch.equal(grader.model.layers[0].mlp.up_proj.weight, model.model.layers[0].mlp.up_proj.weight)
    short, long = tokens(1, 5), tokens(1, 9)
    padding = torch.zeros(1, 4, dtype=torch.long)
    scores = [grader(short).logits]
    scores += [grader(torch.cat([torch.cat([short, padding], dim=1), long])).logits[:1]]
    left = torch.cat([torch.cat([padding, short], dim=1), long])
    mask = (left != 0).long()
    mask[1] = 1
    scores += [grader(left, attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp(min=0)).logits[:1]]
    assert scores[0].shape == (1, 3)
    torch.testing.assert_close(scores[1], scores[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(scores[2], scores[0], rtol=0, atol=1e-5)
