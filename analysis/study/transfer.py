"""What two tasks do to each other: each pair trained jointly against each task alone, and whether conflict tells it."""

import math
from collections.abc import Collection
from functools import cache
from itertools import permutations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.outcomes.boards import SINGLE, Board, name_of
from analysis.outcomes.scores import Scores
from analysis.statistics.seeds import estimate
from analysis.statistics.series import Floats
from analysis.study.conflicts import MEASURES, PAIR, conflicts_of
from analysis.study.results import Results

FEWEST_TASKS = 4
"""For a correlation over their pairs: 3 tasks have 6 orders, and no p below .17."""
LEVEL = 0.05
"""A correlation with a lower p is more than noise."""
_KINDS = ("Spearman", "Pearson")
_MOST_EXCHANGES = math.factorial(7)
_ROUNDING = 1e-12


def transfer_matrix(results: Results, scores: Scores) -> pd.DataFrame:
    """What training with one other task does to each task, by the seeds that both have.

    Returns:
        condition, task, beside (the other task of the pair), metric; alone, together: means over seeds; transfer, low,
        high: together less alone, positive where it helps, as of `estimate`; clear: the interval excludes 0; seeds.
    """
    rows, baseline = [], results.study.baseline
    for condition in results.conditions:
        single = results.finished(SINGLE, condition)
        for pair in results.pairs:
            runs = {SINGLE: single, baseline: results.finished(baseline, condition, pair)}
            board = Board.of(condition, baseline, runs, scores)
            for task, beside in (pair, pair[::-1]):
                together, alone = board.paired(task, [baseline, SINGLE])
                if not together.seeds:
                    continue
                found = estimate(together.minus(alone).times(board.sign(task)))
                rows.append(
                    {
                        "condition": board.name, "task": task, "beside": beside, "metric": board.metrics[task],
                        "alone": float(alone.values.mean()), "together": float(together.values.mean()),
                        "transfer": found.value, "low": found.low, "high": found.high,
                        "clear": found.clear, "seeds": len(found.seeds),
                    }
                )  # fmt: skip
    numbers = ["alone", "together", "transfer", "low", "high"]
    frame = pd.DataFrame(rows, columns=["condition", "task", "beside", "metric", *numbers, "clear", "seeds"])
    return frame.astype(dict.fromkeys(numbers, "float64"))


def pair_conflicts(results: Results, matrix: pd.DataFrame) -> pd.DataFrame:
    """Conflict in each pair's own joint runs beside the transfer that it had, means over seeds.

    Returns:
        condition, task_i, task_j; cosine, corrected, conflict_rate: as of `conflicts`; transfer_i, transfer_j: of the
        matrix, what the pair did to each; transfer: their mean; seeds.
    """
    known = matrix.set_index(["condition", "task", "beside"])["transfer"].to_dict()
    rows = []
    for condition in results.conditions:
        for one, other in results.pairs:
            name = name_of(condition)
            there, back = known.get((name, one, other)), known.get((name, other, one))
            if there is None or back is None:
                continue
            runs = results.finished(results.study.baseline, condition, (one, other))
            measured = conflicts_of(runs.values())
            if measured.empty:
                continue
            found = {measure: float(measured[measure].mean()) for measure in MEASURES}
            rows.append(
                {"condition": name, "task_i": one, "task_j": other, **found, "seeds": len(runs)}
                | {"transfer_i": there, "transfer_j": back, "transfer": (there + back) / 2}
            )
    numbers = [*MEASURES, "transfer_i", "transfer_j", "transfer"]
    return pd.DataFrame(rows, columns=["condition", *PAIR, *numbers, "seeds"]).astype(dict.fromkeys(numbers, "float64"))


def correlations(pairs: pd.DataFrame) -> pd.DataFrame:
    """Whether pairs that conflict more lose more: correlation over pairs of measured conflict with measured harm.

    Conflict is the cosine's negative or the conflict rate, harm the transfer's negative: positive says that conflict
    foretells harm. Pairs that share a task are not independent, tasks are: chance is what exchanging the tasks of one
    of the two makes of it (Mantel 1967; QAP), which needs all pairs of the tasks; tasks that lack some, as a twin does,
    are left out.

    Args:
        pairs: of `pair_conflicts`, of tasks whose metrics point the same way and have like units.

    Returns:
        condition, conflict (the measure), harm ("of the pair": mean of both directions; "of each task"), kind, value;
        p: share of the exchanges with a correlation as far from 0; chance_low, chance_high: within which 95% of theirs
        lie; pairs, tasks: their numbers. None of fewer than 4 tasks, and no numbers where a side does not vary.
        Of independent conflict and harm at most 5% have p < .05 (`tests/analysis/study/test_transfer.py`).
    """
    rows = []
    for condition, of_condition in pairs.groupby("condition", sort=False):
        for measure in MEASURES:
            known = of_condition.dropna(subset=measure)
            tasks = _complete({(row["task_i"], row["task_j"]) for row in known[PAIR].to_dict("records")})
            known = known[known["task_i"].isin(tasks) & known["task_j"].isin(tasks)]
            if len(tasks) < FEWEST_TASKS:
                continue
            places = known[PAIR].apply(lambda names: names.map(tasks.index)).to_numpy()  # [pairs, 2]  # noqa: B023
            conflict = known[measure].to_numpy() * (1 if measure == "conflict_rate" else -1)  # [pairs]
            directed = -known[["transfer_i", "transfer_j"]].to_numpy()  # [pairs, 2]
            for harm, values in (("of the pair", directed.mean(axis=1, keepdims=True)), ("of each task", directed)):
                for kind in _KINDS:
                    found = correlate(kind, places, conflict, values)
                    rows.append([condition, measure, harm, kind, *found, len(known), len(tasks)])
    numbers = ["value", "p", "chance_low", "chance_high"]
    frame = pd.DataFrame(rows, columns=["condition", "conflict", "harm", "kind", *numbers, "pairs", "tasks"])
    return frame.astype(dict.fromkeys(numbers, "float64"))


def correlate(
    kind: str, places: NDArray[np.int64], conflict: Floats, harm: Floats
) -> tuple[float, float, float, float]:
    """value, p, chance_low, chance_high of `correlations`; all NaN where a side does not vary.

    Args:
        kind: `Spearman` or `Pearson`.
        places: `[pairs, 2]`, the two tasks of each pair: every pair of T tasks once.
        conflict: `[pairs]`.
        harm: `[pairs, directions]`, one direction or both.
    """
    one = np.repeat(conflict[:, None], harm.shape[1], axis=1)  # [pairs, directions]
    one, other = (_standard(kind, values) for values in (one, harm))
    if not (one.any() and other.any()):
        return (np.nan,) * 4
    # Exchanging tasks moves values among pairs: their ranks, mean and size stay.
    count = int(places.max()) + 1
    of_tasks = np.zeros((count, count))
    of_tasks[places[:, 0], places[:, 1]] = of_tasks[places[:, 1], places[:, 0]] = one[:, 0]
    moved = _exchanges(count)[:, places]  # [exchanges, pairs, 2]; the first exchanges nothing
    found = of_tasks[moved[..., 0], moved[..., 1]] @ other.sum(axis=1)
    low, high = np.quantile(found, [0.025, 0.975])
    p = float((np.abs(found) >= np.abs(found[0]) - _ROUNDING).mean())
    return float(found[0]), p, float(low), float(high)


def _standard(kind: str, values: Floats) -> Floats:
    """With mean 0 and size 1, or all 0 where they do not vary; of their ranks for Spearman. Shape as given."""
    ranked = pd.Series(values.ravel()).rank().to_numpy().reshape(values.shape) if kind == "Spearman" else values
    centred = ranked - ranked.mean()
    size = float(np.linalg.norm(centred))
    small = size <= _ROUNDING * max(1.0, float(np.abs(ranked).max()))
    return np.zeros_like(centred) if small else np.asarray(centred / size)


@cache
def _exchanges(count: int) -> NDArray[np.int64]:
    """`[exchanges, count]`: all orders of so many tasks, or that of before and very many at random."""
    if math.factorial(count) <= _MOST_EXCHANGES:
        return np.array(list(permutations(range(count))))
    drawn = np.tile(np.arange(count), (_MOST_EXCHANGES, 1))
    drawn[1:] = np.random.default_rng(0).permuted(drawn[1:], axis=1)
    return drawn


def _complete(pairs: Collection[tuple[str, str]]) -> list[str]:
    """Tasks of which every pair is there: without those that lack the most, one after the other."""
    tasks = list(dict.fromkeys(name for pair in sorted(pairs) for name in pair))
    while True:
        held = {name: sum((name, other) in pairs or (other, name) in pairs for other in tasks) for name in tasks}
        if not tasks or min(held.values()) == len(tasks) - 1:
            return tasks
        tasks.remove(min(reversed(tasks), key=lambda name: held[name]))
