"""What browser tests share: when a page has come to rest, the way from page to page, and that nothing goes wrong."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal
from urllib.parse import quote_plus

from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, ViewportSize, expect

WIDE: ViewportSize = {"width": 1440, "height": 900}

# Streamlit fetches the code of its elements when they are first needed, so they appear in any order, some a while after
# the script has ended, and what appears late moves the rest.
AT_REST = """
() => {
    const main = document.querySelector('[data-testid=stMain]');
    const charts = [...document.querySelectorAll('.stPlotlyChart')].filter(chart => chart.checkVisibility());
    const whole = main?.querySelector('h1')
        && document.querySelector('[data-testid=stApp]').dataset.testScriptState === 'notRunning'
        && !document.querySelector('[data-testid=stSkeleton]')
        && charts.every(chart => chart.querySelector('.main-svg'));
    const now = whole ? [main.scrollHeight, main.scrollTop, main.querySelectorAll('*').length].join() : null;
    if (now === null || now !== window.restsAs) {
        window.restsAs = now;
        window.restsSince = performance.now();
    }
    return now !== null && performance.now() - window.restsSince > 500;
}
"""


class Tabs:
    """Pages of one browser, for one test after the other: a new one evaluates all of Streamlit and plotly anew."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._free: list[Page] = []

    @contextmanager
    def watched(
        self,
        address: str,
        *,
        deep_links: bool = False,
        viewport: ViewportSize = WIDE,
        color_scheme: Literal["light", "dark"] = "light",
    ) -> Iterator[Page]:
        """A blank page, which may tell no error and send no request to anyone but the server at this address.

        Opened below that address, Streamlit looks for its server below the page's own path first, which answers 404:
        `deep_links` lets this pass, and nothing else. What the browser keeps for the address is forgotten in the end.
        """
        errors: list[str] = []
        requests: list[str] = []

        def told(message: ConsoleMessage) -> None:
            if message.type == "error" and not (deep_links and "/_stcore/" in message.location["url"]):
                errors.append(message.text)

        heard: dict[Any, Callable[[Any], None]] = {
            "console": told,
            "pageerror": lambda error: errors.append(str(error)),
            "request": lambda request: requests.append(request.url),
        }
        # A window each: behind another tab nothing is laid out anew.
        page = self._free.pop() if self._free else self._browser.new_context().new_page()
        page.set_viewport_size(viewport)
        page.emulate_media(color_scheme=color_scheme, media="null")
        for event, hear in heard.items():
            page.on(event, hear)
        try:
            yield page
        finally:
            page.goto("about:blank")
            for event, hear in heard.items():
                page.remove_listener(event, hear)
            tools = page.context.new_cdp_session(page)
            tools.send("Storage.clearDataForOrigin", {"origin": address, "storageTypes": "all"})
            tools.detach()
            self._free.append(page)
        assert [url for url in requests if not url.startswith((address, "data:", "blob:"))] == []
        assert errors == []


def settled(page: Page) -> None:
    """Wait until everything is drawn and nothing moves any more."""
    page.wait_for_function(AT_REST, polling=50)


def choose(page: Page, field: Locator, option: str) -> None:
    """Choose from a list of choices, of which only `option` has that in its name."""
    # A list closes where its page is scrolled, and a click on what must be scrolled to is quicker than the scrolling.
    settled(page)
    field.scroll_into_view_if_needed()
    settled(page)
    field.click()
    page.get_by_role("option", name=option).click()


def check_row(page: Page, table: Locator, row: int) -> None:
    """Click the box at the left edge of a row, from 0; the table is a canvas."""
    settled(page)
    table.scroll_into_view_if_needed()
    settled(page)
    place = table.bounding_box()
    assert place is not None
    page.mouse.click(place["x"] + 17, place["y"] + 35 * (row + 1) + 17)


def expect_said(page: Page, **choices: str) -> None:
    """Wait until the address says these choices, so that the server knows them and a reload keeps them."""
    for key, value in choices.items():
        expect(page).to_have_url(re.compile(f"[?&]{key}={re.escape(quote_plus(value))}(&|$)"))


def go_to(page: Page, name: str) -> None:
    """Follow the sidebar's link to a page, and wait for it."""
    page.get_by_test_id("stSidebarNav").get_by_role("link", name=name).click()
    expect(page.get_by_role("heading", name=name, exact=True)).to_be_visible()
    settled(page)
