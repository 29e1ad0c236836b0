import doctest
import re
from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import gradvac, ortho_lora_as_printed, pcgrad, random_gradients
from samplers import gradients, orders, scales, some_orders
from torchjd.aggregation import GradVac, PCGradWeighting

import ortho_lora.surgery.projection
from ortho_lora.errors import OrthoLoraError
from ortho_lora.surgery.gram import combine, cosines, cosines_after, gram, scope_groups
from ortho_lora.surgery.projection import (
    GRADVAC_BETA,
    all_orders,
    coefficients,
    effective_weights,
    project,
    project_groups,
)

ORACLES = {"pcgrad": pcgrad, "pcgrad-inplace": ortho_lora_as_printed}

FAMILY = sorted(ORACLES)

GRAM_RULES = ["sum", *FAMILY, "gradvac"]


def targets(tasks, seed):
    """Target cosines [T, T] as in the middle of a run, 0 on the diagonal."""
    drawn = torch.rand(tasks, tasks, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (1.8 * drawn - 0.9).fill_diagonal_(0)


@pytest.mark.parametrize("rule", FAMILY)
@given(data=st.data(), tasks=st.integers(2, 6), extra=st.integers(4, 40), seed=st.integers(0, 10**6))
def test_gram_path_equals_vectors(rule, data, tasks, extra, seed):
    # Linearly independent: where a projected gradient vanishes, the in-place oracle goes on with a rounding error's
    # direction, by which the next one is projected.
    vectors = random_gradients(tasks, tasks + extra, seed)
    order = data.draw(orders(tasks))
    found = coefficients(gram(vectors), rule, [order]) @ vectors
    torch.testing.assert_close(found, ORACLES[rule](vectors, order), rtol=1e-10, atol=1e-10)


@given(data=st.data(), tasks=st.integers(2, 6), size=st.integers(1, 5), seed=st.integers(0, 10**6))
def test_gram_path_equals_vectors_that_depend_on_each_other(data, tasks, size, seed):
    vectors = random_gradients(tasks, size, seed)
    order = data.draw(orders(tasks))
    found = coefficients(gram(vectors), "pcgrad", [order]) @ vectors
    torch.testing.assert_close(found, pcgrad(vectors, order), rtol=1e-10, atol=1e-10)


@given(data=st.data(), tasks=st.integers(2, 6), extra=st.integers(4, 40), seed=st.integers(0, 10**6))
def test_gradvac_equals_vectors_step_after_step(data, tasks, extra, seed):
    state = expected_state = targets(tasks, seed)
    for step in range(3):
        vectors, order = random_gradients(tasks, tasks + extra, seed + step), data.draw(orders(tasks))
        found = project(gram(vectors), "gradvac", [order], state=state)
        expected, expected_state = gradvac(vectors, order, expected_state, GRADVAC_BETA)
        state = found.state
        torch.testing.assert_close(found.coefficients @ vectors, expected, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(state, expected_state, rtol=1e-9, atol=1e-9)


@given(data=st.data(), tasks=st.integers(2, 5), seed=st.integers(0, 10**6))
def test_gradvac_equals_torchjd_step_after_step(data, tasks, seed):
    # torchjd defaults to beta = 0.5 (paper: 0.01), and adds a constant to what it divides by (paper: none).
    aggregate, state = GradVac(beta=GRADVAC_BETA, eps=0), None
    for step in range(4):
        vectors, order = random_gradients(tasks, tasks + 4, seed + step), data.draw(orders(tasks))
        found = project(gram(vectors), "gradvac", [order], state=state)
        state = found.state
        # It draws the order of the OTHER tasks, anew for every task, as places in the list of them.
        others = [[j for j in range(tasks) if j != i] for i in range(tasks)]
        drawn = iter([torch.tensor([other.index(j) for j in order if j in other]) for other in others])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "randperm", lambda n, drawn=drawn: next(drawn))
            expected = aggregate(vectors)
        torch.testing.assert_close(effective_weights(found.coefficients) @ vectors, expected, rtol=1e-9, atol=1e-9)


@given(data=st.data(), vectors=gradients(min_tasks=2))
def test_gradvac_without_history_is_pcgrad(data, vectors):
    order = data.draw(orders(len(vectors)))
    unit = vectors / vectors.norm(dim=-1, keepdim=True)
    found, expected = (project(gram(unit), rule, [order]) for rule in ("gradvac", "pcgrad"))
    torch.testing.assert_close(found.coefficients @ unit, expected.coefficients @ unit, rtol=0, atol=1e-6)


def test_gradvac_reaches_its_target():
    vectors, goal = random_gradients(2, 6, 3), torch.tensor([[0.0, 0.7], [0.7, 0.0]], dtype=torch.float64)
    found = project(gram(vectors), "gradvac", [[0, 1]], state=goal)
    changed = found.coefficients @ vectors
    assert found.projected.tolist() == [[False, True], [True, False]]
    torch.testing.assert_close(torch.cosine_similarity(changed[0], vectors[1], 0), goal[0, 1])
    torch.testing.assert_close(found.state, 0.99 * goal + 0.01 * cosines(gram(vectors)).fill_diagonal_(0))


def test_gradvac_keeps_the_targets_of_tasks_that_were_not_measured():
    vectors, state = random_gradients(3, 6, 0), targets(3, 0)
    found = project(gram(vectors), "gradvac", [[0, 1, 2]], present=torch.tensor([True, False, True]), state=state)
    kept = found.state == state
    assert kept.tolist() == [[True, True, False], [True, True, True], [False, True, True]]


def test_gradvac_neither_turns_nor_measures_what_is_left_of_nothing():
    vectors = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.6, 0.8]], dtype=torch.float64)
    goal = torch.tensor([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]], dtype=torch.float64)
    found = project(gram(vectors), "gradvac", [[0, 1, 2]], state=goal)
    assert (found.coefficients @ vectors)[0].tolist() == [0, 0]  # by its turn with task 2, nothing is left of task 0
    assert found.projected[0].tolist() == [False, True, False]
    assert found.state[0, 2] == 0.5


@given(data=st.data(), tasks=st.integers(2, 5), seed=st.integers(0, 10**6))
def test_in_place_on_a_line_removes_every_conflict(data, tasks, seed):
    vectors = random_gradients(tasks, 1, seed)
    found = coefficients(gram(vectors), "pcgrad-inplace", [data.draw(orders(tasks))]) @ vectors
    assert (gram(found) >= -1e-12).all()


@given(data=st.data(), vectors=gradients(min_tasks=2))
def test_weights_equal_torchjd(data, vectors):
    order = data.draw(orders(len(vectors)))
    unit = vectors / vectors.norm(dim=-1, keepdim=True)
    matrix = gram(unit)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randperm", lambda n: torch.tensor(order))
        expected = PCGradWeighting()(matrix)
    found = effective_weights(coefficients(matrix, "pcgrad", [order]))
    torch.testing.assert_close(found @ unit, expected @ unit, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("rule", GRAM_RULES)
@given(data=st.data(), tasks=st.integers(1, 5), seed=st.integers(0, 1000))
def test_batched_equals_one_at_a_time(rule, data, tasks, seed):
    drawn = data.draw(some_orders(tasks))
    matrices = gram(random_gradients(6 * tasks, 4, seed).view(2, 3, tasks, 4))
    state = torch.stack([targets(tasks, seed + n) for n in range(6)]).view(2, 3, tasks, tasks)
    together = project(matrices, rule, drawn, state=state)
    for index in [(0, 0), (1, 2)]:
        alone = project(matrices[index], rule, drawn, state=state[index])
        torch.testing.assert_close(together.coefficients[index], alone.coefficients)
        assert together.projected[index].equal(alone.projected)
        if rule == "gradvac":
            torch.testing.assert_close(together.state[index], alone.state)
        else:
            assert together.state is alone.state is None


@pytest.mark.parametrize("rule", GRAM_RULES)
@given(data=st.data(), tasks=st.integers(1, 5), seed=st.integers(0, 1000))
def test_several_orders_give_the_mean_over_them(rule, data, tasks, seed):
    drawn = data.draw(some_orders(tasks))
    matrix, state = gram(random_gradients(tasks, 4, seed)), targets(tasks, seed)
    found = project(matrix, rule, drawn, state=state)
    each = [project(matrix, rule, [order], state=state) for order in drawn]
    torch.testing.assert_close(found.coefficients, torch.stack([one.coefficients for one in each]).mean(0))
    assert found.projected.equal(torch.stack([one.projected for one in each]).any(0))
    if rule == "gradvac":
        torch.testing.assert_close(found.state, torch.stack([one.state for one in each]).mean(0))


@pytest.mark.parametrize("rule", GRAM_RULES)
@given(data=st.data(), tasks=st.integers(2, 5), seed=st.integers(0, 1000))
def test_mean_over_all_orders_does_not_depend_on_the_order_of_tasks(rule, data, tasks, seed):
    vectors, state, moved = random_gradients(tasks, tasks + 4, seed), targets(tasks, seed), data.draw(orders(tasks))
    found = project(gram(vectors), rule, all_orders(tasks), state=state)
    permuted = project(gram(vectors[moved]), rule, all_orders(tasks), state=state[moved][:, moved])
    torch.testing.assert_close(permuted.coefficients, found.coefficients[moved][:, moved], rtol=1e-9, atol=1e-9)
    assert permuted.projected.equal(found.projected[moved][:, moved])


@pytest.mark.parametrize("rule", GRAM_RULES)
@given(data=st.data(), tasks=st.integers(1, 5), seed=st.integers(0, 1000))
def test_changed_gradients_scale_with_their_task(rule, data, tasks, seed):
    drawn, scale = data.draw(some_orders(tasks)), data.draw(scales(tasks))
    vectors, state = random_gradients(tasks, tasks + 4, seed), targets(tasks, seed)
    plain = project(gram(vectors), rule, drawn, state=state).coefficients @ vectors
    scaled = project(gram(vectors * scale), rule, drawn, state=state).coefficients
    assert scaled.isfinite().all()
    # As terms of g'_i / s_i: in C itself, 1e-30 beside 1e15 would leave nothing to compare.
    torch.testing.assert_close(scaled * scale.mT / scale @ vectors, plain, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rule", GRAM_RULES)
@given(data=st.data(), tasks=st.integers(1, 5), seed=st.integers(0, 1000), scale=st.sampled_from([1e-15, 1.0, 1e15]))
def test_float32_equals_float64(rule, data, tasks, seed, scale):
    # A float32 Gram matrix holds squared norms from 1e-38 to 1e38.
    drawn, state = data.draw(some_orders(tasks)), targets(tasks, seed)
    matrix = gram(random_gradients(tasks, tasks + 4, seed) * scale)
    found = project(matrix.float(), rule, drawn, state=state.float())
    assert found.coefficients.dtype == torch.float32
    torch.testing.assert_close(
        found.coefficients.double(), project(matrix, rule, drawn, state=state).coefficients, rtol=2e-3, atol=2e-3
    )


@pytest.mark.parametrize("rule", ["sum", *FAMILY])
@given(data=st.data(), tasks=st.integers(1, 6), seed=st.integers(0, 1000))
def test_gradients_that_do_not_conflict_are_left_alone(rule, data, tasks, seed):
    found = project(gram(random_gradients(tasks, 5, seed).abs()), rule, data.draw(some_orders(tasks)))
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
    found = project(matrix, "pcgrad", [order])
    torch.testing.assert_close(found.coefficients, expected.double())
    # Each is now orthogonal to the other's original, and so they agree: cos' = -cos.
    torch.testing.assert_close(
        cosines(combine(matrix, found.coefficients))[0, 1], -cosines(matrix)[0, 1], rtol=1e-6, atol=1e-7
    )


def test_in_place_differs_from_original_where_a_later_task_meets_a_projected_gradient():
    vectors = torch.tensor([[1.0, 0.0], [-0.6, 0.8]], dtype=torch.float64)
    original = project(gram(vectors), "pcgrad", [[0, 1]])
    in_place = project(gram(vectors), "pcgrad-inplace", [[0, 1]])
    assert original.projected.tolist() == [[False, True], [True, False]]
    assert in_place.projected.tolist() == [[False, True], [False, False]]  # by its turn, task 1 meets no conflict


def test_three_tasks_may_still_conflict_after_projection():
    remaining = 0
    for seed in range(50):
        matrix = gram(random_gradients(3, 3, seed))
        remaining += (cosines(combine(matrix, coefficients(matrix))) < -1e-3).any().item()
    assert 0 < remaining < 50


def test_order_matters_with_three_tasks():
    vectors = random_gradients(3, 3, 1) - random_gradients(3, 3, 1).mean(0)  # they sum to zero: all conflict
    weights = {
        tuple(effective_weights(coefficients(gram(vectors), "pcgrad", [o])).tolist()) for o in permutations(range(3))
    }
    assert len(weights) > 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rule", GRAM_RULES)
def test_zero_and_opposite_gradients_give_finite_coefficients(rule, dtype):
    matrix = gram(torch.tensor([[1.0, 2.0], [-1.0, -2.0], [0.0, 0.0]])).to(dtype)
    found = project(matrix, rule, all_orders(3))
    assert found.coefficients.isfinite().all()
    assert found.coefficients[2].tolist() == found.coefficients[:, 2].tolist() == [0, 0, 1]
    assert not found.projected[2].any()
    assert not found.projected[:, 2].any()
    assert project(torch.zeros(3, 3, dtype=dtype), rule, [[0, 1, 2]]).coefficients.equal(torch.eye(3, dtype=dtype))


@pytest.mark.parametrize("how", ["absent", "zero", torch.inf, torch.nan])
@pytest.mark.parametrize("rule", GRAM_RULES)
@given(data=st.data(), seed=st.integers(0, 1000))
def test_tasks_without_direction_leave_the_others_as_if_they_were_not_there(rule, how, data, seed):
    order = data.draw(orders(4))
    vectors, state, others = random_gradients(4, 6, seed), targets(4, seed), [0, 1, 3]
    expected = project(
        gram(vectors[others]),
        rule,
        [[others.index(task) for task in order if task != 2]],
        state=state[others][:, others],
    )
    if how == "absent":
        found = project(gram(vectors), rule, [order], present=torch.tensor([True, True, False, True]), state=state)
    else:
        vectors[2] = 0
        vectors[2, 0] = 0 if how == "zero" else how
        found = project(gram(vectors), rule, [order], state=state)
    torch.testing.assert_close(found.coefficients[others][:, others], expected.coefficients)
    assert found.coefficients[2].tolist() == found.coefficients[:, 2].tolist() == [0, 0, 1, 0]
    assert found.projected[others][:, others].equal(expected.projected)
    assert not found.projected[2].any()


@pytest.mark.parametrize("rule", GRAM_RULES)
def test_lengths_at_the_limits_of_the_dtype_give_finite_coefficients(rule):
    for dtype in (torch.float32, torch.float64):
        limits = torch.finfo(dtype)
        least, most = limits.tiny, limits.max * 0.99
        product = -0.5 * least**0.5 * most**0.5
        found = project(torch.tensor([[least, product], [product, most]], dtype=dtype), rule, [[0, 1]])
        assert found.coefficients.isfinite().all()


@pytest.mark.parametrize("branches", ["both", "A", "B"])
@pytest.mark.parametrize("scope", ["block", "module", "model"])
@pytest.mark.parametrize("rule", ["pcgrad", "gradvac", "mgda"])
def test_groups_equal_projecting_their_concatenated_gradients_by_hand(rule, scope, branches):
    modules, branch_names = [0, 0, 1, 1, 2, 2], ["A", "B"] * 3
    blocks = [random_gradients(3, size, size) for size in (5, 6, 7, 8, 9, 10)]
    groups, count = scope_groups(modules, branch_names, scope, branches)
    state = torch.stack([targets(3, n) for n in range(count)]) if rule == "gradvac" else None
    found = project_groups(
        torch.stack([gram(block) for block in blocks]), torch.tensor(groups), count, rule, [[2, 0, 1]], state=state
    )
    alone = [n for n, branch in enumerate(branch_names) if branches not in ("both", branch)]
    assert [n for n, group in enumerate(groups) if group == -1] == alone
    assert found.coefficients[alone].equal(torch.eye(3, dtype=torch.float64).expand(len(alone), 3, 3))
    assert not found.projected[alone].any()
    for group in range(count):
        members = [n for n, of in enumerate(groups) if of == group]
        whole = gram(torch.cat([blocks[n] for n in members], dim=1))
        expected = project(whole, rule, [[2, 0, 1]], state=None if state is None else state[group])
        for n in members:
            torch.testing.assert_close(found.coefficients[n], expected.coefficients)
            assert found.projected[n].equal(expected.projected)
        if state is not None:
            torch.testing.assert_close(found.state[group], expected.state)


@pytest.mark.parametrize("rule", GRAM_RULES)
def test_autocast_changes_nothing(rule):
    matrix, state = gram(random_gradients(4, 8, 0)).float(), targets(4, 0)
    expected = project(matrix, rule, [range(4)], state=state).coefficients
    after = cosines_after(matrix, expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert project(matrix, rule, [range(4)], state=state).coefficients.equal(expected)
        assert cosines_after(matrix, expected).equal(after)


def test_all_orders_are_at_most_those_of_five_tasks():
    assert all_orders(1) == [(0,)]
    assert sorted(all_orders(3)) == sorted(permutations(range(3)))
    assert len(set(all_orders(5))) == 120
    expected = "order: the mean over all orders expects at most 5 tasks, found 6 (720 orders); use the order 'random'"
    with pytest.raises(OrthoLoraError, match=re.escape(expected)):
        all_orders(6)


def test_coefficients_take_the_tasks_in_their_own_order():
    matrix = gram(random_gradients(4, 4, 2))
    assert coefficients(matrix).equal(project(matrix, "pcgrad", [[0, 1, 2, 3]]).coefficients)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.eye(2), "pcgrad", [[0, 0]]), "orders: expected permutations of 0..1, found [0, 0]"),
        ((torch.eye(2), "pcgrad", []), "orders: expected at least one permutation of the tasks, found none"),
        ((torch.eye(2), "pcg", [[0, 1]]), "rule: expected one of sum, pcgrad, pcgrad-inplace, gradvac, "),
        ((torch.ones(2, 3), "sum", [[0, 1]]), "expected float32 or float64 of shape [..., T, T], found torch.float32"),
        ((torch.eye(2).half(), "sum", [[0, 1]]), "found torch.float16 of shape [2, 2]; make it with"),
    ],
)
def test_errors_name_what_was_expected(arguments, message):
    with pytest.raises(OrthoLoraError, match=re.escape(message)):
        project(*arguments)


def test_state_of_another_number_of_groups_is_refused():
    with pytest.raises(OrthoLoraError, match=re.escape("the Gram matrices, [4, 2, 2], found [3, 2, 2]")):
        project(torch.eye(2).expand(4, 2, 2), "gradvac", [[0, 1]], state=torch.zeros(3, 2, 2))


def test_examples_in_docstrings():
    failed, attempted = doctest.testmod(ortho_lora.surgery.projection)
    assert attempted > 0
    assert failed == 0
