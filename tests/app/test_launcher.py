"""Real processes: launched, waiting, stopped, killed and gone on with."""

import os
import signal
import subprocess
import sys

import psutil
import pytest
from waiting import PATIENCE, wait_for

import ortho_lora.launching.queue as queue
from analysis.library.runs import open_run
from app.launching import launcher
from ortho_lora.errors import OrthoLoraError
from ortho_lora.launching.queue import Ticket
from ortho_lora.record.schema import read_run, read_status
from ortho_lora.training.config import load_config

SMALL = {"tasks": ["trec", "spam"], "batch_size": 4, "max_length": 16, "eval_examples": 16, "steps": 100_000, "rank": 2}
GONE = Ticket(pid=2**22 - 1, process_start_time=1.0)


def states(runs_dir):
    return [(one.run_id, one.state, one.place) for one in launcher.launches(runs_dir)]


@pytest.fixture
def start(tmp_path):
    """Launches a run, or any other process: start(name), start(function)."""
    started = []

    def launch(what, **settings):
        made = what() if callable(what) else launcher.start(load_config(overrides=SMALL | settings), tmp_path, what)
        started.append(psutil.Process(made))
        return started[-1]

    yield launch
    for process in started:
        if process.is_running():
            os.killpg(process.pid, signal.SIGKILL)
    for child in launcher._children:
        child.wait(timeout=PATIENCE)


@pytest.fixture
def running(start, tmp_path):
    """A run that was launched and has done a few steps."""
    start("mine")
    assert [state for _, state, _ in states(tmp_path)] in (["queued"], ["starting"])
    wait_for(lambda: (status := read_status(tmp_path / "mine")) and status.step >= 3)
    return open_run(tmp_path, "mine")


def test_launched_run_trains_with_the_configuration_stops_when_asked_and_goes_on(running, start, tmp_path):
    assert running.state == "running"
    assert states(tmp_path) == []
    assert read_run(running.path).config["tasks"][1]["name"] == "spam"
    assert os.getsid(running.status.pid) == running.status.pid  # a session of its own
    assert not launcher.can_resume(running)
    with pytest.raises(OrthoLoraError, match="run 'mine' is running: only a run that was stopped"):
        launcher.resume(running.path)

    assert launcher.stop(tmp_path, "mine")
    assert launcher.stop_asked(running) or open_run(tmp_path, "mine").state == "stopped"
    wait_for(lambda: open_run(tmp_path, "mine").state == "stopped")
    assert (running.path / "adapter" / "heads.safetensors").exists()
    stopped = open_run(tmp_path, "mine")
    assert launcher.can_resume(stopped)

    start(lambda: launcher.resume(running.path))  # at once, while the process that trained it is about to go
    assert [(one.resumes, one.alive) for one in launcher.launches(tmp_path)] == [(True, True)]
    wait_for(lambda: read_status(running.path).step > stopped.status.step)
    assert open_run(tmp_path, "mine").state == "running"
    assert states(tmp_path) == []
    with pytest.raises(OrthoLoraError, match="run 'mine' exists"):
        start("mine")


def test_killed_run_is_lost_reads_back_and_can_be_gone_on_with(running, tmp_path):
    os.kill(running.status.pid, signal.SIGKILL)
    wait_for(lambda: open_run(tmp_path, "mine").state == "lost")  # also while it is a zombie
    assert not launcher.stop(tmp_path, "mine")
    assert launcher.can_resume(open_run(tmp_path, "mine"))
    # Reaped by looking, when all of its threads have ended.
    wait_for(lambda: launcher.launches(tmp_path) is not None and not psutil.pid_exists(running.status.pid))


def test_queue_of_two_goes_on_by_itself(start, tmp_path):
    first, second = start("first"), start("second", steps=2)
    start("third")
    assert [one.run_id for one in launcher.launches(tmp_path)] == ["first", "second", "third"]
    wait_for(lambda: states(tmp_path)[0][:2] == ("first", "starting"))
    assert states(tmp_path)[1:] == [("second", "queued", 1), ("third", "queued", 2)]
    with pytest.raises(OrthoLoraError, match="run 'second' waits or starts already"):
        start("second")
    wait_for(lambda: "waits for its turn, at place 1" in launcher.launches(tmp_path)[1].output)
    assert second.memory_info().rss < first.memory_info().rss

    assert launcher.stop(tmp_path, "third")
    wait_for(lambda: "third" not in [one for one, _, _ in states(tmp_path)])
    assert launcher.stop(tmp_path, "first")  # that loads: it ends now, or after its first step
    wait_for(lambda: (status := read_status(tmp_path / "second")) and status.state == "finished")
    assert not (tmp_path / "third").exists()


def test_start_that_fails_says_why_and_can_be_dismissed(start, tmp_path):
    absent = {"name": "absent", "path": str(tmp_path / "absent.csv"), "text": "a", "label": "b"}
    start("mine", tasks=[absent])
    wait_for(lambda: states(tmp_path) == [("mine", "failed", None)])
    (ended,) = launcher.launches(tmp_path)
    assert "error:" in ended.output
    assert "absent.csv" in ended.output
    assert "Traceback" not in ended.output
    assert launcher.settings(tmp_path, "mine")["tasks"][0]["path"] == absent["path"]
    launcher.dismiss(tmp_path, "mine")
    assert states(tmp_path) == []


def test_waiting_run_whose_process_is_gone_is_lost(tmp_path):
    with queue.lock(tmp_path):
        queue.write_ticket(tmp_path, "mine", GONE)
        queue.write_ticket(tmp_path, "asked", GONE.model_copy(update={"stop_asked": True}))
    assert states(tmp_path) == [("mine", "lost", None)]


def test_null_that_is_no_default_arrives(tmp_path):
    config = load_config(overrides={"eval_examples": None, "checkpoint_every": None})
    (tmp_path / "config.yaml").write_text(launcher.as_yaml(config))
    assert load_config(tmp_path / "config.yaml") == config


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", ""])
def test_name_that_leaves_the_directory_is_refused(name, tmp_path):
    with pytest.raises(OrthoLoraError, match="expected 1 to 100 letters"):
        launcher.start(load_config(overrides=SMALL), tmp_path, name)
    for act in (launcher.stop, launcher.settings, launcher.dismiss):
        with pytest.raises(OrthoLoraError, match="expected that of a directory among the runs"):
            act(tmp_path, name)


def test_runs_directory_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OrthoLoraError, match="cannot be made.*choose another runs directory"):
        launcher.start(load_config(overrides=SMALL), tmp_path / "file" / "runs", "mine")


def test_another_process_with_the_pid_is_never_stopped(tmp_path):
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"]) as process:
        right = Ticket.of(psutil.Process(process.pid))
        with queue.lock(tmp_path):
            queue.write_ticket(tmp_path, "mine", right.model_copy(update={"ticks": right.ticks - 100}))
        assert not launcher.stop(tmp_path, "mine")
        assert process.poll() is None
        with queue.lock(tmp_path):
            queue.write_ticket(tmp_path, "mine", right)
        assert launcher.stop(tmp_path, "mine")
        assert process.wait(timeout=PATIENCE) == -signal.SIGTERM


def test_settings_of_a_run_are_those_of_its_record(add_run, runs_dir):
    run = add_run("mine")
    assert launcher.settings(runs_dir, "mine") == read_run(run).config
    with pytest.raises(OrthoLoraError, match="cannot be read"):
        launcher.settings(runs_dir, "absent")
