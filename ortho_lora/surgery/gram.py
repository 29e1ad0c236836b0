"""Gram matrices of task gradients, and what reads from them.

`K[..., i, j] = <g_i, g_j>` for T tasks. A value that was not measured (a zero gradient has no direction) is NaN.
"""

from collections.abc import Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import get_args

import torch
from torch import Tensor

from ortho_lora.errors import OrthoLoraError
from ortho_lora.surgery.methods import SCOPES, Branches

# Below this share of the squared lengths it was added up from, what is left of a gradient is rounding error.
RESIDUE = 1e-6

# Squared lengths between which products in float32 lose nothing: terms below 1e-38 do not count, none is above 1e38.
PLAIN = 1e-20, 1e30


def gram(gradients: Tensor) -> Tensor:
    """Inner products of the tasks' gradients.

    The matrix product runs in the gradients' own precision (float32 for the half ones) on rows whose largest entry
    is 1, and their scales come back in float64: neither norms of 1e-30 vanish nor norms of 1e15 overflow. On a CPU it
    runs on the rows as they are where none of that can happen, in half the time.

    Args:
        gradients: `[..., T, P]`, any floating dtype.

    Returns:
        `[..., T, T]` in float64, or in float32 on devices without it (mps).
    """
    values = gradients if gradients.dtype in (torch.float32, torch.float64) else gradients.float()
    precise = torch.float32 if values.device.type == "mps" else torch.float64
    if values.device.type == "cpu":  # elsewhere one would wait to see whether it may
        product = _products(values)
        squares = product.detach().diagonal(dim1=-2, dim2=-1).numpy()
        zero = squares == 0
        if (zero | (squares > PLAIN[0]) & (squares < PLAIN[1])).all() and not values.detach().numpy()[zero].any():
            return product.to(precise)
    largest = values.abs().amax(-1, keepdim=True)  # [..., T, 1]; ten times as fast as the norm of order infinity
    largest = largest.clamp(min=torch.finfo(values.dtype).tiny)
    product = _products(values / largest)
    largest = largest.to(precise)
    return product.to(precise) * (largest * largest.mT)


def _products(rows: Tensor) -> Tensor:
    with _no_autocast(rows.device):
        return rows @ rows.mT


def norms(gram: Tensor) -> Tensor:
    """Euclidean norms `[..., T]` of the gradients of a Gram matrix `[..., T, T]`."""
    return gram.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()


def measured_norms(gram: Tensor, present: Tensor | None = None) -> Tensor:
    """Norms `[..., T]` of the gradients that have a direction; NaN for the others.

    Without direction are zero gradients, those that are not `present`, and those that are not finite. A squared norm
    below the smallest normal number of its dtype has lost its digits and counts as zero.

    Args:
        gram: inner products `[..., T, T]`.
        present: bool, broadcast to `[..., T]`; by default every task is.
    """
    squares = gram.diagonal(dim1=-2, dim2=-1)
    limits = torch.finfo(gram.dtype)
    measured = (squares >= limits.tiny) & (squares <= limits.max)
    if present is not None:
        measured = measured & present
    return torch.where(measured, squares, torch.nan).sqrt()


def cosines(gram: Tensor, present: Tensor | None = None) -> Tensor:
    """Cosines `[..., T, T]` in [-1, 1] of a Gram matrix `[..., T, T]`; NaN where a gradient has no direction.

    Args:
        gram: inner products.
        present: bool, broadcast to `[..., T]`, the gradients to look at; by default all.
    """
    length = measured_norms(gram, present)
    cosine = gram / length.unsqueeze(-1) / length.unsqueeze(-2)
    return torch.where(cosine.isfinite(), cosine.clamp(-1, 1), torch.nan)


def combine(gram: Tensor, coefficients: Tensor) -> Tensor:
    """Gram matrix `C K C^T` of the gradients `g'_i = sum_j C_ij g_j`; both `[..., T, T]`."""
    with _no_autocast(gram.device):
        return coefficients @ gram @ coefficients.mT


def cosines_after(gram: Tensor, coefficients: Tensor) -> Tensor:
    """Cosines `[..., T, T]` of the gradients `C g`; NaN where nothing but rounding error is left of one."""
    after = combine(gram, coefficients)
    terms = (coefficients.square() * gram.diagonal(dim1=-2, dim2=-1).unsqueeze(-2)).sum(-1)  # sum_j |C_ij g_j|^2
    return cosines(after, after.diagonal(dim1=-2, dim2=-1) > RESIDUE * terms)


def group_sums(gram: Tensor, groups: Tensor, count: int) -> Tensor:
    """Gram matrices `[count, T, T]` of groups of blocks.

    The Gram matrix of concatenated gradients is the sum of their Gram matrices.

    Args:
        gram: `[N, T, T]`.
        groups: int64 `[N]`, the group of each block, from 0; -1 for a block of no group.
        count: number of groups.
    """
    # Blocks of no group are summed too, into a row that is dropped: choosing them would wait for the device.
    return gram.new_zeros((count + 1, *gram.shape[1:])).index_add_(0, groups + 1, gram)[1:]


def of_tasks(matrices: Tensor) -> Tensor:
    """Gram matrices `[..., T, T]` of T tasks from those of their gradients' two parts, `[..., 2T, 2T]`.

    A task's gradient is the sum of its parts 2t and 2t + 1.
    """
    return matrices.unflatten(-1, (-1, 2)).sum(-1).unflatten(-2, (-1, 2)).sum(-2)


def scope_groups(
    modules: Sequence[Hashable], branch_names: Sequence[str], scope: str, branches: str = "both"
) -> tuple[list[int], int]:
    """The group of each block, and how many there are; -1 for blocks of a branch that is left alone.

    >>> scope_groups(["query", "query", "value", "value"], ["A", "B", "A", "B"], "module")
    ([0, 0, 1, 1], 2)
    >>> scope_groups(["query", "query", "value", "value"], ["A", "B", "A", "B"], "block", "B")
    ([-1, 0, -1, 1], 2)

    Args:
        modules: for each block the module it belongs to, by path or index.
        branch_names: for each block `A` or `B`.
        scope: what shares one projection: `block`, `module` or `model`.
        branches: the branches in groups: `both`, `A` or `B`.
    """
    if scope not in SCOPES:
        raise OrthoLoraError(f"scope: expected one of {', '.join(SCOPES)}, found {scope!r}.")
    if branches not in get_args(Branches):
        raise OrthoLoraError(f"branches: expected one of {', '.join(get_args(Branches))}, found {branches!r}.")
    keys = {"block": range(len(modules)), "module": modules, "model": [0] * len(modules)}[scope]
    numbers: dict[Hashable, int] = {}
    groups = [
        numbers.setdefault(key, len(numbers)) if branches in ("both", branch) else -1
        for key, branch in zip(keys, branch_names, strict=True)
    ]
    return groups, len(numbers)


def _no_autocast(device: torch.device) -> AbstractContextManager[object]:
    # Inside a user's autocast region, a product of float32 matrices would silently be one of bfloat16.
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()
