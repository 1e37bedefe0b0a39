"""What a session does with each line: commands and beginnings are told apart, mistakes are one line, stories go on."""

import io
import json
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.export_sources import small_tokenizer
from helpers.runs import mistake
from helpers.untrained import untrained_model
from tinystories.checkpoint.writer import open_writer
from tinystories.config.packaged import BOXED
from tinystories.generation.options import BOUNDS, Options
from tinystories.generation.presets import PRESETS
from tinystories.generation.sampler import Settings
from tinystories.generation.writers import GenerateWriter, Writer
from tinystories.generation.written import Story
from tinystories.terminal.lines import Beginning, Command, read_line
from tinystories.terminal.session import Session
from tinystories.terminal.wrapping import WordWrap


NATURAL = Settings(**PRESETS["natural"])
ONCE = "Once upon a time"


@pytest.fixture(scope="module")
def boxed():
    return open_writer(str(BOXED))


@pytest.fixture(scope="module")
def other():
    """A model that transformers' `generate` writes with."""
    tokenizer = small_tokenizer()
    return GenerateWriter(untrained_model(tokenizer, context=64).eval(), tokenizer, tokenizer.eos_token_id)


@pytest.fixture(params=["boxed", "other"])
def writer(request):
    return request.getfixturevalue(request.param)


class Typed:
    """A session, and what it shows and says."""

    def __init__(self, writer, seed=1, most=12):
        self.shown, self.said = io.StringIO(), list[str]()
        self.session = Session(writer, "mine", Options(NATURAL, most, seed), self.shown.write, self.said.append)

    def __call__(self, line: str) -> str:
        """What is said."""
        before = len(self.said)
        assert self.session.answer(line) is True
        return "\n".join(self.said[before:])

    def story(self, line: str) -> str:
        """What is shown, on one line."""
        place = self.shown.tell()
        self(line)
        return " ".join(self.shown.getvalue()[place:].split())


@pytest.fixture
def typed(boxed):
    return Typed(boxed)


COMMANDS = {
    "help": Command("help"),
    "  \t": None,
    "help  ": Command("help"),
    "/help": Command("help"),
    "help set": Command("help"),
    "set temperature 0.9": Command("set", ("temperature", "0.9")),
    "set temperature = 0.9": Command("set", ("temperature", "0.9")),
    "set": Command("set"),
    "seed random": Command("seed", ("random",)),
    'save "my stories.txt"': Command("save", ("my stories.txt",)),
    "/exit": Command("exit"),
    "help the fox": Beginning("help the fox"),
    "continue the story": Beginning("continue the story"),
    "Set the table": Beginning("Set the table"),
    "Help": Beginning("Help"),
    "settle down": Beginning("settle down"),
    " set temperature 0.9": Beginning("set temperature 0.9"),
    "Once\n\tupon": Beginning("Once\n\tupon"),
    "caf\udcc3\udca9": Beginning("caf\u00e9"),  # of a system in another encoding
}


@pytest.mark.parametrize("line", COMMANDS)
def test_command_or_beginning(line):
    """A story that begins like a command is not written; or a mistyped command begins one."""
    assert read_line(line) == COMMANDS[line]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("set the table for two", "set takes a name and a value; a space in front of the line begins a story with it"),
        ("seed the garden", "a space in front of the line begins a story with it"),
        ("save the fox", "a name with spaces is put in quotes"),
        ("/hlep", "no command /hlep; did you mean help?"),
        ("/again now", "no command /again now; did you mean again?"),
        ("/", "the commands are set"),
        ("a\x1b[2Jb", r"a control character ('\x1b')"),
        ("a\x7f", "a control character"),
        ("a\x9bb", "a control character"),
        ("a\0b", "contains a zero byte"),
        ("caf\udcff", "is not UTF-8"),
        ("set temprature 0.9", "no setting 'temprature'; did you mean temperature?"),
        ("set temp 0.9", "did you mean temperature?"),
        ("set up camp", "no setting 'up'; the settings are temperature, top_k"),
        ("set temperature hot", "temperature must be a number, got 'hot'"),
        ("set temperature -0.1", "temperature must be 0, for always the likeliest token, or between 0.001 and 10"),
        ("set temperature 0.0009", "got 0.0009"),
        ("set temperature nan", "got nan"),
        ("set top_k 4.5", "top_k must be a whole number"),
        ("set top_p 1.01", "top_p must be between 0.001 and 1, got 1.01"),
        ("set max_new_tokens 0", "max_new_tokens must be between 1 and 1000000"),
        ("set max_new_tokens random", "max_new_tokens must be a whole number"),
        ("seed -1", "seed must be between 0 and"),
        (f"seed {2**63}", "seed must be between 0 and"),
        ("preset wild", "no preset 'wild'; the presets are natural"),
        ("preset naturall", "did you mean natural?"),
        ("again", "there is no story yet"),
        ("continue", "there is no story yet"),
        ("save a.txt", "there is no story yet"),
        ("save", "save takes the name of a file"),
        ("word " * 600, "the context is 512"),
    ],
)
def test_mistake_is_one_line(line, message, typed):
    """And the session goes on as it was."""
    before = typed.session.options
    assert message in mistake(typed.session.answer, line)
    assert typed.session.options == before and typed.session.stories == [] and typed("settings")


def test_settings(typed):
    assert typed("set top-k=0") == "top_k 0, before 50"
    assert typed("set temperature 0") == "temperature 0.0, before 0.8"
    assert "preset              your own" in typed("settings")
    assert typed("set preset creative").startswith("creative") and "creative" in typed("set")
    assert typed("seed 0") == "seed 0, before 1" and typed("seed") == "seed 0"
    assert typed("set seed random") == "seed random, before 0"
    assert typed(f"seed {2**63 - 1}") and typed("set max_new_tokens 1")
    assert all(name in typed("help") for name in (*BOUNDS, *PRESETS, "again", "continue", "save", "quit"))
    assert all(len(line) <= 80 for line in typed("help").splitlines())
    assert not typed.session.answer("quit") and not typed.session.answer("/exit")


def test_settings_change_the_story(boxed):
    """A setting that is shown and not used."""
    typed = Typed(boxed, most=30)
    first = typed.story(ONCE)
    assert typed.story(ONCE) == first
    assert typed("seed 2") and typed.story(ONCE) != first
    assert typed("seed 1") and typed("set temperature 5") and typed.story(ONCE) != first
    assert typed("preset natural") and typed.story(ONCE) == first
    typed("set temperature 0")
    greedy = typed.story(ONCE)
    assert typed("seed 9") and typed.story(ONCE) == greedy != first
    typed("set max_new_tokens 4")
    typed(ONCE)
    assert typed.said[-1].startswith("[4 tokens")


def test_again_and_its_seed(typed):
    """Another story with the same beginning, which its seed writes again."""
    typed.story(ONCE)
    other = typed.story("again")
    seed = typed.session.stories[-1].seed
    assert other.startswith(ONCE) and f"seed {seed};" in typed.said[-1] and seed != 1
    assert typed(f"seed {seed}") and typed.story(ONCE) == other


@pytest.mark.parametrize("stops", [(1, 1), (7, 1, 20), (39,)])
def test_continued_story_is_the_whole(stops, writer):
    """A story that was cut, and went on with other random numbers or another reading of its beginning."""
    whole, shown = Story(writer, "mine", "Story", NATURAL, 3), list[str]()
    whole.write(40, lambda text: None)
    parts = Story(writer, "mine", "Story", NATURAL, 3)
    for number in stops:
        parts.write(number, shown.append)
        assert parts.finish_reason == "length"
    parts.write(40 - sum(stops), shown.append)
    assert whole.new_tokens == 40
    assert parts.record() | {"seconds": 0} == whole.record() | {"seconds": 0}
    assert whole.text.startswith(parts.beginning + "".join(shown))


def test_story_goes_on_after_an_exception(writer):
    """Ctrl-C, pressed twice, ends the iterator of tokens; what was written is written again without being shown."""

    def press(text: str) -> None:
        if story.new_tokens == 9:
            raise KeyboardInterrupt

    whole, story = (Story(writer, "mine", "Story", NATURAL, 3) for _ in range(2))
    with pytest.raises(KeyboardInterrupt):
        story.write(40, press)
    assert story.finish_reason == "stopped"
    story.write(31, lambda text: None)
    whole.write(40, lambda text: None)
    assert story.text == whole.text and story.limit == whole.limit


def test_no_thread_is_left(other):
    """`generate` runs in one of its own, which ends with the story or when it is left."""
    before, story = threading.active_count(), Story(other, "mine", "Story", NATURAL, 3)
    story.write(5, lambda text: None)
    assert threading.active_count() == before + 1
    story.leave()
    assert threading.active_count() == before
    story.write(100, lambda text: None)
    assert story.is_over and threading.active_count() == before


def test_error_in_generate(other):
    """In its thread: the command would wait for ever."""
    story = Story(other, "mine", "Story", Settings(1.0, 0, 1.0, 1.0), 3)
    story.ids[0] = 10**6
    with pytest.raises(IndexError):
        story.write(5, lambda text: None)


def test_end_of_the_context(writer):
    """Below it, at it, and beyond."""
    typed = Typed(writer, most=10**6)
    line = "Story" if writer.context == 64 else ONCE
    while not typed.session.stories or typed.session.stories[-1].finish_reason == "stop":
        typed("set temperature 5") if writer.context > 64 else typed("set temperature 1")
        typed("set top_k 0"), typed("set top_p 1"), typed("seed random"), typed(line)
    story = typed.session.stories[-1]
    assert story.prompt_tokens + story.new_tokens == writer.context == story.limit + story.prompt_tokens
    assert "the model can read no more" in typed.said[-1]
    assert f"fills the {writer.context} tokens" in mistake(typed.session.answer, "continue")


def test_ended_story(boxed):
    typed = Typed(boxed, most=500)
    typed(ONCE)
    assert "the story ended" in typed.said[-1]
    assert "again writes another one" in mistake(typed.session.answer, "continue")


def test_save(typed, tmp_path, monkeypatch):
    """Nothing is overwritten but what this session has written, and only as long as nobody has changed it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    typed(ONCE)
    files = {suffix: tmp_path / f"my stories{suffix}" for suffix in (".txt", ".json", ".jsonl")}
    for file in files.values():
        assert typed(f'save "{file}"') == f"saved 1 story in {file}"
    typed("again")
    for file in files.values():
        assert typed(f"save '{file}'") == f"saved 2 stories in {file}"
    texts, records = [story.text for story in typed.session.stories], [s.record() for s in typed.session.stories]
    assert files[".txt"].read_text(encoding="utf-8") == "".join(f"{text}\n<|endoftext|>\n" for text in texts)
    assert json.loads(files[".json"].read_text(encoding="utf-8")) == records
    assert [json.loads(line) for line in files[".jsonl"].read_text(encoding="utf-8").splitlines()] == records
    assert records[1]["seed"] != records[0]["seed"] and records[0]["finish_reason"] == "length"
    files[".txt"].write_text("mine", encoding="utf-8")
    assert "is there already; name another file" in mistake(typed.session.answer, f'save "{files[".txt"]}"')
    assert files[".txt"].read_text(encoding="utf-8") == "mine"
    assert "is a folder" in mistake(typed.session.answer, f"save {tmp_path}")
    assert "there is no folder" in mistake(typed.session.answer, f"save {tmp_path / 'none' / 'a.txt'}")
    assert typed(f"save {tmp_path / 'b.JSON'}") and json.loads((tmp_path / "b.JSON").read_text(encoding="utf-8"))
    (tmp_path / "b.JSON").unlink()
    assert typed("save ~/b.txt") and (tmp_path / "b.txt").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.txt", *sorted(f.name for f in files.values())]


class Fixed(Writer):
    """Writes the tokens that it is given."""

    context, parameters, end = 10**6, 0, -1

    def __init__(self, tokenizer, given):
        self.tokenizer, self.given = tokenizer, given

    def encode(self, text):
        return self.tokenizer.encode(text).ids

    def decode(self, ids):
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def tokens(self, ids, settings, seed):
        yield from self.given


@given(data=st.data())
def test_pieces_are_the_text(data, boxed):
    """Text that is shown piece by piece loses or repeats characters, of several tokens or of none."""
    size = boxed.tokenizer.get_vocab_size()
    given_tokens = data.draw(st.lists(st.integers(0, 300) | st.integers(0, size - 1), min_size=1, max_size=40))
    prompt = data.draw(st.sampled_from(["Once", "Zo\u00eb \U0001f98a", "\u6f22\u5b57"]))
    story, shown = Story(Fixed(boxed.tokenizer, given_tokens), "", prompt, NATURAL, 0), list[str]()
    story.write(len(given_tokens), shown.append)
    whole = story.text.removeprefix(story.beginning)
    text = "".join(shown)
    assert whole.startswith(text) and set(whole[len(text) :]) <= {"\ufffd"}


@pytest.mark.parametrize(
    ("pieces", "width", "expected"),
    [
        (["a bc", "d ef"], 4, "a\nbcd\nef"),
        (["abcd ef"], 4, "abcd\nef"),
        (["abcdefghij k"], 4, "abcd\nefgh\nij k"),
        (["a\n\nb", "c d"], 4, "a\n\nbc d"),
        (["\u6f22\u5b57\u6f22\u5b57\u6f22"], 5, "\u6f22\u5b57\n\u6f22\u5b57\n\u6f22"),
        (["a \x1b[2J\r\x9b"], 80, r"a \x1b[2J\r\x9b"),
        (["a  b"], 80, "a  b"),
        (["a"], 1, "a"),
        ([" " * 9 + "ab c"], 4, "ab c"),
    ],
)
def test_lines_end_between_words(pieces, width, expected):
    """A word that is cut at the edge; a line that is longer; a control code of a model, sent to the terminal."""
    shown = list[str]()
    wrap = WordWrap(shown.append, lambda: width)
    for piece in pieces:
        wrap.add(piece)
    wrap.flush()
    assert "".join(shown) == expected
