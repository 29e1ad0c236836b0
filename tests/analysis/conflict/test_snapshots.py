"""What snapshots on disk say, against the snapshot itself."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from infos import INFO, TASK
from snapshots import known_snapshot
from typer.testing import CliRunner

from analysis.__main__ import app
from analysis.conflict import queries
from analysis.conflict.snapshots import (
    own_metric,
    snapshot_blocks,
    snapshot_layers,
    snapshot_matrix,
    snapshot_norms,
    snapshot_pairs,
    snapshot_table,
    together,
)
from analysis.diagnosis.diagnose import diagnose
from analysis.diagnosis.sentences import sentences
from analysis.reading.database import Selection
from ortho_lora.record.recorder import Recorder
from ortho_lora.record.schema import read_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    tasks = tuple(TASK.model_copy(update={"name": name}) for name in "abc")
    with Recorder(tmp_path_factory.mktemp("runs") / "x") as recorder:
        recorder.begin(INFO.model_copy(update={"tasks": tasks}))
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
    assert "Whole model, cosines of snapshots up to step 4" in told
    assert "a – b" in told


@pytest.mark.parametrize("metric", ["plain", "adamw"])
def test_the_matrix_is_of_one_snapshot_the_whole_model_first(run, metric):
    found = snapshot_matrix(run, metric=metric)
    assert found["branch"].drop_duplicates().tolist() == ["both", "A", "B"]
    assert set(found["snapshot"]) == {4}
    assert set(snapshot_matrix(run, at=0)["snapshot"]) == {0}
    assert set(snapshot_matrix(run, Selection(branches=("A",)))["branch"]) == {"A"}
    snapshot = known_snapshot(4)
    for row in found.to_dict("records"):
        i, j = (snapshot.tasks.index(row[name]) for name in ("task_i", "task_j"))
        branch = None if row["branch"] == "both" else row["branch"]
        expected = [each[i, j] for each in snapshot.cosines(metric, branch=branch)]
        np.testing.assert_allclose([row[f"cosine{end}"] for end in ("", "_low", "_high")], expected, rtol=1e-9)
    told = found[found["task_j"] == "b"]
    assert (told["more"] == 0).all()
    assert found.loc[found["task_j"] == "c", "more"].isna().all()


def test_those_of_a_training_count_together(run, tmp_path):
    info = INFO.model_copy(update={"config": {"snapshots": 2}, "tasks": read_run(run).tasks})
    with Recorder(tmp_path / "x") as recorder:
        recorder.begin(info)
        for step in (0, 4):
            recorder.add_snapshot(step, known_snapshot(step))
    assert (together(tmp_path / "x"), together(run)) == ([0, 4], [4])
    first, last = known_snapshot(0), known_snapshot(4)
    products = {name: of + last.products[name] for name, of in first.products.items()}
    sums = replace(last, products=products)
    found = snapshot_matrix(tmp_path / "x", metric="plain").set_index(["branch", "task_i", "task_j"])
    for branch in ("both", "A", "B"):
        value, low, high = sums.cosines("plain", branch=None if branch == "both" else branch)
        row = found.loc[(branch, "a", "b"), ["cosine", "cosine_low", "cosine_high"]].astype(float)
        np.testing.assert_allclose(row, [value[0, 1], low[0, 1], high[0, 1]], rtol=1e-9)
    block = snapshot_blocks(tmp_path / "x").iloc[0]
    where = {name: block[name] for name in ("branch", "layer", "module")}
    np.testing.assert_allclose(block["cosine"], sums.cosines("adamw", **where)[0][0, 1], rtol=1e-9)
    assert diagnose(tmp_path / "x").snapshots == (0, 4)
    assert together(tmp_path / "x", Selection(steps=(1, 9))) == [4]
    with Recorder(tmp_path / "y") as recorder:  # other groups of texts
        recorder.begin(info.model_copy(update={"run_id": "y"}))
        recorder.add_snapshot(0, known_snapshot(0))
        recorder.add_snapshot(4, replace(last, groups=last.groups - 1))
    assert together(tmp_path / "y") == [4]


def test_of_some_steps_the_last_snapshot_counts_that_they_led_to(run):
    assert set(snapshot_matrix(run, Selection(steps=(0, 3)))["snapshot"]) == {4}  # after 4 steps, 0 to 3
    assert set(snapshot_matrix(run, Selection(steps=(0, 2)))["snapshot"]) == {0}
    assert snapshot_matrix(run, Selection(steps=(1, 2))).empty


def test_more_batches_are_asked_for_in_proportion_to_those_taken(tmp_path):
    weak = known_snapshot(4)
    noise = np.random.default_rng(0).standard_normal(weak.products["adamw"].shape)
    noise += np.swapaxes(noise, -1, -2)
    scale = np.abs(weak.products["adamw"][:, :, 0, 1]).max()
    for times in (1, 2):
        products = {name: of + 2 * scale * noise for name, of in weak.products.items()}
        with Recorder(tmp_path / str(times)) as recorder:
            recorder.begin(INFO.model_copy(update={"run_id": str(times)}))
            recorder.add_snapshot(4, replace(weak, products=products, batches=times * weak.batches))
    one, two = (snapshot_matrix(tmp_path / str(times)) for times in (1, 2))
    assert (one["more"].dropna() > 0).any()
    np.testing.assert_allclose(two["more"], 2 * one["more"], atol=2)


def test_blocks_are_marked_where_the_verdict_on_their_pair_shows(run):
    found = snapshot_blocks(run)
    assert len(found) == 8 * 3
    snapshot = known_snapshot(4)
    for row in found.to_dict("records"):
        where = {name: row[name] for name in ("branch", "layer", "module")}
        i, j = (snapshot.tasks.index(row[name]) for name in ("task_i", "task_j"))
        np.testing.assert_allclose(row["cosine"], snapshot.cosines("adamw", **where)[0][i, j], rtol=1e-9)
    pair = found[found["task_j"] == "b"]
    assert set(pair["verdict"]) == {"aligned"}
    assert pair["clear"].all()
    assert not found.loc[found["task_j"] == "c", "clear"].any()
    assert len(snapshot_blocks(run, Selection(layers=(3,), branches=("B",)))) == 2 * 3


def test_layers_tell_of_every_snapshot(run):
    found = snapshot_layers(run)
    expected = snapshot_pairs(run, None, "adamw", ("branch", "layer"))
    np.testing.assert_array_equal(found["cosine"], expected["cosine"])
    assert found["clear"].tolist() == expected["verdict"].isin(["conflict", "aligned"]).tolist()
    assert set(found["step"]) == {0, 4}


def test_where_a_pair_agrees_is_what_its_snapshots_together_say(run):
    """In a record of another loop the last one counts."""
    found = queries.layer_by_layer(run, ("b", "a"))
    snapshot = known_snapshot(4)
    assert len(found) == 4
    for row in found.to_dict("records"):
        cosine = snapshot.cosines("adamw", branch=row["branch"], layer=row["layer"])[0]
        assert row["cosine"] == pytest.approx(cosine[0, 1])
        assert row["low"] < row["cosine"] < row["high"]
    assert found["clear"].all()


def test_norms_are_those_of_the_true_gradients(run):
    found = snapshot_norms(run).set_index(["task_i", "task_j"])
    power = known_snapshot(4).products["plain"][0].sum(0)
    assert found.loc[("a", "b"), "ratio"] == pytest.approx(np.sqrt(power[0, 0] / power[1, 1]))
    assert found.loc[("a", "b"), "cosine"] == pytest.approx(known_snapshot(4).cosines("plain")[0][0, 1])
    assert np.isnan(found.loc[("a", "c"), "ratio"])


def test_the_metric_is_the_optimizers(run, tmp_path):
    assert own_metric(run) == "adamw"
    with Recorder(tmp_path / "x") as recorder:
        recorder.begin(INFO.model_copy(update={"config": INFO.config | {"optimizer": "sgd"}}))
        recorder.add_snapshot(4, known_snapshot(4))
    assert own_metric(tmp_path / "x") == "plain"
    found = snapshot_matrix(tmp_path / "x").query("branch == 'both'")["cosine"]
    np.testing.assert_array_equal(found, snapshot_pairs(run, Selection(steps=(4, 4)), "plain")["cosine"])


def test_a_record_of_snapshots_alone_has_an_extent_a_matrix_and_a_diagnosis(run):
    extent = queries.extent(run)
    assert (extent.first, extent.last, extent.snapshots, extent.of_steps) == (0, 4, (0, 4), False)
    assert (extent.layers, extent.modules, extent.tasks) == ((0, 3), ("query", "value"), ("a", "b", "c"))
    assert extent.pairs == (("a", "b"), ("a", "c"), ("b", "c"))
    matrix = queries.task_matrix(run, Selection())
    pd.testing.assert_series_equal(matrix["cosine"], snapshot_matrix(run)["cosine"])
    assert matrix["cos_before"].isna().all()
    assert (matrix["steps"] == 0).all()
    found = diagnose(run)
    assert (found.snapshots, found.steps) == ((4,), 0)
    first = found.pairs[0]
    assert (first.task_i, first.task_j, first.verdict) == ("a", "b", "aligned")
    assert (first.cosine, first.low, first.high) == pytest.approx(
        tuple(of[0, 1] for of in known_snapshot(4).cosines("adamw"))
    )
    assert [branch.branch for branch in first.branches] == ["both", "A", "B"]
    assert [(of.first, of.last) for of in first.branches[0].windows] == [(0, 0), (4, 4)]
    assert (first.branches[0].since, first.branches[0].until) == (4, 4)
    assert (first.branches[1].blocks, first.branches[1].blocks_clear) == (4, 4)
    said = "\n".join(sentences(first))
    assert said.startswith("Whole model: aligned, strong: cosine +")
    assert "When: told at step 4, and not at step 0." in said
    assert found.pairs[1].verdict == "not enough data"
    json.dumps(found.document(), allow_nan=False)
    told = CliRunner().invoke(app, ["diagnose", str(run), "--json"])
    pair = json.loads(told.stdout)[0]["pairs"][0]
    assert [pair[name] for name in ("task_i", "task_j", "cosine", "low", "high", "verdict")] == [
        "a", "b", first.cosine, first.low, first.high, "aligned",
    ]  # fmt: skip
