"""The data of every figure: that they are what the record says."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from infos import INFO
from snapshots import known_snapshot
from typer.testing import CliRunner

from analysis.__main__ import app
from analysis.conflict import queries
from analysis.conflict.queries import Selection
from analysis.output.data import DATA, frame_of
from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.recorder import Recorder
from ortho_lora.record.schema import TaskInfo

PAIR = ("trec", "movies")  # not in the order of the configuration


def test_cosines_are_those_of_the_record(run: Path, tables: dict[str, pd.DataFrame]) -> None:
    pairs = tables["pairs"]
    chosen = pairs[(pairs["branch"] == "B") & pairs["step"].between(10, 30) & (pairs["layer"] == 1)]
    chosen = chosen[(chosen["task_i"] == "movies") & (chosen["task_j"] == "trec")]
    selection = Selection(steps=(10, 30), layers=(1,), branches=("B",))
    (row,) = frame_of("matrix", [run], selection, PAIR).to_dict("records")
    assert row["run"] == run.name
    assert row["cos_before"] == pytest.approx(chosen["cos_before"].mean(), abs=1e-6)
    by_step = frame_of("layer-step", [run], selection, PAIR).set_index("step")["cos_before"]
    expected = chosen.groupby("step")["cos_before"].mean()
    np.testing.assert_allclose(by_step.to_numpy(), expected.to_numpy(), atol=1e-6)
    assert by_step.index.tolist() == expected.index.tolist()


def test_every_pair_is_there_unless_one_is_chosen(run: Path, tmp_path: Path) -> None:
    with Recorder(tmp_path / "x") as recorder:
        recorder.begin(INFO.model_copy(update={"tasks": tuple(TaskInfo(name=name) for name in "abc")}))
        recorder.add_snapshot(0, known_snapshot(0))
    of_run = run, queries.extent(run).pairs, PAIR
    of_snapshot = tmp_path / "x", [("a", "b"), ("a", "c"), ("b", "c")], ("a", "c")
    for name, data in DATA.items():
        if "pair" not in data.takes:
            continue
        path, recorded, pair = of_snapshot if name.startswith("snapshot") else of_run
        whole, one = frame_of(name, [path]), frame_of(name, [path], pair=pair)
        columns = ["task", "against"] if "against" in whole else ["task_i", "task_j"]
        found = {frozenset(pair) for pair in whole[columns].itertuples(index=False, name=None)}
        assert found == {frozenset(pair) for pair in recorded}, name
        assert {frozenset(of) for of in one[columns].itertuples(index=False, name=None)} == {frozenset(pair)}, name


def test_names_are_listed() -> None:
    listed = json.loads(CliRunner().invoke(app, ["export", "--list", "--json"]).stdout)
    assert [one["name"] for one in listed] == list(DATA)
    assert all(name in CliRunner().invoke(app, ["export", "--list"]).stdout for name in DATA)


def test_data_that_are_not_there() -> None:
    with pytest.raises(OrthoLoraError, match="data 'conflicts': expected one of matrix, snapshots, snapshot-layers, "):
        frame_of("conflicts", [])
