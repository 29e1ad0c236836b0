"""A run while clocks are stepped, and while another host writes it on a shared disk."""

import json
import os
import threading
import time

import psutil
import pytest
import records
from waiting import wait_for

from analysis.library.runs import open_run
from analysis.library.search import delete_run
from ortho_lora.errors import OrthoLoraError, OrthoLoraWarning
from ortho_lora.record import admission, files, schema, writer
from ortho_lora.record.admission import lock_run
from ortho_lora.record.origin import Origin
from ortho_lora.record.recorder import Recorder
from ortho_lora.record.schema import read_status


@pytest.fixture
def recorder(tmp_path):
    made = Recorder(tmp_path / "mine")
    made.begin(records.run_info("mine", [records.task_info("a")]))
    yield made
    made.close()


def step_clock(monkeypatch, seconds):
    """Step the time of day of this process, and what psutil derives from it."""
    plain, create_time = time.time, psutil.Process.create_time
    for module in (writer, schema):
        monkeypatch.setattr(module, "time", _Stepped(lambda: plain() + seconds))
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: create_time(process) + seconds)


class _Stepped:
    monotonic = staticmethod(time.monotonic)

    def __init__(self, clock):
        self.time = clock


@pytest.mark.parametrize("seconds", [-3600.0, 3600.0])
def test_a_clock_that_is_stepped_changes_no_state(recorder, seconds, monkeypatch):
    """Neither lost nor stalled, and its status goes on: it was not written again for an hour."""
    recorder.progress(1, {})
    wait_for(lambda: read_status(recorder.run_dir).step == 1)
    step_clock(monkeypatch, seconds)
    assert open_run(recorder.run_dir.parent, "mine").state == "running"
    recorder.progress(2, {})
    wait_for(lambda: read_status(recorder.run_dir).step == 2)
    run = open_run(recorder.run_dir.parent, "mine")
    assert (run.state, run.elsewhere) == ("running", None)


def test_a_run_is_stalled_by_a_clock_that_nobody_steps(recorder, monkeypatch):
    recorder.progress(1, {})
    wait_for(lambda: read_status(recorder.run_dir).step == 1)
    assert open_run(recorder.run_dir.parent, "mine").state == "running"
    now = time.monotonic()
    monkeypatch.setattr(schema.time, "monotonic", lambda: now + 61)
    assert open_run(recorder.run_dir.parent, "mine").state == "stalled"


HOST = Origin.of(psutil.Process()).host
THERE = HOST.model_copy(update={"name": "node7", "machine": "0" * 16, "boot": "another start"})
CONTAINER = HOST.model_copy(update={"pids": "pid:[1]"})


def written_by(path, host, **fields):
    """A run that is said to train in a process of this number on a host."""
    fields = {"host": host, "ticks": 1, "pid": 2**22 - 1, "heartbeat_monotonic": 5.0, "heartbeat": 1.0, **fields}
    records.write_run(
        path, records.run_info(path.name, [records.task_info("a")]), records.status("running", **fields), {}
    )
    return path


def test_of_a_run_on_another_host_the_record_is_told(tmp_path):
    """Its processes and clocks are not ours: a sign of 1970 is no stall, a process that is not here no loss."""
    path = written_by(tmp_path / "far", THERE)
    run = open_run(tmp_path, "far")
    assert (run.state, run.active) == ("running", True)
    assert run.elsewhere.startswith("on host node7, which wrote last at ")
    with pytest.raises(OrthoLoraError, match="is running on host node7, .*: stop it there; where that host is gone"):
        delete_run(tmp_path, "far")
    assert path.is_dir()


def test_after_a_restart_of_its_host_a_run_is_lost(tmp_path):
    assert HOST.machine, "this test needs a machine with an id"
    written_by(tmp_path / "before", HOST.model_copy(update={"boot": "the start before"}))
    assert open_run(tmp_path, "before").state == "lost"


def test_in_another_container_of_this_machine_the_lock_tells(tmp_path):
    path = written_by(tmp_path / "near", CONTAINER)
    assert open_run(tmp_path, "near").state == "lost"
    with lock_run(path):
        assert open_run(tmp_path, "near").state == "running"


def test_a_run_that_another_host_writes_is_not_taken_over(tmp_path, monkeypatch):
    """Also where the disk tells hosts nothing of locks: its status is watched, by no clock."""
    monkeypatch.setattr(admission, "WATCH_SECONDS", 5.0)
    path = written_by(tmp_path / "far", THERE)
    stop = threading.Event()

    def go_on():
        step = 0
        while not stop.wait(0.3):
            step += 1
            known = json.loads((path / "status.json").read_text()) | {"step": step}
            files.replace_text(path / "status.json", json.dumps(known))

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        with (
            pytest.warns(OrthoLoraWarning, match="was last written on host node7: watched for 5 s"),
            pytest.raises(OrthoLoraError, match="a process of host node7 is writing this run"),
        ):
            lock_run(path)
    finally:
        stop.set()
        thread.join()
    with pytest.warns(OrthoLoraWarning, match="host node7"):
        lock_run(path).release()  # it gave no sign for so long


@pytest.mark.parametrize("changes", [{"state": "stopped"}, {"host": None, "ticks": None}, {"host": HOST}])
def test_a_run_that_ended_or_is_gone_from_here_is_taken_over_at_once(changes, tmp_path):
    path = written_by(tmp_path / "far", THERE)
    known = json.loads((path / "status.json").read_text()) | {
        key: value.model_dump() if hasattr(value, "model_dump") else value for key, value in changes.items()
    }
    (path / "status.json").write_text(json.dumps(known))
    began = time.monotonic()
    lock_run(path).release()
    assert time.monotonic() - began < 2


def test_a_record_without_hosts_is_read(tmp_path):
    """As older versions wrote them."""
    old = {
        "state": "running", "step": 3, "total": 9, "pid": os.getpid(),
        "process_start_time": psutil.Process().create_time(), "heartbeat": time.time(),
    }  # fmt: skip
    records.write_run(tmp_path / "old", records.run_info("old", [records.task_info("a")]), None, {})
    (tmp_path / "old" / "status.json").write_text(json.dumps(old))
    assert open_run(tmp_path, "old").state == "running"
    (tmp_path / "old" / "status.json").write_text(json.dumps(old | {"heartbeat": time.time() - 70}))
    assert open_run(tmp_path, "old").state == "stalled"
    (tmp_path / "old" / "status.json").write_text(json.dumps(old | {"pid": 2**22 - 1}))
    assert open_run(tmp_path, "old").state == "lost"
