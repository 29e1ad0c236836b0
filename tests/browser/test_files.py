"""What of a page can be taken along: its figures and numbers as files, and the page on paper."""

import io

import pandas as pd
import pytest
from browsing import go_to, settled
from PIL import Image
from playwright.sync_api import expect

pytestmark = pytest.mark.browser

TASKS = ("trec", "tweets", "spam", "spam-flip0.7")


@pytest.fixture(params=["light", "dark"])
def page(tabs, shipped, request):
    options = {"color_scheme": request.param, "viewport": {"width": 1440, "height": 1000}}
    with tabs.watched(shipped.address, **options) as page:
        page.goto(shipped.address)
        settled(page)
        yield page


def file_of(page, form, place=0):
    """The name and the bytes of what the button of this name brings, the first of its kind or a later one."""
    with page.expect_download() as brought:
        page.get_by_role("button", name=form, exact=True).nth(place).click()
    return brought.value.suggested_filename, brought.value.path().read_bytes()


def test_a_figure_is_brought_as_svg_png_and_numbers(page):
    page.get_by_text("Numbers and files").first.click()
    page.get_by_text("Files", exact=True).click()
    settled(page)
    shown = page.locator(".js-plotly-plot").first.bounding_box()
    ground = page.evaluate("getComputedStyle(document.querySelector('.stApp')).backgroundColor")

    name, svg = file_of(page, "SVG")
    assert name == "answer.svg"
    assert all(task in svg.decode() for task in TASKS)
    assert f"fill: {ground}" in svg.decode()  # else light letters stand on white

    name, png = file_of(page, "PNG")
    picture = Image.open(io.BytesIO(png))
    assert name == "answer.png"
    assert picture.size == (int(2 * shown["width"]), int(2 * shown["height"]))
    assert f"rgb{picture.convert('RGB').getpixel((0, 0))}" == ground

    name, graph = file_of(page, "SVG", 1)
    assert name == "graph.svg"
    assert graph != svg

    _, csv = file_of(page, "CSV")
    _, parquet = file_of(page, "Parquet")
    numbers = pd.read_csv(io.BytesIO(csv))
    assert set(numbers["source"]) == set(TASKS)
    pd.testing.assert_frame_equal(numbers, pd.read_parquet(io.BytesIO(parquet)), check_dtype=False, rtol=1e-6)


# Of each figure its width and height on a sheet narrower than the screen, and those of its drawing.
ON_PAPER = """
sheet => {
    dispatchEvent(new Event("beforeprint"));
    document.querySelector("[data-testid=stMainBlockContainer]").style.width = `${sheet}px`;
    return [...document.querySelectorAll(".js-plotly-plot .main-svg:first-child")].map(svg => {
        const { width, height } = svg.getBoundingClientRect();
        return [width, height, svg.viewBox.baseVal.width, svg.viewBox.baseVal.height];
    });
}
"""


def test_a_page_is_printed_without_controls_and_with_whole_figures(tabs, shipped):
    with tabs.watched(shipped.address, viewport={"width": 1440, "height": 1000}) as page:
        page.goto(shipped.address)
        go_to(page, "Conflicts")
        page.get_by_text("What the rule saw, step by step").click()  # what is open is printed
        expect(page.locator(".js-plotly-plot .main-svg:first-child")).to_have_count(3)
        settled(page)
        kept = page.get_by_label("Pair of tasks")  # which says what is shown
        away = page.locator("[data-testid=stSidebar], [data-testid=stHeader], details:not([open])").filter(visible=True)
        assert away.count() > 3
        page.emulate_media(media="print")
        expect(away).to_have_count(0)
        expect(kept).to_be_visible()
        drawn = page.evaluate(ON_PAPER, 600)
        assert len(drawn) == 3
        for width, height, whole, high in drawn:
            assert width <= 600 < whole
            assert width / height == pytest.approx(whole / high, rel=0.01)
        page.evaluate("() => dispatchEvent(new Event('afterprint'))")
        assert page.locator(".main-svg[viewBox]").count() == 0
