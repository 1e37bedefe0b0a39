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
    """A new context for each test: nothing is stored, and requests to other hosts are noted."""
    options = getattr(request, "param", {})
    context = browser.new_context(**{"base_url": server.url, "viewport": {"width": 1280, "height": 900}} | options)
    context.set_default_timeout(TIMEOUT)
    expect.set_options(timeout=TIMEOUT)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    own = (server.url, "blob:", "data:")  # an event for each: a route would stop each of them, and the browser's cache
    context.on("request", lambda sent: sent.url.startswith(own) or watch.heard.append(f"another host: {sent.url}"))
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


def compose(page) -> None:
    """The form, which made way for the last story."""
    if page.locator("#new").is_visible():
        page.click("#new")


def open_settings(page) -> None:
    compose(page)
    if not page.locator("#seed").is_visible():
        page.locator("#settings > summary").click()


def certain(page) -> None:
    """Settings with which the tiny model continues as it was trained."""
    open_settings(page)
    for name, value in {"temperature": "0.1", "top_k": "1", "repetition_penalty": "1", "seed": "7"}.items():
        page.fill(f"#{name}", value)


def write(page, prompt: str) -> None:
    compose(page)
    page.fill("#prompt", prompt)
    page.press("#prompt", "Enter")


def finished(page, stories: int = 1) -> None:
    expect(page.locator(".sheet[data-outcome]")).to_have_count(stories)
    expect(page.locator("#new")).to_be_visible()


def story(page) -> str:
    return "\n".join(page.locator("#stories .story p").all_text_contents())


def ramble(page) -> None:
    """Start a long story that does not end by itself, by the untrained model."""
    open_settings(page)
    page.select_option("#model", "checkpoint-1")
    page.fill("#max_tokens", "500")
    page.fill("#temperature", "2")
    write(page, "Story")
    expect(page.locator("#stories .generated").nth(3)).to_be_attached()


def requests_of(page) -> list[dict]:
    """The bodies of the requests for stories, as they are sent."""
    sent = []
    page.on("request", lambda request: request.url.endswith("/generate") and sent.append(request.post_data_json))
    return sent


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
    assert page.get_by_role("link", name="API reference").get_attribute("href") == "docs"
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
    compose(page)
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
    compose(page)
    page.click("#new-seed")
    assert page.input_value("#seed") != ""
    write(page, "Story")
    expect(page.locator("#entries li")).to_have_count(3)
    finished(page)
    assert story(page) != first


# ---- the composer

SCREENS = [
    pytest.param({"viewport": {"width": width, "height": 800}, "color_scheme": scheme}, id=f"{width}-{scheme}")
    for width in (360, 1280)
    for scheme in ("light", "dark")
]
PHONE = {"viewport": {"width": 360, "height": 800}, "has_touch": True, "is_mobile": True}


@pytest.mark.parametrize("context", [SCREENS[0], SCREENS[2]], indirect=True)
def test_composer_makes_way(page):
    """The story begins in the upper third of the screen and stays there; the form comes back with its beginning."""
    place = "document.querySelector('.story').getBoundingClientRect().top"
    ramble(page)
    expect(page.locator("#form")).to_be_hidden()
    began = page.evaluate(place)
    assert 0 < began < 800 / 3
    page.locator("#stop").dblclick()  # the second click is not one on the button that comes in its place
    finished(page)
    assert page.evaluate(place) == began and page.evaluate("scrollY") == 0
    page.click("#new")
    expect(page.locator("#prompt")).to_be_focused()
    page.keyboard.type("Another")  # in the place of the last beginning
    expect(page.locator("#prompt")).to_have_value("Another")
    sent = requests_of(page)
    page.fill("#max_tokens", "50")
    page.locator("#generate").dblclick()
    finished(page)
    assert len(sent) == 1


def test_surprise(page):
    """An empty field is a surprise, then it is empty again."""
    sent = requests_of(page)
    answer_with(page, answer(" a"))
    for written in ("", "  ", "Mine"):
        write(page, written)
        finished(page)
    first, second, own = (body["prompt"] for body in sent)
    assert first != second and len(first) > 10 and len(second) > 10 and own == "Mine"
    write(page, "")
    expect(page.locator("#stories .beginning")).to_have_text(sent[3]["prompt"])
    compose(page)
    assert page.input_value("#prompt") == ""


def test_sliders(page):
    """In step with their numbers, within the server's bounds, by name and by keyboard."""
    open_settings(page)
    bounds = page.request.get("/api/info").json()["bounds"]
    sliders = page.get_by_role("slider")
    names = ["Temperature", "Top-k", "Top-p", "Repetition penalty", "Max tokens"]
    assert sliders.evaluate_all("all => all.map(e => e.ariaLabel)") == [f"{name} (slider)" for name in names]
    for name in ("temperature", "top_k", "top_p", "repetition_penalty"):
        slider = page.locator(f"#{name} + [type=range]")
        assert [float(slider.get_attribute(bound)) for bound in ("min", "max")] == bounds[name]
        slider.press("End")
        assert float(page.input_value(f"#{name}")) == bounds[name][1]
        page.fill(f"#{name}", str(bounds[name][0]))
        assert float(slider.input_value()) == bounds[name][0]
    expect(page.locator("#preset")).to_have_value("own settings")
    page.select_option("#preset", "creative")
    assert page.locator("#temperature + [type=range]").input_value() == "0.9"
    page.fill("#temperature", "99")  # beyond its end
    assert page.locator("#temperature + [type=range]").input_value() == "2"
    assert page.input_value("#temperature") == "99"


@pytest.mark.parametrize("context", [PHONE], indirect=True)
def test_no_keyboard_hints_on_a_phone(page):
    expect(page.locator("#keys")).to_be_hidden()
    assert page.locator("kbd:visible").count() == 0


# ---- continuing a story


def answer(text: str, reason: str = "length", **facts) -> str:
    """The events of a story of one piece."""
    start = {"model": "run", "seed": 1, "prompt_tokens": 10, "max_tokens": 50, "clamped": False}
    start |= {"settings": {"temperature": 1, "top_k": 0, "top_p": 1, "repetition_penalty": 1}} | facts
    final = start | {"finish_reason": reason, "text": text, "new_tokens": 50, "tokens_per_second": 1} | facts
    events = [f"event: start\ndata: {json.dumps(start)}", f"data: {json.dumps({'token': text, 'tokens': 50})}"]
    return "\n\n".join([*events, f"data: {json.dumps(final)}", "data: [DONE]", ""])


def test_continue(page):
    """Cut off and continued twice: one story. What is shown is what the server writes for what was sent."""
    open_settings(page)
    page.select_option("#model", "checkpoint-1")
    page.fill("#max_tokens", "50")
    page.fill("#seed", "7")
    sent = requests_of(page)
    write(page, "Story")
    finished(page)
    for times in (1, 2):
        expect(page.locator(".note")).to_contain_text("Cut off")
        page.locator(".continue").dblclick()
        expect(page.locator(".sheet .facts")).to_contain_text(["continued", "continued\u00a02\u00a0times"][times - 1])
        finished(page)
    assert [body["seed"] for body in sent] == [7, 8, 9]
    alone = [page.request.post("/generate", data=body | {"stream": False}).json()["text"] for body in sent]
    so_far = "Story"
    for body, text in zip(sent, alone, strict=True):
        assert body["prompt"] == so_far
        so_far = (so_far + text).rstrip()
    page.click(".copy")
    expect(page.locator("#announcement")).to_have_text("Copied.")
    assert page.evaluate("navigator.clipboard.readText()").rstrip() == so_far
    expect(page.locator("#entries li")).to_have_count(1)
    expect(page.locator(".sheet .facts")).to_contain_text("150\u00a0tokens")


def test_stop_continue_stop(page):
    ramble(page)
    page.keyboard.press("Escape")
    finished(page)
    first = story(page)
    page.click(".continue")
    page.wait_for_function(
        "before => document.querySelector('#stories .story').textContent.length > before + 9", arg=len(first)
    )
    page.keyboard.press("Escape")
    finished(page)
    expect(page.locator(".note")).to_contain_text("You stopped it here.")
    assert story(page).startswith(first.rstrip()) and len(story(page)) > len(first)
    expect(page.locator("#entries li")).to_have_count(1)
    page.wait_for_function("async () => (await (await fetch('api/info')).json()).load.running === 0")


def test_failed_continuation(page):
    """The story so far stays, on the page and in the history; and it can be tried again."""
    answer_with(page, answer(" a fox \n"))  # what stands after the last word is not sent
    write(page, "Once")
    finished(page)
    answer_with(page, "")
    page.click(".continue")
    expect(page.locator(".note .problem")).to_contain_text("ended before")
    assert story(page) == "Once a fox"
    expect(page.locator("#entries .opening")).to_have_text("Once a fox")
    answer_with(page, answer(" ran.", "stop"))
    page.click(".continue")
    expect(page.locator(".ending")).to_have_text("The end.")
    assert story(page) == "Once a fox ran."
    expect(page.locator(".continue")).to_be_hidden()
    expect(page.locator("#entries li")).to_have_count(1)


def test_continue_a_tidied_story(page):
    """Guards: a full stop that tidying set in the middle of a sentence is part of what is continued."""
    open_settings(page)
    page.check("#tidy")
    events = answer(" a f").replace('"text": " a f"', '"text": " a f."')
    answer_with(page, events)
    write(page, "Once")
    finished(page)
    assert story(page) == "Once a f."
    sent = requests_of(page)
    answer_with(page, answer("ox ran.", "stop"))
    page.click(".continue")
    expect(page.locator(".ending")).to_have_text("The end.")
    assert sent[0]["prompt"] == "Once a f" and story(page) == "Once a fox ran."


def test_what_is_read_to_continue(page):
    """Of 512 tokens and 2,048 characters: below, at and beyond each. A part starts with a sentence, word or letter."""
    run = "The fox ran on. "
    long = run * 127 + "The end is "  # 2,043 characters
    cases = [  # the text that was read, its tokens, the text that is read next, and whether it is the whole
        ("Once " * 100, 462, ("Once " * 100).rstrip(), True),
        ("Once " * 100, 463, "Once " * 54 + "Once", False),
        ("Once " * 100, 512, "Once " * 49 + "Once", False),
        (long + "near.", 400, long + "near.", True),
        (long + "here. ", 400, long + "here.", True),
        (long + "there.", 400, run * 80 + "The end is there.", False),
        ("\N{FOX FACE}" * 2048, 400, "\N{FOX FACE}" * 2048, True),
        ("\N{FOX FACE}" * 500, 512, "\N{FOX FACE}" * 250, False),
        ("a", 512, "a", False),
    ]
    found = page.evaluate(
        """async (cases) => {
            const { nextReading } = await import("/static/continuing.js");
            return cases.map(([reading, read]) => nextReading({ reading, read }));
        }""",
        cases,
    )
    assert [(each["text"], each["whole"]) for each in found] == [(text, whole) for *_, text, whole in cases]


def test_continue_when_the_context_is_full(page):
    """It is said before and after; the story is whole on the page."""
    beginning = "One two. " * 50 + "Three"
    answer_with(page, answer(" four", prompt_tokens=430, clamped=True))
    write(page, beginning)
    finished(page)
    expect(page.locator(".limit")).to_contain_text("continues from the last part")
    sent = requests_of(page)
    answer_with(page, answer(" five.", prompt_tokens=230))
    page.click(".continue")
    expect(page.locator(".sheet .facts")).to_contain_text("without\u00a0its\u00a0beginning")
    assert (beginning + " four").endswith(sent[0]["prompt"]) and sent[0]["prompt"].startswith("One two. One")
    assert story(page) == beginning + " four five."
    expect(page.locator(".limit")).to_be_empty()  # 280 of 512 tokens are read: there is room again
    answer_with(page, answer(" six", prompt_tokens=400))
    page.click(".continue")
    expect(page.locator(".limit")).to_have_text("There is room for 62 more tokens.")


# ---- errors


def test_field_out_of_bounds(page):
    """The field is named with its bounds, shown and focused."""
    open_settings(page)
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


def test_server_with_another_model(page, watch):
    """Started anew: the page takes the other model, also where a story of the earlier one is opened again."""
    watch.expected = "status of 422"
    write_one(page, "Once")
    other = page.request.get("/api/info").json() | {"model": "other", "models": [{"id": "other", "step": None}]}
    page.route("**/api/info", lambda route: route.fulfill(json=other))
    refusal = json.dumps({"error": "model: no model has this name", "field": "model"})
    answer_with(page, refusal, status=422, content_type="application/json")
    write(page, "Twice")
    expect(page.locator("#badge")).to_contain_text("other")
    finished(page)
    page.locator("#history > summary").click()
    page.click("#entries .open")
    sent = requests_of(page)
    write_one(page, "Once more")
    assert sent[0]["model"] == "other"


def test_retry_countdown(page, watch):
    """Guards: several countdowns, of which one stands still."""
    watch.expected = "status of 429"
    page.clock.install(time=0)
    page.clock.pause_at(1000)
    error = json.dumps({"error": "more than 10 stories in a minute: try again in 12 seconds"})
    answer_with(page, error, status=429, headers={"Retry-After": "12"}, content_type="application/json")
    page.check("#compare")
    write(page, "Story")
    expect(page.locator(".note .problem")).to_have_text(["More than 10 stories in a minute."] * 2)
    expect(page.get_by_text("again in")).to_have_text(["Try again in 12 s."])  # one, and not in the server's words too
    page.clock.run_for(5000)
    expect(page.locator("#wait")).to_have_text("Try again in 7 s.")
    page.clock.run_for(8000)
    expect(page.locator("#wait")).to_have_text("You can try again now.")
    page.unroute("**/generate")
    page.locator(".again").first.click()
    expect(page.locator("#wait")).to_be_hidden()


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
        (START + 'event: error\ndata: {"error": "the model fell over"}\n\n', "The model fell over."),
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
    page.locator("#badge").hover()
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
    line = "all => all.map(word => getComputedStyle(word).textDecorationLine)"
    assert page.locator(".word").evaluate_all(line) == ["none", "underline", "none"]
    page.emulate_media(media="print")
    assert page.locator(".word").evaluate_all(line) == ["none"] * 3
    page.emulate_media(media="screen")
    page.locator(".word").first.focus()
    tip = page.get_by_role("tooltip")
    expect(tip).to_contain_text("rabbit. 20 %")
    expect(tip).to_contain_text("in 3 pieces: rab 50 %, bit 50 %, . 80 %")
    expect(tip).to_contain_text("(the end)")
    expect(tip.locator(".chosen")).to_contain_text("rab")


# ---- side by side


def test_side_by_side(page):
    """Every column has the same beginning and the same seed; on a wide screen the columns are beside each other."""
    sent = requests_of(page)
    page.check("#compare")
    page.locator("#columns .model").first.select_option("checkpoint-50")
    write(page, "Story 7. one two")
    finished(page, 2)
    assert [body["model"] for body in sent] == ["checkpoint-50", "run"]
    assert len({(body["prompt"], body["seed"]) for body in sent}) == 1
    assert page.locator(".sheet .title").all_text_contents() == ["step 50, natural", "run, balanced"]
    first, second = (sheet.bounding_box() for sheet in page.locator(".sheet").all())
    assert first["y"] == second["y"] and first["x"] + first["width"] <= second["x"]
    compose(page)
    page.click("#add")
    page.click("#add")
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


# ---- watch it learn


def with_steps(page, *steps) -> None:
    """The page, of a run with these checkpoints beside the finished model."""
    info = page.request.get("/api/info").json()
    models = [{"id": "run", "step": None}, *({"id": f"checkpoint-{step}", "step": step} for step in steps)]
    page.unroute("**/api/info")
    page.route("**/api/info", lambda route: route.fulfill(json=info | {"models": models}))
    page.reload()
    expect(page.locator("#state")).to_have_text("ready")


def test_watch_it_learn(page):
    """It writes at once, at each checkpoint with one beginning and one seed; what was written is not written again."""
    sent = requests_of(page)
    open_settings(page)
    page.fill("#max_tokens", "50")
    page.fill("#prompt", "Story 7. one two")
    page.clock.install()
    page.click("#learn")
    for name in ("step 1", "step 50", "step 100"):
        expect(page.locator("#step-name")).to_have_text(name)
        expect(page.locator(".sheet[data-outcome]")).to_have_count(1)
        page.clock.run_for(1600)
    expect(page.locator("#step-name")).to_have_text("finished")
    finished(page)
    assert [body["model"] for body in sent] == ["checkpoint-1", "checkpoint-50", "checkpoint-100", "run"]
    assert len({(body["prompt"], body["seed"], body["preset"]) for body in sent}) == 1
    last = story(page)
    slider = page.get_by_role("slider", name="Watch it learn")
    slider.press("Home")
    expect(page.locator("#step-name")).to_have_text("step 1")
    expect(slider).to_have_attribute("aria-valuetext", "step 1")
    expect(page.locator(".sheet .facts")).to_contain_text("step\u00a01")
    first = story(page)
    slider.press("End")
    expect(page.locator(".sheet .facts")).to_contain_text("run")
    assert story(page) == last != first and len(sent) == 4
    expect(page.locator("#history")).to_be_hidden()
    write(page, "Story 7. one")
    expect(page.locator("#learning")).to_be_hidden()
    finished(page)


def test_slider_while_a_checkpoint_writes(page):
    """Moving it ends the story there, which is written anew when it comes back; it no longer moves by itself."""
    sent = requests_of(page)
    open_settings(page)
    page.fill("#max_tokens", "500")
    page.fill("#prompt", "Story 7. one two")
    page.click("#learn")
    expect(page.locator("#stories .generated").nth(3)).to_be_attached()
    page.locator("#step").press("ArrowRight")
    expect(page.locator(".sheet .facts")).to_contain_text("step\u00a050")
    finished(page)
    page.locator("#step").press("Home")
    expect(page.locator("#stories .generated").nth(3)).to_be_attached()
    page.keyboard.press("Escape")
    finished(page)
    assert [body["model"] for body in sent] == ["checkpoint-1", "checkpoint-50", "checkpoint-1"]
    page.wait_for_function("async () => (await (await fetch('api/info')).json()).load.running === 0")


def test_end_of_watching(page):
    """Guards: the next checkpoint comes while somebody looks at this one."""
    page.clock.install()
    answer_with(page, answer(" a"))
    for way in ("Stop", "Share", "slider"):
        compose(page)
        sent = requests_of(page)
        page.click("#learn")
        expect(page.locator(".sheet[data-outcome]")).to_have_count(1)
        if way == "slider":
            page.locator("#step").press("ArrowRight")
            expect(page.locator("#step-name")).to_have_text("step 50")
        else:
            page.get_by_role("button", name=way, exact=True).click()
        finished(page)
        page.clock.run_for(20_000)
        assert len(sent) == 1 + (way == "slider")
        expect(page.locator(".sharing")).to_be_visible(visible=way == "Share")


def test_checkpoints_to_watch(page):
    """None without steps; of many, the first, the last and some between them are shown by themselves."""
    with_steps(page)
    expect(page.locator("#learn")).to_be_hidden()
    with_steps(page, 50)
    expect(page.locator("#learn")).to_be_visible()
    steps = [2**power for power in range(20)]
    with_steps(page, *steps)
    page.clock.install()
    sent = requests_of(page)
    answer_with(page, answer(" a"))
    page.click("#learn")
    for name in ("step 1", "step 32", "step 512", "step 16,384"):
        expect(page.locator("#step-name")).to_have_text(name)
        expect(page.locator(".sheet[data-outcome]")).to_have_count(1)
        expect(page.locator("#stop")).to_be_visible()  # also while it waits for the next one
        page.clock.run_for(1600)
    expect(page.locator("#step-name")).to_have_text("finished")
    assert page.locator("#step").get_attribute("max") == "20"
    assert [body["model"] for body in sent] == [
        "checkpoint-1",
        "checkpoint-32",
        "checkpoint-512",
        "checkpoint-16384",
        "run",
    ]


# ---- history and reading view


def test_history(page):
    certain(page)
    write(page, "Story 7. one two")
    finished(page)
    compose(page)
    page.fill("#seed", "8")
    write(page, "Story 9. one")
    expect(page.locator("#entries li")).to_have_count(2)
    finished(page)
    page.locator("#history > summary").click()
    expect(page.locator("#kept")).to_contain_text("this browser only")
    oldest = page.locator("#entries li").last
    expect(oldest).to_contain_text("seed 7")
    expect(oldest).to_contain_text("temperature 0.1")
    with page.expect_download() as text:
        oldest.locator(".text").click()
    settings = (
        "run, own settings: temperature 0.1, top-k 1, top-p 0.95, repetition penalty 1, 200 tokens at most, seed 7"
    )
    assert Path(text.value.path()).read_text(encoding="utf-8") == f"Story 7. {COUNTING}\n\n--\n{settings}\n"
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


def stored(page) -> list[dict]:
    return page.evaluate("JSON.parse(localStorage.getItem('stories') ?? '[]')")


def store(page, text: str) -> None:
    """As another tab does."""
    page.evaluate("text => localStorage.setItem('stories', text)", text)
    page.evaluate("dispatchEvent(new StorageEvent('storage', { key: 'stories' }))")


def write_one(page, prompt: str, text: str = " a") -> None:
    answer_with(page, answer(text))
    write(page, prompt)
    finished(page)


def test_history_is_kept(page, context, server):
    """Across a reload and in other tabs; deleted by one button and brought back by another; to be continued."""
    write_one(page, "Once")
    page.reload()
    expect(page.locator("#entries .opening")).to_have_text("Once a")
    other = context.new_page()
    other.goto(server.url)
    expect(other.locator("#entries li")).to_have_count(1)
    write_one(other, "Twice")
    expect(page.locator("#count")).to_have_text("2")  # without a reload
    page.locator("#history > summary").click()
    page.click("#delete-all")
    expect(page.locator("#deleted")).to_contain_text("2 stories deleted.")
    expect(other.locator("#history")).to_be_hidden()
    page.keyboard.press("Enter")  # Undo has the focus
    expect(page.locator("#entries li")).to_have_count(2)
    expect(other.locator("#entries li")).to_have_count(2)
    page.locator("#entries .open").last.click()
    sent = requests_of(page)
    answer_with(page, answer(" b", "stop"))
    page.click(".continue")
    expect(page.locator(".ending")).to_have_text("The end.")
    assert (sent[0]["prompt"], sent[0]["seed"]) == ("Once a", stored(page)[-1]["seed"] + 1) and story(
        page
    ) == "Once a b"
    expect(other.locator("#entries .opening").first).to_have_text("Once a b")
    page.click("#delete-all")
    assert stored(page) == [] and len(stored(other)) == 0


def test_history_is_bounded(page):
    """100 stories and 1,000,000 characters: the oldest make room."""
    write_one(page, "Once")
    (entry,) = stored(page)
    for before, after in {99: 100, 100: 100, 150: 100}.items():
        store(page, json.dumps([entry | {"id": str(number), "raw": str(number)} for number in range(before)]))
        write_one(page, "New")
        assert len(stored(page)) == after and stored(page)[-1]["prompt"] == "New"
        assert stored(page)[0]["raw"] == str(before + 1 - after)
    large = [entry | {"id": str(number), "raw": "x" * 300_000} for number in range(3)]
    store(page, json.dumps(large))
    write_one(page, "New")
    assert len(stored(page)) == 4
    write_one(page, "Newer", "y" * 200_000)
    assert [found["id"] for found in stored(page)[:-2]] == ["1", "2"]


def test_damaged_history(page):
    """What is damaged is dropped, and nothing in it is run."""
    write_one(page, "Once")
    (good,) = stored(page)
    settings = good["settings"] | {"stories": 1, "preset": 2, "__proto__": 3}
    hostile = good | {"id": "2", "settings": settings, "prompt": "<img src=x onerror=alert(1)>", "model": "</script>"}
    for text, count in {
        "": 0,
        "{": 0,
        "null": 0,
        '"stories"': 0,
        '{"length": 3}': 0,
        "[null, 1, [], {}]": 0,
        json.dumps([good | {"raw": None}, good | {"settings": 3}, good | {"continued": [1]}, good | {"speed": "x"}]): 0,
        json.dumps([good | {"settings": {}}, {key: good[key] for key in list(good)[1:]}, good, hostile]): 2,
    }.items():
        store(page, text)
        expect(page.locator("#entries li")).to_have_count(count)
    assert page.locator("#entries img").count() == 0
    store(page, "{")
    write_one(page, "Twice")
    assert [found["prompt"] for found in stored(page)] == ["Twice"]


@pytest.mark.parametrize("reason", ["disabled", "full"])
def test_storage_that_takes_nothing(page, reason):
    """The page has its stories until it is closed, and says so where it knows it."""
    throws = "throw new DOMException('no', 'QuotaExceededError')"
    if reason == "disabled":
        page.add_init_script(f"Object.defineProperty(window, 'localStorage', {{ get() {{ {throws}; }} }})")
    else:
        page.add_init_script(f"Storage.prototype.setItem = () => {{ {throws}; }}")
    page.reload()
    expect(page.locator("#state")).to_have_text("ready")
    for prompt in ("Once", "Twice"):
        write_one(page, prompt)
    expect(page.locator("#entries li")).to_have_count(2)
    expect(page.locator("#kept")).to_contain_text("Only this page has them")
    page.locator("#history > summary").click()
    page.click("#delete-all")
    page.click("#undo")
    expect(page.locator("#entries li")).to_have_count(2)
    page.click("#theme")
    expect(page.locator("#theme")).to_have_text("Day")


# ---- sharing


def test_link(page, context, server, watch):
    """Whoever opens it has the same settings and, with one press, the same story; nothing of it is sent to a server."""
    certain(page)
    page.fill("#max_tokens", "60")
    page.check("#tidy")
    write(page, 'Story 7. "one" & two? #100% \N{FOX FACE}\n+ three')
    finished(page)
    page.click(".share")
    page.locator(".link").dblclick()
    expect(page.locator("#announcement")).to_have_text("Copied.")
    link = page.evaluate("navigator.clipboard.readText()")
    assert link.startswith(f"{server.url}/#story?")
    other = context.new_page()
    watch.page(other)
    other.goto(link)
    expect(other.locator("#linked")).to_contain_text("shared with you")
    expect(other.locator("#linked")).not_to_contain_text("Left out")
    assert other.url == f"{server.url}/"
    for name in (
        "prompt",
        "model",
        "preset",
        "temperature",
        "top_k",
        "top_p",
        "repetition_penalty",
        "max_tokens",
        "seed",
    ):
        assert other.input_value(f"#{name}") == page.input_value(f"#{name}"), name
    expect(other.locator("#tidy")).to_be_checked()
    expect(other.locator("#generate")).to_be_focused()
    other.keyboard.press("Enter")
    finished(other)
    assert story(other) == story(page)
    expect(page.locator(".link")).to_have_text("Copy link")  # a double click does not keep it at "Copied"


def test_hostile_link(page):
    """What the server does not have or allow is named and left out; the rest is taken."""
    before = {name: page.input_value(f"#{name}") for name in ("model", "preset", "temperature", "top_k", "max_tokens")}
    wrong = {
        "prompt": "x" * 2049,
        "model": "<script>alert(1)</script>",
        "preset": "__proto__",
        "temperature": "99",
        "top_k": "1e1",
        "top_p": "NaN",
        "repetition_penalty": "0x1",
        "max_tokens": "50.5",
        "seed": "9007199254740993",
        "tidy": "maybe",
    }
    for fields in (wrong, {"temperature": "", "seed": "-1", "max_tokens": "501", "constructor": "1"}):
        page.evaluate("fields => { location.hash = '#story?' + new URLSearchParams(fields); }", fields)
        expect(page.locator("#linked")).to_contain_text("Left out")
        assert page.locator("#linked *").count() == 0
        assert {name: page.input_value(f"#{name}") for name in before} == before
        assert page.input_value("#prompt") == "" and page.input_value("#seed") == ""
        page.reload()
        expect(page.locator("#linked")).to_be_hidden()
    longest = {"prompt": "\N{FOX FACE}\"' &\n" * 341 + "ab", "seed": "9007199254740991"}  # 2,048 characters
    of_preset = {"temperature": "0.9", "top_k": "60", "top_p": "0.95", "repetition_penalty": "1.1"}
    for fields, shown in (
        (longest | {"preset": "creative"}, longest | of_preset | {"preset": "creative"}),
        ({"preset": "creative", "top_k": "0"}, of_preset | {"top_k": "0", "preset": "own settings"}),
    ):
        page.evaluate("fields => { location.hash = '#story?' + new URLSearchParams(fields); }", fields)
        expect(page.locator("#preset")).to_have_value(shown["preset"])
        expect(page.locator("#linked")).not_to_contain_text("Left out")
        assert {name: page.input_value(f"#{name}") for name in shown} == shown
        expect(page.locator("#length")).to_be_hidden()
    page.evaluate("location.hash = '#generated'")  # as the link to skip to the story
    assert page.url.endswith("#generated")


@pytest.mark.parametrize("context", [SCREENS[0], SCREENS[3]], indirect=True)
def test_picture(page):
    """A PNG in the colours of the page, as high as its story; a long one ends."""
    heights = []
    for text in (" a.", "\n\nAnd then. " + "w" * 300, " on and on" * 400, " \u05e9\u05dc\u05d5\u05dd"):
        write_one(page, "Once \N{FOX FACE}", text)
        page.click(".share")
        with page.expect_download() as download:
            page.click(".picture")
        assert download.value.suggested_filename == "story.png"
        data = Path(download.value.path()).read_bytes()
        assert data.startswith(b"\x89PNG") and int.from_bytes(data[16:20], "big") == 1080
        heights.append(int.from_bytes(data[20:24], "big"))
    assert heights[0] == heights[3] < heights[1] < heights[2] < 4000
    corner = page.evaluate(
        """async (bytes) => {
            const image = await createImageBitmap(new Blob([new Uint8Array(bytes)]));
            const canvas = new OffscreenCanvas(1, 1);
            canvas.getContext("2d").drawImage(image, 0, 0);
            const [r, g, b] = canvas.getContext("2d").getImageData(0, 0, 1, 1).data;
            return [`rgb(${r}, ${g}, ${b})`, getComputedStyle(document.querySelector(".sheet")).backgroundColor];
        }""",
        list(data),
    )
    assert corner[0] == corner[1]


def test_lines_of_a_picture(page):
    """Words wrap, a word that is too long is cut, an empty line is left out, the start of each is its place."""
    text = "one two three\n\nabcdefghijkl x\n"
    lines = page.evaluate(
        """async (text) => (await import("/static/picture.js")).linesOf(text, (piece) => piece.length, 8)""", text
    )
    assert [line["text"].rstrip() for line in lines] == ["one two", "three", "abcdefgh", "ijkl x"]
    assert all(text[line["start"] :].startswith(line["text"]) for line in lines)
    assert [line["gap"] > 0 for line in lines] == [False, False, True, False]


def test_reading_view(page):
    """It shows the story alone, as does a print; Escape closes it."""
    certain(page)
    write(page, "Story 7. one two")
    finished(page)
    page.click(".sheet .read")
    expect(page.locator("#page")).to_have_text(f"Story 7. {COUNTING}")
    overflow = "getComputedStyle(document.documentElement).overflowY"
    assert page.evaluate(overflow) == "hidden"  # or the scroll bar of the page lies on that of the dialog
    page.keyboard.press("Escape")
    assert page.evaluate(overflow) == "visible"
    expect(page.locator("#reader")).to_be_hidden()
    expect(page.locator(".sheet .read")).to_be_focused()
    page.emulate_media(media="print")
    expect(page.locator("#stories .story")).to_be_visible()
    for other in ("#form", "header", "footer", "#history", ".note"):
        expect(page.locator(other)).to_be_hidden()


def test_dark_theme(page):
    """The button says what a press does; the choice is kept across a reload."""
    expect(page.locator("#theme")).to_have_text("Night")
    page.click("#theme")
    expect(page.locator("#theme")).to_have_text("Day")
    page.reload()
    expect(page.locator("#theme")).to_have_text("Day")
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
    expect(page.locator("#new")).to_be_focused()  # and not lost with the button that was replaced


def test_accessibility(page):
    """axe-core finds nothing in any state, narrow and wide, dark and light; nothing scrolls sideways."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is absent").Axe()

    def check():
        for width, scheme in ((360, "dark"), (1280, "light")):
            page.set_viewport_size({"width": width, "height": 800})
            page.emulate_media(color_scheme=scheme, reduced_motion="reduce")  # what fades in has no contrast of its own
            found = axe.run(page)
            assert found.violations_count == 0, found.generate_report()
        for width in (320, 360, 768, 1280):
            page.set_viewport_size({"width": width, "height": 800})
            beyond = page.evaluate(  # after the next frame, in which the page hears of its new size
                """() => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(() => {
                    const { scrollWidth, clientWidth } = document.documentElement;
                    const all = [...document.querySelectorAll("body *")].filter((e) => e.checkVisibility());
                    const wide = all.filter((e) => e.getBoundingClientRect().right > clientWidth);
                    resolve(scrollWidth > clientWidth ? wide.map((e) => `${e.tagName} ${e.id} ${e.className}`) : []);
                })))"""
            )
            assert beyond == [], width

    check()
    think(page)
    page.click(".share")
    page.locator('.word[tabindex="0"]').focus()
    page.locator("#history").evaluate("details => { details.open = true; }")
    check()
    page.click("#delete-all")
    compose(page)
    page.evaluate("location.hash = '#story?prompt=' + 'w'.repeat(200) + '&preset=none&max_tokens=50'")
    expect(page.locator("#linked")).to_be_visible()
    page.check("#compare")
    check()
    page.click("#generate")
    finished(page, 2)
    check()
    page.locator(".sheet .read").first.click()
    check()
    page.keyboard.press("Escape")
    compose(page)
    page.click("#learn")
    expect(page.locator("#step-name")).to_have_text("step 50")
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
