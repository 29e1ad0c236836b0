from dataclasses import replace

import numpy as np
import pytest
from infos import INFO, TASK
from snapshots import known_snapshot
from vectors import drawn, truth

from analysis import open_run
from analysis.transfer.texts import COLUMNS, texts_of
from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.recorder import Recorder
from ortho_lora.record.texts import Texts

LOSSES = {4: [1.0, 2.0, 3.0], 8: [0.5, 1.0, 2.5]}


@pytest.fixture
def run(tmp_path):
    """Of three tasks with two snapshots, and three texts of a."""
    config = {"optimizer": "adamw", "snapshots": 2, "tasks": [{"name": name} for name in "abc"]}
    tasks = tuple(TASK.model_copy(update={"name": name}) for name in "abc")
    with Recorder(tmp_path / "run") as recorder:
        recorder.begin(INFO.model_copy(update={"tasks": tasks, "config": config}))
        for step, losses in LOSSES.items():
            snapshot = known_snapshot(step, vectors=drawn(truth(step), step))
            nats = step * np.array([[0.1, -1.0, 0.0], [0.2, 2.0, 0.0], [0.3, 1.0, 0.0]])
            snapshot = replace(
                snapshot, texts=(Texts("a", tuple("abc"), [7, 3, 5], list("pqr"), list("xyx"), np.array(losses), nats),)
            )
            recorder.add_snapshot(step, snapshot)
    return tmp_path / "run"


def test_worst_first_and_the_mean_over_snapshots(run):
    found = texts_of(run, "b", "a")
    assert list(found) == list(COLUMNS)
    assert found[["text", "label", "example"]].to_numpy().tolist() == [["q", "y", 3], ["r", "x", 5], ["p", "x", 7]]
    np.testing.assert_allclose(found["nats"], [12, 6, -6])
    np.testing.assert_allclose(found["loss"], [1.5, 2.75, 0.75])
    assert set(found["step"]) == {8}
    np.testing.assert_allclose(texts_of(run, "b", "a", 4)["nats"], [8, 4, -4])


def test_of_what_is_not_recorded_there_are_no_rows(run):
    assert list(texts_of(run, "a", "b")) == list(COLUMNS)
    assert texts_of(run, "a", "b").empty


def test_in_a_notebook(run):
    found = open_run(run).texts("b", "a")
    assert found.frame.equals(texts_of(run, "b", "a"))
    assert (
        found.words == "By its own gradient alone (pull) a step for b raises the loss of 2 of 3 validation texts of a."
    )
    assert open_run(run).texts("a", "b").words == "No single texts of b are recorded."
    with pytest.raises(OrthoLoraError, match="task 'd': expected one of a, b, c"):
        open_run(run).texts("d", "a")
