import gc
import json
import os
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from infos import INFO
from recording import add, begun
from waiting import wait_for

from ortho_lora.errors import OrthoLoraError
from ortho_lora.record import store, writer
from ortho_lora.record.admission import lock_run
from ortho_lora.record.manifest import part_files
from ortho_lora.record.recorder import Recorder
from ortho_lora.record.schema import check_run_id, read_run, read_status
from ortho_lora.record.tables import TABLES


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
    wait_for(lambda: part_files(recorder.run_dir, "norms"))
    assert [path.name for path in part_files(recorder.run_dir, "norms")] == ["part-000000.parquet"]
    assert pq.ParquetFile(part_files(recorder.run_dir, "norms")[0]).num_row_groups == 1


def test_a_part_that_the_manifest_does_not_name_does_not_count(recorder):
    add(recorder, 0, [1.0])
    recorder.flush()
    (recorder.run_dir / "norms" / "part-000001.parquet").write_bytes(b"torn")
    assert len(part_files(recorder.run_dir, "norms")) == 1


@pytest.mark.parametrize(
    "name",
    ["../../y/norms/part-000000.parquet", "/etc/passwd", "sub/part-000000.parquet", "..", "part-1.parquet.x", ""],
)
def test_a_manifest_that_names_files_of_others_is_refused(recorder, name):
    add(recorder, 0, [1.0])
    recorder.close()
    path = recorder.run_dir / "manifest.json"
    written = json.loads(path.read_text())
    for forged in (
        {"parts": {"norms": [written["parts"]["norms"][0] | {"name": name}]}},
        {"parts": {name: written["parts"]["norms"]}},
    ):
        path.write_text(json.dumps(forged))
        with pytest.raises(OrthoLoraError, match="manifest.json: not a manifest of a record .it names .*: expected a "):
            part_files(recorder.run_dir, "norms")


def test_parts_behind_a_link_are_not_cut(recorder, tmp_path):
    add(recorder, 0, [1.0])
    add(recorder, 1, [1.0])
    recorder.close()
    copy = shutil.copytree(recorder.run_dir, tmp_path / "copy")
    shutil.rmtree(copy / "norms")
    (copy / "norms").symlink_to(recorder.run_dir / "norms", target_is_directory=True)
    before = sorted((recorder.run_dir / "norms").iterdir())
    with pytest.raises(OrthoLoraError, match="copy/norms: is a link to .*, whose files are not this run's"):
        Recorder.resume(copy, lock_run(copy), dict.fromkeys(TABLES, 1), total=9, flush_rows=10, flush_seconds=1)
    assert sorted((recorder.run_dir / "norms").iterdir()) == before


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


def test_of_two_processes_with_one_name_the_second_is_refused_and_the_first_unharmed(recorder):
    add(recorder, 0, [1.0])
    recorder.flush()
    with pytest.raises(OrthoLoraError, match="run 'x' exists"):
        begun(recorder.run_dir.parent)
    assert len(part_files(recorder.run_dir, "norms")) == 1


def test_a_run_appears_whole(tmp_path, monkeypatch):
    """At no moment is there a visible directory without its identity and status."""
    seen = []
    plain = os.replace

    def look(source, target):
        seen.append([path.name for path in tmp_path.iterdir() if not path.name.startswith(".")])
        plain(source, target)

    monkeypatch.setattr(os, "replace", look)
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


def test_a_state_that_was_said_at_the_end_stays(tmp_path):
    with Recorder(tmp_path / "x") as recorder:
        recorder.begin(INFO)
        recorder.status("stopped", step=3, message="enough")
    with pytest.raises(KeyboardInterrupt), Recorder(tmp_path / "y") as recorder:  # noqa: PT012
        recorder.begin(INFO.model_copy(update={"run_id": "y"}))
        recorder.close("failed", "said by a trainer")
        raise KeyboardInterrupt
    for name, said in (("x", ("stopped", "enough")), ("y", ("failed", "said by a trainer"))):
        status = read_status(tmp_path / name)
        assert (status.state, status.message) == said


def test_ctrl_c_stops_a_run_and_does_not_fail_it(tmp_path):
    with pytest.raises(KeyboardInterrupt), Recorder(tmp_path / "x") as recorder:  # noqa: PT012
        recorder.begin(INFO)
        add(recorder, 0, [1.0])
        raise KeyboardInterrupt
    status = read_status(tmp_path / "x")
    assert (status.state, status.message) == ("stopped", "interrupted")
    assert len(part_files(tmp_path / "x", "norms")) == 1


def test_who_brings_rows_faster_than_they_are_written_waits_and_none_is_lost(recorder, monkeypatch):
    writing = threading.Event()
    plain = store.write_part
    monkeypatch.setattr(store, "write_part", lambda *of: writing.wait() and plain(*of))
    done = []

    def train():
        for step in range(6):
            add(recorder, step, [1.0] * 10)
            recorder.flush_if_due()
            done.append(step)

    training = threading.Thread(target=train)
    training.start()
    wait_for(lambda: len(done) == 2)  # one part is being written, one waits
    time.sleep(0.2)
    assert len(done) == 2
    writing.set()
    training.join()
    recorder.close()
    parts = part_files(recorder.run_dir, "norms")
    assert [pq.read_table(part)["step"][0].as_py() for part in parts] == list(range(6))


def test_rows_of_a_loop_that_never_flushes_do_not_pile_up(recorder):
    for step in range(10):
        add(recorder, step, [1.0] * 5)
    recorder.close()
    assert [pq.read_metadata(part).num_rows for part in part_files(recorder.run_dir, "norms")] == [20, 20, 10]


def test_rows_that_are_none_are_refused_in_words(recorder):
    recorder.add("norms", step=[0])
    with pytest.raises(OrthoLoraError, match="rows cannot be recorded"):
        recorder.flush()


def test_a_closed_recorder_says_so(recorder):
    add(recorder, 0, [1.0])
    recorder.close()
    recorder.close("failed", "too late")
    assert read_status(recorder.run_dir).state == "finished"
    with pytest.raises(OrthoLoraError, match="the recorder is closed: make another one"):
        add(recorder, 1, [1.0])


def test_two_processes_cannot_write_one_run(recorder):
    script = (
        "from pathlib import Path; from ortho_lora.record.admission import lock_run;"
        f" lock_run(Path({str(recorder.run_dir)!r}))"
    )
    command = [sys.executable, "-c", script]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "another process is writing this run: wait for its end, or stop it." in refused.stderr
    recorder.close()
    assert subprocess.run(command, check=False).returncode == 0


def test_progress_is_on_disk_soon_and_a_heartbeat_is_a_sign_of_training_alone(recorder):
    recorder.progress(4, {"a": 1.0}, 2.5)
    wait_for(lambda: read_status(recorder.run_dir).step == 4)
    before = read_status(recorder.run_dir)
    assert (before.phase, before.eta_seconds) == ("training", 2.5)
    time.sleep(2.5)  # the writer has looked twice by now, and training did nothing
    assert read_status(recorder.run_dir) == before
    add(recorder, 5, [1.0])
    wait_for(lambda: read_status(recorder.run_dir).heartbeat > before.heartbeat)


def test_the_status_tells_the_last_metrics(recorder):
    for step, value in ((0, 0.5), (9, 0.75)):
        scores = {"metric": ["accuracy", "loss"], "value": [value, np.nan], "examples": 8}
        recorder.add("metrics", step=step, split="validation", task="a", **scores)
    recorder.close()
    assert read_status(recorder.run_dir).metrics == {"validation": {"a": {"accuracy": 0.75}}}


def test_events_come_back_and_are_cut_like_steps(recorder):
    recorder.event(3, "dropped", reason="CUDA out of memory")
    recorder.event(4, "nonfinite", "a", "loss is nan")
    recorder.event(4, "skipped")
    recorder.close()
    expected = [
        {"step": 3, "event": "dropped", "task": None, "reason": "CUDA out of memory"},
        {"step": 4, "event": "nonfinite", "task": "a", "reason": "loss is nan"},
        {"step": 4, "event": "skipped", "task": None, "reason": ""},
    ]
    rows = pq.ParquetDataset(part_files(recorder.run_dir, "events"), schema=TABLES["events"]).read()
    assert rows.to_pylist() == expected
    resumed = Recorder.resume(
        recorder.run_dir, lock_run(recorder.run_dir), dict.fromkeys(TABLES, 4), total=9, flush_rows=10, flush_seconds=1
    )
    resumed.close()
    (left,) = part_files(recorder.run_dir, "events")
    assert pq.read_table(left).to_pylist() == expected[:1]


def test_a_record_from_before_there_were_events_goes_on(recorder):
    add(recorder, 0, [1.0])
    recorder.close()
    (recorder.run_dir / "events").rmdir()
    resumed = Recorder.resume(
        recorder.run_dir, lock_run(recorder.run_dir), dict.fromkeys(TABLES, 1), total=9, flush_rows=10, flush_seconds=1
    )
    resumed.event(1, "dropped")
    resumed.close()
    assert len(part_files(recorder.run_dir, "events")) == 1
    assert len(part_files(recorder.run_dir, "norms")) == 1


def test_patience_grows_with_the_longest_silence(recorder, monkeypatch):
    now = time.monotonic()
    monkeypatch.setattr(writer.time, "monotonic", lambda: now + 300)
    assert recorder.progress(1, {}).patience_seconds == pytest.approx(900, rel=0.1)


def test_a_recorder_that_is_forgotten_leaves_no_thread_and_no_lock(tmp_path):
    recorder = begun(tmp_path)
    thread = recorder._writer.thread
    del recorder
    gc.collect()
    assert not thread.is_alive()
    lock_run(tmp_path / "x").release()
