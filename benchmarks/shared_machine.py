"""What a busy machine costs: a training step beside equal neighbours, under each wait policy of OpenMP's threads.

    python benchmarks/shared_machine.py --write
    python benchmarks/shared_machine.py --sizes ladder/tinystories-1m --rounds 1 --seconds 1
    python benchmarks/shared_machine.py --preload libiomp5.so

OpenMP's threads wait for one another at barriers many times in a step. A thread that spins there keeps the core that
the thread it waits for needs, as soon as another process wants the cores too. The policy is read when torch is loaded,
so each variant has processes of its own. One, two or three of them train at once, and each reports its steps; the
variants take turns, so that other load on the machine affects all of them; medians over all processes. The fair share
of a process among n is n times a step alone with the default policy. The server's question is the same: eight stories
with one and with two threads, alone and beside others.

Takes about six minutes and 8 GB of memory. It measures and chooses nothing: what the commands set is `WAIT_POLICY` in
tinystories/console.py. --preload takes another OpenMP library in the place of torch's own, where the loader can do that
(Linux: libiomp5.so of the distribution intel-openmp).
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any


sys.path.insert(0, str(Path(__file__).parent.parent))

from tinystories.console import WAIT_POLICY
from tinystories.provenance import Stopwatch, provenance


ROOT = Path(__file__).parent.parent
RECORD = ROOT / "docs" / "results" / "shared_machine.json"
SIZES = {"ladder/tinystories-1m": "1M", "tinystories-cpu": "5.9M"}  # recipe: parameters
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
STREAMS = 8  # stories of a server
READ_BY_OPENMP = ("OMP_", "GOMP_", "KMP_", "MKL_")


def policies(preload: str | None) -> dict[str, dict[str, str]]:
    if sys.platform == "linux" and not preload:
        return POLICIES
    common = {name: POLICIES[name] for name in (DEFAULT, PASSIVE, ONE_THREAD)}
    return {
        name: values | ({"LD_PRELOAD": preload} if preload else {}) for name, values in (common | OTHER_RUNTIME).items()
    }


def sizes(recipe: str) -> dict[str, int]:
    keys = read(recipe)
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    return {name: keys[name] for name in names} | {"max_position_embeddings": keys["block_size"]}


def read(recipe: str) -> dict[str, Any]:
    import yaml

    return yaml.safe_load((ROOT / "configs" / f"{recipe}.yaml").read_text(encoding="utf-8"))


def training_step(recipe: str) -> Callable[[], None]:
    """One step of the recipe's model on random tokens: forward, backward, clipping, AdamW; bf16 where it is fast."""
    import torch

    from configuration_tinystories import TinyStoriesConfig
    from modeling_tinystories import TinyStoriesForCausalLM
    from tinystories.config.arguments import bf16_is_fast

    keys, config = read(recipe), TinyStoriesConfig(**sizes(recipe))
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


def writing_steps(recipe: str, threads: int) -> Callable[[], None]:
    """Twenty steps of the server's decoder: a token for each of eight stories."""
    from configuration_tinystories import TinyStoriesConfig
    from modeling_tinystories import TinyStoriesForCausalLM
    from tinystories.generation.decoder import Decoder

    decoder = Decoder.from_model(
        TinyStoriesForCausalLM(TinyStoriesConfig(**sizes(recipe))), slots=STREAMS, threads=threads
    )

    def step() -> None:
        for slot in range(STREAMS):
            decoder.prefill(slot, [1, 2, 3])
        for _ in range(20):
            decoder.step(dict.fromkeys(range(STREAMS), 4))

    return step


def work(recipe: str, threads: int | None) -> None:
    """A worker: for each line "SECONDS STEPS", step for that long and at least so often; print the step times.

    threads: of a server; None: train."""
    step = training_step(recipe) if threads is None else writing_steps(recipe, threads)
    for _ in range(3):
        step()
    print("ready", flush=True)
    for line in sys.stdin:
        seconds, least = float(line.split()[0]), int(line.split()[1])
        end, times = time.perf_counter() + seconds, [time.perf_counter()]
        while times[-1] < end or len(times) <= least:
            step()
            times.append(time.perf_counter())
        print(json.dumps([after - before for before, after in itertools.pairwise(times)]), flush=True)


@dataclass(frozen=True)
class Variant:
    """name, environment of its processes, and threads of a server; None: it trains."""

    name: str
    environment: dict[str, str]
    threads: int | None = None


class Worker:
    """A process that works whenever it is asked to."""

    def __init__(self, recipe: str, variant: Variant):
        others = {name: value for name, value in os.environ.items() if not name.startswith(READ_BY_OPENMP)}
        command = [sys.executable, __file__, "--work", recipe]
        command += [] if variant.threads is None else ["--threads", str(variant.threads)]
        self.process = subprocess.Popen(
            command, env=others | variant.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
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
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def measure(recipe: str, variants: list[Variant], rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Seconds of a step for each variant and number of neighbours, the median of each round."""
    workers: dict[str, list[Worker]] = {variant.name: [] for variant in variants}
    try:
        for number in range(max(NEIGHBOURS) + 1):
            for variant in variants:
                workers[variant.name].append(Worker(recipe, variant))
                if number == 0:  # compiles, and the others find it done
                    workers[variant.name][0].wait_until_ready()
        for worker in (each for together in workers.values() for each in together[1:]):
            worker.wait_until_ready()
        found: dict[tuple[str, int], list[float]] = {
            (name, count): [] for name, count in itertools.product(workers, NEIGHBOURS)
        }
        for _ in range(rounds):
            for name, count in found:
                together = workers[name][: count + 1]
                for worker in together:
                    worker.start(seconds, least=3)
                found[name, count].append(median(step for worker in together for step in worker.times()))
    finally:
        for worker in (each for together in workers.values() for each in together):
            worker.end()
    return [
        {"size": SIZES[recipe], "variant": name, "neighbours": count, "seconds": median(each), "rounds": each}
        for (name, count), each in found.items()
    ]


def cost(rows: list[dict[str, Any]], row: dict[str, Any], first: str) -> dict[str, float]:
    """The step of a row over its fair share: a step alone of the variant `first`, once for each process."""
    alone = next(r for r in rows if (r["size"], r["variant"], r["neighbours"]) == (row["size"], first, 0))
    processes = row["neighbours"] + 1
    each = [step / (one * processes) for step, one in zip(row["rounds"], alone["rounds"], strict=True)]
    return {"ratio": row["seconds"] / (alone["seconds"] * processes), "low": min(each), "high": max(each)}


def table(title: str, rows: list[dict[str, Any]], first: str) -> dict[str, Any]:
    lines = {(row["size"], row["variant"]): [] for row in rows}
    for row in rows:
        lines[row["size"], row["variant"]].append(row)
    return {
        "title": title,
        "columns": ["parameters", "variant", *(f"{count} neighbours" for count in NEIGHBOURS), "ms of a step alone"],
        "rows": [
            [*line, *(round(cost(rows, row, first)["ratio"], 2) for row in each), round(1000 * each[0]["seconds"], 1)]
            for line, each in lines.items()
        ],
    }


def goals(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of the variant that the commands set."""
    matching = (name for name, policy in POLICIES.items() if policy and policy.items() <= WAIT_POLICY.items())
    chosen = next(matching, None)
    return [
        {
            "goal": f"training step of {row['size']} parameters beside {row['neighbours']} equal neighbours: times the "
            "fair share of the default policy",
            "at_most": 1.3 if row["neighbours"] else 1.03,
        }
        | cost(rows, row, DEFAULT)
        for row in rows
        if row["variant"] == chosen
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=2, help="of each measurement, at least three steps")
    parser.add_argument("--preload", help="an OpenMP library in the place of torch's own")
    parser.add_argument("--write", action="store_true", help="write docs/results/shared_machine.json")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        return work(given.work, given.threads)
    began = Stopwatch()
    training = [Variant(name, policy) for name, policy in policies(given.preload).items()]
    writing = [Variant(ONE_THREAD, {}, 1), Variant("two threads", {}, 2)]
    trained, written = [], []
    for size in given.sizes:
        trained += measure(size, training, given.rounds, given.seconds)
        written += measure(size, writing, given.rounds, given.seconds)
    result = {
        "provenance": provenance(began, 0, {}, ["onnxruntime"]),
        "openmp": Path(given.preload).name if given.preload else None,
        "training": trained,
        "writing": written,
        "tables": [
            table(f"A training step: times the fair share of a step alone with the {DEFAULT} policy", trained, DEFAULT),
            table(
                f"{STREAMS} stories, 20 tokens each: times the fair share of {ONE_THREAD} alone", written, ONE_THREAD
            ),
        ],
        "goals": goals(trained),
    }
    print(json.dumps({name: result[name] for name in ("tables", "goals")}, indent=1))
    if given.write:
        RECORD.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
