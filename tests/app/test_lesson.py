import os
import time

import psutil
import pytest

import ortho_lora.launching.queue as queue
from app.views import lesson_runs
from ortho_lora.launching.queue import Ticket
from ortho_lora.training.config import Config


@pytest.fixture
def started(monkeypatch):
    """What was started, in place of starting it."""
    found = []

    def start(config, runs_dir, run_id):
        found.append((config, runs_dir, run_id))
        return os.getpid()

    monkeypatch.setattr("app.launching.launcher.start", start)
    return found


@pytest.mark.parametrize("tasks", lesson_runs.TASKS.values())
def test_every_run_is_a_valid_configuration(tasks):
    config = Config.model_validate({**lesson_runs.SETTINGS, "tasks": tasks})
    assert (config.method, len(config.tasks)) == ("joint", 2)


def test_the_dial_goes_from_0_to_1():
    assert list(lesson_runs.DIAL) == [0, 0.25, 0.5, 0.75, 1]
    twin = Config.model_validate({"tasks": lesson_runs.TASKS["lesson-dial-0.25"]}).tasks[1]
    assert (twin.twin_of, twin.rho, twin.own_head) == ("movies", 0.25, False)


def test_runs_are_started_in_order_past_those_that_are_finished(add_run, runs_dir, started):
    assert lesson_runs.standing(runs_dir) == {}
    assert lesson_runs.start_next(runs_dir) == "lesson-dial-0"
    add_run("lesson-dial-0")
    assert lesson_runs.start_next(runs_dir) == "lesson-dial-0.25"
    assert started[1][1:] == (runs_dir, "lesson-dial-0.25")
    for name in lesson_runs.TASKS:
        if name != "lesson-dial-0":
            add_run(name)
    assert lesson_runs.start_next(runs_dir) is None


@pytest.mark.parametrize("state", ["stopped", "failed"])
def test_run_that_ended_early_is_kept_and_trained_again_under_the_next_name(state, add_run, runs_dir, started):
    early = add_run("lesson-dial-0", state)
    assert lesson_runs.start_next(runs_dir) == "lesson-dial-0-2"
    assert early.exists()
    add_run("lesson-dial-0-2")
    assert lesson_runs.standing(runs_dir)["lesson-dial-0"].run_id == "lesson-dial-0-2"
    assert lesson_runs.start_next(runs_dir) == "lesson-dial-0.25"


def test_time_is_told_from_the_runs_that_are_finished(add_run, runs_dir):
    assert lesson_runs.seconds_a_run([]) == 45
    now = time.time()
    add_run("lesson-dial-0", process={"heartbeat": now}, created=now - 90)
    add_run("lesson-dial-0.25", "stopped", {"heartbeat": now}, created=now - 900)
    assert lesson_runs.seconds_a_run(lesson_runs.standing(runs_dir).values()) == pytest.approx(100)


def test_a_process_that_is_gone_is_known(runs_dir):
    mine = Ticket.of(psutil.Process())
    earlier = mine.model_copy(update={"ticks": mine.ticks - 100})  # had the same pid
    with queue.lock(runs_dir):
        queue.write_ticket(runs_dir, "one", mine)
        queue.write_ticket(runs_dir, "other", earlier)
    assert [lesson_runs.alive(runs_dir, name) for name in ("one", "other", "never")] == [True, False, False]
