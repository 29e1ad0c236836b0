"""What axe finds on every page by WCAG 2.1 A and AA, light, dark and on a phone; and the pair chosen by keyboard."""

import json
from pathlib import Path

import axe_playwright_python
import pytest
from browsing import expect_said, go_to, settled
from playwright.sync_api import expect

from app.views.exercises import EXERCISES

pytestmark = pytest.mark.browser

AXE = Path(axe_playwright_python.__file__).with_name("axe.min.js").read_text()
LEVELS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]
# Of Streamlit's own markup, which is not ours to mend, by rule.
EXCLUDED = {
    # The lists of its navigation, which have headings and lines between their items.
    "list": "[data-testid=stSidebarNavItems]",
    "listitem": "[data-testid=stSidebarNavItems] li",
    # The label of what cannot be used, which WCAG lets be faint; the label does not tell so to a program.
    "color-contrast": ":is(.stSelectbox, .stMultiSelect):has(input:disabled) label *",
}
CHECK = """
async ([levels, excluded]) => {
    const { violations } = await axe.run({ runOnly: levels, resultTypes: ["violations"], elementRef: true });
    return violations.flatMap(({ id, nodes }) => nodes
        .filter(node => !(id in excluded && node.element?.matches(excluded[id])))
        .map(node => `${id}: ${node.html.slice(0, 200)} ${node.failureSummary}`));
}
"""
# Figures in which numbers of a heatmap, or titles, lie over each other; and whether the page must be scrolled sideways.
CRAMPED = """
() => {
    const over = (one, other) => one.left < other.right && other.left < one.right
        && one.top < other.bottom && other.top < one.bottom;
    const main = document.querySelector('[data-testid=stMain]');
    return [...document.querySelectorAll('.js-plotly-plot')].filter(plot => {
        const words = [...plot.querySelectorAll('.heatmap-label, .annotation-text')];
        const boxes = words.map(one => one.getBoundingClientRect());
        return boxes.some((one, index) => boxes.slice(index + 1).some(other => over(one, other)));
    }).map(plot => `words lie over each other: ${plot.closest('[class*=st-key-panels]').className}`)
        .concat(main.scrollWidth > main.clientWidth ? ['it is wider than the screen'] : []);
}
"""
PAGES = (
    "Start", "Launch", "Runs", "Conflicts", "Transfer", "Layers", "Projection", "Metrics", "Diagnosis", "Study",
    "Learn",
)  # fmt: skip
GUESSES = {one.key: one.choices[0] for several in EXERCISES.values() for one in several}  # so that the lesson is whole
WIDE, PHONE = {"width": 1440, "height": 1000}, {"width": 390, "height": 844}


def violations(page):
    settled(page)
    return page.evaluate(CHECK, [LEVELS, EXCLUDED])


@pytest.mark.parametrize("served", ["shipped", "lasting"], ids=["a run with a snapshot", "no run"])
def test_every_page_is_accessible_light_and_wide_dark_and_narrow(tabs, request, served):
    server, found = request.getfixturevalue(served), {}
    with tabs.watched(server.address, viewport=WIDE) as page:
        page.goto(server.address)
        page.add_script_tag(content=AXE)
        page.evaluate("kept => localStorage.setItem('ortho-lora-lesson', kept)", json.dumps(GUESSES))
        for name in PAGES:
            if name != "Start":
                page.get_by_test_id("stSidebarNav").get_by_role("link", name=name, exact=True).click()
                expect(page.get_by_role("heading", name=name, exact=True).first).to_be_visible()
            looks = [
                (WIDE, "light"),
                (PHONE, "dark"),
                *([(WIDE, "dark")] if name == "Start" else []),
            ]  # for the sidebar
            for size, colours in looks:
                page.set_viewport_size(size)
                page.emulate_media(color_scheme=colours)
                found[name, colours, size["width"]] = violations(page) + page.evaluate(CRAMPED)
            page.set_viewport_size(WIDE)
            page.emulate_media(color_scheme="light")
    assert {where: what for where, what in found.items() if what} == {}


def test_axe_finds_what_is_wrong(tabs, shipped):
    with tabs.watched(shipped.address) as page:
        page.goto(shipped.address)
        page.add_script_tag(content=AXE)
        settled(page)
        page.evaluate(
            "() => document.querySelector('[data-testid=stMain] p').insertAdjacentHTML('afterend',"
            " '<button></button><ul><p>not an item</p></ul><span style=\"color: #999; background: #fff\">faint</span>')"
        )
        told = {one.split(":")[0] for one in violations(page)}
    assert told == {"button-name", "list", "color-contrast"}


def test_the_pair_is_chosen_by_keyboard(tabs, shipped):
    with tabs.watched(shipped.address) as page:
        page.goto(shipped.address)
        for name in ("Start", "Conflicts"):
            if name != "Start":
                go_to(page, name)
            for pair in ("trec + tweets", "tweets + spam"):
                settled(page)
                page.get_by_label("Pair of tasks").focus()
                page.keyboard.type(pair)
                page.keyboard.press("Enter")
                expect_said(page, pair=pair)
