import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import signal

from analysis.statistics.series import (
    FEWEST_STEPS,
    batch_means,
    clear_mean,
    means,
    p_in_part,
    rate_interval,
    row_means,
)


def test_batch_means_of_known_series() -> None:
    series = np.stack([np.arange(32.0), np.r_[np.arange(16.0), np.full(16, np.nan)], np.full(32, np.nan)])
    found, batches = batch_means(series)
    assert batches.tolist() == [8, 8, 0]
    np.testing.assert_allclose(found[0, :8], np.arange(32).reshape(8, 4).mean(1))
    np.testing.assert_allclose(found[1, :8], np.arange(16).reshape(8, 2).mean(1))
    assert np.isnan(found[1, 8:]).all()
    assert np.isnan(found[2]).all()
    assert batch_means(np.zeros((1, 1000)))[1].tolist() == [16]


def test_missing_values_are_left_out_wherever_they_are() -> None:
    values = np.random.default_rng(0).standard_normal(40)
    with_gaps = np.full(60, np.nan)
    with_gaps[np.sort(np.random.default_rng(1).choice(60, 40, replace=False))] = values
    padded = np.r_[values, np.full(20, np.nan)]
    np.testing.assert_allclose(means(with_gaps[None]).error, means(padded[None]).error)
    np.testing.assert_allclose(row_means(with_gaps[None]), values.mean())


@pytest.mark.parametrize(("steps", "known"), [(FEWEST_STEPS - 1, False), (FEWEST_STEPS, True)])
def test_few_steps_have_no_error(steps: int, known: bool) -> None:
    series = np.random.default_rng(0).standard_normal((1, steps))
    assert np.isfinite(means(series).error).all() == known
    assert np.isfinite(np.stack(means(series).interval())).all() == known
    assert np.isnan(clear_mean(series - 10)).all()
    assert np.isfinite(clear_mean(series + 100)).all() == known


def test_interval_covers_the_mean_of_independent_and_of_slow_series() -> None:
    rng = np.random.default_rng(0)
    independent = rng.standard_normal((2000, 400))
    slow = np.apply_along_axis(lambda row: np.convolve(row, np.ones(5), "valid"), 1, rng.standard_normal((2000, 404)))
    for series in (independent, slow):
        low, high = means(series).interval()
        assert 0.92 < np.mean((low < 0) & (high > 0)) < 0.98


def test_clear_mean_needs_three_standard_errors() -> None:
    rng = np.random.default_rng(0)
    assert np.isfinite(clear_mean(rng.standard_normal((1000, 64)))).mean() < 0.01
    assert np.isfinite(clear_mean(1 + rng.standard_normal((1000, 64)))).mean() > 0.99


def test_no_rows() -> None:
    assert means(np.empty((0, 0))).error.shape == (0,)
    assert clear_mean(np.empty((0, 5))).shape == (0,)


REPETITIONS = 2000  # a coverage of 95% is measured to a standard error of 0.5%
SETTINGS = [(40, 0.0), (40, 0.5), (80, 0.6), (200, 0.0), (200, 0.5), (600, 0.0), (600, 0.8)]


def synthetic(rng: np.random.Generator, steps: int, correlation: float, cosine: float, noise: float) -> np.ndarray:
    """Batch cosines of two tasks with a known true cosine, [repetitions, steps].

    Their noise is a first-order autoregression from step to step.
    """
    width, before = 6, 40 if correlation else 0
    true = np.zeros((2, width, 1), dtype=np.float32)
    true[0, 0] = 1
    true[1, :2, 0] = cosine, np.sqrt(1 - cosine**2)
    drawn = rng.standard_normal((REPETITIONS, 2, width, steps + before), dtype=np.float32)
    if correlation:
        scale = np.float32(np.sqrt(1 - correlation**2))
        drawn = signal.lfilter([scale], np.float32([1, -correlation]), drawn, axis=-1)[..., before:]
    whole = true + np.float32(noise / np.sqrt(2)) * drawn
    unit = whole / np.linalg.norm(whole, axis=2, keepdims=True)
    return (unit[:, 0] * unit[:, 1]).sum(axis=1).astype(np.float64)


@pytest.mark.parametrize(("steps", "correlation"), SETTINGS)
@pytest.mark.parametrize(("cosine", "noise"), [(-0.5, 0.5), (-0.1, 0.7), (0.0, 1.0), (0.6, 0.5)])
def test_intervals_cover_what_they_should(steps: int, correlation: float, cosine: float, noise: float) -> None:
    rng = np.random.default_rng(1)
    raw = synthetic(rng, steps, correlation, cosine, noise)
    for series, of in ((raw, lambda x: means(x).interval()), ((raw < 0).astype(float), rate_interval)):
        truth = series.mean()  # of all repetitions: its error is a fiftieth of that of one
        low, high = of(series)
        assert 0.92 < np.mean((low <= truth) & (truth <= high)) < 0.98


def test_effective_sample_size_of_a_known_correlation() -> None:
    drawn = np.random.default_rng(0).standard_normal((400, 2200))
    slow = signal.lfilter([1], [1, -0.6], drawn, axis=1)[:, 200:]
    assert np.median(means(slow).effective) == pytest.approx(2000 * (1 - 0.6) / (1 + 0.6), rel=0.1)
    assert (means(drawn).effective <= 2200).all()
    assert np.median(means(drawn).effective) > 1800


def test_p_values_are_more_cautious_than_intervals() -> None:
    found = means(0.3 + np.random.default_rng(0).standard_normal((500, 60)))
    low, high = found.interval()
    rejected = found.p_value() < 0.05
    assert ((low > 0) | (high < 0))[rejected].all()
    assert 0.3 < rejected.mean() < 0.7


@pytest.mark.parametrize(("steps", "correlation"), [(20, 0.0), (20, 0.3), (40, 0.3), (100, 0.5), (200, 0.6)])
def test_many_p_values_together_err_rarely(steps: int, correlation: float) -> None:
    runs, tests = 1000, 12
    drawn = np.random.default_rng(0).standard_normal((runs * tests, steps + 40))
    p = means(signal.lfilter([1], [1, -correlation], drawn, axis=1)[:, 40:]).p_value().reshape(runs, tests)
    assert (p.min(axis=1) < 0.05 / tests).mean() <= 0.05


def test_what_goes_on_in_a_part_only_is_found() -> None:
    rng = np.random.default_rng(0)
    drawn = rng.standard_normal((2000, 60))
    assert (p_in_part(drawn, 3) < 0.05).mean() <= 0.05
    late = drawn + np.repeat([0, 0, 2], 20)
    assert (p_in_part(late, 3) < 0.01).mean() > (p_in_part(late, 1) < 0.01).mean() + 0.3
    np.testing.assert_array_equal(p_in_part(drawn, 1), means(drawn).p_value())


def test_constant_series() -> None:
    assert means(np.zeros((1, 20))).p_value() == 1
    assert means(np.ones((1, 20))).p_value() == 0


def test_a_rate_that_never_varied_is_not_certain() -> None:
    low, high = rate_interval(np.stack([np.zeros(40), np.ones(40)]))
    assert (low[0], high[1]) == (0, 1)
    assert high[0] == pytest.approx(1 - low[1])
    assert 0.05 < high[0] < 0.2


@given(st.integers(0, 2**32 - 1), st.floats(-5, 5), st.floats(0.01, 100))
def test_means_move_and_scale_with_their_series(seed: int, shift: float, scale: float) -> None:
    values = np.random.default_rng(seed).standard_normal((3, 30))
    one, other = means(values), means(shift + scale * values)
    np.testing.assert_allclose(other.value, shift + scale * one.value, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(other.error, scale * one.error, rtol=1e-6)
    np.testing.assert_allclose(other.effective, one.effective, rtol=1e-6)
