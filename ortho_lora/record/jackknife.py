"""What groups that are left out one at a time tell of a cosine, or of an effect, and of its error; numpy, a row a pair.

An estimate is made of all groups of independent texts, and again without each of them (the jackknife). Both are linear
in products of gradients, so those of a choice of blocks are the sums of the blocks' own. The interval of a cosine is
that of Fieller: all rho for which `D(rho) = product - rho sqrt(power_i power_j)` is within t errors of 0. D is linear
in what is added up, so its jackknife error is exact for every rho, and where the power is not clear of 0 the interval
says so: it is all of [-1, 1], or one side of it, where the sign is known and the strength is not.

It stands with the record because both who measures (`ortho_lora.surgery`) and who reads (`analysis`) ask it.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Cosines:
    """Product and scale = sqrt(power_i power_j) of each pair, [rows], and the jackknife's (co)variances of both.

    NaN: nothing is told.
    """

    product: Floats
    scale: Floats
    product_variance: Floats
    covariance: Floats
    scale_variance: Floats
    freedom: Floats  # degrees of freedom of the errors

    @property
    def value(self) -> Floats:
        """The cosine, within -1 to 1; NaN where the scale is not clear of 0."""
        clear = self.scale**2 > self.quantile() ** 2 * self.scale_variance
        value = np.divide(self.product, self.scale, out=np.full(len(self.product), np.nan), where=clear)
        return np.clip(value, -1.0, 1.0)

    @property
    def absent(self) -> NDArray[np.bool_]:
        """Where there is no gradient at all."""
        return (self.scale == 0) & (self.scale_variance == 0)

    def quantile(self, level: float = 0.95) -> Floats:
        """Two-sided quantile of Student's t."""
        return _quantile(self.freedom, level)

    def p_value(self) -> Floats:
        """Two-sided, of the cosine being 0: below 0.05 where the interval excludes 0."""
        return _p_value(self.product, np.sqrt(self.product_variance), self.freedom)

    def interval(self, level: float = 0.95) -> tuple[Floats, Floats]:
        """Low and high end, within -1 to 1."""
        square = self.quantile(level) ** 2
        # D(rho)^2 <= t^2 var D(rho) is curve rho^2 - 2 middle rho + rest <= 0.
        curve = self.scale**2 - square * self.scale_variance
        middle = self.product * self.scale - square * self.covariance
        rest = self.product**2 - square * self.product_variance
        spread = np.sqrt(np.maximum(middle**2 - curve * rest, 0.0))
        ends = [np.divide(middle + sign * spread, curve, out=np.zeros(len(rest)), where=curve != 0) for sign in (-1, 1)]
        low, high = np.minimum(*ends), np.maximum(*ends)
        # Where the scale is not clear of 0 it is all rho but those between the ends, which are on both sides of 0 where
        # 0 is not among them; then the sign is the product's.
        # Where they lie beyond -1 and 1, no rho agrees with a scale so small: only the sign is known.
        bounded, signed = curve > 0, rest > 0
        least, most = np.where(high > 1, 0.0, high), np.where(low < -1, 0.0, low)
        found_low = np.where(bounded, low, np.where(signed & (self.product > 0), least, -1.0))
        found_high = np.where(bounded, high, np.where(signed & (self.product < 0), most, 1.0))
        unknown = np.isnan(self.product)
        return np.where(unknown, np.nan, np.clip(found_low, -1, 1)), np.where(
            unknown, np.nan, np.clip(found_high, -1, 1)
        )

    def at(self, rows: NDArray[np.integer]) -> "Cosines":
        """Of some rows."""
        return Cosines(**{name: values[rows] for name, values in vars(self).items()})

    def with_errors_of(self, times: float, freedom: Floats) -> "Cosines":
        """As of so many times the data, if these go on like this."""
        names = ("product_variance", "covariance", "scale_variance")
        return replace(self, freedom=freedom, **{name: getattr(self, name) / times for name in names})


def leaving_out(
    product: Floats, power_i: Floats, power_j: Floats, left_out: tuple[Floats, Floats, Floats], freedom: Floats
) -> Cosines:
    """From estimates of all groups, and of all but each.

    Args:
        product, power_i, power_j: [rows]; a power below 0 counts as 0, one that is NaN as not known.
        left_out: the same without each group, [rows, groups]; NaN for groups that a row does not have.
        freedom: degrees of freedom, [rows].
    """
    scale = _scale(power_i, power_j)
    products, scales = left_out[0], _scale(*left_out[1:])
    groups = (~np.isnan(products)).sum(axis=1)
    return Cosines(
        product,
        scale,
        _covariance(products, products, groups),
        _covariance(products, scales, groups),
        _covariance(scales, scales, groups),
        freedom,
    )


@dataclass(frozen=True)
class Effects:
    """Numbers that are linear in products, and the jackknife's errors, [rows]; NaN: nothing is told."""

    value: Floats
    error: Floats
    freedom: Floats

    def interval(self, level: float = 0.95) -> tuple[Floats, Floats]:
        """Low and high end."""
        width = _quantile(self.freedom, level) * self.error
        return self.value - width, self.value + width

    def p_value(self) -> Floats:
        """Two-sided, of the effect being 0."""
        return _p_value(self.value, self.error, self.freedom)


def effects(value: Floats, left_out: Floats, freedom: Floats) -> Effects:
    """From estimates of all groups, [rows], and of all but each, [rows, groups]; NaN for groups a row does not have."""
    groups = (~np.isnan(left_out)).sum(axis=1)
    return Effects(value, np.sqrt(_covariance(left_out, left_out, groups)), freedom)


def _covariance(one: Floats, other: Floats, groups: NDArray[np.integer]) -> Floats:
    """The jackknife's, of estimates without each group, [rows, groups] each; `groups`: how many a row has."""
    part = np.where(groups > 1, (groups - 1) / np.maximum(groups, 1), np.nan)
    first, second = (np.nan_to_num(values - _row_means(values)[:, None]) for values in (one, other))
    return part * (first * second).sum(axis=1)


def _row_means(values: Floats) -> Floats:
    """Mean of what each row has; NaN where it has nothing."""
    there = ~np.isnan(values)
    return np.where(there, values, 0.0).sum(axis=1) / np.where(there.any(axis=1), there.sum(axis=1), np.nan)


def _quantile(freedom: Floats, level: float) -> Floats:
    """Two-sided, of Student's t."""
    few, places = np.unique(freedom, return_inverse=True)  # of many rows
    return np.asarray(special.stdtrit(few, (1 + level) / 2), dtype=np.float64)[places]


def _p_value(value: Floats, error: Floats, freedom: Floats) -> Floats:
    t = np.divide(np.abs(value), error, out=np.full(len(error), np.inf), where=error != 0)
    t = np.where((error == 0) & (value == 0), 0.0, t)
    return np.asarray(2 * special.stdtr(freedom, -t), dtype=np.float64)


def _scale(power_i: Floats, power_j: Floats) -> Floats:
    return np.sqrt(np.fmax(power_i, 0.0) * np.fmax(power_j, 0.0))
