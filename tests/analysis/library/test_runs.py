import json
import subprocess
import time
from pathlib import Path
from types import ModuleType

import pandas as pd
import psutil
import pytest
from waiting import wait_for

from analysis.library.notes import make_notes, write_notes
from analysis.library.runs import final_metrics, list_runs, open_run, runs_table
from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.schema import Identity, read_identity, read_run


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
    with subprocess.Popen(["sleep", "3600"]) as child:
        process = psutil.Process(child.pid)
        status = records.status("running", pid=child.pid, process_start_time=process.create_time())
        (empty_run / "status.json").write_text(status.model_dump_json())
        assert open_run(empty_run.parent, "one").state == "running"
        child.kill()
        wait_for(lambda: process.status() == psutil.STATUS_ZOMBIE)
        assert open_run(empty_run.parent, "one").state == "lost"


def test_final_states_need_no_process(records: ModuleType, empty_run: Path) -> None:
    for state in ("stopped", "failed", "finished"):
        (empty_run / "status.json").write_text(records.status(state, pid=2**22 + 1).model_dump_json())
        assert open_run(empty_run.parent, "one").state == state


@pytest.mark.parametrize(
    ("name", "message"),
    [("../first", "no path, not hidden"), (".first", "no path, not hidden"), ("absent", "'absent': not in")],
)
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


def test_mean_leaves_twins_out(records: ModuleType, tables: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    tasks = [records.task_info("movies"), records.task_info("tweets", twin_of="movies"), records.task_info("trec")]
    records.write_run(
        tmp_path / "dial", records.run_info("dial", tasks), records.status(), {"metrics": tables["metrics"]}
    )
    row = runs_table(list_runs(tmp_path)).iloc[0]
    final = final_metrics(tmp_path / "dial", tasks)
    assert row["mean"] == pytest.approx((final["movies"] + final["trec"]) / 2)
    assert "tweets" in row["final"]


def test_table_has_what_people_say(run: Path) -> None:
    write_notes(run, make_notes(title="Good", tags=["a", "b"], note="n", archived=True))
    try:
        row = runs_table(list_runs(run.parent)).iloc[0]
    finally:
        (run / "notes.json").unlink()
    assert (row["title"], row["tags"], row["note"], row["archived"]) == ("Good", ["a", "b"], "n", True)


def test_damaged_notes_hide_no_run(empty_run: Path, records: ModuleType) -> None:
    (empty_run / "status.json").write_text(records.status().model_dump_json())
    (empty_run / "notes.json").write_text("{")
    found = open_run(empty_run.parent, "one")
    assert found.state == "finished"
    assert "notes.json: cannot be read as notes" in str(found.problem)


def test_a_list_sees_every_file_that_was_replaced(
    records: ModuleType, tables: dict[str, pd.DataFrame], tmp_path: Path
) -> None:
    """Nothing that was read before is taken for what is there now."""
    tasks = [records.task_info("trec")]
    metrics = tables["metrics"].assign(value=0.25)
    path = records.write_run(
        tmp_path / "one", records.run_info("one", tasks), records.status("running", step=1), {"metrics": metrics}
    )

    def row() -> pd.Series:
        return runs_table(list_runs(tmp_path)).iloc[0]

    assert (row()["state"], row()["done"], row()["mean"], row()["seed"]) == ("running", 1, 0.25, 7)
    (path / "status.json").write_text(records.status("finished", step=9).model_dump_json())
    assert (row()["state"], row()["done"]) == ("finished", 9)
    (path / "run.json").write_text(records.run_info("one", tasks, seed=8).model_dump_json())
    assert row()["seed"] == 8
    write_notes(path, make_notes(title="now"))
    assert row()["title"] == "now"
    metrics["value"] = 0.75
    records.write_run(tmp_path / ".other", records.run_info("one", tasks), None, {"metrics": metrics}, parts=2)
    for part in (tmp_path / ".other" / "metrics").iterdir():
        part.rename(path / "metrics" / f"part-9{part.name[6:]}")
    manifest = (tmp_path / ".other" / "manifest.json").read_text().replace("part-0", "part-9")
    (path / "manifest.json").write_text(manifest)
    assert row()["mean"] == 0.75


def test_final_values_come_from_the_parts_that_can_be_read(
    records: ModuleType, tables: dict[str, pd.DataFrame], tmp_path: Path
) -> None:
    metrics = tables["metrics"].assign(value=tables["metrics"]["step"] / 100)
    tasks = [records.task_info("trec")]
    path = records.write_run(
        tmp_path / "one", records.run_info("one", tasks), records.status(), {"metrics": metrics}, parts=3
    )
    assert final_metrics(path, tasks) == {"trec": 0.8}
    last = path / "metrics" / "part-000002.parquet"
    last.write_bytes(last.read_bytes()[:-9])
    (path / "manifest.json").touch()
    assert final_metrics(path, tasks) == {"trec": 0.4}


@pytest.mark.parametrize("count", [1, 3, 200])
@pytest.mark.parametrize("indent", [None, 1])
def test_identity_is_the_run_without_its_modules(
    records: ModuleType, tmp_path: Path, count: int, indent: int | None
) -> None:
    """Also where many tasks push the modules far back, and in records that name them before other fields."""
    info = records.run_info(
        "one", [records.task_info(f"task{n}") for n in range(count)], layers=300, versions={"x": "1"}
    )
    (tmp_path / "run.json").write_text(info.model_dump_json(indent=indent))
    info = info.model_copy(update={"run_id": tmp_path.name})  # where it stands
    expected = Identity(**{name: getattr(info, name) for name in Identity.model_fields})
    assert read_identity(tmp_path) == expected
    document = json.loads(info.model_dump_json())
    (tmp_path / "run.json").write_text(json.dumps({"modules": document.pop("modules"), **document}))
    assert read_identity(tmp_path) == expected
    assert read_run(tmp_path) == info


def test_a_list_takes_the_final_metrics_from_the_status(records, run, tmp_path):
    """Though there are no tables to read."""
    info = records.run_info("said", [records.task_info("trec"), records.task_info("movies")])
    said = {"validation": {"trec": {"accuracy": 0.25, "loss": 1.0}}}
    path = records.write_run(tmp_path / "said", info, records.status(metrics=said), {})
    (row,) = runs_table(list_runs(path.parent)).to_dict("records")
    assert (row["final"], row["mean"]) == ("trec .25", 0.25)
