"""What snapshots on disk say, against the snapshot itself."""

import numpy as np
import pandas as pd
import pytest
from snapshots import INFO, known_snapshot

from analysis.conflict.snapshots import snapshot_pairs, snapshot_steps
from analysis.reading.database import Selection
from ortho_lora.record.recorder import Recorder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with Recorder(tmp_path_factory.mktemp("runs") / "x") as recorder:
        recorder.begin(INFO)
        for step in (0, 4):
            recorder.add_snapshot(step, known_snapshot(step))
    return recorder.run_dir


def test_without_one_there_is_no_row(tmp_path):
    with Recorder(tmp_path / "x") as recorder:
        recorder.begin(INFO)
        recorder.event(0, "dropped", reason="so")
    assert snapshot_steps(tmp_path / "x") == []
    assert snapshot_pairs(tmp_path / "x").empty


@pytest.mark.parametrize("metric", ["plain", "adamw"])
@pytest.mark.parametrize(
    ("by", "selection"),
    [((), Selection()), (("branch",), Selection()), (("layer", "branch"), Selection(branches=("B",))),
     (("module",), Selection(layers=(3,))), ((), Selection(modules=("query",), steps=(1, 9)))],
)  # fmt: skip
def test_they_are_those_of_the_snapshot(run, metric, by, selection):
    found = snapshot_pairs(run, selection, metric, by)
    assert set(found["step"]) == ({0, 4} if selection.steps is None else {4})
    assert len(found)
    for row in found.to_dict("records"):
        of = known_snapshot(row["step"])
        where = {name: row[name] for name in by}
        if selection.branches:
            where["branch"] = "B"
        if selection.layers:
            where["layer"] = 3
        if selection.modules:
            where["module"] = "query"
        i, j = (of.tasks.index(row[name]) for name in ("task_i", "task_j"))
        expected = [each[i, j] for each in of.cosines(metric, **where)]
        np.testing.assert_allclose([row["cosine"], row["low"], row["high"]], expected, rtol=1e-9)


def test_strong_pairs_are_judged_and_a_task_with_too_little_text_is_not(run):
    found = snapshot_pairs(run).set_index(["step", "task_i", "task_j"])
    assert found.loc[(0, "a", "b"), "verdict"] == "conflict"
    assert found.loc[(4, "a", "b"), "verdict"] == "aligned"
    little = found.xs("c", level="task_j")
    assert set(little["verdict"]) == {"not enough data"}
    assert little[["cosine", "low", "high"]].isna().all(axis=None)
    assert found["q"].dropna().between(0, 1).all()
    assert isinstance(found, pd.DataFrame)
