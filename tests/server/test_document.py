"""docs/server.md agrees with the server. `python tests/server/test_document.py` rewrites its table of settings."""

import configparser
import json
import re
from dataclasses import fields
from types import SimpleNamespace

import yaml

from helpers.runs import ROOT, load_benchmark
from tinystories.generation.presets import PRESETS
from tinystories.server.admission import AdmissionController
from tinystories.server.arguments import REQUEST_TIMEOUT, ServerArguments
from tinystories.server.events import Finished, GenerationRequest
from tinystories.server.metrics import Metrics
from tinystories.server.middleware import LARGEST_BODY
from tinystories.server.protocol import MOST_CHUNKS
from tinystories.server.schema import BOUNDS, DEFAULT_MAX_TOKENS, GenerateBody


PATH = ROOT / "docs/server.md"
DOCUMENT = PATH.read_text(encoding="utf-8")


def with_settings(document):
    """The document with the table of settings made from ServerArguments."""
    lines = ["| option | variable | default | what |", "|---|---|---|---|"]
    for field in fields(ServerArguments):
        default = "" if field.default is None else f"`{str(field.default).lower()}`"
        lines.append(f"| `--{field.name}` | `{field.name.upper()}` | {default} | {field.metadata['help']} |")
    before, begin, rest = document.partition("<!-- settings -->\n")
    _, end, after = rest.partition("<!-- /settings -->")
    return "".join([before, begin, "\n", "\n".join(lines), "\n\n", end, after])


def block(mark):
    """The code block below a mark."""
    return re.search(rf"<!-- {mark} -->\n```\w+\n(.*?)```", DOCUMENT, re.DOTALL).group(1)


def test_settings():
    assert with_settings(DOCUMENT) == DOCUMENT, "python tests/server/test_document.py rewrites the table"


def test_options_and_variables():
    names = {field.name for field in fields(ServerArguments)}
    commands = re.findall(r"^(?:python run_server\.py|docker run|ExecStart|Environment).*", DOCUMENT, re.MULTILINE)
    options = {option for line in commands if "run_server" in line for option in re.findall(r"--(\w+)", line)}
    assert options and options <= names
    known = {name.upper() for name in names} | {"CHECKPOINT_PATH", "HF_TOKEN", "HF_HUB_OFFLINE", "OMP_NUM_THREADS"}
    variables = set(re.findall(r"\b([A-Z]{2,}(?:_[A-Z]+)*)=", DOCUMENT)) - {"TORCH_INDEX"}
    assert variables and variables <= known


def test_errors():
    table = re.search(r"<!-- errors -->(.*?)<!-- /errors -->", DOCUMENT, re.DOTALL).group(1)
    told = {int(status) for row in re.findall(r"^\| ([\d, ]+) \|", table, re.MULTILINE) for status in row.split(",")}
    assert told == {*AdmissionController.REFUSALS, 404, 405}
    assert f"larger than {LARGEST_BODY // 1024} KiB, or has more than {MOST_CHUNKS:,} chunks" in table
    assert f"within {REQUEST_TIMEOUT:g} seconds" in table


def test_request_fields():
    table = DOCUMENT.partition("| field | what |")[2].partition("\n\n")[0]
    described = {
        name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1:2][0] if row else "")
    }
    assert described == set(GenerateBody.model_fields)
    assert f"`max_tokens` | default {DEFAULT_MAX_TOKENS};" in table and f"to {BOUNDS['seed'][1]};" in table
    assert all(f"`{name}`" in table for name in PRESETS)


def test_prometheus_names():
    """The names are those of the metrics, and more than one story can be counted."""
    metrics = Metrics(SimpleNamespace(running=0, waiting=0))
    request, finished = GenerationRequest("demo", "Once", None, 1), Finished("stop", "", 1, 1, 0.1, 1, False)
    for _ in range(2):
        metrics.count(request, finished)
    assert metrics.registry.get_sample_value("tinystories_stories_total", {"ending": "stop"}) == 2
    collected = {sample.name for metric in metrics.registry.collect() for sample in metric.samples}
    for name in set(re.findall(r"`(tinystories_\w+)`", DOCUMENT)):
        assert name in collected or f"{name}_count" in collected, name


def test_examples():
    port = str(ServerArguments().port)
    front_matter = next(yaml.safe_load_all(block("space")))
    assert front_matter["sdk"] == "docker" and str(front_matter["app_port"]) == port
    compile(block("openai"), "docs/server.md", "exec")
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.read_string(block("systemd"))
    assert int(unit["Service"]["TimeoutStopSec"]) > ServerArguments().shutdown_grace_seconds + 5
    for name in ("caddy", "nginx", "openai"):
        assert f"127.0.0.1:{port}" in block(name)
    assert "proxy_buffering off" in block("nginx")


def test_table_of_clients():
    """Guards: a client said to work that does not. Its calls are those of the record, and a page of another site is
    kept away."""
    clients = load_benchmark("clients")
    record = json.loads(clients.RECORD.read_text(encoding="utf-8"))
    assert clients.with_table(DOCUMENT, record) == DOCUMENT, "python benchmarks/clients.py --render rewrites the table"
    working = [each["client"] for each in record["clients"] if not any(call["problem"] for call in each["calls"])]
    kept_away = [each["client"] for each in record["clients"] if all(call["problem"] for call in each["calls"])]
    assert len(working) >= 10 and kept_away == ["fetch, another site"]
    assert all(each["refused_as_intended"] == (each["client"] in kept_away) for each in record["clients"])


def test_load_figures():
    """Guards: numbers that are typed by hand instead of taken from the record."""
    load = load_benchmark("server_load")
    record = json.loads(load.RECORD.read_text(encoding="utf-8"))
    assert DOCUMENT.partition("<!-- load -->")[2].partition("<!-- /load -->")[0] == "\n" + load.render(record)


if __name__ == "__main__":
    PATH.write_text(with_settings(DOCUMENT), encoding="utf-8")
