import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ortho_lora import schema
from ortho_lora.errors import OrthoLoraError
from ortho_lora.record import Recorder
from ortho_lora.schema import TABLES, RunInfo, TaskInfo, check_run_id, part_files, read_run, read_status

TASK = TaskInfo(
    name="a", kind="classification", metrics=("accuracy",), train_examples=1, evaluation_examples={}, majority={}
)
INFO = RunInfo(
    run_id="x",
    created=0.0,
    method="joint",
    rule="sum",
    scope="block",
    seed=0,
    gradient_mode="fused",
    config={},
    tasks=(TASK,),
    modules=(),
    versions={},
    command=[],
)


def begun(runs_dir):
    recorder = Recorder(runs_dir / "x", total=9, flush_rows=10, flush_seconds=1e9)
    recorder.begin(INFO)
    return recorder


@pytest.fixture
def recorder(tmp_path):
    return begun(tmp_path)


def add(recorder, step, values):
    recorder.add(
        "norms", step=step, layer=0, module="query", branch="A", task=[f"t{i}" for i in range(len(values))],
        norm_before=values, norm_after=values, half_product=np.full(len(values), np.nan), weight=1.0,
    )  # fmt: skip


@given(values=st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=20), steps=st.integers(1, 5))
def test_rows_come_back_as_they_went_in(tmp_path_factory, values, steps):
    recorder = begun(tmp_path_factory.mktemp("runs"))
    run_dir = recorder.run_dir
    for step in range(steps):
        add(recorder, step, values)
        recorder.flush_if_due()
    recorder.flush()
    rows = pq.ParquetDataset(part_files(run_dir, "norms"), schema=TABLES["norms"]).read()
    assert rows.schema.equals(TABLES["norms"])
    assert rows["step"].to_pylist() == sorted(list(range(steps)) * len(values))
    assert rows["norm_before"].to_pylist() == values * steps
    assert rows["half_product"].null_count == len(rows)  # NaN is "not measured"


def test_a_part_is_written_when_enough_rows_have_come(recorder):
    add(recorder, 0, [1.0] * 9)
    recorder.flush_if_due()
    assert part_files(recorder.run_dir, "norms") == []
    add(recorder, 1, [1.0])
    recorder.flush_if_due()
    assert [path.name for path in part_files(recorder.run_dir, "norms")] == ["part-000000.parquet"]
    assert pq.ParquetFile(part_files(recorder.run_dir, "norms")[0]).num_row_groups == 1


def test_a_part_that_the_manifest_does_not_name_does_not_count(recorder):
    add(recorder, 0, [1.0])
    recorder.flush()
    (recorder.run_dir / "norms" / "part-000001.parquet").write_bytes(b"torn")
    assert len(part_files(recorder.run_dir, "norms")) == 1


def test_nothing_temporary_is_left(recorder):
    add(recorder, 0, [1.0])
    recorder.flush()
    recorder.status("running", step=1, total=2)
    assert not list(recorder.run_dir.rglob(".*"))


def test_status_and_identity_come_back(recorder):
    written = recorder.status("running", step=3, total=9, losses={"a": 0.5})
    assert read_status(recorder.run_dir) == written
    assert read_run(recorder.run_dir) == INFO


def test_a_newer_record_is_refused_in_words(recorder):
    path = recorder.run_dir / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 99}))
    with pytest.raises(OrthoLoraError, match="written with record version 99, this program reads up to 1: update"):
        read_run(recorder.run_dir)


@pytest.mark.parametrize("name", ["", ".hidden", "../up", "a/b", "-x", "a b", "x" * 101, "ä"])
def test_names_that_could_leave_the_runs_directory_are_refused(name):
    with pytest.raises(OrthoLoraError, match="expected 1 to 100 letters"):
        check_run_id(name)


def test_a_directory_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OrthoLoraError, match=r"file/x: cannot be made .*: choose a --runs-dir you may write"):
        begun(tmp_path / "file")


def test_of_two_processes_with_one_name_the_second_is_refused_and_the_first_unharmed(recorder):
    add(recorder, 0, [1.0])
    recorder.flush()
    with pytest.raises(OrthoLoraError, match="run 'x' exists"):
        begun(recorder.run_dir.parent)
    assert len(part_files(recorder.run_dir, "norms")) == 1


def test_a_run_appears_whole(tmp_path, monkeypatch):
    """At no moment is there a visible directory without its identity and status."""
    seen = []
    plain = schema.os.replace

    def look(source, target):
        seen.append([path.name for path in tmp_path.iterdir() if not path.name.startswith(".")])
        plain(source, target)

    monkeypatch.setattr(schema.os, "replace", look)
    recorder = begun(tmp_path)
    assert seen == [[], []]
    assert read_status(recorder.run_dir).total == 9
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_every_column_says_what_it_means():
    assert all(field.metadata[b"meaning"] for schema in TABLES.values() for field in schema)


def test_a_recorder_as_a_context_says_how_the_run_went(tmp_path):
    with Recorder(tmp_path / "x") as recorder:
        recorder.begin(INFO)
        add(recorder, 0, [1.0])
    assert read_status(tmp_path / "x").state == "finished"
    assert len(part_files(tmp_path / "x", "norms")) == 1

    def fail():
        with Recorder(tmp_path / "y") as recorder:
            recorder.begin(INFO.model_copy(update={"run_id": "y"}))
            add(recorder, 0, [1.0])
            raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        fail()
    status = read_status(tmp_path / "y")
    assert (status.state, status.message) == ("failed", "boom")
    assert len(part_files(tmp_path / "y", "norms")) == 1


def test_nothing_is_made_before_the_recorder_begins(tmp_path):
    Recorder(tmp_path / "runs" / "x").close()
    assert not list(tmp_path.iterdir())
