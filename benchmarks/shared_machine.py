"""What a busy machine costs: a training step beside equal neighbours, under each wait policy of OpenMP's threads.

    python benchmarks/shared_machine.py --write
    python benchmarks/shared_machine.py --sizes demo --rounds 1 --seconds 2
    python benchmarks/shared_machine.py --preload libiomp5.so

OpenMP's threads wait for one another at barriers many times in a step. A thread that spins there keeps the core that
the thread it waits for needs, as soon as another process wants the cores too. The policy is read when torch is loaded:
each variant has processes of its own. One, two or three of them train at once, and each reports its steps; the variants
take turns, so that other load on the machine affects all of them; medians over all steps of all rounds. The fair share
of a process among n is n times a step alone with the default policy.

Takes about five minutes for both sizes. It measures and chooses nothing: the policy that the commands set is
`tinystories/console.py`. --preload takes another OpenMP library in the place of torch's own, where the loader can do
that (Linux: libiomp5.so of the distribution intel-openmp).
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles
from typing import Any


sys.path.insert(0, str(Path(__file__).parent.parent))

from tinystories.provenance import Stopwatch, hash_files, provenance


ROOT = Path(__file__).parent.parent
RECORD = ROOT / "docs" / "results" / "shared_machine.json"
SIZES = {"demo": "1.07M", "tinystories-cpu": "5.9M"}  # recipe: parameters
NEIGHBOURS = (0, 1, 2)
DEFAULT, PASSIVE, ONE_THREAD = "default", "passive", "one thread"
POLICIES = {
    DEFAULT: {},
    PASSIVE: {"OMP_WAIT_POLICY": "PASSIVE"},
    "spin 1,000": {"GOMP_SPINCOUNT": "1000"},
    "spin 10,000": {"GOMP_SPINCOUNT": "10000"},
    ONE_THREAD: {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
}
OTHER_RUNTIME = {"spin 1 ms": {"KMP_BLOCKTIME": "1"}}  # in the place of GOMP_SPINCOUNT, which only GNU's library reads
READ_BY_OPENMP = ("OMP_", "GOMP_", "KMP_", "MKL_")


def policies(preload: str | None) -> dict[str, dict[str, str]]:
    if sys.platform == "linux" and not preload:
        return POLICIES
    common = {name: POLICIES[name] for name in (DEFAULT, PASSIVE, ONE_THREAD)}
    return {
        name: values | ({"LD_PRELOAD": preload} if preload else {}) for name, values in (common | OTHER_RUNTIME).items()
    }


def training_step(recipe: str) -> Callable[[], None]:
    """One step of the recipe's model on random tokens: forward, backward, clipping, AdamW; bf16 where it is fast."""
    import torch
    import yaml

    from configuration_tinystories import TinyStoriesConfig
    from modeling_tinystories import TinyStoriesForCausalLM
    from tinystories.config.arguments import bf16_is_fast

    keys = yaml.safe_load((ROOT / "configs" / f"{recipe}.yaml").read_text(encoding="utf-8"))
    shared = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    config = TinyStoriesConfig(**{key: keys[key] for key in shared}, max_position_embeddings=keys["block_size"])
    torch.manual_seed(0)
    model = TinyStoriesForCausalLM(config)
    forward = torch.compile(model) if keys.get("torch_compile") else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    ids = torch.randint(config.vocab_size, (keys["per_device_train_batch_size"], keys["block_size"]))
    half = bf16_is_fast(use_cpu=True)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = forward(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def work(recipe: str) -> None:
    """A worker: for each line "SECONDS STEPS", step for that long and at least so often; print the step times."""
    step = training_step(recipe)
    for _ in range(3):
        step()
    print("ready", flush=True)
    for line in sys.stdin:
        seconds, least = float(line.split()[0]), int(line.split()[1])
        end, times = time.perf_counter() + seconds, [time.perf_counter()]
        while times[-1] < end or len(times) <= least:
            step()
            times.append(time.perf_counter())
        print(json.dumps([after - before for before, after in zip(times, times[1:], strict=False)]), flush=True)


class Worker:
    """A process that trains with a policy whenever it is asked to."""

    def __init__(self, recipe: str, policy: dict[str, str]):
        others = {name: value for name, value in os.environ.items() if not name.startswith(READ_BY_OPENMP)}
        command = [sys.executable, __file__, "--work", recipe]
        self.process = subprocess.Popen(
            command, env=others | policy, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def wait_until_ready(self) -> None:
        if self._line() != "ready\n":
            raise SystemExit("a worker has ended: see its error above")

    def start(self, seconds: float, least: int) -> None:
        print(seconds, least, file=self.process.stdin, flush=True)

    def times(self) -> list[float]:
        """Of the steps since `start`; the first is left out, because the neighbours began a moment apart."""
        return json.loads(self._line())[1:]

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def measure(recipe: str, rounds: int, seconds: float, variants: dict[str, dict[str, str]]) -> list[dict[str, Any]]:
    """Seconds of a step for each policy and number of neighbours: median and quartiles over all steps."""
    workers: dict[str, list[Worker]] = {name: [] for name in variants}
    try:
        for number in range(max(NEIGHBOURS) + 1):
            for name, policy in variants.items():
                workers[name].append(Worker(recipe, policy))
                if number == 0:  # compiles, for the others to find it done
                    workers[name][0].wait_until_ready()
        for worker in (each for together in workers.values() for each in together[1:]):
            worker.wait_until_ready()
        found: dict[tuple[str, int], list[float]] = {(name, count): [] for name in variants for count in NEIGHBOURS}
        for _ in range(rounds):
            for name, count in found:
                together = workers[name][: count + 1]
                for worker in together:
                    worker.start(seconds, least=3)
                for worker in together:
                    found[name, count] += worker.times()
    finally:
        for worker in (each for together in workers.values() for each in together):
            worker.end()
    return [
        {"size": SIZES[recipe], "policy": name, "neighbours": count, "steps": len(times), **spread(times)}
        for (name, count), times in found.items()
    ]


def spread(times: list[float]) -> dict[str, float]:
    low, middle, high = quantiles(times, n=4)
    return {"seconds": middle, "low": low, "high": high}


def against_default(rows: list[dict[str, Any]]) -> None:
    """Add to each row its cost: its step over the fair share of a step alone with the default policy."""
    alone = {
        row["size"]: row["seconds"] for row in rows if row["policy"] == DEFAULT and row["neighbours"] == 0
    }
    for row in rows:
        row["of_fair_share"] = row["seconds"] / (alone[row["size"]] * (row["neighbours"] + 1))


def table(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "title": "A training step beside equal neighbours: times the fair share of a step alone with the default policy",
        "columns": ["parameters", "wait policy", *(f"{count} neighbours" for count in NEIGHBOURS), "seconds alone"],
        "rows": [
            [size, name, *(round(cost[count]["of_fair_share"], 2) for count in NEIGHBOURS), round(cost[0]["seconds"], 3)]
            for size in dict.fromkeys(row["size"] for row in rows)
            for name in dict.fromkeys(row["policy"] for row in rows)
            if (cost := {r["neighbours"]: r for r in rows if (r["size"], r["policy"]) == (size, name)})
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--policies", nargs="+", help="some of the policies by name")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=3, help="of each measurement, at least three steps")
    parser.add_argument("--preload", help="an OpenMP library in the place of torch's own")
    parser.add_argument("--write", action="store_true", help="write docs/results/shared_machine.json")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        return work(given.work)
    began = Stopwatch()
    variants = {n: v for n, v in policies(given.preload).items() if n in (given.policies or policies(given.preload))}
    rows = [row for size in given.sizes for row in measure(size, given.rounds, given.seconds, variants)]
    against_default(rows)
    print(json.dumps(table(rows), indent=1))


if __name__ == '__main__':
    main()
