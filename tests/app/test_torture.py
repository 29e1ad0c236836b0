"""Pages over a runs directory with litter in it: each goes on, and says in a line what it left out."""

import json
import os
import shutil
import time

import psutil
import pytest
import torture

from app.launching import launcher
from app.shared import state
from ortho_lora.errors import OrthoLoraError
from ortho_lora.launching import queue
from ortho_lora.launching.queue import Ticket
from ortho_lora.record.origin import Origin

PAGES = ("start", "learn", "launch", "runs", "conflicts", "layers", "projection", "metrics", "diagnosis", "study")


def words(test):
    elements = [*test.markdown, *test.info, *test.error, *test.warning, *test.caption, *test.success]
    return "\n".join(element.value for element in elements).replace("\\", "")


@pytest.fixture(scope="module")
def made(records, tmp_path_factory):
    return torture.write_good(records, tmp_path_factory.mktemp("made") / "good", created=time.time())


@pytest.fixture
def good(made, runs_dir):
    return shutil.copytree(made, runs_dir / "good")


@pytest.fixture
def littered(good, runs_dir):
    torture.litter(runs_dir, good)
    torture.litter_queue(runs_dir)
    with torture.permissions_hold():
        yield runs_dir
    torture.open_to_all(runs_dir)


@pytest.mark.parametrize("page", PAGES)
def test_every_page_goes_on_among_litter(page, littered, open_page):
    test = open_page(page, run="r (copy)", compare="good")
    assert not test.exception
    if page not in ("launch", "diagnosis"):  # which tell launches that were lost, and conflicts, as errors
        assert not [one.value for one in test.error]
    assert test.session_state["run"] == "r (copy)"


@pytest.mark.parametrize("name", [*torture.NAMES, "linked", "closed", "foreign", "listed only"])
def test_every_run_that_is_listed_can_be_opened(name, littered, open_page):
    for page in ("runs", "metrics"):
        test = open_page(page, run=name)
        assert not test.exception
        assert test.session_state["run"] == name
        assert name in test.selectbox(key="run").options


def test_what_is_left_out_is_named_in_one_line(littered, open_page):
    said = words(open_page("runs"))
    line = next(line for line in said.splitlines() if line.startswith("Not runs, so left out"))
    assert line.count("(") == 5
    assert "a file.txt (a file), " in line
    line = next(line for line in words(open_page("launch")).splitlines() if line.startswith("Not tickets"))
    assert line.endswith(" and 5 more.")


@pytest.mark.parametrize("name", ["manifest.json torn", "pairs torn", "norms flipped", "folder pairs gone"])
@pytest.mark.parametrize("page", ["layers", "projection", "diagnosis", "metrics"])
def test_a_torn_record_is_shown_as_far_as_it_goes(page, name, good, open_page):
    torture.spoilt()[name](good)
    test = open_page(page, run="good")
    assert not test.exception
    assert not [one.value for one in test.error if "cannot be read" in one.value]
    if name != "norms flipped":  # known when somebody has read so far
        assert any("left out" in one.value or "taken from" in one.value for one in test.warning)


def test_a_runs_directory_that_cannot_be_listed_is_told(runs_dir, open_page):
    runs_dir.write_text("")
    test = open_page("runs")
    assert not test.exception
    assert "cannot be listed (Not a directory)" in words(test)


def other_host(path, **fields):
    """Have the status of a run say that another host wrote it."""
    origin = Origin.of(psutil.Process())
    host = origin.host.model_copy(update={"name": "node7", "machine": "0" * 16, "boot": "another start"})
    known = json.loads((path / "status.json").read_text()) | origin.model_dump() | {"host": host.model_dump()} | fields
    (path / "status.json").write_text(json.dumps(known))
    os.utime(path / "status.json", (1.8e9, 1.8e9))


def test_a_run_of_another_host_is_shown_as_it_was_recorded(add_run, open_page, runs_dir):
    path = add_run("far", "running")
    other_host(path, heartbeat=time.time() - 10**6)
    for page in ("runs", "launch"):
        test = open_page(page, run="far")
        assert not test.exception
        assert "on host node7, which wrote last at 2027-01-15 08:00:00 UTC" in words(test)
    with pytest.raises(OrthoLoraError, match="trains on host node7: stop it there"):
        launcher.stop(runs_dir, "far")
    with pytest.raises(OrthoLoraError, match="'far' is running: only a run that was stopped"):
        launcher.resume(path)


def test_a_launch_of_another_host_is_named_and_can_be_dismissed(add_run, open_page, runs_dir):
    add_run("one")
    host = Origin.of(psutil.Process()).host.model_copy(update={"name": "node7", "machine": "0" * 16, "boot": "other"})
    with queue.lock(runs_dir):
        ticket = Ticket.of(psutil.Process()).model_copy(update={"host": host})
        queue.write_ticket(runs_dir, "far", ticket)
    (launch,) = launcher.launches(runs_dir)
    assert (launch.state, launch.place, launch.host) == ("queued", None, "node7")
    test = open_page("launch")
    assert "queued on host node7" in words(test)
    assert launcher.stop(runs_dir, "far")
    assert queue.read_ticket(runs_dir, "far").stop_asked
    launcher.dismiss(runs_dir, "far")
    assert launcher.launches(runs_dir) == []


def test_the_tail_of_what_is_no_text_file_is_empty(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "absent", "."):
        assert launcher.tail(tmp_path / name, 5) == ""
    (tmp_path / "log").write_bytes(b"one\n\xff two\nthree\n")
    assert launcher.tail(tmp_path / "log", 2) == "\ufffd two\nthree"


def test_the_version_of_what_vanished_is_none(good):
    assert state.version(good) > 0
    shutil.rmtree(good)
    assert state.version(good) == 0
    good.write_text("")
    assert state.version(good) == 0
