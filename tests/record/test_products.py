"""Products across groups, and what follows from them, against sums written out and against known truths."""

import itertools

import numpy as np
import pytest
from scipy import stats

from ortho_lora.record.jackknife import Cosines
from ortho_lora.record.products import FEWEST_GROUPS, cosines, of_means, transfers


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def written_out(one, other, *, apart, without=None):
    """U by its definition, pair by pair and group by group."""
    found = np.zeros((one.shape[1], other.shape[1]))
    for i, j in itertools.product(range(one.shape[1]), range(other.shape[1])):
        terms = [
            one[k, i] @ other[to, j]
            for k, to in itertools.product(range(len(one)), range(len(other)))
            if (apart or k != to) and without not in (k, to) and not np.isnan(one[k, i, 0] + other[to, j, 0])
        ]
        found[i, j] = np.mean(terms)
    return found


@pytest.mark.parametrize("apart", [False, True])
def test_products_and_those_without_a_group_are_the_sums_written_out(rng, apart):
    one = rng.standard_normal((11, 3, 5))
    one[2, 1] = one[7, 1] = one[7, 0] = np.nan  # no text there
    other = rng.standard_normal((11, 2, 5)) if apart else one
    found = of_means(one, other if apart else None)
    assert found.shape == (12, 3, other.shape[1])
    np.testing.assert_allclose(found[0], written_out(one, other, apart=apart))
    for k in range(11):
        np.testing.assert_allclose(found[1 + k], written_out(one, other, apart=apart, without=k))


def test_products_of_blocks_add_up(rng):
    means = rng.standard_normal((9, 3, 10))
    np.testing.assert_allclose(of_means(means[..., :4]) + of_means(means[..., 4:]), of_means(means))


def test_of_a_task_with_few_groups_nothing_is_told(rng):
    means = rng.standard_normal((12, 3, 5)) + 1
    means[FEWEST_GROUPS - 1 :, 2] = np.nan
    found, groups = of_means(means), np.array([12, 12, FEWEST_GROUPS - 1])
    assert np.isnan(found[:, 2]).all()
    assert np.isnan(found[:, :, 2]).all()
    assert not np.isnan(found[:, :2, :2]).any()
    cosine = cosines(found, groups)
    low, high = (of.reshape(3, 3) for of in cosine.interval())
    for values in (cosine.value.reshape(3, 3), low, high, cosine.p_value().reshape(3, 3)):
        assert np.isnan(values[2]).all()
        assert not np.isnan(values[:2, :2]).any()


@pytest.mark.parametrize("signal", [0.1, 0.5, 2.0])
def test_the_interval_is_all_cosines_that_are_within_t_jackknife_errors(rng, signal):
    means = rng.standard_normal((16, 2, 20))
    means[..., 0] += signal * 3
    means[:, 1, 1] += signal * 3
    products = of_means(means)
    low, high = (ends[1] for ends in cosines(products, np.array([16, 16])).interval())  # of the pair 0, 1
    rho = np.linspace(-1, 1, 20_001)

    def difference(u):
        return u[0, 1] - rho * np.sqrt(max(u[0, 0], 0) * max(u[1, 1], 0))

    out = np.stack([difference(u) for u in products[1:]])
    error = np.sqrt(15 / 16 * ((out - out.mean(0)) ** 2).sum(0))
    inside = rho[np.abs(difference(products[0])) <= stats.t.ppf(0.975, 15) * error]
    assert low == pytest.approx(inside.min(), abs=2e-4)
    assert high == pytest.approx(inside.max(), abs=2e-4)


def test_a_task_with_itself_has_cosine_1(rng):
    means = rng.standard_normal((16, 2, 20)) + 1
    cosine = cosines(of_means(means), np.array([16, 16]))
    np.testing.assert_allclose(cosine.value[[0, 3]], 1)


def test_what_has_no_gradient_has_no_cosine():
    cosine = cosines(of_means(np.zeros((16, 2, 4))), np.array([16, 16]))
    assert np.isnan(cosine.value).all()


@pytest.mark.parametrize("truth", [-0.9, 0.0, 0.5])
@pytest.mark.parametrize("signal", [0.3, 1.0])  # |mu|^2 / E|noise|^2 of a group's mean
def test_intervals_hold_the_truth_and_products_have_no_bias(rng, truth, signal):
    """400 snapshots of 16 groups: at 95% 380 are expected, and 364 are 3 errors less."""
    snapshots, groups, size = 400, 16, 40
    true = np.zeros((2, size))
    true[0, 0], true[1, 0], true[1, 1] = 1, 8 * truth, 8 * np.sqrt(1 - truth**2)
    noise = rng.standard_t(4, (snapshots, groups, 2, size)) / np.sqrt(2 * size * signal) * [[1], [8]]
    products = np.stack([of_means(true + one) for one in noise])
    np.testing.assert_allclose(
        products[:, 0, 0, 1].mean(), 8 * truth, atol=4 * products[:, 0, 0, 1].std() / np.sqrt(snapshots)
    )
    ends = [[end[1] for end in cosines(one, np.array([16, 16])).interval()] for one in products]
    low, high = np.transpose(ends)
    assert ((low <= truth) & (truth <= high)).sum() >= 364
    assert np.median(high - low) < 1.6


def test_the_effect_of_a_step_on_held_out_texts_is_told_with_its_error(rng):
    """400 snapshots, against the change that the true gradients promise."""
    snapshots, rate, size = 400, 0.1, 10
    held_out, true = rng.standard_normal((2, 1, size))
    truth = -rate * held_out[0] @ true[0]
    inside, values = 0, []
    for _ in range(snapshots):
        one, other = (mean + rng.standard_normal((16, 1, size)) for mean in (held_out, true))
        one[:4] = np.nan  # few texts are held out
        effect = transfers(of_means(one, other), rate, (np.array([12]), np.array([16])))
        low, high = effect.interval()
        values.append(effect.value[0])
        inside += low[0] <= truth <= high[0]
    assert np.mean(values) == pytest.approx(truth, abs=4 * np.std(values) / 20)
    assert 364 <= inside <= 396


@pytest.mark.parametrize(("product", "ends"), [(-1.0, (-1.0, 0.0)), (1.0, (0.0, 1.0))])
def test_where_no_cosine_agrees_with_a_scale_so_small_only_the_sign_is_known(product, ends):
    scale, variance = np.array([0.1]), np.array([0.01])
    found = Cosines(np.array([product]), scale, variance, np.zeros(1), variance, np.array([15.0]))
    assert np.isnan(found.value)
    assert tuple(float(end[0]) for end in found.interval()) == ends
    assert found.p_value() < 1e-6
