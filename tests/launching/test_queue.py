"""Who trains next: tickets of real processes, and turns taken by them."""

import subprocess
import sys
import threading
import time

import psutil
import pytest
import torture
from waiting import PATIENCE, wait_for

from ortho_lora.errors import OrthoLoraError
from ortho_lora.launching import queue
from ortho_lora.launching.queue import Ticket

WAITER = "import sys, time; from pathlib import Path; from ortho_lora.launching.queue import wait_for_turn\n" + (
    "wait_for_turn(Path(sys.argv[1]), sys.argv[2], lambda place: print('place', place, flush=True))\n"
    "print('turn', flush=True); time.sleep(3600)"
)


@pytest.fixture
def join(tmp_path):
    """Starts a process that waits for its turn: join(name)."""
    started = []

    def start(name):
        command = [sys.executable, "-c", WAITER, str(tmp_path), name]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def end(process):
    process.kill()
    process.wait()


def test_one_trains_and_the_others_follow_in_their_order(join, tmp_path):
    first = join("first")
    assert first.stdout.readline() == "turn\n"
    second = join("second")
    assert second.stdout.readline() == "place 1\n"
    third = join("third")
    assert third.stdout.readline() == "place 2\n"
    assert queue.waiting(tmp_path) == ["second", "third"]
    end(first)  # however it ends
    assert second.stdout.readline() == "turn\n"
    assert third.stdout.readline() == "place 1\n"
    end(second)
    assert third.stdout.readline() == "turn\n"


def test_one_that_gives_up_lets_the_next_pass(join, tmp_path):
    first, second, third = join("first"), None, None
    assert first.stdout.readline() == "turn\n"
    second = join("second")
    assert second.stdout.readline() == "place 1\n"
    third = join("third")
    assert third.stdout.readline() == "place 2\n"
    end(second)
    assert third.stdout.readline() == "place 1\n"
    assert queue.waiting(tmp_path) == ["third"]


def test_raised_limit_is_obeyed_at_once_and_a_lower_one_stops_nobody(join, tmp_path):
    first = join("first")
    assert first.stdout.readline() == "turn\n"
    second = join("second")
    assert second.stdout.readline() == "place 1\n"
    queue.write_limit(tmp_path, 2)
    assert second.stdout.readline() == "turn\n"
    queue.write_limit(tmp_path, 1)
    third = join("third")
    assert third.stdout.readline() == "place 1\n"
    assert first.poll() is None
    assert second.poll() is None


def test_two_processes_for_one_run_are_refused(join, tmp_path):
    assert join("mine").stdout.readline() == "turn\n"
    with pytest.raises(OrthoLoraError, match="run 'mine' waits or trains already: choose another --name"):
        queue.wait_for_turn(tmp_path, "mine")


def test_ticket_of_a_process_that_is_gone_is_taken_over(tmp_path):
    with queue.lock(tmp_path):
        queue.write_ticket(tmp_path, "mine", Ticket(pid=2**22 - 1, process_start_time=1.0, started=True))
    queue.wait_for_turn(tmp_path, "mine")
    assert queue.read_ticket(tmp_path, "mine").pid == psutil.Process().pid


def test_nobody_takes_a_turn_while_tickets_are_written(tmp_path):
    waiting = threading.Thread(target=queue.wait_for_turn, args=(tmp_path, "mine"), daemon=True)
    with queue.lock(tmp_path):
        waiting.start()
        time.sleep(0.3)
        assert queue.tickets(tmp_path) == {}
    waiting.join(timeout=PATIENCE)
    assert queue.read_ticket(tmp_path, "mine").started


@pytest.mark.parametrize("written", ["", "many", "-3", "0"])
def test_limit_that_is_none_is_one(written, tmp_path):
    assert queue.read_limit(tmp_path) == 1
    queue.folder(tmp_path).mkdir()
    (queue.folder(tmp_path) / "limit").write_text(written)
    assert queue.read_limit(tmp_path) == 1


def test_damaged_tickets_are_left_out(tmp_path):
    queue.folder(tmp_path).mkdir()
    (queue.folder(tmp_path) / "a.json").write_text("{")
    (queue.folder(tmp_path) / "b.json").write_text('{"pid": "x"}')
    assert queue.tickets(tmp_path) == {}


@pytest.mark.parametrize("name", ["../up", "", ".hidden", "a/b", "..", "a\0b"])
def test_name_that_leaves_the_folder_is_refused(name, tmp_path):
    with pytest.raises(OrthoLoraError, match="expected that of a directory among the runs"):
        queue.wait_for_turn(tmp_path, name)


def elsewhere(ticket):
    """The same ticket as another host would have written it."""
    host = ticket.host.model_copy(update={"name": "other", "machine": "0" * 16, "boot": "another start"})
    return ticket.model_copy(update={"host": host, "number": 0})


@pytest.fixture
def stepped(monkeypatch):
    """Steps the clock, as psutil sees it: stepped(seconds)."""
    plain = psutil.Process.create_time

    def step(seconds):
        monkeypatch.setattr(psutil.Process, "create_time", lambda process: plain(process) + seconds)

    return step


def test_a_clock_that_is_stepped_kills_nobody_who_waits(tmp_path, join, stepped):
    """Another one trains; the clock is put back an hour, and forth; then it ends."""
    first = join("first")
    assert first.stdout.readline() == "turn\n"
    waiter = threading.Thread(target=queue.wait_for_turn, args=(tmp_path, "mine"), daemon=True)
    waiter.start()
    wait_for(lambda: queue.waiting(tmp_path) == ["mine"])
    for seconds in (-3600.0, 86400.0):
        stepped(seconds)
        time.sleep(3 * queue.LOOK_SECONDS)
        assert waiter.is_alive()
        assert queue.waiting(tmp_path) == ["mine"]
        assert queue.read_ticket(tmp_path, "first").alive
    end(first)
    waiter.join(timeout=PATIENCE)
    assert queue.read_ticket(tmp_path, "mine").started


def test_who_came_first_is_told_by_no_clock(tmp_path, stepped):
    me = psutil.Process()
    with queue.lock(tmp_path):
        queue.write_ticket(tmp_path, "b", Ticket.of(me))
        stepped(-3600.0)
        queue.write_ticket(tmp_path, "a", Ticket.of(psutil.Process()))
    assert queue.waiting(tmp_path) == ["b", "a"]
    with queue.lock(tmp_path):
        queue.write_ticket(tmp_path, "b", queue.read_ticket(tmp_path, "b").model_copy(update={"stop_asked": True}))
    assert list(queue.tickets(tmp_path)) == ["b", "a"]


def test_a_run_of_another_host_is_not_started_again_and_holds_nobody_up(tmp_path):
    theirs = elsewhere(Ticket.of(psutil.Process()))
    with queue.lock(tmp_path):
        queue.write_ticket(tmp_path, "mine", theirs)
        queue.write_ticket(tmp_path, "trains", theirs.model_copy(update={"started": True}))
    assert queue.read_ticket(tmp_path, "mine").alive
    assert queue.waiting(tmp_path) == []
    with pytest.raises(OrthoLoraError, match="run 'mine' waits or trains already on host other: choose another --name"):
        queue.wait_for_turn(tmp_path, "mine")
    queue.wait_for_turn(tmp_path, "another")  # each host has its own limit


def test_one_that_waits_is_taken_out_from_another_host(tmp_path, join):
    """Whose signals do not reach it: the ticket says it."""
    assert join("first").stdout.readline() == "turn\n"
    second = join("second")
    assert second.stdout.readline() == "place 1\n"
    with queue.lock(tmp_path):
        ticket = queue.read_ticket(tmp_path, "second")
        queue.write_ticket(tmp_path, "second", ticket.model_copy(update={"stop_asked": True}))
    assert second.wait(timeout=PATIENCE) == 1
    assert queue.waiting(tmp_path) == []


def test_litter_among_the_tickets_takes_no_queue_down(tmp_path, join):
    torture.litter_queue(tmp_path)
    with torture.permissions_hold():
        assert queue.waiting(tmp_path) == []
        assert {"r (copy)", "negative"} <= queue.tickets(tmp_path).keys()
        assert len(queue.damaged(tmp_path)) == len(torture.FILES) + 1
        assert queue.read_limit(tmp_path) == 1
        assert join("mine").stdout.readline() == "turn\n"


@pytest.mark.parametrize("place", [".launch", ".launch/lock", ".launch/mine.json"])
def test_a_queue_that_cannot_be_written_is_told(place, tmp_path):
    if place.endswith("mine.json"):
        (tmp_path / place).mkdir(parents=True)
    else:
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).symlink_to(place)
    with pytest.raises(OrthoLoraError, match="cannot be (made or )?written"):
        queue.wait_for_turn(tmp_path, "mine")
