"""The decoder computes what the network computes, and a slot's numbers do not depend on the other slots."""

import json

import numpy as np
import pytest
import torch

from configuration_tinystories import TinyStoriesConfig
from modeling_tinystories import TinyStoriesForCausalLM
from tinystories.generation.decoder import Decoder, unsupported


CONTEXT, VOCABULARY = 48, 97
SHORT = {"rope_theta": 10000.0, "original_max_position_embeddings": 16, "factor": 4.0}
NETWORKS = {
    "llama": {},
    "one key head": {"num_key_value_heads": 1, "head_dim": 16, "tie_word_embeddings": False},
    "grouped": {"num_key_value_heads": 2, "head_dim": 32},
    "half rotated": {"head_dim": 32, "partial_rotary_factor": 0.5},
    "a quarter rotated": {"head_dim": 16, "partial_rotary_factor": 0.25},
    "heads of 6": {"head_dim": 6, "partial_rotary_factor": 0.7},
    "heads of 2": {"head_dim": 2, "num_attention_heads": 3},
    "heads of 24": {"head_dim": 24},
    "theta": {"rope_theta": 500.0, "rms_norm_eps": 1e-2},
    "linear": {"rope_parameters": {"rope_type": "linear", **SHORT}},
    "yarn": {"rope_parameters": {"rope_type": "yarn", **SHORT}},
    "llama3, half": {
        "rope_parameters": {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0, **SHORT},
        "partial_rotary_factor": 0.5,
    },
}


def network(layers: int = 2, **fields) -> TinyStoriesForCausalLM:
    """With weights so large that attention looks at few tokens and no logit is near another."""
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 48, "intermediate_size": 72, "num_attention_heads": 4}
    config = TinyStoriesConfig(**sizes | fields, num_hidden_layers=layers, max_position_embeddings=CONTEXT)
    torch.manual_seed(0)
    model = TinyStoriesForCausalLM(config).eval()
    for weight in model.parameters():
        weight.data = torch.randn_like(weight) * 0.15 if weight.ndim > 1 else 1 + 0.2 * torch.randn_like(weight)
    return model


def tokens(number: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(VOCABULARY, size=number).tolist()


@pytest.mark.parametrize("fields", NETWORKS.values(), ids=NETWORKS)
def test_same_network(fields):
    """In one pass and token by token, up to the end of the context."""
    model, ids = network(**fields), tokens(CONTEXT)
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0].numpy()
    decoder = Decoder.from_model(model, slots=2)
    assert (decoder.context, decoder.vocab_size, decoder.slots) == (CONTEXT, VOCABULARY, 2)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(decoder.prefill(1, ids, all_logits=True), expected, atol=2e-5 * scale)
    rows = [decoder.prefill(1, ids[:5]).copy(), *(decoder.step({1: token})[0].copy() for token in ids[5:])]
    np.testing.assert_allclose(rows, expected[4:], atol=2e-5 * scale)


def _alone(decoder: Decoder, slot: int, ids: list[int], prompt: int) -> list[np.ndarray]:
    rows = [decoder.prefill(slot, ids[:prompt]).copy()]
    return rows + [decoder.step({slot: token})[0].copy() for token in ids[prompt:]]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("fields", [{}, {"hidden_size": 256, "head_dim": 64, "intermediate_size": 704}])
def test_slots_are_independent(fields, threads):
    """To the bit: with 1 to 16 slots that join and leave between steps, in any order, with gaps between them."""
    model, random = network(**fields), np.random.default_rng(1)
    single, decoder = Decoder.from_model(model, threads=1), Decoder.from_model(model, slots=16, threads=threads)
    stories = [tokens(int(random.integers(8, CONTEXT + 1)), seed) for seed in range(40)]
    prompts = [int(random.integers(1, 8)) for _ in stories]
    expected = [_alone(single, 0, *story) for story in zip(stories, prompts, strict=True)]
    waiting, places, widths = list(range(len(stories))), {}, set()
    while waiting or places:
        free = [slot for slot in range(16) if slot not in places]
        for slot in random.permutation(free)[: random.integers(0, 5)].tolist() if waiting else ():
            if waiting:
                story = waiting.pop()
                places[slot] = [story, prompts[story]]
                first = decoder.prefill(slot, stories[story][: prompts[story]])
                assert (first == expected[story][0]).all()
        given = [slot for slot in places if random.random() < 0.9]  # the others wait
        if given:
            widths.add(len(given))
            logits = decoder.step({slot: stories[places[slot][0]][places[slot][1]] for slot in given})
            for slot, row in zip(given, logits, strict=True):
                story, done = places[slot]
                assert (row == expected[story][done - prompts[story] + 1]).all()
                places[slot][1] += 1
                if places[slot][1] == len(stories[story]):
                    del places[slot]
    assert len(widths) > 10


def test_weights_are_copied():
    """A decoder of a network that is trained on keeps the weights that it had."""
    model = network()
    decoder = Decoder.from_model(model)
    before = decoder.prefill(0, [1, 2, 3]).copy()
    for weight in model.parameters():
        weight.data.add_(1)
    assert (decoder.prefill(0, [1, 2, 3]) == before).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_from_folder(dtype, tmp_path):
    """Shards, and every floating-point format."""
    model = network().to(dtype)
    model.save_pretrained(tmp_path, max_shard_size="50KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    read = Decoder.from_folder(tmp_path).prefill(0, [5, 6])
    assert (read == Decoder.from_model(model).prefill(0, [5, 6])).all()


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("model_type", "llama", "model_type is llama"),
        ("hidden_act", "gelu", "hidden_act is gelu"),
        ("rope_parameters", {"rope_type": "dynamic", "rope_theta": 1.0}, "type dynamic depend on the length"),
    ],
)
def test_unsupported(field, value, reason):
    model = network()
    config = json.loads(model.config.to_json_string()) | {field: value}
    assert reason in unsupported(config)
    with pytest.raises(ValueError, match=reason):
        Decoder({}, config)


def test_limits():
    """No token before the first, after the context, or beside the slots."""
    decoder = Decoder.from_model(network(), slots=2)
    for slot, ids in ((0, []), (0, tokens(CONTEXT + 1)), (2, [1]), (-1, [1])):
        with pytest.raises(ValueError, match="slot"):
            decoder.prefill(slot, ids)
    decoder.prefill(0, tokens(CONTEXT - 1))
    decoder.step({0: 1})
    assert decoder.length(0) == CONTEXT
    for given in ({0: 1}, {2: 1}, {-1: 1}):
        with pytest.raises(ValueError, match="slots"):
            decoder.step(given)
    decoder.prefill(1, [1])
    decoder.step({1: 1})  # the full slot beside it is no obstacle
