"""The verdict on every pair of a run. Whatever accuses, colours, marks or names a pair asks `judge`.

It is asked for all pairs at once, because they are many: p-values are adjusted by Benjamini and Hochberg's procedure at
a level of 3%, which leaves room for the errors of correlated steps. So of the pairs told at most 5% are told by chance,
and where no pair has anything to tell, any at all in about 5% of runs: `python benchmarks/judge.py` measures it.

- conflict: the cosine is below 0 by more than chance, and may be below -0.2.
- aligned: it is above 0 by more than chance.
- no conflict worth the name: its 95% interval excludes -0.2 and all below.
- not enough data: none of these; what it would take says `times_needed`.

Estimates are those of a snapshot, or of a training's steps (`analysis.statistics.cosines`). It stands with the record
because both who measures (`ortho_lora.training.probe`) and who reads (`analysis`) ask it.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ortho_lora.record.jackknife import Cosines, Floats

Verdict = Literal["conflict", "aligned", "no conflict worth the name", "not enough data"]

MARKS: dict[Verdict, str] = {
    "conflict": "▼",
    "aligned": "▲",
    "no conflict worth the name": "≈",
    "not enough data": "?",
}
"""Says a verdict beside its colour; the worst news first."""
TOLD: tuple[Verdict, ...] = ("conflict", "aligned")
"""The verdicts that have a sign."""

LEVEL = 0.03
"""Of adjusted p-values."""
WORTH = 0.2
"""A cosine above minus this is no conflict worth the name; a convention."""


class Estimates(NamedTuple):
    """What is known of the cosine of each pair, [rows]; NaN: nothing is."""

    low: Floats  # 95% interval, within -1 to 1; one side of 0 where p is below 0.05
    high: Floats
    p: Floats  # two-sided, of the cosine being 0

    @classmethod
    def of(cls, cosines: Cosines) -> "Estimates":
        return cls(*cosines.interval(), cosines.p_value())

    @classmethod
    def of_snapshot(cls, cosines: Cosines) -> "Estimates":
        """Of a snapshot, where nothing is known of what has no gradient."""
        return cls(*(np.where(cosines.absent, np.nan, values) for values in cls.of(cosines)))


class Judged(NamedTuple):
    """What is made of it, [rows]."""

    verdict: NDArray[np.str_]
    q: Floats  # p, adjusted for the number of pairs


def judge(estimates: Estimates) -> Judged:
    """The verdicts on all pairs of a run, or of what is selected of it."""
    q = false_discovery(estimates.p)
    told = q <= LEVEL
    free = estimates.low > -WORTH
    verdict = np.select(
        [told & (estimates.low >= 0), told & (estimates.high <= 0) & ~free, free],
        ["aligned", "conflict", "no conflict worth the name"],
        "not enough data",
    )
    return Judged(verdict, q)


def false_discovery(p_values: Floats) -> Floats:
    """Benjamini and Hochberg's adjusted p-values: of those below a level, at most that share errs. NaN stays out.

    Here, as to import `scipy.stats` for it takes half a second of every first look.
    """
    adjusted = np.full(len(p_values), np.nan)
    order = np.argsort(p_values)[: np.count_nonzero(~np.isnan(p_values))]  # NaN come last
    scaled = p_values[order] * len(order) / np.arange(1, len(order) + 1)
    adjusted[order] = np.minimum.accumulate(scaled[::-1])[::-1].clip(max=1)
    return adjusted


def overall(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict on a pair from those on the branches that have a cosine: what clears it must clear each of them."""
    order: tuple[Verdict, ...] = ("conflict", "aligned", "not enough data", "no conflict worth the name")
    return min(verdicts, key=order.index, default="not enough data")


def times_needed(cosines: Cosines, freedom: Callable[[float], Floats]) -> Floats:
    """How many times as much data it takes until `judge` tells each pair, if all go on like this, [rows].

    1: it does; infinite: more than a thousand times; NaN: nothing is known.

    Args:
        cosines: of all pairs.
        freedom: degrees of freedom that so many times the data give, [rows].
    """
    needed = np.where(np.isnan(cosines.product), np.nan, np.inf)
    for times in _TIMES:
        if not np.isinf(needed).any():
            break
        found = judge(Estimates.of(cosines.with_errors_of(times, freedom(times) if times > 1 else cosines.freedom)))
        needed = np.where(np.isinf(needed) & (found.verdict != "not enough data"), times, needed)
    return needed


_TIMES = (1.0, *np.geomspace(1.1, 1000, 72))
