"""What snapshots on disk say, against the snapshot itself."""

import json

import numpy as np
import pandas as pd
import pytest
from infos import INFO
from snapshots import known_snapshot
from typer.testing import CliRunner

from analysis.__main__ import app
from analysis.conflict.snapshots import snapshot_pairs, snapshot_table
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


def test_the_table_has_the_whole_model_and_its_branches_in_both_metrics(run):
    found = snapshot_table(run)
    assert len(found) == 2 * 3 * 2 * 3
    keys = ["step", "task_i", "task_j"]
    for metric in ("plain", "adamw"):
        for branch, of in (
            ("both", snapshot_pairs(run, None, metric)),
            ("B", snapshot_pairs(run, None, metric, ("branch",))),
        ):
            of = of[of["branch"] == "B"] if branch == "B" else of
            chosen = found[(found["metric"] == metric) & (found["branch"] == branch)].set_index(keys)
            pd.testing.assert_series_equal(chosen["cosine"], of.set_index(keys)["cosine"])


def test_the_command_says_them(run):
    document = json.loads(CliRunner().invoke(app, ["summary", str(run), "--json"]).stdout)
    assert [row["verdict"] for row in document["snapshots"]] == snapshot_pairs(run)["verdict"].tolist()
    assert document["snapshots"][-1]["low"] is None
    told = CliRunner().invoke(app, ["summary", str(run)]).stdout
    assert "Snapshot at step 4: how mean gradients agree" in told
    assert "a – b" in told
