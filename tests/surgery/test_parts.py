"""Parts of a weight gradient against autograd, with the rows of all others masked out of the loss."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from ortho_lora.surgery.halves import Rows
from ortho_lora.surgery.parts import misfit, parts_of, share_of

WIDTHS = st.sampled_from([(2, 5), (5, 2)])  # in and out: either side is the short one


def rows_of_parts(parts, tasks, lengths=None):
    return Rows(tuple(parts), tasks, (1.0,) * len(parts), lengths)


def by_autograd(inputs, gradient, part_of_row, part):
    """Of rows [n, ..., in]: the gradient of the sum over one part's rows alone."""
    weight = torch.zeros(gradient.shape[-1], inputs.shape[-1], dtype=inputs.dtype, requires_grad=True)
    kept = torch.tensor([of == part for of in part_of_row]).view(-1, *[1] * (inputs.ndim - 1))
    return torch.autograd.grad((inputs @ weight.T * gradient * kept).sum(), weight)[0]


def drawn(shape, widths):
    of = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, width, dtype=torch.float64, generator=of) for width in widths]


@given(
    parts=st.lists(st.integers(0, 5), min_size=1, max_size=9),
    ordered=st.booleans(),
    tokens=st.integers(0, 3),
    widths=WIDTHS,
)
def test_of_rows(parts, ordered, tokens, widths):
    parts = [part for part in range(6) for _ in range(2)] if ordered else parts
    inputs, gradient = drawn([len(parts)] + [tokens] * bool(tokens), widths)
    rows = rows_of_parts(parts, 3)
    assert rows.regular or not ordered
    assert misfit(inputs, rows) is None
    found = parts_of(inputs, gradient, rows)
    for part in range(6):
        torch.testing.assert_close(found[part], by_autograd(inputs, gradient, parts, part))
    torch.testing.assert_close(share_of(inputs, gradient, rows.of_first_part), found[min(parts)])


@given(
    parts=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4)), min_size=1, max_size=6),
    padding=st.integers(0, 3),
    widths=WIDTHS,
)
def test_of_runs_of_tokens(parts, padding, widths):
    places = [part for part, length in parts for _ in range(length)] + [None] * padding
    inputs, gradient = drawn([1, len(places)], widths)
    rows = rows_of_parts([part for part, _ in parts], 2, tuple(length for _, length in parts))
    assert misfit(inputs, rows) is None
    found = parts_of(inputs, gradient, rows)
    for part in range(4):
        torch.testing.assert_close(found[part], by_autograd(inputs[0], gradient[0], places, part))


def test_what_does_not_fit_is_told():
    inputs = torch.zeros(3, 4, 2)
    assert misfit(inputs, rows_of_parts([0, 1], 1)) == "it received 3 rows for 2 examples"
    assert misfit(inputs, rows_of_parts([0, 1], 1, (6, 7))) == "it received 12 tokens for 2 examples of 13"
    assert misfit(inputs, rows_of_parts([0, 1], 1, (6, 6))) is None
