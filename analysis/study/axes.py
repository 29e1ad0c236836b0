"""How methods, and the conflict between their tasks, answer to what a study varies."""

from collections.abc import Iterable

import pandas as pd

from analysis.outcomes.boards import Board
from analysis.statistics.seeds import estimate
from analysis.study.conflicts import MEASURED, conflicts_of
from analysis.study.results import Results


def over_axes(results: Results, boards: Iterable[Board]) -> pd.DataFrame:
    """Each method under each condition: its headline metric, what it gains, and how its tasks conflicted meanwhile.

    Returns:
        condition; a column of labels for each axis; method; task (the headline: the mean of the tasks, or the only one
        that counts), metric; mean, spread; gain over the baseline with low, high, null for the baseline itself; cosine,
        corrected, conflict_rate, projected: as of `conflicts`, means over pairs and seeds, null where no gradients met;
        seeds.
    """
    rows = []
    for board in boards:
        if (task := board.headline) is None:
            continue
        for method in board.methods:
            if not (own := board.paired(task, [method])[0]).seeds:
                continue
            gain = board.gain(method, task)
            over = estimate(gain) if method != board.baseline and gain.seeds else None
            score = estimate(own)
            runs = results.finished(method, board.condition).values()
            measured = conflicts_of(runs)
            rows.append(
                {"condition": board.name, **dict(board.condition), "method": method, "task": task}
                | {"metric": board.metrics[task], "mean": score.value, "spread": score.spread}
                | {name: getattr(over, field, None) for name, field in _GAIN.items()}
                | {name: measured[name].mean() if len(measured) else None for name in MEASURED}
                | {"seeds": len(own.seeds)}
            )
    numbers = ["mean", "spread", *_GAIN, *MEASURED]
    columns = ["condition", *results.study.axes, "method", "task", "metric", *numbers, "seeds"]
    return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(numbers, "float64"))


def headlines(frame: pd.DataFrame, over: pd.DataFrame) -> pd.DataFrame:
    """Of each condition only the rows of the task, or the mean of them, that `over_axes` tells of."""
    return frame.merge(over[["condition", "task"]].drop_duplicates(), on=["condition", "task"])


_GAIN = {"gain": "value", "low": "low", "high": "high"}
