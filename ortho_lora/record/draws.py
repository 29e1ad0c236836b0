"""What a few draws of batches tell of effects in nats: intervals, how well draws agree, and what noise allows; numpy.

Every draw evaluates an effect on the same held-out examples, so there are two kinds of noise: of the draw, seen in the
spread of D draws, and of the examples, whose standard error e comes with each value. The interval of a mean is

    mean +- sqrt((t s / sqrt(D))^2 + (z e)^2)

with s the standard deviation of the draws, t Student's quantile with D - 1 degrees of freedom, z the normal's and e the
root mean square over draws. Squares of half widths are added, as for seeds and examples in `analysis.statistics.seeds`.
Noise of examples that is another in each draw is in s too, and so counted twice: rather too wide than too narrow. It
speaks of other batches and other examples, not of another place or seed of the run.

It stands with the record because both who measures (`ortho_lora.training.lookahead`) and who reads (`analysis`) ask it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

from ortho_lora.record.jackknife import Effects, Floats
from ortho_lora.record.judge import false_discovery

PARTS = ("difference", "odd", "even")
"""Of an effect, as the table `lookahead` explains them."""


class Told(NamedTuple):
    """What is told of effects, [rows]; NaN: it is not known."""

    nats: Floats
    low: Floats  # 95% interval
    high: Floats
    q: Floats  # p of its being 0, adjusted for the number of pairs of its part; NaN of what is no pair
    reliability: Floats  # of its part, over pairs
    ceiling: Floats


def told_of(values: Floats, errors: Floats, keys: Sequence[tuple[str | None, str, str]]) -> Told:
    """All of it, from effects in draws.

    Args:
        values: nats, [D, rows].
        errors: their standard errors over examples, [D, rows].
        keys: source, target and part of each row; a task on itself, and what has no source, is no pair.
    """
    effects = effects_of(values, errors)
    q, reliable, highest = (np.full(len(keys), np.nan) for _ in range(3))
    for part in PARTS:
        rows = [at for at, (_, _, of) in enumerate(keys) if of == part]
        pairs = [at for at in rows if keys[at][0] not in (None, keys[at][1])]
        q[pairs] = false_discovery(effects.p_value()[pairs])
        reliable[rows] = reliability(values[:, pairs])
        highest[rows] = ceiling(values[:, pairs], errors[:, pairs])
    return Told(effects.value, *effects.interval(), q, reliable, highest)


def effects_of(values: Floats, errors: Floats) -> Effects:
    """The means over draws; of one draw without an error.

    Args:
        values: nats, [D, rows].
        errors: their standard errors over examples, [D, rows].
    """
    draws, freedom = len(values), max(len(values) - 1, 1)
    if draws < 2:
        return Effects(values[0], np.full(values.shape[1], np.nan), np.ones(values.shape[1]))
    # So that Student's quantile times the error is the half width above.
    ratio = special.ndtri(0.975) / special.stdtrit(freedom, 0.975)
    error = np.hypot(values.std(axis=0, ddof=1) / np.sqrt(draws), ratio * _of_examples(errors))
    return Effects(values.mean(axis=0), error, np.full(values.shape[1], float(freedom)))


def reliability(values: Floats) -> float:
    """How well the means over draws, [D, rows], would correlate with those of D other draws on the same examples.

    The mean correlation r over rows of any two draws, stepped up to D of them (Spearman and Brown): D r / (1 + (D - 1)
    r), but r itself where it is not above 0. NaN: fewer than two draws or three rows, or rows that do not differ.
    """
    draws, rows = values.shape
    if draws < 2 or rows < 3 or (np.ptp(values, axis=1) == 0).any():
        return np.nan
    mean = float(np.asarray(np.corrcoef(values))[np.triu_indices(draws, 1)].mean())
    return draws * mean / (1 + (draws - 1) * mean) if mean > 0 else mean


def ceiling(values: Floats, errors: Floats) -> float:
    """The correlation over rows that a perfect prediction of the true effects would have with the means over draws.

    The root of the share of their variance over rows that is not noise of draws and examples; 0 where all may be.

    Args:
        values: nats, [D, rows].
        errors: their standard errors over examples, [D, rows].
    """
    draws, rows = values.shape
    if draws < 2 or rows < 3:
        return np.nan
    noise = values.var(axis=0, ddof=1) / draws + _of_examples(errors) ** 2
    seen = float(values.mean(axis=0).var(ddof=1))
    return float(np.sqrt(max(1 - float(noise.mean()) / seen, 0.0))) if seen > 0 else np.nan


def _of_examples(errors: Floats) -> Floats:
    """Of a mean, if the examples' noise is the same in all draws; a target of one example has none."""
    return np.asarray(np.sqrt((np.nan_to_num(errors) ** 2).mean(axis=0)))
