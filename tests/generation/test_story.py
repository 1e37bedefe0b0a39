"""Stories by the decoder are those of `generate`, one after another and several at once."""

import pytest
import torch
from accelerate import Accelerator
from transformers import GenerationConfig

from configuration_tinystories import TinyStoriesConfig
from helpers.export_sources import small_tokenizer
from helpers.untrained import untrained_model
from modeling_tinystories import TinyStoriesForCausalLM
from tinystories.evaluation.text.generation import SEEDS_APART, write_samples
from tinystories.generation.decoder import Decoder
from tinystories.generation.presets import PRESETS
from tinystories.generation.sample import decoder_of, sample_story
from tinystories.generation.sampler import GREEDY, Sampler, Settings
from tinystories.generation.story import continue_stories, continue_story


CONTEXT = 64


@pytest.fixture(scope="module")
def tokenizer():
    return small_tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer):
    """With larger weights than a fresh network, so that its choices are not all alike."""
    model = untrained_model(tokenizer, context=CONTEXT)
    for weight in model.parameters():
        if weight.ndim > 1:
            weight.data.mul_(6)
    return model.eval()


def generated(model, ids: list[int], seed: int, number: int, **settings) -> list[int]:
    config = GenerationConfig(max_new_tokens=number, eos_token_id=2, pad_token_id=0, **settings)
    torch.manual_seed(seed)
    return model.generate(torch.tensor([ids]), generation_config=config)[0, len(ids) :].tolist()


SETTINGS = {
    **{name: ({"do_sample": True, **preset}, Settings(**preset)) for name, preset in PRESETS.items()},
    "greedy": ({"do_sample": False, "repetition_penalty": 1.0}, GREEDY),
    "all tokens": (
        {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0},
        Settings(1.0, 0, 1.0, 1.0),
    ),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_as_generate(name, model):
    """Up to the end of the context; one story after another, and all of them in three slots."""
    (fields, settings), decoder = SETTINGS[name], Decoder.from_model(model, slots=3)
    prompts = [[1, *range(5, 5 + length)] for length in (1, 9, 3, 20, 40, 7, 30)]
    limit = CONTEXT - max(map(len, prompts))
    expected = [generated(model, ids, seed, limit, **fields) for seed, ids in enumerate(prompts)]
    alone = [
        list(continue_story(decoder, ids, Sampler(settings, seed), {2}, limit)) for seed, ids in enumerate(prompts)
    ]
    assert alone == expected
    samplers = [Sampler(settings, seed) for seed in range(len(prompts))]
    assert dict(continue_stories(decoder, prompts, samplers, {2}, limit)) == dict(enumerate(expected))


@pytest.fixture(scope="module")
def large_model():
    """Its weights are large enough for guesses, and its head makes of a guess a right one now and then."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 9000, "hidden_size": 256, "intermediate_size": 256}
    config = TinyStoriesConfig(num_hidden_layers=1, num_attention_heads=4, max_position_embeddings=CONTEXT, **sizes)
    model = TinyStoriesForCausalLM(config).eval()
    for weight in model.parameters():
        if weight.ndim > 1:
            weight.data.mul_(3)
    return model


class Counted(Decoder):
    """Notes how many tokens are read at once."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.read = []

    def extend(self, slot, ids, all_logits=False):
        self.read.append(len(ids))
        return super().extend(slot, ids, all_logits)


@pytest.mark.parametrize("guessing", [True, False])
@pytest.mark.parametrize("name", SETTINGS)
def test_guesses_do_not_change_the_text(name, guessing, large_model):
    """From one token to the end of the context, with guesses and, as on a processor where they do not pay, without."""
    (fields, settings), decoder, ids = SETTINGS[name], Counted.from_model(large_model), [1, 7, 301, 8000, 12]
    assert decoder.may_guess
    decoder.can_guess = (decoder.can_guess or True) and guessing  # whatever is faster here
    for number in (1, 2, 3, 7, CONTEXT - len(ids)):
        decoder.read = []
        expected = generated(large_model, ids, number, number, **fields)
        assert list(continue_story(decoder, ids, Sampler(settings, number), {2}, number)) == expected
    lengths, new = decoder.read[1:], CONTEXT - len(ids) - 1  # after the prompt
    assert (max(lengths) > 2 and len(lengths) < new) if guessing else (set(lengths) == {2} and len(lengths) >= new - 1)


def test_end_within_guesses(large_model):
    """A story ends at its first end, also where more was guessed; the next story begins anew."""
    decoder, ids = Decoder.from_model(large_model), [1, 7, 301]
    decoder.can_guess = decoder.can_guess or True  # whatever is faster here
    whole = list(continue_story(decoder, ids, Sampler(GREEDY, 0), set(), 30))
    for place in range(0, 30, 3):
        end = whole[place]
        assert list(continue_story(decoder, ids, Sampler(GREEDY, 0), {end}, 30)) == whole[: whole.index(end) + 1]


def test_sample_story(model, tokenizer):
    """With the model's own generation config, to the end of the context; the random state stays as it was."""
    state = torch.get_rng_state()
    model.generation_config.max_new_tokens = 1000
    ids = tokenizer("Once upon")["input_ids"]
    expected = [*ids, *generated(model, ids, 4, CONTEXT - len(ids), do_sample=True, **PRESETS["natural"])]
    torch.set_rng_state(state)
    assert sample_story(model, tokenizer, "Once upon", 4) == tokenizer.decode(expected, skip_special_tokens=True)
    assert torch.equal(torch.get_rng_state(), state)


def test_other_settings_are_written_by_generate(model, tokenizer):
    """A generation config that asks for beams is not ignored."""
    model.generation_config.update(num_beams=3, do_sample=False, max_new_tokens=12)
    ids = tokenizer("Once")["input_ids"]
    expected = [*ids, *generated(model, ids, 0, 12, num_beams=3, do_sample=False, repetition_penalty=1.0)]
    assert sample_story(model, tokenizer, "Once", 0) == tokenizer.decode(expected, skip_special_tokens=True)
    model.generation_config.update(num_beams=1, do_sample=True)


def test_write_samples(model, tokenizer):
    """Any number at a time writes the same; the seeds of two prompts differ, and that of the first is the seed."""
    prompts = ["Once upon", "Once", "Once upon", "One day"]
    written = write_samples(model, tokenizer, prompts, "balanced", [5, 6], max_new_tokens=12, batch_size=1)
    assert written == write_samples(model, tokenizer, prompts, "balanced", [5, 6], max_new_tokens=12, batch_size=16)
    ids = tokenizer(prompts[2])["input_ids"]
    for number, seed in ((0, 5), (2, 5 + 2 * SEEDS_APART)):
        new = generated(model, ids, seed, 12, do_sample=True, **PRESETS["balanced"])
        whole = tokenizer.decode([*ids, *new], skip_special_tokens=True)
        assert written[number].text == whole[len(tokenizer.decode(ids, skip_special_tokens=True)) :]
        assert written[number].ended == (2 in new)


def test_changed_network(model, caplog):
    """A network whose code was changed is not written as the code was: the decoder is compared with it first."""
    assert decoder_of(model) is not None
    attend, scaling = model.model.layers[1].self_attn, model.model.layers[1].self_attn.scaling
    attend.scaling = 3 * scaling
    assert decoder_of(model) is None
    assert "whose code was changed" in caplog.text
    attend.scaling = scaling
    model.double()
    assert decoder_of(model) is None
    model.float()


def test_network_under_autocast(tokenizer, caplog):
    """Each evaluation of a run in bf16 said that the code was changed: accelerate puts autocast around a network."""
    model = untrained_model(tokenizer, context=CONTEXT)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(6)
    plain = model.forward
    prepared = Accelerator(mixed_precision="bf16", cpu=True).prepare_model(model)
    assert prepared.forward != plain
    assert decoder_of(prepared) is not None and not caplog.records
