"""Vectors of a snapshot on disk and back."""

import numpy as np
import pyarrow.dataset as ds
import pytest
from infos import INFO
from snapshots import known_snapshot
from vectors import drawn, truth

from ortho_lora import Recorder
from ortho_lora.record.manifest import part_files, read_manifest
from ortho_lora.record.tables import SCHEMAS
from ortho_lora.record.vectors import COORDINATES, Vectors, coordinates, of_table


def read(run_dir, step: int, of: Vectors) -> Vectors:
    rows = ds.dataset(part_files(run_dir, "vectors"), schema=SCHEMAS["vectors"]).to_table(
        filter=ds.field("step") == step
    )
    return of_table(rows, of.tasks, of.targets, of.batches)


@pytest.fixture
def given() -> Vectors:
    vectors = drawn(truth(0), 0)
    vectors.means[3, 1] = vectors.held_out[:2, 0] = np.nan
    vectors.rate[:] = np.linspace(1e-4, 1e-3, len(vectors.rate))
    return vectors


def test_they_come_back_to_a_few_thousandths_of_a_percent(given, tmp_path):
    with Recorder(tmp_path / "run") as recorder:
        recorder.begin(INFO)
        for step in (4, 8):
            recorder.add_snapshot(step, known_snapshot(step, vectors=given))
        recorder.go_on(8)
        recorder.add_snapshot(8, known_snapshot(8, vectors=drawn(truth(1), 1)))
    found = read(tmp_path / "run", 4, given)
    for name in ("means", "held_out", "deviation", "rate", "eps", "past"):
        np.testing.assert_allclose(getattr(found, name), getattr(given, name), rtol=2**-13, equal_nan=True)
    other = read(tmp_path / "run", 8, given)
    np.testing.assert_allclose(other.means, drawn(truth(1), 1).means, rtol=2**-13)
    (part,) = read_manifest(tmp_path / "run").of("vectors")  # parts are put together like others
    assert part.rows == 2 * (3 + 3 + 5 * 16) - 3


def test_a_snapshot_without_targets_has_none(tmp_path):
    with Recorder(tmp_path / "run") as recorder:
        recorder.begin(INFO)
        recorder.add_snapshot(4, known_snapshot(4))
    assert not read_manifest(tmp_path / "run").of("vectors")


def test_half_of_their_bytes_is_saved(tmp_path):
    vectors = drawn(truth(0, size=2000), 0)
    with Recorder(tmp_path / "run") as recorder:
        recorder.begin(INFO)
        recorder.add_snapshot(4, known_snapshot(4, vectors=vectors))
    (path,) = part_files(tmp_path / "run", "vectors")
    values = 2000 * (3 + 3 + 5 * 16)
    assert path.stat().st_size < 2.2 * values


def test_so_many_gradients_have_so_many_coordinates():
    assert coordinates(10) == COORDINATES
    assert coordinates(32 * 100) < COORDINATES
    assert coordinates(10**9) == 1
