"""Exported pages: of tiny networks, in node and in Chromium, and how fast one is."""

import json
import re
import statistics
import subprocess
from pathlib import Path

import torch

from helpers.browser import chromium
from helpers.serving import counting_tokenizer
from helpers.untrained import untrained_model
from tinystories.exporting import page
from tinystories.exporting.page.document import bundle, runtime_modules
from tinystories.exporting.source import Source
from tinystories.provenance import processor_name


# Milliseconds from the start of loading until the model was checked, noted in the page itself.
NOTE_READY = """addEventListener("DOMContentLoaded", () => {
  const state = document.getElementById("state");
  const note = () => { if (state.dataset.state === "ready") window.readyAfter ??= performance.now(); };
  new MutationObserver(note).observe(state, { attributes: true });
  note();
});"""


def source_of(model, tokenizer, folder: Path, title: str = "tiny") -> Source:
    """A model that was never saved, as if it had been opened from `folder`."""
    return Source(str(folder), title, folder, model, tokenizer, torch.float32, "", None, {})


def tiny_source(folder: Path, title: str = "tiny", context: int = 128, **fields) -> Source:
    """A fresh network with 320 tokens whose stories do not end by themselves."""
    model = untrained_model(counting_tokenizer(), context, **fields).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.mul_(4)  # or all logits are nearly equal, and any rounding decides
        model.get_output_embeddings().weight[model.config.eos_token_id] = 0  # a logit of 0 is never among the highest
    return source_of(model, counting_tokenizer(), folder, title)


def exported(source: Source, folder: Path) -> Path:
    """The page of `source` with everything in it."""
    folder.mkdir(exist_ok=True)
    page.check(source)
    page.write(source, folder)
    return next(file for file in folder.glob("*.html") if file.name != page.INDEX)


def in_node(node: str, expression: str, data: object = None):
    """The value of a JavaScript expression about `data`, in which all functions of the page's runtime are known."""
    code = f"{bundle(runtime_modules())};\nconst data = {json.dumps(data)};\nconsole.log(JSON.stringify({expression}))"
    process = subprocess.run([node, "-"], input=code, capture_output=True, text=True, encoding="utf-8", timeout=120)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def measure_in_chromium(html: Path, stories: int = 7, prompt: str = "Once upon a time, there was") -> dict:
    """How long a page takes until it has checked itself, and how fast its stories are with the balanced preset.

    It is opened from its file, offline. tokens_per_second and first_token_seconds are what the page reports: medians of
    all stories but the first, which browsers run before they have optimised the code, and each single one.
    """
    with chromium() as browser:
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        context.set_offline(True)
        context.add_init_script(NOTE_READY)
        tab = context.new_page()
        tab.goto(html.resolve().as_uri())
        tab.locator("#state[data-state=ready]").wait_for()
        facts = [_story_facts(tab, prompt, seed) for seed in range(stories)]
        speeds, firsts = ([float(number.replace(",", "")) for number in column] for column in zip(*facts, strict=True))
        return {
            "browser": f"chromium {browser.version}",
            "processor": processor_name(),
            "html_bytes": html.stat().st_size,
            "ready_seconds": tab.evaluate("readyAfter") / 1000,
            "tokens_per_second": statistics.median(speeds[1:] or speeds),
            "first_token_seconds": statistics.median(firsts[1:] or firsts) / 1000,
            "all_tokens_per_second": speeds,
            "all_first_token_seconds": [first / 1000 for first in firsts],
        }


def _story_facts(tab, prompt: str, seed: int) -> tuple[str, str]:
    if tab.locator("#new").is_visible():
        tab.click("#new")
    if not tab.locator("#seed").is_visible():
        tab.locator("#settings > summary").click()
    tab.fill("#seed", str(seed))
    tab.fill("#prompt", prompt)
    tab.press("#prompt", "Enter")
    facts = tab.locator(".sheet[data-outcome] .facts", has_text=f"seed\u00a0{seed}\u00a0")
    facts.wait_for()
    found = re.search(r"([\d,]+)\s*tokens/s.*first\s*token\s*in\s*([\d.]+)", facts.text_content() or "")
    assert found
    return found[1], found[2]
