"""The moving picture of the README: the page, the boxed model, a real server and a browser.

    python tools/moving_picture.py
    python tools/moving_picture.py --seed 7 --checkpoint runs/demo --output_file story.webp

It types a beginning, presses the button, and takes a screenshot of each state of the page. The boxed model writes a
story in a fraction of a second, too fast to read: the page gets a few of the server's events, then a screenshot is
taken, then it gets the next ones. So the picture is the same on a busy machine, and says nothing about speed. Needs
playwright, Chromium and Pillow (extra `dev`), and is written to docs/figures/page.webp. A picture of more than
MOST_BYTES is refused.
"""

import argparse
import io
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.Image import open as read_picture


sys.path.insert(0, str(Path(__file__).parent.parent))

from tools.stage import ROOT, chromium, open_page, prompt_field, served, stop_button, wait_until_written, write_button


OUTPUT = ROOT / "docs" / "figures" / "page.webp"
MOST_BYTES = 1_500_000
WIDTH, HEIGHT = 840, 760  # CSS pixels; a README is about as wide
EVENTS = 3  # of the server, between two screenshots: pieces of the story
FRAME, FIRST, LAST = 100, 800, 4_000  # milliseconds that a frame is shown

# The page reads a stream of events as it always does; each event waits until `letThrough` is called. Its clock stands
# still, so that it shows no speed while it is held up.
HOLD_EVENTS = """
(() => {
  performance.now = () => 0;
  const fetch = window.fetch;
  const waiting = [];
  window.letThrough = (count) => waiting.splice(0, count).forEach((go) => go());
  window.fetch = async (...request) => {
    const answer = await fetch(...request);
    if (!answer.headers.get("content-type")?.includes("event-stream")) return answer;
    let text = "";
    const one_by_one = new TransformStream({
      async transform(piece, stream) {
        text += piece;
        for (let end; (end = text.indexOf("\\n\\n")) >= 0; text = text.slice(end + 2)) {
          await new Promise((go) => waiting.push(go));
          stream.enqueue(text.slice(0, end + 2));
        }
      },
    });
    const body = answer.body.pipeThrough(new TextDecoderStream()).pipeThrough(one_by_one);
    return new Response(body.pipeThrough(new TextEncoderStream()), answer);
  };
})();
"""
DRAWN = "() => new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)))"


def set_seed(page: Any, seed: int) -> None:
    """In the settings, which stay closed: the page then says itself with which seed it wrote."""
    page.locator("#seed").evaluate(
        "(field, seed) => { field.value = seed; field.dispatchEvent(new Event('input', { bubbles: true })); }",
        str(seed),
    )


def frames(page: Any, prompt: str) -> Iterator[Image.Image]:
    """Screenshots: the empty page, the beginning typed word by word, the story as it grows, the finished one."""
    yield screenshot(page)
    prompt_field(page).click()
    for word in prompt.split(" "):
        page.keyboard.type(word if word == prompt.split(" ")[0] else " " + word)
        yield screenshot(page)
    write_button(page).click()
    stop_button(page).wait_for()
    while stop_button(page).is_visible():
        page.evaluate("count => letThrough(count)", EVENTS)
        page.evaluate(DRAWN)
        yield screenshot(page)
    wait_until_written(page)
    page.mouse.move(0, 0)
    yield screenshot(page)


def screenshot(page: Any) -> Image.Image:
    return read_picture(io.BytesIO(page.screenshot(scale="css", animations="disabled", caret="hide"))).convert("RGB")


def animation(pictures: list[Image.Image]) -> bytes:
    """An animated WebP; pictures like the one before them are shown longer, up to FIRST."""
    kept, shown = [pictures[0]], [FIRST]
    for picture in pictures[1:]:
        if picture == kept[-1]:
            shown[-1] = min(shown[-1] + FRAME, FIRST)
        else:
            kept.append(picture)
            shown.append(FRAME)
    shown[-1] = LAST
    file = io.BytesIO()
    options = {"save_all": True, "append_images": kept[1:], "duration": shown, "loop": 0}
    kept[0].save(file, "WEBP", quality=70, method=6, minimize_size=True, **options)
    return file.getvalue()


def write(pictures: list[Image.Image], file: Path, most_bytes: int = MOST_BYTES) -> None:
    data = animation(pictures)
    print(f"{len(pictures)} screenshots, {len(data):,} bytes")
    if len(data) > most_bytes:
        raise SystemExit(f"a picture of {len(data):,} bytes: at most {most_bytes:,}")
    file.write_bytes(data)


def take_pictures(checkpoint: str, prompt: str, seed: int) -> list[Image.Image]:
    with tempfile.TemporaryDirectory() as folder, served(checkpoint, Path(folder)) as address, chromium() as browser:
        page = open_page(browser, address, WIDTH, HEIGHT, script=HOLD_EVENTS)
        set_seed(page, seed)
        return list(frames(page, prompt))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="boxed")
    parser.add_argument("--prompt", default="Once upon a time, there was a little fox")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output_file", type=Path, default=OUTPUT)
    options = parser.parse_args(arguments)
    pictures = take_pictures(options.checkpoint, options.prompt, options.seed)
    write(pictures, options.output_file)
    print(f"Moving picture: {options.output_file}")


if __name__ == "__main__":
    main()
