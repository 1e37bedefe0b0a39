"""Texts on which two tokenizers are compared: all scripts, emoji, white space, marks, typed special tokens, noise."""

import random
import unicodedata
from collections.abc import Sequence


NUM_TEXTS = 300
OPENINGS = 60
ALPHABETS = (  # first and last letter of a range; some of the code points in it may be unassigned
    ("a", "z"),
    ("À", "ɏ"),
    ("Ͱ", "Ͽ"),  # Greek
    ("Ѐ", "ӿ"),  # Cyrillic
    ("\u0531", "\u058f"),  # Armenian
    ("\u0590", "\u05ff"),  # Hebrew, with points
    ("\u0600", "\u06ff"),  # Arabic, with marks and digits
    ("\u0900", "\u097f"),  # Devanagari
    ("\u0980", "\u09ff"),  # Bengali
    ("\u0b80", "\u0bff"),  # Tamil
    ("\u0e00", "\u0e7f"),  # Thai
    ("\u1000", "\u109f"),  # Myanmar
    ("\u10a0", "\u10ff"),  # Georgian
    ("\u1200", "\u137f"),  # Ethiopic
    ("\u1780", "\u17ff"),  # Khmer
    ("\u3040", "\u30ff"),  # kana
    ("\u4e00", "\u9fff"),  # Han
    ("\uac00", "\ud7a3"),  # Hangul
    ("\u2000", "\u206f"),  # general punctuation, with invisible ones
    ("\u2100", "\u214f"),  # letterlike
    ("\u2460", "\u24ff"),  # enclosed numbers
    ("\U0001d400", "\U0001d7ff"),  # mathematical letters
    ("\U0001f300", "\U0001faff"),  # emoji
    ("\U00010330", "\U0001034f"),  # Gothic
)
WHITE_SPACE = " \t\n\r\v\f\x1c\x1f\x85\xa0\u1680\u2003\u2028\u2029\u202f\u205f\u3000\u200b\ufeff"
WRITTEN = (
    "",
    " ",
    "  two  spaces   three    four",
    "one\n\ntwo\r\nthree\rfour\n \n  five",
    "\n\n\nafter empty lines",
    " trailing white space \t \n",
    "tabs\tand\t\tmore\ttabs",
    "\ufeffa byte order mark",
    "zero\u200bwidth\u200dspaces\u2060here",
    "no-break\xa0space and thin\u2009space",
    "next\x85line and \x1cseparators\x1f",
    "I'm, you're, it's, we'll, they've, he'd, don't, o'clock",
    "I'M, YOU'RE, IT'S, WE'LL, THEY'VE, HE'D, DON'T",
    "I\u2019m and \u2018quoted\u2019 and \u201cdouble\u201d",
    "'sun 'red 'tis 'd'd'd''''s",
    "\u0130'S \u017f's \u212aelvin'\u017f",
    "1 22 333 4444 55555 3.14 1,000,000 10:45 2nd 007",
    "\u0663 \u09ea \u096b \u0e56 \u2167 \u00b2 \u00bd \u2460 \u4e94",
    "a1b2c3 x86-64 H2O \u00b9\u00b2\u00b3",
    "...!!! ?! -- \u2014 \u2026 (a) [b] {c} <d> #e $f %g ^h &i *j _k ~l `m`",
    "\"Hello,\" said Lily. \"Who are you?\"",
    "www.example.com/a?b=c&d=e#f name@example.org",
    "<|bos|>", "<|eos|>", "<|pad|>",
    "a <|eos|> b<|bos|>c <|pad|><|eos|>", "<|endoftext|> <s> </s> <unk> [INST] <|im_start|>", "<| eos |>", "|>eos<|",
    "na\u00efve caf\u00e9 na\u0131ve cafe\u0301 A\u030angstro\u0308m",
    "e\u0301e\u0301 n\u0303 \u0301\u0302\u0303 Z\u0351\u036b\u0343a\u0330\u0343lgo",
    "\u0939\u093f\u0928\u094d\u0926\u0940 \u0915\u094d\u0937\u0924\u094d\u0930\u093f\u092f",
    "\u0e19\u0e49\u0e33\u0e43\u0e08 \u0e17\u0e35\u0e48\u0e19\u0e35\u0e48",
    "\u05e9\u05c1\u05b8\u05dc\u05d5\u05b9\u05dd \u0645\u064e\u0631\u0652\u062d\u064e\u0628\u064b\u0627",
    "\u65e5\u672c\u8a9e\u306e\u8a71\u3002\u4e2d\u6587\u6545\u4e8b\uff0c\ud55c\uad6d\uc5b4 \uc774\uc57c\uae30",
    "\u1112\u1161\u11ab \ud55c",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f1eb\U0001f1f7 \U0001f44d\U0001f3fd \u2764\ufe0f 1\ufe0f\u20e3",
    "\U0001f600\U0001f600 \U0001f9d9\U0001f3fb\u200d\u2642\ufe0f x\U0001f408x",
    "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
    "\u202eright to left\u202c and \u2066isolated\u2069",
    "\x00\x01\x02\x1b[31mred\x1b[0m\x7f", "\ue000\uf8ff\U000f0000\U0010ffff\ufffd\ufffe",
    "\u00c3\u00a9\u00e2\u20ac\u0153 \u00c2\u00a0",
    "\u0121\u0120\u0109\u010a \u0120word \u2581word",  # letters by which tokenizers write spaces and bytes
    "a" * 300, "ab" * 150, " " * 120, "\n" * 60, "!" * 100, "7" * 100, "\u0301" * 40, "\U0001f600" * 40,
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
    "camelCase snake_case kebab-case CONSTANT_CASE MiXeD",
    "\u01c5 \u01c8 \ufb01 \ufb03 \u1e9e \u00df \u0149 \u1fb3",
    "\u066b\u066c \u00b7 \u2027 \u30fb \uff65",
    "\u2160\u2188 \u3007 \u3021 \u1369 \u19da",
    "x\u20d7 \u20dd a\u0488 \u0903 \u094d",
)  # fmt: skip


def proof_texts(stories: Sequence[str], seed: int = 0) -> list[str]:
    """300 texts: the written ones, openings of `stories`, and random ones of several alphabets, the same for a seed."""
    texts = [*WRITTEN, *(story[:400] for story in stories[:OPENINGS])]
    draw = random.Random(seed)
    while len(texts) < NUM_TEXTS:
        texts.append("".join(_words(draw) for _ in range(draw.randint(1, 12))))
    return texts


def _words(draw: random.Random) -> str:
    """A few letters of one alphabet or of all of Unicode, and what follows them."""
    first, last = draw.choice([*ALPHABETS, ("\0", "\ud7ff"), ("\ue000", "\U0010ffff")])
    letters = [chr(draw.randint(ord(first), ord(last))) for _ in range(draw.randint(1, 8))]
    after = draw.choice((" ", " ", "", "'", ", ", "\n", *WHITE_SPACE, str(draw.randrange(10**4))))
    return "".join(letter for letter in letters if _is_assigned(letter)) + after * draw.randint(1, 2)


def _is_assigned(letter: str) -> bool:
    """In Unicode 3.2: what later versions assigned is a letter to some programs and not yet to others."""
    return unicodedata.ucd_3_2_0.category(letter) != "Cn"
