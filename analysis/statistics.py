"""Means and errors of series that are correlated from step to step. Pure numpy, a row a series, NaN: not measured."""

import numpy as np
from numpy.typing import NDArray

_MOST_BATCHES = 16
FEWEST_STEPS = 8
"""With fewer measured steps there is no standard error."""

Floats = NDArray[np.float64]

# 97.5% quantile of Student's t by degrees of freedom: of 8 to 16 batch means.
_T_QUANTILE = dict(zip(range(7, 16), (2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131), strict=True))


def batch_sums(series: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """Sums over consecutive batches of each row's measured values.

    Neighbouring steps share most of their parameters, so their values are no independent draws; those of long batches
    nearly are. A row of n values makes n // 2 batches, but at least 8 and at most 16; none where n < 8.

    Args:
        series: [rows, steps]

    Returns:
        The sums, and the numbers of values in them, [rows, 16] each; no values from the row's count of batches on.
    """
    measured = ~np.isnan(series)
    values = measured.sum(axis=1)  # [rows]
    batches = np.where(values < FEWEST_STEPS, 0, np.clip(values // 2, 8, _MOST_BATCHES))
    place = np.cumsum(measured, axis=1) - 1  # of a value among its row's
    batch = place * batches[:, None] // np.maximum(values, 1)[:, None]
    used = measured & (batches > 0)[:, None]
    cell = (np.arange(len(series))[:, None] * _MOST_BATCHES + batch)[used]
    size, shape = len(series) * _MOST_BATCHES, (len(series), _MOST_BATCHES)
    # The cast is for no rows at all, where bincount counts in integers.
    sums = np.bincount(cell, weights=series[used], minlength=size).reshape(shape).astype(np.float64)
    return sums, np.bincount(cell, minlength=size).reshape(shape).astype(np.int64)


def batch_means(series: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """Means of the batches of `batch_sums`, [rows, 16], NaN where there is none, and the count of batches, [rows]."""
    sums, counts = batch_sums(series)
    means = np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
    return means, (counts > 0).sum(axis=1)


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
    mean, half_width = row_means(series), _quantiles(batches) * standard_error(series)
    return mean - half_width, mean + half_width


def clear_mean(series: Floats) -> Floats:
    """Mean of each row where it is clearly positive, [rows]: by more than two standard errors; else NaN."""
    mean = row_means(series)
    return np.where(mean > 2 * standard_error(series), mean, np.nan)


def cosine_interval(product: Floats, half_i: Floats, half_j: Floats) -> tuple[Floats, Floats]:
    """Low and high end of the 95% interval of sum product / sqrt(sum half_i sum half_j), [rows] each.

    By the jackknife: the ratio again without each batch of steps in turn. NaN where one of these has no square root.

    Args:
        product: [rows, steps], measured in the same steps as the others
        half_i: [rows, steps]
        half_j: [rows, steps]
    """
    (products, counts), (halves_i, _), (halves_j, _) = (batch_sums(series) for series in (product, half_i, half_j))
    left_out = counts > 0
    batches = left_out.sum(axis=1)
    without = _ratio(*(sums.sum(axis=1, keepdims=True) - sums for sums in (products, halves_i, halves_j)))
    without = np.where(left_out, without, 0.0)
    known = np.maximum(batches, 1)
    spread = np.where(left_out, without - (without.sum(axis=1) / known)[:, None], 0.0)
    error = np.sqrt((batches - 1).clip(0) / known * (spread**2).sum(axis=1))
    whole = _ratio(products.sum(axis=1), halves_i.sum(axis=1), halves_j.sum(axis=1))
    half_width = _quantiles(batches) * error
    return whole - half_width, whole + half_width


def cosine_of_sums(product: Floats, half_i: Floats, half_j: Floats) -> Floats:
    """Sum product / sqrt(sum half_i sum half_j) of each row, [rows]; NaN where a half's sum is not positive."""
    return _ratio(*(np.nansum(series, axis=1) for series in (product, half_i, half_j)))


def _ratio(product: Floats, half_i: Floats, half_j: Floats) -> Floats:
    power = np.where((half_i > 0) & (half_j > 0), half_i * half_j, np.nan)
    ratio: Floats = product / np.sqrt(power)
    return ratio


def _quantiles(batches: NDArray[np.int64]) -> Floats:
    """Student's t for the mean of this many batches; NaN for none."""
    return np.array([_T_QUANTILE.get(count - 1, np.nan) for count in batches.tolist()], dtype=np.float64)
