"""Make README.md's pictures and animation anew, from the demo run that comes along: `python docs/screenshot.py`.

Needs requirements-dev.txt and Chrome or Chromium.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import Locator, Page, sync_playwright

FIGURE, ARROW = ".js-plotly-plot .main-svg", ".handle"
PICTURES = {"start": ("", 1180, FIGURE), "diagnosis": ("diagnosis", 1320, FIGURE), "learn": ("learn", 1040, ARROW)}
"""Address of each page, the height of the window, and what is there twice when it is drawn."""
COLOURS = 256  # that a picture keeps, to be a third of the size
TOUR = {"width": 1280, "height": 860}
"""The window of the animation."""
POINTER = "position: fixed; z-index: 9999999; width: 22px; height: 22px; border-radius: 50%; background: #E69F00B0;"
PLACE = """
wanted => {
    const figure = document.querySelector('.st-key-figure-answer .js-plotly-plot');
    const trace = figure._fullData.find(trace => trace.type === 'scatter');
    const index = trace.customdata.findIndex(found => JSON.stringify([...found]) === JSON.stringify(wanted));
    const { xaxis: x, yaxis: y } = figure._fullLayout, frame = figure.getBoundingClientRect();
    return [frame.left + x._offset + x.d2p(trace.x[index]), frame.top + y._offset + y.d2p(trace.y[index])];
}
"""
"""Where on the screen a cell of the answer's matrix is."""

ROOT = Path(__file__).resolve().parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def main() -> None:
    browser = find_browser()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "streamlit", "run", "app/main.py", "--server.port", str(port)],
        cwd=ROOT,
        env={**os.environ, "ORTHO_LORA_RUNS_DIR": "no-runs"},  # relative: the page shows it
        stdout=subprocess.DEVNULL,
    )
    try:
        _wait_for(f"http://127.0.0.1:{port}/_stcore/health")
        with sync_playwright() as playwright:
            chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
            for name, (address, height, drawn) in PICTURES.items():
                page = chromium.new_page(viewport={"width": 1440, "height": height}, color_scheme="light")
                page.goto(f"http://127.0.0.1:{port}/{address}?run=sample-demo")
                _take(page, drawn, ROOT / "docs" / f"{name}.png")
                page.close()
            _tour(chromium.new_page(viewport=TOUR, color_scheme="light"), f"http://127.0.0.1:{port}")
            chromium.close()
    finally:
        server.terminate()
        server.wait()


def find_browser() -> str:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        sys.exit(f"no browser: none of {', '.join(BROWSERS)} is installed")
    return found


def _wait_for(address: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(address).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _tour(page: Page, address: str) -> None:
    """Twenty seconds: the answer, a pair, where it is, Transfer, and a question of the lesson."""
    frames: list[tuple[Image.Image, int]] = []

    def show(seconds: float) -> None:
        page.wait_for_timeout(1500)
        frames.append((Image.open(BytesIO(page.screenshot())).convert("RGB"), int(1000 * seconds)))

    def point(x: float, y: float) -> None:
        page.evaluate(
            "([style, x, y]) => { const dot = document.querySelector('#pointer') ?? document.body.appendChild("
            "Object.assign(document.createElement('div'), {id: 'pointer'})); dot.style.cssText = style +"
            " `pointer-events: none; left: ${x - 11}px; top: ${y - 11}px` }",
            [POINTER, x, y],
        )

    def click(place: Locator, seconds: float = 1.0) -> None:
        place.scroll_into_view_if_needed()
        box = place.bounding_box() or {"x": 0, "y": 0, "width": 0, "height": 0}
        point(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        show(seconds)
        place.click()
        point(-99, -99)

    page.goto(f"{address}/?run=sample-demo")
    page.locator(FIGURE).nth(2).wait_for(state="attached", timeout=60_000)
    page.wait_for_timeout(3000)
    show(3.5)
    x, y = page.evaluate(PLACE, ["tweets", "trec"])
    point(x, y)
    show(1.2)
    page.mouse.click(x, y)
    point(-99, -99)
    page.get_by_role("heading", name="Where").scroll_into_view_if_needed()
    page.mouse.wheel(0, 500)
    show(3.3)
    navigation = page.get_by_test_id("stSidebarNav")
    click(navigation.get_by_role("link", name="Transfer"))
    page.get_by_text("All three").wait_for()
    page.wait_for_timeout(2000)
    click(page.get_by_text("All three"))
    page.wait_for_timeout(1500)
    show(3.0)
    click(navigation.get_by_role("link", name="Learn"))
    page.locator(ARROW).nth(1).wait_for(state="attached", timeout=60_000)
    show(2.0)
    click(page.get_by_text("near 0", exact=True), 2.5)
    page.locator(".st-key-figure-lesson-dial .main-svg").first.wait_for(state="attached", timeout=60_000)
    show(1.5)
    pictures, durations = zip(*frames, strict=True)
    pictures[0].save(
        ROOT / "docs" / "tour.webp", save_all=True, append_images=pictures[1:], duration=durations, loop=0, quality=70,
        method=6,
    )  # fmt: skip


def _take(page: Page, drawn: str, path: Path) -> None:
    page.locator(drawn).nth(1).wait_for(state="attached", timeout=60_000)
    page.wait_for_timeout(3000)  # plotly settles its margins
    picture = Image.open(BytesIO(page.screenshot())).convert("RGB")
    picture.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main()
