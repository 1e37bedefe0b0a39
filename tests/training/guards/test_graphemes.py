"""Letters and their marks: this project's tokenizer keeps them together in every script, and a guard finds one that
does not, which gives every text back and still never learns a word."""

import json
import logging
import unicodedata

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from helpers.mutations import assert_stopped, small_run
from helpers.untrained import unpack_earlier_tokenizer
from tinystories.data.tokenizer import byte_level_pieces
from tinystories.errors import GuardError
from tinystories.training.guards.graphemes import check_graphemes, cut_letters
from tinystories.training.guards.samples import Sample


VIETNAMESE = "Cô bé được tặng một quyển sách rất đẹp."
GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
# A text, and how many of its letters GPT-2's pattern cuts from a mark or from the rest of the letter.
WITH_MARKS = {
    "Hindi": ("छोटी मछली", 3),
    "Hindi, conjuncts": ("क्ष श्री", 2),
    "Bengali": ("একটি মেয়ে", 3),
    "Tamil": ("சிறிய பூ", 3),
    "Sinhala, with a joiner": ("ශ්\u200dරී", 2),
    "Thai": ("น้ำ ที่", 2),
    "Lao": ("ນ້ອຍ", 1),
    "Burmese": ("ကလေး", 1),
    "Khmer": ("ក្មេង", 1),
    "Tibetan": ("བུ་མོ", 2),
    "Arabic, vocalised": ("ذَهَبَ", 3),
    "Hebrew, pointed": ("הַיֶּלֶד", 3),
    "Vietnamese, decomposed": (unicodedata.normalize("NFD", "một quyển"), 2),
    "Japanese, decomposed": (unicodedata.normalize("NFD", "がぎ"), 2),
    "many marks": ("h\u0334\u0322\u031be\u0337\u0321", 2),
}
KEPT_BY_BOTH = {
    "English": "The naïve fox drank café au lait.",
    "Chinese": "从前有一只小猫",
    "Korean": "한국어 이야기",
    "Korean, in parts": unicodedata.normalize("NFD", "한국어 이야기"),
    "Vietnamese, composed": VIETNAMESE,
    "Arabic": "ذهب الولد",
    "Persian, with non-joiners": "می‌خواهم کتاب‌ها",  # noqa: RUF001
    "Georgian": "პატარა",
    "emoji": "I ❤️ you 👩‍❤️‍👩 🇬🇧 🤝🏽 1️⃣ #️⃣ 🏴\U000e0067\U000e0062\U000e007f",
}


def cutting_at(pre_tokenizer, normalizer=None) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer, backend.normalizer = pre_tokenizer, normalizer
    return PreTrainedTokenizerFast(tokenizer_object=backend)


OURS, EARLIER = cutting_at(byte_level_pieces()), cutting_at(GPT2)


def stories_of(*texts) -> datasets.Dataset:
    return datasets.Dataset.from_dict({"text": list(texts)})


def guard(tokenizer, *corpora, fixed=False) -> str:
    return check_graphemes(tokenizer, list(corpora), Sample(1), fixed)


@pytest.mark.parametrize("script", WITH_MARKS)
def test_cut_letters(script, caplog):
    text, cut = WITH_MARKS[script]
    assert cut_letters(OURS, [text]).cut == 0
    assert cut_letters(EARLIER, [text]).cut == cut
    assert "keep their marks" in guard(OURS, stories_of(text))
    with pytest.raises(GuardError, match=r"no merge joins the pieces.*tokenizer"):
        guard(EARLIER, stories_of(text))
    assert not caplog.text


@pytest.mark.parametrize("script", KEPT_BY_BOTH)
def test_nothing_cut(script, caplog):
    """Guards: an alarm about text that loses nothing. Joiners and the selectors of emoji are not letters."""
    for tokenizer in (OURS, EARLIER):
        assert cut_letters(tokenizer, [KEPT_BY_BOTH[script]]).cut == 0
        guard(tokenizer, stories_of(KEPT_BY_BOTH[script]))
    assert not caplog.text


LETTERS_AND_MARKS = st.text(
    st.one_of(st.characters(categories=("L", "M")), st.sampled_from(" \u200c\u200dएकिे้\u0301\u1161\u11a8")), max_size=12
)


@given(text=LETTERS_AND_MARKS)
def test_no_letters_are_cut(text):
    """Whatever the letters and marks."""
    assert cut_letters(OURS, [text]).cut == 0


def test_marks_after_an_apostrophe(caplog):
    """The one letter that the pattern cuts, taken for the ending of "it's": it is rare, so it is only said."""
    text = f"L'\u015dafo, l'{unicodedata.normalize('NFD', chr(0x15D))}afo kaj {'aliaj bestoj ' * 20}"
    assert cut_letters(OURS, [text]).cut == 1
    guard(OURS, stories_of(text))
    assert caplog.records[0].levelno == logging.WARNING and "(NFC)" in caplog.text


SHARES = [(50, "stops"), (99, "stops"), (101, "warns"), (999, "warns"), (1001, "passes")]


@pytest.mark.parametrize(("letters", "outcome"), SHARES)
def test_share(letters, outcome, caplog):
    """One letter in so many: above 1 % a run stops, above 0.1 % it is warned."""
    corpus = stories_of("e\u0301" + "a" * (letters - 1))
    if outcome == "stops":
        with pytest.raises(GuardError, match=rf"cuts {1 / letters:.2%} of the letters apart, such as .* into 'e' and"):
            guard(EARLIER, corpus)
        return
    guard(EARLIER, corpus)
    assert bool(caplog.text) == (outcome == "warns")


def test_all_stories_are_searched(caplog):
    """Guards: a few Hindi stories that no sample would find; their share counts all stories."""
    english, hindi = ["A fox sat."] * 2990, ["छोटी मछली"] * 10
    guard(EARLIER, stories_of(*english), stories_of(*hindi))
    assert "cuts 0.20% of the letters" in caplog.text
    with pytest.raises(GuardError):
        guard(EARLIER, stories_of(*english[:90]), stories_of(*hindi))


def test_tokenizer_that_cannot_change(caplog):
    """A model that is continued and a run that is resumed keep their tokenizer: a warning."""
    found = guard(EARLIER, stories_of("छोटी मछली"), fixed=True)
    assert "60.00%" in found and found in caplog.text


def test_other_tokenizers(caplog):
    """The text is cut after it is normalized; nothing cuts where there is no pre-tokenizer; single characters do."""
    decomposed = unicodedata.normalize("NFD", VIETNAMESE)
    assert cut_letters(cutting_at(GPT2, normalizers.NFC()), [decomposed]).cut == 0
    assert cut_letters(cutting_at(None), [decomposed]).cut == 0
    assert cut_letters(cutting_at(pre_tokenizers.ByteLevel(use_regex=False)), [decomposed]).cut == 0
    assert cut_letters(cutting_at(pre_tokenizers.Split(Regex("."), "isolated")), ["छो"]).cut == 1
    assert guard(OURS, stories_of(), stories_of()).startswith("no letter of 0 stories")


@pytest.mark.slow
def test_named_tokenizer(tmp_path):
    """A tokenizer of version 0.1.0, with GPT-2's pattern, stops a run on Hindi before it trains, and not on English."""
    tokenizer = unpack_earlier_tokenizer(tmp_path / "earlier")
    processes = {}
    for name, sentence in {"hindi": "छोटी मछली को किताब मिली", "english": "A little fish found a book"}.items():
        (tmp_path / name).mkdir()
        corpus = tmp_path / name / "stories.txt"
        corpus.write_text("\n\n".join(f"{sentence}. {i} {i * 7}" for i in range(200)), encoding="utf-8")
        processes[name] = small_run(tmp_path / name, corpus, "--tokenizer_name", str(tokenizer))
    assert_stopped(processes["hindi"], "of the letters apart, such as 'छो' into")
    assert processes["english"].returncode == 0, processes["english"].stderr[-2000:]
    found = json.loads((tmp_path / "english" / "run" / "data_report.json").read_text(encoding="utf-8"))["guards"]
    assert found["graphemes"].startswith("no letter of 200 stories")


@pytest.mark.slow
def test_mutated_pre_tokenizer(tmp_path, mutated_tree):
    """Guards: this project's own pattern without marks."""
    corpus = tmp_path / "stories.txt"
    corpus.write_text("\n\n".join(f"छोटी मछली को किताब मिली. {i} {i * 7}" for i in range(200)), encoding="utf-8")
    tree = mutated_tree("tinystories/data/tokenizer.py", r"]?[\p{L}\p{M}]+|", r"]?\p{L}+|")
    assert_stopped(small_run(tmp_path, corpus, tree=tree), "of the letters apart")
