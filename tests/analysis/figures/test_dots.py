"""What remains of conflicts after projection: the pairs that are drawn, and the sentence."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from analysis import figures
from analysis.conflict import queries
from analysis.conflict.queries import Selection
from analysis.figures import words
from analysis.figures.dots import MOST

ALL = Selection()
START = Selection(steps=(0, 0))  # where A has no gradient


def test_of_many_pairs_those_that_stay_in_conflict_are_drawn(run: Path) -> None:
    one = queries.task_matrix(run, Selection(branches=("B",))).iloc[:1]
    tasks = [f"{place:02}" for place in range(12)]
    rows = pd.concat([one.assign(task_i=a, task_j=b) for a, b in combinations(tasks, 2)], ignore_index=True)
    rows["rate_after"] = np.random.default_rng(0).permutation(len(rows)) / len(rows)
    drawn = figures.remaining_conflicts(rows)
    after = next(trace for trace in drawn.data if trace.name == "after projection")
    assert sorted(after.x) == sorted(rows["rate_after"])[-MOST:]


def test_what_remains_in_words(run: Path) -> None:
    matrix = queries.task_matrix(run, ALL)
    most = matrix.loc[matrix["rate_after"].idxmax()]
    assert f"{most['task_i']} and {most['task_j']} on branch {most['branch']}" in words.what_remains(matrix)
    unchanged = matrix.assign(rate_after=matrix["rate_before"], measured_after=matrix["measured"])
    assert "stay so" in words.what_remains(unchanged)
    assert "nan" not in words.what_remains(queries.task_matrix(run, START))
