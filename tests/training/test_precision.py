"""Student's intervals and the rule that stops when they are narrow."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from ortho_lora.errors import OrthoLoraError
from ortho_lora.training.precision import FEWEST_BATCHES, LOOK_EVERY, Goal, Row, conclude, half_widths

ROWS = [Row("B", "trec", "movies"), Row("B", "trec", "spam")]


@given(
    arrays(np.float64, (30, 3), elements=st.floats(-1, 1)),
    arrays(np.bool_, (30, 3)),
)
def test_half_widths_are_those_of_students_interval(cosines, missing):
    cosines[missing] = np.nan
    for found, row in zip(half_widths(cosines), cosines.T, strict=True):
        values = row[~np.isnan(row)]
        if len(values) == 0:
            assert np.isnan(found)
        elif len(values) < FEWEST_BATCHES:
            assert np.isinf(found)
        else:
            expected = stats.ttest_1samp(values, 0).confidence_interval() if values.std() > 1e-9 else None
            wanted = (expected.high - expected.low) / 2 if expected else 0.0
            assert found == pytest.approx(wanted, rel=1e-6, abs=1e-8)


def draw_until_reached(draw, goal, rows):
    """The values of a probe whose batches give `draw`."""
    taken = []
    while len(taken) < goal.batches and not goal.is_reached(taken):
        taken.append(draw(rows))
    return np.array(taken)


@pytest.mark.parametrize(
    ("name", "least"), [("standard_normal", 0.935), ("standard_exponential", 0.87)], ids=["normal", "very skewed"]
)
@pytest.mark.parametrize(("rows", "needed"), [(1, 24), (1, 60), (6, 40)])
def test_intervals_cover_the_mean_where_the_rule_has_stopped(name, least, rows, needed):
    """`needed`: batches that it would take if the spread were known."""
    rng = np.random.default_rng(0)
    draw, mean = getattr(rng, name), float(name == "standard_exponential")
    goal = Goal(10_000, half_width=stats.norm.ppf(0.975) / np.sqrt(needed))  # of values with variance 1
    covered, lengths = [], []
    for _ in range(900 // rows):
        cosines = draw_until_reached(draw, goal, rows)
        covered.append(np.abs(cosines.mean(axis=0) - mean) <= half_widths(cosines))
        lengths.append(len(cosines))
        assert half_widths(cosines).max() <= goal.half_width
    assert np.mean(covered) >= least
    assert needed / 2 < np.mean(lengths) < 2 * needed


def test_it_looks_neither_early_nor_in_between():
    same = np.full((100, 1), 0.3)
    reached = [count for count in range(100) if Goal(100, 0.05).is_reached(same[:count])]
    assert reached == list(range(FEWEST_BATCHES, 100, LOOK_EVERY))
    assert not any(Goal(100).is_reached(same[:count]) for count in range(100))


def test_the_widest_of_all_rows_decides_and_those_never_measured_do_not():
    rng = np.random.default_rng(0)
    narrow, wide, never = 0.01 * rng.standard_normal(40), rng.standard_normal(40), np.full(40, np.nan)
    goal = Goal(100, 0.05)
    assert goal.is_reached(np.stack([narrow, never], 1))
    assert not goal.is_reached(np.stack([narrow, wide], 1))
    assert not goal.is_reached(never[:, None])
    rarely = np.where(np.arange(40) < FEWEST_BATCHES - 1, 0.1, np.nan)
    assert not goal.is_reached(np.stack([narrow, rarely], 1))


def test_what_is_expected_is_about_what_it_takes():
    rng = np.random.default_rng(0)
    goal = Goal(10_000, 0.05)
    values = 0.05 / 1.96 * np.sqrt(200) * rng.standard_normal((400, 1))
    assert goal.expected(values[:15]) == 0, "not known"
    assert 120 < goal.expected(values[:80]) < 330
    counts = range(FEWEST_BATCHES, 400, LOOK_EVERY)
    ends = [goal.expected(values[:count]) for count in counts]
    reached = [goal.is_reached(values[:count]) for count in counts]
    assert reached == [end == count for count, end in zip(counts, ends, strict=True)]
    assert all(end % LOOK_EVERY == 0 for end in ends)
    assert Goal(90, 0.05).expected(values[:80]) == 90
    assert Goal(90).expected(values[:80]) == 90


def test_the_conclusion_says_how_narrow_and_which_is_the_widest():
    rng = np.random.default_rng(0)
    cosines = np.stack([0.2 + 0.01 * rng.standard_normal(32), -0.4 + 0.1 * rng.standard_normal(32)], 1)
    width = half_widths(cosines)[1]
    widest = f"that of trec – spam on branch B: {cosines[:, 1].mean():+.3f} ± {width:.3f}."
    assert conclude(cosines, ROWS, Goal(32)) == f"32 batches of every task. The widest 95% interval is {widest}"
    assert "enough to know every mean batch cosine to within ±0.05. The widest" in conclude(
        cosines, ROWS, Goal(32, 0.05)
    )
    short = conclude(cosines, ROWS, Goal(32, 0.01))
    assert "not enough to know every mean batch cosine to within ±0.01, which would take about" in short
    assert f" {np.ceil(32 * (width / 0.01) ** 2):,.0f}. The widest" in short
    assert conclude(cosines[:1], ROWS, Goal(1)) == "1 batch of every task: an interval takes at least 16."
    assert conclude([], ROWS, Goal(1)) == "0 batches of every task: nothing was measured."


def test_the_conclusion_says_that_a_branch_has_no_gradient():
    never, some = np.full(16, np.nan), np.linspace(0, 0.1, 16)
    rows = [Row("A", "trec", "movies"), Row("B", "trec", "movies")]
    said = conclude(np.stack([never, some], 1), rows, Goal(16))
    assert said.endswith(
        " Branch A has no cosine: its gradients were zero, as they are wherever B = 0, and LoRA starts there."
    )
    assert "no cosine could be measured. Branch A" in conclude(np.stack([never, never], 1), rows, Goal(16))


@pytest.mark.parametrize(
    ("batches", "half_width", "sentence"),
    [
        (0, None, "batches: 0 given, expected at least 1"),
        (100, 0.0, "half_width: 0 given, expected a number between 0 and 1"),
        (100, float("nan"), "half_width: nan given"),
        (15, 0.05, "batches: 15 given with a half_width, which takes at least 16 to tell"),
    ],
)
def test_goals_that_cannot_be_met_are_refused(batches, half_width, sentence):
    with pytest.raises(OrthoLoraError, match=sentence):
        Goal(batches, half_width)
