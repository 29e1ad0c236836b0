"""A record on a disk that is full, read-only or gone."""

import errno
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
from infos import INFO
from recording import add, begun

from ortho_lora.errors import OrthoLoraError
from ortho_lora.record import parts
from ortho_lora.record.admission import lock_run
from ortho_lora.record.manifest import part_files
from ortho_lora.record.recorder import Recorder
from ortho_lora.record.schema import read_status


def test_a_directory_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OrthoLoraError, match=r"file/x: cannot be made .*: choose a --runs-dir you may write"):
        begun(tmp_path / "file")


def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_said_in_words_at_the_next_call_and_harms_nothing(recorder, monkeypatch):
    add(recorder, 0, [1.0])
    recorder.flush()
    monkeypatch.setattr(parts.os, "fsync", full)
    add(recorder, 1, [1.0] * 10)
    recorder.flush_if_due()

    def say():
        for _ in range(2000):
            recorder.progress(1, {})
            time.sleep(0.01)

    message = r"norms/part-000001.parquet: the record cannot be written \(No space left on device\): free space"
    with pytest.raises(OrthoLoraError, match=message):
        say()
    for call in (recorder.flush, recorder.flush_if_due, recorder.close):
        with pytest.raises(OrthoLoraError, match=message):
            call()
    assert [path.name for path in (recorder.run_dir / "norms").iterdir()] == ["part-000000.parquet"]
    assert len(part_files(recorder.run_dir, "norms")) == 1
    monkeypatch.undo()
    assert pq.read_table(part_files(recorder.run_dir, "norms")[0])["step"].to_pylist() == [0]


def unmount(path):
    """pyarrow closes what it has read a moment later, in a thread of its own."""
    subprocess.run(["umount", "--lazy", path], check=True)


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root mounts a small disk")
def test_a_disk_that_is_really_full(tmp_path):
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", tmp_path], check=False)
    if mounted.returncode:
        pytest.skip("this container may not mount")
    try:
        recorder = begun(tmp_path)
        random = np.random.default_rng(0)
        with pytest.raises(OrthoLoraError, match="the record cannot be written .*No space left on device"):  # noqa: PT012
            for step in range(10_000):
                add(recorder, step, random.standard_normal(100))
                recorder.flush_if_due()
        with pytest.raises(OrthoLoraError, match="No space left on device"):
            recorder.close()
        steps = pq.read_table(part_files(recorder.run_dir, "norms"))["step"].to_numpy()
        assert np.array_equal(np.unique(steps), np.arange(steps.max() + 1))
        assert len(steps) == 100 * (steps.max() + 1)
        assert read_status(recorder.run_dir) is not None
    finally:
        unmount(tmp_path)


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root mounts a disk read-only")
def test_a_disk_that_becomes_read_only_is_said_and_the_record_stays(tmp_path):
    recorder = begun(tmp_path)
    add(recorder, 0, [1.0] * 3)
    recorder.flush()
    bound = subprocess.run(["mount", "--bind", tmp_path, tmp_path], check=False)
    if bound.returncode:
        pytest.skip("this container may not mount")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", tmp_path], check=True)
        add(recorder, 1, [1.0] * 3)
        with pytest.raises(
            OrthoLoraError, match=r"the record cannot be written .Read-only file system.: free space, or"
        ):
            recorder.flush()
        with pytest.raises(OrthoLoraError, match="Read-only file system"):
            recorder.close()
        with pytest.raises(OrthoLoraError, match=r"y: cannot be made .Read-only file system.: choose a --runs-dir"):
            Recorder(tmp_path / "y").begin(INFO.model_copy(update={"run_id": "y"}))
        with pytest.raises(OrthoLoraError, match=r"x: cannot be locked .Read-only file system.: choose a directory"):
            lock_run(tmp_path / "x")
        assert pq.read_table(part_files(recorder.run_dir, "norms")[0])["step"].to_pylist() == [0] * 3
    finally:
        unmount(tmp_path)


def test_a_directory_that_is_gone_is_said_and_an_error_of_training_comes_first(tmp_path):
    def train():
        with Recorder(tmp_path / "x") as recorder:
            recorder.begin(INFO)
            add(recorder, 0, [1.0])
            shutil.rmtree(tmp_path / "x")
            raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        train()
    recorder = begun(tmp_path)
    add(recorder, 0, [1.0])
    shutil.rmtree(tmp_path / "x")
    with pytest.raises(OrthoLoraError, match="x: the run's directory is gone: it was deleted, moved or unmounted"):
        recorder.flush()
