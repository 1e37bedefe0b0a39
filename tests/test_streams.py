"""Commands whose stdout or stderr is missing, closed or full: they work, and what cannot be written is dropped."""

import errno
import json
import os
import subprocess
import sys

import pytest

from helpers.runs import ROOT, TINY, as_options, run_command, write_counting_corpus
from tinystories.config.packaged import BOXED


posix = pytest.mark.skipif(os.name != "posix", reason="closes descriptors as a POSIX shell does")
slow = pytest.mark.slow
NOBODY_READS = """
import os
reader, writer = os.pipe()
for descriptor in (1, 2):
    os.dup2(writer, descriptor)
os.close(reader)
"""
FULL = "import os; os.dup2(os.open('/dev/full', os.O_WRONLY), 1)"


def start(*words, closed=(), **options):
    """A new interpreter without the descriptors `closed`, as `python ... >&-` in a shell."""

    def close() -> None:
        for descriptor in closed:
            os.close(descriptor)

    return subprocess.run([sys.executable, *words], cwd=ROOT, preexec_fn=close, timeout=60, **options)


@slow
@posix
@pytest.mark.parametrize("closed", [(1,), (2,), (0, 1, 2)], ids=str)
def test_start_without_streams(closed):
    """As in a service, and `-u`, which gives stdout no buffer."""
    for words in (["-m", "tinystories", "--version"], ["-u", "run_clm.py", "--help"]):
        assert start(*words, closed=closed).returncode == 0


UNTIL_KILLED = """
import os, sys
from tinystories.streams import open_streams
open_streams()
print("on stdout")
print("on stderr", file=sys.stderr)
os._exit(9)
"""


@slow
@pytest.mark.parametrize("unbuffered", [False, True])
def test_lines_are_written_at_once(unbuffered):
    """To stderr always, to stdout with `-u`: whoever reads the log of a server must not wait for its end."""
    process = start(*["-u"] * unbuffered, "-c", UNTIL_KILLED, capture_output=True, text=True)
    assert process.returncode == 9 and process.stderr == "on stderr\n"
    assert process.stdout == "on stdout\n" or not unbuffered


@slow
@posix
def test_descriptor_is_not_taken(tmp_path):
    """A file that is opened later would get the free number 1, and what a library prints would land in it."""
    code = f"""
import os, sys
from tinystories.console import run_command
def main(argv):
    with open({str(tmp_path / "weights")!r}, "w") as file:
        os.write(1, b"printed by a library")
        os.write(2, b"printed by a library")
        print("printed by us")
        file.write("weights")
run_command(main)
"""
    assert start("-c", code, closed=(0, 1, 2)).returncode == 0
    assert (tmp_path / "weights").read_text(encoding="utf-8") == "weights"


@slow
def test_stream_of_a_notebook():
    """It is no file, and cannot be reconfigured."""
    code = """
import sys
class Stream:
    def write(self, text): sys.__stdout__.write(text)
    def flush(self): pass
sys.stdout = sys.stderr = Stream()
from tinystories.commands.main import main
sys.argv = ["tinystories", "--version"]
main()
"""
    process = start("-c", code, capture_output=True, text=True)
    assert process.returncode == 0 and process.stdout.startswith("tinystories "), process.stderr


@slow
@posix
def test_training_outlives_its_output(tmp_path):
    """`run_clm.py | head -1`: the run is trained, scored, described and reported. A prompt as long as the context is
    left out, and what the run would have printed does not name it.
    """
    options = TINY | {"train_file": write_counting_corpus(tmp_path), "data_cache_dir": tmp_path / "cache"}
    options |= {"max_steps": 4, "eval_steps": 2, "save_steps": 2, "disable_tqdm": False, "output_dir": tmp_path / "run"}
    prompts = ["--sample_prompts", "Story " * 100, "Story 7."]
    process = run_command("run_clm.py", *as_options(options), "--skip_guards", *prompts, code=NOBODY_READS)
    assert process.returncode == 0
    assert (tmp_path / "run" / "report" / "index.html").exists() and (tmp_path / "run" / "README.md").exists()
    assert '"sample_prompts": [\n    "Story 7."\n  ]' in (tmp_path / "run" / "recipe.json").read_text(encoding="utf-8")


@slow
@posix
def test_generation_without_reader(tmp_path):
    """It ends with status 0, without a traceback; with an output file, which is somebody's, it ends the story."""
    options = ["Once upon a time", "--max_new_tokens", "9"]
    code = NOBODY_READS.replace("(1, 2)", "(1,)")
    process = run_command("run_generation.py", BOXED, *options, code=code)
    assert (process.returncode, process.stderr) == (0, "")
    output = tmp_path / "story.json"
    process = run_command("run_generation.py", BOXED, *options, "--output_file", output, code=code)
    assert process.returncode == 0 and json.loads(output.read_text(encoding="utf-8"))["new_tokens"] == 9


@slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has a device that is always full")
def test_disk_of_stdout_is_full(tmp_path):
    """A story that was not written is a failure; with an output file it was."""
    options = [BOXED, "Story", "--max_new_tokens", "2"]
    process = run_command("run_generation.py", *options, code=FULL)
    assert process.returncode == 1
    assert process.stderr.startswith(f"error: what was printed is not complete: {os.strerror(errno.ENOSPC)}; ")
    assert run_command("run_generation.py", *options, "--output_file", tmp_path / "a", code=FULL).returncode == 0
