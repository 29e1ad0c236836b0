"""A report in a real browser: drawn, light and dark, offline, and not taken over by the names in it."""

import pytest
from playwright.sync_api import expect

from analysis.library.runs import open_run
from analysis.report.page import write_report

pytestmark = pytest.mark.browser

DRAWN = "() => document.documentElement.dataset.drawn"
INK = "() => getComputedStyle(document.querySelector('.plot .xtick text')).fill"


@pytest.fixture(scope="module")
def report(records, tmp_path_factory):
    """The report on a run whose every name is hostile."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    run = records.write_hostile(path.parent / "hostile")
    write_report([open_run(run.parent, run.name)], path)
    return path


class Visit:
    """A page with all that it said and asked for."""

    def __init__(self, browser, path, **options):
        self.context = browser.new_context(**options)
        self.said, self.requests = [], []
        self.context.on("console", lambda message: self.said.append(message.text))
        self.context.on("weberror", lambda error: self.said.append(str(error.error)))
        self.context.on("request", lambda request: self.requests.append(request.url))
        self.page = self.context.new_page()
        self.page.goto(path.as_uri())
        self.page.wait_for_function(DRAWN)


@pytest.fixture
def visit(browser, report):
    """Opens the report: visit(**options of the browser's context)."""
    visits = []

    def opened(**options):
        visits.append(Visit(browser, report, **options))
        return visits[-1]

    yield opened
    for one in visits:
        one.context.close()


def test_it_draws_everything_and_asks_for_nothing(visit, report):
    seen = visit()
    page = seen.page
    assert page.locator(".plot .main-svg").count() >= page.locator(".plot").count() >= 10
    assert page.locator(".heatmaplayer image").count() >= 8
    page.locator(".plot").first.hover()
    buttons = page.locator(".modebar-btn").evaluate_all("all => all.map(one => one.dataset.title)")
    assert set(buttons) == {
        "Download plot as a PNG", "Zoom", "Pan", "Zoom in", "Zoom out", "Autoscale", "Reset axes",
    }  # fmt: skip
    assert page.locator(".modebar a[href]").count() == 0
    assert [url for url in seen.requests if not url.startswith("data:")] == [report.as_uri()]
    assert seen.said == []


def test_names_are_shown_and_not_obeyed(visit, records):
    page = visit().page
    assert page.title() == "hostile – Ortho-LoRA report"  # what the names would change
    assert page.locator("img").count() == 0
    assert page.locator(".plot a[href], .plot foreignObject").count() == 0
    ticks = page.locator("[id='run1-matrix'] .ytick").evaluate_all("all => all.map(one => one.textContent)")
    assert set(records.HOSTILE) <= set(ticks)
    legend = page.locator("[id='run1-weights'] .legendtext").evaluate_all("all => all.map(one => one.textContent)")
    assert legend == list(records.HOSTILE)
    page.locator("[id='run1-matrix'] .plot").scroll_into_view_if_needed()
    box = page.locator("[id='run1-matrix'] .heatmaplayer image").first.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 3 / 8, box["y"] + box["height"] / 8)
    hover = page.locator("[id='run1-matrix'] .hovertext").first
    expect(hover).to_contain_text(records.HOSTILE[0])
    expect(hover).to_contain_text(records.HOSTILE[1])


def test_the_policy_stops_what_would_slip_through(visit):
    seen = visit()
    seen.page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "document.title = 'taken'";
            document.body.append(script);
            const image = new Image();
            image.src = "https://example.org/pixel.png";
            document.body.append(image);
        }"""
    )
    seen.page.wait_for_timeout(300)
    assert seen.page.title() != "taken"
    assert len([words for words in seen.said if "Content Security Policy" in words]) == 2


def test_it_follows_the_light(visit):
    seen = visit(color_scheme="dark")
    assert seen.page.evaluate(INK) == "rgb(250, 250, 250)"
    seen.page.emulate_media(color_scheme="light")
    seen.page.wait_for_function(f"() => ({INK})() === 'rgb(38, 39, 48)'")
    assert seen.said == []


def test_before_printing_it_turns_light_and_narrow(visit):
    page = visit(color_scheme="dark").page
    page.evaluate(
        f"""() => addEventListener("beforeprint", () => {{
            window.printed = [document.querySelector(".main-svg").getAttribute("width"), ({INK})(),
                document.querySelector(".setup").open];
        }})"""
    )
    page.pdf()
    assert page.evaluate("window.printed") == ["680", "rgb(38, 39, 48)", True]
    page.wait_for_function(f"() => ({INK})() === 'rgb(250, 250, 250)'")


@pytest.mark.parametrize("width", [390, 1024, 1440])
def test_it_fits_the_window(visit, width):
    page = visit(viewport={"width": width, "height": 900}).page
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    plots = page.locator(".plot").evaluate_all("all => all.map(one => one.getBoundingClientRect())")
    assert all(plot["left"] >= 0 and plot["right"] <= width for plot in plots)


def test_it_can_be_read_with_the_keyboard(visit):
    page = visit().page
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the report")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_role("navigation").get_by_role("link").first).to_be_focused()
    plot = page.locator("[id='run1-matrix']").get_by_role("group", name="Verdicts on pairs and branches: ")
    expect(plot.get_by_role("button", name="Download plot as a PNG")).to_have_count(1)
    numbers = page.locator("[id='run1-matrix'] summary")
    numbers.focus()
    page.keyboard.press("Enter")
    expect(page.locator("[id='run1-matrix'] table")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.locator("[id='run1-matrix'] .scroll")).to_be_focused()


def test_without_scripts_the_numbers_remain(browser, report):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    assert page.locator("figure table").count() == page.locator("figure").count()
    context.close()
