"""Train with one process and with two over gloo, with the same rows in every step, and compare the loss curves.

    python benchmarks/two_processes.py

Writes docs/results/two-processes.json, and docs/figures/two-processes.svg where matplotlib is installed.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parent.parent))

from tinystories.data.corpus import SAMPLE_CORPUS_SEED
from tinystories.data.sample_corpus import sample_stories
from tinystories.provenance import Stopwatch, hash_texts, provenance


ROOT = Path(__file__).parent.parent
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
RECIPE = {
    "num_sample_stories": 2000,
    "vocab_size": 1024,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "max_steps": 100,
    "eval_steps": 50,
    "save_steps": 50,
    "max_eval_samples": 99,  # odd, so that two processes get unequal shares
    "logging_steps": 1,
    "bf16": False,
    "use_cpu": True,
    "dataloader_drop_last": True,  # else two processes fill the last batch of an epoch differently
}
SEED = 42  # that of configs/demo.yaml
KEYS = ("loss", "eval_loss", "eval_bits_per_byte", "num_input_tokens_seen")


def run(launcher: list[str], rows: int, folder: Path) -> dict[str, list]:
    """The logged values of a run: {name: [(step, value)]}."""
    values = RECIPE | {"output_dir": folder, "per_device_train_batch_size": rows}
    options = [word for key, value in values.items() for word in (f"--{key}", str(value))]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # the same for every process in both runs
    command = [sys.executable, *launcher, "run_clm.py", "configs/demo.yaml", *options]
    subprocess.run(command, check=True, cwd=ROOT, env=environment)
    history = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    return {key: [(row["step"], row[key]) for row in history if key in row] for key in KEYS}


def draw(one: list, two: list, path: Path) -> None:
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        sys.exit("no figure: matplotlib is missing (python -m pip install matplotlib)")
    plt.rcParams["svg.hashsalt"] = "two-processes"  # equal data give an identical file
    figure, (top, bottom) = plt.subplots(2, 1, sharex=True, figsize=(7, 6), height_ratios=(2, 1), layout="constrained")
    top.plot(*zip(*one, strict=True), label="1 process x 16 rows", linewidth=4, alpha=0.4)
    top.plot(*zip(*two, strict=True), label="2 processes x 8 rows", linewidth=1, color="black")
    top.set_ylabel("training loss, nats per token")
    top.legend()
    bottom.plot([step for step, _ in one], [b[1] - a[1] for a, b in zip(one, two, strict=True)])
    bottom.set(xlabel="step", ylabel="difference")
    figure.savefig(path, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))


def main() -> None:
    began = Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        one, two = run([], 16, Path(folder, "one")), run(TORCHRUN, 8, Path(folder, "two"))
    largest = {key: max(abs(a[1] - b[1]) for a, b in zip(one[key], two[key], strict=True)) for key in KEYS}
    stories = sample_stories(RECIPE["num_sample_stories"], seed=SAMPLE_CORPUS_SEED)
    data = {"stories": {"source": "the embedded sample corpus", **hash_texts(stories)}}
    result = {"provenance": provenance(began, SEED, data), "recipe": {"configs/demo.yaml": RECIPE, "seed": SEED}}
    result |= {"largest_difference": largest}
    result |= {"one_process_16_rows": one, "two_processes_8_rows": two}
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in result.items())
    (ROOT / "docs" / "results" / "two-processes.json").write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
    print(json.dumps(largest, indent=2))
    draw(one["loss"], two["loss"], ROOT / "docs" / "figures" / "two-processes.svg")


if __name__ == "__main__":
    main()
