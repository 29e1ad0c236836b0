import doctest
import math
from unittest.mock import patch

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import random_gradients
from samplers import gradients, scales

import ortho_lora.surgery.gram
from ortho_lora.errors import OrthoLoraError
from ortho_lora.surgery.gram import (
    combine,
    cosines,
    cosines_after,
    gram,
    group_sums,
    measured_norms,
    norms,
    scope_groups,
)

SCALED = pytest.mark.parametrize("plain", [ortho_lora.surgery.gram.PLAIN, (math.inf, 0.0)], ids=["cpu", "scaled"])


@SCALED
@given(vectors=gradients())
def test_gram_reads_norms_and_cosines_of_the_vectors(plain, vectors):
    with patch("ortho_lora.surgery.gram.PLAIN", plain):
        matrix = gram(vectors)
    expected = torch.nn.functional.cosine_similarity(vectors.unsqueeze(0), vectors.unsqueeze(1), dim=-1, eps=0)
    torch.testing.assert_close(norms(matrix), vectors.norm(dim=-1), rtol=1e-12, atol=0)
    torch.testing.assert_close(cosines(matrix), expected, rtol=0, atol=1e-12)


@SCALED
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@given(data=st.data(), tasks=st.integers(1, 5), size=st.integers(1, 40), seed=st.integers(0, 10**6))
def test_squares_neither_vanish_nor_overflow_in_the_dtype_of_the_gradients(plain, dtype, data, tasks, size, seed):
    given_to = (random_gradients(tasks, size, seed) * data.draw(scales(tasks))).to(dtype)
    with patch("ortho_lora.surgery.gram.PLAIN", plain):
        found, expected = gram(given_to), given_to.double() @ given_to.double().mT
    length = expected.diagonal().sqrt()
    assert found.dtype == torch.float64
    torch.testing.assert_close(norms(found), length, rtol=1e-5, atol=0)
    torch.testing.assert_close(found / length.outer(length), expected / length.outer(length), rtol=0, atol=1e-5)


def test_float16_products_do_not_overflow():
    large = torch.full((2, 1000), 60_000.0, dtype=torch.float16)  # 60_000 is a float16 number, its square is not
    expected = torch.full((2, 2), 1000 * 60_000.0**2, dtype=torch.float64)
    torch.testing.assert_close(gram(large), expected, rtol=1e-5, atol=0)


def test_autocast_does_not_reach_the_product():
    vectors = random_gradients(3, 50, 0).float()
    with torch.autocast("cpu", torch.bfloat16):
        inside = gram(vectors)
        assert (vectors @ vectors.mT).dtype == torch.bfloat16  # as it would have been
    assert inside.equal(gram(vectors))


@given(st.integers(1, 5), st.integers(0, 1000))
def test_sum_of_block_grams_is_the_gram_of_concatenated_gradients(blocks, seed):
    parts = random_gradients(blocks * 3, 7, seed).view(blocks, 3, 7)
    whole = parts.transpose(0, 1).reshape(3, -1)
    groups = torch.zeros(blocks, dtype=torch.int64)
    total = group_sums(gram(parts), groups, 1)[groups]
    torch.testing.assert_close(total, gram(whole).expand(blocks, 3, 3))


@given(st.data(), st.integers(1, 8), st.integers(1, 4), st.integers(0, 1000))
def test_sums_of_groups_equal_those_of_a_loop(data, blocks, count, seed):
    groups = data.draw(st.lists(st.integers(-1, count - 1), min_size=blocks, max_size=blocks))
    matrices = gram(random_gradients(blocks * 3, 7, seed).view(blocks, 3, 7))
    expected = torch.zeros(count, 3, 3, dtype=torch.float64)
    for matrix, group in zip(matrices, groups, strict=True):
        if group >= 0:
            expected[group] += matrix
    torch.testing.assert_close(group_sums(matrices, torch.tensor(groups), count), expected)


@given(gradients(), st.integers(0, 1000))
def test_combined_gram_is_the_gram_of_combined_gradients(vectors, seed):
    coefficients = random_gradients(len(vectors), len(vectors), seed)
    expected = gram(coefficients @ vectors)
    torch.testing.assert_close(combine(gram(vectors), coefficients), expected, rtol=1e-9, atol=1e-9 * expected.max())


def test_zero_gradient_has_no_cosine():
    matrix = gram(torch.tensor([[1.0, 0.0], [0.0, 0.0], [-2.0, 0.0]]))
    assert cosines(matrix).isnan().tolist() == [[False, True, False], [True, True, True], [False, True, False]]
    assert cosines(matrix)[0, 2] == -1


@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan])
def test_gradient_that_is_not_finite_has_no_cosine_and_takes_no_other(bad):
    vectors = random_gradients(3, 4, 0)
    vectors[1, 2] = bad
    missing = torch.tensor([[False, True, False], [True, True, True], [False, True, False]])
    assert cosines(gram(vectors)).isnan().equal(missing)


def test_product_that_overflowed_has_no_cosine():
    assert cosines(torch.tensor([[1.0, torch.inf], [torch.inf, 1.0]])).isnan().tolist() == [
        [False, True],
        [True, False],
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_only_finite_normal_squares_have_a_norm(dtype):
    limits = torch.finfo(dtype)
    squares = torch.tensor([0, limits.tiny / 2, limits.tiny, 4, limits.max, torch.inf, torch.nan], dtype=dtype)
    missing = [True, True, False, False, False, True, True]
    assert measured_norms(squares.diag()).isnan().tolist() == missing
    assert measured_norms(squares.diag())[3] == 2


def test_task_that_is_not_present_has_no_cosine():
    found = cosines(gram(random_gradients(2, 4, 0)), torch.tensor([True, False]))
    assert found.isnan().tolist() == [[False, True], [True, True]]


def test_rounding_error_left_by_a_projection_has_no_cosine():
    matrix = gram(torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64))
    almost_all = torch.tensor([[1.0, 1.0 - 1e-9], [0.0, 1.0]], dtype=torch.float64)
    after = cosines_after(matrix, almost_all)
    assert after[0].isnan().all()
    assert after[1, 1] == 1


def test_small_weight_keeps_the_cosine():
    matrix = gram(random_gradients(2, 4, 0))
    weighed = torch.tensor([1e-5, 2.0], dtype=torch.float64).diag()
    torch.testing.assert_close(cosines_after(matrix, weighed), cosines(matrix))


MODULES = ["query", "query", "value", "value"]
BRANCHES = ["A", "B", "A", "B"]


@pytest.mark.parametrize(
    ("scope", "branches", "groups", "count"),
    [
        ("block", "both", [0, 1, 2, 3], 4),
        ("module", "both", [0, 0, 1, 1], 2),
        ("model", "both", [0, 0, 0, 0], 1),
        ("block", "A", [0, -1, 1, -1], 2),
        ("module", "B", [-1, 0, -1, 1], 2),
        ("model", "A", [0, -1, 0, -1], 1),
    ],
)
def test_scopes_group_blocks(scope, branches, groups, count):
    assert scope_groups(MODULES, BRANCHES, scope, branches) == (groups, count)


def test_errors_name_what_was_expected():
    with pytest.raises(OrthoLoraError, match="scope: expected one of block, module, model, found 'layer'"):
        scope_groups(MODULES, BRANCHES, "layer")
    with pytest.raises(OrthoLoraError, match="branches: expected one of both, A, B, found 'C'"):
        scope_groups(MODULES, BRANCHES, "block", "C")


def test_examples_in_docstrings():
    failed, attempted = doctest.testmod(ortho_lora.surgery.gram)
    assert attempted > 0
    assert failed == 0
