"""The HTML of a page: the server's, with style and scripts in it, and the model in the place of the server.

The modules of a page are put one after another in one scope, because a page that was opened from a file may not load
modules: their imports are left out, and their top-level names must differ.
"""

import base64
import hashlib
import html
import json
import re
import zlib
from collections.abc import Iterable
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any


HERE = Path(__file__).parent
SERVER_PAGE = HERE.parent.parent / "server" / "static"
IMPORT = re.compile(r'^import \{[^}]*\} from "\./([\w.]+)";\n', re.MULTILINE)
EXPORT = re.compile(r"^export (?=(?:async |function|const|let|class))", re.MULTILINE)
TOP_LEVEL = re.compile(r"^(?:async )?(?:function\*?|const|let|class) (\w+)", re.MULTILINE)
REPLACED = {  # of the server's page
    "This page\n    connects to its own server only.": "The model is in this page: nothing that you type leaves it.",
    '\n    <a href="docs">API reference</a>': "",
    "connecting…": "needs its script",  # until it runs, which it does not where it was damaged
}
POLICY = (
    "default-src 'none'; script-src {scripts} 'wasm-unsafe-eval'; worker-src blob:; style-src {style}; img-src data:; "
    "connect-src {connect}; base-uri 'none'; form-action 'none'"
)


def document(data: dict[str, Any], weights: bytes | None) -> str:
    """The page. weights: None if they are in a file beside it."""
    page = (SERVER_PAGE / "index.html").read_text(encoding="utf-8")
    icon = "data:image/svg+xml;base64," + base64.b64encode((SERVER_PAGE / "icon.svg").read_bytes()).decode()
    style = (SERVER_PAGE / "style.css").read_text(encoding="utf-8")
    exported = "return { startRuntime, Session, bytesOf, crc32 };"
    runtime = f"const Runtime = (() => {{\n{bundle(runtime_modules())}{exported}\n}})();\n"
    script = f"(() => {{\n{bundle(page_modules())}}})();\n"
    policy = POLICY.format(
        scripts=f"{_hash(runtime)} {_hash(script)}", style=_hash(style), connect="'none'" if weights else "'self'"
    )
    body = page[page.index("<body>") : page.index("</body>")].rstrip()
    for old, new in {**REPLACED, "static/icon.svg": icon}.items():
        assert old in body, old
        body = body.replace(old, new)
    text = _embedded(data)
    parts = [
        "<!doctype html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        f"<title>{html.escape(data['info']['model'])}: type a beginning, watch a story appear</title>",
        f'<link rel="icon" type="image/svg+xml" href="{icon}">',
        f"<style>{style}</style>",
        "</head>",
        body,
        f'<script type="application/json" id="contents" data-crc32="{zlib.crc32(text.encode())}">{text}</script>',
        f'<script type="text/plain" id="kernel">{_base64(HERE / "runtime" / "kernel.wasm")}</script>',
        f'<script id="runtime">{runtime}</script>',
        f"<script>{script}</script>",
    ]
    if weights is not None:
        parts.append(f'<script type="text/plain" id="weights">{base64.b64encode(weights).decode()}</script>')
    return "\n".join([*parts, "</body>", "</html>", ""])


def runtime_modules() -> Iterable[Path]:
    return sorted((HERE / "runtime").glob("*.js"))


def page_modules() -> Iterable[Path]:
    """The modules of the server's page, and in the place of some those of the same name in static/."""
    own = {path.name: path for path in (HERE / "static").glob("*.js")}
    return [*({path.name: path for path in sorted(SERVER_PAGE.glob("*.js"))} | own).values()]


def bundle(modules: Iterable[Path]) -> str:
    """The modules as one script, each after those that it imports.

    Raises:
        ValueError: two modules with one top-level name, which would be one thing in the script.
    """
    sources = {path.name: path.read_text(encoding="utf-8") for path in modules}
    order = TopologicalSorter({name: IMPORT.findall(source) for name, source in sources.items()}).static_order()
    parts = [f"// {name}\n{EXPORT.sub('', IMPORT.sub('', sources[name]))}" for name in order]
    names = [name for part in parts for name in TOP_LEVEL.findall(part)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"several modules of the page have a top-level {', '.join(twice)}: rename all but one")
    return "\n".join(parts)


def _embedded(data: dict[str, Any]) -> str:
    """JSON in which no character ends the element that it is in."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _base64(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
