"""Rules: from a Gram matrix to the coefficients of a linear combination.

Every rule replaces task i's gradient by `g'_i = sum_j C_ij g_j` with `C` computed from `K[i, j] = <g_i, g_j>` alone,
batched over any leading dimensions. No rule of this module branches on values, so none waits for the device; those of
`ortho_lora.surgery.weightings` call solvers on the host.
"""

from collections.abc import Callable, Sequence
from itertools import permutations
from math import factorial
from typing import NamedTuple

import torch
from torch import Tensor

from ortho_lora.errors import OrthoLoraError
from ortho_lora.surgery.gram import cosines, group_sums, measured_norms
from ortho_lora.surgery.methods import LARGEST_MEAN, RULES
from ortho_lora.surgery.weightings import WEIGHTINGS, weigh

# The moving average of the cosines in GradVac, as in its paper's experiments.
GRADVAC_BETA = 0.01


class Projection(NamedTuple):
    """What a rule makes of T tasks' gradients.

    Attributes:
        coefficients: C `[..., T, T]`, `g'_i = sum_j C_ij g_j`.
        projected: bool `[..., T, T]`, whether i was changed against j, in any of the orders; False on the diagonal
            and for weightings, which only lengthen or shorten.
        state: what the rule carries to the next step (`gradvac`: target cosines `[..., T, T]`), else None.
    """

    coefficients: Tensor
    projected: Tensor
    state: Tensor | None


def coefficients(gram: Tensor, rule: str = "pcgrad", orders: Sequence[Sequence[int]] | None = None) -> Tensor:
    """The coefficients C `[..., T, T]` of `project`, by default with the tasks in their own order.

    >>> coefficients(torch.tensor([[1.0, -1.0], [-1.0, 2.0]]))
    tensor([[1.0000, 0.5000],
            [1.0000, 1.0000]])
    """
    return project(gram, rule, [range(gram.shape[-1])] if orders is None else orders).coefficients


def project(
    gram: Tensor,
    rule: str,
    orders: Sequence[Sequence[int]],
    *,
    present: Tensor | None = None,
    state: Tensor | None = None,
) -> Projection:
    """Apply a rule to Gram matrices.

    A gradient that is zero, not `present` or not finite is neither changed nor has others changed against it.

    Args:
        gram: `[..., T, T]`, symmetric positive semi-definite, float32 or float64.
        rule: `sum`: nothing is changed.
            `pcgrad`: whenever `<g_i, g_j> < 0`, `g_i -= <g_i, g_j> / |g_j|^2 g_j` with the ORIGINAL `g_j`
            (PCGrad, arXiv 2001.06782, Algorithm 1).
            `pcgrad-inplace`: the same with the current `g_j`, so that later tasks meet gradients that were projected
            already (Ortho-LoRA, arXiv 2601.09684, Algorithm 1 as printed).
            `gradvac`: whenever the cosine of `g_i` and the original `g_j` is below its moving average, `g_i` is
            turned towards `g_j` until it is reached (Gradient Vaccine, arXiv 2010.05874, eq. 4 and Algorithm 1). The
            paper draws an order for every i; here i, like every rule's, take the same one.
            One of `ortho_lora.surgery.weightings.WEIGHTINGS`: `C = diag(w)`.
        orders: permutations of 0..T-1, orders in which tasks are taken, as i and as j. With more than one, the
            coefficients (and the state) are the means over them. Weightings know no order.
        present: bool, broadcast to `[..., T]`, the tasks that are part of the step; by default all.
        state: `[..., T, T]`, the `state` of the step before; None at the first.
    """
    _check(gram, rule, orders, state)
    if rule in WEIGHTINGS:
        weights = weigh(gram, rule, present)
        return Projection(torch.diag_embed(weights), torch.zeros_like(gram, dtype=torch.bool), None)

    # Rules see cosines only: they are equivariant to the scale of each task, and squares of tiny norms would vanish.
    cosine = cosines(gram, present)
    diagonal = torch.eye(gram.shape[-1], dtype=torch.bool, device=gram.device)
    pairs = cosine.isfinite() & ~diagonal
    target = torch.zeros_like(gram) if state is None else state.to(gram)

    there, back = _permutations(orders, gram.device)
    matrices = (cosine.nan_to_num(0.0), pairs, target)
    unit, projected, target = _RULES[rule](*(_take(matrix.flatten(-2), there) for matrix in matrices))
    unit, projected, target = (_take(matrix.flatten(-3), back) for matrix in (unit, projected, target))

    length = measured_norms(gram, present)
    unit = unit.mean(-3)
    scaled = (unit * length.unsqueeze(-1) / length.unsqueeze(-2)).nan_to_num(0.0)
    return Projection(
        coefficients=torch.where(diagonal, unit, scaled),
        projected=projected.any(-3),
        state=target.mean(-3) if rule in _STATEFUL else None,
    )


def project_groups(
    gram: Tensor,
    groups: Tensor,
    count: int,
    rule: str,
    orders: Sequence[Sequence[int]],
    *,
    state: Tensor | None = None,
) -> Projection:
    """Apply a rule once for each group of blocks, to the group's summed Gram matrix.

    Args:
        gram: `[N, T, T]` of N blocks.
        groups: int64 `[N]` on the same device, the group of each block, or -1: left alone.
        count: number of groups.
        rule, orders: as in `project`.
        state: `[count, T, T]`, the `state` of the step before.

    Returns:
        Coefficients and projected `[N, T, T]`, state `[count, T, T]`.
    """
    found = project(group_sums(gram, groups, count), rule, orders, state=state)
    alone = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device).unsqueeze(0)
    by_group = torch.cat([alone, found.coefficients])  # row 0: the blocks of no group
    projected = torch.cat([torch.zeros_like(alone, dtype=torch.bool), found.projected])
    return Projection(by_group[groups + 1], projected[groups + 1], found.state)


def check_rule(rule: str) -> None:
    """Raise OrthoLoraError where there is no such rule, or a package that it needs is missing."""
    project(torch.eye(2), rule, [[0, 1]])


def effective_weights(coefficients: Tensor) -> Tensor:
    """Weights `w = 1^T C`, `[..., T]`: the update is `sum_j w_j g_j`."""
    return coefficients.sum(-2)


def all_orders(tasks: int) -> list[tuple[int, ...]]:
    """Every order of so many tasks.

    >>> all_orders(2)
    [(0, 1), (1, 0)]
    """
    if tasks > LARGEST_MEAN:
        raise OrthoLoraError(
            f"order: the mean over all orders expects at most {LARGEST_MEAN} tasks, "
            f"found {tasks} ({factorial(tasks):,} orders); use the order 'random' or 'fixed'."
        )
    return list(permutations(range(tasks)))


def _check(gram: Tensor, rule: str, orders: Sequence[Sequence[int]], state: Tensor | None) -> None:
    if gram.ndim < 2 or gram.shape[-1] != gram.shape[-2] or gram.dtype not in (torch.float32, torch.float64):
        raise OrthoLoraError(
            f"gram: expected float32 or float64 of shape [..., T, T], found {gram.dtype} of shape {list(gram.shape)}; "
            "make it with ortho_lora.surgery.gram.gram."
        )
    if rule not in RULES:
        raise OrthoLoraError(f"rule: expected one of {', '.join(RULES)}, found {rule!r}.")
    tasks = list(range(gram.shape[-1]))
    if not orders:
        raise OrthoLoraError("orders: expected at least one permutation of the tasks, found none.")
    for order in orders:
        if sorted(order) != tasks:
            raise OrthoLoraError(f"orders: expected permutations of 0..{tasks[-1]}, found {list(order)}.")
    if state is not None and state.shape != gram.shape:
        raise OrthoLoraError(
            f"state: expected the shape of the Gram matrices, {list(gram.shape)}, found {list(state.shape)}; "
            "give None where tasks or groups have changed."
        )


def _permutations(orders: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Where the entries of matrices with tasks as in each of O orders are found, and where to find them back.

    Returns:
        int64 `[O, T, T]` each: places in `[T, T]`, and places in `[O, T, T]`, both flattened.
    """
    order = torch.tensor([list(order) for order in orders])  # [O, T]
    inverse = order.argsort(-1)
    count, tasks = order.shape
    there = order[:, :, None] * tasks + order[:, None, :]
    back = (torch.arange(count)[:, None, None] * tasks + inverse[:, :, None]) * tasks + inverse[:, None, :]
    # A blocking copy would make the host wait until the device has done all that was queued before it.
    return there.to(device, non_blocking=True), back.to(device, non_blocking=True)


def _take(entries: Tensor, places: Tensor) -> Tensor:
    """Of flattened matrices `[..., entries]`, those at `places` `[O, T, T]`: `[..., O, T, T]`."""
    return entries.index_select(-1, places.flatten()).unflatten(-1, places.shape)


# A rule on unit vectors takes the tasks from first to last: from cosines, pairs (bool: where a cosine is known; it is 0
# elsewhere) and targets it makes C, projected and the next targets, all [..., T, T].
_Found = tuple[Tensor, Tensor, Tensor]


def _identity(cosine: Tensor) -> Tensor:
    return torch.eye(cosine.shape[-1], dtype=cosine.dtype, device=cosine.device)


def _tolerance(cosine: Tensor) -> float:
    # Two vectors made orthogonal have a product of +-rounding error: not a conflict.
    return 16 * cosine.shape[-1] * torch.finfo(cosine.dtype).eps


def _sum(cosine: Tensor, pairs: Tensor, target: Tensor) -> _Found:
    return _identity(cosine).expand_as(cosine), torch.zeros_like(pairs), target


def _pcgrad(cosine: Tensor, pairs: Tensor, target: Tensor) -> _Found:
    tolerance = _tolerance(cosine)
    added = torch.zeros_like(cosine)  # C - 1: what was added to each task, of each
    for j in range(cosine.shape[-1]):
        product = _products(cosine, added, j)
        conflict = (product < -tolerance) & pairs[..., j]
        added[..., j] = torch.where(conflict, -product, 0.0)
    return added + _identity(cosine), added != 0, target


def _gradvac(cosine: Tensor, pairs: Tensor, target: Tensor) -> _Found:
    tolerance = _tolerance(cosine)
    added = torch.zeros_like(cosine)
    square = torch.ones_like(cosine[..., 0])  # |g_i current|^2  [..., T]
    reached = target.clone()
    for j in range(cosine.shape[-1]):
        product, goal = _products(cosine, added, j), target[..., j]
        measured = pairs[..., j] & (square > tolerance)
        length = square.clamp(min=tolerance).sqrt()
        now = (product / length).clamp(-1, 1)  # phi_ij
        tangent = goal * ((1 - now.square()) / (1 - goal.square()).clamp(min=tolerance)).sqrt()
        step = torch.where(measured & (now < goal - tolerance), length * (tangent - now), 0.0)  # eq. 4, |g_j| = 1
        added[..., j] = step
        square = square + step * (2 * product + step)
        reached[..., j] = torch.where(measured, torch.lerp(goal, now, GRADVAC_BETA), goal)
    return added + _identity(cosine), added != 0, reached


def _pcgrad_inplace(cosine: Tensor, pairs: Tensor, target: Tensor) -> _Found:
    tasks, tolerance = cosine.shape[-1], _tolerance(cosine)
    current = _identity(cosine).expand_as(cosine).clone()
    projected = torch.zeros_like(pairs)
    for i, j in permutations(range(tasks), 2):
        towards = (cosine * current[..., None, j, :]).sum(-1)  # <g_k original, g_j current> for every k  [..., T]
        product = (current[..., i, :] * towards).sum(-1)
        square = (current[..., j, :] * towards).sum(-1)  # |g_j current|^2, of a unit vector before
        conflict = (product < -tolerance) & (square > tolerance)
        step = torch.where(conflict, product / square.clamp(min=tolerance), 0.0)
        current[..., i, :] -= step.unsqueeze(-1) * current[..., j, :]
        projected[..., i, j] = conflict
    return current, projected, target


def _products(cosine: Tensor, added: Tensor, j: int) -> Tensor:
    """`<g_i current, g_j original>` for every i, `[..., T]`, when only the tasks before j were added to any."""
    return cosine[..., j] + (added[..., :j] * cosine[..., None, j, :j]).sum(-1)


_RULES: dict[str, Callable[[Tensor, Tensor, Tensor], _Found]] = {
    "sum": _sum,
    "pcgrad": _pcgrad,
    "pcgrad-inplace": _pcgrad_inplace,
    "gradvac": _gradvac,
}
_STATEFUL = frozenset({"gradvac"})
