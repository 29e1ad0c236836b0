"""Whether a process lives: told by what no clock changes, and only where it can be seen."""

import os
import socket
import subprocess
import sys
import time

import psutil
import pytest
from waiting import wait_for

from ortho_lora.record import origin as origin_module
from ortho_lora.record.origin import Host, Origin, find, locked

LOCKER = """
import sys, time
from filelock import FileLock
lock = FileLock(sys.argv[1])
lock.acquire()
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def child():
    """A process that waits."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        yield process
        process.kill()


def on(origin, **changes):
    """The same origin as another host, or another start of it, would have written it."""
    return origin.model_copy(update={"host": origin.host.model_copy(update=changes)})


ELSEWHERE = {"name": "other", "machine": "0" * 16, "boot": "another start"}


def test_an_origin_survives_the_disk(child):
    origin = Origin.of(psutil.Process(child.pid))
    assert Origin.model_validate_json(origin.model_dump_json()) == origin
    assert origin.host.name == socket.gethostname()


@pytest.mark.parametrize("step", [-7200.0, -3.0, 3.0, 86400.0])
def test_a_clock_that_is_stepped_loses_no_process(child, step, monkeypatch):
    """The kernel's time of its own start moves with the clock, and with it what psutil says of a process's."""
    origin = Origin.of(psutil.Process(child.pid))
    plain = psutil.Process.create_time
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: plain(process) + step)
    again = Origin.of(psutil.Process(child.pid))
    assert again.process_start_time == pytest.approx(origin.process_start_time + step)
    assert again.same_process(origin)
    assert find(origin).pid == child.pid
    assert origin.process_life == "alive"


def test_a_later_process_with_the_pid_is_another(child):
    origin = Origin.of(psutil.Process(child.pid))
    other = origin.model_copy(update={"ticks": origin.ticks - 1})
    assert (find(other), other.process_life, other.same_process(origin)) == (None, "gone", False)


def test_ticks_are_those_of_the_system(child):
    """Against psutil, which adds the start of the host."""
    origin = Origin.of(psutil.Process(child.pid))
    since_start = origin.ticks / os.sysconf("SC_CLK_TCK")
    assert since_start == pytest.approx(psutil.Process(child.pid).create_time() - psutil.boot_time(), abs=1.0)
    assert since_start == pytest.approx(time.clock_gettime(time.CLOCK_BOOTTIME), abs=120)


def test_a_process_that_ended_is_gone(child):
    origin = Origin.of(psutil.Process(child.pid))
    child.kill()
    wait_for(lambda: psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE)
    assert origin.process_life == "gone"
    child.wait()
    assert origin.process_life == "gone"


@pytest.mark.parametrize(
    ("changes", "life"),
    [
        (ELSEWHERE, "unknown"),
        (ELSEWHERE | {"name": socket.gethostname()}, "unknown"),  # two hosts of one name
        (ELSEWHERE | {"machine": None}, "unknown"),
        ({"boot": "before it was restarted"}, "gone"),
        ({"boot": "before it was restarted", "machine": None}, "unknown"),
        ({"pids": "pid:[1]"}, "unknown"),  # in another container
        ({"name": "renamed meanwhile"}, "alive"),
    ],
)
def test_life_is_told_only_where_it_can_be_seen(child, changes, life):
    origin = Origin.of(psutil.Process(child.pid))
    assert origin.host.boot, "this test needs Linux"
    assert (origin.host.machine is None) or on(origin, **changes).process_life == life
    assert (find(on(origin, **changes)) is not None) == (life == "alive")


def test_a_system_that_tells_nothing_goes_by_name_and_time(child, monkeypatch):
    monkeypatch.setattr(Host, "this", lambda: Host(name="here"))
    monkeypatch.setattr(origin_module, "_ticks", lambda pid: None)
    origin = Origin.of(psutil.Process(child.pid))
    assert (origin.host, origin.ticks) == (Host(name="here"), None)
    assert origin.process_life == "alive"
    assert origin.model_copy(update={"process_start_time": 1.0}).process_life == "gone"
    assert on(origin, name="other").process_life == "unknown"


def test_a_record_of_an_older_version_is_of_this_host(child):
    started = psutil.Process(child.pid).create_time()
    assert Origin(pid=child.pid, process_start_time=started).process_life == "alive"
    assert Origin(pid=child.pid, process_start_time=started - 60).process_life == "gone"


@pytest.mark.parametrize("pid", [-4, 0, 10**12, 10**30])
def test_no_number_of_a_process_is_gone(pid):
    assert Origin(pid=pid, process_start_time=1.0).process_life == "gone"


def test_a_lock_tells_of_its_process(tmp_path):
    path = tmp_path / "lock"
    assert not locked(path)
    with subprocess.Popen([sys.executable, "-c", LOCKER, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        assert locked(path)
        process.kill()
    assert not locked(path)
