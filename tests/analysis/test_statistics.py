import numpy as np
import pytest

from analysis.statistics import (
    FEWEST_STEPS,
    batch_means,
    clear_mean,
    cosine_interval,
    cosine_of_sums,
    interval,
    row_means,
    standard_error,
)


def test_batch_means_of_known_series() -> None:
    series = np.stack([np.arange(32.0), np.r_[np.arange(16.0), np.full(16, np.nan)], np.full(32, np.nan)])
    means, batches = batch_means(series)
    assert batches.tolist() == [16, 8, 0]
    np.testing.assert_allclose(means[0], np.arange(32).reshape(16, 2).mean(1))
    np.testing.assert_allclose(means[1, :8], np.arange(16).reshape(8, 2).mean(1))
    assert np.isnan(means[1, 8:]).all()
    assert np.isnan(means[2]).all()


def test_missing_values_are_left_out_wherever_they_are() -> None:
    values = np.random.default_rng(0).standard_normal(40)
    with_gaps = np.full(60, np.nan)
    with_gaps[np.sort(np.random.default_rng(1).choice(60, 40, replace=False))] = values
    padded = np.r_[values, np.full(20, np.nan)]
    np.testing.assert_allclose(standard_error(with_gaps[None]), standard_error(padded[None]))
    np.testing.assert_allclose(row_means(with_gaps[None]), values.mean())


@pytest.mark.parametrize(("steps", "known"), [(FEWEST_STEPS - 1, False), (FEWEST_STEPS, True)])
def test_few_steps_have_no_error(steps: int, known: bool) -> None:
    series = np.random.default_rng(0).standard_normal((1, steps))
    assert np.isfinite(standard_error(series)).all() == known
    assert np.isfinite(np.stack(interval(series))).all() == known
    assert np.isnan(clear_mean(series - 10)).all()
    assert np.isfinite(clear_mean(series + 100)).all() == known


def test_interval_covers_the_mean_of_independent_and_of_slow_series() -> None:
    rng = np.random.default_rng(0)
    independent = rng.standard_normal((2000, 400))
    slow = np.apply_along_axis(lambda row: np.convolve(row, np.ones(5), "valid"), 1, rng.standard_normal((2000, 404)))
    for series in (independent, slow):
        low, high = interval(series)
        assert 0.92 < np.mean((low < 0) & (high > 0)) < 0.98


def test_clear_mean_needs_two_standard_errors() -> None:
    rng = np.random.default_rng(0)
    assert np.isfinite(clear_mean(rng.standard_normal((1000, 64)))).mean() < 0.05
    assert np.isfinite(clear_mean(1 + rng.standard_normal((1000, 64)))).mean() > 0.99


def test_no_rows() -> None:
    assert standard_error(np.empty((0, 0))).shape == (0,)
    assert clear_mean(np.empty((0, 5))).shape == (0,)


def test_cosine_interval_covers_the_ratio() -> None:
    rng = np.random.default_rng(0)
    rows, steps = 2000, 200
    product = -0.5 + rng.standard_normal((rows, steps))
    half_i, half_j = 1 + rng.standard_normal((2, rows, steps))
    low, high = cosine_interval(product, half_i, half_j)
    assert 0.92 < np.mean((low < -0.5) & (high > -0.5)) < 0.98
    centre = cosine_of_sums(product, half_i, half_j)
    np.testing.assert_allclose((low + high) / 2, centre)
    few = cosine_interval(*(series[:, :7] for series in (product, half_i, half_j)))
    assert np.isnan(few).all()
    assert np.isnan(cosine_interval(product, -np.abs(half_i), half_j)).all()
