"""Which tasks should share an adapter, and how their losses should be weighed, by predicted progress; numpy and SciPy.

Chosen from one estimate and judged on the same texts, the best of many looks better than it is. So what is chosen is
also chosen on every second group of texts and judged on the others, and the other way round: `elsewhere`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from ortho_lora.record.jackknife import Effects, Floats
from ortho_lora.record.snapshots import MetricName
from ortho_lora.record.transfer import only, progress_rows, step_sizes, summed_effect
from ortho_lora.record.vectors import Vectors

Groups = tuple[tuple[int, ...], ...]
"""Which tasks share an adapter, by their places."""

MOST_EXACT = 8
"""Tasks of which all partitions are tried: 4140; of more, the two groups that lose least are put together in turn."""
REACH = 8.0
"""How many times as much as another's a weight may be raised: first order knows of small changes only."""
SHARE_WORTH = 0.1
"""Of the summed progress that a further adapter must promise on other texts to be advised; a convention."""


@dataclass(frozen=True, eq=False)
class Grouping:
    """The best groups of their number."""

    groups: Groups
    gain: Effects  # summed progress of all targets less that with one adapter, one row; below 0 it is better
    elsewhere: float  # the same of what is chosen on other texts than it is judged on


@dataclass(frozen=True, eq=False)
class Weighting:
    """The best weights."""

    weights: Floats  # [T]
    gain: Effects  # summed progress less that with the run's weights, one row
    elsewhere: float


def best_groups(places: Sequence[Vectors], weights: Floats, metric: MetricName = "adamw") -> list[Grouping]:
    """For each number of adapters the groups whose targets progress most, from one adapter to one for each task.

    Args:
        places: of one or several snapshots, of the same groups of texts.
        weights: of the tasks' losses, [T].
        metric: of the optimizer.
    """
    chosen = _choose_groups(places, weights, metric)
    one, other = _halves(places)
    rows = _Rows(places, weights, metric)
    crossed = [
        (_choose_groups(of, weights, metric), _Rows(judges, weights, metric))
        for of, judges in ((one, other), (other, one))
    ]
    return [
        Grouping(
            groups=groups,
            gain=summed_effect(places, rows(groups)),
            elsewhere=float(np.mean([np.nansum(of_half(found[number])[0]) for found, of_half in crossed])),
        )
        for number, groups in enumerate(chosen)
    ]


def advised(found: Sequence[Grouping], together: float) -> int:
    """The place of what is advised among `best_groups`.

    It is the fewest adapters after which a further one promises less than `SHARE_WORTH` of what one adapter's sum is,
    on other texts.

    Args:
        found: of `best_groups`.
        together: summed progress with one adapter.
    """
    elsewhere = np.array([one.elsewhere for one in found])
    steps = -np.diff(elsewhere, append=elsewhere[-1])  # what one more brings
    worth = np.flatnonzero(steps > SHARE_WORTH * abs(together))
    return int(worth[-1]) + 1 if len(worth) and elsewhere[worth[-1] + 1] < 0 else 0


def gain_of(groups: Groups, places: Sequence[Vectors], weights: Floats, metric: MetricName = "adamw") -> Effects:
    """Summed progress in these groups less that with one adapter, one row; other arguments as of `best_groups`."""
    return summed_effect(places, _Rows(places, weights, metric)(groups))


def best_weights(places: Sequence[Vectors], weights: Floats, metric: MetricName = "adamw") -> Weighting:
    """The weights with which the summed loss of all targets falls most; arguments as of `best_groups`."""
    one, other = _halves(places)

    def gain(judges: Sequence[Vectors], of: Floats) -> Floats:
        return progress_rows(judges, of, metric) - progress_rows(judges, weights, metric)

    chosen = _choose_weights(places, weights, metric)
    elsewhere = [
        np.nansum(gain(judges, _choose_weights(of, weights, metric))[0]) for of, judges in ((one, other), (other, one))
    ]
    return Weighting(chosen, summed_effect(places, gain(places, chosen)), float(np.mean(elsewhere)))


class _Fast:
    """Progress of all targets, without errors."""

    def __init__(self, places: Sequence[Vectors], metric: MetricName) -> None:
        self.places, self.metric = places, metric

    def __call__(self, weights: Floats) -> Floats:
        """[S]"""
        steps = [(weights @ of.mean) * step_sizes(of, weights, self.metric) for of in self.places]
        return np.mean([of.held_out_mean @ step for of, step in zip(self.places, steps, strict=True)], axis=0)


def _choose_groups(places: Sequence[Vectors], weights: Floats, metric: MetricName) -> list[Groups]:
    fast, tasks = _Fast(places, metric), places[0].tasks
    targets = [tasks.index(name) for name in places[0].targets]
    known: dict[tuple[int, ...], float] = {}

    def of_group(group: tuple[int, ...]) -> float:
        """Summed progress of a group's own targets."""
        if group not in known:
            found = fast(only(weights, group))
            known[group] = float(sum(found[place] for place, task in enumerate(targets) if task in group))
        return known[group]

    def of_all(groups: Groups) -> float:
        return sum(map(of_group, groups))

    def lost(pair: tuple[tuple[int, ...], ...]) -> float:
        """By putting two groups together."""
        return of_group(tuple(sorted((*pair[0], *pair[1])))) - of_all(pair)

    if len(tasks) <= MOST_EXACT:
        best: dict[int, Groups] = {}
        for groups in partitions(len(tasks)):
            number = len(groups)
            if number not in best or of_all(groups) < of_all(best[number]):
                best[number] = groups
        return [best[number] for number in sorted(best)]
    found: list[Groups] = [tuple((task,) for task in range(len(tasks)))]
    while len(found[-1]) > 1:
        groups = found[-1]
        one, other = min(combinations(groups, 2), key=lost)
        rest = tuple(group for group in groups if group not in (one, other))
        found.append((*rest, tuple(sorted((*one, *other)))))
    return found[::-1]


def partitions(count: int) -> Iterator[Groups]:
    """All ways to put so many tasks into groups."""
    if count == 0:
        yield ()
        return
    for groups in partitions(count - 1):
        yield (*groups, (count - 1,))
        for place, group in enumerate(groups):
            yield (*groups[:place], (*group, count - 1), *groups[place + 1 :])


def _choose_weights(places: Sequence[Vectors], weights: Floats, metric: MetricName) -> Floats:
    from scipy import optimize  # takes a while, and not every look needs it

    fast, there = _Fast(places, metric), weights > 0
    if not there.any():
        return weights

    def of(logarithms: Floats) -> Floats:
        found = weights.copy()
        found[there] = weights[there] * np.exp(logarithms - logarithms.mean())  # AdamW takes their common size away
        return found

    def loss(logarithms: Floats) -> float:
        return float(np.nansum(fast(of(logarithms)))) / scale

    scale = float(np.abs(fast(weights)).sum()) or 1.0
    bound = np.log(REACH) / 2
    found = optimize.minimize(
        loss, np.zeros(there.sum()), method="L-BFGS-B", bounds=[(-bound, bound)] * int(there.sum())
    )
    return of(found.x)


class _Rows:
    """Progress of all groups of texts and without each, [1 + m, S]; each mixture is asked once."""

    def __init__(self, places: Sequence[Vectors], weights: Floats, metric: MetricName) -> None:
        self.places, self.weights, self.metric = places, weights, metric
        self.together = progress_rows(places, weights, metric)
        self._known: dict[tuple[int, ...], Floats] = {}

    def __call__(self, groups: Groups) -> Floats:
        """Of each target in its own group less that with one adapter."""
        tasks, targets = self.places[0].tasks, self.places[0].targets
        found = -self.together
        for group in groups:
            if group not in self._known:
                self._known[group] = progress_rows(self.places, only(self.weights, group), self.metric)
            own = [place for place, name in enumerate(targets) if tasks.index(name) in group]
            found[:, own] += self._known[group][:, own]
        return found


def _halves(places: Sequence[Vectors]) -> tuple[list[Vectors], list[Vectors]]:
    """Every second group of texts, and the others."""

    def cut(of: Vectors, first: int) -> Vectors:
        return replace(of, means=of.means[first::2], held_out=of.held_out[first::2], batches=of.batches // 2)

    return [cut(of, 0) for of in places], [cut(of, 1) for of in places]
