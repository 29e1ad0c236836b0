"""Effects drawn again and again, with known truth and known noise."""

import numpy as np
import pytest
from scipy import stats

from ortho_lora.record.draws import ceiling, effects_of, reliability, told_of


def drawn(rng, draws, rows, *, effect=1.0, of_draws=1.0, of_examples=0.0, repeats=1):
    """Truth [rows], values and errors [repeats, draws, rows]; the examples' noise is the same in all draws."""
    truth = rng.normal(scale=effect, size=rows)
    offset = rng.normal(scale=max(of_examples, 1e-12), size=(repeats, 1, rows))
    values = truth + offset + rng.normal(scale=of_draws, size=(repeats, draws, rows))
    return truth, values, np.full_like(values, of_examples)


@pytest.mark.parametrize("draws", [2, 4, 8])
@pytest.mark.parametrize(("of_draws", "of_examples"), [(1.0, 0.0), (1.0, 0.3), (0.3, 1.0), (1.0, 1.0)])
def test_intervals_cover(draws, of_draws, of_examples):
    truth, values, errors = drawn(
        np.random.default_rng(0), draws, 20, of_draws=of_draws, of_examples=of_examples, repeats=300
    )
    low, high = zip(*(effects_of(*one).interval() for one in zip(values, errors, strict=True)), strict=True)
    covered = ((np.array(low) <= truth) & (truth <= np.array(high))).mean()
    assert covered >= 0.94
    if not of_examples:
        assert covered <= 0.96


def test_an_interval_is_that_of_student_where_examples_make_no_noise():
    values = np.array([[1.0, 0.0], [2.0, 3.0], [4.0, -1.0]])
    effects = effects_of(values, np.zeros_like(values))
    low, high = effects.interval()
    for row in range(2):
        expected = stats.t.interval(0.95, 2, values[:, row].mean(), stats.sem(values[:, row]))
        assert (low[row], high[row]) == pytest.approx(expected)
    assert effects.p_value() == pytest.approx(stats.ttest_1samp(values, 0).pvalue)


def test_half_widths_of_draws_and_examples_add_in_squares():
    values = np.array([[1.0], [2.0], [4.0]])
    width = [float(np.diff(effects_of(values, np.full((3, 1), of)).interval(), axis=0).item() / 2) for of in (0.0, 0.7)]
    assert width[1] ** 2 - width[0] ** 2 == pytest.approx((1.959964 * 0.7) ** 2)


def test_one_draw_has_no_interval():
    effects = effects_of(np.array([[1.0, 2.0]]), np.array([[0.1, 0.1]]))
    assert effects.value.tolist() == [1, 2]
    assert np.isnan(effects.interval()).all()
    told = told_of(np.array([[1.0, 2.0]]), np.array([[0.1, 0.1]]), [("a", "b", "odd"), ("b", "a", "odd")])
    assert np.isnan([*told.q, *told.reliability, *told.ceiling]).all()


@pytest.mark.parametrize("of_draws", [0.5, 2.0, 6.0])
def test_reliability_is_the_correlation_with_other_draws(of_draws):
    _, values, _ = drawn(np.random.default_rng(1), 8, 4000, of_draws=of_draws)
    one, other = values[0, :4], values[0, 4:]
    correlation = np.corrcoef(one.mean(0), other.mean(0))[0, 1]
    assert reliability(one) == pytest.approx(correlation, abs=0.06)
    assert reliability(one) == pytest.approx(1 / (1 + of_draws**2 / 4), abs=0.06)


@pytest.mark.parametrize(("of_draws", "of_examples"), [(0.5, 0.0), (2.0, 0.5), (1.0, 1.0)])
def test_the_ceiling_is_what_the_truth_itself_correlates(of_draws, of_examples):
    truth, values, errors = drawn(np.random.default_rng(2), 4, 4000, of_draws=of_draws, of_examples=of_examples)
    correlation = np.corrcoef(truth, values[0].mean(0))[0, 1]
    assert ceiling(values[0], errors[0]) == pytest.approx(correlation, abs=0.03)


def test_draws_that_do_not_agree_tell_nothing():
    values = np.array([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])
    assert reliability(values) == pytest.approx(-1)
    assert ceiling(values, np.zeros_like(values)) != ceiling(values, np.zeros_like(values))  # NaN: all means are alike
    assert ceiling(np.array([[1.0, 2.0, 3.0], [3.0, 2.0, 1.5]]), np.zeros((2, 3))) == 0
    assert np.isnan(reliability(np.ones((2, 3))))
    assert np.isnan(reliability(values[:1]))
    assert np.isnan(reliability(values[:, :2]))


def test_only_pairs_of_different_tasks_are_judged_and_each_part_by_itself():
    rng = np.random.default_rng(3)
    keys = [(None, "a", "difference")]
    keys += [(source, target, part) for part in ("difference", "odd") for source in "ab" for target in "abc"]
    values = rng.normal(size=(4, len(keys))) * [1 if key[2] == "odd" else 5 for key in keys] + 1
    told = told_of(values, np.zeros_like(values), keys)
    p = effects_of(values, np.zeros_like(values)).p_value()
    for part in ("difference", "odd"):
        pairs = [at for at, (source, target, of) in enumerate(keys) if of == part and source not in (None, target)]
        assert len(pairs) == 4
        assert told.q[pairs] == pytest.approx(stats.false_discovery_control(p[pairs]))
        rows = [at for at, key in enumerate(keys) if key[2] == part]
        assert told.reliability[rows].tolist() == [reliability(values[:, pairs])] * len(rows)
        assert told.ceiling[rows].tolist() == [ceiling(values[:, pairs], np.zeros((4, 4)))] * len(rows)
        assert np.isnan(told.q[sorted(set(rows) - set(pairs))]).all()
