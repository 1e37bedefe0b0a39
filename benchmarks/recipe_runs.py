"""Train many recipes, several at a time, and read what came out; the experiments of this folder are made of such runs.

    from recipe_runs import Run, train

    results = train([Run("muon-1", recipe | {"optimizer": "muon", "seed": 1})], Path("runs/experiment"), jobs=4)

Each run is a process of run_clm.py, with its guards, and its log is beside its folder. A run that is finished there is
not repeated, so that an experiment can be stopped and started again; one with other keys is trained anew.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
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
) -> dict[str, dict]:
    """The results of all runs by name. jobs: runs at a time, each with one CPU thread if there are several.

    script: what trains one, with the command line of run_clm.py. ended: called with name and result as a run ends.

    Raises:
        SystemExit: runs that failed, after all others have ended.
    """
    work_dir.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(jobs) as pool, tqdm(total=len(runs), unit="run") as bar:
        futures = {pool.submit(_train, run, work_dir.resolve(), jobs, script): run.name for run in runs}
        for future in as_completed(futures):
            bar.update()
            if future.exception() is None:
                ended(futures[future], future.result())
    failed = [name for future, name in futures.items() if future.exception()]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; see {work_dir}/NAME.log")
    return {name: future.result() for future, name in futures.items()}


def _train(run: Run, work_dir: Path, jobs: int, script: Path) -> dict:
    folder, keys = work_dir / run.name, json.loads(json.dumps(run.keys))
    kept = folder / KEYS
    if not kept.exists() or json.loads(kept.read_text(encoding="utf-8")) != keys:
        values = keys | {"output_dir": folder}
        options = [word for key, value in values.items() for word in (f"--{key}", as_option(value))]
        environment = os.environ | ({"OMP_NUM_THREADS": "1"} if jobs > 1 else {})
        with (work_dir / f"{run.name}.log").open("w", encoding="utf-8") as log:
            command = [sys.executable, str(script), *options, "--overwrite_output_dir", "--disable_tqdm", "true"]
            subprocess.run(command, check=True, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
        kept.write_text(json.dumps(keys) + "\n", encoding="utf-8")
    return read_result(folder)


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
