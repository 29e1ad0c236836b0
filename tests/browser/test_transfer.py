"""Another mixture on the Transfer page: weights typed into its table, in the address, and there again."""

import re

import pytest
from browsing import expect_said, go_to, settled
from playwright.sync_api import expect
from waiting import wait_for

pytestmark = pytest.mark.browser


def weigh(page, *weights):
    """Type the first weights of the table, which is a canvas."""
    settled(page)
    table = page.get_by_test_id("stDataFrame").last
    table.scroll_into_view_if_needed()
    settled(page)
    box = table.bounding_box()
    field = page.locator(".gdg-input")

    def begin():
        page.mouse.click(box["x"] + 0.8 * box["width"], box["y"] + 50)
        page.keyboard.press("Enter")
        page.wait_for_timeout(500)
        return field.count()

    wait_for(begin)  # it draws itself before it listens
    for place, weight in enumerate(weights):
        if place:
            page.keyboard.press("Enter")
        field.fill(weight)
        field.press("Enter")  # and the next row is chosen
        expect(field).to_have_count(0)


def expect_in_legend(page, name):
    """Seen in one figure; for a moment there are two, the new one above the one before."""
    told = page.locator(".legendtext").get_by_text(name)
    expect(told).to_have_count(1)
    expect(told.first).to_be_visible()


def test_a_mixture_stays_on_other_pages_and_travels_in_a_link(tabs, shipped):
    with tabs.watched(shipped.address, deep_links=True) as page:
        page.goto(f"{shipped.address}/transfer?run=sample-demo")
        expect_in_legend(page, "alone")
        expect(page.locator(".legendtext").get_by_text("your mixture")).to_have_count(0)
        weigh(page, "0", "2.5")
        expect_said(page, mixture="trec:0")
        expect_said(page, mixture="tweets:2.5")
        expect_in_legend(page, "your mixture")
        link = page.url

        go_to(page, "Conflicts")
        go_to(page, "Transfer")
        expect_in_legend(page, "your mixture")
        expect_said(page, mixture="trec:0")

        with tabs.watched(shipped.address, deep_links=True) as other:
            other.goto(link)
            expect_in_legend(other, "your mixture")
            weigh(other, "1", "1")
            expect(other.locator(".legendtext").get_by_text("your mixture")).to_have_count(0)
            expect(other).not_to_have_url(re.compile("mixture"))
