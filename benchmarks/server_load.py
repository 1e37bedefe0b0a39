"""The server under load: checks that no story is mixed, lost or stalled and that memory stays flat; measures its speed.

    python benchmarks/server_load.py runs/tinystories-cpu --write

1. Every pair of beginning and seed is requested alone; its text is the reference for all that follows.
2. Tokens per second and the time to the first token with 1, 4, 8 and 16 stories at a time, and, for comparison, with
   two threads, and with one story after the other (--max_running 1). The variants take turns, so that other load on
   the machine affects all of them; medians over the rounds.
3. A hundred clients for ten minutes: each requests one of the stories, reads it, compares it, and repeats; one in
   twenty disconnects half-way. There are more clients than the queue holds: 429 must be the only refusal, with the
   time to wait.
4. Eight clients disconnect at once: the time until no story is running, and the processor time of the next second.

It starts its own servers on free ports, and ends them.
"""

import argparse
import asyncio
import json
import random
import re
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
from tqdm import tqdm


sys.path.insert(0, str(Path(__file__).parent.parent))

from tinystories.provenance import Stopwatch, hash_files, provenance


ROOT = Path(__file__).parent.parent
RECORD = ROOT / "docs" / "results" / "server_load.json"
DOCUMENT = ROOT / "docs" / "server.md"
BEGINNINGS = (
    "Once upon a time",
    "The old dog",
    "One day, a girl named",
    "Tom had a red",
    "\U0001f98a",
    "It was raining and",
)
STALL_TIMEOUT = 60  # seconds without a byte


@contextmanager
def server(checkpoint: str, *options: str):
    """A server process on a free port; yields its address and process."""
    command = [
        sys.executable,
        str(ROOT / "run_server.py"),
        checkpoint,
        "--port",
        "0",
        "--requests_per_minute",
        "1000000",
        "--client_share",  # all clients of this measurement have one address
        "1",
    ]
    process = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True, encoding="utf-8")
    try:
        address = next(match[0] for line in process.stderr if (match := re.search(r"http://\S+", line)))
        with httpx.Client() as client:
            while client.get(f"{address}/health").status_code != 200:
                time.sleep(0.1)
        threading.Thread(target=process.stderr.read, daemon=True).start()  # a full pipe would block the server
        yield address, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(timeout=60)


async def events(answer: httpx.Response) -> AsyncIterator[tuple[str, str]]:
    name = "message"
    async for line in answer.aiter_lines():
        if line.startswith("event: "):
            name = line[7:]
        elif line.startswith("data: "):
            yield name, line[6:]
            name = "message"


async def story(
    client: httpx.AsyncClient, pair: tuple[str, int], tokens: int, leave: bool = False, count: Callable = lambda n: None
) -> dict[str, Any]:
    """The result of one request: status, text, times and whether it is complete. `count` gets the tokens of a piece."""
    prompt, seed = pair
    start, pieces, first = time.perf_counter(), [], None
    body = {"prompt": prompt, "seed": seed, "max_tokens": tokens}
    async with client.stream("POST", "/generate", json=body) as answer:
        if answer.status_code != 200:
            return {"status": answer.status_code, "retry_after": answer.headers.get("retry-after")}
        end, done = None, False
        async for name, data in events(answer):
            if name == "error":
                return {"status": 200, "error": json.loads(data)["error"]}
            if data == "[DONE]":
                done = True
            elif name == "message" and "token" in (found := json.loads(data)):
                first = first or time.perf_counter() - start
                pieces.append(found["token"])
                count(found["tokens"])
                if leave and len(pieces) == 10:
                    return {"status": 200, "left": True}
            elif name == "message":
                end = found
    text = "".join(pieces)
    whole = done and end is not None and end["text"] == text and end["seed"] == seed
    return {"status": 200, "whole": whole, "text": text, "first": first}


async def alone(address: str, pairs: list[tuple[str, int]], tokens: int) -> dict[tuple[str, int], str]:
    async with httpx.AsyncClient(base_url=address, timeout=STALL_TIMEOUT) as client:
        return {pair: (await story(client, pair, tokens))["text"] for pair in tqdm(pairs, desc="each story alone")}


async def rush(
    address: str, expected: dict, clients: int, seconds: float, tokens: int, leaving: float = 0.0
) -> tuple[list[dict], float]:
    """`clients` that request story after story: the result of every request, and tokens per second."""
    results: list[dict] = []
    written = 0
    end = time.perf_counter() + seconds
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=clients)

    def count(number: int) -> None:
        nonlocal written
        written += number if time.perf_counter() < end else 0

    async def ask(number: int, client: httpx.AsyncClient) -> None:
        dice = random.Random(number)
        while time.perf_counter() < end:
            pair = dice.choice(list(expected))
            try:
                found = await story(client, pair, tokens, dice.random() < leaving, count)
            except httpx.ReadTimeout:
                found = {"status": 200, "hung": True}
            except httpx.TransportError as error:
                found = {"status": 0, "lost": f"{type(error).__name__}: {error}"}
            results.append(found | ({"same": found["text"] == expected[pair]} if "text" in found else {}))
            if found["status"] in (429, 503):
                await asyncio.sleep(float(found["retry_after"] or 1) * dice.uniform(0.8, 1.2))

    async with httpx.AsyncClient(base_url=address, timeout=STALL_TIMEOUT, limits=limits) as client:
        await asyncio.gather(*(ask(number, client) for number in range(clients)))
    return results, written / seconds


def speed(results: list[dict], rate: float) -> dict[str, float]:
    first = sorted(found["first"] for found in results if found.get("first"))
    return {
        "tokens_per_second": rate,
        "first_token_median": statistics.median(first),
        "first_token_p95": first[int(0.95 * (len(first) - 1))],
    }


def throughput(checkpoint: str, expected: dict, tokens: int, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Rounds of each variant and number of clients in turn; medians over the rounds."""
    ways = [("together", clients) for clients in (1, 4, 8, 16)]
    ways += [("together, two threads", clients) for clients in (1, 16)] + [("one after the other", 16)]
    found: dict[tuple[str, int], list[dict]] = {way: [] for way in ways}
    with (
        server(checkpoint) as (together, _),
        server(checkpoint, "--threads", "2") as (threaded, _),
        server(checkpoint, "--max_running", "1") as (apart, _),
    ):
        addresses = {"together": together, "together, two threads": threaded, "one after the other": apart}
        for _ in tqdm(range(rounds), desc="throughput"):
            for way, clients in ways:
                asked = rush(addresses[way], expected, clients, seconds, tokens)
                found[way, clients].append(speed(*asyncio.run(asked)))
    names = ("tokens_per_second", "first_token_median", "first_token_p95")
    return [
        {"way": way, "clients": clients}
        | {name: statistics.median(each[name] for each in found[way, clients]) for name in names}
        for way, clients in ways
    ]


def siege(address: str, process: psutil.Process, expected: dict, clients: int, seconds: float, tokens: int) -> tuple:
    """The results of the long run, and the server's memory during it, in MiB."""

    async def with_memory() -> tuple[list[dict], float, list[float]]:
        memory: list[float] = []

        async def watch() -> None:
            while True:
                memory.append(process.memory_info().rss / 2**20)
                await asyncio.sleep(seconds / 60)

        watcher = asyncio.create_task(watch())
        results, rate = await rush(address, expected, clients, seconds, tokens, leaving=0.05)
        watcher.cancel()
        return results, rate, memory

    results, rate, memory = asyncio.run(with_memory())
    refused = [found for found in results if found["status"] != 200]
    return {
        "clients": clients,
        "seconds": seconds,
        "requests": len(results),
        "statuses": dict(Counter(str(found["status"]) for found in results)),
        "whole": sum(found.get("whole", False) for found in results),
        "different_from_alone": sum(not found["same"] for found in results if "same" in found),
        "not_whole": sum(not found["whole"] for found in results if "whole" in found),
        "hung_up_by_client": sum(found.get("left", False) for found in results),
        "hung": sum(found.get("hung", False) for found in results),
        "lost": [found["lost"] for found in results if "lost" in found][:5],
        "errors": [found["error"] for found in results if "error" in found][:5],
        "refused_without_retry_after": sum(found.get("retry_after") is None for found in refused),
        **speed(results, rate),
    }, {"after_a_tenth": memory[len(memory) // 10], "at_the_end": memory[-1], "most": max(memory)}


async def hang_up(address: str, process: psutil.Process, expected: dict, clients: int, tokens: int) -> dict[str, float]:
    """Processor seconds of one second in which `clients` read stories, the time until no story is running after all of
    them disconnect at once, and the processor seconds of the second after that."""

    def processor() -> float:
        return sum(process.cpu_times()[:2])

    async with httpx.AsyncClient(base_url=address, timeout=STALL_TIMEOUT) as client:
        crowd = asyncio.create_task(rush(address, expected, clients, STALL_TIMEOUT, tokens))
        while (await client.get("/api/info")).json()["load"]["running"] < clients:
            await asyncio.sleep(0.01)
        before = processor()
        await asyncio.sleep(1)
        busy = processor() - before
        crowd.cancel()
        start = time.perf_counter()
        while (await client.get("/api/info")).json()["load"]["running"]:
            await asyncio.sleep(0.01)
        ended, before = time.perf_counter() - start, processor()
        await asyncio.sleep(1)
        return {
            "clients": clients,
            "processor_seconds_before": busy,
            "seconds_until_idle": ended,
            "processor_seconds_after": processor() - before,
        }


def of_machine(result: dict[str, Any]) -> str:
    found = result["provenance"]["machine"]
    instructions = f" ({found['instructions'][-1]})" if found["instructions"] else ""
    name = found["processor"] or found["system"]
    return f"{found['cores']} cores of {name}{instructions}{', shared' if found['shared'] else ''}"


def render(result: dict[str, Any]) -> str:
    """The section of docs/server.md about load, in Markdown."""
    run, gone, model, memory = (result[key] for key in ("long_run", "hang_up", "model", "memory_mib"))
    statuses = ", ".join(f"{number:,} answered {status}" for status, number in sorted(run["statuses"].items()))
    introduction = (
        f"Measured by `python benchmarks/server_load.py CHECKPOINT --write` on {of_machine(result)}, with a model of",
        f"{model['parameters']:,} parameters in {model['dtype']} and stories of at most {result['tokens_of_a_story']}",
        f"tokens; medians of {result['rounds']} rounds ([record](results/server_load.json)):",
    )
    rows = (
        f"| {each['clients']} | {each['way']} | {each['tokens_per_second']:.0f} "
        f"| {1000 * each['first_token_median']:.0f} | {1000 * each['first_token_p95']:.0f} |"
        for each in result["throughput"]
    )
    long_run = (
        f"{run['clients']} clients for {run['seconds'] / 60:g} minutes: {run['requests']:,} requests, {statuses};",
        f"{run['refused_without_retry_after']} of the refusals had no Retry-After.",
        f"{run['whole']:,} stories were read to the end at {run['tokens_per_second']:.0f} tokens per second;",
        f"{run['different_from_alone']} of them differed from the story of the same seed alone,",
        f"{run['not_whole']} were incomplete, {run['hung']} stalled, {len(run['lost'])} were lost;",
        f"{run['hung_up_by_client']} clients disconnected half-way. Memory:",
        f"{memory['after_a_tenth']:.0f} MiB after a tenth of the time,",
        f"{memory['at_the_end']:.0f} MiB at the end.",
    )
    hung_up = (
        f"{gone['clients']} clients that disconnect at once: no story was running after",
        f"{1000 * gone['seconds_until_idle']:.0f} ms; the server used {gone['processor_seconds_before']:.2f} processor",
        f"seconds in the second before, and {gone['processor_seconds_after']:.2f} in the second after.",
    )
    return f"""{" ".join(introduction)}

| clients | stories are generated | tokens per second, all together | first token, median, ms | 95th percentile, ms |
|---:|---|---:|---:|---:|
{chr(10).join(rows)}

{" ".join(long_run)}

{" ".join(hung_up)}
"""


def write_down(result: dict[str, Any]) -> None:
    RECORD.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    document = DOCUMENT.read_text(encoding="utf-8")
    before, _, rest = document.partition("<!-- load -->")
    after = rest.partition("<!-- /load -->")[2]
    text = f"{before}<!-- load -->\n{render(result)}<!-- /load -->{after}"
    DOCUMENT.write_text(text, encoding="utf-8", newline="\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=100, help="of a story, at most")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--round_seconds", type=float, default=10)
    parser.add_argument("--write", action="store_true", help="write docs/results/server_load.json and docs/server.md")
    given = parser.parse_args()
    began = Stopwatch()
    pairs = [(beginning, seed) for beginning in BEGINNINGS for seed in range(8)]
    with server(given.checkpoint) as (address, process):
        expected = asyncio.run(alone(address, pairs, given.tokens))
        info = httpx.get(f"{address}/api/info").json()
        print(f"{given.clients} clients for {given.minutes:g} minutes", file=sys.stderr)
        long_run, memory = siege(address, process, expected, given.clients, 60 * given.minutes, given.tokens)
        hung_up = asyncio.run(hang_up(address, process, expected, 8, given.tokens))
    result = {
        "model": {key: info[key] for key in ("parameters", "context", "vocabulary", "device", "dtype")},
        "tokens_of_a_story": given.tokens,
        "rounds": given.rounds,
        "round_seconds": given.round_seconds,
        "throughput": throughput(given.checkpoint, expected, given.tokens, given.rounds, given.round_seconds),
        "long_run": long_run,
        "memory_mib": memory,
        "hang_up": hung_up,
    }
    data = {
        "model": {"source": Path(given.checkpoint).name, **hash_files(Path(given.checkpoint).glob("*.safetensors"))}
    }
    result = {"provenance": provenance(began, list(range(8)), data, ["fastapi", "uvicorn"])} | result
    print(json.dumps(result, indent=2))
    print(render(result))
    if given.write:
        write_down(result)


if __name__ == "__main__":
    main()
