"""The cosine of two tasks' mean gradients, and what is known of it; numpy, a row a pair.

The estimand. With g_i the gradient of a batch of task i and u_i = g_i / |g_i|, the cosine of the means over batches,

    rho_ij = <E u_i, E u_j> / (|E u_i| |E u_j|) = product_ij / sqrt(power_i power_j).

Batch noise is in neither: the tasks' batches are drawn apart, so the mean of <u_i, u_j> estimates the product; two
halves a, b of one batch are drawn apart, so r = mean <a, b> / ((|a|^2 + |b|^2) / 2) tells what they share, and 2 r /
(1 + r) what whole batches do (Spearman and Brown). Gradients of length 1 count alike: with the lengths that they came
with, a few outlying batches decide, and pull the ratio to 0. Sign and strength come from this one number. It is too
large by about 1 / 2d of itself, where noise has d dimensions. The mean cosine of single batches has its sign, and is
smaller by as much as batches are noise: it is what a rule saw.

Tasks that draw the same texts share their noise. Of them the cosine of the batches itself is told: their power is 1.

The interval is that of Fieller: all rho for which D(rho) = product - rho sqrt(power_i power_j) is within t errors of 0.
The errors are those of the jackknife over `groups_of` steps that follow each other, as neighbours are alike. Where the
power is not clear of 0, the interval is all of [-1, 1], or one side of it: the sign is known and the strength is not.

`python benchmarks/judge.py` measures how often it covers, on gradients whose cosine is known.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from analysis.statistics.series import FEWEST_STEPS, Floats, Integers, row_means
from ortho_lora.record.jackknife import Cosines, leaving_out

_FEWEST_GROUPS, _MOST_GROUPS = 3, 16


def of_steps(cosine: Floats, half_i: Floats, half_j: Floats, *, shares_texts: NDArray[np.bool_]) -> Cosines:
    """From what is measured of the batches of each step; NaN with fewer than `FEWEST_STEPS` cosines.

    Args:
        cosine: of the two batches' gradients, [rows, steps]; NaN: not measured.
        half_i, half_j: r of the two halves of each task's batch, as in the module's text, [rows, steps].
        shares_texts: rows whose tasks draw the same texts.
    """
    measured = ~np.isnan(cosine)
    steps = measured.sum(axis=1)
    groups = groups_of(steps)
    place = np.cumsum(measured, axis=1) - 1  # of a step among its row's
    group = place * groups[:, None] // np.maximum(steps, 1)[:, None]
    most = int(groups.max(initial=0))
    used = measured & (groups > 0)[:, None]
    sums = [_group_means(values, group, used & ~np.isnan(values), most) for values in (cosine, half_i, half_j)]
    (product, out), *powers = sums
    there = np.arange(most) < groups[:, None]
    shared = shares_texts[:, None]
    known = [(np.where(shares_texts, 1.0, _whole(r)), np.where(shared, 1.0, _whole(left))) for r, left in powers]
    (power_i, out_i), (power_j, out_j) = known
    out = np.where(there, out, np.nan)
    return leaving_out(product, power_i, power_j, (out, out_i, out_j), np.where(groups > 1, groups - 1.0, np.nan))


def groups_of(steps: Integers) -> Integers:
    """Into how many groups so many steps are put: 3 to 16, three quarters of the root."""
    few = np.clip(np.rint(0.75 * np.sqrt(steps)), _FEWEST_GROUPS, _MOST_GROUPS).astype(np.int64)
    return np.where(steps < FEWEST_STEPS, 0, few)


def pooled(windows: Sequence[Cosines]) -> list[Cosines]:
    """Each with the mean (co)variances of all, of the same rows: what a few steps tell of their error is little."""
    names = ("product_variance", "covariance", "scale_variance")
    means = {name: row_means(np.stack([getattr(one, name) for one in windows], axis=1)) for name in names}
    freedom = np.nansum([one.freedom for one in windows], axis=0)
    return [
        replace(
            one,
            freedom=np.where(np.isnan(one.freedom), np.nan, freedom),
            **{name: np.where(np.isnan(one.product_variance), np.nan, mean) for name, mean in means.items()},
        )
        for one in windows
    ]


def _whole(r: Floats) -> Floats:
    """What whole batches share, from what their halves do; below 0 where these do not agree."""
    return np.divide(2 * r, 1 + r, out=np.full(r.shape, np.nan), where=r > -1)


def _group_means(values: Floats, group: Integers, used: NDArray[np.bool_], groups: int) -> tuple[Floats, Floats]:
    """Mean of each row's used values, [rows], and of those outside each group, [rows, groups]; NaN: there are none."""
    rows = len(values)
    cell = (np.arange(rows)[:, None] * groups + group)[used]
    # The cast is for no rows at all, where bincount counts in integers.
    sums = np.bincount(cell, values[used], minlength=rows * groups).reshape(rows, groups).astype(np.float64)
    counts = np.bincount(cell, minlength=rows * groups).reshape(rows, groups)
    total, count = sums.sum(axis=1), counts.sum(axis=1)
    mean = np.divide(total, count, out=np.full(rows, np.nan), where=count > 0)
    rest, number = total[:, None] - sums, count[:, None] - counts
    return mean, np.divide(rest, number, out=np.full((rows, groups), np.nan), where=number > 0)
