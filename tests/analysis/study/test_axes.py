"""Methods and conflict over what a study varies."""

import pytest

from analysis.outcomes.scores import read_scores
from analysis.study.axes import over_axes
from analysis.study.conflicts import conflicts
from analysis.study.results import boards, read_results


def test_the_dial_turns_cosine_and_metric(dialled_study):
    results = read_results(dialled_study)
    frame = over_axes(results, boards(results, read_scores(results.reported())))
    joint = frame[frame["method"] == "joint"]
    assert joint["rho"].tolist() == ["0.0", "0.5", "1.0"]
    assert joint["cosine"].tolist() == pytest.approx([0.9, 0.0, -0.9], abs=0.1)
    assert joint["mean"].tolist() == pytest.approx([0.8, 0.7, 0.6])
    assert joint["gain"].isna().all()
    assert set(frame["task"]) == {"movies"}  # the twin does not count
    single = frame[frame["method"] == "single"]
    assert single["gain"].tolist() == pytest.approx([0.0, 0.1, 0.2])
    assert single[["cosine", "projected"]].isna().all(axis=None)


def test_conflicts_of_a_run(dialled_study):
    found = conflicts(dialled_study / "joint-1.0-s0")
    assert found[["task_i", "task_j"]].to_numpy().tolist() == [["movies", "movies-flip1.0"]]
    pair = found.iloc[0]
    assert (pair["conflict_rate"], pair["projected"]) == (1.0, 1.0)
    assert pair["corrected"] == pytest.approx(pair["cosine"], abs=0.02)  # twins are told by their batches
    assert conflicts(dialled_study / "single-1.0-s0").empty


def test_corrected_cosines_of_tasks_with_texts_of_their_own(paired_study):
    pair = conflicts(paired_study / "joint-movies-tweets-s0").iloc[0]
    assert pair["corrected"] == pytest.approx(0.4, abs=0.05)
