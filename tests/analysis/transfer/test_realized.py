"""What lookaheads on disk say."""

import json
from dataclasses import replace

import numpy as np
import pytest
from infos import INFO, TASK
from snapshots import known_snapshot
from typer.testing import CliRunner
from vectors import drawn, truth

from analysis.__main__ import app
from analysis.transfer.realized import COLUMNS, realized, realized_matrix, realized_progress
from ortho_lora.record.draws import PARTS, effects_of, reliability
from ortho_lora.record.recorder import Recorder
from ortho_lora.record.schema import ProbeInfo

NAMES = ("b", "a", "c")
"""In the order of the configuration."""


@pytest.fixture(scope="module")
def effects():
    """Nats of 4 draws, by part, source and target, the means as large as the noise."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(3, 3, 3)) + rng.normal(size=(4, 3, 3, 3))


def record(run_dir, effects, *, backwards=False):
    """A lookahead of 10 steps; `backwards`: rows in another order."""
    tasks = tuple(TASK.model_copy(update={"name": name}) for name in NAMES)
    place = ProbeInfo(run="mine", step=60, seed=0, steps=10)
    with Recorder(run_dir) as recorder:
        recorder.begin(INFO.model_copy(update={"run_id": run_dir.name, "tasks": tasks, "probe": place}))
        for draw, of_draw in enumerate(effects):
            rows = [(None, target, "difference", -1.0 - draw) for target in NAMES]
            rows += [
                (source, target, part, of_draw[p, j, i])
                for j, source in enumerate(NAMES)
                for p, part in enumerate(PARTS)
                for i, target in enumerate(NAMES)
            ]
            sources, targets, parts, values = zip(*rows[:: -1 if backwards else 1], strict=True)
            recorder.add(
                "lookahead", step=60, draw=draw, source=np.array(sources, object), target=list(targets),
                part=list(parts), value=list(values), error=0.1, examples=50,
            )  # fmt: skip
    return run_dir


@pytest.fixture(scope="module")
def run(tmp_path_factory, effects):
    return record(tmp_path_factory.mktemp("runs") / "ahead", effects)


def test_a_row_is_a_part_and_an_ordered_pair(run, effects):
    found = realized(run)
    assert found.dtypes.astype(str).to_dict() == COLUMNS
    keys = list(zip(found["part"], found["target"], found["source"], strict=True))
    assert keys == [(part, target, source) for part in PARTS for target in NAMES for source in NAMES]
    assert set(zip(found["step"], found["steps"], found["draws"], strict=True)) == {(60, 10, 4)}
    values = np.moveaxis(effects, -1, -2).reshape(4, -1)  # by part, target and source
    expected = effects_of(values, np.full_like(values, 0.1))
    np.testing.assert_allclose(found["nats"], expected.value)
    np.testing.assert_allclose(found[["low", "high"]].T, expected.interval())
    assert found["q"].isna().equals(found["source"] == found["target"])
    assert (found["sure"] == (found["q"] <= 0.03)).all()
    for place, part in enumerate(PARTS):
        pairs = effects[:, place][:, ~np.eye(3, dtype=bool)]
        of_part = found.loc[found["part"] == part, "reliability"]
        assert of_part.to_numpy() == pytest.approx(np.full(9, reliability(pairs)))


def test_the_order_of_rows_on_disk_does_not_matter(run, effects, tmp_path):
    assert realized(record(tmp_path / "ahead", effects, backwards=True)).equals(realized(run))


def test_what_all_tasks_do_together_stands_apart(run):
    found = realized_progress(run)
    assert found["target"].tolist() == list(NAMES)
    assert found["nats"].tolist() == [-2.5] * 3
    assert (found["high"] < 0).any() == (found["high"].iloc[0] < 0)
    assert (found["low"] < found["nats"]).all()


def test_one_draw_has_no_interval(effects, tmp_path):
    run = record(tmp_path / "ahead", effects[:1])
    assert realized(run)["draws"].unique().tolist() == [1]
    assert realized(run)["low"].isna().all()


def test_without_a_lookahead_there_are_no_rows(tmp_path):
    with Recorder(tmp_path / "x") as recorder:
        recorder.begin(INFO)
        recorder.add("steps", step=0, task=["a"], loss=1.0, learning_rate=1.0, seconds=1.0, order=0)
    assert realized(tmp_path / "x").empty
    assert realized(tmp_path / "x").dtypes.astype(str).to_dict() == COLUMNS
    assert realized_progress(tmp_path / "x").empty


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    tasks = tuple(TASK.model_copy(update={"name": name}) for name in NAMES)
    vectors = replace(drawn(truth(0), 0, tasks=NAMES), batches=np.full(3, 24))
    snapshot = replace(known_snapshot(60, tasks=NAMES), vectors=vectors)
    with Recorder(tmp_path_factory.mktemp("runs") / "place") as recorder:
        recorder.begin(INFO.model_copy(update={"run_id": "place", "tasks": tasks}))
        recorder.add_snapshot(60, snapshot)
    return recorder.run_dir


def test_a_matrix_has_the_parts_beside_each_other(run, effects):
    found, rows = realized_matrix(run), realized(run).set_index(["part", "source", "target"])
    assert len(found) == 9
    for row in found.to_dict("records"):
        for part, column in (("difference", "nats"), ("odd", "odd"), ("even", "even")):
            assert row[column] == rows.loc[(part, row["source"], row["target"]), "nats"]
        one = rows.loc[("difference", row["source"], row["target"])]
        assert row["verdict"] == (("harms" if row["nats"] > 0 else "helps") if one["sure"] else "not sure")


class TestCommand:
    def test_prints_every_effect_of_each_part(self, run):
        printed = CliRunner().invoke(app, ["transfer", str(run)], catch_exceptions=False).stdout
        for value in realized(run)["nats"]:
            assert f"{value:+.2f}" in printed
        assert "--predicted" in printed

    def test_beside_it_what_was_predicted(self, run, place):
        given = ["transfer", str(run), "--predicted", str(place)]
        printed = CliRunner().invoke(app, given, catch_exceptions=False).stdout
        found = json.loads(CliRunner().invoke(app, [*given, "--json"]).stdout)
        assert [one["part"] for one in found["agreement"]] == list(PARTS)
        assert f"{found['agreement'][1]['pearson']:+.2f}" in printed
        assert len(found["realized"]) == 27
        assert len(found["compared"]) == 18  # of two targets

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            (["RUN", "--mixture", "a"], "is a lookahead: --mixture asks what a snapshot predicts"),
            (["PLACE", "--predicted", "RUN"], "--predicted compares a lookahead, and this is none"),
            (["RUN", "--predicted", "RUN"], "no snapshot with held-out texts at step 60"),
        ],
    )
    def test_refuses_what_it_cannot_compare(self, run, place, given, words):
        paths = {"RUN": str(run), "PLACE": str(place)}
        done = CliRunner().invoke(app, ["transfer", *(paths.get(one, one) for one in given)])
        assert (done.exit_code, words in done.stderr) == (2, True)
