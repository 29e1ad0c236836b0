"""Predicted transfer beside realized: how well a snapshot's prediction agrees with what a lookahead's steps did.

A lookahead leaves AdamW's second moments nearly as they are (a step without a source takes a thousandth of it out of
them), so it realizes pull; crowding takes hundreds of steps to come. And what is left out of the gradients stays in
their running mean for a while: of K steps a displacement has sum_k (1 - beta1^k).
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import special

from analysis.conflict.snapshots import own_metric
from analysis.library.runs import list_runs
from analysis.transfer.predicted import transfer_matrix, transfer_steps
from analysis.transfer.realized import realized
from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.schema import read_run

MOMENTUM = 0.9
"""AdamW's beta1, with which a training here goes."""
COLUMNS = ("source", "target", "part", "realized", "low", "high", "predicted", "predicted_low", "predicted_high")


class Agreement(NamedTuple):
    """Of one part of a lookahead, over ordered pairs of different tasks; with 95% intervals that respect tasks."""

    part: str
    pairs: int
    pearson: float
    pearson_low: float
    pearson_high: float
    spearman: float
    spearman_low: float
    spearman_high: float
    slope: float  # nats realized for one predicted
    sure: int  # predictions that are sure
    right: float  # share of them whose sign is the realized one
    ceiling: float  # correlation that a perfect prediction would have
    reliability: float


def compared(lookahead: Path, snapshot: Path) -> pd.DataFrame:
    """The pull that was predicted and what came, in nats of all of the lookahead's steps.

    Args:
        lookahead: directory of a lookahead.
        snapshot: directory of a run, or a probe of it, with a snapshot with held-out texts at the step where it begins.

    Returns:
        COLUMNS and `sure` (whether the predicted interval excludes 0), a row a part and ordered pair.

    Raises:
        OrthoLoraError: there is no such snapshot, or no draw of the lookahead is complete.
    """
    came = realized(lookahead)
    if came.empty:
        raise OrthoLoraError(f"{lookahead}: no draw of a lookahead is complete there.")
    step, steps = int(came["step"].iloc[0]), int(came["steps"].iloc[0])
    if step not in transfer_steps(snapshot):
        raise OrthoLoraError(
            f"{snapshot}: no snapshot with held-out texts at step {step}, where the lookahead begins: expected a probe"
            " of the run at that checkpoint."
        )
    told = transfer_matrix(snapshot, step)
    told["sure"] = (told["pull_low"] > 0) | (told["pull_high"] < 0)
    beta = MOMENTUM if own_metric(snapshot) == "adamw" else 0.0
    whole = float((1 - beta ** np.arange(1, steps + 1)).sum())
    told[["predicted", "predicted_low", "predicted_high"]] = whole * told[["pull", "pull_low", "pull_high"]].to_numpy()
    found = came.rename(columns={"nats": "realized"}).drop(columns="sure").merge(
        told[["source", "target", "predicted", "predicted_low", "predicted_high", "sure"]], on=["source", "target"]
    )  # fmt: skip
    return found[[*COLUMNS, "sure", "reliability", "ceiling"]]


def predictors(lookahead: Path) -> list[Path]:
    """Runs and probes in the same directory that have a snapshot with held-out texts where the lookahead begins.

    Newest first: a probe was taken for it, a run's own snapshots are seldom at its checkpoint.
    """
    place = read_run(lookahead).probe
    if place is None:
        return []
    found = []
    for run in list_runs(lookahead.parent):
        if run.info is None or (run.info.probe is not None and run.info.probe.steps):
            continue
        of = run.run_id if run.info.probe is None else run.info.probe.run
        if of == place.run and place.step in transfer_steps(run.path):
            found.append(run.path)
    return found


def agreement(frame: pd.DataFrame) -> list[Agreement]:
    """How well they agree, part by part; `frame`: of `compared`."""
    found = []
    others = frame[frame["source"] != frame["target"]].dropna(subset=["predicted", "realized"])
    for part, rows in others.groupby("part", sort=False):
        sure = rows[rows["sure"]]
        right = np.sign(sure["predicted"]) == np.sign(sure["realized"])
        found.append(
            Agreement(
                str(part),
                len(rows),
                *_of_correlation(rows, pearson),
                *_of_correlation(rows, spearman),
                slope(rows),
                len(sure),
                float(right.mean()) if len(sure) else np.nan,
                float(rows["ceiling"].iloc[0]),
                float(rows["reliability"].iloc[0]),
            )
        )
    return found


def pearson(rows: pd.DataFrame) -> float:
    """Of predicted and realized; NaN where one does not vary."""
    if len(rows) < 3 or rows["predicted"].nunique() < 2 or rows["realized"].nunique() < 2:
        return np.nan
    return float(np.corrcoef(rows["predicted"], rows["realized"])[0, 1])


def spearman(rows: pd.DataFrame) -> float:
    """Of ranks."""
    ranks = rows.assign(**{name: rows[name].rank() for name in ("predicted", "realized")})
    return pearson(ranks)


def _of_correlation(rows: pd.DataFrame, of: Callable[[pd.DataFrame], float]) -> tuple[float, float, float]:
    """`with_interval`, which may reach beyond what a correlation can be."""
    value, low, high = with_interval(rows, of)
    return value, max(low, -1.0), min(high, 1.0)


def slope(rows: pd.DataFrame) -> float:
    """Nats realized for one predicted, by least squares."""
    if len(rows) < 3 or rows["predicted"].nunique() < 2:
        return np.nan
    return float(np.polyfit(rows["predicted"], rows["realized"], 1)[0])


def with_interval(rows: pd.DataFrame, of: Callable[[pd.DataFrame], float]) -> tuple[float, float, float]:
    """A number over ordered pairs with its 95% interval: the jackknife over tasks, as pairs share them."""
    tasks = pd.unique(pd.concat([rows["source"], rows["target"]]))
    left = np.array([of(rows[(rows["source"] != task) & (rows["target"] != task)]) for task in tasks])
    left = left[~np.isnan(left)]
    value = of(rows)
    if len(left) < 3:
        return value, np.nan, np.nan
    width = special.stdtrit(len(left) - 1, 0.975) * np.sqrt((len(left) - 1) * left.var())
    return value, value - width, value + width
