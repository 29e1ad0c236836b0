"""What tasks do to each other in a mixture, to first order, from the vectors of a snapshot; numpy.

AdamW divides a step by the root of the second moment of the *sum*, so a partner acts twice: by its own gradient (pull),
and by the metric that all of them share (crowding). For loss weights w, mean gradients mu, batch variances s and the
gradients h of held-out texts, coordinate by coordinate,

    v = sum_j w_j^2 s_j + (sum_j w_j mu_j)^2        P = 1 / (sqrt(v) + eps)
    progress_i = -learning_rate <h_i, P sum_j w_j mu_j>

in nats of i's validation loss a step; below 0 it falls. The optimizer's own v remembers gradients that were others: P
is multiplied by what that makes of it in the run's mixture, coordinate by coordinate (`Vectors.past`). P is taken as
known: its own noise is that of all batches of all tasks. Everything else is linear in products across texts, so the
jackknife over groups gives its error.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ortho_lora.record.jackknife import Effects, Floats, effects
from ortho_lora.record.judge import LEVEL, false_discovery
from ortho_lora.record.products import across_groups, freedom
from ortho_lora.record.snapshots import MetricName
from ortho_lora.record.vectors import Vectors

VERDICTS = ("harms", "helps", "not sure")


@dataclass(frozen=True, eq=False)
class Transfer:
    """Of S targets and T sources in one mixture, in nats a step; NaN where a task has too little text."""

    nats: Effects  # with the source minus without it, target by target, [S * T]
    pull: Effects  # of it what the source's own gradient does, [S * T]
    crowding: Effects  # and what it does through the metric, [S * T]
    progress: Effects  # of each target in the mixture, [S]
    alone: Effects  # and with its own task alone, [S]

    @cached_property
    def q(self) -> Floats:
        """p-values of `nats`, adjusted for their number, [S * T]."""
        return false_discovery(self.nats.p_value())

    @property
    def verdict(self) -> list[str]:
        """One of VERDICTS for each of `nats`; of those told at most 5% are told by chance."""
        return verdicts(self.nats.value, self.q <= LEVEL)

    @property
    def share(self) -> Floats:
        """`nats` by each target's progress alone, [S * T]; NaN where that is not clear of its noise."""
        _, high = self.alone.interval()
        size = np.where(high < 0, -self.alone.value, np.nan)
        return self.nats.value / np.repeat(size, len(self.nats.value) // len(size))


def verdicts(nats: Floats, sure: NDArray[np.bool_]) -> list[str]:
    """One of VERDICTS for each effect."""
    return np.where(sure, np.where(nats > 0, *VERDICTS[:2]), VERDICTS[2]).tolist()


def second_moment(vectors: Vectors, weights: Floats) -> Floats:
    """`v` of a mixture's gradient, [w]; the noise of the means' squares is taken off."""
    return np.asarray(weights**2 @ vectors.variance + (weights @ vectors.mean) ** 2)


def terms(vectors: Vectors, weights: Floats, metric: MetricName = "adamw") -> Floats:
    """`-learning_rate <h_i, P w_j mu_j>`, of all groups and without each, [1 + m, S, T]."""
    means, has = vectors.sources
    return _products(vectors, means * step_sizes(vectors, weights, metric), has) * weights


def progress(vectors: Sequence[Vectors], weights: Floats, metric: MetricName = "adamw") -> Effects:
    """Of each target in a mixture, [S], the mean over places.

    Args:
        vectors: of one or several places, of the same groups of texts.
        weights: of the tasks' losses, [T]; 0 leaves a task out.
        metric: what the optimizer makes of gradients.
    """
    return _effects(vectors, progress_rows(vectors, weights, metric), of_targets=True)


def transfer(vectors: Sequence[Vectors], weights: Floats, metric: MetricName = "adamw") -> Transfer:
    """What each source does to each target in a mixture; arguments as of `progress`."""
    tasks, targets = vectors[0].tasks, vectors[0].targets
    whole = np.mean([terms(of, weights, metric) for of in vectors], axis=0)  # [1 + m, S, T]
    total = progress_rows(vectors, weights, metric)
    without = np.stack(
        [progress_rows(vectors, _without(weights, place), metric) for place in range(len(tasks))], axis=-1
    )
    # Of a task with too little text nothing is told; the others' effects are those in a mixture of the rest.
    nats = np.where(np.isnan(whole), np.nan, total[..., None] - without)
    alone = np.stack(
        [
            progress_rows(vectors, only(weights, [tasks.index(name)]), metric)[:, place]
            for place, name in enumerate(targets)
        ],
        axis=-1,
    )
    return Transfer(
        nats=_effects(vectors, nats),
        pull=_effects(vectors, whole),
        crowding=_effects(vectors, nats - whole),
        progress=_effects(vectors, total, of_targets=True),
        alone=_effects(vectors, alone, of_targets=True),
    )


def progress_rows(vectors: Sequence[Vectors], weights: Floats, metric: MetricName) -> Floats:
    """As `progress`, of all groups of texts and without each, [1 + m, S]."""
    if not weights.any():
        return np.zeros((1 + len(vectors[0].means), len(vectors[0].targets)))
    return np.asarray(np.mean([_total(of, weights, metric) for of in vectors], axis=0))


def _total(vectors: Vectors, weights: Floats, metric: MetricName) -> Floats:
    """Of all sources, [1 + m, S]: at once where all have texts in the same groups."""
    means, has = vectors.sources
    of_mixture = has[:, weights != 0]
    if (of_mixture != of_mixture[:, :1]).any():
        return _sum(terms(vectors, weights, metric), weights)
    mixed = np.einsum("t,mtw->mw", weights, means, optimize=True) * step_sizes(vectors, weights, metric)
    return _products(vectors, mixed[:, None], of_mixture[:, :1])[..., 0]


def _products(vectors: Vectors, sources: Floats, has: Floats) -> Floats:
    """Of held-out gradients with those of sources [m, T, w], which have texts where `has` is 1: [1 + m, S, T]."""
    held_out, has_targets = vectors.aims
    turned = sources.swapaxes(1, 2)
    cross, back = held_out @ sources.sum(0).T, held_out.sum(0) @ turned
    return across_groups(cross, back, held_out @ turned, (has_targets, has), apart=True)


def step_sizes(vectors: Vectors, weights: Floats, metric: MetricName) -> Floats:
    """What a gradient is multiplied by in a step, [w]."""
    rate = -vectors.rate.astype(np.float64)
    if metric == "plain":
        return rate
    return np.asarray(rate * vectors.past / (np.sqrt(second_moment(vectors, weights)) + vectors.eps))


def summed_effect(vectors: Sequence[Vectors], rows: Floats) -> Effects:
    """Of the sum over targets of rows [1 + m, S], as `progress_rows` has them; one row."""
    total = np.nansum(rows, axis=1)
    return effects(total[:1], total[None, 1:], np.fmin.reduce(_degrees(vectors[0]), axis=None, keepdims=True)[0])


def _sum(found: Floats, weights: Floats) -> Floats:
    """Over the sources of a mixture that are known, [1 + m, S]; NaN where none is."""
    known = ~np.isnan(found) & (weights != 0)
    return np.where(known.any(-1), np.where(known, found, 0.0).sum(-1), np.nan)


def only(weights: Floats, group: Sequence[int]) -> Floats:
    """The weights of some tasks, given by place; 0 of the others."""
    found = np.zeros_like(weights)
    found[list(group)] = weights[list(group)]
    return found


def _without(weights: Floats, place: int) -> Floats:
    left = weights.copy()
    left[place] = 0.0
    return left


def _degrees(of: Vectors) -> Floats:
    """Of freedom, [S, T]."""
    has_targets, has_tasks = (has.sum(0).astype(np.int64) for _, has in (of.aims, of.sources))
    return freedom(has_targets, has_tasks).reshape(len(has_targets), len(has_tasks))


def _effects(vectors: Sequence[Vectors], found: Floats, *, of_targets: bool = False) -> Effects:
    """Of [1 + m, S, T], or [1 + m, S]."""
    degrees = _degrees(vectors[0])
    if of_targets:
        degrees = np.fmax.reduce(degrees, axis=1)
    rows = found.reshape(len(found), -1).T
    return effects(rows[:, 0], rows[:, 1:], degrees.ravel())
