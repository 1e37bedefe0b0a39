"""Train many recipes, several at a time, and read what came out; the experiments of this folder are made of such runs.

    from recipe_runs import Run, train

    results = train([Run("muon-1", recipe | {"optimizer": "muon", "seed": 1})], Path("runs/experiment"), jobs=4)

Each run is a process of run_clm.py, with its guards, and its log is beside its folder. A run that is finished there is
not repeated, so that an experiment can be stopped and started again; one with other keys is trained anew. Where the
system can fork, the processes share the seconds in which torch and transformers are imported.
"""

import json
import multiprocessing
import os
import runpy
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm


ROOT = Path(__file__).parent.parent
KEYS = "keys.json"  # in a run folder: the keys that it was trained with


@dataclass(frozen=True)
class Run:
    """A name, which is that of the run folder, and the keys of its recipe."""

    name: str
    keys: dict[str, Any]


def train(
    runs: list[Run],
    work_dir: Path,
    jobs: int = 1,
    script: Path = ROOT / "run_clm.py",
    ended: Callable[[str, dict], None] = lambda name, result: None,
    failed: list[str] | None = None,
) -> dict[str, dict]:
    """The results of all runs by name. jobs: runs at a time, each with one CPU thread if there are several.

    script: what trains one, with the command line of run_clm.py. ended: called with name and result as a run ends.
    failed: where given, takes the names of runs that fail, and the results are those of the others.

    Raises:
        SystemExit: runs that failed, after all others have ended, unless `failed` takes them.
    """
    work_dir.mkdir(parents=True, exist_ok=True)
    if jobs > 1:
        os.environ["OMP_NUM_THREADS"] = "1"
    forks = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if forks else "spawn")
    if forks:
        # Libraries only: a process has one such server, and commands of tests are forked without this project in it.
        context.set_forkserver_preload(["transformers.trainer"])
    with (
        ProcessPoolExecutor(jobs, context, max_tasks_per_child=1) as pool,
        tqdm(total=len(runs), unit="run", disable=None) as bar,
    ):
        futures = {pool.submit(_train, run, work_dir.resolve(), script): run.name for run in runs}
        results, broken = {}, {}
        for future in as_completed(futures):
            name, error = futures[future], future.exception()
            if error is not None:
                broken[name] = error
            else:
                results[name] = future.result()
                ended(name, results[name])
            bar.update()
    if broken and failed is None:
        sys.exit(f"failed: {', '.join(f'{name} ({error})' for name, error in broken.items())}; see {work_dir}/NAME.log")
    if failed is not None:
        failed += broken
    return {run.name: results[run.name] for run in runs if run.name in results}


def _train(run: Run, work_dir: Path, script: Path) -> dict:
    folder, keys = work_dir / run.name, json.loads(json.dumps(run.keys))
    kept = folder / KEYS
    if not kept.exists() or json.loads(kept.read_text(encoding="utf-8")) != keys:
        values = keys | {"output_dir": folder}
        options = [word for key, value in values.items() for word in (f"--{key}", as_option(value))]
        command = [str(script), *options, "--overwrite_output_dir", "--disable_tqdm", "true"]
        with (work_dir / f"{run.name}.log").open("w", encoding="utf-8") as log:
            _call(command, log.fileno())
        kept.write_text(json.dumps(keys) + "\n", encoding="utf-8")
    return read_result(folder)


def _call(command: list[str], log: int) -> None:
    """Run a script in this process, which does nothing else; everything that is printed goes into the log.

    Raises:
        RuntimeError: it ended with another exit status than 0.
    """
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(ROOT)
    sys.argv = command
    try:
        runpy.run_path(command[0], run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise RuntimeError(f"exit status {end.code}") from None
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


class TokenizerOfSize:
    """As much of one as building a model needs."""

    bos_token_id, eos_token_id, pad_token_id = 1, 2, 0

    def __init__(self, size: int):
        self.size = size

    def __len__(self) -> int:
        return self.size


def first_stories(path: Path, number: int, copy: Path) -> Path:
    """Copy the first stories of a .txt file, in which each ends with <|endoftext|>."""
    stories = path.read_text(encoding="utf-8").split("<|endoftext|>")
    copy.write_text("".join(f"{story}<|endoftext|>" for story in islice(stories, number)), encoding="utf-8")
    return copy


def as_option(value: object) -> str:
    return json.dumps(value) if isinstance(value, dict) else str(value)


def read_result(folder: Path) -> dict:
    """The final score, what it cost, and the curve of scores on a sample: pairs of (tokens seen, bits per byte)."""
    results = json.loads((folder / "all_results.json").read_text(encoding="utf-8"))
    history = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    environment = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    rows = [row for row in history if "eval_bits_per_byte" in row]
    return {
        "bits_per_byte": results["eval_bits_per_byte"],
        "stories": results["eval_stories"],
        "tokens": results["num_input_tokens_seen"],
        "training_flops": results["training_flops"],
        "parameters": environment["parameters"],
        "train_seconds": round(results["train_runtime"], 1),
        "device": environment["device_name"],
        "curve": [[row["num_input_tokens_seen"], round(row["eval_bits_per_byte"], 4)] for row in rows],
    }
