"""`story_separator`: what ends a story of a .txt file, and which files are asked about before blank lines do."""

import logging

import pytest

from helpers.runs import mistake, run_command
from tinystories.config.keys import DataArguments, QualityArguments
from tinystories.data.corpus import load_corpus, read_files
from tinystories.data.quality import examine
from tinystories.training.guards.sources import check_sources


SENTENCES = [f"The mole number {i} lived in a hole by the old wall and ate {i + 2} worms." for i in range(60)]
STORIES = [f"{text}\n\nIt rained for {i} days.\n\nThen came day {i}." for i, text in enumerate(SENTENCES)]
END = "<|endoftext|>"


@pytest.fixture
def read(tmp_path):
    """Write a file, read it by a rule; its stories and the report."""

    def read(text: str, rule="auto", name="stories.txt") -> tuple[list[str], dict]:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text.encode())
        source = path if "/" not in name else path.parent
        data = DataArguments(story_separator=rule, data_cache_dir=str(tmp_path / "cache"))
        stories, report = read_files(str(source), data)
        return list(stories["text"]), report

    return read


RULES = {
    "lines": ("One.\n\n Two. \r\nThree.\rFour.", "line", ["One.", "Two.", "Three.", "Four."]),
    "two blank lines": (
        "One.\n\nMore.\n\n\nTwo.\n \n\t\n\nThree.",
        "two_blank_lines",
        ["One.\n\nMore.", "Two.", "Three."],
    ),
    "blank lines before the first story": ("\n\n\nOne.\n\n\nTwo.", "two_blank_lines", ["One.", "Two."]),
    "one blank line in spite of several": ("One.\n\nMore.\n\n\nTwo.", "blank_line", ["One.", "More.", "Two."]),
    "a line of one's own": (
        "One --- or so.\n---\nTwo.\n --- \nThree.\n---\n",
        "---",
        ["One --- or so.", "Two.", "Three."],
    ),
    "words": ("One END.\nEND\nTwo.", "END", ["One END.", "Two."]),
    "a token in a line": ("One.</s>Two.</s>\nThree.\n</s>\n", "</s>", ["One.", "Two.", "Three."]),
    "square brackets": ("One. [END] Two.\n[END]", "[END]", ["One.", "Two."]),
    "old Mac": ("One.\rMore.\r\rTwo.", "auto", ["One.\nMore.", "Two."]),
}


@pytest.mark.parametrize("name", RULES)
def test_rules(read, tmp_path, name):
    """The text that ends stories is no part of them, and the second reader agrees."""
    text, rule, expected = RULES[name]
    assert read(text, rule)[0] == expected
    data = DataArguments(
        train_file=str(tmp_path / "stories.txt"), story_separator=rule, data_cache_dir=str(tmp_path / "cache")
    )
    check_sources(load_corpus(data), data)


def test_marker_across_pieces(read):
    """A line of several million characters is read in pieces, and no marker is cut in two."""
    stories = [f"{i} " + "worm " * 199 for i in range(3000)]
    for rule, end in (("auto", END), ("</s>", "</s>")):
        assert read(end.join(stories), rule)[0] == [story.strip() for story in stories]


ASKED = {  # text, and the options that the error names
    "a story in each line": ("\n".join(SENTENCES), ["line", "file"]),
    "twenty of them": ("\n".join(SENTENCES[:20]), ["line"]),
    "a line of old Mac": ("\r".join(SENTENCES), ["line"]),
    "hundreds of short lines": ("\n".join(f"worm {i}" for i in range(200)), ["line", "file"]),
    "a block of hundreds": ("Title\n\n" + "\n".join(SENTENCES * 4), ["line", "blank_line"]),
    "one long line": ("worm " * 20_000, ["file"]),
    "paragraphs and stories": ("\n\n\n".join(STORIES[:20]), ["two_blank_lines", "blank_line"]),
    "a line of tokens": ("</s>".join(SENTENCES), ["'</s>'"]),
    "a token at each line": ("".join(f"<s>{text}</s>\n" for text in SENTENCES), ["'</s>'"]),
    "two stories": (f"{SENTENCES[0]}\n</s>\n{SENTENCES[1]}", ["'</s>'"]),
    "words between blank lines": ("\n\nThe end.\n\n".join(SENTENCES), ["'The end.'", "blank_line"]),
    "words amid the lines": ("\nEND\n".join(STORIES), ["END"]),
    "words without blank lines": ("\nNext one\n".join(SENTENCES[:15]), ["'Next one'"]),
    **{
        f"{mark} and {kind}": (f"{around}{mark}{around}".join(stories), [option])
        for mark, option in {
            "</s>": "'</s>'",
            "<|end_of_text|>": "'<|end_of_text|>'",
            "<|im_end|>": "'<|im_end|>'",
            "<eos>": "'<eos>'",
            "[END]": "'[END]'",
            "---": "--story_separator=---",
            "***": "'***'",
            "* * *": "'* * *'",
            "###": "'###'",
        }.items()
        for kind, around, stories in (
            ("lines", "\n", SENTENCES),
            ("paragraphs", "\n", STORIES),
            ("blank lines", "\n\n", STORIES[:20]),
        )
    },
}


@pytest.mark.parametrize("name", ASKED)
def test_doubtful_file_is_asked_about(read, name):
    """The error names the options, one of them divides the file, and an answer is not questioned again."""
    text, options = ASKED[name]
    message = mistake(read, text)
    assert message.split(":")[0].endswith("stories.txt")
    for option in options:
        assert (option if option.startswith("--") else f"--story_separator {option}") in message
    rule = options[0].removeprefix("--story_separator=").strip("'")
    report = read(text, rule)[1]
    assert report["doubts"] == [] and (report["stories"] > 1 or rule == "file")


SILENT = {  # text, and the number of its stories
    "stories": ("\n\n".join(SENTENCES), 60),
    "several blank lines": ("\n\n\n".join(SENTENCES), 60),
    "two stories": ("\n\n".join(SENTENCES[:2]), 2),
    "three lines": ("\n".join(SENTENCES[:3]), 1),
    "marker": (f"\n{END}\n".join(STORIES), 60),
    "marker and other lines": (f"\n{END}\n".join(text.replace("\n\n", "\n***\n") for text in STORIES), 60),
    "a poem": ("\n".join(f"The {word} is bright tonight," for word in SENTENCES[0].split()), 1),
    "stanzas": ("\n\n".join(f"The moon is {i},\nthe sea is {i},\nso blue." for i in range(30)), 30),
    "a dialogue": ("\n".join(f'"Yes {i}," said Tom.' for i in range(30)), 1),
    "silence in a dialogue": ("\n\n".join(f'"{i}?"\n...\n"No."\n...' for i in range(30)), 30),
    "a play": ("\n\n".join(f"{'TOM' if i % 2 else 'ANN'}\n{text}" for i, text in enumerate(SENTENCES)), 60),
    "the end of each story": ("\n\n".join(f"{text}\nThe end." for text in SENTENCES), 60),
    "copies": ("\n\n".join(["A worm.", "A mole."] * 10), 20),
    "white space at the ends": ("\n\n\n" + "\n\n".join(SENTENCES) + "\n\n\n\n", 60),
}


@pytest.mark.parametrize("name", SILENT)
def test_clear_file_is_not_asked_about(read, name):
    text, number = SILENT[name]
    stories, report = read(text)
    assert len(stories) == number and report["doubts"] == []


SAID = {
    "one gap of several lines": ("\n\n".join(SENTENCES) + "\n\n\n" + "\n\n".join(STORIES[:1]), "two_blank_lines"),
    "one scene break": ("\n\n".join([*SENTENCES[:30], "***", *SENTENCES[30:]]), "'***'"),
    "one token left": ("\n\n".join([*SENTENCES[:30], "A worm.</s>", *SENTENCES[30:]]), "'</s>'"),
    "a dozen lines": ("\n".join(SENTENCES[:12]), "line"),
    "two stories with a line between": (f"{SENTENCES[0]}\n---\n{SENTENCES[1]}", "=---"),
}


@pytest.mark.parametrize("name", SAID)
def test_small_doubt_is_said(read, caplog, name):
    """Each time, also when the stories come from the cache."""
    text, option = SAID[name]
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            read(text)
        assert f"--story_separator{'' if option[0] == '=' else ' '}{option}" in caplog.text


def test_folder_of_one_story_each(read, tmp_path):
    """Stories of many lines, one in each file, are no lines of stories."""
    (tmp_path / "all").mkdir()
    for i in range(2):
        (tmp_path / "all" / f"{i}.txt").write_text(
            "\n".join(f"{text} {i}." for text in SENTENCES[:40]), encoding="utf-8"
        )
    stories, report = read("The end.", name="all/2.txt")
    assert len(stories) == 3 and report["doubts"] == []


def test_text_that_is_not_there(read):
    """A mistyped rule or text would make one story of each file."""
    for rule in ("</S>", "blank_lines", "page"):
        message = mistake(read, "One.\n</s>\nTwo.", rule)
        assert f"story_separator {rule!r} is not found" in message and "two_blank_lines" in message
    for rule in ("", " ", "a\nb", "x" * 41):
        assert "story_separator" in mistake(read, "One.", rule)
    read("One.\n---\nTwo.", "---", name="all/a.txt")
    assert read("Three.", "---", name="all/b.txt")[0] == ["One.", "Two.", "Three."]  # one of the files has it


def test_validation_file_is_asked_about(tmp_path):
    (tmp_path / "train.txt").write_text("\n\n".join(SENTENCES), encoding="utf-8")
    (tmp_path / "held.txt").write_text("\n".join(SENTENCES), encoding="utf-8")
    names = {"train_file": str(tmp_path / "train.txt"), "validation_file": str(tmp_path / "held.txt")}
    message = mistake(load_corpus, DataArguments(**names, data_cache_dir=str(tmp_path / "cache")))
    assert message.startswith(f"{tmp_path / 'held.txt'}: 60 lines")


def test_commands_say_the_same(tmp_path):
    """Training, the tokenizer and the check of a text; with the rule that the message names, the check reads it."""
    path = tmp_path / "stories.txt"
    path.write_text("\n".join(SENTENCES), encoding="utf-8")
    cache = ("--data_cache_dir", tmp_path / "cache")
    said = set()
    for command in (
        ("check_run.py", "--data", path),
        ("train_tokenizer.py", "--train_file", path, "--output_dir", tmp_path / "tokenizer"),
        ("run_clm.py", "--train_file", path, "--output_dir", tmp_path / "run"),
    ):
        process = run_command(*command, *cache)
        assert process.returncode == 1
        said.add(process.stderr.splitlines()[-1])
    assert len(said) == 1 and "--story_separator line" in said.pop()
    quality, data = QualityArguments(str(path)), DataArguments(story_separator="line", data_cache_dir=str(cache[1]))
    assert examine(quality, data).report["stories"] == 60
