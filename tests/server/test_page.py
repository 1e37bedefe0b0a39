"""The page in a real browser, with the real server and tiny checkpoints.

Every test also fails if the browser logs anything to its console, the content security policy is violated, or the page
makes a request to another host: see the fixture `page`.
"""

import json
import re
import shutil
import signal
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from helpers.browser import TIMEOUT, Watch, chromium
from helpers.runs import COUNTING, ROOT
from helpers.serving import ServerProcess


playwright_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("fastapi", reason="the server's libraries are not installed")
expect = playwright_api.expect
pytestmark = [pytest.mark.slow, pytest.mark.browser]

START = 'event: start\ndata: {"model": "run", "seed": 1, "max_tokens": 50, "settings": {}}\n\n'


@pytest.fixture(scope="module")
def checkpoint(counting_run, tmp_path_factory) -> Path:
    """A run folder of checkpoints. The first is untrained and slow, and its stories do not end by themselves."""
    folder = tmp_path_factory.mktemp("page") / "run"
    shutil.copytree(counting_run, folder)
    shutil.copytree(folder / "checkpoint-50", folder / "checkpoint-1")
    for path in folder.rglob("config.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"max_position_embeddings": 512}))
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(folder / "checkpoint-1", trust_remote_code=True)
    config.update({"num_hidden_layers": 12, "hidden_size": 256, "intermediate_size": 1024})
    model = AutoModelForCausalLM.from_config(config, trust_remote_code=True)
    model.get_output_embeddings().weight.data[config.eos_token_id] = 0  # a logit of 0 is never among the 50 highest
    model.save_pretrained(folder / "checkpoint-1")
    return folder


@pytest.fixture(scope="module")
def server(checkpoint):
    with ServerProcess(checkpoint) as server:
        yield server


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def context(browser, server, watch, request):
    """A new context for each test: nothing is stored, and requests to other hosts are aborted."""
    options = getattr(request, "param", {})
    context = browser.new_context(**{"base_url": server.url, "viewport": {"width": 1280, "height": 900}} | options)
    context.set_default_timeout(TIMEOUT)
    expect.set_options(timeout=TIMEOUT)
    context.grant_permissions(["clipboard-read", "clipboard-write"])

    def turn_away(route):
        watch.heard.append(f"another host: {route.request.url}")
        route.abort()

    context.route(lambda url: not url.startswith((server.url, "blob:", "data:")), turn_away)
    watch.context(context)
    yield context
    context.close()


@pytest.fixture
def page(context, server, watch):
    page = context.new_page()
    watch.page(page)
    page.goto(server.url)
    expect(page.locator("#state")).to_have_text("ready")
    yield page
    assert watch.unexpected() == []


def certain(page) -> None:
    """Settings with which the tiny model continues as it was trained."""
    page.locator("#settings > summary").click()
    for name, value in {"temperature": "0.1", "top_k": "1", "repetition_penalty": "1", "seed": "7"}.items():
        page.fill(f"#{name}", value)


def write(page, prompt: str) -> None:
    page.fill("#prompt", prompt)
    page.press("#prompt", "Enter")


def finished(page, stories: int = 1) -> None:
    expect(page.locator(".sheet[data-outcome]")).to_have_count(stories)
    expect(page.locator("#generate")).to_be_visible()


def story(page) -> str:
    return "\n".join(page.locator("#stories .story p").all_text_contents())


def ramble(page) -> None:
    """Start a long story that does not end by itself, by the untrained model."""
    if not page.locator("#model").is_visible():
        page.locator("#settings > summary").click()
    page.select_option("#model", "checkpoint-1")
    page.fill("#max_tokens", "500")
    page.fill("#temperature", "2")
    write(page, "Story")
    expect(page.locator("#stories .generated").nth(3)).to_be_attached()


def answer_with(page, body: str = "", **options) -> None:
    page.route("**/generate", lambda route: route.fulfill(body=body, **{"content_type": "text/event-stream"} | options))


# ---- the modules of the page


def test_modules(page):
    """Each is served and loaded once. Guards: a module that is not preloaded, and circular imports."""
    imports, found = {}, ["app.js"]
    while found:
        if (name := found.pop()) in imports:
            continue
        answer = page.request.get(f"/static/{name}")
        assert answer.ok, name
        assert answer.headers["content-type"].startswith("text/javascript")
        assert "script-src 'self';" in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-cache" and answer.headers["etag"]
        imports[name] = re.findall(r'(?:from|import)\s*\(?"\./([\w.]+)"', answer.text())
        found += imports[name]
    assert list(TopologicalSorter(imports).static_order())[-1] == "app.js"  # CycleError for circular imports
    paths = sorted(f"/static/{name}" for name in imports)
    assert paths == sorted(f"/static/{path.name}" for path in (ROOT / "tinystories/server/static").glob("*.js"))
    addresses = page.locator("script, link[rel=modulepreload]").evaluate_all("all => all.map(e => e.src || e.href)")
    loaded = page.evaluate("performance.getEntriesByType('resource').map(e => e.name).filter(n => n.endsWith('.js'))")
    for urls in (addresses, loaded):
        assert sorted("/static/" + url.rpartition("/static/")[2] for url in urls) == paths


# ---- generating and stopping


def test_story(page):
    """The text continues the beginning; the end and the seed are shown and announced."""
    certain(page)
    write(page, "Story 7. one two")
    finished(page)
    assert story(page) == f"Story 7. {COUNTING}"
    expect(page.locator("#stories .beginning")).to_have_text("Story 7. one two")
    expect(page.locator(".note")).to_contain_text("The end.")
    expect(page.locator(".note")).to_contain_text("seed 7")
    expect(page.locator("#announcement")).to_have_text("The end.")
    expect(page.locator("#stories .story")).not_to_have_attribute("aria-busy", "true")


def test_server_info(page):
    """Guards: names, bounds and presets that are written into the page and wrong for the next model."""
    info = page.request.get("/api/info").json()
    expect(page.locator("#badge")).to_contain_text(info["model"])
    expect(page.locator("#badge")).to_contain_text(info["device"])
    assert page.locator("#preset option").all_text_contents() == [*info["presets"], "own settings"]
    assert page.locator("#model option").evaluate_all("all => all.map(o => o.value)") == [
        m["id"] for m in info["models"]
    ]
    for name in ("temperature", "top_k", "top_p", "repetition_penalty", "seed"):
        low, high = info["bounds"][name]
        assert [float(page.get_attribute(f"#{name}", bound)) for bound in ("min", "max")] == [low, high]
    assert (page.get_attribute("#max_tokens", "min"), page.get_attribute("#max_tokens", "max")) == ("50", "500")


@pytest.mark.parametrize("way", ["button", "Escape"])
def test_stop(page, way):
    """The text stays. Guards: a page that stops reading while the server continues."""
    ramble(page)
    page.click("#stop") if way == "button" else page.keyboard.press("Escape")
    finished(page)
    expect(page.locator(".note")).to_contain_text("You stopped it here.")
    assert len(story(page)) > len("Story")
    page.wait_for_function("async () => (await (await fetch('api/info')).json()).load.running === 0")


def test_presets(page):
    """A preset fills in its settings; a changed field selects the own settings."""
    page.locator("#settings > summary").click()
    presets = page.request.get("/api/info").json()["presets"]
    for name, settings in presets.items():
        page.select_option("#preset", name)
        assert {field: float(page.input_value(f"#{field}")) for field in settings} == settings
    page.fill("#temperature", "1.25")
    expect(page.locator("#preset")).to_have_value("own settings")
    expect(page.locator("#summary")).to_contain_text("own settings")
    with page.expect_request("**/generate") as sent:
        write(page, "Story 7. one")
    body = sent.value.post_data_json
    assert body["temperature"] == 1.25 and "preset" not in body
    finished(page)


def test_tidy(page):
    """Guards: probabilities shown on tidied words, which are not those that the model generated."""
    page.locator("#settings > summary").click()
    page.check("#tidy")
    with page.expect_request("**/generate") as sent:
        write(page, "Story 7. one two")
    assert sent.value.post_data_json["tidy"] is True
    finished(page)
    alone = page.request.post("/generate", data=sent.value.post_data_json | {"stream": False}).json()
    assert story(page) == "Story 7. one two" + alone["text"]
    page.check("#probabilities")
    expect(page.locator("#tidy")).to_be_disabled()
    with page.expect_request("**/generate") as sent:
        page.click(".again")
    assert sent.value.post_data_json["tidy"] is False
    finished(page)


def test_again(page):
    """Again gives the same story, a new seed another. Guards: a random seed that is not kept."""
    page.locator("#settings > summary").click()
    page.fill("#max_tokens", "50")
    page.select_option("#model", "checkpoint-1")
    write(page, "Story")
    finished(page)
    first = story(page)
    page.click(".again")
    expect(page.locator("#entries li")).to_have_count(2)
    finished(page)
    assert story(page) == first
    page.click("#new-seed")
    assert page.input_value("#seed") != ""
    write(page, "Story")
    expect(page.locator("#entries li")).to_have_count(3)
    finished(page)
    assert story(page) != first


# ---- errors


def test_field_out_of_bounds(page):
    """The field is named with its bounds, shown and focused."""
    page.locator("#settings > summary").click()
    page.fill("#temperature", "9")
    page.locator("#settings > summary").click()
    write(page, "Story")
    expect(page.locator("#problem")).to_have_text("Temperature must be between 0.1 and 2.")
    expect(page.locator("#temperature")).to_be_focused()  # also inside of settings that were closed
    expect(page.locator("#problem")).to_be_in_viewport()
    expect(page.locator("#announcement")).to_contain_text("Temperature")


def test_refused_request(page, watch):
    """The message of the server is shown."""
    watch.expected = "status of 422"
    write(page, "a" * 3000)
    finished(page)
    expect(page.locator(".note .problem")).to_contain_text("2048")
    expect(page.locator("#length")).to_contain_text("3,000")


def test_retry_countdown(page, watch):
    watch.expected = "status of 429"
    page.clock.install(time=0)
    page.clock.pause_at(1000)
    error = json.dumps({"error": "too many requests"})
    answer_with(page, error, status=429, headers={"Retry-After": "12"}, content_type="application/json")
    write(page, "Story")
    expect(page.locator(".note .problem")).to_have_text("too many requests")
    expect(page.locator(".countdown")).to_have_text("Try again in 12 s.")
    page.clock.run_for(5000)
    expect(page.locator(".countdown")).to_have_text("Try again in 7 s.")
    page.clock.run_for(8000)
    expect(page.locator(".countdown")).to_have_text("You can try again now.")


def test_loading_model(page, watch):
    """The page waits for the server without a reload."""
    watch.expected = "status of 503"
    page.clock.install(time=0)
    page.clock.pause_at(1000)
    loading = {"status": 503, "content_type": "application/json", "body": '{"error": "the model is being loaded"}'}
    page.route("**/api/info", lambda route: route.fulfill(**loading))
    page.goto(page.url)
    expect(page.locator("#state")).to_have_text("loading the model…")
    page.unroute("**/api/info")
    page.clock.run_for(2000)
    expect(page.locator("#state")).to_have_text("ready")
    expect(page.locator("#announcement")).to_have_text("The server is ready.")


def test_incomplete_streams(page):
    """A stream without its final object is an error."""
    streams = [
        (START + 'data: {"token": " a", "tokens": 1}\n\n', "ended before"),
        (START + 'event: error\ndata: {"error": "the model fell over"}\n\n', "the model fell over"),
        (START + "data: {not json\n\n", "could not be read"),
        ("", "ended before"),
    ]
    for stream, said in streams:
        answer_with(page, stream)
        write(page, "Story")
        expect(page.locator(".note .problem")).to_contain_text(said)
        finished(page)
        expect(page.locator("#announcement")).to_contain_text(said)
        expect(page.locator(".sheet")).to_have_attribute("data-outcome", "failed")
        page.reload()
        expect(page.locator("#state")).to_have_text("ready")


def test_finish_reasons(page):
    """Guards: a story that was cut off looks finished."""
    reasons = {
        "length": "Cut off at 50 tokens",
        "timeout": "time was up",
        "cancelled": "stopped it",
        "stop": "The end.",
    }
    for reason, said in reasons.items():
        final = {"finish_reason": reason, "text": " a", "max_tokens": 50, "seed": 1}
        final |= {"new_tokens": 1, "tokens_per_second": 1}
        answer_with(
            page, START + f'data: {{"token": " a", "tokens": 1}}\n\ndata: {json.dumps(final)}\n\ndata: [DONE]\n\n'
        )
        write(page, "Story")
        expect(page.locator(".note")).to_contain_text(said)
        finished(page)


def test_event_parser(page):
    """Chunks end within lines, line ends and characters."""
    events = page.evaluate(
        """async () => {
            const { eventsOf } = await import("/static/stream.js");
            const text = ": a comment\\r\\nevent: start\\r\\ndata: é🦊\\r\\n\\r\\ndata:one\\ndata: two\\n\\n" +
              "id: 4\\n\\ndata: lone\\r\\rdata: never ended\\n";
            const bytes = new TextEncoder().encode(text);
            const all = [];
            for (const size of [1, 2, 3, 7, 1000]) {
              const stream = new ReadableStream({ start(controller) {
                for (let i = 0; i < bytes.length; i += size) controller.enqueue(bytes.slice(i, i + size));
                controller.close();
              } });
              const found = [];
              for await (const event of eventsOf(stream)) found.push(event);
              all.push(found);
            }
            return all;
        }"""
    )
    assert events == [[["start", "é🦊"], ["message", "one\ntwo"], ["message", "lone"]]] * 5


def test_special_text(page, watch):
    """A <script> in a story is text; 2,048 emoji are 2,048 characters and not 4,096."""
    watch.expected = "status of 422"  # so many emoji are too many tokens, which is for the model to say
    write(page, "🦊" * 2048)
    finished(page)
    expect(page.locator("#length")).to_be_hidden()
    expect(page.locator(".note .problem")).to_contain_text("tokens")
    write(page, "🦊" * 100)
    expect(page.locator("#entries li")).to_have_count(1)
    finished(page)
    hostile = "<script>document.title = 'broken'</script><img src=x onerror=alert(1)> \x00\x07\x1b</s><|endoftext|>"
    write(page, hostile)
    expect(page.locator("#entries li")).to_have_count(2)
    finished(page)
    assert page.locator("#stories script, #stories img").count() == 0
    assert "broken" not in page.title()
    assert "<script>" in story(page)


# ---- probabilities


def think(page) -> None:
    certain(page)
    page.check("#probabilities")
    write(page, "Story 7. one two")
    finished(page)


def test_probabilities_by_keyboard(page):
    """The story is one stop for Tab, not one for each word."""
    think(page)
    words, tip = page.locator(".word"), page.get_by_role("tooltip")
    assert words.first.text_content() == "three"
    assert page.locator('.word[tabindex="0"]').count() == 1
    page.locator('.word[tabindex="0"]').focus()
    expect(tip).to_contain_text("three")
    expect(tip).to_contain_text("%")
    expect(words.first).to_have_attribute("aria-describedby", "tip")
    assert tip.locator("li").count() >= 5
    expect(tip.locator(".chosen")).to_contain_text("t")
    page.keyboard.press("ArrowRight")
    expect(words.nth(1)).to_be_focused()
    page.keyboard.press("End")
    expect(words.last).to_be_focused()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowLeft")  # nothing stands before the first one
    expect(words.first).to_be_focused()
    page.keyboard.press("Escape")
    expect(tip).to_be_hidden()
    expect(words.first).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.locator(".sheet .copy")).to_be_focused()


def test_probabilities_by_pointer(page):
    """Guards: a tip that closes as soon as the pointer leaves the word, which a magnifier needs to read it."""
    think(page)
    tip = page.get_by_role("tooltip")
    page.locator(".word").nth(2).hover()
    expect(tip).to_contain_text("five")
    tip.hover()
    expect(tip).to_be_visible()
    page.locator("h1").hover()
    expect(tip).to_be_hidden()


def test_probability_of_a_word(page):
    """It is the product of its pieces."""
    pieces = [(" rab", 0.5), ("bit", 0.5), (".", 0.8), ("\n", 0.9), ("The", 0.004), (" 🦊", 1)]
    alternatives = [{"text": " cat", "probability": 0.3}, {"text": "", "probability": 0.2, "end": True}]
    events = [{"token": t, "tokens": 1, "probability": p, "alternatives": alternatives} for t, p in pieces]
    final = {"finish_reason": "stop", "text": " rabbit.\nThe 🦊", "max_tokens": 50, "seed": 1, "new_tokens": 6}
    answer_with(page, START + "".join(f"data: {json.dumps(event)}\n\n" for event in [*events, final]))
    page.check("#probabilities")
    write(page, "A")
    finished(page)
    assert page.locator(".word").all_text_contents() == ["rabbit.", "The", "🦊"]
    assert page.locator(".word").evaluate_all("all => all.map(w => w.dataset.sure)") == ["3", "0", "3"]
    assert page.locator(".story p").count() == 2
    page.locator(".word").first.focus()
    tip = page.get_by_role("tooltip")
    expect(tip).to_contain_text("rabbit. 20 %")
    expect(tip).to_contain_text("in 3 pieces: rab 50 %, bit 50 %, . 80 %")
    expect(tip).to_contain_text("(the end)")
    expect(tip.locator(".chosen")).to_contain_text("rab")


# ---- side by side


def test_watch_it_learn(page):
    """Every column has the same beginning and the same seed."""
    sent = []
    page.on(
        "request", lambda request: sent.append(request.post_data_json) if request.url.endswith("generate") else None
    )
    page.check("#compare")
    page.click("#learn")
    page.locator("#settings > summary").click()
    page.fill("#max_tokens", "50")
    write(page, "Story 7. one two")
    finished(page, 4)
    assert [body["model"] for body in sent] == ["checkpoint-1", "checkpoint-50", "checkpoint-100", "run"]
    assert len({(body["prompt"], body["seed"], body["preset"]) for body in sent}) == 1
    titles = page.locator(".sheet .title").all_text_contents()
    assert titles == ["step 1, natural", "step 50, natural", "step 100, natural", "run, natural"]
    expect(page.locator("#add")).to_be_hidden()
    page.locator("#columns .remove").first.click()
    expect(page.locator("#columns li")).to_have_count(3)


def test_stop_stops_all_columns(page):
    page.locator("#settings > summary").click()
    page.fill("#max_tokens", "500")
    page.fill("#temperature", "2")
    page.check("#compare")
    for column in page.locator("#columns li").all():
        column.locator(".model").select_option("checkpoint-1")
        column.locator(".preset").select_option("own settings")
    write(page, "Story")
    expect(page.locator(".sheet").nth(1).locator(".generated").nth(2)).to_be_attached()
    page.keyboard.press("Escape")
    finished(page, 2)
    expect(page.locator('.sheet[data-outcome="stopped"]')).to_have_count(2)
    page.wait_for_function("async () => (await (await fetch('api/info')).json()).load.running === 0")


# ---- history and reading view


def test_history(page):
    certain(page)
    write(page, "Story 7. one two")
    finished(page)
    page.fill("#seed", "8")
    write(page, "Story 9. one")
    expect(page.locator("#entries li")).to_have_count(2)
    finished(page)
    page.locator("#history > summary").click()
    expect(page.locator("#history")).to_contain_text("Only this page has them")
    oldest = page.locator("#entries li").last
    expect(oldest).to_contain_text("seed 7")
    expect(oldest).to_contain_text("temperature 0.1")
    with page.expect_download() as text:
        oldest.locator(".text").click()
    assert Path(text.value.path()).read_text(encoding="utf-8") == f"Story 7. {COUNTING}\n"
    with page.expect_download() as one:
        oldest.locator(".json").click()
    found = json.loads(Path(one.value.path()).read_text(encoding="utf-8"))
    assert (found["prompt"], found["seed"], found["finish_reason"]) == ("Story 7. one two", 7, "stop")
    with page.expect_download() as everything:
        page.click("#download-all")
    assert [each["seed"] for each in json.loads(Path(everything.value.path()).read_text(encoding="utf-8"))] == [7, 8]
    oldest.locator(".copy").click()
    expect(page.locator("#announcement")).to_have_text("Copied.")
    assert page.evaluate("navigator.clipboard.readText()") == f"Story 7. {COUNTING}"
    oldest.locator(".open").click()
    assert story(page) == f"Story 7. {COUNTING}"
    assert (page.input_value("#prompt"), page.input_value("#seed")) == ("Story 7. one two", "7")


def test_reading_view(page):
    """It shows the story alone, as does a print; Escape closes it."""
    certain(page)
    write(page, "Story 7. one two")
    finished(page)
    page.click(".sheet .read")
    expect(page.locator("#page")).to_have_text(f"Story 7. {COUNTING}")
    page.keyboard.press("Escape")
    expect(page.locator("#reader")).to_be_hidden()
    expect(page.locator(".sheet .read")).to_be_focused()
    page.emulate_media(media="print")
    expect(page.locator("#stories .story")).to_be_visible()
    for other in ("#form", "header", "footer", "#history", ".note"):
        expect(page.locator(other)).to_be_hidden()


def test_dark_theme(page):
    """The choice is kept across a reload."""
    page.click("#theme")
    expect(page.locator("#theme")).to_have_attribute("aria-pressed", "true")
    page.reload()
    expect(page.locator("#theme")).to_have_attribute("aria-pressed", "true")
    assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == "dark"


# ---- for everyone


def test_keyboard_only(page):
    """From the first Tab to a story without a pointer."""
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    expect(page.locator(".skip")).to_be_in_viewport()
    page.keyboard.press("Tab")
    expect(page.locator("#theme")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.locator("#prompt")).to_be_focused()
    page.keyboard.type("Story 7.")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("one two")
    expect(page.locator("#prompt")).to_have_value("Story 7.\none two")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # a beginning to choose: it is put into the field, which gets the focus
    expect(page.locator("#prompt")).to_be_focused()
    while not page.locator("#generate").evaluate("button => button === document.activeElement"):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    finished(page)
    expect(page.locator("#generate")).to_be_focused()  # and not lost with the button that was replaced


SCREENS = [
    pytest.param({"viewport": {"width": width, "height": 800}, "color_scheme": scheme}, id=f"{width}-{scheme}")
    for width in (360, 1280)
    for scheme in ("light", "dark")
]


@pytest.mark.parametrize("context", SCREENS, indirect=True)
def test_accessibility(page):
    """axe-core finds nothing on the empty page, with probabilities and side by side; nothing scrolls sideways."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is absent").Axe()
    page.emulate_media(reduced_motion="reduce")  # a colour that is fading in has no contrast of its own

    def check():
        found = axe.run(page)
        assert found.violations_count == 0, found.generate_report()
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")

    check()
    think(page)
    page.locator('.word[tabindex="0"]').focus()
    page.locator("#history").evaluate("details => { details.open = true; }")
    check()
    page.keyboard.press("Escape")
    page.check("#compare")
    page.click("#learn")
    page.fill("#max_tokens", "50")
    write(page, "Story 7. one two " + "w" * 200)
    finished(page, 4)
    check()
    page.locator(".sheet .read").first.click()
    check()


def test_target_size_on_a_phone(page):
    page.set_viewport_size({"width": 360, "height": 800})
    think(page)
    page.locator("#history").evaluate("details => { details.open = true; }")
    size = "all => all.filter(e => e.offsetParent).map(e => [e.id || e.className, e.offsetWidth, e.offsetHeight])"
    for name, width, height in page.locator(
        "button, input:not([type=checkbox]), select, summary, label.switch"
    ).evaluate_all(size):
        assert width >= 24 and height >= 24, name
    for name, _, height in page.locator("button.main, #prompt").evaluate_all(size):
        assert height >= 44, name


def test_server_crash(page, server, watch):
    """The lost connection is an error, and the restarted server is noticed. Last in this file: it ends the server."""
    watch.expected = "ERR_|status of 503"  # gone, then there again and loading the model
    ramble(page)
    server.stop(signal.SIGKILL)
    finished(page)
    expect(page.locator(".note .problem")).to_contain_text("connection to the server was lost")
    expect(page.locator("#state")).to_have_text("unreachable")
    server.start()
    expect(page.locator("#state")).to_have_text("ready")
