"""Means, rates and ratios of series that are correlated from step to step, with intervals; numpy, a row a series.

NaN says "not measured", in a series as in a result. All intervals are for the level 95% unless another is asked for.

How the error of a mean is told. Neighbouring steps share most of their parameters, so n values are worth fewer
independent ones. The variance of the mean is that between the means of 8 to 16 consecutive batches over their number,
*batch means*. Batches of a short series are themselves correlated, which makes it too small; what it lacks is computed
from correlations that fade geometrically, r_k = r_1 f^(k - 1) as of noise on top of a slower course, with r_1 and r_2
corrected for their bias (Marriott and Pope 1954: -(1 + 3r) / n), and f = r_2 / r_1 where r_1 is more than chance, else
r_1. Quantiles are Student's, with n_eff - 1 degrees of freedom, at most those of the batches.

The effective sample size is n_eff = n var_iid / var: var is the variance above, var_iid = s^2 / n that of a mean of
independent values; at most n.

Measured on synthetic gradients with known cosines, the intervals cover 92 to 98% with 40 or more steps whose
correlation is up to 0.6, and with 200 or more where it is 0.8; 40 steps with 0.8, worth 4 independent ones, cover 85 to
92%. The verdicts on pairs rest on more cautious ones (`analysis.statistics.cosines`).

The interval is one for the mean over the steps that were made. That a cosine drifts in the course of training is no
noise, but widens it; windows of steps show the drift.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

FEWEST_STEPS = 8
"""With fewer measured steps there is no standard error."""
CLEAR = 3.0
"""Standard errors by which a signal must exceed zero to be divided by: below, ratios are biased and intervals fail."""

_MOST_BATCHES = 16
_LARGEST_CORRELATION = 0.97
_LARGEST_CORRECTION = 10.0

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Means:
    """Mean of each row and what is known of it, [rows] each; NaN with fewer than 8 measured values, but for `value`."""

    value: Floats
    error: Floats  # standard error
    steps: Integers  # measured values
    effective: Floats  # effective sample size, as in the module's text
    freedom: Floats  # degrees of freedom of `error`
    cautious: Floats  # the largest of three standard errors: this one, of independent values, of fading correlations

    def interval(self, level: float = 0.95) -> tuple[Floats, Floats]:
        """Low and high end."""
        half_width = self.quantile(level) * self.error
        return self.value - half_width, self.value + half_width

    def quantile(self, level: float = 0.95) -> Floats:
        """Two-sided quantile of Student's t."""
        return np.asarray(special.stdtrit(self.freedom, (1 + level) / 2), dtype=np.float64)

    def p_value(self) -> Floats:
        """Two-sided, of the mean being zero; 1 where every value is zero.

        With the cautious error: of many means tested, those whose error came out small by chance are found first. So
        families of 12 to 90 tests, corrected for their number, err in at most 5% where 20 or more steps are correlated
        by up to 0.36 and 200 or more by up to 0.6; in 15 to 19% where 20 steps are correlated by 0.6.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.abs(self.value) / self.cautious
        t = np.where((self.cautious == 0) & (self.value == 0), 0.0, t)
        return np.asarray(2 * special.stdtr(self.freedom, -t), dtype=np.float64)


def means(series: Floats) -> Means:
    """Mean, error and effective sample size of each row of `series`, [rows, steps]."""
    count = (~np.isnan(series)).sum(axis=1)  # [rows]
    mean = row_means(series)
    enough = count >= FEWEST_STEPS
    n = np.where(enough, count, np.nan)
    deviation = np.nan_to_num(_gathered(series) - mean[:, None])
    square = (deviation**2).sum(axis=1) / n
    # Values that differ by rounding only are constant.
    constant = square <= (1e-12 * np.abs(np.nan_to_num(series)).max(axis=1, initial=0.0)) ** 2
    batch, batches = batch_means(series)
    near, fading = _correlation(deviation, n)
    whole, part = _inflation(near, fading, n), _inflation(near, fading, n / np.maximum(batches, 1))
    # Of independent batches the first term is the number of batches times the second.
    correction = whole / np.maximum(part * batches - whole, whole / _LARGEST_CORRECTION) * (batches - 1)
    between = np.nansum((batch - row_means(batch)[:, None]) ** 2, axis=1) / np.maximum(batches * (batches - 1), 1)
    variance = np.where(constant, 0.0, between * correction)
    unrelated = square / (n - 1)
    effective = np.divide(n * unrelated, variance, out=n.copy(), where=variance > 0)
    freedom = np.clip(np.minimum(n / whole - 1, batches - 1.0), 3.0, None)
    # s^2 around the series' own mean misses the part that the mean has followed.
    fading_alone = unrelated * whole * (n - 1) / np.maximum(n - whole, n / _LARGEST_CORRECTION)
    cautious = np.where(constant, 0.0, np.maximum(np.maximum(variance, unrelated), fading_alone))
    effective = np.minimum(effective, n)
    return Means(mean, np.sqrt(variance), count.astype(np.int64), effective, freedom, np.sqrt(cautious))


def batch_means(series: Floats) -> tuple[Floats, Integers]:
    """Means of consecutive batches of each row's measured values.

    A row of n values makes n // 4 batches, but at least 8 and at most 16; none where n < 8.

    Args:
        series: [rows, steps]

    Returns:
        The means, [rows, 16], NaN where there is no batch, and the count of batches, [rows].
    """
    measured = ~np.isnan(series)
    values = measured.sum(axis=1)  # [rows]
    batches = np.where(values < FEWEST_STEPS, 0, np.clip(values // 4, 8, _MOST_BATCHES))
    place = np.cumsum(measured, axis=1) - 1  # of a value among its row's
    batch = place * batches[:, None] // np.maximum(values, 1)[:, None]
    used = measured & (batches > 0)[:, None]
    cell = (np.arange(len(series))[:, None] * _MOST_BATCHES + batch)[used]
    size, shape = len(series) * _MOST_BATCHES, (len(series), _MOST_BATCHES)
    # The cast is for no rows at all, where bincount counts in integers.
    sums = np.bincount(cell, weights=series[used], minlength=size).reshape(shape).astype(np.float64)
    counts = np.bincount(cell, minlength=size).reshape(shape)
    return np.divide(sums, counts, out=np.full(shape, np.nan), where=counts > 0), batches


def row_means(series: Floats) -> Floats:
    """Mean of each row's measured values, [rows]; NaN where there are none."""
    measured = ~np.isnan(series)
    counts = measured.sum(axis=1)
    sums = np.where(measured, series, 0.0).sum(axis=1)
    found: Floats = np.divide(sums, counts, out=np.full(len(series), np.nan), where=counts > 0)
    return found


def rate_interval(series: Floats) -> tuple[Floats, Floats]:
    """Low and high end of the 95% interval of each row's mean rate, within 0 to 1, [rows] each.

    Wilson's interval for as many independent draws as have the mean's variance, p (1 - p) / var; where every value is
    the same, for as many as there are steps.

    Args:
        series: [rows, steps], rates between 0 and 1.
    """
    found = means(series)
    rate, square = found.value, found.quantile() ** 2
    draws = np.where(
        found.error > 0, rate * (1 - rate) / np.where(found.error > 0, found.error, 1) ** 2, found.effective
    )
    centre = (rate + square / (2 * draws)) / (1 + square / draws)
    half_width = np.sqrt(square * (rate * (1 - rate) / draws + square / (4 * draws**2))) / (1 + square / draws)
    return np.clip(centre - half_width, 0.0, 1.0), np.clip(centre + half_width, 0.0, 1.0)


def clear_mean(series: Floats) -> Floats:
    """Mean of each row where it is clearly positive, [rows]: by more than `CLEAR` standard errors; else NaN."""
    found = means(series)
    return np.where(found.value > CLEAR * found.error, found.value, np.nan)


def p_in_part(series: Floats, windows: int) -> Floats:
    """Two-sided p-value of each row's mean being 0 over all steps and in each window of them, [rows].

    Half of the error goes to all steps and half to the windows, corrected for their number: what goes on in a part of
    the steps only is drift to the whole.
    """
    whole = means(series).p_value()
    if windows < 2 or series.shape[1] < windows:
        return whole
    of_windows = np.stack([means(part).p_value() for part in np.array_split(series, windows, axis=1)])
    counts = (~np.isnan(of_windows)).sum(axis=0)
    least = np.where(np.isnan(of_windows), np.inf, of_windows).min(axis=0)
    return np.minimum(2 * np.fmin(whole, np.where(counts > 0, least, np.nan) * counts), 1.0)


def _correlation(deviation: Floats, n: Floats) -> tuple[Floats, Floats]:
    """Correlation of neighbours, and the factor by which it fades with each further step, [rows] each.

    Args:
        deviation: from the mean, [rows, steps], 0 from a row's n-th value on.
        n: number of values, [rows].
    """
    square = (deviation**2).sum(axis=1)
    products = [(deviation[:, lag:] * deviation[:, :-lag]).sum(axis=1) for lag in (1, 2)]
    near, far = (np.divide(product, square, out=np.zeros(len(square)), where=square > 0) for product in products)
    near, far = (np.clip(r + (1 + 3 * near) / n, 0.0, _LARGEST_CORRELATION) for r in (near, far))
    by_chance = ~(near > 2 / np.sqrt(n))
    fading = np.divide(far, near, out=near.copy(), where=~by_chance)
    return near, np.clip(fading, 0.0, _LARGEST_CORRELATION)


def _inflation(near: Floats, fading: Floats, n: Floats) -> Floats:
    """Variance of the mean of n values correlated by near, near fading, near fading^2 ..., over that of independent."""
    return 1 + 2 * near / (1 - fading) - 2 * near * (1 - fading**n) / (n * (1 - fading) ** 2)


def _gathered(series: Floats) -> Floats:
    """Each row with its measured values first, in order, and NaN behind."""
    missing = np.isnan(series)
    return np.take_along_axis(series, np.argsort(missing, axis=1, kind="stable"), axis=1) if missing.any() else series
