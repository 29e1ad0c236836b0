"""A run in a notebook: the same numbers and figures as elsewhere, and live."""

from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from infos import INFO, TASK
from snapshots import known_snapshot
from vectors import drawn, truth

import analysis
from analysis import figures
from analysis.diagnosis.diagnose import diagnose
from analysis.diagnosis.verdicts import worst_first
from analysis.notebook import _cosines
from analysis.output.data import frame_of
from analysis.transfer.predicted import transfer_matrix
from ortho_lora import OrthoLoraError
from ortho_lora.record.recorder import Recorder

NAMES = ("a", "<b>", "c")
TASKS = tuple(TASK.model_copy(update={"name": name}) for name in NAMES)


def begin(recorder):
    config = {"optimizer": "adamw"}
    recorder.begin(INFO.model_copy(update={"run_id": recorder.run_dir.name, "tasks": TASKS, "config": config}))


def take(recorder, step, **given):
    found = known_snapshot(step, **given)
    named = {name: tuple(NAMES["abc".index(of)] for of in getattr(found, name)) for name in ("tasks", "targets")}
    for name, value in named.items():
        object.__setattr__(found, name, value)
        if found.vectors is not None:
            object.__setattr__(found.vectors, name, value)
    recorder.add_snapshot(step, found)
    recorder.flush()


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    where = tmp_path_factory.mktemp("runs") / "x"
    with Recorder(where) as recorder:
        begin(recorder)
        take(recorder, 4, vectors=drawn(truth(0), 0))
    return where


def test_frames_and_figures_are_those_of_the_pages(run_dir):
    run = analysis.open_run(run_dir)
    conflicts = run.conflicts()
    pd.testing.assert_frame_equal(conflicts.frame, frame_of("matrix", [run_dir]))
    assert conflicts.figure == figures.task_heatmap(conflicts.frame, list(NAMES), "cosine")
    layers = run.layers("c", "a")
    pd.testing.assert_frame_equal(layers.frame, frame_of("snapshot-layers", [run_dir], pair=("a", "c")))
    assert layers.figure == figures.snapshot_map(layers.frame)
    transfer = run.transfer(at=4)
    pd.testing.assert_frame_equal(transfer.frame, transfer_matrix(run_dir, 4))
    assert transfer.figure == figures.effect_heatmap(transfer.frame)
    found = run.diagnosis()
    pd.testing.assert_frame_equal(found.frame, frame_of("verdicts", [run_dir]))
    assert found.words.startswith(diagnose(run_dir).summary)


def test_a_pair_that_is_not_named_is_the_worst(run_dir):
    pairs = diagnose(run_dir).pairs
    worst = sorted(pairs, key=worst_first)[0]  # as reports list them
    assert analysis.open_run(run_dir).layers().words.startswith(f"{worst.task_i} – {worst.task_j}: cosine of")


def test_its_own_picture_is_words_and_tables(run_dir):
    html = analysis.open_run(run_dir)._repr_html_()
    assert "<script" not in html
    assert "<b>c" not in html  # a task's name is no markup
    assert html.count("&lt;b&gt;") == 6  # in the first line, in the words, in two heads and two rows
    cosines, transfer = (
        {row[0].text: dict(zip(NAMES, row[1:], strict=True)) for row in table.findall("tr")[1:]}
        for table in ElementTree.fromstring(f"<div>{html}</div>").findall("table")
    )
    assert list(cosines) == list(NAMES)
    assert list(transfer) == ["a", "<b>"]  # of the third there are no held-out texts
    for row in transfer_matrix(run_dir).to_dict("records"):
        cell = transfer[row["target"]][row["source"]]
        assert ("178, 24, 43" in cell.get("style")) == (row["nats"] > 0)  # red harms
        assert (cell.find("b") is not None) == (row["verdict"] != "not sure")
        assert np.sign(float("".join(cell.itertext()))) == np.sign(row["nats"])


def test_it_is_read_anew_each_time(tmp_path):
    recorder = Recorder(tmp_path / "x")
    begin(recorder)
    run = analysis.open_run(tmp_path / "x")
    assert not len(run.transfer().frame)
    assert "held-out" in run.transfer().words
    assert "<table" not in run._repr_html_()
    take(recorder, 4, vectors=drawn(truth(0), 0))
    assert len(run.transfer().frame)
    assert run._repr_html_().count("<table") == 2
    recorder.close()
    assert repr(run).startswith("x: finished")


def test_of_steps_alone_the_picture_is_of_branch_b():
    rows = [("A", "a", "b", 0.5, "aligned"), ("B", "a", "b", -0.5, "conflict")]
    frame = pd.DataFrame(rows, columns=["branch", "task_i", "task_j", "cosine", "verdict"])
    assert _cosines(frame) == {("a", "b"): (-0.5, True), ("b", "a"): (-0.5, True)}


def test_a_task_that_is_none_is_refused(run_dir):
    with pytest.raises(OrthoLoraError, match="pair: 'a' and 'd' given, expected two different tasks of x"):
        analysis.open_run(run_dir).layers("a", "d")


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(OrthoLoraError, match="run.json"):
        analysis.open_run(tmp_path)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = analysis.nothing
