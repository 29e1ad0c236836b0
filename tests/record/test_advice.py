"""Advised groups and weights: the best of all that there are, and what they promise elsewhere."""

from dataclasses import replace

import numpy as np
import pytest
from vectors import GROUPS, drawn, truth

from ortho_lora.record.advice import REACH, best_groups, best_weights, partitions
from ortho_lora.record.transfer import progress
from ortho_lora.record.vectors import Vectors


def tasks_of(true: np.ndarray, seed: int = 0, noise: float = 0.5) -> Vectors:
    """Of true gradients [T, w], which are those of held-out texts as well."""
    rng = np.random.default_rng(seed)
    count, width = true.shape
    names = tuple(f"t{place}" for place in range(count))
    means, held = ((true + noise * rng.standard_normal((GROUPS, count, width))).astype(np.float32) for _ in range(2))
    ones = np.ones(width, np.float32)
    return Vectors(
        tasks=names, targets=names, means=means, held_out=held, deviation=np.full((count, width), 2.0, np.float32),
        batches=np.full(count, 4 * GROUPS), rate=1e-3 * ones, eps=1e-8 * ones, past=ones,
    )  # fmt: skip


@pytest.fixture(scope="module")
def two_camps() -> Vectors:
    """Tasks 0, 2 and tasks 1, 3 pull together, and the camps against each other."""
    one = np.random.default_rng(1).standard_normal(200)
    return tasks_of(np.stack([one, -one, one, -one]) + 0.2 * np.random.default_rng(2).standard_normal((4, 200)))


def test_all_partitions_are_there_once():
    found = [frozenset(frozenset(group) for group in groups) for groups in partitions(5)]
    assert len(found) == len(set(found)) == 52  # Bell's number
    assert all(frozenset().union(*groups) == {*range(5)} for groups in found)


def test_camps_are_told_apart(two_camps):
    found = best_groups([two_camps], np.ones(4))
    assert [len(one.groups) for one in found] == [1, 2, 3, 4]
    assert {frozenset(group) for group in found[1].groups} == {frozenset({0, 2}), frozenset({1, 3})}
    _, high = found[1].gain.interval()
    assert high[0] < 0  # surely better than one adapter
    assert found[1].elsewhere < 0
    assert found[0].gain.value[0] == found[0].elsewhere == 0


def test_the_gain_is_the_sum_of_each_target_in_its_own_group(two_camps):
    groups = best_groups([two_camps], np.ones(4))[1].groups
    found = best_groups([two_camps], np.ones(4))[1].gain.value[0]
    together = progress([two_camps], np.ones(4)).value
    apart = [
        progress([two_camps], np.isin(np.arange(4), group).astype(float)).value[list(group)].sum() for group in groups
    ]
    assert found == pytest.approx(sum(apart) - together.sum(), rel=1e-6)


@pytest.mark.parametrize("past", [1.0, np.geomspace(0.01, 100, 60)])
def test_no_other_groups_are_better(past):
    vectors = tasks_of(np.random.default_rng(3).standard_normal((4, 60)), 3)
    vectors.past[:] = past  # of an optimizer with step sizes of its own
    found = {len(one.groups): one.gain.value[0] for one in best_groups([vectors], np.ones(4))}
    together = progress([vectors], np.ones(4)).value.sum()
    for groups in partitions(4):
        apart = sum(
            progress([vectors], np.isin(np.arange(4), group).astype(float)).value[list(group)].sum() for group in groups
        )
        assert apart - together > found[len(groups)] - 1e-4 * abs(together)


def test_of_many_tasks_the_groups_grow_into_each_other():
    one = np.random.default_rng(1).standard_normal(100)
    signs = np.array([1, -1] * 5)[:, None]
    vectors = tasks_of(signs * one + 0.1 * np.random.default_rng(2).standard_normal((10, 100)))
    found = best_groups([vectors], np.ones(10))
    assert [len(of.groups) for of in found] == list(range(1, 11))
    assert {frozenset(group) for group in found[1].groups} == {frozenset(range(0, 10, 2)), frozenset(range(1, 10, 2))}


def test_among_copies_of_one_task_what_is_chosen_promises_nothing_elsewhere():
    """The best of many looks good by chance; judged on other texts it does not."""
    one = np.random.default_rng(1).standard_normal(100)
    promised, elsewhere = [], []
    for seed in range(30):
        vectors = tasks_of(np.tile(0.3 * one, (5, 1)), seed, noise=2.0)
        found = best_groups([vectors], np.ones(5))
        promised.append(found[2].gain.value[0])
        elsewhere.append(found[2].elsewhere)
    error = np.std(elsewhere) / np.sqrt(len(elsewhere))
    assert np.mean(promised) < np.mean(elsewhere) - 2 * error


def test_weights_fall_on_those_that_others_gain_from():
    rng = np.random.default_rng(0)
    shared = rng.standard_normal(150)
    # Task 2 has large gradients that help nobody and are not those of its held-out texts.
    vectors = tasks_of(np.stack([shared, shared, 5 * rng.standard_normal(150)]))
    vectors.held_out[:, 2] = 0.5 * rng.standard_normal((GROUPS, 150))
    found = best_weights([vectors], np.array([1.0, 1.0, 2.0]))
    assert found.weights[2] < 0.5 * found.weights[:2].min()
    assert found.gain.interval()[1][0] < 0
    assert found.elsewhere < 0
    better = progress([vectors], found.weights).value.sum() - progress([vectors], np.array([1.0, 1.0, 2.0])).value.sum()
    assert found.gain.value[0] == pytest.approx(better, rel=1e-6)


def test_a_task_that_is_left_out_stays_so():
    vectors = replace(drawn(truth(0), 0))
    assert best_weights([vectors], np.array([1.0, 0.0, 1.0])).weights[1] == 0.0
    assert best_weights([vectors], np.zeros(3)).weights.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("seed", range(4))
def test_no_weight_is_raised_far_over_another(seed):
    places = [drawn(truth(seed), seed)]
    weights = np.array([1.0, 0.5, 2.0])
    raised = best_weights(places, weights).weights / weights
    assert raised.max() / raised.min() <= REACH * (1 + 1e-6)
    assert np.exp(np.log(raised).mean()) == pytest.approx(1)  # AdamW takes their common size away
