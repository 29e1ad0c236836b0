"""What methods cost, and what they reach in the time that the quickest of them takes."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.conflict import queries
from analysis.outcomes.boards import Board, name_of
from analysis.outcomes.trajectories import metric_curves, with_seconds
from analysis.reading.cache import remembered
from analysis.reading.database import ask
from analysis.statistics.seeds import Paired, estimate
from analysis.study.results import Results
from ortho_lora.record.schema import read_identity

PAPER_COST = 1.4
"""Of Ortho-LoRA in the paper: its time a step over that of joint training."""
OF_EQUAL_SECONDS = (
    "Every method is read at the seconds of training at which the quickest one had finished, between two evaluations by"
    " a straight line. Its learning rate had not been let down to its end there, so this is rather less than it would"
    " reach with as many steps planned. Not told where its evaluations lie farther apart than a quarter of the run."
)
FARTHEST = 0.25
"""Of a run's steps, between two evaluations that a metric is read between."""
_ROUNDING = 1e-3  # of steps


def costs(results: Results) -> pd.DataFrame:
    """Time and memory of each method, of finished runs on all tasks.

    Returns:
        condition, method; step_seconds: median over steps, mean over runs; total_seconds: of training, without
        evaluation; relative: the same over the baseline's, of the seeds of both, null without; peak_bytes:
        the most memory that a run held, null where not recorded; runs.
    """
    rows = []
    for condition in results.conditions:
        of_methods = {method: results.finished(method, condition) for method in results.methods(condition)}
        seconds = {method: {s: _seconds(run.path) for s, run in runs.items()} for method, runs in of_methods.items()}
        baseline = seconds.get(results.study.baseline, {})
        for method, runs in of_methods.items():
            own = {seed: found for seed, found in seconds[method].items() if found}
            if not own:
                continue
            shared = [(found[0], of_seed[0]) for seed, found in own.items() if (of_seed := baseline.get(seed))]
            peaks = [run.status.peak_memory_bytes for run in runs.values() if run.status]
            rows.append(
                {
                    "condition": name_of(condition),
                    "method": method,
                    "step_seconds": float(np.mean([step for step, _ in own.values()])),
                    "total_seconds": float(np.mean([total for _, total in own.values()])),
                    "relative": sum(one for one, _ in shared) / sum(other for _, other in shared) if shared else None,
                    "peak_bytes": max(filter(None, peaks), default=None),
                    "runs": len(own),
                }
            )
    numbers = ["step_seconds", "total_seconds", "relative", "peak_bytes"]
    return pd.DataFrame(rows, columns=["condition", "method", *numbers, "runs"]).astype(
        dict.fromkeys(numbers, "float64")
    )


def equal_seconds(results: Results, boards: Iterable[Board]) -> pd.DataFrame:
    """The metrics of all methods at the seconds at which the quickest had finished, seed by seed.

    Returns:
        condition, method, task, metric; seconds, steps: where they are read, means over seeds; mean, null where
        evaluations are too far apart, and gain over the baseline with its interval low, high from seeds alone
        (evaluations on the way keep no predictions); seeds.
    """
    found = [rows for board in boards if len(rows := _equal(results, board))]
    columns = ["condition", "method", "task", "metric", "seconds", "steps", "mean", "gain", "low", "high", "seeds"]
    return pd.concat(found, ignore_index=True)[columns] if found else pd.DataFrame(columns=columns)


def _equal(results: Results, board: Board) -> pd.DataFrame:
    runs = {method: results.finished(method, board.condition) for method in board.methods}
    seeds = sorted(set.intersection(*map(set, runs.values())))
    values: dict[tuple[str, str], dict[int, tuple[float, float, float]]] = {}
    for seed in seeds:
        of_seed = {method: _curves(runs[method][seed].path) for method in runs}
        until = min(curves["seconds"].max() for curves in of_seed.values())
        if np.isnan(until):
            continue
        for method, curves in of_seed.items():
            for task, rows in curves[curves["task"].isin(board.metrics)].groupby("task", sort=False):
                step, value = (float(np.interp(until, rows["seconds"], rows[name])) for name in ("step", "value"))
                known = value if _between_near(rows["step"].to_numpy(), step) else np.nan
                values.setdefault((method, str(task)), {})[seed] = (float(until), step, known)
    rows = []
    for (method, task), by_seed in values.items():
        ours = np.array([by_seed[seed] for seed in by_seed])  # [seeds, 3]
        row = {
            "condition": board.name, "method": method, "task": task, "metric": board.metrics[task],
            "seconds": ours[:, 0].mean(), "steps": ours[:, 1].mean(), "mean": ours[:, 2].mean(),
            "gain": np.nan, "low": np.nan, "high": np.nan, "seeds": len(by_seed),
        }  # fmt: skip
        if method != board.baseline and not np.isnan(ours).any() and (theirs := values.get((board.baseline, task))):
            differences = ours[:, 2] - np.array([theirs[seed][2] for seed in by_seed])
            gain = estimate(Paired(tuple(by_seed), board.sign(task) * differences, None))
            row |= {"gain": gain.value, "low": gain.low, "high": gain.high}
        rows.append(row)
    return pd.DataFrame(rows).astype(dict.fromkeys(("gain", "low", "high"), "float64")) if rows else pd.DataFrame()


def _between_near(evaluated: NDArray[np.integer], step: float) -> bool:
    """Whether a step is an evaluation's, or lies between two that are near enough for a straight line."""
    after = int(np.searchsorted(evaluated, step - _ROUNDING))
    if after == len(evaluated) or abs(evaluated[after] - step) < _ROUNDING:
        return True
    return bool(evaluated[after] - evaluated[after - 1] <= FARTHEST * evaluated[-1])


@remembered("manifest.json")
def _curves(run: Path) -> pd.DataFrame:
    """Task, step, seconds and value of a run's primary metrics and their mean."""
    curves = metric_curves(queries.metrics([run]), {run.name: read_identity(run)})
    return with_seconds(curves, queries.elapsed([run]))


@remembered("manifest.json")
def _seconds(run: Path) -> tuple[float, float] | None:
    """Median of the steps, and their sum; None: not recorded."""
    sql = """
        SELECT median(seconds) AS step, sum(seconds) AS total
        FROM (SELECT max(seconds) AS seconds FROM steps GROUP BY step)
    """
    step, total = ask(run, ["steps"], sql).iloc[0]
    return None if pd.isna(step) else (float(step), float(total))
