"""From a verdict to its evidence and back, and the report, in a real browser."""

import json

import pytest
from browsing import choose, expect_said, go_to
from playwright.sync_api import expect

pytestmark = pytest.mark.browser


def test_a_verdict_leads_to_its_pair_and_the_report_is_downloaded(tabs, server, add_run):
    add_run("made")
    with tabs.watched(server.address, deep_links=True) as page:
        page.goto(f"{server.address}/diagnosis?run=made")
        expect(page.get_by_text("1 of 3 pairs conflict")).to_be_visible()

        page.get_by_role("link", name="Task by task and over the steps").click()
        expect(page.get_by_role("heading", name="Conflicts", exact=True)).to_be_visible()
        expect(page.get_by_label("Pair of tasks")).to_have_value("movies + movies-flip")
        assert "pair=movies" in page.url

        # A pair chosen there gives way to that of a verdict.
        choose(page, page.get_by_label("Pair of tasks"), "movies + trec")
        expect_said(page, pair="movies + trec")
        go_to(page, "Diagnosis")
        page.get_by_role("link", name="Task by task and over the steps").click()
        expect(page.get_by_label("Pair of tasks")).to_have_value("movies + movies-flip")

        go_to(page, "Diagnosis")
        page.get_by_role("button", name="Make the report").click()
        with page.expect_download() as report:
            page.get_by_role("button", name="Download the report").click()
        assert report.value.suggested_filename == "made-report.html"
        assert "movies-flip" in report.value.path().read_text()
        with page.expect_download() as document:
            page.get_by_role("button", name="JSON").click()
        assert json.loads(document.value.path().read_text())["pairs"][0]["verdict"] == "conflict"
