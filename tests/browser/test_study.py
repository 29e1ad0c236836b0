"""The Study page in a real browser: what it shows at two widths, and that it follows a study."""

import time

import pytest
from playwright.sync_api import expect

pytestmark = pytest.mark.browser


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (1024, "dark")])
def test_a_study_in_light_and_dark(tabs, server, records, studies, width, scheme):
    studies.tuned(studies.Maker(records, server.runs_dir)).write()
    options = {"viewport": {"width": width, "height": 900}, "color_scheme": scheme}
    with tabs.watched(server.address, deep_links=True, **options) as page:
        page.goto(f"{server.address}/study")
        expect(page.get_by_text("joint-rank32 gained more")).to_be_visible()
        expect(page.get_by_role("heading", name="Runs", exact=True)).to_be_visible()
        expect(page.locator(".js-plotly-plot")).to_have_count(2)
        main = page.get_by_test_id("stMain")
        assert main.evaluate("element => element.scrollWidth <= element.clientWidth")


def test_a_study_that_goes_on_is_followed(tabs, server, records, studies):
    maker = studies.Maker(records, server.runs_dir)
    studies.three_methods(maker)
    name = maker.add("pcgrad", 0, dict.fromkeys(studies.TASKS, 0.7))
    status = server.runs_dir / name / "status.json"
    maker.write(phase="reporting")
    ended = status.read_text()
    status.write_text(records.status("running", step=3, heartbeat=time.time() + 60).model_dump_json())
    with tabs.watched(server.address, deep_links=True) as page:
        page.goto(f"{server.address}/study")
        expect(page.get_by_text("9 of 10 planned runs have finished")).to_be_visible()
        status.write_text(ended)
        expect(page.get_by_text("10 of 10 planned runs have finished")).to_be_visible()
