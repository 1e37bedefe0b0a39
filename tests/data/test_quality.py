"""check_run.py --data: every problem of a text is found with its place, and healthy text is not changed."""

# ruff: noqa: RUF001 (curly quotes and dashes are what is tested)
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.runs import as_options, mistake
from tinystories.commands import check
from tinystories.config.keys import DataArguments
from tinystories.data.mojibake import clean_text, repair_mojibake
from tinystories.data.quality import PROBLEMS, QualityArguments, check_target, examine, write_clean_copy


HEALTHY = [
    "“Who took my corn?” asked the hen. Nobody knew…",
    "Zoë and José found a 🦊 — it was 5 cm tall – at the café.",
    "A goat & a cat <3 each other; 2 < 3 and 5 > 4.\n\nThey flew at 10:30, e.g. to Rome. Nooooo!",
    "Жила-была лиса. 昔々、キツネがいました。 Ελένη είπε «ναι».",
]
SICK = {
    "mojibake": "The fish said, “Let us swim.â€\u009d And they did swim.",
    "leftovers of prompts and tokenizers": "<|im_start|>Once upon a time there was a hen.",
    "HTML": "Once upon a time<br/>there was a hen, and a duck.",
    "URL": "Read more at https://example.org/hen about the hen.",
    "e-mail address": "Write to hen@example.org and she will answer you.",
    "control characters": "Once upon a time\x07 there was a hen, and a duck.",
    "replacement characters (U+FFFD)": "Once upon a time the caf\ufffd was open all the night.",
    "run of one character": "Once upon a time " + "-" * 40 + " there was a hen.",
    "too short": "The end.",
    "too long": "The hen went on and on. " * 1000,
    "exact duplicate of an earlier story": HEALTHY[0].replace(" ", "  "),
    "also in the validation data": "This story about a hen is also in the other file.",
}


@pytest.fixture
def look(tmp_path):
    """Examine stories; gives what was examined and the arguments."""

    def look(stories: list[str], suffix=".jsonl", validation=(), **options):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        data = DataArguments(data_cache_dir=str(tmp_path / "cache"))
        if validation:
            data.validation_file = str(write(folder / "validation.jsonl", validation))
        arguments = QualityArguments(str(write(folder / f"stories{suffix}", stories)), **options)
        return examine(arguments, data), arguments

    return look


def write(path, stories):
    ends = "\n<|endoftext|>\n"
    text = ends.join([*stories, ""]) if path.suffix == ".txt" else "".join(json.dumps(text) + "\n" for text in stories)
    path.write_text(text, encoding="utf-8")
    return path


def read(path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".txt":
        return text.removesuffix("\n<|endoftext|>\n").split("\n<|endoftext|>\n")
    return [json.loads(line)["text"] for line in text.split("\n")[:-1]]


def test_every_problem_has_an_example():
    assert set(SICK) == set(PROBLEMS)


def test_healthy_stories(look):
    report = look(HEALTHY)[0].report
    assert report["problems"] == {} and report["stories_without_problem"] == report["stories"] == len(HEALTHY)


@pytest.mark.parametrize("name", SICK)
def test_each_problem(look, name):
    """It is found with its story and line."""
    stories = [*HEALTHY, SICK[name]]
    examined, arguments = look(stories, validation=[SICK["also in the validation data"]])
    assert list(examined.report["problems"]) == [name]
    problem = examined.report["problems"][name]
    (example,) = problem["examples"]
    assert problem["stories"] == 1 and example["story"] == example["line"] == 5
    assert example["file"] == arguments.data


def test_line_of_a_story(tmp_path):
    """It is the line of the file in which the story begins."""
    texts = {
        "mark.txt": "\nOne hen and\n\na duck went out.\n<|endoftext|>\n\nThe end.\n<|endoftext|>\n",
        "blank.txt": "One hen and\na duck went out.\n\n\n\n\nThe end.\nNo.\n",
        "quoted.csv": 'id,text\n1,"One hen and\n\n\na duck went out."\n2,The end.\n',
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        data = DataArguments(data_cache_dir=str(tmp_path / "cache"))
        report = examine(QualityArguments(str(tmp_path / name)), data).report
        (example,) = report["problems"]["too short"]["examples"]
        assert (example["story"], example["line"]) == (2, {"mark.txt": 7, "blank.txt": 7, "quoted.csv": 6}[name])


def test_counts_and_examples(look):
    """All stories are counted; the examples are the first ones."""
    stories = [f"Story {i} has a <b>word</b> in it that is bold." for i in range(1500)]
    report = look(stories)[0].report
    problem = report["problems"]["HTML"]
    assert problem["stories"] == 1500 and report["stories_without_problem"] == 0
    assert [example["story"] for example in problem["examples"]] == [1, 2, 3]


@pytest.mark.parametrize("suffix", [".jsonl", ".txt"])
def test_clean_copy(look, tmp_path, suffix):
    """It holds the healthy and the repaired stories, and cleaning it changes nothing."""
    stories = [*HEALTHY, *SICK.values()]
    target, again = tmp_path / f"clean{suffix}", tmp_path / f"again{suffix}"
    validation = [SICK["also in the validation data"]]
    examined, arguments = look(stories, validation=validation, clean=str(target))
    report = write_clean_copy(examined, arguments)
    assert read(target) == [*HEALTHY, "The fish said, “Let us swim.” And they did swim."]
    assert (report["stories"], report["repaired"], report["dropped"]) == (5, 1, len(SICK) - 1)
    assert report["dropped_for"] == {name: 1 for name in PROBLEMS if name != "mojibake"}
    arguments = QualityArguments(str(target), clean=str(again))
    examined = examine(arguments, DataArguments(data_cache_dir=str(tmp_path / "cache")))
    assert examined.report["problems"] == {}
    assert write_clean_copy(examined, arguments)["dropped"] == 0
    assert again.read_bytes() == target.read_bytes()


def test_duplicate_after_repair(look, tmp_path):
    """Compared before the repair, both would stay, and cleaning the copy again would change it."""
    stories = ["The café by the sea was open.", "The cafÃ© by the sea was open."]
    examined, arguments = look(stories, clean=str(tmp_path / "clean.txt"))
    write_clean_copy(examined, arguments)
    assert read(tmp_path / "clean.txt") == stories[:1]


WORDS = """hen Zoë “Oh!” it’s ‘no’ … — – 🦊 👩‍🚀 café Übung ñandú «oui» à 30° ½ Łódź лиса Ελένη 狐 キツネ שועל ثعلب ©
x² smörgås ça Çelik ğ"""
words = st.sampled_from([*WORDS.split(), "5 €", "\n"])


@given(st.lists(words, max_size=12), st.sampled_from([" ", "  ", ". "]))
def test_text_without_mojibake(parts, between):
    """It is not changed."""
    text = between.join(parts)
    assert repair_mojibake(text) == text


@given(st.lists(words, max_size=8).map(" ".join))
def test_repair_is_idempotent(text):
    broken = text.encode().decode("cp1252", errors="replace")
    assert repair_mojibake(repair_mojibake(broken)) == repair_mojibake(broken)


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1"])
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize(
    "text", ["She said, “I don’t know…” — and left.", "Zoë saw a café.", "Ein schöner Übungsplatz."]
)
def test_repair(text, times, encoding):
    """Also of text that was broken twice."""
    broken = text
    for _ in range(times):  # cp1252 has no character for five bytes; programs show them as control characters
        broken = "".join(bytes([b]).decode(encoding, errors="ignore") or chr(b) for b in broken.encode())
    assert broken != text
    assert repair_mojibake(broken) == text


def test_cut_closing_quote():
    """A closing quote whose last byte was dropped is a quote, not a dagger."""
    broken = "“Let us go!â€ he said. â€œYes.â€\nThey went."
    assert repair_mojibake(broken) == "“Let us go!” he said. “Yes.”\nThey went."
    assert repair_mojibake("“Yes.Ã¢â‚¬\nThey went.") == "“Yes.”\nThey went."  # twice
    assert repair_mojibake("voilÃ\xa0 et Ã la fin") == "voilà et à la fin"


def test_repair_keeps_healthy_words():
    assert repair_mojibake("“MANHÃ” naÃ¯ve") == "“MANHÃ” naïve"
    assert repair_mojibake("“Yes â€” noâ€”” “ðŸ”¥ and âœ”” naÃ¯ve") == "“Yes — no—” “🔥 and ✔” naïve"
    assert repair_mojibake("He saw a naÃ¯ve hen. She is Å‚ here.") == "He saw a naïve hen. She is Å‚ here."


@given(st.lists(st.sampled_from([*"Ãâ€œ”Â\xa0 \x85.", "The end", "naÃ¯ve", "Ã‚"]), max_size=12).map("".join))
def test_cleaning_is_idempotent(text):
    assert clean_text(clean_text(text)) == clean_text(text) == clean_text(text).strip()


def test_million_letters(look):
    """Guards: a search for e-mail addresses that begins again at each letter, which would take almost an hour."""
    assert list(look(["hen" * 333_333, HEALTHY[0]])[0].report["problems"]) == ["too long"]


def test_copy_of_a_dropped_story(look, tmp_path):
    """It stays."""
    sick, healthy = "A hen\x0cand a duck went out.", "A hen and a duck went out."
    examined, arguments = look([sick, healthy, healthy], clean=str(tmp_path / "clean.jsonl"))
    assert write_clean_copy(examined, arguments)["dropped"] == 2
    assert read(tmp_path / "clean.jsonl") == [healthy]
    (example,) = examined.report["problems"]["exact duplicate of an earlier story"]["examples"]
    assert example["story"] == 3 and example["excerpt"].startswith("story 2: ")


def test_empty_clean_copy(look, tmp_path):
    """It is not written."""
    examined, arguments = look([SICK["URL"]], clean=str(tmp_path / "clean.jsonl"))
    assert "no story" in mistake(write_clean_copy, examined, arguments)
    assert not (tmp_path / "clean.jsonl").exists()


def test_contradicting_options(tmp_path):
    source = str(write(tmp_path / "stories.jsonl", HEALTHY))
    assert "train_file" in mistake(examine, QualityArguments(source), DataArguments(train_file=source))
    assert "dataset_name" in mistake(examine, QualityArguments(source), DataArguments(dataset_name="some/stories"))
    contrary = QualityArguments(source, min_characters=30, max_characters=20)
    assert "max_characters" in mistake(examine, contrary, DataArguments())


@pytest.mark.parametrize("name", ["stories.jsonl", "clean.md", "folder/clean.jsonl"])
def test_wrong_target(tmp_path, name):
    """No file is overwritten, and the folder must exist."""
    source = write(tmp_path / "stories.jsonl", HEALTHY)
    assert "clean" in mistake(check_target, QualityArguments(str(source), clean=str(tmp_path / name)))
    assert read_lines(source) == HEALTHY


def read_lines(path) -> list[str]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_target_in_the_source_folder(tmp_path):
    (tmp_path / "all").mkdir()
    write(tmp_path / "all" / "a.jsonl", HEALTHY)
    arguments = QualityArguments(str(tmp_path / "all"), clean=str(tmp_path / "all" / "clean.jsonl"))
    assert "next time" in mistake(check_target, arguments)


def test_command(tmp_path, capsys):
    """It reports the problems, also as JSON, and its exit status says that there are some."""
    source = tmp_path / "stories.jsonl"
    source.write_text("".join(json.dumps(text) + "\n" for text in [*HEALTHY, SICK["URL"]]) + "7\n", encoding="utf-8")
    out = tmp_path / "result.json"
    options = {"data": source, "data_cache_dir": tmp_path / "cache", "output_file": out}
    with pytest.raises(SystemExit, match="1"):
        check.main(as_options(options))
    printed = capsys.readouterr().out
    assert "URL: 1 stories (20.00%)" in printed and f"{source}:5" in printed
    assert "1 rows cannot be read" in printed and f"{source}:6" in printed
    result = json.loads(out.read_text(encoding="utf-8"))
    assert result["rows_not_read"] == 1 and result["problems"]["URL"]["stories"] == 1
