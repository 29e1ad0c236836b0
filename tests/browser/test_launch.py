"""The Launch page in a real browser, with real processes that outlive pages and servers."""

import re

import psutil
import pytest
from browsing import go_to
from playwright.sync_api import expect
from waiting import wait_for

from app.launching import launcher
from ortho_lora.launching.queue import tickets, write_limit
from ortho_lora.record.schema import read_status
from ortho_lora.training.config import load_config

pytestmark = pytest.mark.browser


@pytest.fixture
def server(own_server):
    """It is stopped, and started again."""
    return own_server


SMALL = {
    "tasks": ["movies", "movies@0.7"], "batch_size": 4, "max_length": 16, "eval_examples": 16, "eval_every": 1000,
    "rank": 2, "steps": 100_000, "dropout": 0.0,
}  # fmt: skip
CSV = "review,verdict\n" + "".join(
    f"film number {n} was {'good' if n % 3 else 'bad'},{n % 3 > 0}\n" for n in range(120)
)


class Visitor:
    """A browser of its own, which keeps what must not happen: errors, and requests that leave the machine."""

    def __init__(self, browser, server):
        self.server, self.faults = server, []
        self.context = browser.new_context(viewport={"width": 1440, "height": 1200})
        self.context.on("console", lambda message: message.type == "error" and self._hear(message))
        self.context.on("weberror", lambda error: self._note(str(error.error)))
        self.context.on("request", lambda request: self._check(request.url))
        self.watching = True

    def _hear(self, message):
        # Streamlit first looks for its server under the address of the page, and then at the root.
        if "/launch/_stcore/" not in message.location["url"]:
            self._note(message.text)

    def _note(self, text):
        if self.watching:  # a server that is restarted is missed by its pages
            self.faults.append(text)

    def _check(self, url):
        if not url.startswith((self.server.address, self.server.address.replace("http", "ws"), "data:", "blob:")):
            self.faults.append(url)

    def open(self):
        page = self.context.new_page()
        page.goto(self.server.address)
        go_to(page, "Launch")
        expect(page.get_by_role("button", name="Start training")).to_be_visible()
        return page


@pytest.fixture
def visitor(browser, server):
    visiting = Visitor(browser, server)
    yield visiting
    visiting.context.close()
    for ticket in tickets(server.runs_dir).values():
        if ticket.alive:
            psutil.Process(ticket.pid).kill()
    assert visiting.faults == []


def launch(server, name, **settings):
    launcher.start(load_config(overrides=SMALL | settings), server.runs_dir, name)


def test_run_is_watched_across_reload_and_restart_stopped_and_resumed(visitor, server):
    launch(server, "mine")
    page = visitor.open()
    under_way = re.compile(r"mine · ortho-lora · ▶ running, training, step \d+ of 100000")
    expect(page.get_by_text(under_way)).to_be_visible()
    page.wait_for_function("() => document.querySelectorAll('.js-plotly-plot').length === 2")

    page.reload()
    expect(page.get_by_text(under_way)).to_be_visible()
    step = read_status(server.runs_dir / "mine").step

    visitor.watching = False
    page.close()
    server.stop()
    server.start()
    page = visitor.open()
    visitor.watching = True
    expect(page.get_by_text(under_way)).to_be_visible()
    assert read_status(server.runs_dir / "mine").step > step

    page.get_by_role("button", name="Stop").click()
    stopped = page.get_by_text(re.compile(r"^■ mine stopped after step \d+ of 100000"))
    expect(stopped).to_be_visible()
    step = read_status(server.runs_dir / "mine").step

    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_text(under_way)).to_be_visible()
    expect(stopped).to_have_count(0)
    assert read_status(server.runs_dir / "mine").step >= step


def test_second_run_waits_moves_up_without_a_server_and_finishes(visitor, server):
    page = visitor.open()
    for name, steps in (("first", "100000"), ("second", "3")):
        page.get_by_label("Name", exact=True).fill(name)
        for label, value in (("Steps", steps), ("Batch size", "2")):
            page.get_by_label(label, exact=True).fill(value)
        page.get_by_role("tab", name="Evaluation, recording").click()
        page.get_by_label("Evaluation examples", exact=True).fill("8")
        page.get_by_label("Evaluation examples", exact=True).press("Tab")
        expect(page.get_by_text("Evaluation examples: 256 → 8")).to_be_visible()
        page.get_by_role("tab", name="Main").click()
        page.get_by_role("button", name="Start training").click()
        expect(page.get_by_text(re.compile(f"{name} · "))).to_be_visible()
        expect(page.get_by_label("Name", exact=True)).to_have_value("")
    expect(page.get_by_text("second · ◌ queued, the next one")).to_be_visible()

    page.close()
    server.stop()
    wait_for(lambda: read_status(server.runs_dir / "first"))
    assert launcher.stop(server.runs_dir, "first")
    wait_for(lambda: (status := read_status(server.runs_dir / "second")) and status.state == "finished")
    server.start()
    page = visitor.open()
    expect(page.get_by_text(re.compile("^✓ second finished"))).to_be_visible()
    assert read_status(server.runs_dir / "second").step == 3
    # One ended before the next began.
    ends = [read_status(server.runs_dir / name) for name in ("first", "second")]
    assert [status.state for status in ends] == ["stopped", "finished"]
    assert ends[0].heartbeat < ends[1].heartbeat


def test_what_is_being_typed_stays_while_the_page_answers(visitor, server):
    launch(server, "mine")
    page = visitor.open()
    # It is starting, unless the page was slower to open.
    expect(page.get_by_text(re.compile("mine · (▶ starting|ortho-lora · ▶ running)"))).to_be_visible()
    page.get_by_label("Steps", exact=True).fill("20")
    name = page.get_by_label("Name", exact=True)
    name.click()  # now the page hears of the steps
    page.keyboard.type("half a na")
    expect(page.get_by_text("Steps: 60 → 20")).to_be_visible()
    expect(page.get_by_text(re.compile("mine · ortho-lora · ▶ running, training"))).to_be_visible()
    expect(name).to_have_value("half a na")
    expect(name).to_be_focused()


def test_queued_run_is_taken_out(visitor, server):
    launch(server, "first")
    launch(server, "second")
    page = visitor.open()
    expect(page.get_by_text("second · ◌ queued, the next one")).to_be_visible()
    page.get_by_role("button", name="Take out").click()
    expect(page.get_by_text("second · ◌ queued")).to_have_count(0)
    page.reload()
    expect(page.get_by_text(re.compile("first ·"))).to_be_visible()
    expect(page.get_by_text("second")).to_have_count(0)
    write_limit(server.runs_dir, 2)
    assert not (server.runs_dir / "second").exists()


def test_table_is_uploaded_seen_kept_over_a_reload_and_becomes_a_task(visitor, server):
    page = visitor.open()
    page.get_by_text("Own data", exact=True).click()
    give = page.locator("input[type=file]")
    give.set_input_files({"name": "../../films.csv", "mimeType": "text/csv", "buffer": CSV.encode()})
    expect(page.get_by_text("120 rows, 2 columns.")).to_be_visible()
    kept = [path.name for path in (server.runs_dir / ".uploads").iterdir()]
    assert sorted(kept) == [".lock", "films.csv"]
    assert not (server.runs_dir.parent / "films.csv").exists()

    page.reload()
    page.get_by_text("Own data", exact=True).click()
    expect(page.get_by_text("120 rows, 2 columns.")).to_be_visible()
    expect(page.get_by_text(re.compile(r"\d+ examples to train on, \d+ for validation"))).to_be_visible()
    page.get_by_role("button", name="Add as a task").click()
    expect(page.get_by_text("Tasks: none → films")).to_be_visible()
    expect(page.get_by_role("button", name="Start training")).to_be_enabled()


def test_bad_upload_is_refused_in_words(visitor, server):
    page = visitor.open()
    page.get_by_text("Own data", exact=True).click()
    give = page.locator("input[type=file]")
    give.set_input_files({"name": "films.csv", "mimeType": "text/csv", "buffer": b"text,label\na,b,c,d\n"})
    said = page.get_by_text(re.compile("line 2 of films.csv differs from its header in the number of fields, 4 for 2"))
    expect(said).to_be_visible()
    assert {path.name for path in (server.runs_dir / ".uploads").iterdir()} <= {".lock"}
    expect(page.get_by_role("button", name="Start training")).to_be_disabled()
