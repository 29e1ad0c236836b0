"""Predicted beside realized: the same numbers, and agreement whose interval respects tasks."""

import numpy as np
import pandas as pd
import pytest

from analysis.transfer import compared as module
from analysis.transfer.compared import agreement, compared, with_interval
from ortho_lora import OrthoLoraError

TASKS = list("abcdef")


def pairs(noise: float, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    rows = [(source, target) for target in TASKS for source in TASKS]
    frame = pd.DataFrame(rows, columns=["source", "target"])
    frame["predicted"] = rng.standard_normal(len(frame))
    frame["realized"] = 2 * frame["predicted"] + noise * rng.standard_normal(len(frame))
    return frame.assign(part="odd", sure=frame["predicted"].abs() > 0.5, reliability=0.8, ceiling=0.9)


def test_what_agrees_wholly_agrees_wholly():
    (found,) = agreement(pairs(0.0))
    assert (found.part, found.pairs, found.right) == ("odd", 30, 1.0)
    np.testing.assert_allclose([found.pearson, found.spearman, found.slope], [1, 1, 2])
    np.testing.assert_allclose([found.pearson_low, found.pearson_high], 1)
    assert (found.ceiling, found.reliability) == (0.9, 0.8)
    assert found.sure == (pairs(0.0).query("source != target")["predicted"].abs() > 0.5).sum()


def test_an_interval_ends_where_a_correlation_does():
    for seed in range(5):
        (found,) = agreement(pairs(3.0, seed))
        assert -1 <= found.pearson_low <= found.pearson <= found.pearson_high <= 1
        assert -1 <= found.spearman_low <= found.spearman <= found.spearman_high <= 1


def test_a_task_on_itself_is_no_pair():
    frame = pairs(0.0)
    frame.loc[frame["source"] == frame["target"], "realized"] = 1e6
    assert agreement(frame)[0].pearson == pytest.approx(1.0)


def test_intervals_respect_that_pairs_share_tasks():
    """Where every target has an error of its own, pairs are fewer than they look."""
    inside, naive = [], []
    for seed in range(150):
        rng = np.random.default_rng(seed)
        frame = pairs(0.0, seed)
        for column in ("predicted", "realized"):  # independent but for nothing: the truth is 0
            of_target = dict(zip(TASKS, rng.standard_normal(6), strict=True))
            of_source = dict(zip(TASKS, rng.standard_normal(6), strict=True))
            frame[column] = frame["target"].map(of_target) + frame["source"].map(of_source)
        others = frame[frame["source"] != frame["target"]]
        value, low, high = with_interval(others, module.pearson)
        inside.append(low < 0 < high)
        naive.append(abs(np.arctanh(value)) < 1.96 / np.sqrt(len(others) - 3))
    assert np.mean(inside) > np.mean(naive) + 0.1
    assert np.mean(inside) > 0.8


def test_steps_are_multiplied_and_the_place_must_be_the_same(monkeypatch):
    columns = {"source": ["a", "b"], "target": ["b", "a"], "part": "odd"}
    came = pd.DataFrame(columns | {"nats": [0.1, -0.2], "low": 0.0, "high": 1.0, "step": 8, "steps": 10, "sure": True})
    came = came.assign(reliability=0.5, ceiling=0.7)
    told = pd.DataFrame({"source": ["b", "a"], "target": ["a", "b"], "pull": [-0.01, 0.02]})
    told = told.assign(pull_low=[-0.02, -0.1], pull_high=[-0.005, 0.1])
    monkeypatch.setattr(module, "realized", lambda run: came)
    monkeypatch.setattr(module, "transfer_matrix", lambda run, at: told.copy())
    monkeypatch.setattr(module, "transfer_steps", lambda run: [8])
    monkeypatch.setattr(module, "own_metric", lambda run: "adamw")
    moved, running = 0.0, 0.0  # of a gradient that is 1 from the first step on
    for _ in range(10):
        running = 0.9 * running + 0.1
        moved += running
    found = compared("ahead", "place").set_index("source")
    np.testing.assert_allclose(found["predicted"], [0.02 * moved, -0.01 * moved])
    monkeypatch.setattr(module, "own_metric", lambda run: "plain")
    np.testing.assert_allclose(compared("ahead", "place")["predicted"], [0.2, -0.1])
    np.testing.assert_allclose(found["realized"], [0.1, -0.2])
    assert found["sure"].to_dict() == {"a": False, "b": True}
    monkeypatch.setattr(module, "transfer_steps", lambda run: [4])
    with pytest.raises(OrthoLoraError, match="no snapshot with held-out texts at step 8"):
        compared("ahead", "place")
    monkeypatch.setattr(module, "realized", lambda run: came[:0])
    with pytest.raises(OrthoLoraError, match="no draw of a lookahead is complete"):
        compared("ahead", "place")
