"""Predicted transfer against loops over groups and coordinates, and against a truth that is known."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vectors import GROUPS, Truth, drawn, truth

from ortho_lora.record.transfer import progress, second_moment, terms, transfer
from ortho_lora.record.vectors import Vectors


def by_hand(vectors: Vectors, weights: np.ndarray, metric: str) -> np.ndarray:
    """Progress of each target, from means over all groups, [S]."""
    found = []
    for held in np.moveaxis(vectors.held_out.astype(float), 1, 0):
        total = 0.0
        for place in range(vectors.means.shape[2]):
            mean = sum(w * np.nanmean(of[:, place]) for w, of in zip(weights, _by_task(vectors), strict=True))
            moment = mean**2 + sum(
                w**2 * d[place] ** 2 * (1 - 1 / n)
                for w, d, n in zip(weights, vectors.deviation.astype(float), vectors.batches, strict=True)
            )
            scale = 1 / (np.sqrt(moment) + vectors.eps[place]) if metric == "adamw" else 1.0
            total -= vectors.rate[place] * np.nanmean(held[:, place]) * scale * mean
        found.append(total)
    return np.array(found)


def _by_task(vectors: Vectors) -> np.ndarray:
    return np.moveaxis(vectors.means.astype(float), 1, 0)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), metric=st.sampled_from(["plain", "adamw"]))
def test_effects_are_the_progress_with_minus_that_without(seed, metric):
    vectors = drawn(truth(seed, size=7), seed)
    vectors.means[:3, 1] = np.nan  # a task without text in some groups
    weights = np.random.default_rng(seed).uniform(0.1, 3.0, 3)
    found = transfer([vectors], weights, metric)
    whole = by_hand(vectors, weights, metric)
    np.testing.assert_allclose(found.progress.value, whole, rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(found.nats.value, found.pull.value + found.crowding.value, rtol=1e-9, atol=1e-12)
    for source in range(3):
        rest = by_hand(vectors, np.where(np.arange(3) == source, 0.0, weights), metric)
        np.testing.assert_allclose(found.nats.value.reshape(-1, 3)[:, source], whole - rest, rtol=1e-3, atol=1e-8)
    for target in range(2):
        alone = by_hand(vectors, np.where(np.arange(3) == target, weights, 0.0), metric)
        assert found.alone.value[target] == pytest.approx(alone[target], rel=1e-4, abs=1e-9)
    if metric == "plain":
        np.testing.assert_allclose(found.crowding.value, 0.0, atol=1e-9)


def test_without_a_group_it_is_that_of_the_others():
    vectors = drawn(truth(0, size=9), 0)
    weights = np.array([1.0, 0.5, 2.0])
    found = terms(vectors, weights, "plain")
    assert found.shape == (1 + GROUPS, 2, 3)
    for group in range(GROUPS):
        left = np.arange(GROUPS) != group
        some = replace(vectors, means=vectors.means[left], held_out=vectors.held_out[left])
        np.testing.assert_allclose(found[1 + group], terms(some, weights, "plain")[0], rtol=1e-6)


def test_several_places_are_their_mean():
    one, other = (drawn(truth(0), seed) for seed in (1, 2))
    weights = np.ones(3)
    found = progress([one, other], weights)
    both = [progress([of], weights).value for of in (one, other)]
    np.testing.assert_allclose(found.value, np.mean(both, axis=0))


def test_intervals_hold_the_truth():
    """Of the metric that a known second moment makes."""
    known: Truth = truth(3, size=400)
    weights = np.array([1.0, 2.0, 0.5])
    moment = (weights[:, None] ** 2 * known.deviation**2).sum(0) + (weights @ known.means) ** 2
    rest = np.array([0.0, 2.0, 0.5])
    without = (rest[:, None] ** 2 * known.deviation**2).sum(0) + (rest @ known.means) ** 2
    expected = -known.rate * (
        known.held_out @ ((weights @ known.means) / np.sqrt(moment) - (rest @ known.means) / np.sqrt(without))
    )
    inside, sizes = [], []
    for seed in range(200):
        found = transfer([drawn(known, 100 + seed)], weights)
        low, high = found.nats.interval()
        inside.append((low[::3] < expected) & (expected < high[::3]))
        sizes.append(found.nats.value[::3])
    assert 0.88 < np.mean(inside) <= 1.0
    np.testing.assert_allclose(np.mean(sizes, axis=0), expected, rtol=0.1)


def test_the_noise_of_means_is_no_second_moment():
    known = truth(5, size=300)
    weights = np.array([1.0, 1.0, 1.0])
    moment = (known.deviation**2).sum(0) + known.means.sum(0) ** 2
    found = np.mean([second_moment(drawn(known, seed), weights) for seed in range(60)], axis=0)
    assert np.sum(found) == pytest.approx(np.sum(moment), rel=0.02)


def test_of_too_little_text_nothing_is_told_and_others_are():
    vectors = drawn(truth(0), 0)
    vectors.means[5:, 2] = np.nan
    found = transfer([vectors], np.ones(3))
    told = found.nats.interval()[0].reshape(-1, 3)
    assert np.isnan(told[:, 2]).all()
    assert not np.isnan(told[:, :2]).any()
    assert np.array(found.verdict).reshape(-1, 3)[:, 2].tolist() == ["not sure", "not sure"]


def test_a_source_that_is_left_out_has_no_effect():
    found = transfer([drawn(truth(0), 0)], np.array([1.0, 0.0, 1.0]))
    np.testing.assert_array_equal(found.nats.value.reshape(-1, 3)[:, 1], 0.0)
