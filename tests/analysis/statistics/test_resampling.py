"""Weighted metrics against those of the record: with weights of one, and of examples that are repeated."""

import numpy as np
import pytest

from analysis.statistics.resampling import resampled
from ortho_lora.tasks.metrics import METRICS

RNG = np.random.default_rng(0)
CLASSES = 4
OF_CLASSES = ("accuracy", "macro_f1", "f1", "matthews")


def data(metric):
    if metric in OF_CLASSES:
        targets = RNG.integers(CLASSES - 1, size=60)  # the last class does not occur
        return targets, np.where(RNG.random(60) < 0.6, targets, RNG.integers(CLASSES - 1, size=60))
    targets = RNG.integers(6, size=60).astype(np.float64)  # with ties
    return targets, targets + RNG.normal(size=60).round(1)


@pytest.mark.parametrize("metric", METRICS)
def test_weighted_metrics_are_those_of_repeated_examples(metric):
    targets, said = data(metric)
    weights = np.concatenate([np.ones((1, 60)), RNG.poisson(1, (5, 60))]).astype(np.float32)
    classes = CLASSES if metric in OF_CLASSES else 0
    found = resampled(metric, targets.astype(np.float32), said.astype(np.float32), weights, classes)
    repeated = [
        METRICS[metric](np.repeat(targets, row), np.repeat(said.astype(np.float32), row), classes)
        for row in weights.astype(int)
    ]
    assert found == pytest.approx(repeated, rel=1e-5)


@pytest.mark.parametrize("metric", ["matthews", "pearson", "spearman", "r2"])
def test_predictions_that_are_all_the_same_tell_nothing(metric):
    targets = np.arange(10.0) % 2
    found = resampled(metric, targets, np.zeros(10), np.ones((1, 10), dtype=np.float32), 2 * (metric == "matthews"))
    assert found == pytest.approx([-1.0 if metric == "r2" else 0.0])


def test_what_cannot_be_resampled_is_not_made_up():
    ones, weights = np.ones(3), np.ones((2, 3), dtype=np.float32)
    assert resampled("bleu", ones, ones, weights) is None
    assert resampled("rmse", ones, np.array([0, np.nan, 1]), weights) is None


@pytest.mark.parametrize("metric", METRICS)
def test_a_resample_that_drew_nothing_is_the_examples_themselves(metric):
    targets, said = data(metric)
    classes = CLASSES if metric in OF_CLASSES else 0
    weights = np.stack([np.zeros(60), np.ones(60)]).astype(np.float32)
    nothing, everything = resampled(metric, targets, said, weights, classes)
    assert np.isfinite(nothing)
    assert nothing == everything
