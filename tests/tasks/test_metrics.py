"""Metrics: values known by hand, and a value for every prediction."""

import math
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ortho_lora.tasks.data import FITTING, METRICS_OF_KIND, Split, TaskData
from ortho_lora.tasks.metrics import METRICS, majority_baseline, score
from ortho_lora.tasks.specs import Metric

CLASSIFICATION = ("accuracy", "macro_f1", "f1", "matthews")
REGRESSION = ("pearson", "spearman", "rmse", "r2")

indices = st.lists(st.integers(0, 1), min_size=1, max_size=20)
numbers = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20)


def test_every_metric_is_tested():
    assert {*CLASSIFICATION, *REGRESSION} == set(METRICS)


def test_every_metric_can_be_asked_for():
    assert get_args(Metric) == tuple(METRICS)
    assert {kind: set(of) for kind, of in FITTING.items()} == {
        "classification": set(CLASSIFICATION), "regression": set(REGRESSION)
    }  # fmt: skip
    assert all({*usual} <= {*FITTING[kind]} for kind, usual in METRICS_OF_KIND.items())


def test_classification_by_hand():
    labels, predictions = np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 1, 0])  # TP 1, TN 2, FP 1, FN 1
    found = score(CLASSIFICATION, labels, predictions, ("no", "yes"))
    assert found == pytest.approx({"accuracy": 3 / 5, "f1": 1 / 2, "macro_f1": (2 / 3 + 1 / 2) / 2, "matthews": 1 / 6})


def test_regression_by_hand():
    labels = np.array([1, 2, 3, 4], dtype=np.float32)
    found = score(REGRESSION, labels, labels + np.float32(1), ())
    assert found == pytest.approx({"pearson": 1, "spearman": 1, "rmse": 1, "r2": 1 - 4 / 5})


def test_classes_that_do_not_occur_count():
    same = np.array([0, 1])
    assert score(["macro_f1"], same, same, ("a", "b", "c", "d"))["macro_f1"] == pytest.approx(1 / 2)


@given(indices, st.data())
def test_any_prediction_of_classes_has_a_value(labels, data):
    predictions = data.draw(st.lists(st.integers(0, 1), min_size=len(labels), max_size=len(labels)))
    found = score(CLASSIFICATION, np.array(labels), np.array(predictions), ("no", "yes"))
    assert all(-1 <= value <= 1 for value in found.values())


@given(numbers, st.data())
def test_any_prediction_of_numbers_has_a_value(labels, data):
    floats = st.floats(-1e6, 1e6, width=32)
    predictions = data.draw(st.lists(floats, min_size=len(labels), max_size=len(labels)))
    found = score(REGRESSION, np.array(labels, np.float32), np.array(predictions, np.float32), ())
    assert all(math.isfinite(value) for value in found.values())


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e6])
def test_a_constant_prediction_has_no_correlation(constant):
    labels, predictions = np.arange(4, dtype=np.float32), np.full(4, constant, dtype=np.float32)
    assert score(["pearson", "spearman"], labels, predictions, ()) == {"pearson": 0, "spearman": 0}


def test_predictions_that_are_not_finite_have_no_value():
    labels, predictions = np.array([1, 2], dtype=np.float32), np.array([1, np.inf], dtype=np.float32)
    assert math.isnan(score(["rmse"], labels, predictions, ())["rmse"])


def test_the_majority_baseline_is_fitted_on_the_training_split():
    train = Split(list("abcde"), np.array([0, 1, 1, 1, 2]))
    held = Split(list("fghi"), np.array([0, 0, 1, 2]))
    task = TaskData("t", "classification", ("x", "y", "z"), train, {"validation": held}, ("accuracy", "macro_f1"))
    expected = {"accuracy": 1 / 4, "macro_f1": (2 / 5) / 3}
    assert majority_baseline(task)["validation"] == pytest.approx(expected)
    assert majority_baseline(task, {"subset": held})["subset"] == pytest.approx(expected)


def test_the_mean_is_the_baseline_of_a_regression():
    train = Split(list("abc"), np.array([0, 1, 5], dtype=np.float32))
    held = Split(list("de"), np.array([1, 3], dtype=np.float32))
    task = TaskData("t", "regression", (), train, {"validation": held}, ("rmse", "pearson", "r2"))
    assert majority_baseline(task)["validation"] == pytest.approx({"rmse": 1, "pearson": 0, "r2": 0})
