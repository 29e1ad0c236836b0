import re
import subprocess
import sys

import pytest
import torch
import torchjd.aggregation as torchjd
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import random_gradients
from samplers import scales

from ortho_lora.errors import OrthoLoraError
from ortho_lora.surgery.gram import gram
from ortho_lora.surgery.projection import project
from ortho_lora.surgery.weightings import CAGRAD_RADIUS, FAIRGRAD_ALPHA, WEIGHTINGS, weigh

RULES = sorted(WEIGHTINGS)


def update(rule, vectors):
    """The update as torchjd aggregates explicit gradients, at the length that the rule documents."""
    tasks, ones = len(vectors), torch.ones(len(vectors), dtype=torch.float64)
    length = vectors.square().sum(-1).mean().sqrt()
    match rule:
        case "mgda":
            return tasks * torchjd.MGDA()(vectors)
        case "upgrad":
            return torchjd.UPGrad(ones)(vectors)
        case "cagrad":
            return tasks * torchjd.CAGrad(CAGRAD_RADIUS)(vectors)
        case "imtl-g":
            return tasks * torchjd.IMTLG()(vectors)
        case "aligned-mtl":
            return torchjd.AlignedMTL(ones)(vectors)
        case "fairgrad":  # weights of sK are s^(-alpha / (1 + alpha)) times those of K
            return torchjd.FairGrad(FAIRGRAD_ALPHA)(vectors) * length ** (2 * FAIRGRAD_ALPHA / (1 + FAIRGRAD_ALPHA))
        case "nash-mtl":
            return torchjd.FairGrad(1.0)(vectors) * length


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=40)
@given(
    tasks=st.integers(2, 6), extra=st.integers(4, 20), seed=st.integers(0, 10**6), scale=st.sampled_from([0.3, 1, 5])
)
def test_update_equals_torchjds_on_explicit_vectors(rule, tasks, extra, seed, scale):
    vectors = random_gradients(tasks, tasks + extra, seed) * scale
    found = project(gram(vectors), rule, [range(tasks)])
    expected = update(rule, vectors)
    error = (found.coefficients.sum(0) @ vectors - expected).norm() / expected.norm()
    assert error < 1e-4
    assert not found.projected.any()
    assert found.state is None
    assert found.coefficients.equal(found.coefficients.diagonal().diag())


@settings(max_examples=40)
@given(data=st.data(), tasks=st.integers(2, 5), seed=st.integers(0, 10**6))
def test_nash_mtl_solves_its_bargaining_problem_at_any_scale(data, tasks, seed):
    matrix = gram(random_gradients(tasks, tasks + 4, seed) * data.draw(scales(tasks)))
    weights = weigh(matrix, "nash-mtl")
    bargain = weights * (matrix @ weights) / matrix.diagonal().mean()  # w_i (K w)_i = 1
    torch.testing.assert_close(bargain, torch.ones(tasks, dtype=torch.float64), rtol=1e-3, atol=0)


@pytest.mark.parametrize("rule", RULES)
def test_orthogonal_gradients_of_equal_length_are_summed(rule):
    expected = torch.full((3,), 1 + CAGRAD_RADIUS if rule == "cagrad" else 1.0, dtype=torch.float64)
    for square in (1e-60, 1.0, 1e30):
        weights = weigh(square * torch.eye(3, dtype=torch.float64), rule)
        torch.testing.assert_close(weights, expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rule", RULES)
def test_batched_equals_one_at_a_time(rule, dtype):
    matrices = gram(random_gradients(18, 7, 0).view(2, 3, 3, 7)).to(dtype)
    weights = weigh(matrices, rule)
    assert weights.dtype == dtype
    assert weights.shape == (2, 3, 3)
    assert weights[1, 2].equal(weigh(matrices[1, 2], rule))


@pytest.mark.parametrize("rule", RULES)
def test_degenerate_gradients_give_finite_weights(rule):
    same, opposite = torch.tensor([[1.0, 2.0], [1.0, 2.0]]), torch.tensor([[1.0, 2.0], [-1.0, -2.0]])
    dependent, far_apart = random_gradients(5, 2, 0), random_gradients(3, 6, 0) * torch.tensor([[1e-30], [1], [1e15]])
    for vectors in (same, opposite, dependent, far_apart):
        assert weigh(gram(vectors), rule).isfinite().all()


@pytest.mark.parametrize("how", ["absent", "zero", torch.inf, torch.nan])
@pytest.mark.parametrize("rule", RULES)
def test_tasks_without_direction_weigh_one_and_leave_the_others_as_if_they_were_not_there(rule, how):
    vectors, others = random_gradients(4, 6, 0), [0, 1, 3]
    expected = weigh(gram(vectors[others]), rule)
    if how == "absent":
        weights = weigh(gram(vectors), rule, torch.tensor([True, True, False, True]))
    else:
        vectors[2] = 0
        vectors[2, 0] = 0 if how == "zero" else how
        weights = weigh(gram(vectors), rule)
    torch.testing.assert_close(weights[others], expected)
    assert weights[2] == 1


@pytest.mark.parametrize("rule", RULES)
def test_a_task_alone_and_tasks_without_gradient_weigh_one(rule):
    assert weigh(gram(torch.tensor([[3.0, 4.0]])), rule).tolist() == [1]
    assert weigh(gram(torch.tensor([[3.0, 4.0], [0.0, 0.0]])), rule).tolist() == [1, 1]
    assert weigh(torch.zeros(2, 2), rule).tolist() == [1, 1]


@pytest.mark.parametrize("rule", RULES)
def test_product_that_overflowed_leaves_its_matrix_alone(rule):
    assert weigh(torch.tensor([[1.0, torch.inf], [torch.inf, 1.0]]), rule).tolist() == [1, 1]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            torch.tensor([1.0, torch.nan]),
            "rule: 'mgda', Gram matrix 1 of 3: expected 2 finite weights, found [1.0, nan]",
        ),
        (torch.ones(3), "rule: 'mgda', Gram matrix 1 of 3: expected 2 finite weights, found [1.0, 1.0, 1.0]"),
        (
            ZeroDivisionError("no"),
            "rule: 'mgda' found no weights for Gram matrix 1 of 3: ZeroDivisionError: no; use a rule",
        ),
    ],
)
def test_what_a_solver_could_not_do_is_an_error_that_names_the_matrix(monkeypatch, answer, message):
    def solver(matrix):
        if matrix[0, 1] == 0:
            return torch.ones_like(matrix[0])
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setitem(WEIGHTINGS, "mgda", solver)
    matrices = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.5], [0.5, 1.0]], [[1.0, 0.0], [0.0, 1.0]]])
    with pytest.raises(OrthoLoraError, match=re.escape(message)):
        weigh(matrices, "mgda")


@pytest.mark.parametrize(("rule", "package"), [("mgda", "torchjd.aggregation"), ("cagrad", "clarabel")])
def test_missing_packages_are_named_with_what_to_install(monkeypatch, rule, package):
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    with pytest.raises(
        OrthoLoraError, match=rf"needs the package torchjd .*{package}.*pip install 'ortho-lora\[rules\]'"
    ):
        weigh(torch.eye(2), rule)


@pytest.mark.parametrize(("rule", "imported"), [("pcgrad", False), ("mgda", True)])
def test_solvers_are_imported_only_by_rules_that_need_them(rule, imported):
    program = f"""
import sys, torch
from ortho_lora.surgery.projection import project
project(torch.eye(2), {rule!r}, [[0, 1]])
print("torchjd" in sys.modules)
"""
    answer = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert answer.stdout.strip() == str(imported)
