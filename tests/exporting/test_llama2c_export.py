"""What run.c of llama2.c makes of the exported files is the checkpoint: its ids, its logits, its greedy text."""

import datasets
import numpy as np
import pytest
import torch
from tokenizers import AddedToken, pre_tokenizers, processors

from helpers.export_sources import CONTEXT, STORIES, expected_of_small, random_source
from helpers.run_c import FIRST_BYTE, STOP, RunC
from helpers.runs import mistake
from tinystories.checkpoint.llama2c import read_model
from tinystories.config.keys import TokenizerArguments
from tinystories.data.sample_corpus import sample_stories
from tinystories.data.tokenizer import byte_level_pieces, train_tokenizer
from tinystories.exporting import llama2c
from tinystories.exporting.llama2c_reader import RunCReader, RunCTokenizer
from tinystories.exporting.proof import ProofError, greedy, prove
from tinystories.exporting.texts import proof_texts


NETWORKS = {
    "shared matrix": {},
    "own matrix": {"tie_word_embeddings": False},
    "a head of keys for each query": {"num_key_value_heads": 4},
    "eps of run.c": {"rms_norm_eps": 1e-5},
    "large eps": {"rms_norm_eps": 0.5},
    "small eps": {"rms_norm_eps": 1e-9},
}
PROMPTS = ("", "Once upon a time", "One day", STORIES[0][:24], " a space", "a  b", 'Zoë said "Don\'t!" \nThey')


def written(source, folder) -> RunC:
    llama2c.check(source)
    llama2c.write(source, folder)
    return RunC(folder)


def checkpoint_ids(source, program, tokens) -> list[int]:
    """Tokens of the file as ids of the checkpoint, by what they write. 1 is EOS where it is chosen, 2 is BOS."""
    words = source.tokenizer
    special = [words.pad_token_id, words.eos_token_id, words.bos_token_id]
    by_bytes = {
        bytes(BYTE_OF[letter] for letter in words.convert_ids_to_tokens(token)): token
        for token in range(len(words))
        if token not in special
    }
    by_bytes[b""] = by_bytes[b"\0"]  # where a text of C ends
    return [special[token] if token < FIRST_BYTE else by_bytes[program.pieces[token]] for token in tokens]


def byte_letters() -> list[str]:
    """The letter of each byte in byte-level tokenizers."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in shown else chr(next(others)) for byte in range(256)]


BYTE_OF = {letter: byte for byte, letter in enumerate(byte_letters())}


@pytest.mark.parametrize("network", NETWORKS)
def test_same_model_by_run_c(tokenizer, network, tmp_path):
    """Start, space, eps, rotation or matrix as in the checkpoint and not as in run.c: another text."""
    source = random_source(tokenizer, **NETWORKS[network])
    program = written(source, tmp_path)
    for prompt in PROMPTS:
        tokens, ids = program.encode(prompt), tokenizer(prompt)["input_ids"]
        assert checkpoint_ids(source, program, tokens[1:]) == ids[1:], prompt
        with torch.inference_mode():
            own = source.model(torch.tensor([ids])).logits[0, -1].double().numpy()
        order = checkpoint_ids(source, program, range(len(tokenizer)))
        np.testing.assert_allclose(program.logits(tokens)[-1], own[order], rtol=1e-4, atol=1e-4)
    angles = np.outer(np.arange(CONTEXT), 10000.0 ** -(np.arange(0, 8, 2) / 8))
    np.testing.assert_allclose(program.rotations, [np.cos(angles), np.sin(angles)], atol=1e-6)
    prompt = PROMPTS[1]
    chosen, printed = program.greedy(prompt, CONTEXT)
    ids = tokenizer(prompt)["input_ids"]
    expected = greedy(source.model, tokenizer, ids, CONTEXT - len(ids))
    assert checkpoint_ids(source, program, chosen)[: len(expected)] == expected
    assert printed.startswith(prompt.encode()), "without the space that run.c puts before it"


@pytest.mark.parametrize("network", NETWORKS)
def test_same_model_by_the_reader(tokenizer, network, tmp_path):
    source = random_source(tokenizer, **NETWORKS[network])
    llama2c.write(source, tmp_path)
    (reader,) = llama2c.readers(source, tmp_path)
    proof = prove(expected_of_small(source, proof_texts(STORIES)), reader)
    assert proof["largest_logit_difference"] < 1e-3
    assert proof["texts_equal"] >= 290 and proof["other_ids"] == "run.c does not cut a text before it merges"


def test_another_model_is_refused(tokenizer, tmp_path):
    """The proof would find a matrix or a norm that was written wrong."""
    llama2c.write(random_source(tokenizer, rms_norm_eps=0.5), tmp_path)
    other = random_source(tokenizer)
    (reader,) = llama2c.readers(other, tmp_path)
    with pytest.raises(ProofError):
        prove(expected_of_small(other, STORIES), reader)


def test_ends_at_eos(tokenizer, tmp_path):
    """run.c stops where it chooses token 1."""
    source = random_source(tokenizer, tie_word_embeddings=False)
    ids = torch.tensor([tokenizer("Once upon")["input_ids"]])
    with torch.inference_mode():
        last = source.model.model(ids).last_hidden_state[0, -1]
        source.model.lm_head.weight[tokenizer.eos_token_id] = last
    program = written(source, tmp_path)
    assert program.greedy("Once upon", CONTEXT) == ([STOP], b"Once upon")
    reader = RunCReader(tmp_path / "model.bin", tmp_path / "tokenizer.bin", source)
    assert reader.greedy(ids[0].tolist(), 20) == [tokenizer.eos_token_id]


def test_eps_is_absorbed(tokenizer, tmp_path):
    """The reader of other llama2.c files, whose norms add 1e-5, computes the checkpoint's logits."""
    source = random_source(tokenizer, rms_norm_eps=0.5)
    llama2c.write(source, tmp_path)
    program, model = RunC(tmp_path), read_model(tmp_path / "model.bin")
    assert model.config.rms_norm_eps == 1e-5 and not model.config.tie_word_embeddings
    ids = tokenizer(STORIES[0])["input_ids"][:20]
    with torch.inference_mode():
        own = source.model(torch.tensor([ids])).logits[0]
        found = model(torch.tensor([program.encode(tokenizer.decode(ids[1:]))])).logits[0]
    order = checkpoint_ids(source, program, range(len(tokenizer)))
    torch.testing.assert_close(found, own[:, order], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("which", ["tokenizer", "earlier"])
def test_ids_of_texts(which, request, tmp_path):
    """Stories get the checkpoint's ids, and the reader's quick way to join tokens is the program's slow one."""
    tokenizer = request.getfixturevalue(which)
    source = random_source(tokenizer, num_hidden_layers=1)
    program, other = written(source, tmp_path), []
    quick = RunCTokenizer(tmp_path / "tokenizer.bin")
    stories = [story[:200] for story in sample_stories(20, seed=77)]
    for text in [*proof_texts(stories), "word \nWord", "say 'them' and don't", "the end \n", "“Zoë and a café” 😀"]:
        text = text.split("\0")[0]
        tokens = program.encode(text)
        assert quick.encode(text) == tokens, text
        if checkpoint_ids(source, program, tokens[1:]) != tokenizer(text, add_special_tokens=False)["input_ids"]:
            other.append(text)
    assert not set(other) & {*stories, "word \nWord", "say 'them' and don't", "“Zoë and a café” 😀"}
    assert len(other) < 10


def test_a_quotation_and_a_line(tmp_path):
    """run.c joins 't in " 'them", and a space with the line end after it, unless their scores say otherwise."""
    texts = [f"He can't, won't, don't say 'them' or 'this'. \nTom isn't {i}." for i in range(30)]
    texts += ["the end \n \n"] * 30
    tokenizer = train_tokenizer(
        datasets.Dataset.from_dict({"text": texts}),
        TokenizerArguments(vocab_size=330),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
    )
    ids = tokenizer.get_vocab()
    assert ids["'t"] < ids["Ġ'"] and "ĠĊ" in ids, "else there is nothing to test"
    source = random_source(tokenizer, num_hidden_layers=1)
    program = written(source, tmp_path)
    for text in ("He can't say 'them'", "say 'this'. \nTom won't", "'s", "a 'b"):
        found = checkpoint_ids(source, program, program.encode(text)[1:])
        assert found == tokenizer(text, add_special_tokens=False)["input_ids"], text


def test_what_is_printed(tokenizer, tmp_path):
    """run.c prints no single byte beyond ASCII: a letter that the tokenizer writes so is missing in the text only."""
    program = written(random_source(tokenizer, num_hidden_layers=1), tmp_path)
    texts = (" a café", "жa")
    shown = [b"".join(program.printed(2, token) for token in program.encode(text)[1:]) for text in texts]
    assert shown == [" a café".encode(), b"a"]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"partial_rotary_factor": 0.5}, "rotates all of each head"),
        ({"rope_theta": 10001.0}, "has RoPE of base 10000, and this checkpoint 10001"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, "no RoPE of type linear"),
        ({"head_dim": 16}, "has heads that are together as wide as the model"),
        ({"hidden_act": "gelu"}, "has no activation gelu"),
        ({"rms_norm_eps": 0.0}, "cannot do without the term in its norms"),
    ],
)
def test_networks_that_run_c_does_not_have(tokenizer, fields, reason):
    assert reason in mistake(lambda: llama2c.check(random_source(tokenizer, **fields)))


def changed(change):
    tokenizer = train_tokenizer(
        datasets.Dataset.from_dict({"text": ["<unk> \0a\0a \n<s>\n"] * 9}), TokenizerArguments(vocab_size=300)
    )
    change(tokenizer)
    return tokenizer


def no_bos(tokenizer):
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t.add_special_tokens({"extra_special_tokens": ["<|sep|>"]}), "has other special tokens"),
        (lambda t: t.add_tokens([AddedToken("dragon")]), "has other special tokens"),
        (lambda t: setattr(t, "pad_token", None), "has other special tokens"),
        (lambda t: setattr(t, "pad_token", t.eos_token), "has other special tokens"),
        (no_bos, "puts no BOS before a text"),
        (lambda t: None, "goes on after the byte 0"),
    ],
)
def test_tokenizers_that_run_c_does_not_have(change, reason):
    assert reason in mistake(lambda: llama2c.check(random_source(changed(change))))


def test_text_that_would_become_a_special_token():
    """A token "<unk>" would turn typed text into PAD."""
    texts = datasets.Dataset.from_dict({"text": ["<unk>"] * 9})
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer = train_tokenizer(texts, TokenizerArguments(vocab_size=300), whole)
    tokenizer.backend_tokenizer.pre_tokenizer = byte_level_pieces()
    assert "tokens that join to b'<unk>'" in mistake(lambda: llama2c.check(random_source(tokenizer)))
