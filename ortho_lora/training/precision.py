"""How precisely a probe knows the mean batch cosine of each pair, and when that is enough; importable without torch.

That is no verdict on a pair: verdicts are on the cosine without batch noise (`ortho_lora.record.judge`).

At fixed parameters batches are independent draws, so a mean of n of them has Student's interval with the plain standard
error, s / sqrt(n). (Batches go through all examples once before any comes again: for a small data set that makes the
mean more precise than the interval says, never less.)

To look again and again until the intervals are narrow is to stop a little more often where the spread came out small by
chance, which makes intervals cover less than 95%. Therefore nobody looks before `FEWEST_BATCHES`, and then at every
`LOOK_EVERY`-th batch only. Simulated for 1 to 30 rows and spreads that take 16 to 400 batches, the intervals of normal
values cover 94 to 96%, and those of values as skewed as an exponential distribution's 88 to 95%.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from ortho_lora.errors import OrthoLoraError

FEWEST_BATCHES = 16
"""With fewer measured batches there is no interval: their spread is too often small by chance."""
LOOK_EVERY = 8
ENDLESS = 10_000
"""Batches at most where only a half width is asked for."""

Floats = NDArray[np.float64]


class Row(NamedTuple):
    """A pair of tasks on one branch."""

    branch: str
    task_i: str
    task_j: str

    def __str__(self) -> str:
        return f"{self.task_i} – {self.task_j} on branch {self.branch}"


@dataclass(frozen=True)
class Goal:
    """So many batches at most, and fewer where the 95% intervals of all mean batch cosines are narrow enough before."""

    batches: int = 100
    half_width: float | None = None  # of the widest interval; None: all batches are taken

    def __post_init__(self) -> None:
        """Raise OrthoLoraError where it cannot be met."""
        if self.batches < 1:
            raise OrthoLoraError(f"batches: {self.batches} given, expected at least 1.")
        if self.half_width is None:
            return
        if not 0 < self.half_width < 1:
            raise OrthoLoraError(
                f"half_width: {self.half_width:g} given, expected a number between 0 and 1, as in 0.05: the half width"
                " of an interval of a cosine."
            )
        if self.batches < FEWEST_BATCHES:
            raise OrthoLoraError(
                f"batches: {self.batches} given with a half_width, which takes at least {FEWEST_BATCHES} to tell."
            )

    def is_reached(self, cosines: Sequence[Floats]) -> bool:
        """Whether the intervals are narrow enough after these batches.

        Args:
            cosines: of each batch, `[rows]`, NaN where nothing was measured.
        """
        if self.half_width is None or len(cosines) < FEWEST_BATCHES or len(cosines) % LOOK_EVERY:
            return False
        return _widest(half_widths(np.asarray(cosines))) <= self.half_width

    def expected(self, cosines: Sequence[Floats]) -> int:
        """Batches in all, as far as these tell: the error of a mean falls with their number's root. 0: not known."""
        if self.half_width is None:
            return self.batches
        if len(cosines) < FEWEST_BATCHES:
            return 0
        needed = _needed(len(cosines), _widest(half_widths(np.asarray(cosines))), self.half_width)
        looked_at = LOOK_EVERY * np.ceil(needed / LOOK_EVERY)
        return int(min(max(looked_at, len(cosines)), self.batches))


def half_widths(cosines: Floats) -> Floats:
    """Half the width of the 95% interval of each row's mean, `[rows]`.

    NaN where nothing was measured, infinite with fewer than `FEWEST_BATCHES` values.

    Args:
        cosines: `[batches, rows]`, NaN where nothing was measured.
    """
    count, mean = _count_and_mean(cosines)
    square = (np.nan_to_num(cosines - mean) ** 2).sum(axis=0)
    freedom = np.maximum(count - 1, 1)
    found = stdtrit(freedom, 0.975) * np.sqrt(square / freedom / np.maximum(count, 1))
    return np.select([count == 0, count < FEWEST_BATCHES], [np.nan, np.inf], found)


def conclude(batches: Sequence[Floats], rows: Sequence[Row], goal: Goal) -> str:
    """How precise it became: batches taken, the widest interval, and what was not to be measured.

    Args:
        batches: the cosines of each, `[rows]`, NaN where nothing was measured.
        rows: what they are.
        goal: what was wanted.
    """
    taken = f"{len(batches)} {'batch' if len(batches) == 1 else 'batches'} of every task"
    if len(batches) == 0:
        return f"{taken}: nothing was measured."
    cosines = np.asarray(batches, dtype=np.float64)
    found = half_widths(cosines)
    _, mean = _count_and_mean(cosines)
    measured = {row.branch for row, value in zip(rows, mean, strict=True) if not np.isnan(value)}
    silent = sorted({row.branch for row in rows} - measured)
    unmeasured = "".join(
        f" Branch {branch} has no cosine: its gradients were zero"
        + (", as they are wherever B = 0, and LoRA starts there." if branch == "A" else ".")
        for branch in silent
    )
    if np.isnan(found).all():
        return f"{taken}: no cosine could be measured.{unmeasured}"
    widest = int(np.nanargmax(found))
    if not math.isfinite(width := float(found[widest])):
        return f"{taken}: an interval takes at least {FEWEST_BATCHES}.{unmeasured}"
    said = f"The widest 95% interval is that of {rows[widest]}: {mean[widest]:+.3f} ± {width:.3f}."
    if goal.half_width is None:
        return f"{taken}. {said}{unmeasured}"
    if width <= goal.half_width:
        return f"{taken}: enough to know every mean batch cosine to within ±{goal.half_width:g}. {said}{unmeasured}"
    needed = _needed(len(batches), width, goal.half_width)
    return (
        f"{taken}: not enough to know every mean batch cosine to within ±{goal.half_width:g}, which would take about"
        f" {needed:,.0f}. {said}{unmeasured}"
    )


def _widest(half_widths: Floats) -> float:
    """Infinite where nothing is measured at all."""
    return float(np.nanmax(half_widths)) if not np.isnan(half_widths).all() else math.inf


def _needed(batches: int, half_width: float, wanted: float) -> float:
    return np.ceil(batches * (half_width / wanted) ** 2)


def _count_and_mean(cosines: Floats) -> tuple[NDArray[np.int64], Floats]:
    """Of each row's measured values, `[rows]`; NaN where there is none."""
    count = (~np.isnan(cosines)).sum(axis=0)
    mean = np.where(count > 0, np.nan_to_num(cosines).sum(axis=0) / np.maximum(count, 1), np.nan)
    return count, mean
