"""The cosine of mean gradients: known where gradients are known, and its interval against a search by brute force."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from noisy_pairs import recorded
from scipy import stats

from analysis.statistics.cosines import groups_of, of_steps, pooled
from analysis.statistics.series import FEWEST_STEPS
from ortho_lora.record.jackknife import Cosines, leaving_out

RHO = np.linspace(-1, 1, 4001)


def told(series: list[np.ndarray], *, twins: bool = False) -> Cosines:
    return of_steps(*series, shares_texts=np.full(len(series[0]), twins))


@pytest.mark.parametrize(("cosine", "share"), [(0.0, 0.1), (-0.5, 0.3), (0.8, 0.3)])
def test_intervals_cover_the_true_cosine(cosine: float, share: float) -> None:
    """`benchmarks/judge.py` measures it more closely; of 400 repetitions a coverage has a standard error of 1%."""
    covered = []
    for steps, correlation in ((20, 0.0), (20, 0.5), (40, 0.5), (100, 0.5), (400, 0.5)):
        found = told(recorded(np.random.default_rng(0), 400, steps, cosine, share, correlation, width=64))
        low, high = found.interval()
        covered.append(np.mean((low <= cosine) & (cosine <= high)))
        if cosine == 0:
            assert (found.p_value() < 0.05).mean() < 0.08
    assert min(covered) > 0.915
    assert 0.93 < np.mean(covered) < 0.97


def test_a_cosine_that_drifts_is_covered_at_its_mean() -> None:
    course = np.linspace(-0.8, 0.2, 200)
    low, high = told(recorded(np.random.default_rng(0), 400, 200, course, 0.3, 0.3)).interval()
    assert 0.93 < np.mean((low <= course.mean()) & (course.mean() <= high)) <= 1


def test_the_cosine_is_that_of_the_mean_gradients_and_not_that_of_batches() -> None:
    series = recorded(np.random.default_rng(0), 20, 2000, -0.5, 0.1)
    assert told(series).value.mean() == pytest.approx(-0.5, abs=0.05)
    assert series[0].mean() == pytest.approx(-0.05, abs=0.01)


def test_the_same_task_twice_has_a_cosine_of_1() -> None:
    found = told(recorded(np.random.default_rng(0), 200, 100, 1.0, 0.2))
    low, high = found.interval()
    assert np.mean((low <= 1) & (high == 1)) > 0.93
    assert np.nanmean(found.value) > 0.93


def test_twins_have_the_mean_of_their_batches() -> None:
    series = recorded(np.random.default_rng(0), 5, 60, -0.5, 0.1)
    found = told([series[0], *(np.full_like(half, np.nan) for half in series[1:])], twins=True)
    np.testing.assert_allclose(found.value, series[0].mean(axis=1))


def test_equal_groups_have_the_plain_interval_of_their_means() -> None:
    series = recorded(np.random.default_rng(0), 5, 24, -0.5, 0.1)
    (groups,) = groups_of(np.array([24]))
    means = series[0].reshape(5, groups, -1).mean(axis=2)
    low, high = told(series, twins=True).interval()
    expected = stats.t.interval(0.95, groups - 1, means.mean(axis=1), stats.sem(means, axis=1))
    np.testing.assert_allclose([low, high], np.clip(expected, -1, 1))


def test_without_halves_the_sign_is_all_there_is() -> None:
    series = recorded(np.random.default_rng(0), 50, 200, -0.9, 0.3)
    found = told([series[0], *(np.full_like(half, np.nan) for half in series[1:])])
    assert np.isnan(found.value).all()
    low, high = found.interval()
    np.testing.assert_array_equal(low, -1)
    assert (high == 0).mean() > 0.9


def test_few_steps_tell_nothing() -> None:
    for steps, known in ((FEWEST_STEPS - 1, False), (FEWEST_STEPS, True)):
        found = told(recorded(np.random.default_rng(0), 3, steps, -0.5, 0.3))
        assert np.isfinite(found.interval()).all() == known
        assert np.isfinite(found.p_value()).all() == known
    assert told([np.empty((0, 0))] * 3).value.shape == (0,)


def test_steps_that_are_not_measured_are_left_out() -> None:
    series = recorded(np.random.default_rng(0), 1, 40, -0.5, 0.3)
    gaps = [np.full((1, 60), np.nan) for _ in series]
    places = np.sort(np.random.default_rng(1).choice(60, 40, replace=False))
    for into, values in zip(gaps, series, strict=True):
        into[:, places] = values
    np.testing.assert_allclose(told(gaps).interval(), told(series).interval())


def test_groups_are_few_of_few_steps() -> None:
    steps = np.array([7, 8, 20, 40, 100, 400, 5000])
    assert groups_of(steps).tolist() == [0, 3, 3, 5, 8, 15, 16]


def test_pooled_errors_are_the_mean_ones() -> None:
    windows = [told(recorded(np.random.default_rng(seed), 4, 20, -0.5, 0.3)) for seed in range(5)]
    together = pooled(windows)
    mean = np.mean([one.product_variance for one in windows], axis=0)
    for one, before in zip(together, windows, strict=True):
        np.testing.assert_allclose(one.product_variance, mean)
        np.testing.assert_array_equal(one.freedom, 10)
        np.testing.assert_array_equal(one.product, before.product)


@given(st.integers(0, 2**32 - 1), st.floats(0, 2), st.floats(-1, 1), st.integers(3, 20))
def test_the_interval_is_all_that_is_within_t_errors(seed: int, noise: float, cosine: float, groups: int) -> None:
    """Against the definition, by search: D(rho) and its jackknife error at each rho."""
    rng = np.random.default_rng(seed)
    groups_say = np.array([cosine, 1.0, 1.0])[:, None] + noise * rng.standard_normal((3, groups))
    every = groups_say.mean(axis=1)
    out = (groups_say.sum(axis=1, keepdims=True) - groups_say) / (groups - 1)
    found = leaving_out(*every[:, None], tuple(out[:, None, :]), np.array([groups - 1.0]))

    def difference(values: np.ndarray) -> np.ndarray:  # [3, ...] -> [..., rho]
        scale = np.sqrt(np.maximum(values[1], 0) * np.maximum(values[2], 0))
        return values[0][..., None] - RHO * scale[..., None]

    left = difference(out)
    error = np.sqrt((groups - 1) / groups * ((left - left.mean(axis=0)) ** 2).sum(axis=0))
    within = np.abs(difference(every)) <= stats.t.ppf(0.975, groups - 1) * error
    low, high = (float(end[0]) for end in found.interval())
    inside = RHO[within]
    if not found.scale**2 > found.quantile() ** 2 * found.scale_variance:  # of two parts that of the product is the one
        inside = inside[np.sign(inside) == np.sign(every[0])] if not within[2000] else RHO
    zero = np.abs(every[0]) <= stats.t.ppf(0.975, groups - 1) * error[2000]
    assert zero == (low <= 0 <= high) or min(abs(low), abs(high)) < 1e-3
    if len(inside):
        assert inside.min() == pytest.approx(low, abs=1e-3)
        assert inside.max() == pytest.approx(high, abs=1e-3)
    assert (found.p_value()[0] < 0.05) == (not zero)
