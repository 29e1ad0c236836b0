"""Gram matrices of task gradients, and what reads from them.

`K[..., i, j] = <g_i, g_j>` for T tasks. A value that was not measured (a zero gradient has no direction) is NaN.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

# Below this share of its former squared norm, what is left of a projected gradient is rounding error.
RESIDUE = 1e-6


def gram(gradients: Tensor) -> Tensor:
    """Inner products of the tasks' gradients.

    Args:
        gradients: `[..., T, P]`, any floating dtype.

    Returns:
        `[..., T, T]` in the dtype of `gradients`.
    """
    return gradients @ gradients.mT


def norms(gram: Tensor) -> Tensor:
    """Euclidean norms `[..., T]` of the gradients of a Gram matrix `[..., T, T]`."""
    return gram.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()


def cosines(gram: Tensor, present: Tensor | None = None) -> Tensor:
    """Cosines `[..., T, T]` in [-1, 1] of a Gram matrix `[..., T, T]`; NaN where a gradient is zero.

    Args:
        gram: inner products.
        present: bool `[..., T]`, gradients that count as not zero; by default those of positive norm.
    """
    length = norms(gram)  # [..., T]
    present = (length > 0) if present is None else present & (length > 0)
    scale = torch.where(present, length, torch.nan)
    return (gram / scale.unsqueeze(-1) / scale.unsqueeze(-2)).clamp(-1, 1)


def combine(gram: Tensor, coefficients: Tensor) -> Tensor:
    """Gram matrix `C K C^T` of the gradients `g'_i = sum_j C_ij g_j`; both `[..., T, T]`."""
    return coefficients @ gram @ coefficients.mT


def cosines_after(gram: Tensor, coefficients: Tensor) -> Tensor:
    """Cosines `[..., T, T]` of the gradients `C g`; NaN where nothing but rounding error is left of one."""
    after = combine(gram, coefficients)
    left = after.diagonal(dim1=-2, dim2=-1) > RESIDUE * gram.diagonal(dim1=-2, dim2=-1)
    return cosines(after, left)


def sum_over(gram: Tensor, groups: Tensor, count: int) -> Tensor:
    """Sum Gram matrices `[N, T, T]` over the blocks of each group and give every block its group's sum.

    The Gram matrix of concatenated gradients is the sum of their Gram matrices.

    Args:
        gram: `[N, T, T]`.
        groups: int64 `[N]`, the group of each block, from 0.
        count: number of groups.
    """
    total = gram.new_zeros((count, *gram.shape[1:])).index_add_(0, groups, gram)
    return total[groups]


def scope_groups(modules: Sequence[int], scope: str) -> tuple[list[int], int]:
    """The group of each block, and how many there are, at scope `block`, `module` or `model`.

    Args:
        modules: for each block the index of its module, from 0.
        scope: what shares one projection.
    """
    if scope == "block":
        return list(range(len(modules))), len(modules)
    if scope == "module":
        return list(modules), max(modules) + 1
    if scope == "model":
        return [0] * len(modules), 1
    raise ValueError(f"scope: expected 'block', 'module' or 'model', found {scope!r}.")
