"""The server under load: checks that no story is mixed, lost or stalled and that memory stays flat; measures its speed.

    python benchmarks/server_load.py runs/tinystories-cpu --baseline fd7bc67 --write
    python benchmarks/server_load.py runs/demo --parts speed --rounds 1 --round_seconds 2 --stories 50
    python benchmarks/server_load.py runs/tinystories-cpu --parts load --minutes 10 --write

1. Every pair of beginning and seed is requested alone; its text is the reference for all that follows.
2. `speed`: tokens per second and the time to the first token with 1, 4, 8 and 16 stories at a time, with two threads,
   and of the server of an earlier commit (--baseline). The variants take turns, so that other load on the machine
   affects all of them; medians over the rounds.
   Then stories beside 1 to 16 others, until --stories in all are compared with the story alone.
3. `load`: a hundred clients for --minutes: each requests one of the stories, reads it, compares it, and repeats; one in
   twenty disconnects half-way. There are more clients than the queue holds: 429 must be the only refusal, with the
   time to wait. Then eight clients disconnect at once: the time until no story is running, and the processor time of
   the next second.

With --write, the part that is not measured is kept as it is on record. `speed` takes about nine minutes. It starts
its own servers on free ports, and ends them.
"""

import argparse
import asyncio
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
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
    "One day a mother and her son went to the park. " * 4 + "They saw",
    "Once upon a time there was a little girl named Lily. She liked to play with her dog in the garden. " * 3 + "Then",
)
SEEDS = 16
PARTS = ("speed", "load")
STALL_TIMEOUT = 60  # seconds without a byte


@contextmanager
def server(checkpoint: str, *options: str, tree: Path = ROOT):
    """A server process on a free port; yields its address and process. tree: the folder with its code."""
    command = [
        sys.executable,
        str(tree / "run_server.py"),
        str(Path(checkpoint).absolute()) if Path(checkpoint).exists() else checkpoint,
        "--port",
        "0",
        "--requests_per_minute",
        "1000000",
        "--client_share",  # all clients of this measurement have one address
        "1",
    ]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    process = subprocess.Popen(
        [*command, *options], cwd=tree, env=environment, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )
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


@contextmanager
def code_of(commit: str | None):
    """The folder of another commit's code; None for none."""
    if commit is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=True).stdout
        subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)
        yield Path(folder)


class Answer(asyncio.Protocol):
    """Sends a request and keeps what is answered, with times. Costs little, so that the server is what is measured.

    leave: disconnect after ten pieces of text."""

    def __init__(self, body: dict[str, Any], leave: bool):
        content = json.dumps(body).encode()
        head = f"POST /generate HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(content)}\r\n"
        self.request = head.encode() + b"Content-Type: application/json\r\n\r\n" + content
        self.parts: list[tuple[float, bytes]] = []
        self.last, self.pieces, self.leave, self.left = time.perf_counter(), 0, leave, False
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        transport.write(self.request)  # type: ignore[attr-defined]  # of a connection it is one that writes

    def data_received(self, data: bytes) -> None:
        self.last = time.perf_counter()
        self.parts.append((self.last, data))
        if self.leave:
            self.pieces += data.count(b'{"token"')
            if self.pieces >= 10:
                self.left = True
                self.transport.abort()  # type: ignore[attr-defined]

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(error)

    async def wait(self) -> None:
        """Until the connection is closed, or nothing has come for `STALL_TIMEOUT` seconds."""
        while not self.ended.done():
            left = self.last + STALL_TIMEOUT - time.perf_counter()
            if left <= 0:
                raise TimeoutError
            await asyncio.wait([self.ended], timeout=left)

    def content(self, before: float = float("inf")) -> bytes:
        """The head, and the body without the sizes of its chunks; what came before a time."""
        received = b"".join(data for when, data in self.parts if when < before)
        head, _, rest = received.partition(b"\r\n\r\n")
        if b"transfer-encoding: chunked" not in head.lower():
            return head + b"\r\n\r\n" + rest
        body = b""
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            length = int(size or b"0", 16)
            body, rest = body + rest[:length], rest[length + 2 :]
        return head + b"\r\n\r\n" + body


async def story(
    address: str, pair: tuple[str, int], tokens: int, leave: bool = False, end: float = 0
) -> dict[str, Any]:
    """The result of one request: status, text, times, whether it is complete, and the tokens that came before `end`."""
    prompt, seed = pair
    start, url = time.perf_counter(), httpx.URL(address)
    body = {"prompt": prompt, "seed": seed, "max_tokens": tokens}
    _, answer = await asyncio.get_running_loop().create_connection(lambda: Answer(body, leave), url.host, url.port)
    try:
        await answer.wait()
    finally:
        answer.transport.abort()
    if answer.left:
        return {"status": 200, "left": True, "written": written(answer.content(end))}
    head, _, content = answer.content().partition(b"\r\n\r\n")
    status = int(head.split()[1]) if head else 0
    if status != 200:
        retry = re.search(rb"retry-after: *(\d+)", head.lower())
        return {"status": status, "retry_after": retry and retry[1].decode(), "lost": None if status else "no answer"}
    found = result(content.decode(), seed) | {"written": written(answer.content(end))}
    first = next((when for when, data in answer.parts if b'{"token"' in data), None)
    return found | {"status": 200, "first": first and first - start}


def written(content: bytes) -> int:
    return sum(map(int, re.findall(rb'"tokens": (\d+)', content)))


def result(content: str, seed: int) -> dict[str, Any]:
    """The text of server-sent events, and whether they are complete."""
    pieces, end, done = [], None, False
    for event in content.split("\n\n"):
        name, data = "message", ""
        for line in event.splitlines():
            name = line[7:] if line.startswith("event: ") else name
            data = line[6:] if line.startswith("data: ") else data
        if name == "error":
            return {"error": json.loads(data)["error"]}
        if data == "[DONE]":
            done = True
        elif name == "message" and data:
            found = json.loads(data)
            pieces += [found["token"]] if "token" in found else []
            end = end if "token" in found else found
    text = "".join(pieces)
    return {"text": text, "whole": done and end is not None and end["text"] == text and end["seed"] == seed}


async def alone(address: str, pairs: list[tuple[str, int]], tokens: int) -> dict[tuple[str, int], str]:
    return {pair: (await story(address, pair, tokens))["text"] for pair in tqdm(pairs, desc="each story alone")}


async def rush(
    address: str, expected: dict, clients: int, seconds: float, tokens: int, leaving: float = 0.0, seed: int = 0
) -> tuple[list[dict], float]:
    """`clients` that request story after story: the result of every request, and tokens per second."""
    results: list[dict] = []
    end = time.perf_counter() + seconds

    async def ask(number: int) -> None:
        dice = random.Random(f"{seed} {number}")
        while time.perf_counter() < end:
            pair = dice.choice(list(expected))
            try:
                found = await story(address, pair, tokens, dice.random() < leaving, end)
            except TimeoutError:
                found = {"status": 200, "hung": True}
            except OSError as error:
                found = {"status": 0, "lost": f"{type(error).__name__}: {error}"}
            results.append(found | ({"same": found["text"] == expected[pair]} if "text" in found else {}))
            if found["status"] in (429, 503):
                await asyncio.sleep(float(found["retry_after"] or 1) * dice.uniform(0.8, 1.2))

    await asyncio.gather(*(ask(number) for number in range(clients)))
    return results, sum(found.get("written", 0) for found in results) / seconds


def speed(results: list[dict], rate: float) -> dict[str, float]:
    first = sorted(found["first"] for found in results if found.get("first"))
    return {
        "tokens_per_second": rate,
        "first_token_median": statistics.median(first),
        "first_token_p95": first[int(0.95 * (len(first) - 1))],
    }


NOW, TWO_THREADS, BASELINE = "now", "now, two threads", "baseline"
RATE, FIRST = "tokens_per_second", "first_token_median"
STREAMS = {NOW: (1, 4, 8, 16), TWO_THREADS: (1, 16), BASELINE: (1, 8, 16)}


def throughput(given: argparse.Namespace, expected: dict, tree: Path | None) -> tuple[dict, Counter]:
    """Rounds of each variant and number of clients in turn: what was measured in each round, and the stories of the
    server as it is now that were compared with the story alone."""
    ways = [(way, clients) for way in STREAMS if tree or way != BASELINE for clients in STREAMS[way]]
    found: dict[tuple[str, int], list[dict]] = {way: [] for way in ways}
    compared: Counter = Counter()
    with ExitStack() as servers:
        start = {
            NOW: lambda: server(given.checkpoint),
            TWO_THREADS: lambda: server(given.checkpoint, "--threads", "2"),
            BASELINE: lambda: server(given.checkpoint, tree=tree),
        }
        addresses = {way: servers.enter_context(start[way]())[0] for way in dict.fromkeys(way for way, _ in ways)}
        for number in tqdm(range(given.rounds), desc="speed"):
            for way, clients in ways:
                asked = rush(addresses[way], expected, clients, given.round_seconds, given.tokens, seed=number)
                results, rate = asyncio.run(asked)
                found[way, clients].append(speed(results, rate))
                compared += comparison(results, way)
    return found, compared


def comparison(results: list[dict], way: str) -> Counter:
    """Stories that were compared with the story alone, and those that were another."""
    same = [found["same"] for found in results if "same" in found]
    return Counter({f"{way}: compared": len(same), f"{way}: different": same.count(False)})


def beside_neighbours(checkpoint: str, expected: dict, stories: int, tokens: int) -> Counter:
    """Stories beside 1 to 16 others, their number another every two seconds, until so many are compared."""
    found: Counter = Counter()
    with server(checkpoint) as (address, _), tqdm(total=stories, desc="same") as bar:
        while found[f"{NOW}: compared"] < stories:
            number = found["rounds"]
            clients = random.Random(number).randint(2, 17)
            results, _ = asyncio.run(rush(address, expected, clients, 2, tokens, seed=1000 + number))
            found += comparison(results, NOW) + Counter(rounds=1)
            bar.update(found[f"{NOW}: compared"] - bar.n)
    return found


def summary(found: dict[tuple[str, int], list[dict]]) -> list[dict[str, Any]]:
    return [
        {"way": way, "clients": clients}
        | {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
        | {"rounds": rounds}
        for (way, clients), rounds in found.items()
    ]


def ratio(found: dict, over: tuple[str, int], under: tuple[str, int], name: str = RATE) -> dict[str, float]:
    """Of the medians; low and high: of the single rounds."""
    above, below = ([each[name] for each in found[way]] for way in (over, under))
    each = [first / second for first, second in zip(above, below, strict=True)]
    return {"ratio": statistics.median(above) / statistics.median(below), "low": min(each), "high": max(each)}


def goals(found: dict[tuple[str, int], list[dict]], compared: Counter) -> list[dict[str, Any]]:
    wanted = [
        {"goal": f"tokens per second of {streams} streams: times {BASELINE}", "at_least": 3.0}
        | ratio(found, (NOW, streams), (BASELINE, streams))
        for streams in STREAMS[BASELINE]
        if (BASELINE, streams) in found
    ]
    first = [each[FIRST] for each in found[NOW, 16]]
    return [
        *wanted,
        {"goal": "tokens per second of 8 streams: times those of one", "at_least": 3.0}
        | ratio(found, (NOW, 8), (NOW, 1)),
        {"goal": "seconds to the first token of 16 streams", "at_most": 0.25}
        | {"ratio": statistics.median(first), "low": min(first), "high": max(first)},
        {"goal": f"stories of {compared[f'{NOW}: compared']:,} that differ from the story alone", "at_most": 0}
        | dict.fromkeys(("ratio", "low", "high"), compared[f"{NOW}: different"]),
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
        "lost": [found["lost"] for found in results if found.get("lost")][:5],
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


def tables(result: dict[str, Any]) -> list[dict[str, Any]]:
    model = result["model"]
    title = f"{model['parameters']:,} parameters, stories of at most {result['tokens_of_a_story']} tokens"
    rows = [
        [row["clients"], row["way"], round(row[RATE]), round(1000 * row[FIRST]), round(1000 * row["first_token_p95"])]
        for row in sorted(result["throughput"], key=lambda row: row["clients"])
    ]
    columns = ["streams", "server", "tokens per second, all together", "first token, median, ms", "95th percentile, ms"]
    return [{"title": title, "columns": columns, "rows": rows}]


def render(result: dict[str, Any]) -> str:
    """The section of docs/server.md about load, in Markdown."""
    model, same = result["model"], result["same"]
    paragraphs = [
        f"Measured by `python benchmarks/server_load.py CHECKPOINT --write` on {of_machine(result)}, with a model of "
        f"{model['parameters']:,} parameters in {model['dtype']} and stories of at most {result['tokens_of_a_story']} "
        f"tokens; medians of {result['rounds']} rounds ([record](results/server_load.json)). The baseline is the "
        "server that computed in float64 with PyTorch.",
        markdown(tables(result)[0]),
        f"{same[f'{NOW}: compared']:,} stories beside up to 16 others were compared with the story of the same seed "
        f"alone: {same.get(f'{NOW}: different', 0)} differed.",
    ]
    return "\n\n".join([*paragraphs, *([under_load(result)] if "long_run" in result else [])]) + "\n"


def markdown(table: dict[str, Any]) -> str:
    """The first column is a number, the second a name, the others numbers."""
    lines = [table["columns"], ["---:", "---", *["---:"] * (len(table["columns"]) - 2)], *table["rows"]]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def under_load(result: dict[str, Any]) -> str:
    run, gone, memory = (result[key] for key in ("long_run", "hang_up", "memory_mib"))
    statuses = ", ".join(f"{number:,} answered {status}" for status, number in sorted(run["statuses"].items()))
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
    return f"{' '.join(long_run)}\n\n{' '.join(hung_up)}"


def write_down(result: dict[str, Any]) -> None:
    RECORD.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    document = DOCUMENT.read_text(encoding="utf-8")
    before, _, rest = document.partition("<!-- load -->")
    after = rest.partition("<!-- /load -->")[2]
    text = f"{before}<!-- load -->\n{render(result)}<!-- /load -->{after}"
    DOCUMENT.write_text(text, encoding="utf-8", newline="\n")


def measure(given: argparse.Namespace, tree: Path | None) -> dict[str, Any]:
    """The parts that are asked for."""
    pairs = [(beginning, seed) for beginning in BEGINNINGS for seed in range(SEEDS)]
    result: dict[str, Any] = {"tokens_of_a_story": given.tokens}
    with server(given.checkpoint) as (address, process):
        expected = asyncio.run(alone(address, pairs, given.tokens))
        info = httpx.get(f"{address}/api/info").json()
        result["model"] = {key: info[key] for key in ("parameters", "context", "vocabulary", "device", "dtype")}
        if "load" in given.parts:
            print(f"{given.clients} clients for {given.minutes:g} minutes", file=sys.stderr)
            long_run, memory = siege(address, process, expected, given.clients, 60 * given.minutes, given.tokens)
            hung_up = asyncio.run(hang_up(address, process, expected, 8, given.tokens))
            result |= {"long_run": long_run, "memory_mib": memory, "hang_up": hung_up}
    if "speed" in given.parts:
        found, compared = throughput(given, expected, tree)
        if (left := given.stories - compared[f"{NOW}: compared"]) > 0:
            compared += beside_neighbours(given.checkpoint, expected, left, given.tokens)
        result |= {"rounds": given.rounds, "round_seconds": given.round_seconds, "throughput": summary(found)}
        result["same"] = dict(compared)
        result["goals"] = goals(found, compared)
        result["tables"] = tables(result)
    return result


def merged(result: dict[str, Any], origin: dict[str, Any]) -> dict[str, Any]:
    """The record with the parts that were measured now; the others have the provenance that they had."""
    known = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else {}
    of_speed = origin if "throughput" in result else known.get("provenance", origin)
    of_load = origin if "long_run" in result else known.get("load_provenance", known.get("provenance"))
    return {"provenance": of_speed, "load_provenance": of_load} | {
        name: value for name, value in (known | result).items() if name not in ("provenance", "load_provenance")
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=["speed"])
    parser.add_argument("--baseline", help="a commit: its server is measured too")
    parser.add_argument("--minutes", type=float, default=10, help="of the part load")
    parser.add_argument("--clients", type=int, default=100, help="of the part load")
    parser.add_argument("--tokens", type=int, default=100, help="of a story, at most")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--round_seconds", type=float, default=6)
    parser.add_argument("--stories", type=int, default=4000, help="to compare with the story alone")
    parser.add_argument("--write", action="store_true", help="write docs/results/server_load.json and docs/server.md")
    given = parser.parse_args()
    began = Stopwatch()
    with code_of(given.baseline) as tree:
        result = measure(given, tree)
    data = {
        "model": {"source": Path(given.checkpoint).name, **hash_files(Path(given.checkpoint).glob("*.safetensors"))}
    }
    origin = provenance(began, list(range(SEEDS)), data, ["fastapi", "uvicorn", "onnxruntime"])
    shown = ("goals", "tables", "same", "long_run", "memory_mib", "hang_up")
    print(json.dumps({name: result[name] for name in shown if name in result}, indent=1))
    if given.write:
        write_down(merged(result, origin))


if __name__ == "__main__":
    main()
