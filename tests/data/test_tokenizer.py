"""The tokenizer: exact round trips, special tokens that cannot be typed, a file that loads without this project."""

import json
import logging
import os
import re
from dataclasses import replace

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import pre_tokenizers
from transformers import AutoTokenizer
from transformers.models.qwen3_5.tokenization_qwen3_5 import PRETOKENIZE_REGEX

from helpers.runs import mistake, output_of, run_command, run_with_transformers_only
from helpers.untrained import unpack_earlier_tokenizer
from tinystories.commands.tokenizer import main
from tinystories.config.keys import DataArguments, TokenizerArguments
from tinystories.data.corpus import load_corpus
from tinystories.data.sample_corpus import sample_stories
from tinystories.data.tokenizer import (
    byte_level_pieces,
    describe,
    load_or_train_tokenizer,
    load_tokenizer,
    tokenizer_report,
    train_tokenizer,
    training_stories,
)


SENTENCES = (
    "The little hen had a basket and an apple.",
    "An owl sat in the old tree, and the wind sang to the owl.",
    "One day the goat found a key under the big stone.",
    'Then the goat said, "I will open the door!"',
)
ARGUMENTS = TokenizerArguments(vocab_size=330)


def as_dataset(texts) -> datasets.Dataset:
    return datasets.Dataset.from_dict({"text": list(texts)})


@pytest.fixture(scope="module")
def stories():
    return as_dataset(f"{SENTENCES[i % 4]} Number {i}." for i in range(40))


@pytest.fixture(scope="module")
def trained(stories):
    return train_tokenizer(stories, ARGUMENTS)


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    trained.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["trained", "reloaded"])
def tokenizer(request, trained, folder):
    return trained if request.param == "trained" else AutoTokenizer.from_pretrained(folder)


def content(tokenizer) -> dict:
    return json.loads(tokenizer.backend_tokenizer.to_str())


# Any text

TRICKY = (
    *("छोटी मछली", "น้ำใจ", "ذَهَبَ", "I ❤️ you 1️⃣", "l's\u0302", " \u0301", "\u0301a"),
    *("<|bos|>", "<|eos|>", "<|pad|>", "<|endoftext|>"),
    *(" ", "  ", "\n", "\r\n", "\t", "\x00", "\x1b[0m", "\u200d", "\ufeff", "\U0010ffff"),
    *("e\u0301", "\u00e9", "\ufb01", "ß", "Ⅻ", "\u1112\u1161\u11ab", "\ud55c"),  # what normalisation would change
    *("🦊", "\U0001f469\u200d\U0001f467", "\U0001f1e8\U0001f1ed"),
    *(" ,", " .", " 's", "do n't"),  # what "cleaning up" would change
    *("\u0120", "\u0120a", "##a"),  # how tokens are written
)
any_text = st.lists(st.one_of(st.text(max_size=12), st.sampled_from([*TRICKY, *SENTENCES])), max_size=8).map("".join)


@given(text=any_text)
def test_round_trip(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert all(0 <= token < len(tokenizer) for token in ids)
    assert not set(ids) & set(tokenizer.all_special_ids)


@pytest.mark.parametrize("text", TRICKY)
def test_round_trip_of_a_prompt(tokenizer, text):
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


@pytest.mark.parametrize("text", ["<|bos|>", "<|eos|>", "<|pad|>", "She read <|eos|><|pad|> aloud.", " <|bos|> "])
def test_typed_special_token_is_text(tokenizer, text):
    for ids in (tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer([text])["input_ids"][0][1:]):
        assert not set(ids) & {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
        assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_all_bytes_are_tokens(tokenizer):
    assert set(pre_tokenizers.ByteLevel.alphabet()) <= set(tokenizer.get_vocab())
    assert tokenizer.unk_token is None


def test_prompt_gets_bos_and_no_eos(tokenizer):
    plain = tokenizer(SENTENCES[0], add_special_tokens=False)["input_ids"]
    assert tokenizer.bos_token_id not in plain
    assert tokenizer(SENTENCES[0])["input_ids"] == [tokenizer.bos_token_id, *plain]
    assert tokenizer([SENTENCES[0], ""])["input_ids"] == [[tokenizer.bos_token_id, *plain], [tokenizer.bos_token_id]]
    assert tokenizer.encode(SENTENCES[0]) == [tokenizer.bos_token_id, *plain]


def test_left_padding(tokenizer):
    batch = tokenizer([SENTENCES[0], "The"], padding=True)
    assert batch["input_ids"][1][0] == tokenizer.pad_token_id
    assert batch["input_ids"][1][-1] != tokenizer.pad_token_id
    assert batch["attention_mask"][1][0] == 0 and batch["attention_mask"][1][-1] == 1


def test_special_tokens_are_distinct(tokenizer):
    ids = {tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}
    assert len(ids) == 3 and None not in ids
    assert sorted(tokenizer.get_vocab().values()) == list(range(len(tokenizer)))
    assert len(tokenizer) == tokenizer.vocab_size == ARGUMENTS.vocab_size


def test_no_truncation(folder, tokenizer):
    stored = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    assert stored["truncation"] is None and stored["padding"] is None
    text = SENTENCES[0] * 2000
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_saved_tokenizer(trained, folder):
    reloaded = AutoTokenizer.from_pretrained(folder)
    assert content(reloaded) == content(trained)
    for name in ("bos_token", "eos_token", "pad_token", "padding_side", "split_special_tokens", "vocab_size"):
        assert getattr(reloaded, name) == getattr(trained, name)


@pytest.mark.slow
def test_loads_with_transformers_alone(trained, folder, tmp_path):
    text = "She said <|eos|> to the fox 🦊.  Nobody  knew."
    code = f"""
import json, sys
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained({str(folder)!r})
ids = tokenizer(json.loads({json.dumps(text)!r}))["input_ids"]
assert "tinystories" not in sys.modules
print(json.dumps([ids, tokenizer.decode(ids, skip_special_tokens=True), tokenizer.eos_token_id]))
"""
    ids, decoded, eos = json.loads(output_of(run_with_transformers_only(code, tmp_path)))
    assert ids == trained(text)["input_ids"]
    assert (decoded, eos) == (text, trained.eos_token_id)


# Pieces

PIECES = {
    "छोटी मछली": ["छोटी", " मछली"],
    "น้ำใจดี": ["น้ำใจดี"],
    "ذَهَبَ الوَلَدُ": ["ذَهَبَ", " الوَلَدُ"],
    "un e\u0301te\u0301": ["un", " e\u0301te\u0301"],
    'It\'S "odd",': ["It", "'S", ' "', "odd", '",'],
    "in 2024": ["in", " ", "2", "0", "2", "4"],
    "end.\n\n  Then  two": ["end", ".\n\n", " ", " Then", " ", " two"],
    "a_b (c)": ["a", "_b", " (", "c", ")"],
}


@pytest.mark.parametrize("text", PIECES)
def test_pieces(text):
    """As llama.cpp's `qwen35` cuts: letters with their marks and one other character before them; a digit alone."""
    pieces = [text[begin:end] for _, (begin, end) in byte_level_pieces().pre_tokenize_str(text)]
    assert pieces == PIECES[text]


def test_pattern_is_that_of_qwen(tokenizer):
    """Letter for letter, because other programs know it by name."""
    (cut, as_bytes) = content(tokenizer)["pre_tokenizer"]["pretokenizers"]
    assert (cut["type"], cut["behavior"], cut["invert"]) == ("Split", "Isolated", False)
    assert cut["pattern"] == {"Regex": PRETOKENIZE_REGEX}
    assert (as_bytes["type"], as_bytes["add_prefix_space"], as_bytes["use_regex"]) == ("ByteLevel", False, False)


def test_words_with_marks_become_tokens():
    """Guards: words that no merge can join, while every text comes back."""
    tokenizer = train_tokenizer(as_dataset(["छोटी मछली", "น้ำใจ"] * 9), TokenizerArguments(vocab_size=400))
    for text in ("छोटी", " मछली", "น้ำใจ"):
        (token,) = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode([token]) == text


def test_english_has_the_tokens_of_gpt2():
    """Guards: pieces that cost English tokens of their own, such as a quotation mark and a word, or two line ends."""
    texts = [text for text in sample_stories(400, seed=3) if not re.search(r"\d\d", text)]
    texts += [f'"Look!"\n\n"I see," said {name}. \n"It\'s {name}\'s."' for name in ("Ann", "Bo", "Cy") * 30]
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    arguments = TokenizerArguments(vocab_size=700)
    ours, theirs = (train_tokenizer(as_dataset(texts), arguments, earlier) for earlier in (None, gpt2))
    assert ours.get_vocab() == theirs.get_vocab()
    assert ours(texts)["input_ids"] == theirs(texts)["input_ids"]
    assert ours.tokenize('"Look') == ['"', "Look"]


def test_earlier_tokenizer(tmp_path):
    """One that version 0.1.0 saved, with GPT-2's pattern, cuts and encodes as it did."""
    earlier = load_tokenizer(str(unpack_earlier_tokenizer(tmp_path)))
    assert content(earlier)["pre_tokenizer"]["type"] == "ByteLevel"
    assert earlier.tokenize("a cat's 12") == ["a", "Ġc", "at", "'", "s", "Ġ", "1", "2"]
    for text in ("छोटी मछली", *TRICKY):
        assert earlier.decode(earlier(text)["input_ids"], skip_special_tokens=True) == text


def test_resumed_run_keeps_its_pieces(stories, tmp_path):
    """Trained again for a run that version 0.1.0 began, a tokenizer cuts as that run's does; a fresh one does not."""
    folder = str(unpack_earlier_tokenizer(tmp_path / "earlier"))
    arguments = TokenizerArguments(vocab_size=300)
    resumed = load_or_train_tokenizer(arguments, stories, str(tmp_path / "cache"), resumed=folder)
    fresh = load_or_train_tokenizer(arguments, stories, str(tmp_path / "cache"))
    assert content(resumed)["pre_tokenizer"] == content(load_tokenizer(folder))["pre_tokenizer"]
    assert content(fresh) == content(train_tokenizer(stories, arguments)) != content(resumed)


# Training


def test_deterministic_training(stories, trained):
    assert content(train_tokenizer(stories, ARGUMENTS)) == content(trained)


def test_frequent_words_become_tokens(trained):
    assert trained.tokenize(" the") == ["Ġthe"]


def test_too_few_pairs_warn(caplog):
    caplog.set_level(logging.WARNING)
    tokenizer = train_tokenizer(as_dataset(["aa aa", "aa"]), TokenizerArguments(vocab_size=5000))
    assert 259 < len(tokenizer) < 300
    assert str(len(tokenizer)) in caplog.text and "5000" in caplog.text
    assert tokenizer.decode(tokenizer("aa, bé")["input_ids"], skip_special_tokens=True) == "aa, bé"


def test_enough_pairs_do_not_warn(stories, caplog):
    caplog.set_level(logging.WARNING)
    train_tokenizer(stories, ARGUMENTS)
    assert not caplog.text


def test_smallest_vocabulary(stories):
    tokenizer = train_tokenizer(stories, TokenizerArguments(vocab_size=259))
    assert len(tokenizer) == 259
    assert len(tokenizer("the é", add_special_tokens=False)["input_ids"]) == 6


@pytest.mark.parametrize("size", [258, 256, 3, 0, -1])
def test_missing_bytes(stories, size):
    """A vocabulary too small for all bytes is refused."""
    assert "259" in mistake(train_tokenizer, stories, TokenizerArguments(vocab_size=size))


def test_min_frequency():
    stories = as_dataset(["zq"] * 3)
    assert train_tokenizer(stories, TokenizerArguments(vocab_size=300, min_frequency=3)).tokenize("zq") == ["zq"]
    assert train_tokenizer(stories, TokenizerArguments(vocab_size=300, min_frequency=4)).tokenize("zq") == ["z", "q"]


def test_sample(stories):
    """Guards: a sample of the first stories only, one that differs from run to run, and one of a small text."""

    def chosen(number, of=stories, **more):
        arguments = TokenizerArguments(tokenizer_sample_stories=number, **more)
        return training_stories(of, arguments)["text"][:]

    everything = stories["text"][:]
    for number in (0, len(stories), len(stories) + 1, 10**9):
        assert chosen(number) == everything
    assert chosen(5, max_samples=9) == everything[:9]
    many = as_dataset(f"{number}" for number in range(2000))
    places = [int(text) for text in chosen(200, of=many)]
    assert places == sorted(set(places)) and len(places) == 200
    assert all(sum(place // 500 == part for place in places) >= 10 for part in range(4)), "not spread over the corpus"
    assert chosen(200, of=many) == [str(place) for place in places]
    assert "at least 0" in mistake(chosen, -1)


def test_trained_on_the_sample(stories, tmp_path):
    """Guards: a tokenizer of all stories under the key of a sample, and a report that does not say what it saw."""
    arguments = TokenizerArguments(vocab_size=300, tokenizer_sample_stories=7)
    sample = training_stories(stories, arguments)
    trained = load_or_train_tokenizer(arguments, stories, str(tmp_path))
    assert content(trained) == content(train_tokenizer(sample, TokenizerArguments(vocab_size=300)))
    report = tokenizer_report(trained, stories)
    assert report["trained_on_stories"] == 7 and "trained on 7 stories" in describe(report)
    everything = load_or_train_tokenizer(replace(arguments, tokenizer_sample_stories=0), stories, str(tmp_path))
    assert content(everything) != content(trained)


def test_resumed_run_keeps_its_stories(stories, tmp_path):
    """Guards: a run that began before there were samples, and could not be resumed with another tokenizer."""
    arguments = TokenizerArguments(vocab_size=300, tokenizer_sample_stories=7)
    earlier = train_tokenizer(stories, TokenizerArguments(vocab_size=300))
    earlier.save_pretrained(tmp_path / "earlier")
    resumed = load_or_train_tokenizer(arguments, stories, str(tmp_path / "cache"), resumed=str(tmp_path / "earlier"))
    assert content(resumed) == content(earlier)


def test_max_samples(stories):
    some = train_tokenizer(stories, TokenizerArguments(vocab_size=300, max_samples=6))
    assert content(some) == content(train_tokenizer(stories.select(range(6)), TokenizerArguments(vocab_size=300)))
    assert content(some) != content(train_tokenizer(stories, TokenizerArguments(vocab_size=300)))


def test_trained_once_for_the_same_input(stories, tmp_path):
    def tokenizer(stories, **settings):
        return content(load_or_train_tokenizer(TokenizerArguments(**settings), stories, str(tmp_path)))

    first = tokenizer(stories, vocab_size=300)
    assert tokenizer(as_dataset(stories["text"]), vocab_size=300) == first
    assert len(list(tmp_path.iterdir())) == 1
    others = [
        tokenizer(stories, vocab_size=301),
        tokenizer(stories, vocab_size=300, min_frequency=39),
        tokenizer(stories, vocab_size=300, max_samples=3),
        tokenizer(as_dataset(["Something else, something else."] * 9), vocab_size=300),
    ]
    assert len(list(tmp_path.iterdir())) == 5
    assert len({json.dumps(other) for other in [first, *others]}) == 5


def test_named_tokenizer(stories, trained, folder, tmp_path):
    arguments = TokenizerArguments(tokenizer_name=str(folder), vocab_size=500)
    assert content(load_or_train_tokenizer(arguments, stories, str(tmp_path))) == content(trained)
    assert not list(tmp_path.iterdir())


def test_folder_without_tokenizer(tmp_path):
    assert str(tmp_path) in mistake(load_tokenizer, str(tmp_path))
    assert "missing" in mistake(load_tokenizer, str(tmp_path / "missing"))
    (tmp_path / "tokenizer.json").write_text("{", encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "TokenizersBackend"}', encoding="utf-8")
    assert str(tmp_path) in mistake(load_tokenizer, str(tmp_path))


def test_report():
    tokenizer = train_tokenizer(as_dataset(["a"]), TokenizerArguments(vocab_size=259))
    report = tokenizer_report(tokenizer, as_dataset(["Zoë", "🦊 an"]))
    assert (report["vocab_size"], report["held_out_stories"], report["held_out_bytes"]) == (259, 2, 4 + 7)
    assert report["bytes_per_token"] == 1.0  # a token is a byte here; with BOS or EOS it would be less
    assert report["articles"][" an"] == ["Ġ", "a", "n"]


# The command


@pytest.fixture
def story_file(stories, tmp_path):
    path = tmp_path / "stories.txt"
    path.write_text("\n\n".join(stories["text"]), encoding="utf-8")
    return path


def test_command(story_file, tmp_path, capsys):
    """It writes the tokenizer and its report; training a second time, with a cache of its own, gives the same."""
    data = {"train_file": str(story_file), "validation_fraction": 0.2, "data_cache_dir": str(tmp_path / "cache")}
    options = [f"--{key}={value}" for key, value in data.items()]
    out = tmp_path / "out"
    main([*options, "--vocab_size", "300", "--output_dir", str(out)])
    printed = capsys.readouterr()

    corpus = load_corpus(DataArguments(**data))
    trained = train_tokenizer(corpus.train, TokenizerArguments(vocab_size=300))
    assert content(AutoTokenizer.from_pretrained(out)) == content(trained)
    report = json.loads((out / "tokenizer_report.json").read_text(encoding="utf-8"))
    assert report == tokenizer_report(trained, corpus.validation)
    assert report["vocab_size"] == 300 and report["held_out_stories"] == 8
    for part in ("300 tokens", f"{report['bytes_per_token']:.2f} bytes per token", "' a' =", "' an' =", "' the' ="):
        assert part in printed.out
    assert "error" not in printed.err


@pytest.mark.slow
@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="limits the size of a file")
def test_full_disk(tmp_path):
    """One line, and an earlier tokenizer stays as it was."""
    options = ["--num_sample_stories", "20", "--data_cache_dir", tmp_path / "cache", "--output_dir", tmp_path / "made"]
    assert run_command("train_tokenizer.py", *options, "--vocab_size", "260").returncode == 0
    before = {file.name: file.read_bytes() for file in (tmp_path / "made").iterdir()}
    code = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))"
    process = run_command("train_tokenizer.py", *options, "--vocab_size", "300", code=code)
    assert process.returncode == 1 and process.stderr.splitlines()[-1].startswith("error: the disk is full: ")
    assert "Traceback" not in process.stderr
    assert {file.name: file.read_bytes() for file in (tmp_path / "made").iterdir()} == before


def test_error_of_the_command(tmp_path):
    """One line on stderr, exit status 1, and nothing written."""
    process = run_command("train_tokenizer.py", "--train_file", "missing.txt", cwd=tmp_path)
    assert process.returncode == 1
    (line,) = process.stderr.splitlines()
    assert line.startswith("error: ") and "missing.txt" in line
    assert not process.stdout
    assert not list(tmp_path.iterdir())


def test_refusal_writes_nothing(story_file, tmp_path):
    data = [f"--train_file={story_file}", f"--data_cache_dir={tmp_path / 'cache'}", "--vocab_size=300"]
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}", encoding="utf-8")
    assert "model" in mistake(main, [*data, f"--output_dir={tmp_path / 'model'}"])
    assert str(story_file) in mistake(main, [*data, f"--output_dir={story_file}"])  # a file, not a folder
    assert "259" in mistake(main, [*data, f"--output_dir={tmp_path / 'out'}", "--vocab_size=100"])
    assert "tokenizer_name" in mistake(main, [*data, "--tokenizer_name", "any"])
    assert "vocab_size" in mistake(main, [*data, "--vocab_size", "many"])
    assert "train_file" in mistake(main, ["--train_fil", str(story_file)])
    assert "source" in mistake(main, [f"--output_dir={tmp_path / 'out'}"])
    assert not (tmp_path / "out").exists()
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["config.json"]
