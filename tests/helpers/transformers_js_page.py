"""transformers.js in Chromium, with WASM and without a network, as a program that opens exported ONNX files.

It answers the same questions as transformers.js in node (tinystories/exporting/transformers_js.py). `load_seconds` is
from the start of the download, from this machine, to the model that can be asked; `requested` are the files.
"""

import functools
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np

from tinystories.exporting.transformers_js import LIBRARY, PROGRAM


PAGE = Path(__file__).with_suffix(".html")
RUNTIME = (
    "ort-wasm-simd-threaded"  # the build for CPU alone; the one with WebGPU, which is the default, is twice as big
)


class _Files(SimpleHTTPRequestHandler):
    """The page, our module, the library, its runtime and the model, each under a name of its own."""

    extensions_map = SimpleHTTPRequestHandler.extensions_map | {".mjs": "text/javascript", ".wasm": "application/wasm"}

    def __init__(self, *arguments, places: dict[str, Path]):
        self.places = places
        super().__init__(*arguments)

    def translate_path(self, path: str) -> str:
        first, _, rest = path.split("?")[0].lstrip("/").partition("/")
        return str(self.places.get(first, Path("/none")) / rest)

    def log_message(self, *arguments) -> None:
        pass


def find_chromium(playwright) -> str | None:
    own = Path(playwright.chromium.executable_path)
    return str(own) if own.exists() else shutil.which("chromium") or shutil.which("google-chrome")


@contextmanager
def opened_in_chromium(
    browser, library: Path, folder: Path, dtype: str, eos_token_id: int
) -> Iterator["TransformersJsPage"]:
    """library: the folder of transformers.js, beside that of onnxruntime-web. folder: what was exported."""
    runtime = library.parents[len(LIBRARY.parts) - 1] / "onnxruntime-web" / "dist"
    places = {"page.html": PAGE, PROGRAM.name: PROGRAM, "library": library / "dist", "runtime": runtime}
    handler = functools.partial(_Files, places=places | {"model": folder})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        page = browser.new_page()
        try:
            yield TransformersJsPage(page, address, dtype, eos_token_id)
        finally:
            page.close()
            server.shutdown()


class TransformersJsPage:
    """A `Reader` through transformers.js in a page."""

    def __init__(self, page, address: str, dtype: str, eos_token_id: int):
        self.page, self.requested, self.heard = page, [], []
        page.on("request", lambda request: self.requested.append(request.url.removeprefix(address)))
        page.on("pageerror", lambda error: self.heard.append(str(error)))
        page.route(lambda url: not url.startswith((address, "blob:")), lambda route: route.abort())
        page.goto(f"{address}/page.html")
        page.wait_for_function("window.openModel !== undefined")
        opened = "async (chosen) => { window.model = await window.openModel(...chosen); return window.loadSeconds; }"
        self.load_seconds = page.evaluate(opened, [dtype, eos_token_id, RUNTIME])
        self.name, self.exact = "transformers.js in Chromium", dtype == "fp32"

    def _ask(self, call: str, *values):
        return self.page.evaluate(f"async (values) => {call}", list(values))

    def encode(self, text: str) -> list[int]:
        return self._ask("window.model.encode(...values)", text)

    def logits(self, ids: list[int]) -> np.ndarray:
        values = self._ask("Array.from(await window.model.logits(...values))", ids)
        return np.array(values, dtype=np.float32).reshape(len(ids), -1)

    def greedy(self, ids: list[int], max_new_tokens: int) -> list[int]:
        return self._ask("window.model.greedy(...values)", ids, max_new_tokens)

    def greedy_seconds(self, ids: list[int], max_new_tokens: int) -> float:
        """How long `greedy` takes in the page."""
        start, end = "const start = performance.now();", "return performance.now() - start;"
        timed = f"{{ {start} await window.model.greedy(...values); {end} }}"
        return self._ask(timed, ids, max_new_tokens) / 1000
