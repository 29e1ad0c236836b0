import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import random_gradients
from samplers import gradients

from ortho_lora.gram import combine, cosines, cosines_after, gram, norms, scope_groups, sum_over


@given(gradients())
def test_gram_reads_norms_and_cosines_of_the_vectors(vectors):
    matrix = gram(vectors)
    expected = torch.nn.functional.cosine_similarity(vectors.unsqueeze(0), vectors.unsqueeze(1), dim=-1, eps=0)
    torch.testing.assert_close(norms(matrix), vectors.norm(dim=-1), rtol=1e-12, atol=0)
    torch.testing.assert_close(cosines(matrix), expected, rtol=0, atol=1e-12)


@given(st.integers(1, 5), st.integers(0, 1000))
def test_sum_of_block_grams_is_the_gram_of_concatenated_gradients(blocks, seed):
    parts = random_gradients(blocks * 3, 7, seed).view(blocks, 3, 7)
    whole = parts.transpose(0, 1).reshape(3, -1)
    total = sum_over(gram(parts), torch.zeros(blocks, dtype=torch.int64), 1)
    torch.testing.assert_close(total, gram(whole).expand(blocks, 3, 3))


@given(gradients(), st.integers(0, 1000))
def test_combined_gram_is_the_gram_of_combined_gradients(vectors, seed):
    coefficients = random_gradients(len(vectors), len(vectors), seed)
    expected = gram(coefficients @ vectors)
    torch.testing.assert_close(combine(gram(vectors), coefficients), expected, rtol=1e-9, atol=1e-9 * expected.max())


def test_zero_gradient_has_no_cosine():
    matrix = gram(torch.tensor([[1.0, 0.0], [0.0, 0.0], [-2.0, 0.0]]))
    assert cosines(matrix).isnan().tolist() == [[False, True, False], [True, True, True], [False, True, False]]
    assert cosines(matrix)[0, 2] == -1


def test_rounding_error_left_by_a_projection_has_no_cosine():
    matrix = gram(torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64))
    almost_all = torch.tensor([[1.0, 1.0 - 1e-9], [0.0, 1.0]], dtype=torch.float64)
    after = cosines_after(matrix, almost_all)
    assert after[0].isnan().all()
    assert after[1, 1] == 1


def test_scopes_group_blocks():
    modules = [0, 0, 1, 1]
    assert scope_groups(modules, "block") == ([0, 1, 2, 3], 4)
    assert scope_groups(modules, "module") == ([0, 0, 1, 1], 2)
    assert scope_groups(modules, "model") == ([0, 0, 0, 0], 1)
    with pytest.raises(ValueError, match="expected 'block', 'module' or 'model', found 'layer'"):
        scope_groups(modules, "layer")
