"""Two browsers on one run that trains, and a server that goes away and comes back under their open pages."""

import re

import pytest
from browsing import choose, expect_said, go_to, settled
from playwright.sync_api import expect
from waiting import wait_for

from app.launching import launcher
from ortho_lora.record.schema import read_status
from ortho_lora.training.config import load_config

pytestmark = pytest.mark.browser

SMALL = {
    "tasks": ["trec", "movies", "movies@1"], "batch_size": 4, "max_length": 16, "eval_examples": 16, "eval_every": 1000,
    "rank": 2, "dropout": 0.0,
}  # fmt: skip
UNDER_WAY = re.compile(r"^▶ training, step \d+ of 100000")
COME_FURTHER = """
before => [...document.querySelectorAll("[data-testid=stMain] p")]
    .some(words => Number(words.textContent.match(/^▶ training, step (\\d+) of 100000/)?.[1]) > before)
"""


@pytest.fixture
def server(own_server):
    """It is stopped, and started again."""
    return own_server


def test_two_browsers_on_one_run_and_a_server_that_comes_back(browser, server):
    launcher.start(load_config(overrides=SMALL | {"steps": 100_000}), server.runs_dir, "long")
    wait_for(lambda: (status := read_status(server.runs_dir / "long")) and status.step > 2)
    one, other = browser.new_context(), browser.new_context()
    acting, looking = one.new_page(), other.new_page()
    for page in (acting, looking):
        page.goto(f"{server.address}/conflicts?run=long")
        expect(page.get_by_test_id("stMain").get_by_text(UNDER_WAY)).to_be_visible()
    pair = looking.get_by_label("Pair of tasks")
    expect(pair).not_to_have_value("")
    kept = pair.input_value()
    another = next(name for name in ("trec + movies-flip1", "movies + movies-flip1") if name != kept)
    choose(acting, acting.get_by_label("Pair of tasks"), another)
    expect_said(looking, pair=kept)
    expect_said(acting, pair=another)  # what a server has not heard of, it cannot come back with

    # While the server is away the pages stay; when it is back they show how far the run has come meanwhile.
    before = read_status(server.runs_dir / "long").step
    server.stop()
    wait_for(lambda: read_status(server.runs_dir / "long").step > before)
    server.start()
    for page, value in ((looking, kept), (acting, another)):
        page.wait_for_function(COME_FURTHER, arg=before)
        expect(page.get_by_label("Pair of tasks")).to_have_value(value)

    go_to(acting, "Launch")
    acting.get_by_role("button", name="Stop", exact=True).click()
    stopped = looking.get_by_test_id("stSidebar").get_by_text("■ stopped", exact=True)
    expect(stopped).to_be_visible()  # by the clock of the page
    expect(looking.get_by_test_id("stMain").get_by_text(UNDER_WAY)).to_have_count(0)
    settled(looking)  # meanwhile the former choice stands beside the new one
    expect(pair).to_have_value(kept)
    one.close()
    other.close()
