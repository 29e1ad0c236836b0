import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import psutil
import pytest
from browsing import Tabs, go_to
from playwright.sync_api import expect, sync_playwright
from waiting import PATIENCE, wait_for

from app.launching import launcher
from ortho_lora.launching.queue import lock, tickets

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
    # The last of its kind counts, so Playwright's own are repeated; the others are pages that come with every window.
    "--disable-features=PaintHolding,HttpsUpgrades,AvoidUnnecessaryBeforeUnloadCheckSync,DestroyProfileOnBrowserClose,"
    "MediaRouter,OptimizationHints,LensOverlay,AimEnabled,WebUIOmniboxPopup,WebUIOmniboxAimPopup",
]  # fmt: skip
# On two cores that train, serve and paint at once, a page takes its time; a fault takes as long as this to be told.
expect.set_options(timeout=1000 * PATIENCE)


def patient(make):
    """The same way to make a context or a page, which then waits for as long."""

    def made(**options):
        found = make(**options)
        found.set_default_timeout(1000 * PATIENCE)
        return found

    return made


@pytest.fixture(scope="session")
def browser():
    """A real Chrome or Chromium; without one the tests are skipped, but in CI they fail."""
    executable = next(filter(None, map(shutil.which, NAMES)), None)
    if executable is None:
        said = f"no browser: none of {', '.join(NAMES)} is installed"
        if os.environ.get("CI"):
            pytest.fail(said)
        pytest.skip(said)
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS, timeout=1000 * PATIENCE)
        running.new_context, running.new_page = patient(running.new_context), patient(running.new_page)
        yield running
        running.close()


@pytest.fixture(scope="session")
def tabs(browser):
    """Pages that tests share: `tabs.watched(address)`."""
    return Tabs(browser)


class Server:
    """`streamlit run app/main.py` on a free port; it can be restarted."""

    def __init__(self, runs_dir, samples="off"):
        self.runs_dir, self.samples = runs_dir, samples
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.start()

    @property
    def address(self):
        return f"http://127.0.0.1:{self.port}"

    def start(self):
        with (self.runs_dir.parent / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "streamlit", "run", "app/main.py", "--server.port", str(self.port)],
                cwd=ROOT,
                env={**os.environ, "ORTHO_LORA_RUNS_DIR": str(self.runs_dir), "ORTHO_LORA_SAMPLES": self.samples},
                stdout=log,
                stderr=log,
            )
        wait_for(self.answers, self.process, self.runs_dir.parent / "server.log")

    def answers(self):
        try:
            with urllib.request.urlopen(f"{self.address}/_stcore/health") as answer:
                return answer.status == 200
        except OSError:
            return False

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=PATIENCE)


@pytest.fixture(scope="session")
def lasting(tmp_path_factory):
    """One for all: to start, and to open its first page, costs more than most tests."""
    running = Server(tmp_path_factory.mktemp("server") / "runs")
    yield running
    running.stop()


@pytest.fixture
def server(lasting):
    """The dashboard on an empty runs directory; a file whose tests stop it has one of their own."""
    yield lasting
    shutil.rmtree(lasting.runs_dir, ignore_errors=True)


def end_all(runs_dir):
    """Let nothing train there any more."""
    for ticket in tickets(runs_dir).values():
        if ticket.alive:
            psutil.Process(ticket.pid).kill()
            wait_for(lambda ticket=ticket: not ticket.alive)


@pytest.fixture
def own_server(tmp_path):
    running = Server(tmp_path / "runs")
    yield running
    end_all(running.runs_dir)
    running.stop()


@pytest.fixture(scope="session")
def shipped(tmp_path_factory):
    """The dashboard on the records that come along, and on nothing else."""
    running = Server(tmp_path_factory.mktemp("shipped") / "runs", samples="on")
    yield running
    running.stop()


@pytest.fixture(scope="session")
def conflicting(records):
    """Tables of three tasks, the first two of which conflict on every block; nobody changes them."""
    rng = np.random.default_rng(0)
    directions = np.eye(3, 40)
    directions[1, 0] = -0.5
    gradients = directions[:, None] + 0.1 * rng.standard_normal((80, 2, 2, 2, 3, 2, 40))
    gradients[..., 2, :, :] = rng.standard_normal((80, 2, 2, 2, 2, 40))
    return records.gradient_tables(gradients, ("movies", "movies-flip", "trec"))


@pytest.fixture
def add_run(server, records, conflicting):
    """Writes a run whose first two of three tasks conflict on every block."""

    def add(name):
        info = records.run_info(name, [records.task_info(task) for task in ("movies", "movies-flip", "trec")])
        return records.write_run(server.runs_dir / name, info, records.status(), conflicting)

    return add


@pytest.fixture
def hold(server):
    """Stops a launched run whose turn it is, as it need not train while pages are looked at: hold(name)."""

    def stop(name):
        wait_for(lambda: (name, "queued") not in {(of.run_id, of.state) for of in launcher.launches(server.runs_dir)})
        with lock(server.runs_dir):  # which it cannot hold then
            os.kill(tickets(server.runs_dir)[name].pid, signal.SIGSTOP)

    return stop


@pytest.fixture
def open_launch(tabs, server):
    """Opens the Launch page; in the end nothing trains any more."""
    try:
        with tabs.watched(server.address, deep_links=True, viewport={"width": 1440, "height": 1200}) as page:

            def opened():
                page.goto(server.address)
                go_to(page, "Launch")
                expect(page.get_by_role("button", name="Start training")).to_be_visible()
                return page

            yield opened
    finally:
        end_all(server.runs_dir)
