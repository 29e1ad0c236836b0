from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import ortho_lora_as_printed, pcgrad, random_gradients
from samplers import gradients, orders
from torchjd.aggregation import PCGradWeighting

from ortho_lora.gram import combine, cosines, gram
from ortho_lora.projection import coefficients, effective_weights, project

ORACLES = {"pcgrad": pcgrad, "pcgrad-inplace": ortho_lora_as_printed}
RULES = sorted(ORACLES)


@pytest.mark.parametrize("rule", RULES)
@given(data=st.data(), tasks=st.integers(2, 6), extra=st.integers(4, 40), seed=st.integers(0, 10**6))
def test_gram_path_equals_vectors(rule, data, tasks, extra, seed):
    # Linearly independent: where a projected gradient vanishes, the in-place oracle goes on with a rounding error's
    # direction, by which the next one is projected.
    vectors = random_gradients(tasks, tasks + extra, seed)
    order = data.draw(orders(tasks))
    found = coefficients(gram(vectors), rule, order) @ vectors
    torch.testing.assert_close(found, ORACLES[rule](vectors, order), rtol=1e-10, atol=1e-10)


@given(data=st.data(), tasks=st.integers(2, 6), size=st.integers(1, 5), seed=st.integers(0, 10**6))
def test_gram_path_equals_vectors_that_depend_on_each_other(data, tasks, size, seed):
    vectors = random_gradients(tasks, size, seed)
    order = data.draw(orders(tasks))
    found = coefficients(gram(vectors), "pcgrad", order) @ vectors
    torch.testing.assert_close(found, pcgrad(vectors, order), rtol=1e-10, atol=1e-10)


@given(data=st.data(), tasks=st.integers(2, 5), seed=st.integers(0, 10**6))
def test_in_place_on_a_line_removes_every_conflict(data, tasks, seed):
    vectors = random_gradients(tasks, 1, seed)
    found = coefficients(gram(vectors), "pcgrad-inplace", data.draw(orders(tasks))) @ vectors
    assert (gram(found) >= -1e-12).all()


@given(data=st.data(), vectors=gradients(min_tasks=2))
def test_weights_equal_torchjd(data, vectors):
    order = data.draw(orders(len(vectors)))
    unit = vectors / vectors.norm(dim=-1, keepdim=True)
    matrix = gram(unit)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randperm", lambda n: torch.tensor(order))
        expected = PCGradWeighting()(matrix)
    found = effective_weights(coefficients(matrix, "pcgrad", order))
    torch.testing.assert_close(found @ unit, expected @ unit, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("rule", RULES)
@given(data=st.data(), tasks=st.integers(1, 5), seed=st.integers(0, 1000))
def test_batched_equals_one_at_a_time(rule, data, tasks, seed):
    order = data.draw(orders(tasks))
    matrices = gram(random_gradients(6 * tasks, 4, seed).view(2, 3, tasks, 4))
    together = project(matrices, rule, order)
    for index in [(0, 0), (1, 2)]:
        alone = project(matrices[index], rule, order)
        torch.testing.assert_close(together.coefficients[index], alone.coefficients)
        assert together.projected[index].equal(alone.projected)


@pytest.mark.parametrize("rule", RULES)
@given(data=st.data(), tasks=st.integers(1, 5), seed=st.integers(0, 1000))
def test_projected_gradients_scale_with_their_task(rule, data, tasks, seed):
    order = data.draw(orders(tasks))
    vectors = random_gradients(tasks, 6, seed)
    scale = torch.tensor(data.draw(st.lists(st.sampled_from([1e-6, 0.5, 1.0, 1e7]), min_size=tasks, max_size=tasks)))
    scale = scale.to(torch.float64).unsqueeze(-1)
    plain = coefficients(gram(vectors), rule, order) @ vectors
    scaled = coefficients(gram(vectors * scale), rule, order) @ (vectors * scale)
    torch.testing.assert_close(scaled / scale, plain, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rule", ["sum", *RULES])
@given(tasks=st.integers(1, 6), seed=st.integers(0, 1000))
def test_gradients_that_do_not_conflict_are_left_alone(rule, tasks, seed):
    found = project(gram(random_gradients(tasks, 5, seed).abs()), rule, range(tasks))
    assert found.coefficients.equal(torch.eye(tasks, dtype=torch.float64))
    assert not found.projected.any()


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
@given(seed=st.integers(0, 10**6))
def test_two_tasks_have_a_closed_form(order, seed):
    first, second = random_gradients(2, 3, seed)
    second = second if first.dot(second) < 0 else -second
    matrix = gram(torch.stack([first, second]))
    product = first.dot(second)
    expected = torch.tensor([[1, -product / second.dot(second)], [-product / first.dot(first), 1]])
    found = project(matrix, "pcgrad", order)
    torch.testing.assert_close(found.coefficients, expected.double())
    # Each is now orthogonal to the other's original, and so they agree: cos' = -cos.
    torch.testing.assert_close(
        cosines(combine(matrix, found.coefficients))[0, 1], -cosines(matrix)[0, 1], rtol=1e-6, atol=1e-7
    )


def test_in_place_differs_from_original_where_a_later_task_meets_a_projected_gradient():
    vectors = torch.tensor([[1.0, 0.0], [-0.6, 0.8]], dtype=torch.float64)
    original = project(gram(vectors), "pcgrad", [0, 1])
    in_place = project(gram(vectors), "pcgrad-inplace", [0, 1])
    assert original.projected.tolist() == [[False, True], [True, False]]
    assert in_place.projected.tolist() == [[False, True], [False, False]]  # by its turn, task 1 meets no conflict


def test_three_tasks_may_still_conflict_after_projection():
    remaining = 0
    for seed in range(50):
        matrix = gram(random_gradients(3, 3, seed))
        remaining += (cosines(combine(matrix, coefficients(matrix, "pcgrad", [0, 1, 2]))) < -1e-3).any().item()
    assert 0 < remaining < 50


def test_order_matters_with_three_tasks():
    vectors = random_gradients(3, 3, 1) - random_gradients(3, 3, 1).mean(0)  # they sum to zero: all conflict
    weights = {
        tuple(effective_weights(coefficients(gram(vectors), "pcgrad", o)).tolist()) for o in permutations(range(3))
    }
    assert len(weights) > 1


@pytest.mark.parametrize("rule", ["sum", *RULES])
def test_zero_and_opposite_gradients_give_finite_coefficients(rule):
    matrix = gram(torch.tensor([[1.0, 2.0], [-1.0, -2.0], [0.0, 0.0]], dtype=torch.float64))
    found = project(matrix, rule, [0, 1, 2])
    assert found.coefficients.isfinite().all()
    assert found.coefficients[2].tolist() == [0, 0, 1]


def test_errors_name_what_was_expected():
    matrix = torch.eye(2)
    with pytest.raises(ValueError, match=r"permutation of 0\.\.1, found \[0, 0\]"):
        project(matrix, "pcgrad", [0, 0])
    with pytest.raises(ValueError, match="expected one of sum, pcgrad, pcgrad-inplace, found 'cagrad'"):
        project(matrix, "cagrad", [0, 1])
