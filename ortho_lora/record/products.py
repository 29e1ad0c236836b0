"""Products of gradients across groups of texts, and the same with each group left out; numpy.

With G_i^k the mean gradient of task i over its batches of group k's texts, and K_i the groups in which it has any,

    U_ij = sum of <G_i^k, G_j^l> over k in K_i, l in K_j, k != l, divided by their number

is unbiased for the product of the tasks' true gradients, i = j included: no text stands on both sides of a product.
Where the two sides have other texts (held-out ones against those of training) k = l counts too. Products are linear
in blocks; so are those without a group, which is all that the error of a sum of blocks needs.
"""

import numpy as np
from numpy.typing import NDArray

from ortho_lora.record.jackknife import Cosines, Effects, Floats, effects, leaving_out

FEWEST_GROUPS = 8
"""Of a task: with fewer there is too little text to tell errors from."""


def across_groups(cross: Floats, back: Floats, same: Floats, has: tuple[Floats, Floats], *, apart: bool) -> Floats:
    """`U`, and `U` without each group, [1 + m, ..., S, T]; NaN where one of the two has fewer than 8 groups.

    Args:
        cross: <G_i^k, sum_l G_j^l>, [m, ..., S, T]; zero gradients where a task has no text in a group.
        back: <sum_l G_i^l, G_j^k>, likewise.
        same: <G_i^k, G_j^k>, likewise.
        has: 1 where i, and where j, has texts in a group, else 0: [m, S] and [m, T].
        apart: the two sides have other texts, so that products within a group count too.
    """
    groups, middle = len(cross), (1,) * (cross.ndim - 3)
    has_i = has[0].reshape(groups, *middle, -1, 1)  # [m, ..., S, 1]
    has_j = has[1].reshape(groups, *middle, 1, -1)
    number_i, number_j, both = has_i.sum(0), has_j.sum(0), has_i * has_j
    total, count = cross.sum(0), number_i * number_j
    totals = np.concatenate([total[None], total - cross - back + same])
    counts = np.concatenate([count[None], (number_i - has_i) * (number_j - has_j)])
    if not apart:
        totals -= _without(same)
        counts = counts - _without(both)
    enough = np.minimum(number_i, number_j) >= FEWEST_GROUPS
    return np.divide(totals, counts, out=np.full(totals.shape, np.nan), where=enough & (counts > 0))


def of_means(one: Floats, other: Floats | None = None) -> Floats:
    """`across_groups` of group means [m, S, D], with themselves or with other texts' [m, T, D]; NaN: no text there."""
    two = one if other is None else other
    (first, second), has = (
        [np.nan_to_num(of) for of in (one, two)],
        [(~np.isnan(of[..., 0])) * 1.0 for of in (one, two)],
    )
    cross, back = (
        np.einsum("ksd,td->kst", first, second.sum(0), optimize=True),
        np.einsum("sd,ktd->kst", first.sum(0), second, optimize=True),
    )
    same = np.einsum("ksd,ktd->kst", first, second, optimize=True)
    return across_groups(cross, back, same, (has[0], has[1]), apart=other is not None)


def cosines(products: Floats, groups: NDArray[np.integer]) -> Cosines:
    """The cosines of all T x T pairs, row by row, [... * T * T].

    Args:
        products: of `across_groups`, summed over whatever blocks are asked for, [1 + m, ..., T, T].
        groups: in which each task has texts, [T].
    """
    power = np.diagonal(products, axis1=-2, axis2=-1)  # [1 + m, ..., T]
    sides = products, power[..., :, None], power[..., None, :]
    product, power_i, power_j = (np.broadcast_to(of, products.shape).reshape(len(products), -1).T for of in sides)
    left_out = product[:, 1:], power_i[:, 1:], power_j[:, 1:]
    cells = products[0].size // len(groups) ** 2
    return leaving_out(product[:, 0], power_i[:, 0], power_j[:, 0], left_out, np.tile(freedom(groups, groups), cells))


def transfers(
    products: Floats, learning_rate: float, groups: tuple[NDArray[np.integer], NDArray[np.integer]]
) -> Effects:
    """`-learning_rate <h_i, P g_j>` of all ordered pairs, row by row, [S * T]: what a step for j does to i's loss.

    Args:
        products: [1 + m, S, T].
        learning_rate: of the step.
        groups: in which each of the S, and of the T, has texts.
    """
    rows = -learning_rate * products.reshape(len(products), -1).T
    return effects(rows[:, 0], rows[:, 1:], freedom(*groups))


def freedom(one: NDArray[np.integer], other: NDArray[np.integer]) -> Floats:
    """Degrees of freedom of the errors of all pairs, row by row: one less than the groups of whoever has fewer."""
    least = np.minimum(one[:, None], other[None]).ravel().astype(np.float64)
    return np.where(least >= FEWEST_GROUPS, least - 1, np.nan)


def _without(values: Floats) -> Floats:
    """The sum over groups, and the same without each, [1 + m, ...]."""
    total = values.sum(0)
    return np.concatenate([total[None], total - values])
