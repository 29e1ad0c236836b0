"""All pages of the app, one after another, in a real browser."""

import re
from urllib.parse import parse_qs, urlparse

import psutil
import pytest
from browsing import choose, go_to, settled
from playwright.sync_api import expect

pytestmark = pytest.mark.browser

BACKGROUNDS = {"light": "rgb(255, 255, 255)", "dark": "rgb(18, 21, 28)"}


@pytest.fixture
def page(tabs, server, add_run):
    """A page, and a run to look at."""
    add_run("made")
    with tabs.watched(server.address, deep_links=True) as page:
        yield page


def test_every_page_opens_without_errors_without_torch_and_asks_nobody_else(page, server):
    page.goto(server.address)
    navigation = page.get_by_test_id("stSidebarNav")
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    names = [text.strip().splitlines()[-1] for text in navigation.get_by_role("link").all_inner_texts()]
    assert names[0] == "Start"
    assert {"Launch", "Runs", "Conflicts", "Projection", "Metrics", "Diagnosis"} <= set(names)
    for name in names:
        navigation.get_by_role("link", name=name, exact=True).click()
        expect(navigation.locator("[aria-current=page]")).to_contain_text(name)
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        for scheme, background in BACKGROUNDS.items():
            page.emulate_media(color_scheme=scheme)
            expect(page.get_by_test_id("stApp")).to_have_css("background-color", background)
            settled(page)
            expect(page.get_by_test_id("stException")).to_have_count(0)
    files = {mapped.path for mapped in psutil.Process(server.process.pid).memory_maps()}
    assert any("pyarrow" in path for path in files)
    assert not [path for path in files if "/torch/" in path]


def test_what_draws_figures_is_loaded_before_there_is_one(page, server):
    page.goto(f"{server.address}/runs")
    page.wait_for_function("performance.getEntriesByType('resource').some(file => file.name.includes('PlotlyChart'))")
    settled(page)
    expect(page.get_by_test_id("stPlotlyChart")).to_have_count(0)


def test_a_copied_address_opens_the_same_view_elsewhere(page, server, tabs):
    page.goto(f"{server.address}/diagnosis?run=made")
    settled(page)
    page.get_by_test_id("stButtonGroup").get_by_role("button", name="conflict").click()
    expect(page.get_by_role("heading", level=4)).to_have_count(1)
    page.get_by_role("link", name="Task by task and over the steps").click()
    expect(page.get_by_label("Pair of tasks")).to_have_value("movies + movies-flip")
    settled(page)
    with tabs.watched(server.address, deep_links=True) as elsewhere:
        elsewhere.goto(page.url)
        expect(elsewhere.get_by_label("Pair of tasks")).to_have_value("movies + movies-flip")
        go_to(page, "Diagnosis")
        expect(page.get_by_role("heading", level=4)).to_have_count(1)
        assert "verdicts=conflict" in page.url
        elsewhere.goto(page.url)
        expect(elsewhere.get_by_role("heading", level=4)).to_have_count(1)


def test_what_an_address_chose_is_chosen_on_the_next_page_too(page, server):
    chosen = "steps=2&steps=5&pair=movies+%2B+movies-flip&block=value+B%2C+layer+1"
    page.goto(f"{server.address}/conflicts?run=made&{chosen}")
    expect(page.get_by_test_id("stSliderThumbValue").first).to_have_text("2")
    go_to(page, "Layers")
    expect(page.get_by_role("heading", name="Layers", exact=True)).to_be_visible()
    expect(page.get_by_test_id("stSliderThumbValue").first).to_have_text("2")
    expect(page.get_by_label("Pair of tasks")).to_have_value("movies + movies-flip")
    expect(page.get_by_label("Block", exact=True)).to_have_value("value B, layer 1")
    settled(page)
    said = parse_qs(urlparse(page.url).query)
    assert (said["run"], said["steps"], said["pair"]) == (["made"], ["2", "5"], ["movies + movies-flip"])
    assert {"block", "step"} <= said.keys()  # the step that the page chose itself


def test_going_back_shows_what_was_chosen_before(page, server):
    page.goto(f"{server.address}/conflicts?run=made&pair=movies+%2B+trec")
    pair = page.get_by_label("Pair of tasks")
    expect(pair).to_have_value("movies + trec")
    choose(page, pair, "movies-flip + trec")
    expect(pair).to_have_value("movies-flip + trec")
    expect(page).to_have_url(re.compile("pair=movies-flip"))
    settled(page)
    page.go_back()
    expect(pair).to_have_value("movies + trec")


def test_the_pages_are_reached_by_keyboard(page, server):
    page.goto(server.address)
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    settled(page)
    reached = []
    for _ in range(20):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.innerText").strip().splitlines()[-1:])
        if reached[-1] == ["Diagnosis"]:
            break
    assert ["Launch"] in reached
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Diagnosis", exact=True)).to_be_visible()
