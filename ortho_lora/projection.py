"""Projection rules: from a Gram matrix to the coefficients of a linear combination.

Every rule replaces task i's gradient by `g'_i = sum_j C_ij g_j` with `C` computed from `K[i, j] = <g_i, g_j>` alone,
batched over any leading dimensions. No rule branches on values, so none waits for the device.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ortho_lora.gram import cosines, norms


class Projection(NamedTuple):
    """`coefficients` C `[..., T, T]`, and whether task i was `projected` against task j, bool `[..., T, T]`."""

    coefficients: Tensor
    projected: Tensor


def coefficients(gram: Tensor, rule: str, order: Sequence[int]) -> Tensor:
    """The coefficients C `[..., T, T]` of `project`."""
    return project(gram, rule, order).coefficients


def project(gram: Tensor, rule: str, order: Sequence[int]) -> Projection:
    """Apply a projection rule to Gram matrices.

    Args:
        gram: `[..., T, T]`, symmetric positive semi-definite, floating.
        rule: `sum`: nothing is projected.
            `pcgrad`: whenever `<g_i, g_j> < 0`, `g_i -= <g_i, g_j> / |g_j|^2 g_j` with the ORIGINAL `g_j`
            (PCGrad, arXiv 2001.06782, Algorithm 1).
            `pcgrad-inplace`: the same with the current `g_j`, so that later tasks meet gradients that were projected
            already (Ortho-LoRA, arXiv 2601.09684, Algorithm 1 as printed).
        order: permutation of 0..T-1, the order in which tasks are taken, as i and as j.

    Raises:
        ValueError: the rule is unknown, or `order` is no permutation of the tasks.
    """
    tasks = gram.shape[-1]
    if sorted(order) != list(range(tasks)):
        raise ValueError(f"order: expected a permutation of 0..{tasks - 1}, found {list(order)}.")
    if rule not in _RULES:
        raise ValueError(f"rule: expected one of {', '.join(_RULES)}, found {rule!r}.")
    # Rules work on unit vectors: they are equivariant to the scale of each task, and squares of tiny norms vanish.
    length = norms(gram)
    unit, projected = _RULES[rule](cosines(gram).nan_to_num(0.0), order)
    inverse = torch.where(length > 0, 1 / length, 0.0)
    scaled = unit * length.unsqueeze(-1) * inverse.unsqueeze(-2)
    identity = torch.eye(tasks, dtype=torch.bool, device=gram.device)
    return Projection(torch.where(identity, unit, scaled), projected)


def effective_weights(coefficients: Tensor) -> Tensor:
    """Weights `w = 1^T C`, `[..., T]`: the update is `sum_j w_j g_j`."""
    return coefficients.sum(-2)


def _start(cosine: Tensor) -> tuple[Tensor, Tensor]:
    identity = torch.eye(cosine.shape[-1], dtype=cosine.dtype, device=cosine.device)
    return identity.expand_as(cosine).clone(), torch.zeros_like(cosine, dtype=torch.bool)


def _tolerance(cosine: Tensor) -> float:
    # Two vectors made orthogonal have a product of +-rounding error: not a conflict.
    return 16 * cosine.shape[-1] * torch.finfo(cosine.dtype).eps


def _sum(cosine: Tensor, order: Sequence[int]) -> tuple[Tensor, Tensor]:
    return _start(cosine)


def _pcgrad(cosine: Tensor, order: Sequence[int]) -> tuple[Tensor, Tensor]:
    current, projected = _start(cosine)  # rows: the unit gradients, as combinations of the original ones
    for j in order:
        product = (current * cosine[..., j].unsqueeze(-2)).sum(-1)  # <g_i current, g_j original> for every i  [..., T]
        others = torch.arange(cosine.shape[-1], device=cosine.device) != j
        conflict = (product < -_tolerance(cosine)) & others
        current[..., j] -= torch.where(conflict, product, 0.0)
        projected[..., j] = conflict
    return current, projected


def _pcgrad_inplace(cosine: Tensor, order: Sequence[int]) -> tuple[Tensor, Tensor]:
    current, projected = _start(cosine)
    tolerance = _tolerance(cosine)
    for i in order:
        for j in order:
            if i == j:
                continue
            towards = (cosine @ current[..., j, :].unsqueeze(-1)).squeeze(-1)  # K c_j  [..., T]
            product = (current[..., i, :] * towards).sum(-1)
            square = (current[..., j, :] * towards).sum(-1)  # |g_j current|^2, of a unit vector before
            conflict = (product < -tolerance) & (square > tolerance)
            step = torch.where(conflict, product / square.clamp(min=tolerance), 0.0)
            current[..., i, :] -= step.unsqueeze(-1) * current[..., j, :]
            projected[..., i, j] = conflict
    return current, projected


_RULES = {"sum": _sum, "pcgrad": _pcgrad, "pcgrad-inplace": _pcgrad_inplace}
