"""What the server does under load: no story mixed, lost or hung, memory flat, and how fast it is.

    python benchmarks/server_load.py runs/demo --minutes 10 --output docs/results/server_load.json

1. Every pair of beginning and seed is asked for alone; its text is what it must be ever after.
2. Tokens a second and the time to the first token with 1, 4, 8 and 16 stories at a time, and, for comparison, 16
   clients with a server that writes one story after the other (--max_running 1). The rounds take turns, so that a busy
   machine is unfair to all of them; medians over the rounds.
3. A hundred clients for ten minutes: each asks for one of the stories, reads it, compares it, and asks again; one in
   twenty hangs up half-way. More clients than places: 429 must be the only refusal, and must say how long to wait.
4. Eight clients hang up at once: how soon no story runs any more, and how much processor time the next second takes.

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
from collections.abc import AsyncIterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
from tqdm import tqdm


ROOT = Path(__file__).parent.parent
BEGINNINGS = (
    "Once upon a time",
    "The old dog",
    "One day, a girl named",
    "Tom had a red",
    "\U0001f98a",
    "It was raining and",
)
PATIENCE = 60  # seconds without a byte: the stream hangs


@contextmanager
def server(checkpoint: str, *options: str):
    """A server of its own process on a free port; yields its address and process."""
    command = [
        sys.executable,
        str(ROOT / "run_server.py"),
        checkpoint,
        "--port",
        "0",
        "--requests_per_minute",
        "1000000",
    ]
    process = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True, encoding="utf-8")
    try:
        address = next(match[0] for line in process.stderr if (match := re.search(r"http://\S+", line)))
        with httpx.Client() as client:
            while client.get(f"{address}/health").status_code != 200:
                time.sleep(0.1)
        threading.Thread(target=process.stderr.read, daemon=True).start()  # the log must not fill a pipe
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


async def story(client: httpx.AsyncClient, pair: tuple[str, int], tokens: int, leave: bool = False) -> dict[str, Any]:
    """What came of one request: status, text, times, and whether it ended as it should."""
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
                if leave and len(pieces) == 10:
                    return {"status": 200, "left": True}
            elif name == "message":
                end = found
    text = "".join(pieces)
    whole = done and end is not None and end["text"] == text and end["seed"] == seed
    return {"status": 200, "whole": whole, "text": text, "first": first, "tokens": end["new_tokens"] if end else 0}


async def alone(address: str, pairs: list[tuple[str, int]], tokens: int) -> dict[tuple[str, int], str]:
    async with httpx.AsyncClient(base_url=address, timeout=PATIENCE) as client:
        return {pair: (await story(client, pair, tokens))["text"] for pair in tqdm(pairs, desc="each story alone")}


async def rush(
    address: str, expected: dict, clients: int, seconds: float, tokens: int, leaving: float = 0.0
) -> list[dict]:
    """`clients` that ask for story after story; what came of every request."""
    results: list[dict] = []
    end = time.perf_counter() + seconds
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=clients)

    async def ask(number: int, client: httpx.AsyncClient) -> None:
        dice = random.Random(number)
        while time.perf_counter() < end:
            pair = dice.choice(list(expected))
            try:
                found = await story(client, pair, tokens, dice.random() < leaving)
            except httpx.ReadTimeout:
                found = {"status": 200, "hung": True}
            except httpx.TransportError as error:
                found = {"status": 0, "lost": f"{type(error).__name__}: {error}"}
            results.append(found | ({"same": found["text"] == expected[pair]} if "text" in found else {}))
            if found["status"] in (429, 503):
                await asyncio.sleep(float(found["retry_after"] or 1) * dice.uniform(0.8, 1.2))

    async with httpx.AsyncClient(base_url=address, timeout=PATIENCE, limits=limits) as client:
        await asyncio.gather(*(ask(number, client) for number in range(clients)))
    return results


def speed(results: list[dict], seconds: float) -> dict[str, float]:
    first = sorted(found["first"] for found in results if found.get("first"))
    return {
        "tokens_per_second": sum(found.get("tokens", 0) for found in results) / seconds,
        "first_token_median": statistics.median(first),
        "first_token_p95": first[int(0.95 * (len(first) - 1))],
    }


def throughput(checkpoint: str, expected: dict, tokens: int, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Rounds of each number of clients in turn; medians over the rounds."""
    ways = [("together", clients) for clients in (1, 4, 8, 16)] + [("one after the other", 16)]
    found: dict[tuple[str, int], list[dict]] = {way: [] for way in ways}
    with server(checkpoint) as (together, _), server(checkpoint, "--max_running", "1") as (apart, _):
        for _ in tqdm(range(rounds), desc="throughput"):
            for way, clients in ways:
                address, start = together if way == "together" else apart, time.perf_counter()
                results = asyncio.run(rush(address, expected, clients, seconds, tokens))
                found[way, clients].append(speed(results, time.perf_counter() - start))
    names = ("tokens_per_second", "first_token_median", "first_token_p95")
    return [
        {"way": way, "clients": clients}
        | {name: statistics.median(each[name] for each in found[way, clients]) for name in names}
        for way, clients in ways
    ]


def siege(address: str, process: psutil.Process, expected: dict, clients: int, seconds: float, tokens: int) -> dict:
    """Everything that came of the long run, and the server's memory, MiB, over it."""

    async def with_memory() -> tuple[list[dict], list[float]]:
        memory: list[float] = []

        async def watch() -> None:
            while True:
                memory.append(process.memory_info().rss / 2**20)
                await asyncio.sleep(seconds / 60)

        watcher = asyncio.create_task(watch())
        results = await rush(address, expected, clients, seconds, tokens, leaving=0.05)
        watcher.cancel()
        return results, memory

    results, memory = asyncio.run(with_memory())
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
        "memory_mib": {
            "after_a_tenth": memory[len(memory) // 10], "at_the_end": memory[-1], "most": max(memory),
        },
        **speed(results, seconds),
    }  # fmt: skip


async def hang_up(address: str, process: psutil.Process, clients: int, tokens: int) -> dict[str, float]:
    """Seconds until no story runs after all clients are gone, and the processor time of the second that follows."""
    async with httpx.AsyncClient(base_url=address, timeout=PATIENCE) as client:

        async def begin(seed: int) -> None:
            await story(client, ("Once upon a time", seed), tokens, leave=True)

        await asyncio.gather(*(begin(seed) for seed in range(clients)))
        start = time.perf_counter()
        while (await client.get("/api/info")).json()["load"]["running"]:
            await asyncio.sleep(0.01)
        ended = time.perf_counter() - start
        before = sum(process.cpu_times()[:2])
        await asyncio.sleep(1)
        return {
            "clients": clients,
            "seconds_until_idle": ended,
            "processor_seconds_after": sum(process.cpu_times()[:2]) - before,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=100, help="of a story, at most")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--round_seconds", type=float, default=8)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    pairs = [(beginning, seed) for beginning in BEGINNINGS for seed in range(8)]
    with server(given.checkpoint) as (address, process):
        expected = asyncio.run(alone(address, pairs, given.tokens))
        info = httpx.get(f"{address}/api/info").json()
        print(f"{given.clients} clients for {given.minutes} minutes", file=sys.stderr)
        long_run = siege(address, process, expected, given.clients, 60 * given.minutes, given.tokens)
        hung_up = asyncio.run(hang_up(address, process, 8, info["context"]))
    result = {
        "model": {key: info[key] for key in ("parameters", "context", "vocabulary", "device", "dtype")},
        "machine": f"{psutil.cpu_count()} cores",
        "tokens_of_a_story": given.tokens,
        "throughput": throughput(given.checkpoint, expected, given.tokens, given.rounds, given.round_seconds),
        "long_run": long_run,
        "hang_up": hung_up,
    }
    text = json.dumps(result, indent=2) + "\n"
    print(text)
    if given.output:
        given.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
