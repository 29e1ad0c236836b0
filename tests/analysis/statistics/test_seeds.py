"""Intervals over few seeds and few examples: how often they hold the truth, measured."""

import numpy as np
import pytest
from scipy import stats

from analysis.statistics.resampling import resampled
from analysis.statistics.seeds import Paired, estimate, ratio_interval

SEEDS, EXAMPLES, STUDIES = 3, 200, 400
TRUTH = {"joint": 0.74, "method": 0.78, "single": 0.82}


def simulated(rng, of_seeds, weights):
    """Accuracies of one study, by method: the same examples in all runs, and seeds that move accuracy by `of_seeds`."""
    hard = rng.standard_normal(EXAMPLES)
    found = {}
    for method, level in TRUTH.items():
        runs = []
        for _ in range(SEEDS):
            accuracy = np.clip(level + of_seeds * rng.standard_normal(), 0.01, 0.99)
            right = 0.7 * hard + np.sqrt(1 - 0.7**2) * rng.standard_normal(EXAMPLES) < stats.norm.ppf(accuracy)
            runs.append((right.mean(), resampled("accuracy", np.ones(EXAMPLES), right.astype(float), weights, 2)))
        found[method] = Paired(tuple(range(SEEDS)), np.array([a for a, _ in runs]), np.stack([b for _, b in runs], 1))
    return found


def naive(paired, rng):
    """The percentile bootstrap over seeds alone."""
    means = paired.values[rng.integers(SEEDS, size=(500, SEEDS))].mean(axis=1)
    return np.quantile(means, [0.025, 0.975])


@pytest.mark.parametrize("of_seeds", [0.0, 0.01, 0.03])
def test_intervals_hold_the_truth_in_19_of_20_studies(of_seeds):
    rng = np.random.default_rng(1)
    weights = rng.poisson(1, (200, EXAMPLES)).astype(np.float32)
    true_gain = TRUTH["method"] - TRUTH["joint"]
    true_ratio = true_gain / (TRUTH["single"] - TRUTH["joint"])
    covered, by_seeds, ratios = [], [], []
    for _ in range(STUDIES):
        found = simulated(rng, of_seeds, weights)
        gain, gap = found["method"].minus(found["joint"]), found["single"].minus(found["joint"])
        one = estimate(gain)
        covered.append(one.low <= true_gain <= one.high)
        low, high = naive(gain, rng)
        by_seeds.append(low <= true_gain <= high)
        if interval := ratio_interval(gain, gap):
            ratios.append(interval[0] <= true_ratio <= interval[1])
    assert np.mean(covered) >= 0.94  # standard error of the measurement: 0.01
    assert np.mean(by_seeds) < 0.85
    assert len(ratios) < 20 or np.mean(ratios) >= 0.92


@pytest.mark.parametrize("seeds", [1, 2])
def test_few_seeds_have_no_interval(seeds):
    one = Paired(tuple(range(seeds)), np.full(seeds, 0.1), np.ones((10, seeds)))
    found = estimate(one)
    assert (found.low, found.high, found.clear) == (None, None, False)
    assert (found.spread is None) == (seeds == 1)
    assert ratio_interval(one, one) is None


def test_without_predictions_the_interval_is_students():
    values = np.array([0.1, 0.2, 0.4])
    found = estimate(Paired((0, 1, 2), values, None))
    expected = stats.t.interval(0.95, 2, loc=values.mean(), scale=stats.sem(values))
    assert (found.low, found.high) == pytest.approx(expected)
    assert not found.examples


def test_a_ratio_to_nothing_is_not_bounded():
    above = Paired((0, 1, 2), np.array([0.1, 0.2, 0.3]), None)
    assert ratio_interval(above, Paired((0, 1, 2), np.array([-0.1, 0.0, 0.1]), None)) is None


def test_a_known_divisor_scales_the_interval():
    above = Paired((0, 1, 2), np.array([0.1, 0.2, 0.3]), None)
    found = estimate(above)
    half = ratio_interval(above, Paired((0, 1, 2), np.full(3, 2.0), None))
    assert half == pytest.approx((found.low / 2, found.high / 2))
