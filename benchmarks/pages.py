"""How long the dashboard's pages take with a large record, in a real browser, beside the same pages with a small one.

Opened: from the click in the navigation until the page's script has ended and its figures are drawn; the first time,
when every answer is computed, and again. Filtered: from the click on branch A until then. Start: from the start of the
server until a browser shows the first page. Live: share of a core that the server takes while a page follows a run.
Records are those of `benchmarks/telemetry.py`. A headless browser draws without a graphics processor.

python benchmarks/pages.py [--steps 1000] [--small 20] [--layers 32] [--tasks 10] [--large RUN] [--pages Layers]
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter, sleep, time

import pandas as pd
import psutil
import telemetry
from playwright.sync_api import Page, TimeoutError, sync_playwright

PAGES = ("Start", "Conflicts", "Transfer", "Layers", "Projection", "Diagnosis")
HEADINGS = {"Start": "Which tasks fight over one adapter?"}
"""Where it is not the page's name."""
FILTERED = ("Conflicts", "Layers", "Projection")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
REACH = "reach: 2 s from the start; 500 ms to switch a page or to filter; 5% of a core for a live page"
# The page of this heading has run, and all its figures are drawn.
SETTLED = """
heading => document.querySelector('h1')?.innerText.trim() === heading
    && document.querySelector('[data-testid=stApp]').dataset.testScriptState === 'notRunning'
    && !document.querySelector('[data-stale=true]')
    && [...document.querySelectorAll('[data-testid=stPlotlyChart]')].every(chart => chart.querySelector('.main-svg'))
"""


def find_browser() -> str:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        raise SystemExit(f"no browser: none of {', '.join(BROWSERS)} is installed")
    return found


@contextmanager
def dashboard(runs_dir: Path) -> Iterator[tuple[str, psutil.Process, float]]:
    """A server of its own: its address, its process, and when it was started."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    begin = perf_counter()
    server = subprocess.Popen(
        [sys.executable, "-m", "streamlit", "run", "app/main.py", "--server.port", str(port)],
        env={**os.environ, "ORTHO_LORA_RUNS_DIR": str(runs_dir)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        while True:
            try:
                urllib.request.urlopen(f"{address}/_stcore/health").close()
                break
            except OSError:
                sleep(0.02)
        yield address, psutil.Process(server.pid), begin
    finally:
        server.terminate()
        server.wait()


def settle(page: Page, heading: str) -> None:
    page.wait_for_function(SETTLED, arg=heading, timeout=600_000, polling=10)


def opened(page: Page, name: str) -> float:
    begin = perf_counter()
    page.get_by_test_id("stSidebarNav").get_by_role("link", name=name, exact=True).click()
    settle(page, HEADINGS.get(name, name))
    return 1000 * (perf_counter() - begin)


def filtered(page: Page, name: str, branch: str) -> float:
    """Milliseconds from the click on a branch, which must be seen to start the script.

    A click that is lost, as one on a button that is being drawn anew, is made again.
    """
    page.evaluate("window.ran = false")
    page.evaluate(
        "new MutationObserver(() => { window.ran = true }).observe(document.querySelector('[data-testid=stApp]'),"
        " {attributes: true, attributeFilter: ['data-test-script-state']})"
    )
    choice = page.get_by_role("radio", name=branch, exact=True).or_(page.get_by_role("button", name=branch, exact=True))
    for _ in range(10):
        begin = perf_counter()
        choice.click()
        try:
            page.wait_for_function("window.ran", timeout=60_000, polling=5)
        except TimeoutError:
            continue
        settle(page, name)
        return 1000 * (perf_counter() - begin)
    raise RuntimeError(f"{name}: ten clicks on {branch} started no script")


def measure(run: Path, pages: list[str], repeats: int, seconds: float) -> dict[str, float]:
    """Milliseconds of the start and of each of these pages, and what a page that follows the run takes."""
    found: dict[str, float] = {}
    with TemporaryDirectory() as directory, sync_playwright() as playwright:
        shutil.copytree(run, copy := Path(directory) / run.name)
        browser = playwright.chromium.launch(executable_path=find_browser(), args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        with dashboard(Path(directory)) as (address, server, begin):
            page.goto(address)
            page.wait_for_selector("h1")
            found["start"] = 1000 * (perf_counter() - begin)
            settle(page, page.locator("h1").inner_text())
            for name in pages:
                found[f"{name}: first"] = opened(page, name)
            for name in pages:
                found[f"{name}: again"] = median(
                    [opened(page, "Runs" if number % 2 else name) for number in range(2 * repeats)][::2]
                )
            for name in filter(FILTERED.__contains__, pages):
                opened(page, name)
                found[f"{name}: filtered"] = filtered(page, name, "A")
                filtered(page, name, "A")
            revive(copy)
            page.goto(f"{address}/conflicts")
            settle(page, "Conflicts")
            sleep(min(5, seconds))
            before = server.cpu_times()
            sleep(seconds)
            after = server.cpu_times()
            spent = after.user + after.system - before.user - before.system
            found["live, percent of a core"] = 100 * spent / seconds
        browser.close()
    return found


def revive(run: Path) -> None:
    """Let a run look like one that trains, though its record stands still."""
    status = json.loads((run / "status.json").read_text())
    me = psutil.Process()
    status |= {"state": "running", "pid": me.pid, "process_start_time": me.create_time(), "heartbeat": time()}
    (run / "status.json").write_text(json.dumps(status | {"patience_seconds": 1e6}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000, help="of the large record; 20,160 pair rows each")
    parser.add_argument("--small", type=int, default=20, help="steps of the small one")
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--tasks", type=int, default=10, help="of the large record")
    parser.add_argument("--large", type=Path, help="a large record that is there already")
    parser.add_argument("--pages", nargs="+", choices=PAGES, default=list(PAGES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=30, help="to watch a live page for")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    find_browser()
    with TemporaryDirectory() as directory:
        runs = {name: Path(directory) / name for name in ("small", "large")}
        telemetry.write(runs["small"], given.small, given.layers, 10)
        if given.large:
            runs["large"] = given.large
        else:
            telemetry.write(runs["large"], given.steps, given.layers, given.tasks)
        found = {name: measure(run, given.pages, given.repeats, given.seconds) for name, run in runs.items()}
    if given.json:
        print(json.dumps(found))
        return
    frame = pd.DataFrame(found)
    print(frame.assign(ratio=frame["large"] / frame["small"]).round(2).to_string())
    print(REACH)


if __name__ == "__main__":
    main()
