"""The final scores of runs, and what they would have been on other examples of the same kind."""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.library.runs import SPLIT, Run, final_metrics
from analysis.reading.cache import remembered
from analysis.reading.database import ask
from analysis.statistics.resampling import resampled
from analysis.statistics.seeds import Paired
from analysis.statistics.series import Floats

LOWER_IS_BETTER = frozenset({"loss", "rmse", "mae", "mse"})

MEAN = "mean of the tasks"
"""Stands for a task where a number is of the mean over all of them but twins."""

RESAMPLES = 1000


@dataclass(frozen=True)
class Score:
    """The last value of a task's primary metric in one run."""

    value: float
    resampled: Floats | None  # on other examples, [resamples], the same in every run; None: not known


Scores = Mapping[tuple[str, str], Score]
"""By run and task."""


def read_scores(runs: Iterable[Run]) -> dict[tuple[str, str], Score]:
    """The scores of runs, by run and task, without those that are no number.

    Those on other examples are known where a run recorded its predictions.

    Raises:
        OrthoLoraError: a record cannot be read.
    """
    if not (known := [run for run in runs if run.info]):
        return {}
    values = {run.run_id: final_metrics(run.path, run.info.tasks) for run in known if run.info}
    tasks = {(run.run_id, task.name): task for run in known if run.info for task in run.info.tasks}
    predictions = pd.concat([_predictions(run.path) for run in known])
    others: dict[tuple[str, str], Floats | None] = {}
    for name, of_task in predictions.groupby("task", sort=False):
        examples, place = np.unique(of_task["example"], return_inverse=True)
        # Poisson weights: each example is drawn as often in a run that evaluated others beside it.
        draws = np.random.default_rng(zlib.crc32(str(name).encode())).poisson(1.0, (len(examples), RESAMPLES))
        weights = draws.T.astype(np.float32)
        for run_id, rows in of_task.assign(place=place).groupby("run", sort=False):
            task = tasks[str(run_id), str(name)]
            targets, said = rows["target"].to_numpy(), rows["prediction"].to_numpy()
            others[str(run_id), str(name)] = resampled(
                task.metrics[0], targets, said, weights[:, rows["place"]], len(task.classes)
            )
    return {
        (run_id, name): Score(value, others.get((run_id, name)))
        for run_id, found in values.items()
        for name, value in found.items()
        if isfinite(value)
    }


def paired(scores: Mapping[int, Score], seeds: Sequence[int]) -> Paired:
    """The scores of these seeds, in their order."""
    chosen = [scores[seed] for seed in seeds]
    values = np.array([score.value for score in chosen], dtype=np.float64)
    others = [score.resampled for score in chosen if score.resampled is not None]
    every = len(others) == len(chosen) and len(chosen) > 0
    return Paired(tuple(seeds), values, np.stack(others, axis=1) if every else None)


@remembered("manifest.json")
def _predictions(run: Path) -> pd.DataFrame:
    """Run, task, example, target and prediction of the last evaluation."""
    sql = "SELECT $run AS run, task, example, target, prediction FROM predictions WHERE split = $split"
    return ask(run, ["predictions"], sql, parameters={"run": run.name, "split": SPLIT}).astype({"task": str})
