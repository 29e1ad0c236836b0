from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from analysis.conflict import agreement
from analysis.conflict.agreement import (
    batches_needed,
    block_cosines,
    model_steps,
    noise,
    pair_steps,
    task_matrix,
    windows,
)
from analysis.reading.database import Selection

ALL = Selection()
PAIR = ["branch", "task_i", "task_j"]


def test_pair_steps_by_hand(run: Path, tables: dict[str, pd.DataFrame]) -> None:
    found = pair_steps(run, ALL)
    row = found.query("branch == 'B' and task_i == 'movies' and task_j == 'trec' and step == 6").iloc[0]
    pairs = tables["pairs"].query("branch == 'B' and task_i == 'movies' and task_j == 'trec' and step == 6")
    norms = tables["norms"].query("branch == 'B' and step == 6").set_index(["layer", "module"])
    one, other = (norms[norms["task"] == task] for task in ("movies", "trec"))
    blocks = pairs.set_index(["layer", "module"])["cos_before"]
    assert row["cos"] == pytest.approx(blocks.mean(), rel=1e-5)
    assert row["rate"] == pytest.approx((blocks < 0).mean())
    product = (blocks * one["norm_before"] * other["norm_before"]).sum()
    square_i, square_j = ((norms["norm_before"] ** 2).sum() for norms in (one, other))
    assert row["whole"] == pytest.approx(product / np.sqrt(square_i * square_j), rel=1e-5)
    half = other["half_product"].sum()
    assert row["half_j"] == pytest.approx(half / (2 * square_j - half), rel=1e-5)
    assert row["steps"] == 1
    assert np.isnan(found.query("branch == 'A' and step == 0")["cos"]).all()


def test_model_steps_by_hand(run: Path, tables: dict[str, pd.DataFrame]) -> None:
    row = model_steps(run).query("task_i == 'movies' and task_j == 'trec' and step == 6").iloc[0]
    keys = ["branch", "layer", "module"]
    pairs = tables["pairs"].query("task_i == 'movies' and task_j == 'trec' and step == 6").set_index(keys)
    norms = tables["norms"].query("step == 6").set_index(keys)
    one, other = (norms[norms["task"] == task]["norm_before"] for task in ("movies", "trec"))
    product = (pairs["cos_before"] * one * other).sum()
    assert row["whole"] == pytest.approx(product / np.sqrt((one**2).sum() * (other**2).sum()), rel=1e-5)
    assert row["cos"] == row["whole"]
    assert row["square_i"] == pytest.approx((one**2).sum(), rel=1e-5)


def test_of_many_steps_bins_tell_the_same_means(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And intervals that are about as wide."""
    exact, floor = task_matrix(run, ALL), noise(run, ALL)
    monkeypatch.setattr(agreement, "MOST_STEPS", 20)
    assert pair_steps(run, ALL)["step"].nunique() == 20
    found = task_matrix(run, ALL)
    for name in ("cos_before", "rate_before", "similarity", "measured"):
        np.testing.assert_allclose(found[name], exact[name])
    wide, now = (frame["cos_high"] - frame["cos_low"] for frame in (exact, found))
    assert 0.5 < (now / wide).mean() < 2
    np.testing.assert_allclose(noise(run, ALL)["same_task_cosine"], floor["same_task_cosine"])


def test_one_window_is_the_whole(run: Path) -> None:
    found, whole = windows(run, ALL, 1), task_matrix(run, ALL)
    assert (found["step"].unique().tolist(), found["step_end"].unique().tolist()) == ([0], [78])
    for name in ("cos_low", "cos_high", "rate_low", "rate_high", "cosine", "cosine_low", "cosine_high"):
        np.testing.assert_allclose(found[name], whole[name])


def test_windows_are_the_selections_of_their_steps(run: Path) -> None:
    found = windows(run, ALL, 4)
    assert sorted(set(zip(found["step"], found["step_end"], strict=True))) == [(0, 18), (20, 38), (40, 58), (60, 78)]
    part = task_matrix(run, Selection(steps=(20, 38)))
    second = found[found["step"] == 20]
    for name in ("cos_low", "cos_high", "rate_high"):
        np.testing.assert_allclose(second[name], part[name])
    assert len(windows(run, ALL, 100)["step"].unique()) == 5, "of at least 8 steps"


def test_a_window_finds_when_the_cosine_changes(records: ModuleType, tmp_path: Path) -> None:
    halves = 0.3 * np.random.default_rng(0).standard_normal((80, 1, 2, 2, 2, 2, 6))
    halves[..., 0] += 1
    halves[40:, ..., 1, :, 0] -= 2
    info = records.run_info("run", [records.task_info(name) for name in ("one", "other")], layers=1)
    tables = records.gradient_tables(halves, ["one", "other"])
    found = windows(records.write_run(tmp_path / "run", info, records.status(), tables), ALL, 2)
    for branch in "AB":
        first, second = found[found["branch"] == branch].to_dict("records")
        assert first["cosine"] == pytest.approx(1, abs=0.1)
        assert second["cosine"] == pytest.approx(-1, abs=0.1)
        assert second["cosine_high"] < 0 < first["cosine_low"]
        true = 1 / (1 + 6 * 0.3**2)  # of halves of the same task
        assert first["same_task_i"] == pytest.approx(true, abs=0.1)


def test_batches_needed_are_those_of_the_verdicts(run: Path) -> None:
    found, matrix = batches_needed(run, ALL), task_matrix(run, ALL)
    pd.testing.assert_frame_equal(found, matrix[[*PAIR, "steps", "verdict", "more"]])
    np.testing.assert_array_equal(found["more"] == 0, found["verdict"] != "not enough data")


def test_nothing_recorded(records: ModuleType, tmp_path: Path) -> None:
    info = records.run_info("bare", [records.task_info("one"), records.task_info("other")])
    bare = records.write_run(tmp_path / "bare", info, records.status(), {})
    for frame in (pair_steps(bare, ALL), task_matrix(bare, ALL), windows(bare, ALL), batches_needed(bare, ALL)):
        assert frame.empty
    assert block_cosines(bare, ALL).empty
