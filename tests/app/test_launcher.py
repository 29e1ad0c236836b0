"""Real processes, started, watched, stopped and killed."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from analysis.runs import open_run
from app import launcher
from ortho_lora.config import load_config
from ortho_lora.errors import OrthoLoraError
from ortho_lora.schema import read_run, read_status

SMALL = {"tasks": ["trec", "spam"], "batch_size": 4, "max_length": 16, "eval_examples": 16, "steps": 100_000, "rank": 2}


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


@pytest.fixture
def running(tmp_path):
    """A run that was launched and has done a few steps."""
    pid = launcher.start(load_config(overrides=SMALL), tmp_path, "mine")
    try:
        assert [(one.run_id, one.alive) for one in launcher.waiting(tmp_path)] == [("mine", True)]
        wait_for(lambda: (status := read_status(tmp_path / "mine")) and status.step >= 3)
        yield open_run(tmp_path, "mine")
    finally:
        if psutil.pid_exists(pid):
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def test_launched_run_trains_with_the_configuration_and_stops_when_asked(running, tmp_path):
    assert running.state == "running"
    assert launcher.waiting(tmp_path) == []
    assert read_run(running.path).config["tasks"][1]["name"] == "spam"
    assert os.getpgid(running.status.pid) != os.getpgid(0)
    assert launcher.stop(running.status.pid, running.status.process_start_time)
    assert wait_for(lambda: open_run(tmp_path, "mine").state) in ("running", "stopped")
    wait_for(lambda: open_run(tmp_path, "mine").state == "stopped")
    assert (running.path / "adapter" / "heads.safetensors").exists()


def test_killed_run_is_lost_and_reads_back(running, tmp_path):
    os.kill(running.status.pid, signal.SIGKILL)
    wait_for(lambda: open_run(tmp_path, "mine").state == "lost")  # also while it is a zombie
    assert not launcher.stop(running.status.pid, running.status.process_start_time)
    assert read_status(running.path).step >= 3


def test_name_that_exists_is_refused(tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(OrthoLoraError, match="run 'mine' exists.*choose another name"):
        launcher.start(load_config(overrides=SMALL), tmp_path, "mine")


def test_start_that_fails_says_why_and_can_be_dismissed(tmp_path):
    absent = {"name": "absent", "path": str(tmp_path / "absent.csv"), "text": "a", "label": "b"}
    pid = launcher.start(load_config(overrides=SMALL | {"tasks": [absent]}), tmp_path, "mine")
    (ended,) = wait_for(lambda: [one for one in launcher.waiting(tmp_path) if not one.alive])
    os.waitpid(pid, 0)
    assert "error:" in ended.output
    assert "absent.csv" in ended.output
    assert "Traceback" not in ended.output
    launcher.stop_waiting(tmp_path, "mine")
    assert launcher.waiting(tmp_path) == []


def test_another_process_with_the_pid_is_never_stopped():
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        started = psutil.Process(process.pid).create_time()
        assert not launcher.stop(process.pid, started - 100)
        assert process.poll() is None
        assert launcher.stop(process.pid, started)
        assert process.wait(timeout=10) == -signal.SIGTERM


def test_damaged_launch_files_are_survived(tmp_path):
    (tmp_path / ".launch").mkdir()
    (tmp_path / ".launch" / "a.json").write_text("{")
    (tmp_path / ".launch" / "b.json").write_text(json.dumps({"pid": "x"}))
    assert [(one.run_id, one.alive) for one in launcher.waiting(tmp_path)] == [("a", False), ("b", False)]
