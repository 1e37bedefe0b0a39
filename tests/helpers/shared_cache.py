"""Starts many runs at once on one cache, damages files of it, kills some of the builds, and looks at what is left.

    cd tests; python -m helpers.shared_cache --starts 200 --kills 20

Each start is `run_clm.py` up to the moment when stories, tokenizer and rows are ready; three recipes take turns.
Between two rounds a file of the cache is changed, cut off or removed. Exit status 0 if every start that was not killed
ended well, each with the same rows as without any disturbance, and no more than one unfinished build is left after the
kills.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path

from helpers.forked import ForkedCommand
from helpers.kill_and_resume import RUN, options


STORIES = (150, 300, 450)
READY = """
import sys, hashlib
import tinystories.training.run as training
def ready(recipe, corpus, tokenizer, packed):
    rows = packed.rows[:]["input_ids"]
    print("ready", hashlib.sha256(rows.tobytes()).hexdigest())
    sys.exit(0)
training.make_trainer = ready
"""


def start(root: Path, number: int) -> ForkedCommand:
    run = RUN | {"num_sample_stories": STORIES[number % len(STORIES)], "dataloader_num_workers": 0}
    return ForkedCommand("run_clm.py", *options(root / f"run-{number}", run), code=READY)


def rows_of(process) -> str:
    """The digest of the rows that a start printed; it must have ended well."""
    if process.returncode != 0 or "ready" not in process.stdout:
        sys.exit(f"a start ended with {process.returncode}: {process.stderr[-2000:]}")
    return process.stdout.split()[-1]


def change(cache: Path, dice: random.Random) -> str:
    """Damage one file of a finished folder."""
    files = sorted(path for path in cache.glob("*-*/*") if path.is_file() and not path.parent.name.startswith("unfin"))
    file, way = dice.choice(files), dice.choice(["changed", "cut off", "removed"])
    content = bytearray(file.read_bytes())
    if way == "removed":
        file.unlink()
    elif way == "cut off":
        file.write_bytes(content[: len(content) // 2])
    else:
        content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
        file.write_bytes(content)
    return f"{file.parent.name.split('-')[0]}/{file.name} {way}"


def starts_at_once(root: Path, starts: int, at_once: int, expected: list[str], dice: random.Random) -> int:
    """The number of starts whose rows were not those of an undisturbed start."""
    wrong = 0
    for first in range(0, starts, at_once):
        numbers = range(first, min(first + at_once, starts))
        done = "empty cache" if not first else change(root / "cache", dice)
        processes = [(number, start(root, number)) for number in numbers]
        found = [rows_of(process.wait()) == expected[number % len(STORIES)] for number, process in processes]
        wrong += found.count(False)
        print(
            json.dumps({"starts": [numbers[0], numbers[-1]], "before": done, "wrong": found.count(False)}), flush=True
        )
    return wrong


def kills_at_random(root: Path, kills: int, dice: random.Random) -> list[str]:
    """The unfinished builds that are left after so many killed starts, each on a cache without finished folders."""
    cache = root / "cache"
    began = time.monotonic()
    rows_of(start(root, 0).wait())
    whole = time.monotonic() - began
    for number in range(kills):
        process = start(root, number)
        time.sleep(dice.uniform(0.2, 1.0) * whole)
        process.kill()
        print(json.dumps({"kill": number + 1, "cache": sorted(path.name[:20] for path in cache.iterdir())}), flush=True)
        process.wait()
        for folder in [path for path in cache.glob("*-*") if path.is_dir() and not path.name.startswith("unfinished")]:
            for file in folder.iterdir():
                file.unlink()
            folder.rmdir()
    return [path.name for path in cache.glob("unfinished-*")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--starts", type=int, default=200)
    parser.add_argument("--at_once", type=int, default=20)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    dice = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as root:
        alone, shared, killed = (Path(root, name) for name in ("alone", "shared", "killed"))
        for folder in (alone, shared, killed):
            folder.mkdir()
        expected = [rows_of(start(alone, number).wait()) for number in range(len(STORIES))]
        wrong = starts_at_once(shared, arguments.starts, arguments.at_once, expected, dice)
        left = kills_at_random(killed, arguments.kills, dice)
        start(killed, 1).wait()
        cleaned = [path.name for path in (killed / "cache").glob("unfinished-*")]
    print(
        f"{arguments.starts} starts, {wrong} with other rows; {arguments.kills} kills left {len(left)} unfinished "
        f"builds, the next start {len(cleaned)}"
    )
    sys.exit(1 if wrong or len(left) > 1 or cleaned else 0)


if __name__ == "__main__":
    main()
