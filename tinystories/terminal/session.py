"""What a session with a model does with the lines that are typed: it knows the stories and the options of the next one.

How lines are read and where text is shown is in prompt.py.
"""

from collections.abc import Callable

from tinystories.errors import UserError
from tinystories.generation.options import BOUNDS, SAMPLING, Options, read_option
from tinystories.generation.presets import PRESETS
from tinystories.generation.writers import Writer
from tinystories.generation.written import Story, random_seed
from tinystories.terminal.keys import until_ctrl_c
from tinystories.terminal.lines import Beginning, Command, nearest, read_line
from tinystories.terminal.saving import StoryFile
from tinystories.terminal.wrapping import WordWrap


HELP = f"""\
Write how a story begins and press Enter. Ctrl-C stops the story.

  again            another story with the same beginning and a new seed
  continue         go on where the last story was stopped or cut
  set NAME VALUE   {", ".join(SAMPLING[:3])},
                   {", ".join([*SAMPLING[3:], "max_new_tokens"])}
  preset NAME      {", ".join(PRESETS)}
  seed NUMBER      the same seed writes the same story; random: a new one each
  settings         how the next story is written
  save FILE        the stories of this session: .txt, .json or .jsonl
  quit             so does Ctrl-D

A space in front of any line makes it the beginning of a story."""
ENDINGS = {
    "stop": "the story ended",
    "length": "cut at the limit: continue goes on",
    "stopped": "stopped: continue goes on",
}
FULL = "cut: the model can read no more"


class Session:
    """show: text of a story, as it is written; say: a line or more about it.

    name: of the model, as its user calls it.
    """

    def __init__(
        self,
        writer: Writer,
        name: str,
        options: Options,
        show: Callable[[str], None],
        say: Callable[[str], None],
    ):
        self.writer, self.name, self.options = writer, name, options
        self.show, self.say = show, say
        self.stories: list[Story] = []
        self.file = StoryFile()

    def welcome(self) -> str:
        return (
            f"{self.name}: {self.writer.parameters:,} parameters, reads {self.writer.context:,} tokens.\n"
            "Write how a story begins and press Enter. help lists the commands, Ctrl-D ends.\n"
        )

    def answer(self, line: str) -> bool:
        """Do what a line says; whether the session goes on.

        Raises:
            UserError: a mistake in the line, after which the session goes on.
        """
        read = read_line(line)
        if read is None:
            self.say("Write how a story begins, or help.")
        elif isinstance(read, Beginning):
            self._begin(read.text, self.options.seed)
        elif read.name in ("quit", "exit"):
            return False
        else:
            self._run(read)
        return True

    def _run(self, command: Command) -> None:
        if command.name == "again":
            self._begin(self._last().prompt, None)
        elif command.name == "continue":
            self._continue()
        elif command.name == "settings" or command == Command("set"):
            self.say(self._settings())
        elif command.name == "help":
            self.say(HELP)
        elif command.name == "set":
            self._set(*command.words)
        elif command.name == "seed":
            self._set("seed", *command.words)
        elif command.name == "preset":
            self._preset(*command.words)
        elif command.name == "save":
            self._save(*command.words)

    def _begin(self, prompt: str, seed: int | None) -> None:
        seed = random_seed() if seed is None else seed
        story = Story(self.writer, self.name, prompt, self.options.settings, seed)
        if self.stories:
            self.stories[-1].leave()
        self.stories.append(story)
        self._write(story, story.beginning)

    def _continue(self) -> None:
        story = self._last()
        if story.finish_reason == "stop":
            raise UserError("the story has ended", "again writes another one with the same beginning")
        if story.is_over:
            raise UserError(f"the story fills the {self.writer.context} tokens that the model can read")
        self._write(story, "\N{HORIZONTAL ELLIPSIS}")

    def _write(self, story: Story, first: str) -> None:
        wrap = WordWrap(self.show)
        self.show("\n")
        wrap.add(first)
        try:
            with until_ctrl_c() as pressed:
                story.write(self.options.max_new_tokens, wrap.add, pressed)
        finally:
            wrap.flush()
            self.show("\n")
        ending = FULL if story.is_over and story.finish_reason != "stop" else ENDINGS[story.finish_reason]
        rate = f"{story.new_tokens} tokens, {story.new_tokens / story.seconds:.0f} tokens/s"
        self.say(f"[{rate}, seed {story.seed}; {ending}]\n")

    def _last(self) -> Story:
        if not self.stories:
            raise UserError("there is no story yet", "write how one begins")
        return self.stories[-1]

    def _set(self, name: str, *values: str) -> None:
        name = name.lstrip("-").replace("-", "_")  # `--top-k 40`, as on a command line
        if name == "preset":
            self._preset(*values)
        elif name not in BOUNDS:
            raise UserError(f"no setting {name!r}", nearest(name, BOUNDS) or f"the settings are {', '.join(BOUNDS)}")
        elif not values:
            self.say(f"{name} {_shown(self.options.values()[name])}")
        else:
            value = None if (name, *values) == ("seed", "random") else read_option(name, *values)
            before = self.options.values()[name]
            self.options = self.options.changed({name: value})
            self.say(f"{name} {_shown(value)}, before {_shown(before)}")

    def _preset(self, name: str = "") -> None:
        if name and name not in PRESETS:
            raise UserError(f"no preset {name!r}", nearest(name, PRESETS) or f"the presets are {', '.join(PRESETS)}")
        if name:
            self.options = self.options.changed(PRESETS[name])
        shown = {name: PRESETS[name]} if name else PRESETS
        self.say("\n".join(f"{preset:<13}{_listed(values)}" for preset, values in shown.items()))

    def _settings(self) -> str:
        values = self.options.values()
        own = {name: values[name] for name in SAMPLING}
        preset = next((name for name, preset in PRESETS.items() if preset == own), "your own")
        lines = {"preset": preset} | values
        return "\n".join(f"{name:<20}{_shown(value)}" for name, value in lines.items())

    def _save(self, name: str = "") -> None:
        if not name:
            raise UserError("save takes the name of a file", "save stories.txt")
        self._last()
        self.file.save(name, self.stories)
        number = len(self.stories)
        self.say(f"saved {number} {'story' if number == 1 else 'stories'} in {name}")


def _shown(value: float | None) -> str:
    return "random" if value is None else str(value)


def _listed(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
