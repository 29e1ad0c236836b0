"""The Runs page in a real browser: checked rows, the address, a live list, deletion."""

import re
import time
from contextlib import ExitStack
from pathlib import Path

import pandas as pd
import pytest
from browsing import check_row, go_to, settled
from playwright.sync_api import expect

from analysis.library.notes import read_notes
from ortho_lora.record.files import replace_text
from ortho_lora.training.config import load_config

pytestmark = pytest.mark.browser
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def add_run(server, records):
    """Writes a run with metrics; the newest is listed first."""

    def add(name, state="finished", created=0.0, status=None, **fields):
        rows = [
            {"step": 40, "split": "validation", "task": task, "metric": "accuracy", "value": 0.5, "examples": 50}
            for task in ("movies", "trec")
        ]
        tasks = [records.task_info(task) for task in ("movies", "trec")]
        info = records.run_info(name, tasks, **{"created": time.time() + created, **fields})
        said = records.status(state, **(status or {}))
        return records.write_run(server.runs_dir / name, info, said, {"metrics": pd.DataFrame(rows)}, parts=1)

    add.status = records.status
    return add


@pytest.fixture
def visit(tabs, server):
    """Opens an address of the dashboard in a tab of its own; in the end nothing has gone wrong in any."""
    with ExitStack() as contexts:

        def open_address(path="runs", **options):
            options = {"viewport": {"width": 1440, "height": 1000}} | options
            page = contexts.enter_context(tabs.watched(server.address, deep_links=True, **options))
            page.goto(f"{server.address}/{path}")
            expect(page.get_by_role("heading", name="Runs", exact=True)).to_be_visible()
            expect(table(page)).to_be_visible()
            settled(page)
            return page

        yield open_address


def table(page):
    return page.locator(".st-key-runs-table").get_by_test_id("stDataFrame")


def check(page, row):
    check_row(page, table(page), row)


def panel(page):
    return page.get_by_test_id("stMain").locator("h3")


def chosen(page):
    return page.get_by_test_id("stSidebar").get_by_role("combobox", name="Run")


def test_checked_rows_are_the_runs_of_all_pages_and_of_a_copied_address(visit, add_run):
    for place, name in enumerate(("first", "second", "third")):
        add_run(name, created=-place, method=("joint", "single", "pcgrad")[place])
    page = visit()
    check(page, 1)
    expect(panel(page)).to_have_text("second")
    expect(chosen(page)).to_have_value("second")
    check(page, 2)
    expect(panel(page)).to_have_text("2 runs compared")
    expect(page).to_have_url(re.compile(r"run=second.*compare=third|compare=third.*run=second"))

    page.get_by_role("searchbox", name="Search").fill("joint")
    page.keyboard.press("Enter")
    expect(page.get_by_text("1 run of 3")).to_be_visible()
    expect(panel(page)).to_have_text("2 runs compared")  # also where they are not listed
    check(page, 0)
    expect(panel(page)).to_have_text("3 runs compared")
    expect(page).to_have_url(re.compile("search=joint"))

    other = visit(page.url.split("/", 3)[3])
    expect(panel(other)).to_have_text("3 runs compared")
    check(other, 0)  # it came checked: this takes it away
    expect(panel(other)).to_have_text("2 runs compared")
    expect(other.get_by_text("1 run of 3")).to_be_visible()
    expect(chosen(other)).to_have_value("second")

    other.goto("about:blank")
    page.get_by_role("link", name="Open in Metrics").click()
    expect(page.get_by_role("heading", name="Metrics", exact=True)).to_be_visible()
    for name in ("first", "third"):
        expect(page.get_by_test_id("stMultiSelect").get_by_text(name, exact=True)).to_be_visible()
    go_to(page, "Runs")
    expect(panel(page)).to_have_text("3 runs compared")


def test_a_live_list_goes_on_without_losing_what_is_checked_searched_or_typed(visit, add_run):
    live = add_run("seen-live", "running", created=-1.0, status={"step": 3, "total": 40})
    add_run("other", created=-2.0)
    page = visit("runs?search=seen")
    check(page, 0)
    expect(panel(page)).to_have_text("seen-live")
    page.get_by_label("Note", exact=True).fill("half of a sent")
    for step in range(4, 8):
        replace_text(live / "status.json", add_run.status("running", step=step, total=40).model_dump_json())
        page.wait_for_timeout(700)
    add_run("seen-new", created=0.0)
    expect(page.get_by_text("2 runs of 3")).to_be_visible()  # the clock's, nobody clicked
    expect(panel(page)).to_have_text("seen-live")
    expect(page.get_by_label("Note", exact=True)).to_have_value("half of a sent")
    expect(page.get_by_role("searchbox", name="Search")).to_have_value("seen")
    check(page, 0)  # the new one is above it now: `seen-live` is still the one that is checked
    expect(panel(page)).to_have_text("2 runs compared")
    expect(chosen(page)).to_have_value("seen-live")
    replace_text(live / "status.json", add_run.status("finished").model_dump_json())
    expect(page.get_by_test_id("stSidebar").get_by_text("✓ finished")).to_be_visible()


def test_deletion_asks_for_the_name_and_keeps_the_others(visit, add_run, server):
    add_run("live", "running", created=-1.0)
    for name in ("doomed", "kept"):
        add_run(name, created=-2.0)
    page = visit("runs?run=doomed")
    page.get_by_role("button", name="Delete").click()
    dialog = page.get_by_role("dialog")
    now = dialog.get_by_role("button", name="Delete")
    expect(now).to_be_disabled()
    dialog.get_by_role("textbox").fill("kept")
    page.wait_for_timeout(3000)  # while the list behind it is looked at again
    expect(now).to_be_disabled()
    dialog.get_by_role("textbox").fill("doomed")
    expect(now).to_be_enabled()
    now.click()
    expect(dialog).to_have_count(0)
    expect(page.get_by_text("2 runs of 2")).to_be_visible()
    assert sorted(path.name for path in server.runs_dir.iterdir()) == ["kept", "live"]


def test_hostile_words_are_shown_and_not_obeyed(visit, add_run, server, records):
    records.write_hostile(server.runs_dir / "hostile")
    page = visit("runs?run=hostile")
    page.get_by_label("Title", exact=True).fill(records.HOSTILE[1])
    page.get_by_label("Note", exact=True).fill(records.HOSTILE[0])
    page.get_by_role("button", name="Save").click()
    expect(panel(page)).to_have_text(records.HOSTILE[1])
    assert read_notes(server.runs_dir / "hostile").note == records.HOSTILE[0]
    page.reload()
    expect(panel(page)).to_have_text(records.HOSTILE[1])
    assert page.title() != "taken"
    assert page.locator("img[src='x']").count() == 0


def test_run_again_leads_to_the_form_filled_with_its_settings(visit, add_run):
    settings = load_config(overrides={"tasks": ["movies", "trec"], "steps": 7}).model_dump(mode="json")
    add_run("first", config=settings)
    add_run("looped", created=-1.0)  # a training loop of one's own has no settings to take
    page = visit("runs?run=looped&order=By+name")
    expect(panel(page)).to_have_text("looped")
    again = page.get_by_role("link", name="Run again with changes")
    expect(again).to_have_count(0)
    check(page, 0)
    again.click()
    expect(page.get_by_role("heading", name="Launch", exact=True)).to_be_visible()
    expect(page.get_by_label("Steps", exact=True)).to_have_value("7")
    expect(chosen(page)).to_have_value("first")


def test_by_keyboard_alone(visit, add_run):
    for place, name in enumerate(("first", "second")):
        add_run(name, created=-place)
    page = visit("runs?run=first")
    page.get_by_role("combobox", name="Compare with").focus()
    page.keyboard.type("second")
    page.keyboard.press("Enter")
    expect(panel(page)).to_have_text("2 runs compared")
    page.keyboard.press("Escape")  # closes the choices
    page.get_by_role("searchbox", name="Search").focus()
    page.keyboard.type("sec")
    expect(page.get_by_text("1 run of 2")).to_be_visible()
