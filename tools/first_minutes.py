"""A recording of the first ten minutes: what a newcomer types, and what the terminal and the page then show.

    python tools/first_minutes.py FOLDER
    python tools/first_minutes.py FOLDER --install

FOLDER is created. The commands run in FOLDER/work, as they stand: a first story, the boxed model fine-tuned on ten
stories of our own (tools/ten_stories.txt), stories of the new model, its page in a browser, a push to a Hub. The Hub is
the one of the tests, on this machine. --install begins with a fresh virtual environment and the README's line of
installation, which downloads what it needs; without it this Python has to have the project installed.

FOLDER/transcript.txt holds every command with its output and its seconds, FOLDER/*.png the page at 360 and 1280 pixels,
in light and dark. Nothing is compared: the recording is to be looked at.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any


sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(1, str(Path(__file__).parent.parent / "tests"))

from helpers.fake_hub import FakeHub
from tools.stage import ROOT, chromium, open_page, prompt_field, served, wait_until_written, write_button


STORIES = Path(__file__).parent / "ten_stories.txt"
MODEL, REPO = "runs/finetune", "someone/my-stories"
BEGINNINGS = ("Pim the hedgehog", "One day, the duck", "Once upon a time")
VIEWS = [(width, theme) for width in (360, 1280) for theme in ("light", "dark")]
HEIGHTS = {360: 720, 1280: 800}


class Terminal:
    """Runs commands in a folder and writes down what they print."""

    def __init__(self, folder: Path, transcript: IO[str], programs: Path, **environment: str):
        self.folder, self.transcript, self.programs = folder, transcript, programs
        self.environment = os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"} | environment

    def run(self, line: str, may_fail: bool = False) -> None:
        """A command line; both of its outputs, in the order in which they come."""
        self.write(f"$ {line}\n")
        began = time.monotonic()
        process = subprocess.Popen(
            self.words(line),
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
        )
        assert process.stdout is not None
        for text in process.stdout:
            self.write(text)
        status = process.wait()
        self.write(f"[exit status {status}, {time.monotonic() - began:.1f} s]\n\n")
        if status and not may_fail:
            raise SystemExit(f"`{line}` failed: see the transcript")

    def words(self, line: str) -> list[str]:
        """The words of a line, in which only double quotes are used; the program from this recording's Python."""
        program, *rest = [quoted or word for quoted, word in re.findall(r'"([^"]*)"|(\S+)', line)]
        return [str(self.programs / program), *rest]

    def write(self, text: str) -> None:
        print(text, end="", flush=True)
        self.transcript.write(text)
        self.transcript.flush()


def install(folder: Path, terminal: Terminal) -> None:
    """A fresh virtual environment with this checkout in it; the terminal's programs are then its."""
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    terminal.programs = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
    terminal.folder = ROOT
    terminal.run('python -m pip install -q -c constraints.txt -e ".[web]"')


def stories_of_ones_own(folder: Path) -> None:
    folder.mkdir()
    for number, story in enumerate(STORIES.read_text(encoding="utf-8").strip().split("\n\n"), start=1):
        (folder / f"story-{number:02}.txt").write_text(story + "\n", encoding="utf-8")


def write_stories(terminal: Terminal) -> None:
    for beginning in BEGINNINGS:
        for seed in (1, 2):
            terminal.run(f'tinystories generate {MODEL} "{beginning}" --seed {seed}')


def take_pictures(folder: Path, work: Path, python: Path) -> None:
    """The page when it is opened, and with a finished story, in every view; the whole page, and what is seen of it."""
    with served(MODEL, work, python=str(python)) as address, chromium() as browser:
        for width, theme in VIEWS:
            page = open_page(browser, address, width, HEIGHTS[width], theme)
            page.screenshot(path=folder / f"page-{width}-{theme}-opened.png")
            prompt_field(page).fill(BEGINNINGS[0])
            write_button(page).click()
            wait_until_written(page)
            page.screenshot(path=folder / f"page-{width}-{theme}-story.png")
            page.screenshot(path=folder / f"page-{width}-{theme}-whole.png", full_page=True)
            page.close()


def take_picture_of_report(folder: Path, report: Path) -> None:
    with chromium() as browser:
        page: Any = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(report.resolve().as_uri())
        page.screenshot(path=folder / "report.png", full_page=True)


def push(terminal: Terminal, home: Path) -> None:
    """To the small Hub of the tests, whose token stands for `hf auth login`."""
    with FakeHub() as hub:
        terminal.environment |= hub.environment(home)
        terminal.run(f"tinystories push {MODEL} {REPO} --tag v1")
        terminal.write("".join(f"{name}, {len(data):,} bytes\n" for name, data in sorted(hub.files(REPO).items())))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the recording is written; it must not exist")
    parser.add_argument("--install", action="store_true", help="begin with a fresh virtual environment")
    options = parser.parse_args(arguments)
    folder = options.folder.resolve()
    work = folder / "work"
    work.mkdir(parents=True)
    with (folder / "transcript.txt").open("w", encoding="utf-8") as transcript:
        terminal = Terminal(work, transcript, Path(sys.executable).parent, HF_HUB_OFFLINE="1")
        if options.install:
            install(folder, terminal)
            terminal.folder = work
        terminal.run('tinystories generate "Once upon a time" --seed 1')
        stories_of_ones_own(work / "my-stories")
        terminal.run("tinystories train finetune --model_name_or_path boxed --train_file my-stories")
        write_stories(terminal)
        terminal.run(f"tinystories check {MODEL}", may_fail=True)  # its verdict is a part of the recording
        take_pictures(folder, work, terminal.programs / "python")
        take_picture_of_report(folder, work / MODEL / "report" / "index.html")
        push(terminal, folder / "home")
    print(f"Recording: {folder}")


if __name__ == "__main__":
    main()
