"""Metrics and Projection in a real browser: a link reopens what was chosen, and a replay is drawn."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from browsing import choose, go_to, settled
from playwright.sync_api import expect

pytestmark = pytest.mark.browser
ROOT = Path(__file__).resolve().parents[2]
TASKS = ("movies", "trec", "tweets")


@pytest.fixture
def two_seeds(server, records):
    """Two joint runs that differ in their seed."""
    for seed in (0, 1):
        rng = np.random.default_rng(seed)
        tables = records.gradient_tables(rng.standard_normal((8, 2, 2, 2, 3, 2, 8)), TASKS)
        tables["steps"] = pd.DataFrame(
            [
                {"step": step, "task": task, "loss": 1.0, "learning_rate": 1e-3, "seconds": 0.5 + seed, "order": place}
                for step in range(8)
                for place, task in enumerate(TASKS)
            ]
        )
        tables["metrics"] = pd.DataFrame(
            [
                {"step": step, "split": "validation", "task": task, "metric": "accuracy", "value": 0.5, "examples": 50}
                for step in (0, 8)
                for task in TASKS
            ]
        ).assign(value=rng.uniform(size=6))
        tasks = [records.task_info(task) for task in TASKS]
        fields = {"method": "joint", "rule": "sum", "seed": seed, "config": {"seed": seed, "rank": 8}}
        info = records.run_info(f"joint-{seed}", tasks, created=1.7e9 - seed, **fields)
        records.write_run(server.runs_dir / f"joint-{seed}", info, records.status(), tables)
    return server


def open_page(page, server, name):
    page.goto(server.address)
    go_to(page, name)


def test_a_link_reopens_seeds_and_axis_in_a_new_tab(tabs, two_seeds):
    with tabs.watched(two_seeds.address) as page:
        open_page(page, two_seeds, "Metrics")
        choose(page, page.get_by_role("combobox", name=re.compile("Compare with")), "joint-1")
        page.keyboard.press("Escape")
        page.get_by_text("Average seeds").click()
        page.get_by_role("radio", name="Seconds").or_(page.get_by_role("button", name="Seconds")).first.click()
        expect(page.locator(".js-plotly-plot .xtitle").first).to_have_text("seconds of training")
        expect(page).to_have_url(re.compile("seeds=true"))
        address = page.url
    with tabs.watched(two_seeds.address, deep_links=True) as page:
        page.goto(address)
        expect(page.locator(".js-plotly-plot .xtitle").first).to_have_text("seconds of training")
        settled(page)
        legend = page.evaluate("() => document.querySelector('.js-plotly-plot')._fullData.map(trace => trace.name)")
        drawn = page.evaluate(
            "() => Array.from(document.querySelector('.js-plotly-plot')._fullData).map(trace => Math.max(...trace.x))"
        )
    assert "joint, 2 seeds" in legend
    assert max(drawn) == pytest.approx(8.0)  # the mean of 8 steps of 0.5 s and of 1.5 s


def test_replay_of_a_joint_run_is_drawn(tabs, two_seeds):
    options = {"viewport": {"width": 1024, "height": 900}, "color_scheme": "dark"}
    with tabs.watched(two_seeds.address, **options) as page:
        open_page(page, two_seeds, "Projection")
        page.get_by_role("button", name="Replay").click()
        expect(page.get_by_text("Tasks harmed").first).to_be_visible()
        expect(page.locator(".js-plotly-plot").first.get_by_text("sum (taken)")).to_be_visible()
