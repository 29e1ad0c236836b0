"""The Launch page in a real browser, with real processes."""

import re

import pytest
from playwright.sync_api import expect

from app.launching import launcher
from ortho_lora.launching.queue import write_limit
from ortho_lora.training.config import load_config

pytestmark = pytest.mark.browser

SMALL = {
    "tasks": ["movies", "movies@0.7"], "batch_size": 4, "max_length": 16, "eval_examples": 16, "eval_every": 1000,
    "rank": 2, "steps": 100_000, "dropout": 0.0,
}  # fmt: skip

CSV = "review,verdict\n" + "".join(
    f"film number {n} was {'good' if n % 3 else 'bad'},{n % 3 > 0}\n" for n in range(120)
)


def launch(server, name):
    launcher.start(load_config(overrides=SMALL), server.runs_dir, name)


def test_what_is_being_typed_stays_while_the_page_answers(open_launch, server):
    launch(server, "mine")
    page = open_launch()
    # It is starting, unless the page was slower to open.
    expect(page.get_by_text(re.compile("mine · (▶ starting|ortho-lora · ▶ running)"))).to_be_visible()
    page.get_by_label("Steps", exact=True).fill("20")
    name = page.get_by_label("Name", exact=True)
    name.click()  # now the page hears of the steps
    page.keyboard.type("half a na")
    expect(page.get_by_text("Steps: 40 → 20")).to_be_visible()
    expect(page.get_by_text(re.compile("mine · ortho-lora · ▶ running, training"))).to_be_visible()
    expect(name).to_have_value("half a na")
    expect(name).to_be_focused()


def test_queued_run_is_taken_out(open_launch, server, hold):
    launch(server, "first")
    hold("first")
    launch(server, "second")
    page = open_launch()
    expect(page.get_by_text("second · ◌ queued, the next one")).to_be_visible()
    page.get_by_role("button", name="Take out").click()
    expect(page.get_by_text("second · ◌ queued")).to_have_count(0)
    page.reload()
    expect(page.get_by_text(re.compile("first ·"))).to_be_visible()
    expect(page.get_by_text("second ·")).to_have_count(0)
    write_limit(server.runs_dir, 2)
    assert not (server.runs_dir / "second").exists()


def test_table_is_uploaded_seen_kept_over_a_reload_and_becomes_a_task(open_launch, server):
    page = open_launch()
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


def test_bad_upload_is_refused_in_words(open_launch, server):
    page = open_launch()
    page.get_by_text("Own data", exact=True).click()
    give = page.locator("input[type=file]")
    give.set_input_files({"name": "films.csv", "mimeType": "text/csv", "buffer": b"text,label\na,b,c,d\n"})
    said = page.get_by_text(re.compile("line 2 of films.csv differs from its header in the number of fields, 4 for 2"))
    expect(said).to_be_visible()
    assert {path.name for path in (server.runs_dir / ".uploads").iterdir()} <= {".lock"}
    expect(page.get_by_role("button", name="Start training")).to_be_disabled()
