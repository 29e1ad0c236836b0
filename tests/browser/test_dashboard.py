"""A person's way through the dashboard, in a real browser, with a real run."""

import re

import pytest
from browsing import go_to
from playwright.sync_api import expect

from ortho_lora.record.schema import read_run, read_status

pytestmark = pytest.mark.browser


@pytest.fixture
def server(own_server):
    """It is stopped, and started again."""
    return own_server


# Numbers travel in binary: what plotly decoded and drew is in its full data.
DRAWN = """
() => Array.from(document.querySelector('.st-key-figure-%s .js-plotly-plot')._fullData)
    .filter(trace => trace.type === 'heatmap' && trace.coloraxis)
    .flatMap(trace => Array.from(trace.z, row => Array.from(row)).flat())
    .filter(Number.isFinite)
"""


def test_launch_a_run_watch_it_and_see_its_heatmap(tabs, server):
    with tabs.watched(server.address) as page:
        page.goto(server.address)
        expect(page.get_by_text("There are no runs yet.")).to_be_visible()

        go_to(page, "Launch")
        page.get_by_label("Steps", exact=True).fill("12")
        page.get_by_label("Name", exact=True).fill("first")
        page.get_by_label("Batch size", exact=True).fill("4")
        page.get_by_role("tab", name="Evaluation, recording").click()
        page.get_by_label("Evaluation examples", exact=True).fill("16")
        page.get_by_label("Snapshot batches", exact=True).fill("8")
        page.get_by_label("Snapshot batches", exact=True).press("Tab")
        expect(page.get_by_text("Evaluation examples: 128 → 16")).to_be_visible()
        page.get_by_role("button", name="Start training").click()
        expect(page.get_by_text(re.compile(r"first.*(step \d+ of 12|finished)"))).to_be_visible()

        # The run is a process of its own: it outlives the page and the server.
        page.goto("about:blank")
        server.stop()
        server.start()
        page.goto(server.address)
        go_to(page, "Launch")
        expect(page.get_by_text(re.compile(r"first.*(step \d+ of 12|finished)"))).to_be_visible()
        expect(page.get_by_text(re.compile("^✓ first finished"))).to_be_visible()
        status = read_status(server.runs_dir / "first")
        assert (status.state, status.step) == ("finished", 12)
        assert read_run(server.runs_dir / "first").config["batch_size"] == 4

        go_to(page, "Conflicts")
        page.wait_for_function("() => document.querySelector('.js-plotly-plot .heatmaplayer image')")
        told = page.evaluate(DRAWN % "task-by-task")
        assert len(told) >= 4  # the twin at least, A and B
        assert min(told) < 0
        assert all(-1 <= value <= 1 for value in told)
        # The steps' own figure, below the snapshots', begins with batch cosines.
        page.get_by_text("What the rule saw, step by step").click()
        shown = page.locator(".st-key-figure-task-by-task-steps .heatmaplayer image")
        shown.first.wait_for(state="attached")
        numbers = page.evaluate(DRAWN % "task-by-task-steps")
        assert len(numbers) >= 24  # 6 ordered pairs x A, B x before, after
        assert all(-2 <= value <= 2 for value in numbers)  # a difference of two cosines
        assert len(set(numbers)) > 5

        for name in ("Projection", "Metrics", "Runs"):
            go_to(page, name)
        expect(page.get_by_text("There are no runs yet.")).to_have_count(0)
