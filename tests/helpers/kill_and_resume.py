"""Kills a small run at random moments, resumes it with --resume, and compares the final weights.

    python tests/helpers/kill_and_resume.py --kills 20

Prints each kill: after how many seconds, and what the run folder held at that moment. The whole process tree is killed
with SIGKILL, where the system has it. Exit status 0 if every finished run has, to the bit, the weights of a run that
was never interrupted, and 1 if not. The run crosses an epoch, accumulates gradients, loads with two workers, has
dropout, and evaluates often.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import torch
from safetensors.torch import load_file


ROOT = Path(__file__).parent.parent.parent
RUN = {
    "num_sample_stories": 100,
    "vocab_size": 320,
    "block_size": 64,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "resid_pdrop": 0.1,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "dataloader_num_workers": 2,
    "learning_rate": 3e-3,
    "warmup_steps": 10,
    "max_steps": 400,
    "eval_strategy": "steps",
    "eval_steps": 20,
    "max_eval_samples": 10,
    "save_strategy": "steps",
    "save_steps": 20,
    "save_total_limit": 4,
    "save_log_spaced": True,
    "load_best_model_at_end": True,
    "early_stopping_patience": 5,
    "logging_steps": 20,
    "bf16": False,
    "disable_tqdm": True,
}


def options(folder: Path, run: dict = RUN, **settings) -> list[str]:
    """The command line of the small run in `folder`; runs beside each other share a cache."""
    values = run | {"data_cache_dir": folder.parent / "cache", "output_dir": folder} | settings
    return [word for key, value in values.items() for word in (f"--{key}", str(value))]


def start(folder: Path, log: Path, *more: str, **settings) -> subprocess.Popen:
    """run_clm.py on the small run, its output in `log`, in a process group of its own as in a terminal."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}
    with log.open("w", encoding="utf-8") as stream:
        return subprocess.Popen(
            [sys.executable, str(ROOT / "run_clm.py"), *options(folder, **settings), *more],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def kill(process: subprocess.Popen) -> None:
    """Kill the process and the workers it started."""
    try:
        tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        tree = []
    for one in tree:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    process.wait()


def differing(folder: Path, reference: Path) -> list[str]:
    """Names of the weights that differ in any bit."""
    ours, theirs = (load_file(path / "model.safetensors") for path in (folder, reference))
    return sorted(name for name in ours.keys() | theirs.keys() if not torch.equal(ours[name], theirs[name]))


def moment(folder: Path) -> str:
    """How far a killed run had come, from the files in its folder."""
    if not (folder / "recipe.json").exists():
        return "preparing"
    if (folder / "all_results.json").exists():
        return "after the training"
    saved = sorted(int(path.name.removeprefix("checkpoint-")) for path in folder.glob("checkpoint-*"))
    half = [path.name for path in folder.glob("unfinished-checkpoint/checkpoint-*")]
    return f"last checkpoint {saved[-1] if saved else 'none'}" + (f", {half[0]} half written" if half else "")


def harness(kills: int, seed: int, root: Path) -> list[dict]:
    """The kills, and after each finished run the names of the weights that differ (none, if resuming works)."""
    reference, began = root / "reference", time.monotonic()
    if start(reference, root / "reference.log").wait() != 0:
        sys.exit((root / "reference.log").read_text(encoding="utf-8")[-2000:])
    whole = time.monotonic() - began
    print(f"uninterrupted: {whole:.0f} s", flush=True)
    dice, records, runs = random.Random(seed), [], 1
    while True:
        folder, log = root / f"run-{runs}", root / f"run-{runs}-{len(records)}.log"
        process = start(folder, log, "--resume")
        done = sum("kill" in record for record in records)
        delay = dice.uniform(0.1, 0.6) * whole if done < kills else 20 * whole
        try:
            status = process.wait(timeout=delay)
        except subprocess.TimeoutExpired:
            kill(process)
            records.append({"run": runs, "kill": done + 1, "after_seconds": round(delay, 1), "moment": moment(folder)})
        else:
            if status != 0:
                sys.exit(f"run {runs} ended with {status}: {log.read_text(encoding='utf-8')[-2000:]}")
            records.append({"run": runs, "finished": True, "weights_that_differ": differing(folder, reference)})
            runs += 1
        print(json.dumps(records[-1]), flush=True)
        if done >= kills and "finished" in records[-1]:
            return records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="also write the records here, as JSON")
    arguments = parser.parse_args()
    root = Path(tempfile.mkdtemp())
    try:
        records = harness(arguments.kills, arguments.seed, root)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    if arguments.output:
        arguments.output.write_text(json.dumps(records, indent=2) + "\n", encoding="utf-8")
    finished = [record for record in records if "finished" in record]
    broken = [record for record in finished if record["weights_that_differ"]]
    print(f"{len(records) - len(finished)} kills, {len(finished)} finished runs, {len(broken)} with other weights")
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
