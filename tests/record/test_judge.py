"""The one judge: its rules by hand, and how rarely it errs."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from noisy_pairs import recorded
from scipy import stats

from analysis.statistics.cosines import groups_of, of_steps
from ortho_lora.record.jackknife import Cosines
from ortho_lora.record.judge import LEVEL, MARKS, WORTH, Estimates, false_discovery, judge, overall, times_needed

FREE, SHORT = "no conflict worth the name", "not enough data"


def one(low: float, high: float, p: float) -> str:
    return str(judge(Estimates(*(np.array([value]) for value in (low, high, p)))).verdict[0])


@pytest.mark.parametrize(
    ("low", "high", "p", "verdict"),
    [
        (-0.6, -0.3, 0.001, "conflict"),
        (-1.0, -0.1, 0.001, "conflict"),  # the sign without the strength
        (0.1, 0.4, 0.001, "aligned"),
        (-0.1, 0.15, 0.7, FREE),
        (-0.19, -0.05, 0.001, FREE),  # below 0 for sure, and not worth the name for sure
        (-0.21, 0.1, 0.5, SHORT),
        (-1.0, 1.0, 0.5, SHORT),
        (-0.5, -0.01, 0.04, SHORT),  # the interval excludes 0, and the corrected p does not
        (np.nan, np.nan, np.nan, SHORT),
    ],
)
def test_each_verdict(low: float, high: float, p: float, verdict: str) -> None:
    assert one(low, high, p) == verdict
    assert verdict in MARKS


def test_what_is_told_alone_need_not_be_told_among_many() -> None:
    assert one(-0.5, -0.1, LEVEL) == "conflict"
    many = Estimates(np.full(20, -0.5), np.r_[-0.1, np.full(19, 0.5)], np.r_[LEVEL, np.full(19, 0.9)])
    found = judge(many)
    assert (found.verdict[0], found.q[0]) == (SHORT, pytest.approx(20 * LEVEL))


@pytest.mark.parametrize(("steps", "correlation"), [(20, 0.5), (50, 0.5)])
def test_innocent_pairs_are_rarely_accused(steps: int, correlation: float) -> None:
    """Runs of 10 pairs on two branches, none of which has anything to tell."""
    runs, pairs = 400, 20
    series = recorded(np.random.default_rng(0), runs * pairs, steps, 0.0, 0.15, correlation, width=12)
    found = Estimates.of(of_steps(*series, shares_texts=np.zeros(runs * pairs, dtype=bool)))
    wrong = [
        np.isin(
            judge(Estimates(*(values[run * pairs : (run + 1) * pairs] for values in found))).verdict, list(MARKS)[:2]
        )
        for run in range(runs)
    ]
    assert np.any(wrong, axis=1).mean() <= 0.05


@pytest.mark.parametrize("steps", [8, 12, 20, 40, 100])
def test_a_strong_conflict_is_never_called_none(steps: int) -> None:
    """At the noise of real tasks: of a batch's gradient 5% is the task's own."""
    runs = 500
    series = recorded(np.random.default_rng(0), runs, steps, -0.5, 0.05)
    estimates = Estimates.of(of_steps(*series, shares_texts=np.zeros(runs, dtype=bool)))
    verdicts = [one(*(float(values[run]) for values in estimates)) for run in range(runs)]
    assert verdicts.count(FREE) / runs <= 0.025


def test_a_pair_is_cleared_by_all_of_its_branches_only() -> None:
    assert overall([FREE, "conflict"]) == "conflict"
    assert overall(["aligned", SHORT]) == "aligned"
    assert overall([SHORT, FREE]) == SHORT
    assert overall([FREE, FREE]) == FREE
    assert overall([]) == SHORT


def test_needed_data_are_what_the_judge_says() -> None:
    rows = {"product": [-0.5, 0.0, 0.0, -0.001], "scale": [1.0, 1.0, 0.0, 1.0], "error": [0.4, 0.4, 0.4, 0.4]}
    product, scale, error = (np.array(values) for values in rows.values())
    cosines = Cosines(product, scale, error**2, 0 * error, 0 * error, np.full(4, 15.0))
    times = times_needed(cosines, lambda _: np.full(4, 15.0))
    assert np.isinf(times[2])  # without a scale a product of 0 is never told
    for place in (0, 1, 3):
        for factor, enough in ((times[place], True), (times[place] / 1.11, False)):
            later = judge(Estimates.of(cosines.with_errors_of(factor, np.full(4, 15.0))))
            assert (later.verdict[place] != SHORT) == enough
    # -0.2 is excluded where t errors are less than it.
    assert times[1] == pytest.approx((2.131 * 0.4 / WORTH) ** 2, rel=0.1)
    unknown: Any = np.array([np.nan])
    assert np.isnan(times_needed(Cosines(*([unknown] * 6)), lambda _: unknown)).all()


def test_more_steps_make_more_groups() -> None:
    """So that what few steps need is not told from their few degrees of freedom."""
    series = recorded(np.random.default_rng(0), 40, 20, -0.5, 0.3)
    found = of_steps(*series, shares_texts=np.zeros(40, dtype=bool))
    steps = np.full(40, 20)
    fixed = times_needed(found, lambda _: np.full(40, 2.0))
    growing = times_needed(found, lambda times: groups_of(np.rint(times * steps).astype(np.int64)) - 1.0)
    assert np.median(growing) < np.median(fixed)


def test_adjusted_p_values_leave_out_what_is_not_measured() -> None:
    p = np.array([0.01, np.nan, 0.04])
    np.testing.assert_allclose(false_discovery(p)[[0, 2]], stats.false_discovery_control(p[[0, 2]]))
    assert np.isnan(false_discovery(p)[1])
    assert np.isnan(false_discovery(np.array([np.nan]))).all()
    assert not len(false_discovery(np.array([])))


@given(st.lists(st.one_of(st.just(np.nan), st.sampled_from([0.0, 0.01, 0.04, 1.0]), st.floats(0, 1)), min_size=1))
def test_adjusted_p_values_are_those_of_scipy(values: list[float]) -> None:
    p = np.array(values)
    known = ~np.isnan(p)
    expected = np.full(len(p), np.nan)
    if known.any():
        expected[known] = stats.false_discovery_control(p[known])
    np.testing.assert_allclose(false_discovery(p), expected, rtol=1e-12)
