"""Public clients against the server: what works, or the one line that says why not.

    python benchmarks/clients.py --write
    python benchmarks/clients.py --folder runs/clients --write
    python benchmarks/clients.py --render

It serves the boxed model with run_server.py, installs the clients that benchmarks/public_clients pins into a virtual
environment and folders of npm, and lets each list the models, complete a text and chat, streaming included: every
text must be the one that the server gives for this seed without a client. Open WebUI is used in Chromium as a person
does. --folder keeps what is installed. Curl, lm-eval and Chromium are those of this machine. Writes
docs/results/clients.json and the table of docs/server.md; --render writes the table from the record.
"""

import argparse
import contextlib
import functools
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(1, str(Path(__file__).parent.parent / "tests"))

from benchmarks.public_clients import open_webui
from helpers.browser import chromium
from helpers.serving import ServerProcess
from tinystories.config.packaged import BOXED
from tinystories.provenance import Stopwatch, provenance


ROOT = Path(__file__).resolve().parent.parent
OURS = ROOT / "benchmarks" / "public_clients"
RECORD = ROOT / "docs" / "results" / "clients.json"
DOCUMENT = ROOT / "docs" / "server.md"
BEGIN, END = "<!-- clients: table -->\n", "<!-- clients: end -->"
MODEL, PROMPT = "boxed", "Once upon a time, a little fox"
SHORT = {"max_tokens": 12, "seed": 1}
PROMPTFOO = "0.121.20"
IN_VENV = {  # title -> name in calls.py and distribution
    "OpenAI, Python": ("openai", "openai"),
    "LangChain": ("langchain", "langchain-openai"),
    "litellm": ("litellm", "litellm"),
    "llm": ("llm", "llm"),
    "huggingface_hub, InferenceClient": ("huggingface_hub", "huggingface_hub"),
}
IN_NPM = {"OpenAI, npm": ("openai", "openai"), "Vercel's AI SDK": ("ai-sdk", "ai")}
OFFLINE = {
    "PROMPTFOO_DISABLE_TELEMETRY": "1",
    "PROMPTFOO_DISABLE_UPDATE": "1",
    "PROMPTFOO_DISABLE_REMOTE_GENERATION": "1",
}
Call = dict[str, Any]  # call: its name; problem: one line, or None


def measure(folder: Path) -> dict[str, Any]:
    began = Stopwatch()
    python, node = venv(folder / "venv", "requirements.txt"), packages(folder / "npm")
    webui = venv(folder / "open webui", "open_webui.txt")
    promptfoo = packages_of_promptfoo(folder / "promptfoo")
    with contextlib.ExitStack() as stack:
        named, other = stack.enter_context(page()), stack.enter_context(page())
        server = stack.enter_context(ServerProcess(MODEL, "--client_share", "1", "--allowed_origins", named))
        url = server.url
        found = [
            client(title, version(python, package), of_python(python, name, url))
            for title, (name, package) in IN_VENV.items()
        ]
        found += [
            client(title, npm_version(node, package), of_node(node, name, url))
            for title, (name, package) in IN_NPM.items()
        ]
        found += [
            client("promptfoo", PROMPTFOO, of_promptfoo(promptfoo, url)),
            client("lm-eval", metadata.version("lm_eval"), of_python(Path(sys.executable), "lm_eval", url)),
            client("curl", curl_version(), of_curl(url)),
            client("Open WebUI", version(webui, "open-webui"), of_open_webui(webui, url)),
            client("fetch, a page of this site", "Chromium", of_pages(url, url)),
            client("fetch, another site, named", "Chromium", of_pages(url, named)),
            client("fetch, another site", "Chromium", of_pages(url, other), refused=True),
        ]
    origin = provenance(began, [1], data={}, libraries=["fastapi", "uvicorn", "lm_eval", "playwright"])
    return {"provenance": origin, "model": MODEL, "clients": found}


def client(title: str, version: str, calls: list[Call], refused: bool = False) -> dict[str, Any]:
    """refused: as intended."""
    return {"client": title, "version": version, "refused_as_intended": refused, "calls": calls}


def venv(folder: Path, requirements: str) -> Path:
    """The Python of a virtual environment with what this file of ours pins."""
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        run([sys.executable, "-m", "venv", str(folder)])
    run([str(python), "-m", "pip", "install", "-q", "-r", str(OURS / requirements)])
    return python


def packages(folder: Path) -> Path:
    """A folder with the pinned packages of npm and the calls."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "calls.mjs"):
        shutil.copy(OURS / name, folder)
    run([npm(), "install", "--no-audit", "--no-fund", "--ignore-scripts"], folder)
    return folder


def packages_of_promptfoo(folder: Path) -> Path:
    """In a folder of its own: it is large, and has the packages of many clients."""
    if not (folder / "node_modules").exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text('{"private": true}', encoding="utf-8")
        run([npm(), "install", "--no-audit", "--no-fund", "--ignore-scripts", f"promptfoo@{PROMPTFOO}"], folder)
    return folder


def npm() -> str:
    return shutil.which("npm") or "npm"


def run(words: list[str], folder: Path | None = None) -> None:
    process = subprocess.run(words, cwd=folder, capture_output=True, encoding="utf-8", errors="replace")
    if process.returncode:
        raise SystemExit(f"{' '.join(words)} failed: {process.stderr.strip()[-500:]}")


def output_of(words: list[str], folder: Path | None = None, **variables: str) -> tuple[str, str]:
    """stdout and stderr of a client, which finds this project nowhere."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | variables
    process = subprocess.run(
        words, cwd=folder, capture_output=True, encoding="utf-8", errors="replace", env=environment, timeout=600
    )
    return process.stdout, process.stderr


def called(stdout: str, stderr: str) -> list[Call]:
    """The lines of calls.py and calls.mjs. A client that did not come to its first call failed to start."""
    lines = [json.loads(line) for line in stdout.splitlines() if line.startswith('{"call"')]
    said = [line for line in stderr.splitlines() if "Error" in line] or stderr.strip().splitlines() or ["no output"]
    return lines or [{"call": "start", "problem": said[-1][:300]}]


def of_python(python: Path, name: str, url: str) -> list[Call]:
    words = [str(python), str(OURS / "calls.py"), name, url, MODEL]
    return called(*output_of(words, HF_HUB_OFFLINE="0", TOKENIZER=str(BOXED)))


def of_node(folder: Path, name: str, url: str) -> list[Call]:
    return called(*output_of(["node", "calls.mjs", name, url, MODEL], folder))


def of_promptfoo(folder: Path, url: str) -> list[Call]:
    """An evaluation of two providers with one test each."""
    common = {"apiBaseUrl": f"{url}/v1", "apiKey": "none", **SHORT}
    kinds = {"completions": f"openai:completion:{MODEL}", "chat": f"openai:chat:{MODEL}"}
    settings = {
        "prompts": [PROMPT],
        "providers": [{"id": kind, "config": common} for kind in kinds.values()],
        "tests": [{"assert": [{"type": "javascript", "value": "output.length > 0"}]}],
    }
    written, results = folder / "promptfooconfig.json", folder / "results.json"
    written.write_text(json.dumps(settings), encoding="utf-8")
    results.unlink(missing_ok=True)
    program = folder / "node_modules" / ".bin" / ("promptfoo.cmd" if os.name == "nt" else "promptfoo")
    words = [str(program), "eval", "-c", str(written), "-o", str(results), "--no-cache", "--no-table"]
    _, stderr = output_of(words, folder, **OFFLINE, PROMPTFOO_CONFIG_DIR=str(folder / "settings"))
    if not results.exists():
        return called("", stderr)
    found = json.loads(results.read_text(encoding="utf-8"))["results"]["results"]
    problems = {each["provider"]["id"]: None if each["success"] else str(each.get("error"))[:300] for each in found}
    return [{"call": call, "problem": problems.get(kind, "not evaluated")} for call, kind in kinds.items()]


def of_curl(url: str) -> list[Call]:
    body = {"model": MODEL, **SHORT}
    texts = {"prompt": PROMPT}, {"messages": [{"role": "user", "content": PROMPT}]}
    asked = {
        "models": (["/v1/models"], '"boxed"'),
        "completions": (["/v1/completions", "-d", json.dumps(body | texts[0])], '"finish_reason":"length"'),
        "chat": (["/v1/chat/completions", "-d", json.dumps(body | texts[1])], '"finish_reason":"length"'),
        "streaming": (["/v1/chat/completions", "-N", "-d", json.dumps(body | texts[1] | {"stream": True})], "[DONE]"),
    }
    found = []
    for call, ((path, *options), expected) in asked.items():
        words = ["curl", "-sS", url + path, "-H", "Content-Type: application/json", *options]
        stdout, stderr = output_of(words)
        found.append({"call": call, "problem": None if expected in stdout else (stderr or stdout).strip()[:300]})
    return found


def of_open_webui(python: Path, url: str) -> list[Call]:
    """What its page shows. No call is made after one that failed: each needs what the one before it left there."""

    def story(text: str) -> str:
        body = json.dumps({"model": MODEL, "prompt": text, **SHORT}).encode()
        asked = urllib.request.Request(f"{url}/v1/completions", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(asked) as answer:
            return json.load(answer)["choices"][0]["text"]

    found: list[Call] = []
    with tempfile.TemporaryDirectory() as data, contextlib.ExitStack() as stack:
        program = python.with_name("open-webui.exe" if os.name == "nt" else "open-webui")
        address = stack.enter_context(open_webui.started(program, Path(data), url, SHORT))
        tab = stack.enter_context(chromium()).new_page()
        for name, call in open_webui.calls(tab, address, MODEL, PROMPT, story):
            try:
                call()
            except Exception as error:  # of the browser, or of what the page shows
                return [*found, {"call": name, "problem": str(error).splitlines()[0][:300]}]
            found.append({"call": name, "problem": None})
    return found


def of_pages(url: str, origin: str) -> list[Call]:
    """What the script of a page at `origin` gets."""
    ask = """async ([address, body]) => {
        const headers = { "Content-Type": "application/json" };
        try {
            const answer = await fetch(address, body ? { method: "POST", headers, body } : {});
            return answer.ok && (await answer.text()).includes("boxed") ? null : `status ${answer.status}`;
        } catch (error) {
            return String(error);
        }
    }"""
    body = {"model": MODEL, "max_tokens": 12, "messages": [{"role": "user", "content": PROMPT}]}
    with chromium() as browser:
        tab = browser.new_page()
        tab.goto(origin)
        models = tab.evaluate(ask, [f"{url}/v1/models", None])
        chat = tab.evaluate(ask, [f"{url}/v1/chat/completions", json.dumps(body)])
        browser.close()
    return [{"call": "models", "problem": models}, {"call": "chat", "problem": chat}]


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def page() -> Iterator[str]:
    """The origin of another site with an empty page."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "index.html").write_text("<!doctype html><title>Another site</title>", encoding="utf-8")
        handler = functools.partial(Quiet, directory=folder)
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as site:
            threading.Thread(target=site.serve_forever, daemon=True).start()
            yield f"http://127.0.0.1:{site.server_address[1]}"
            site.shutdown()


def version(python: Path, distribution: str) -> str:
    code = f"from importlib.metadata import version; print(version({distribution!r}))"
    return output_of([str(python), "-c", code])[0].strip()


def npm_version(folder: Path, package: str) -> str:
    return json.loads((folder / "node_modules" / package / "package.json").read_text(encoding="utf-8"))["version"]


def curl_version() -> str:
    return output_of(["curl", "--version"])[0].split()[1]


def render(record: dict[str, Any]) -> str:
    lines = ["| client | version | calls | result |", "| --- | --- | --- | --- |"]
    for each in record["clients"]:
        problems = [f"{call['call']}: {call['problem']}" for call in each["calls"] if call["problem"]]
        result = "; ".join(problems).replace("|", "\\|") or "works"
        if each["refused_as_intended"] and len(problems) == len(each["calls"]):
            result = "refused by the browser, as it should be: `--allowed_origins` names the sites that may"
        calls = ", ".join(call["call"] for call in each["calls"])
        lines.append(f"| {each['client']} | {each['version']} | {calls} | {result} |")
    return "\n".join(["", *lines, "", ""])


def with_table(document: str, record: dict[str, Any]) -> str:
    return re.sub(
        f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: BEGIN + render(record) + END, document, flags=re.DOTALL
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="keep the installed clients here (default: a temporary folder)")
    parser.add_argument("--write", action="store_true", help=f"write {RECORD.relative_to(ROOT)} and the table")
    parser.add_argument("--render", action="store_true", help="write the table from the record")
    given = parser.parse_args()
    if given.render:
        record = json.loads(RECORD.read_text(encoding="utf-8"))
    elif given.folder:
        record = measure(given.folder.resolve())
    else:
        with tempfile.TemporaryDirectory() as folder:
            record = measure(Path(folder))
    print(render(record))
    if given.write:
        RECORD.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")
    if given.write or given.render:
        document = DOCUMENT.read_text(encoding="utf-8")
        DOCUMENT.write_text(with_table(document, record), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
