"""`python -m ortho_lora study` with real processes that train a tiny model, and are killed."""

import os
import signal
import subprocess
import sys

import psutil
import pyarrow.dataset as ds
import pytest
import yaml
from studies import tiny_model, tiny_tasks
from waiting import PATIENCE, wait_for

from analysis.library.runs import list_runs
from ortho_lora.record.manifest import part_files
from ortho_lora.record.schema import read_status
from ortho_lora.record.study import read_study

SMALL = {"batch_size": 4, "max_length": 16, "rank": 2, "eval_examples": 16, "eval_every": 1000, "checkpoint_every": 5}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny")
    return SMALL | {"model": tiny_model(path / "model"), "tasks": tiny_tasks(path)}


@pytest.fixture
def command(tmp_path):
    """Starts the command on a study: command(given) -> process, whose output is in the file `output`."""
    started = []

    def start(given, *options):
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump(given))
        with (tmp_path / "output").open("w") as output:
            started.append(
                subprocess.Popen(
                    [sys.executable, "-m", "ortho_lora", "study", str(tmp_path / "mine.yaml"), "--workers", "2",
                     "--runs-dir", str(tmp_path / "runs"), *options],
                    stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
                )
            )  # fmt: skip
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()
    for path in (tmp_path / "runs" / "mine").glob("*/status.json"):
        status = read_status(path.parent)
        if status and psutil.pid_exists(status.pid) and status.state == "running":
            os.kill(status.pid, signal.SIGKILL)


def statuses(folder):
    """By method; of runs that have begun."""
    return {run.info.method: run.status for run in list_runs(folder) if run.info and run.status}


def test_a_study_in_miniature(command, tmp_path, base):
    """Two phases, and a directory that opens as a whole."""
    given = {
        "title": "Does it?",
        "base": base | {"steps": 6},
        "methods": ["joint", "single"],
        "seeds": [0],
        "tuning": {"methods": {"joint": [{"learning_rate": 1e-3}, {"learning_rate": 1e-2}]}},
    }
    process = command(given)
    assert process.wait(timeout=PATIENCE) == 0, (tmp_path / "output").read_text()
    folder = tmp_path / "runs" / "mine"
    study = read_study(folder)
    assert (study.phase, study.title, len(study.choices)) == ("done", "Does it?", 1)
    runs = list_runs(folder)
    assert {run.run_id for run in runs} == {use.run_id for use in study.uses}
    assert [(run.state, run.problem) for run in runs] == [("finished", None)] * 3
    assert list_runs(tmp_path / "runs") == []
    for run in runs:
        predictions = ds.dataset(part_files(run.path, "predictions")).to_table()
        assert set(predictions["split"].to_pylist()) == {"validation", "selection"}
    said = (tmp_path / "output").read_text()
    assert "warning: the methods are not tuned alike: candidates are joint 2, single 1" in said
    assert "3 of 3 runs" in said


def test_whatever_ends_a_study_the_same_command_goes_on(command, tmp_path, base):
    output, folder = tmp_path / "output", tmp_path / "runs" / "mine"
    given = {"base": base | {"steps": 500, "checkpoint_every": 20}, "methods": ["joint", "ortho-lora"], "seeds": [0]}

    def both_train(step):
        return len(found := statuses(folder)) == 2 and all(status.step >= step for status in found.values())

    process = command(given)  # asked to stop, it has its runs save
    wait_for(lambda: both_train(10), process, output)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=PATIENCE) == 130
    assert "0 of 2 runs finished: the same command goes on" in output.read_text()
    assert [status.state for status in statuses(folder).values()] == ["stopped", "stopped"]
    stopped = {method: status.step for method, status in statuses(folder).items()}

    process = command(given)  # killed, with one of its runs; the other goes on alone
    wait_for(
        lambda: all(s.state == "running" and s.step > stopped[m] for m, s in statuses(folder).items()), process, output
    )
    process.kill()
    process.wait()
    before = statuses(folder)
    os.kill(before["joint"].pid, signal.SIGKILL)
    os.kill(before["ortho-lora"].pid, signal.SIGSTOP)  # held until it is found

    process = command(given)
    wait_for(lambda: "still trains" in output.read_text(), process, output)
    os.kill(before["ortho-lora"].pid, signal.SIGCONT)
    assert process.wait(timeout=PATIENCE) == 0, output.read_text()
    said = output.read_text()
    assert said.count("still trains, and is waited for") == 1
    assert said.count(" starts\n") == 1
    after = statuses(folder)
    assert [status.state for status in after.values()] == ["finished", "finished"]
    assert after["ortho-lora"].pid == before["ortho-lora"].pid
    assert after["joint"].pid != before["joint"].pid
    assert len(list_runs(folder)) == 2


def test_the_plan_is_printed_and_nothing_trained(command, tmp_path, base):
    given = {"base": base, "methods": ["joint", "single"], "seeds": [0, 1], "pairs": ["joint"]}
    assert command(given, "--plan").wait(timeout=PATIENCE) == 0
    lines = (tmp_path / "output").read_text().splitlines()
    assert sum(": joint; joint on even and third" in line for line in lines) == 2
    assert "4 runs" in lines
    assert "joint: candidates 1, runs 2, steps 400" in lines
    assert not (tmp_path / "runs").exists()
