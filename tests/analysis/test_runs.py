import json
import subprocess
import time
from pathlib import Path
from types import ModuleType

import pandas as pd
import psutil
import pytest

from analysis.runs import list_runs, open_run, runs_table
from ortho_lora.errors import OrthoLoraError


@pytest.fixture
def empty_run(records: ModuleType, tmp_path: Path) -> Path:
    path: Path = records.write_run(tmp_path / "one", records.run_info("one", [records.task_info("trec")]), None, {})
    return path


def test_newest_first_and_hidden_ignored(records: ModuleType, tmp_path: Path) -> None:
    for name, created in (("old", 1.0), ("new", 3.0), ("middle", 2.0)):
        info = records.run_info(name, [records.task_info("trec")], created=created)
        records.write_run(tmp_path / name, info, records.status(), {})
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "note.txt").write_text("not a run")
    assert [run.run_id for run in list_runs(tmp_path)] == ["new", "middle", "old"]


def test_no_directory_no_runs(tmp_path: Path) -> None:
    assert list_runs(tmp_path / "none") == []
    assert runs_table([]).empty


def test_broken_runs_are_listed_with_their_problem(run: Path, tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "run.json").write_text('{"schema_version"')
    newer = json.loads((run / "run.json").read_text()) | {"schema_version": 99}
    (tmp_path / "newer").mkdir()
    (tmp_path / "newer" / "run.json").write_text(json.dumps(newer))
    found = {listed.run_id: listed for listed in list_runs(tmp_path)}
    assert {listed.state for listed in found.values()} == {"unreadable"}
    assert "no run.json" in str(found["bare"].problem)
    assert "cannot be read" in str(found["torn"].problem)
    assert "record version 99" in str(found["newer"].problem)
    assert "update ortho-lora" in str(found["newer"].problem)
    assert runs_table(list(found.values()))["state"].tolist() == ["unreadable"] * 3


def test_missing_status_is_a_problem(empty_run: Path) -> None:
    found = open_run(empty_run.parent, "one")
    assert found.state == "unreadable"
    assert "status.json" in str(found.problem)


@pytest.mark.parametrize("state", ["queued", "running", "stopping"])
def test_active_run_is_lost_without_its_process(records: ModuleType, empty_run: Path, state: str) -> None:
    def state_with(**fields: object) -> str:
        (empty_run / "status.json").write_text(records.status(state, **fields).model_dump_json())
        return open_run(empty_run.parent, "one").state

    assert state_with() == state
    assert state_with(process_start_time=psutil.Process().create_time() + 1) == state
    assert state_with(process_start_time=psutil.Process().create_time() - 60) == "lost"
    assert state_with(pid=2**22 + 1) == "lost"


def test_active_run_is_stalled_without_a_sign_of_its_training(records: ModuleType, empty_run: Path) -> None:
    def state_after(seconds: float, **fields: object) -> str:
        status = records.status("running", heartbeat=time.time() - seconds, **fields)
        (empty_run / "status.json").write_text(status.model_dump_json())
        run = open_run(empty_run.parent, "one")
        assert run.active
        return run.state

    assert state_after(50) == "running"
    assert state_after(70) == "stalled"
    assert state_after(70, patience_seconds=900.0) == "running"


def test_ended_child_that_is_not_waited_for_is_lost(records: ModuleType, empty_run: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        process = psutil.Process(child.pid)
        status = records.status("running", pid=child.pid, process_start_time=process.create_time())
        (empty_run / "status.json").write_text(status.model_dump_json())
        assert open_run(empty_run.parent, "one").state == "running"
        child.kill()
        while process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        assert open_run(empty_run.parent, "one").state == "lost"


def test_final_states_need_no_process(records: ModuleType, empty_run: Path) -> None:
    for state in ("stopped", "failed", "finished"):
        (empty_run / "status.json").write_text(records.status(state, pid=2**22 + 1).model_dump_json())
        assert open_run(empty_run.parent, "one").state == state


@pytest.mark.parametrize(("name", "message"), [("../first", "expected 1 to 100"), ("absent", "'absent': not in")])
def test_open_run_refuses(run: Path, name: str, message: str) -> None:
    with pytest.raises(OrthoLoraError, match=message):
        open_run(run.parent, name)


def test_table(run: Path, tables: dict[str, pd.DataFrame]) -> None:
    row = runs_table(list_runs(run.parent)).iloc[0]
    metrics = tables["metrics"]
    last = metrics[(metrics["step"] == 80) & (metrics["metric"] == "accuracy")]
    expected = [
        f"{task} {value:.2f}".replace("0.", ".") for task, value in zip(last["task"], last["value"], strict=True)
    ]
    assert row["final"] == " · ".join(expected)
    assert row["mean"] == pytest.approx(last["value"].mean())
    assert row["created"] == pd.Timestamp(1.7e9, unit="s", tz="UTC")
    assert (row["run"], row["state"], row["method"], row["seed"]) == ("first", "finished", "ortho-lora", 7)
    assert (row["done"], row["total"], row["tasks"]) == (40, 40, "movies, tweets, trec")


def test_final_values_of_any_size(records: ModuleType, tables: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    names = ["movies", "tweets", "trec"]
    metrics = tables["metrics"].copy()
    for name, value in zip(names, (10.25, -0.5, 1.0), strict=True):
        metrics.loc[metrics["task"] == name, "value"] = value
    info = records.run_info("any", [records.task_info(name) for name in names])
    records.write_run(tmp_path / "any", info, records.status(), {"metrics": metrics}, parts=7)
    assert runs_table(list_runs(tmp_path))["final"].tolist() == ["movies 10.25 · tweets -.50 · trec 1.00"]
