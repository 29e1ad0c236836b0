"""The rules of `ortho_lora.surgery.projection` in numpy, for records: from Gram matrices to coefficients.

That module needs torch, which `analysis` does without; a test holds the two together.
"""

from collections.abc import Callable
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.statistics.series import Floats

RULES = ("sum", "pcgrad", "pcgrad-inplace", "gradvac")
SCOPES = ("block", "module", "model")

_BETA = 0.01  # gradvac's moving average, as in `ortho_lora.surgery.projection`
_RESIDUE = 1e-6  # share of a squared length below which what is left of a gradient is rounding error
_TINY = np.finfo(np.float64).tiny
_EPS = np.finfo(np.float64).eps

Flags = NDArray[np.bool_]
Places = NDArray[np.int64]


def project(
    gram: Floats, rule: str, orders: Places, state: Floats | None = None
) -> tuple[Floats, Flags, Floats | None]:
    """Apply a rule to the Gram matrices of S consecutive steps, G groups of blocks each.

    Args:
        gram: [S, G, T, T]
        rule: one of `RULES`.
        orders: [O, S or 1, T], the tasks as they are taken; the mean over O is made.
        state: [G, T, T], gradvac's target cosines before the first step; None: zeros.

    Returns:
        Coefficients C [S, G, T, T], `g'_i = sum_j C_ij g_j`; whether i was changed against j, in any of the orders;
        the state after the last step, None but for gradvac.
    """
    tasks = gram.shape[-1]
    squares = np.diagonal(gram, axis1=-2, axis2=-1)
    length = np.sqrt(np.where(squares >= _TINY, squares, np.nan))
    cosine = gram / length[..., :, None] / length[..., None, :]
    pairs = np.isfinite(cosine) & ~np.eye(tasks, dtype=bool)
    cosine = np.where(np.isfinite(cosine), np.clip(cosine, -1, 1), 0.0)
    cosine[..., range(tasks), range(tasks)] = np.isfinite(length)

    unit, projected = np.zeros(gram.shape), np.zeros(gram.shape, dtype=bool)
    if rule == "gradvac":
        targets = np.zeros(gram.shape[1:]) if state is None else state
        for s in range(len(gram)):  # each step's targets come from the one before
            following = np.zeros_like(targets)
            for one in orders[:, s if orders.shape[1] > 1 else 0]:
                there, back = _places(one, one.argsort())
                made, changed, target = _gradvac(cosine[s][there], pairs[s][there], targets[there])
                unit[s] += made[back] / len(orders)
                projected[s] |= changed[back]
                following += target[back] / len(orders)
            targets = following
        state = targets
    else:
        for one in orders:  # [S, T] or [1, T]
            there, back = one[:, None, :], one.argsort(axis=-1)[:, None, :]
            made, changed = _RULES[rule](_permuted(cosine, there), _permuted(pairs, there))
            unit += _permuted(made, back) / len(orders)
            projected |= _permuted(changed, back)
        state = None
    scaled = np.nan_to_num(unit * length[..., :, None] / length[..., None, :])
    coefficients = np.where(np.eye(tasks, dtype=bool), unit, scaled)
    return coefficients, projected, state


def after(gram: Floats, coefficients: Floats) -> tuple[Floats, Floats]:
    """Norms [..., T] and cosines [..., T, T] of the gradients C g; a cosine is NaN where only rounding is left."""
    changed = coefficients @ gram @ np.swapaxes(coefficients, -1, -2)
    squares = np.diagonal(changed, axis1=-2, axis2=-1).clip(min=0)
    terms = (coefficients**2 * np.diagonal(gram, axis1=-2, axis2=-1)[..., None, :]).sum(axis=-1)
    norms = np.sqrt(squares)
    directed = np.where((squares > _RESIDUE * terms) & (squares >= _TINY), norms, np.nan)
    return norms, np.clip(changed / directed[..., :, None] / directed[..., None, :], -1, 1)


def _permuted(matrices: NDArray[Any], places: Places) -> NDArray[Any]:
    """Rows and columns of `[S, N, T, T]` in the order of `places`, [S or 1, 1, T]."""
    rows = np.take_along_axis(matrices, places[..., :, None], axis=-2)
    return np.take_along_axis(rows, places[..., None, :], axis=-1)


def _places(order: Places, inverse: Places) -> tuple[Any, Any]:
    return (..., order[:, None], order[None]), (..., inverse[:, None], inverse[None])


def _products(cosine: Floats, added: Floats, j: int) -> Floats:
    """<g_i current, g_j original> for every i, [..., T], when only the tasks before j were added to any."""
    found: Floats = cosine[..., j] + (added[..., :j] * cosine[..., None, j, :j]).sum(axis=-1)
    return found


def _sum(cosine: Floats, pairs: Flags) -> tuple[Floats, Flags]:
    return np.broadcast_to(np.eye(cosine.shape[-1]), cosine.shape), np.zeros_like(pairs)


def _pcgrad(cosine: Floats, pairs: Flags) -> tuple[Floats, Flags]:
    tolerance = 16 * cosine.shape[-1] * _EPS
    added = np.zeros_like(cosine)  # C - 1: what was added to each task, of each
    for j in range(cosine.shape[-1]):
        product = _products(cosine, added, j)
        added[..., j] = np.where((product < -tolerance) & pairs[..., j], -product, 0.0)
    return added + np.eye(cosine.shape[-1]), added != 0


def _pcgrad_inplace(cosine: Floats, pairs: Flags) -> tuple[Floats, Flags]:
    tasks = cosine.shape[-1]
    tolerance = 16 * tasks * _EPS
    current = np.broadcast_to(np.eye(tasks), cosine.shape).copy()
    projected = np.zeros_like(pairs)
    for i, j in permutations(range(tasks), 2):
        towards = (cosine * current[..., None, j, :]).sum(axis=-1)  # <g_k original, g_j current> for every k
        product, square = ((current[..., k, :] * towards).sum(axis=-1) for k in (i, j))
        # Of a gradient that was all but projected away, the record's 32 bits leave no direction.
        conflict = (product < -tolerance) & (square > _RESIDUE)
        step = np.where(conflict, product / np.maximum(square, _RESIDUE), 0.0)
        current[..., i, :] -= step[..., None] * current[..., j, :]
        projected[..., i, j] = conflict
    return current, projected


def _gradvac(cosine: Floats, pairs: Flags, target: Floats) -> tuple[Floats, Flags, Floats]:
    tolerance = 16 * cosine.shape[-1] * _EPS
    added, square, reached = np.zeros_like(cosine), np.ones(cosine.shape[:-1]), target.copy()
    for j in range(cosine.shape[-1]):
        product, goal = _products(cosine, added, j), target[..., j]
        measured = pairs[..., j] & (square > tolerance)
        length = np.sqrt(np.maximum(square, tolerance))
        now = np.clip(product / length, -1, 1)
        tangent = goal * np.sqrt((1 - now**2) / np.maximum(1 - goal**2, tolerance))
        step = np.where(measured & (now < goal - tolerance), length * (tangent - now), 0.0)
        added[..., j] = step
        square = square + step * (2 * product + step)
        reached[..., j] = np.where(measured, goal + _BETA * (now - goal), goal)
    return added + np.eye(cosine.shape[-1]), added != 0, reached


_RULES: dict[str, Callable[[Floats, Flags], tuple[Floats, Flags]]] = {
    "sum": _sum,
    "pcgrad": _pcgrad,
    "pcgrad-inplace": _pcgrad_inplace,
}
