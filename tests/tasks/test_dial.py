"""The dial: how many labels flip, and which."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ortho_lora.errors import OrthoLoraError
from ortho_lora.tasks.data import Split, TaskData, take
from ortho_lora.tasks.dial import make_twin

ROWS = Split([f"text {i}" for i in range(400)], np.arange(400) % 2)
ORIGINAL = TaskData("films", "classification", ("bad", "good"), ROWS, {"validation": ROWS}, ("accuracy",))

rhos = st.floats(0, 1)
seeds = st.integers(0, 2**31 - 1)


def flipped(rho: float, seed: int = 0, task: TaskData = ORIGINAL) -> np.ndarray:
    twin = make_twin(task, rho, name="twin", own_head=False, seed=seed)
    return twin.train.labels != task.train.labels


def test_the_twin_has_the_same_texts_and_points_to_its_original():
    twin = make_twin(ORIGINAL, 0.5, name="twin", own_head=False, seed=0)
    assert twin.train.texts == ORIGINAL.train.texts
    assert (twin.name, twin.twin_of, twin.shares_head) == ("twin", "films", True)
    assert twin.train.labels.dtype == np.int64
    assert (twin.evaluation["validation"].labels == twin.train.labels).all()  # the same texts here
    assert not make_twin(ORIGINAL, 0.5, name="twin", own_head=True, seed=0).shares_head


@given(seeds)
def test_the_ends_of_the_scale_are_exact(seed):
    assert not flipped(0, seed).any()
    assert flipped(1, seed).all()


@given(rhos, rhos, seeds)
def test_what_flips_still_flips_further_up(one, other, seed):
    low, high = sorted((one, other))
    assert (flipped(low, seed) <= flipped(high, seed)).all()


@given(rhos, seeds, st.permutations(range(20)))
def test_order_does_not_matter(rho, seed, order):
    shuffled = TaskData("films", "classification", ("bad", "good"), take(ROWS, order), {}, ("accuracy",))
    assert (flipped(rho, seed, shuffled) == flipped(rho, seed)[list(order)]).all()


@given(st.sampled_from([0.1, 0.3, 0.5, 0.9]), seeds)
def test_about_rho_of_the_labels_flip(rho, seed):
    assert abs(flipped(rho, seed).mean() - rho) < 5 * np.sqrt(rho * (1 - rho) / len(ROWS))


def test_the_seed_decides_which():
    assert (flipped(0.5, seed=1) != flipped(0.5, seed=2)).any()


def test_only_two_classes_have_an_opposite():
    three = TaskData("kinds", "classification", ("a", "b", "c"), ROWS, {}, ("accuracy",))
    with pytest.raises(OrthoLoraError, match=r"task 'kinds' has 3 classes, .* two classes"):
        make_twin(three, 0.5, name="twin", own_head=False, seed=0)
    number = TaskData("grade", "regression", (), ROWS, {}, ("r2",))
    with pytest.raises(OrthoLoraError, match="task 'grade' has a number to predict"):
        make_twin(number, 0.5, name="twin", own_head=False, seed=0)


@pytest.mark.parametrize("rho", [-0.1, 1.1, float("nan")])
def test_rho_is_a_probability(rho):
    with pytest.raises(OrthoLoraError, match=f"rho of 'twin' is {rho}: expected a probability between 0 and 1"):
        make_twin(ORIGINAL, rho, name="twin", own_head=False, seed=0)
