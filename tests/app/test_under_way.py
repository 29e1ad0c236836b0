"""What the sidebar of every page says of runs that train or wait, and the demo run that trains beside the dashboard."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from streamlit.testing.v1 import AppTest
from waiting import PATIENCE, wait_for

import ortho_lora.launching.queue as queue
from app import __main__ as command
from app.launching import launcher
from app.launching.launcher import Launch
from ortho_lora.errors import OrthoLoraError
from ortho_lora.launching.queue import Ticket

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = "from app.launching import under_way\nunder_way.show()\n"


def look():
    test = AppTest.from_string(SCRIPT, default_timeout=PATIENCE).run()
    assert not test.exception
    return test


def test_nothing_is_said_where_nothing_is_under_way(add_run):
    add_run("done")
    test = look()
    assert not [*test.caption, *test.get("progress"), *test.button]


def test_a_run_that_trains_has_its_progress_and_can_be_shown(add_run):
    add_run("only", "running", {"step": 5, "total": 20, "phase": "training"})
    test = look()
    ((bar,),) = [test.get("progress")]
    assert (bar.proto.value, bar.proto.text) == (25, "▶ **only**: training, step 5 of 20")
    test.button[0].click().run()
    assert test.session_state["run"] == "only"
    assert not test.button  # it is shown by now


def test_launches_are_told_and_of_many_the_number(monkeypatch, runs_dir):
    waiting = [Launch(f"run-{n}", "queued", n, False, "") for n in range(1, 6)]
    monkeypatch.setattr(launcher, "launches", lambda runs_dir: waiting)
    assert [caption.value.replace("\\", "") for caption in look().caption] == [
        "◌ run-1: queued", "◌ run-2: queued", "◌ run-3: queued", "and 2 more",
    ]  # fmt: skip


@pytest.fixture
def served(monkeypatch):
    """What the dashboard would be served with, and what was launched for it."""
    found = {"options": [], "launched": []}
    monkeypatch.setattr("streamlit.web.cli.main", lambda arguments, prog_name: found["options"].append(arguments[2:]))
    monkeypatch.setattr(launcher, "start", lambda *arguments: found["launched"].append(arguments))
    return found


def test_the_demo_is_launched_where_there_is_no_run(served, runs_dir, add_run, capsys):
    command.serve(["--server.port", "9000"])
    assert not served["launched"]
    command.serve(["--demo", "--server.port", "9000"])
    ((config, where, name),) = served["launched"]
    assert (config.steps, where, name) == (40, runs_dir, "demo")
    assert "goes on when you close the dashboard" in capsys.readouterr().out
    add_run("mine")
    command.serve(["--demo"])
    assert len(served["launched"]) == 1
    assert served["options"] == [["--server.port", "9000"], ["--server.port", "9000"], []]


def test_the_dashboard_opens_where_the_demo_cannot_be_trained(served, monkeypatch, runs_dir, capsys):
    def refuse(*_):
        raise OrthoLoraError("the disk is full.")

    monkeypatch.setattr(launcher, "start", refuse)
    command.serve(["--demo"])
    assert capsys.readouterr().err == "The demo run is not trained: the disk is full.\n"
    assert served["options"] == [[]]


def test_ctrl_c_ends_the_dashboard_and_the_demo_goes_on(runs_dir, tmp_path):
    """In a terminal Ctrl-C reaches all processes of the dashboard's group, and a hangup its session: not the demo's."""
    code = (
        "import signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # who runs tests may ignore it
        "sys.argv[1:] = ['--demo', '--server.port', '0']\n"
        "from app.__main__ import main\n"
        "main()"
    )
    with (tmp_path / "output").open("wb") as output:
        dashboard = subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, stdout=output, stderr=output, start_new_session=True
        )
    demo = None
    try:
        wait_for(lambda: queue.read_ticket(runs_dir, "demo"), dashboard, tmp_path / "output")
        demo = psutil.Process(queue.read_ticket(runs_dir, "demo").pid)
        with queue.lock(runs_dir):  # it need not train: this process stands for a run that does, so it waits
            queue.write_ticket(runs_dir, "other", Ticket.of(psutil.Process()).model_copy(update={"started": True}))
        wait_for(lambda: b"URL" in (tmp_path / "output").read_bytes(), dashboard, tmp_path / "output")
        os.killpg(dashboard.pid, signal.SIGINT)
        dashboard.wait(PATIENCE)
        assert os.getsid(demo.pid) == demo.pid != dashboard.pid
        assert queue.read_ticket(runs_dir, "demo").alive
    finally:
        dashboard.kill()
        if demo is not None:
            demo.kill()
            wait_for(lambda: not queue.read_ticket(runs_dir, "demo").alive)
