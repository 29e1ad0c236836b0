"""Runs that are launched, watched and queued in a real browser outlive the pages and the server."""

import os
import re
import signal

import pytest
from playwright.sync_api import expect
from waiting import wait_for

from app.launching import launcher
from ortho_lora.launching.queue import tickets
from ortho_lora.record.schema import read_status
from ortho_lora.training.config import load_config

pytestmark = pytest.mark.browser

SMALL = {
    "tasks": ["movies", "movies@0.7"], "batch_size": 4, "max_length": 16, "eval_examples": 16, "eval_every": 1000,
    "rank": 2, "steps": 100_000, "dropout": 0.0,
}  # fmt: skip


@pytest.fixture
def server(own_server):
    """It is stopped, and started again."""
    return own_server


def test_run_is_watched_across_reload_and_restart_stopped_and_resumed(open_launch, server):
    launcher.start(load_config(overrides=SMALL), server.runs_dir, "mine")
    page = open_launch()
    under_way = re.compile(r"mine · ortho-lora · ▶ running, training, step \d+ of 100000")
    expect(page.get_by_text(under_way)).to_be_visible()
    page.wait_for_function("() => document.querySelectorAll('.js-plotly-plot').length === 2")

    page.reload()
    expect(page.get_by_text(under_way)).to_be_visible()
    step = read_status(server.runs_dir / "mine").step

    page.goto("about:blank")
    server.stop()
    server.start()
    page = open_launch()
    expect(page.get_by_text(under_way)).to_be_visible()
    assert read_status(server.runs_dir / "mine").step > step

    page.get_by_role("button", name="Stop").click()
    stopped = page.get_by_text(re.compile(r"^■ mine stopped after step \d+ of 100000"))
    expect(stopped).to_be_visible()
    step = read_status(server.runs_dir / "mine").step

    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_text(under_way)).to_be_visible()
    expect(stopped).to_have_count(0)
    assert read_status(server.runs_dir / "mine").step >= step


def test_second_run_waits_moves_up_without_a_server_and_finishes(open_launch, server, hold):
    page = open_launch()
    for name, steps in (("first", "100000"), ("second", "3")):
        page.get_by_label("Name", exact=True).fill(name)
        for label, value in (("Steps", steps), ("Batch size", "2")):
            page.get_by_label(label, exact=True).fill(value)
        page.get_by_role("tab", name="Evaluation, recording").click()
        page.get_by_label("Evaluation examples", exact=True).fill("8")
        page.get_by_label("Snapshots", exact=True).fill("0")
        page.get_by_label("Snapshots", exact=True).press("Tab")
        expect(page.get_by_text("Evaluation examples: 128 → 8")).to_be_visible()
        page.get_by_role("tab", name="Main").click()
        page.get_by_role("button", name="Start training").click()
        expect(page.get_by_text(re.compile(f"{name} · "))).to_be_visible()
        expect(page.get_by_label("Name", exact=True)).to_have_value("")
        if name == "first":
            hold("first")
    expect(page.get_by_text("second · ◌ queued, the next one")).to_be_visible()

    page.goto("about:blank")
    server.stop()
    os.kill(tickets(server.runs_dir)["first"].pid, signal.SIGCONT)
    wait_for(lambda: read_status(server.runs_dir / "first"))
    assert launcher.stop(server.runs_dir, "first")
    wait_for(lambda: (status := read_status(server.runs_dir / "second")) and status.state == "finished")
    server.start()
    page = open_launch()
    expect(page.get_by_text(re.compile("^✓ second finished"))).to_be_visible()
    assert read_status(server.runs_dir / "second").step == 3
    # One ended before the next began.
    ends = [read_status(server.runs_dir / name) for name in ("first", "second")]
    assert [status.state for status in ends] == ["stopped", "finished"]
    assert ends[0].heartbeat < ends[1].heartbeat
