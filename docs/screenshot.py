"""Make the pictures of README.md anew, from the demo run that comes with the package: `python docs/screenshot.py`.

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
from playwright.sync_api import Page, sync_playwright

FIGURE, ARROW = ".js-plotly-plot .main-svg", ".handle"
PICTURES = {"start": ("", 1180, FIGURE), "diagnosis": ("diagnosis", 1320, FIGURE), "learn": ("learn", 1040, ARROW)}
"""Address of each page, the height of the window, and what is there twice when it is drawn."""
COLOURS = 256  # that a picture keeps, to be a third of the size

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


def _take(page: Page, drawn: str, path: Path) -> None:
    page.locator(drawn).nth(1).wait_for(state="attached", timeout=60_000)
    page.wait_for_timeout(3000)  # plotly settles its margins
    picture = Image.open(BytesIO(page.screenshot())).convert("RGB")
    picture.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main()
