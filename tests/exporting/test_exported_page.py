"""The page with the model in it: its data, its code in node, and the page in Chromium, opened from a file and offline.

Every test in the browser also fails if the page logs anything, breaks its own content security policy, or makes a
request: see the fixture `opened`.
"""

import functools
import http.server
import json
import random
import re
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
from transformers import (
    AutoTokenizer,
    LogitsProcessorList,
    PreTrainedTokenizerFast,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from helpers.browser import TIMEOUT, Watch, chromium
from helpers.exported_page import exported, in_node, source_of, tiny_source
from helpers.runs import ROOT, mistake
from helpers.serving import counting_tokenizer
from helpers.untrained import unpack_earlier_tokenizer, untrained_model
from tinystories.exporting import page
from tinystories.exporting.page.contents import BOUNDS, CHECKED_TOKENS, contents
from tinystories.exporting.page.document import bundle, document
from tinystories.exporting.page.node import NodeReader, find_node
from tinystories.exporting.page.tokenizer import tokenizer_data
from tinystories.exporting.proof import greedy
from tinystories.exporting.texts import proof_texts
from tinystories.generation.presets import PRESETS, save_presets


RUNTIME = ROOT / "tinystories/exporting/page/runtime"
HOSTILE = "</script><img src=x onerror=alert(1)><!-- &amp; \u2028"  # the name of a model


@pytest.fixture(scope="module")
def node() -> str:
    found = find_node()
    if found is None:
        pytest.skip("node 18 or later is not installed")
    return found


# ---- the code of the page, in node

SHAPES = {
    "full rotary": {},
    "partial rotary": {"partial_rotary_factor": 0.5},
    "grouped heads, untied": {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": False},
    "sizes that four does not divide": {"hidden_size": 30, "num_attention_heads": 3, "intermediate_size": 37},
}


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_same_network(node, tmp_path, shape):
    """Logits at each position, and greedy tokens through the cache, up to the end of the context."""
    source = tiny_source(tmp_path, context=96, **SHAPES[shape])
    with NodeReader(node, exported(source, tmp_path / "page")) as reader:
        ids = source.tokenizer("Story 7. one two three")["input_ids"]
        wanted = greedy(source.model, source.tokenizer, ids, 96 - len(ids))
        assert reader.greedy(ids, 200) == wanted
        assert len(wanted) == 96 - len(ids)
        with torch.no_grad():
            logits = source.model(torch.tensor([ids + wanted])).logits[0].numpy()
        assert np.abs(reader.logits(ids + wanted) - logits).max() < 1e-3 * np.abs(logits).max()


def nasty_texts() -> list[str]:
    """The texts of the proof, all of Unicode in order, and what is hard for a regular expression or a queue."""
    draw = random.Random(1)
    letters = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    everything = ["".join(letters[i : i + 4096]) for i in range(0, len(letters), 4096)]
    mixed = ["".join(draw.choices(letters, k=30)) for _ in range(100)]
    contractions = [f"{word}{letter}ab" for word in ("it'", "'l", "'r", " '") for letter in "sS\u017ftTkK\u212alLeE"]
    return [*proof_texts(["Once upon a time."]), *everything, *mixed, *contractions, "a" * 30_000, "ab\n" * 9_000]


@pytest.mark.slow
@pytest.mark.parametrize("version", ["current", "0.1.0"])
def test_same_tokens(node, tmp_path, version):
    """Guards: another order of merges, special tokens, the bytes of each letter."""
    tokenizer = counting_tokenizer()
    if version == "0.1.0":
        tokenizer = AutoTokenizer.from_pretrained(unpack_earlier_tokenizer(tmp_path))
    source = source_of(untrained_model(tokenizer, 64), tokenizer, tmp_path)
    texts = [*proof_texts(["Once upon a time."]), *nasty_texts()[-200:]]
    wanted = tokenizer(texts, add_special_tokens=False)["input_ids"]
    with NodeReader(node, exported(source, tmp_path / "page")) as reader:
        assert [text for text, ids in zip(texts, wanted, strict=True) if reader.encode(text) != ids] == []


@pytest.mark.parametrize("version", ["current", "0.1.0"])
def test_same_pieces(node, tmp_path, version):
    """How a text is cut, whatever the merges: guards another \\s, another Unicode, contractions of another case."""
    tokenizer = counting_tokenizer()
    if version == "0.1.0":
        tokenizer = AutoTokenizer.from_pretrained(unpack_earlier_tokenizer(tmp_path))
    texts = nasty_texts()
    cut = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str
    wanted = [[text[start:end] for _, (start, end) in cut(text)] for text in texts]
    expression = (
        "((pattern) => data.texts.map((text) => text.match(pattern) ?? []))(new Tokenizer(data.tokenizer).pattern)"
    )
    found = in_node(node, expression, {"texts": texts, "tokenizer": tokenizer_data(tokenizer)})
    assert [text for text, ours, theirs in zip(texts, found, wanted, strict=True) if ours != theirs] == []


def test_sampling(node):
    """The tokens to draw from and their probabilities are those of transformers' `generate`."""
    torch.manual_seed(0)
    logits = 4 * torch.randn(3, 400)
    logits[0, 7] = logits[0, 9]  # a tie
    seen = [3, 3, 9, *range(20, 60)]  # with logits above and below 0
    every = [*PRESETS.values(), {"temperature": 1.3, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.3}]
    for settings in [*every, {"temperature": 0.5, "top_k": 0, "top_p": 0.3, "repetition_penalty": 2.0}]:
        steps = [
            RepetitionPenaltyLogitsProcessor(settings["repetition_penalty"]),
            TemperatureLogitsWarper(settings["temperature"]),
            *([TopKLogitsWarper(settings["top_k"])] if settings["top_k"] else []),
            *([TopPLogitsWarper(settings["top_p"])] if settings["top_p"] < 1 else []),
        ]
        wanted = LogitsProcessorList(steps)(torch.tensor([seen] * 3), logits.clone()).softmax(-1)
        data = {"logits": logits.tolist(), "seen": seen, "settings": settings}
        found = in_node(node, "data.logits.map((row) => candidates(row, data.seen, data.settings))", data)
        for row, chosen in zip(wanted, found, strict=True):
            assert sorted(chosen["ids"]) == row.nonzero()[:, 0].tolist()
            assert torch.allclose(
                row[chosen["ids"]], torch.tensor(chosen["probabilities"], dtype=torch.float32), atol=1e-5
            )


def test_draws(node):
    """Each token is drawn as often as it is likely; a seed gives the same draws, its neighbours give others."""
    expression = (
        "[1, 2, 2 ** 32, 2 ** 53 - 1, 1].map((seed) => { const random = randomNumbers(seed); "
        "const three = { ids: [5, 6, 7], probabilities: [0.6, 0.3, 0.1] }; "
        "return Array.from({ length: 4000 }, () => draw(three, random())); })"
    )
    rows = in_node(node, expression)
    assert rows[0] == rows[4]
    assert len({tuple(row) for row in rows}) == 4
    for row in rows:
        assert [round(row.count(token) / len(row), 1) for token in (5, 6, 7)] == [0.6, 0.3, 0.1]


def test_text_stream(node, tmp_path):
    """Guards: half of an emoji, a byte order mark that is lost, a special token as text."""
    tokenizer = counting_tokenizer()
    data = contents(source_of(untrained_model(tokenizer, 64), tokenizer, tmp_path), b"")["tokenizer"]
    text = "\ufeffa \U0001f469\u200d\U0001f467 é\ufeff 你"
    ids = [1, *tokenizer(text, add_special_tokens=False)["input_ids"], 0, *tokenizer("好")["input_ids"][1:-1]]
    expression = "((s) => data.ids.map((id) => s.push(id)))(new TextStream(new Tokenizer(data.tokenizer)))"
    pieces = in_node(node, expression, {"ids": ids, "tokenizer": data})
    assert "".join(pieces) == text  # without the last character, which is incomplete
    assert all("\ufffd" not in piece for piece in pieces)


def test_prompt_is_cleaned_as_by_the_server(node):
    text_module = pytest.importorskip("tinystories.server.text")
    prompts = [" a\r\nb\rc\t", "\0a\x0b\x0c\x1f\x7f\x85\x9fb", "\ufffd", "a\ufffdb\ud83d", "\u2028 x"]
    found = in_node(node, "data.map(sanitised)", prompts)
    well_formed = [prompt.encode("utf-8", "replace").decode().replace("?", "") for prompt in prompts]
    assert found == [text_module.sanitised(prompt).strip() for prompt in well_formed]


def test_kernel_is_its_source():
    """Guards: kernel.wat changed, and kernel.wasm not."""
    wasmtime = pytest.importorskip("wasmtime", reason="wasmtime, which assembles kernel.wat, is not installed")
    source = (RUNTIME / "kernel.wat").read_text(encoding="utf-8")
    assert wasmtime.wat2wasm(source) == (RUNTIME / "kernel.wasm").read_bytes()


def test_names_of_modules_differ(tmp_path):
    """Guards: two functions of one name, of which a page would have the last one only."""
    (tmp_path / "one.js").write_text('import {\n  two,\n} from "./two.js";\nexport const one = two() + 1;\n')
    (tmp_path / "two.js").write_text("export function two() {\n  const one = 1;\n  return one;\n}\n")
    assert bundle(tmp_path.glob("*.js")).index("function two") < bundle(tmp_path.glob("*.js")).index("const one =")
    (tmp_path / "two.js").write_text("export function two() {}\nasync function one() {}\n")
    with pytest.raises(ValueError, match="top-level one"):
        bundle(tmp_path.glob("*.js"))


def test_damaged_page_in_node(node, tmp_path):
    """A reader that cannot open a page says so in one line."""
    html = exported(tiny_source(tmp_path), tmp_path / "page")
    text = html.read_text(encoding="utf-8")
    place = text.index('id="weights">') + 5000
    html.write_text(text[:place] + ("A" if text[place] != "A" else "B") + text[place + 1 :], encoding="utf-8")
    with NodeReader(node, html) as reader:
        assert "its weights are damaged" in mistake(reader.greedy, [1], 3)


def test_without_node(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    source = tiny_source(tmp_path)
    exported(source, tmp_path / "page")
    assert list(page.readers(source, tmp_path / "page")) == []
    assert "node" in page.NO_READER  # the reason in export.json


# ---- the data of the page


def test_bounds_are_the_servers():
    schema = pytest.importorskip("tinystories.server.schema", reason="the server's libraries are not installed")
    assert {name: schema.BOUNDS[name] for name in BOUNDS} == BOUNDS


def test_presets(tmp_path):
    """They are the checkpoint's; what no story can be sampled with is refused; the fields allow what they name."""
    source = tiny_source(tmp_path)
    save_presets(tmp_path, source.model.generation_config)
    file = tmp_path / "generation_config_creative.json"
    saved = json.loads(file.read_text())
    file.write_text(json.dumps(saved | {"temperature": 3.5, "top_p": None}))
    info = contents(source, b"")["info"]
    assert info["presets"] == PRESETS | {"creative": PRESETS["creative"] | {"temperature": 3.5, "top_p": 1.0}}
    assert info["bounds"]["temperature"] == (0.1, 3.5)
    for wrong in ({"temperature": 0.0}, {"top_p": 1.5}, {"repetition_penalty": -1.0}):
        file.write_text(json.dumps(saved | wrong))
        assert "generation_config_creative.json" in mistake(page.check, source)
    file.write_text("{")
    assert "generation_config_creative.json cannot be read" in mistake(page.check, source)


def test_self_check_is_what_the_checkpoint_writes(tmp_path):
    source = tiny_source(tmp_path)
    check = contents(source, b"")["check"]
    assert len(check["tokens"]) > CHECKED_TOKENS / 4  # fewer only where two tokens are nearly equal
    assert check["tokens"] == greedy(source.model, source.tokenizer, check["prompt"], len(check["tokens"]))
    short = tiny_source(tmp_path, context=1)
    assert contents(short, b"")["check"]["tokens"] == []


def edited_tokenizer(edit) -> PreTrainedTokenizerFast:
    data = json.loads(counting_tokenizer().backend_tokenizer.to_str())
    edit(data)
    backend = tokenizers.Tokenizer.from_str(json.dumps(data))
    names = {name: getattr(counting_tokenizer(), name) for name in ("pad_token", "bos_token", "eos_token")}
    return PreTrainedTokenizerFast(tokenizer_object=backend, split_special_tokens=True, **names)


NOT_SPECIAL = {"id": 296, "content": "fox", "special": False}
BOS_AFTER = {"SpecialToken": {"id": "<|bos|>", "type_id": 0}}
FEW = {"<|pad|>": 0, "<|bos|>": 1, "<|eos|>": 2, "a": 3}
UNKNOWN_TOKENIZERS = {
    "normalises": lambda data: data.update(normalizer={"type": "NFC"}),
    "options": lambda data: data["model"].update(ignore_merges=True),
    "cuts texts": lambda data: data.update(pre_tokenizer={"type": "Whitespace"}),
    "not special": lambda data: data["added_tokens"].append(data["added_tokens"][0] | NOT_SPECIAL),
    "256 bytes": lambda data: data["model"].update(merges=[], vocab=FEW),
    "after a text": lambda data: data["post_processor"]["single"].append(BOS_AFTER),
}


@pytest.mark.parametrize("said", UNKNOWN_TOKENIZERS)
def test_tokenizer_that_a_page_cannot_have(tmp_path, said):
    source = tiny_source(tmp_path)
    other = source_of(source.model, edited_tokenizer(UNKNOWN_TOKENIZERS[said]), tmp_path)
    assert said in mistake(page.check, other)
    page.check(source_of(source.model, edited_tokenizer(lambda data: None), tmp_path))


def test_network_that_a_page_cannot_have(tmp_path):
    source = tiny_source(tmp_path)
    source.model.config.hidden_act = "gelu"
    assert "hidden_act is 'gelu'" in mistake(page.check, source)
    source = tiny_source(tmp_path)
    source.model.config.rope_parameters["rope_type"] = "dynamic"
    assert "rope_type is 'dynamic'" in mistake(page.check, source)


def test_too_large_for_one_file(tmp_path, monkeypatch, caplog):
    """Below, at and above the limit; above it one line says why, and the folder for a host is complete."""
    source = tiny_source(tmp_path)
    html = exported(source, tmp_path / "page")
    for limit, files in {html.stat().st_size: 3, html.stat().st_size - 1: 2, 1000: 2}.items():
        monkeypatch.setattr(page, "LARGEST_PAGE", limit)
        folder = tmp_path / f"at most {limit}"
        folder.mkdir()
        with caplog.at_level("INFO"):
            page.write(source, folder)
        assert len(list(folder.iterdir())) == files
        assert {"index.html", "model.safetensors"} <= {file.name for file in folder.iterdir()}
    assert "too large for one file" in caplog.text


def test_model_called_index(tmp_path):
    assert exported(tiny_source(tmp_path, "index"), tmp_path / "page").name == "model.html"


# ---- the page in a browser


@pytest.fixture(scope="module")
def browser():
    playwright_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    playwright_api.expect.set_options(timeout=TIMEOUT)
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return tiny_source(tmp_path_factory.mktemp("source"), title=HOSTILE, context=512)


@pytest.fixture(scope="module")
def html(source, tmp_path_factory) -> Path:
    return exported(source, tmp_path_factory.mktemp("exported"))


@pytest.fixture
def expect():
    return pytest.importorskip("playwright.sync_api", reason="playwright is not installed").expect


@pytest.fixture
def opened(browser):
    """A function that opens a page, offline unless it is served, and returns its tab."""
    watch, contexts = Watch(), []

    def open_page(address: str, offline: bool = True, script: str = "", **options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | options)
        contexts.append(context)
        context.set_default_timeout(TIMEOUT)
        context.set_offline(offline)
        context.add_init_script(script)
        watch.context(context)
        tab = context.new_page()
        watch.page(tab)
        if offline:
            allowed = (address, "blob:", "data:")
            tab.on("request", lambda request: request.url.startswith(allowed) or watch.heard.append(request.url))
        tab.goto(address)
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert watch.heard == []


def ready(tab, expect) -> None:
    expect(tab.locator("#state")).to_have_text("ready")


def compose(tab) -> None:
    """The form, which made way for the last story."""
    if tab.locator("#new").is_visible():
        tab.click("#new")


def settings(tab, **values) -> None:
    compose(tab)
    if not tab.locator("#seed").is_visible():
        tab.locator("#settings > summary").click()
    for name, value in values.items():
        tab.fill(f"#{name}", str(value))


def story(tab, expect, prompt: str) -> str:
    """Write a story; its text, prompt included, without the line ends."""
    compose(tab)
    tab.fill("#prompt", prompt)
    tab.press("#prompt", "Enter")
    expect(tab.locator("#new")).to_be_visible()
    expect(tab.locator(".sheet[data-outcome]")).to_have_count(1)
    return "".join(tab.locator("#stories .story p").all_text_contents())


def written_by_torch(source, prompt: str, tokens: int) -> str:
    """What `generate` writes greedily, as the page shows it."""
    ids = source.tokenizer(prompt)["input_ids"]
    new = greedy(source.model, source.tokenizer, ids, tokens)
    assert len(new) == tokens
    return re.sub(r"[\r\n]", "", prompt + source.tokenizer.decode(new, skip_special_tokens=True).rstrip("\ufffd"))


GREEDY = {"top_k": 1, "repetition_penalty": 1, "max_tokens": 64}


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("without", ["", "delete globalThis.Worker; delete globalThis.WebAssembly"])
def test_opens_from_a_file(opened, expect, source, html, without):
    """Offline, 64 greedy tokens equal PyTorch's; also without a worker and SIMD. The name is shown, not run as HTML."""
    tab = opened(html.as_uri(), script=without)
    ready(tab, expect)
    settings(tab, **GREEDY)
    assert story(tab, expect, "Story 7. one two") == written_by_torch(source, "Story 7. one two", 64)
    expect(tab.locator(".note")).to_contain_text("Cut off at 64 tokens")
    expect(tab.locator(".note .facts")).to_contain_text("first\u00a0token")
    expect(tab.locator("#badge")).to_contain_text(HOSTILE.replace("\u2028", "").strip())
    assert tab.title().startswith("</script><img")
    assert tab.locator("img[onerror]").count() == 0


@pytest.mark.slow
@pytest.mark.browser
def test_stories_in_the_page(opened, expect, html):
    """Seed, presets, streaming, stop, and the page goes on after each."""
    tab = opened(html.as_uri(), offline=True)
    ready(tab, expect)
    settings(tab, seed=5, max_tokens=200)
    first, again = story(tab, expect, "Story 7."), story(tab, expect, "Story 7.")
    assert first == again and len(first) > 100
    settings(tab, seed=6)
    assert story(tab, expect, "Story 7.") != first
    compose(tab)
    for name, values in PRESETS.items():
        tab.select_option("#preset", name)
        assert {field: float(tab.input_value(f"#{field}")) for field in values} == values
    settings(tab, max_tokens=500, temperature=1.5)
    tab.evaluate(  # at the first piece, whatever the speed of the machine
        "new MutationObserver((_, seen) => document.querySelector('#stories .generated') && "
        "(seen.disconnect(), document.getElementById('stop').click())).observe("
        "document.getElementById('stories'), { childList: true, subtree: true })"
    )
    assert story(tab, expect, "Story 8.") != "Story 8."
    expect(tab.locator(".note")).to_contain_text("You stopped it here.")
    settings(tab, seed=6, max_tokens=200)
    tab.select_option("#preset", "balanced")
    assert story(tab, expect, "Story 7.") != first
    compose(tab)
    tab.check("#probabilities")
    story(tab, expect, "Story 7.")
    tab.locator('.word[tabindex="0"]').focus()
    expect(tab.locator("#tip li")).not_to_have_count(0)


@pytest.mark.slow
@pytest.mark.browser
def test_continue_and_keep(opened, expect, html):
    """A story goes on in the page; what is typed is not stored, nor can it be sent; there is no server to link to."""
    tab = opened(html.as_uri())
    ready(tab, expect)
    settings(tab, **GREEDY)
    first = story(tab, expect, "Story 7. one two")
    tab.click(".continue")
    expect(tab.locator(".sheet .facts")).to_contain_text("continued")
    expect(tab.locator("#new")).to_be_visible()
    assert "".join(tab.locator("#stories .story p").all_text_contents()).startswith(first.rstrip())
    expect(tab.locator("#learn")).to_be_hidden()
    tab.click(".share")
    expect(tab.locator(".sharing .text")).to_be_visible()
    expect(tab.locator(".link")).to_be_hidden()
    assert tab.locator("a[href]:not(.skip)").count() == 0
    expect(tab.locator("#entries li")).to_have_count(1)
    expect(tab.locator("#kept")).to_contain_text("Only this page has them")
    assert tab.evaluate("Object.keys(localStorage)") == []


@pytest.mark.slow
@pytest.mark.browser
def test_prompts(opened, expect, html):
    """Too long, nothing that is text, special tokens and lone surrogates: said in words or read as text."""
    tab = opened(html.as_uri())
    ready(tab, expect)
    story(tab, expect, "z" * 600)
    expect(tab.locator(".note .problem")).to_contain_text("has 601 tokens, and this model reads 512: shorten it")
    settings(tab, max_tokens=500)
    story(tab, expect, "z" * 500)
    expect(tab.locator(".note")).to_contain_text("Cut off at 11 tokens, before its end: after this beginning")
    story(tab, expect, "z" * 511)  # with BOS, as long as the context
    expect(tab.locator(".note .problem")).to_contain_text("512 tokens")
    story(tab, expect, "z" * 5000)
    expect(tab.locator(".note .problem")).to_contain_text("5000 characters")
    story(tab, expect, "\x01")
    expect(tab.locator(".note .problem")).to_contain_text("Nothing is left")
    settings(tab, max_tokens=50)
    for prompt in ("<|eos|> </script><b>x</b>", "é👩‍👧 \u2028 हिन्दी"):
        assert story(tab, expect, prompt).startswith(prompt)
        expect(tab.locator(".note")).to_contain_text("Cut off at 50 tokens")
    compose(tab)
    tab.evaluate("document.getElementById('prompt').value = 'a\\ud83d b'")
    tab.press("#prompt", "Enter")
    expect(tab.locator(".note")).to_contain_text("Cut off at 50 tokens")


@pytest.mark.slow
@pytest.mark.browser
def test_damaged_page(opened, expect, source, html, tmp_path):
    """One letter of the weights, a cut file, one letter of the data, tokens that differ: said, and no story."""
    whole = html.read_text(encoding="utf-8")
    place = whole.index('id="weights">') + 5000
    data = contents(source, b"")
    data["weights"] = json.loads(re.search(r'"weights":(\{[^}]*\})', whole)[1])
    data["check"]["tokens"][2] += 1
    weights = (html.parent / page.WEIGHTS).read_bytes()
    damages = {
        "its weights are damaged": whole[:place] + ("A" if whole[place] != "A" else "B") + whole[place + 1 :],
        "its weights are damaged:": whole[:place],
        "its data are damaged": whole.replace('"creative":{', '"creatine":{'),
        "number 3 differs": document(data, weights),
    }
    for said, text in damages.items():
        damaged = tmp_path / "damaged.html"
        damaged.write_text(text, encoding="utf-8", newline="\n")
        tab = opened(damaged.as_uri())
        expect(tab.locator("#damage")).to_contain_text("This page cannot be used: ")
        expect(tab.locator("#damage")).to_contain_text(said)
        expect(tab.locator("#state")).to_have_text("not usable")
        tab.fill("#prompt", "Story 7.")
        tab.press("#prompt", "Enter")
        expect(tab.locator("#problem:visible, .note .problem")).to_have_count(1)


@contextmanager
def served(folder: Path):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.slow
@pytest.mark.browser
def test_folder_for_a_host(opened, expect, source, html):
    """Served, it writes what the checkpoint writes; opened from a file, it says how to serve it."""
    with served(html.parent) as address:
        tab = opened(address, offline=False)
        ready(tab, expect)
        settings(tab, **GREEDY)
        assert story(tab, expect, "Story 7. one two") == written_by_torch(source, "Story 7. one two", 64)
    tab = opened((html.parent / page.INDEX).as_uri())
    expect(tab.locator("#damage")).to_contain_text("serve the folder")


@pytest.mark.slow
@pytest.mark.browser
def test_accessible_at_every_width(opened, expect, html):
    """axe-core finds nothing, nothing scrolls sideways; Shift+Enter begins a line."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is absent").Axe()
    tab = opened(html.as_uri(), reduced_motion="reduce", viewport={"width": 360, "height": 800})
    ready(tab, expect)
    tab.locator("#prompt").focus()
    tab.keyboard.type("Story 7.")
    tab.keyboard.press("Shift+Enter")
    tab.keyboard.type("one")
    expect(tab.locator("#prompt")).to_have_value("Story 7.\none")
    settings(tab, max_tokens=50)
    story(tab, expect, "Story 7. " + "w" * 90)
    for width, scheme in ((360, "light"), (360, "dark"), (1280, "dark"), (1280, "light")):
        tab.set_viewport_size({"width": width, "height": 800})
        tab.emulate_media(color_scheme=scheme)
        found = axe.run(tab)
        assert found.violations_count == 0, found.generate_report()
        assert tab.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
