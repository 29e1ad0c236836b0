"""Make docs/conflicts.png anew, from the run `demo` in `runs/`: `python docs/screenshot.py`.

Needs requirements-dev.txt and Chrome or Chromium.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def main() -> None:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit(f"no browser: none of {', '.join(BROWSERS)} is installed")
    if not (ROOT / "runs" / "demo" / "run.json").exists():
        sys.exit("there is no run runs/demo: python -m ortho_lora train --config examples/demo.yaml --name demo")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "streamlit", "run", "app/main.py", "--server.port", str(port)],
        cwd=ROOT,
        env={**os.environ, "ORTHO_LORA_RUNS_DIR": "runs"},  # relative: the page shows it
        stdout=subprocess.DEVNULL,
    )
    try:
        _wait_for(f"http://127.0.0.1:{port}/_stcore/health")
        with sync_playwright() as playwright:
            chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
            page = chromium.new_page(viewport={"width": 1440, "height": 1640}, color_scheme="light")
            page.goto(f"http://127.0.0.1:{port}/conflicts?run=demo")
            _wait_for_figures(page)
            page.screenshot(path=ROOT / "docs" / "conflicts.png")
            chromium.close()
    finally:
        server.terminate()
        server.wait()


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


def _wait_for_figures(page: Page) -> None:
    page.wait_for_function("() => document.querySelectorAll('.js-plotly-plot .main-svg').length >= 3", timeout=60_000)
    page.wait_for_timeout(3000)  # plotly settles its margins


if __name__ == "__main__":
    main()
