"""Means and errors of series that are correlated from step to step. Pure numpy, a row a series, NaN: not measured."""

import numpy as np
from numpy.typing import NDArray

FEWEST_STEPS = 8
"""With fewer measured steps there is no standard error."""

Floats = NDArray[np.float64]

# 97.5% quantile of Student's t by degrees of freedom: of 8 to 16 batch means.
_T_QUANTILE = dict(zip(range(7, 16), (2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131), strict=True))


def batch_means(series: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """Means of consecutive batches of each row's measured values.

    Neighbouring steps share most of their parameters, so their values are no independent draws; means of long batches
    nearly are. A row of n values makes n // 2 batches, but at least 8 and at most 16; none where n < 8.

    Args:
        series: [rows, steps]

    Returns:
        The means, [rows, 16], NaN from the row's count of batches on, and that count, [rows].
    """
    measured = ~np.isnan(series)
    values = measured.sum(axis=1)  # [rows]
    batches = np.where(values < FEWEST_STEPS, 0, np.clip(values // 2, 8, 16))
    place = np.cumsum(measured, axis=1) - 1  # of a value among its row's
    batch = place * batches[:, None] // np.maximum(values, 1)[:, None]
    used = measured & (batches > 0)[:, None]
    cell = (np.arange(len(series))[:, None] * 16 + batch)[used]
    shape = (len(series), 16)
    sums = np.bincount(cell, weights=series[used], minlength=len(series) * 16).reshape(shape)
    counts = np.bincount(cell, minlength=len(series) * 16).reshape(shape)
    means = np.divide(sums, counts, out=np.full(shape, np.nan), where=counts > 0)
    return means, batches


def standard_error(series: Floats) -> Floats:
    """Standard error of the mean of each row, [rows], by batch means; NaN with fewer than 8 measured values."""
    means, batches = batch_means(series)
    enough = batches > 0
    error = np.full(len(series), np.nan)
    error[enough] = np.nanstd(means[enough], axis=1, ddof=1) / np.sqrt(batches[enough])
    return error


def row_means(series: Floats) -> Floats:
    """Mean of each row's measured values, [rows]; NaN where there are none."""
    measured = ~np.isnan(series)
    counts = measured.sum(axis=1)
    sums = np.where(measured, series, 0.0).sum(axis=1)
    means: Floats = np.divide(sums, counts, out=np.full(len(series), np.nan), where=counts > 0)
    return means


def interval(series: Floats) -> tuple[Floats, Floats]:
    """Low and high end of the 95% interval of each row's mean, [rows] each, by batch means and Student's t."""
    _, batches = batch_means(series)
    quantile = np.array([_T_QUANTILE.get(count - 1, np.nan) for count in batches.tolist()])
    mean, half_width = row_means(series), quantile * standard_error(series)
    return mean - half_width, mean + half_width


def clear_mean(series: Floats) -> Floats:
    """Mean of each row where it is clearly positive, [rows]: by more than two standard errors; else NaN."""
    mean = row_means(series)
    return np.where(mean > 2 * standard_error(series), mean, np.nan)
