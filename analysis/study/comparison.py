"""Methods compared with the baseline, with single-task training and with each other: a row a method and task."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from analysis.outcomes.boards import SINGLE, Board
from analysis.outcomes.scores import MEAN
from analysis.statistics.seeds import Estimate, Paired, estimate, mean_of, ratio_interval

WHAT_IT_RESPECTS = {True: "seeds and examples", False: "seeds alone"}
"""What an interval knows of: of runs without recorded predictions it is too narrow."""


def means(boards: Iterable[Board]) -> pd.DataFrame:
    """The final metric of each method.

    Returns:
        condition, method, task (also the mean of the tasks), metric, twin (its labels are flipped); mean over seeds;
        spread: their standard deviation, null with one; seeds: their number; values: of each.
    """
    rows = [
        {**_head(board, method, task), "mean": found.value, "spread": found.spread, **_seeds(found)}
        for board in boards
        for method in board.methods
        for task in _tasks(board)
        if (found := _estimate(board.paired(task, [method])[0]))
    ]
    return _frame(rows, ["mean", "spread"], ["seeds", "values"])


def gains(boards: Iterable[Board]) -> pd.DataFrame:
    """How much better each method is than the baseline, positive where it is better; paired by seed and example.

    Returns:
        condition, method, task, metric, twin; gain, low, high: as of `estimate`, null with fewer than three seeds;
        spread: standard deviation over seeds; clear: whether the interval excludes 0; seeds, values: of each; respects:
        what the interval knows of.
    """
    rows = [
        {**_head(board, method, task), **_gain(found), **_seeds(found)}
        for board in boards
        for method in board.others
        for task in _tasks(board)
        if (found := _estimate(board.gain(method, task)))
    ]
    return _frame(rows, ["gain", "low", "high", "spread"], ["clear", "seeds", "values", "respects"])


def relative(boards: Iterable[Board]) -> pd.DataFrame:
    """Each method in one number over tasks of any metric, without twins.

    Returns:
        condition, method; delta_m, low, high: mean over tasks of the relative change to single-task training in
        percent, positive where better (the Delta_m of the multi-task literature), null without it or where one of its
        metrics is not above 0; rank: mean over tasks and seeds of the place among the methods, 1 the best;
        rank_spread: standard deviation over seeds of the mean over tasks; seeds: of the ranks.
    """
    rows = []
    for board in boards:
        ranks = _ranks(board)
        for method in board.methods:
            row: dict[str, object] = {"condition": board.name, "method": method, "seeds": 0}
            if found := _delta(board, method):
                row |= {"delta_m": found.value, "low": found.low, "high": found.high}
            if method in ranks:
                own = estimate(ranks[method])
                row |= {"rank": own.value, "rank_spread": own.spread, "seeds": len(own.seeds)}
            rows.append(row)
    numbers = ["delta_m", "low", "high", "rank", "rank_spread"]
    frame = pd.DataFrame(rows, columns=["condition", "method", *numbers, "seeds"])
    return frame.astype(dict.fromkeys(numbers, "float64"))


def recovery(boards: Iterable[Board]) -> pd.DataFrame:
    """What of the gap between the baseline and single-task training each method recovers.

    Returns:
        condition, method, task, metric, twin; gap, gap_low, gap_high: how much better single-task training is than the
        baseline; gain: how much better the method is; recovered, low, high: gain / gap with Fieller's interval, all
        null where there is no gap beyond noise; seeds; in words: what to make of it.
    """
    rows = []
    for board in boards:
        for method in board.others:
            if method == SINGLE or SINGLE not in board.methods:
                continue
            for task in _tasks(board):
                three = board.paired(task, [method, SINGLE, board.baseline])
                if not three[0].seeds:
                    continue
                ours, single, baseline = (one.times(board.sign(task)) for one in three)
                rows.append(
                    {
                        **_head(board, method, task),
                        **_recovered(ours.minus(baseline), single.minus(baseline), board.baseline),
                    }
                )
    return _frame(rows, ["gap", "gap_low", "gap_high", "gain", "recovered", "low", "high"], ["seeds", "in words"])


def _recovered(gain: Paired, gap: Paired, baseline: str) -> dict[str, object]:
    of_gap, of_gain = estimate(gap), estimate(gain)
    words, recovered, low, high = _no_gap(of_gap, baseline), None, None, None
    if not words and (interval := ratio_interval(gain, gap)):  # a gap beyond noise bounds it
        recovered, (low, high) = of_gain.value / of_gap.value, interval
        words = f"recovers {recovered:.0%} of the gap, 95% interval {low:.0%} to {high:.0%}"
    return {
        "gap": of_gap.value, "gap_low": of_gap.low, "gap_high": of_gap.high, "gain": of_gain.value,
        "recovered": recovered, "low": low, "high": high, "seeds": len(gap.seeds), "in words": words,
    }  # fmt: skip


def _no_gap(gap: Estimate, baseline: str) -> str:
    """Why nothing can be recovered, if so."""
    if gap.low is None:
        return "unknown: fewer than three seeds do not tell whether there is a gap to recover"
    if gap.clear and gap.value < 0:
        return f"no gap to recover: single is worse than {baseline}"
    return "" if gap.clear else f"no gap to recover: single and {baseline} do not differ beyond noise"


def _delta(board: Board, method: str) -> Estimate | None:
    """Mean relative change to single-task training, in percent."""
    if SINGLE not in board.methods or method == SINGLE:
        return None
    of_tasks = {name: board.paired(name, [method, SINGLE]) for name in board.counted}
    if not (seeds := _shared(of_tasks.values())) or any((single.values <= 0).any() for _, single in of_tasks.values()):
        return None
    changes = [_change(*two).at(seeds).times(100 * board.sign(name)) for name, two in of_tasks.items()]
    return estimate(mean_of(changes))


def _change(ours: Paired, single: Paired) -> Paired:
    """Of one relative to the other."""
    one, other = ours.resampled, single.resampled
    resampled = None if one is None or other is None or (other <= 0).any() else one / other - 1
    return Paired(ours.seeds, ours.values / single.values - 1, resampled)


def _ranks(board: Board) -> dict[str, Paired]:
    """Of each method the mean rank over tasks, by seed, on the seeds that all methods have."""
    of_tasks = {name: board.paired(name, board.methods) for name in board.counted}
    if not (seeds := _shared(of_tasks.values())):
        return {}
    ranks = [
        pd.DataFrame([-board.sign(name) * one.at(seeds).values for one in found]).rank().to_numpy()
        for name, found in of_tasks.items()
    ]
    means = np.mean(ranks, axis=0)
    return {method: Paired(tuple(seeds), own, None) for method, own in zip(board.methods, means, strict=True)}


def _shared(of_tasks: Iterable[Sequence[Paired]]) -> set[int]:
    """The seeds that all tasks have."""
    seeds = [set(found[0].seeds) for found in of_tasks]
    return set.intersection(*seeds) if seeds else set()


def _estimate(paired: Paired) -> Estimate | None:
    return estimate(paired) if paired.seeds else None


def _tasks(board: Board) -> tuple[str, ...]:
    """The mean first."""
    return tuple(sorted(board.metrics, key=lambda name: name != board.headline))


def _head(board: Board, method: str, task: str) -> dict[str, object]:
    return {
        "condition": board.name, "method": method, "task": task, "metric": board.metrics[task],
        "twin": task not in (MEAN, *board.counted),
    }  # fmt: skip


def _gain(found: Estimate) -> dict[str, object]:
    return {
        "gain": found.value, "low": found.low, "high": found.high, "spread": found.spread, "clear": found.clear,
        "respects": WHAT_IT_RESPECTS[found.examples],
    }  # fmt: skip


def _seeds(found: Estimate) -> dict[str, object]:
    return {"seeds": len(found.seeds), "values": tuple(found.values)}


def _frame(rows: Sequence[dict[str, object]], numbers: Sequence[str], others: Sequence[str]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["condition", "method", "task", "metric", "twin", *numbers, *others])
    return frame.astype(dict.fromkeys(numbers, "float64"))
