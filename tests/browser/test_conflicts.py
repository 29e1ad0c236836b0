"""What only a browser shows of Conflicts and Layers: a click on a cell, and a link that opens the same view."""

import re
from urllib.parse import parse_qs, quote_plus, urlparse

import numpy as np
import pytest
from browsing import check_row, expect_said, settled
from playwright.sync_api import expect

from analysis.conflict.queries import Selection, blocks
from ortho_lora.record.files import replace_text
from ortho_lora.record.manifest import Manifest, read_manifest

pytestmark = pytest.mark.browser

TASKS = ("movies", "tweets", "trec")
DRAWN = "count => document.querySelectorAll('.js-plotly-plot .cartesianlayer').length >= count"
# Where on the screen a cell with this customdata is, of the figure and panel with these places.
PLACE = """
([plot, panel, wanted]) => {
    const figure = document.querySelectorAll('.js-plotly-plot')[plot];
    const traces = figure._fullData.filter(trace => trace.type === 'heatmap');
    const axis = [...new Set(traces.map(trace => trace.xaxis))][panel];
    const is = found => JSON.stringify(found) === JSON.stringify(wanted);
    const trace = traces.find(trace => trace.xaxis === axis && trace.customdata.some(cells => cells.some(is)));
    const row = trace.customdata.findIndex(cells => cells.some(is));
    const column = trace.customdata[row].findLastIndex(is);
    const x = figure._fullLayout[trace.xaxis.replace('x', 'xaxis')];
    const y = figure._fullLayout[trace.yaxis.replace('y', 'yaxis')];
    figure.scrollIntoView({block: 'center'});
    const frame = figure.getBoundingClientRect();
    return [frame.left + x._offset + x.d2p(trace.x[column]), frame.top + y._offset + y.d2p(trace.y[row])];
}
"""


@pytest.fixture
def run(server, records):
    """A synthetic run in the server's directory."""
    halves = np.random.default_rng(0).standard_normal((12, 2, 2, 2, 3, 2, 8))
    info = records.run_info("only", [records.task_info(task) for task in TASKS])
    return records.write_run(server.runs_dir / "only", info, records.status(), records.gradient_tables(halves, TASKS))


@pytest.fixture
def page(tabs, server):
    """A page; it fails the test where it reports an error or asks another machine."""
    with tabs.watched(server.address, deep_links=True, viewport={"width": 1440, "height": 1000}) as page:
        yield page


def click(page, *place):
    settled(page)
    x, y = page.evaluate(PLACE, list(place))
    page.mouse.click(x + 3, y + 3)


def chosen(page, key):
    return parse_qs(urlparse(page.url).query).get(key)


def test_a_click_on_a_cell_chooses_its_pair_and_a_link_opens_it(tabs, server, run, page):
    page.goto(f"{server.address}/conflicts")
    page.wait_for_function(DRAWN, arg=3)
    for panel, wanted, pair in ((0, ["tweets", "trec"], "tweets + trec"), (1, ["movies", "tweets"], "movies + tweets")):
        click(page, 0, panel, wanted)
        expect(page.get_by_label("Pair of tasks")).to_have_value(pair)
    link = page.url
    assert chosen(page, "pair") == ["movies + tweets"]
    with tabs.watched(server.address, deep_links=True) as other:
        other.goto(link)
        expect(other.get_by_label("Pair of tasks")).to_have_value("movies + tweets")


# Where on the screen a figure's point at this place among those that are clicked is, and what it stands for.
POINT = """
([name, place]) => {
    const figure = document.querySelector(`.st-key-figure-${name} .js-plotly-plot`);
    const trace = figure._fullData.find(trace => trace.customdata);
    const {xaxis, yaxis} = figure._fullLayout;
    figure.scrollIntoView({block: 'center'});
    const frame = figure.getBoundingClientRect();
    const x = frame.left + xaxis._offset + xaxis.d2p(trace.x[place]);
    const y = frame.top + yaxis._offset + yaxis.d2p(trace.y[place]);
    return [x, y, trace.customdata[place]];
}
"""


def click_point(page, name, place):
    settled(page)
    x, y, found = page.evaluate(POINT, [name, place])
    page.mouse.click(x, y)
    return found


def test_clicks_on_the_answer_and_on_an_arrow_choose_their_pair(tabs, shipped):
    with tabs.watched(shipped.address) as page:
        page.goto(f"{shipped.address}/?run=sample-demo")
        page.wait_for_function(DRAWN, arg=3)
        click(page, 0, 0, ["spam", "trec"])
        expect_said(page, pair="trec + spam")
        ends = click_point(page, "graph", 0)
        either = "|".join(re.escape(quote_plus(" + ".join(two))) for two in (ends, ends[::-1]))
        expect(page).to_have_url(re.compile(f"[?&]pair=({either})(&|$)"))


def test_clicks_lead_from_blocks_to_one_step(server, run, page):
    page.goto(f"{server.address}/layers?pair=movies+%2B+trec")
    page.wait_for_function(DRAWN, arg=2)
    click(page, 1, 1, ["B", 1, "query"])
    expect(page.get_by_label("Block", exact=False).last).to_have_value("query B, layer 1")
    page.wait_for_function(DRAWN, arg=4)  # its steps, and all tasks in one of them
    for step in (5, 0):
        assert click_point(page, "block-history", step) == step
        expect_said(page, step=str(step))
        expect(page.get_by_label("Step", exact=True)).to_have_value(str(step))


def test_a_row_of_the_worst_blocks_is_followed(server, run, page):
    page.goto(f"{server.address}/layers?pair=movies+%2B+trec")
    page.wait_for_function(DRAWN, arg=2)
    worst = blocks(run, Selection()).nsmallest(3, "cos").iloc[2]
    check_row(page, page.locator(".st-key-worst").get_by_test_id("stDataFrame"), 2)
    block = f"{worst['module']} {worst['branch']}, layer {worst['layer']}"
    expect(page.get_by_label("Block", exact=False).last).to_have_value(block)
    expect(page.get_by_label("Pair of tasks")).to_have_value(f"{worst['task_i']} + {worst['task_j']}")


RANGE = "() => document.querySelectorAll('.st-key-figure-pair-over-steps .js-plotly-plot')[0]._fullLayout.xaxis.range"
# Of no figure while one takes another's place.
LAST = """
() => document.querySelector('.st-key-figure-pair-over-steps .js-plotly-plot')
    ?._fullData?.map(trace => Math.max(...trace.x)).reduce((one, other) => Math.max(one, other))
"""


def test_pause_keeps_the_zoom_while_the_run_goes_on(server, records, page):
    def record(steps):
        """Let these many of the steps be on disk."""
        known = {table: parts[:steps] for table, parts in whole.parts.items()}
        replace_text(live / "manifest.json", Manifest(parts=known).model_dump_json())

    halves = np.random.default_rng(0).standard_normal((12, 2, 2, 2, 3, 2, 8))
    info = records.run_info("live", [records.task_info(task) for task in TASKS])
    tables = records.gradient_tables(halves, TASKS)
    live = records.write_run(server.runs_dir / "live", info, records.status("running", step=6), tables, parts=12)
    whole = read_manifest(live)
    record(6)
    page.goto(f"{server.address}/conflicts")
    page.wait_for_function(DRAWN, arg=3)
    page.get_by_text("Pause", exact=True).click()
    settled(page)
    figure = page.locator(".st-key-figure-pair-over-steps .nsewdrag").first
    figure.scroll_into_view_if_needed()
    settled(page)
    place = figure.bounding_box()
    page.mouse.move(place["x"] + 0.3 * place["width"], place["y"] + place["height"] / 2)
    page.mouse.down()
    page.mouse.move(place["x"] + 0.6 * place["width"], place["y"] + place["height"] / 2, steps=5)
    page.mouse.up()
    settled(page)
    zoomed = page.evaluate(RANGE)
    assert zoomed[1] - zoomed[0] < 2.5
    for steps in (7, 8, 9):
        record(steps)
        page.wait_for_timeout(2500)
    assert page.evaluate(RANGE) == zoomed
    assert page.evaluate(LAST) == 5
    page.get_by_text("Pause", exact=True).click()
    page.wait_for_function(f"() => ({LAST.strip()})() === 8")
    record(12)
    page.wait_for_function(f"() => ({LAST.strip()})() === 11")  # it follows again
