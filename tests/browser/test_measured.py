"""Of a run that has ended, from its pages: a lookahead, and a study of what its snapshot advises."""

import re

import pytest
from browsing import choose, settled
from playwright.sync_api import expect
from waiting import wait_for

from app.launching import launcher
from ortho_lora.launching.queue import tickets
from ortho_lora.record.schema import read_status
from ortho_lora.training.config import load_config

pytestmark = pytest.mark.browser

SMALL = {
    "tasks": ["trec", "movies", "movies@1"], "batch_size": 4, "max_length": 16, "eval_examples": 16, "eval_every": 1000,
    "rank": 2, "dropout": 0.0, "steps": 2, "snapshots": 1, "snapshot_batches": 16,
}  # fmt: skip
LOOKAHEAD = "mine-lookahead-1"
HEATMAPS = """
() => document.querySelector(".st-key-figure-realized .js-plotly-plot")._fullData
    .filter(trace => trace.type === "heatmap" && trace.coloraxis).length
"""


@pytest.fixture
def server(own_server, tiny):
    """With one run, trained with a snapshot."""
    launcher.start(load_config(overrides=SMALL | {"model": tiny}), own_server.runs_dir, "mine")
    wait_for(lambda: (status := read_status(own_server.runs_dir / "mine")) and status.state == "finished")
    return own_server


def test_a_lookahead_and_a_study_of_the_advice(tabs, server):
    with tabs.watched(server.address, deep_links=True) as page:
        page.goto(f"{server.address}/transfer?run=mine")
        settled(page)
        main = page.get_by_test_id("stMain")

        page.get_by_role("button", name="Look ahead from it").click()
        expect(main.get_by_text(LOOKAHEAD)).to_be_visible()
        wait_for(lambda: (status := read_status(server.runs_dir / LOOKAHEAD)) and status.state == "finished")
        expect(main.get_by_text(LOOKAHEAD)).to_have_count(0)  # nobody reloaded
        settled(page)
        choose(page, page.get_by_role("combobox", name=re.compile("^Run")), LOOKAHEAD)
        expect(page.get_by_role("heading", name="Was it predicted?")).to_be_visible()
        settled(page)
        assert page.evaluate(HEATMAPS) == 3  # all of it, what a first order can know, and the rest

        page.goto(f"{server.address}/?run=mine")
        settled(page)
        page.get_by_role("button", name="Try it: train a study").click()
        page.get_by_role("link", name="What came of it").click()
        expect(page.get_by_role("heading", name="Study", exact=True)).to_be_visible()
        expect(page.get_by_text(re.compile(r"of \d+ planned runs"))).to_be_visible()
        page.get_by_test_id("stSidebarNav").get_by_role("link", name="Start").click()
        page.get_by_role("button", name="Stop the study").click()
        expect(page.get_by_role("button", name="Go on with the study")).to_be_visible()
    assert not tickets(server.runs_dir)["mine-advice"].alive
