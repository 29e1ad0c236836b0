"""How tasks fare over training: curves of metrics and losses, seeds put together, smoothed.

A frame of curves has a row a point: series (a run, or runs that differ in their seed alone), task, step, value.
"""

import json
from collections.abc import Mapping

import numpy as np
import pandas as pd

from analysis.outcomes.beside import INDIFFERENT, settings_without
from analysis.outcomes.scores import LOWER_IS_BETTER, MEAN
from ortho_lora.record.schema import Identity


def metric_curves(
    values: pd.DataFrame, infos: Mapping[str, Identity], split: str = "validation", metric: str | None = None
) -> pd.DataFrame:
    """One metric of each task, and its mean over the tasks where all of them but twins have one of the same direction.

    Args:
        values: of `queries.metrics`.
        infos: identity of each run.
        split: evaluation split.
        metric: its name; None: each task's primary one.

    Returns:
        series (the run), task (`MEAN` too), metric, step, value; without the tasks that have no such metric.
    """
    wanted = {
        (run, task.name): metric or task.metrics[0]
        for run, info in infos.items()
        for task in info.tasks
        if task.metrics
    }
    keys = zip(values["run"], values["task"], strict=True)
    chosen = values[(values["split"] == split) & (values["metric"] == [wanted.get(key) for key in keys])]
    curves = chosen.rename(columns={"run": "series"})[["series", "task", "metric", "step", "value"]]
    means = [_mean(rows, infos[str(run)]) for run, rows in curves.groupby("series", sort=False)]
    return pd.concat([curves, *means], ignore_index=True)


def loss_curves(losses: pd.DataFrame) -> pd.DataFrame:
    """The training losses of `queries.losses` as curves: series (the run), task, step, value."""
    return losses.rename(columns={"run": "series", "loss": "value"})[["series", "task", "step", "value"]]


def with_seconds(curves: pd.DataFrame, clock: pd.DataFrame) -> pd.DataFrame:
    """Curves of runs with the seconds of training until each step, of `queries.elapsed`; null where not recorded."""
    seconds = pd.Series(np.nan, index=curves.index)
    for run, rows in curves.groupby("series", sort=False):
        own = clock[clock["run"] == run]
        if len(own):
            done = np.concatenate([[0], own["step"].to_numpy(np.float64)])
            taken = np.concatenate([[0], own["seconds"].to_numpy(np.float64)])
            seconds[rows.index] = np.interp(rows["step"].to_numpy(np.float64), done, taken, right=np.nan)
    return curves.assign(seconds=seconds)


def seed_groups(infos: Mapping[str, Identity]) -> dict[str, str]:
    """For each run the name of those that differ from it in seed, speed and record alone.

    It is the method's, with the first run's where several groups have this method; a run on its own keeps its name.
    """
    members: dict[str, list[str]] = {}
    for run, info in infos.items():
        members.setdefault(_settings(info), []).append(run)
    methods = [infos[runs[0]].method for runs in members.values() if len(runs) > 1]
    names: dict[str, str] = {}
    for runs in members.values():
        method = infos[runs[0]].method
        like = f" like {runs[0]}" if methods.count(method) > 1 else ""
        name = runs[0] if len(runs) == 1 else f"{method}{like}, {len(runs)} seeds"
        names |= dict.fromkeys(runs, name)
    return names


def over_seeds(curves: pd.DataFrame, groups: Mapping[str, str]) -> pd.DataFrame:
    """The mean over the runs of each group, at the steps that all of them have reached.

    Args:
        curves: of runs.
        groups: of `seed_groups`.

    Returns:
        series (the group) and the columns of `curves`, means of value and seconds; low, high: extremes of value; runs:
        how many they are of.
    """
    named = curves.assign(series=curves["series"].map(groups), run=curves["series"])
    keys = [name for name in ("series", "task", "metric", "step") if name in curves.columns]
    seconds = {"seconds": ("seconds", "mean")} if "seconds" in curves.columns else {}
    found = named.groupby(keys, sort=False, observed=True, as_index=False).agg(
        value=("value", "mean"), low=("value", "min"), high=("value", "max"), runs=("run", "nunique"), **seconds
    )
    of_task = found.groupby(["series", "task"], sort=False, observed=True)["runs"].transform("max")
    return found[found["runs"] == of_task].reset_index(drop=True)


def smooth(curves: pd.DataFrame, weight: float) -> pd.DataFrame:
    """Curves with `smoothed`, an exponential moving average in which a point counts `weight` times its successor.

    It starts at the first value, not at 0. Points without a value are passed over.

    Args:
        curves: in the order of their steps.
        weight: from 0, which changes nothing, to below 1.
    """
    of_each = curves.groupby(["series", "task"], sort=False, observed=True)["value"]
    averaged = of_each.transform(lambda values: values.ewm(alpha=1 - weight, ignore_na=True).mean())
    return curves.assign(smoothed=averaged.where(curves["value"].notna()))


def final_values(curves: pd.DataFrame) -> pd.DataFrame:
    """The last value of each curve: a row a series, with its last step and a column a task."""
    last = curves.dropna(subset="value").drop_duplicates(["series", "task"], keep="last")
    wide = last.pivot(index="series", columns="task", values="value")
    wide = wide.reindex(index=last["series"].unique(), columns=last["task"].unique())
    wide.insert(0, "step", last.groupby("series", observed=True)["step"].max())
    return wide.rename_axis(columns=None).reset_index()


def _mean(curves: pd.DataFrame, info: Identity) -> pd.DataFrame:
    """The mean over the tasks of one run at the steps where all of them have a value; none where it would mix units."""
    counted = [task.name for task in info.tasks if task.twin_of is None]
    chosen = curves[curves["task"].isin(counted)]
    metrics = list(dict.fromkeys(chosen["metric"]))
    if chosen["task"].nunique() < 2 or len({name in LOWER_IS_BETTER for name in metrics}) > 1:
        return curves.iloc[:0]
    wide = chosen.pivot(index="step", columns="task", values="value").mean(axis=1, skipna=False).dropna()
    return pd.DataFrame(
        {"series": info.run_id, "task": MEAN, "metric": " and ".join(metrics), "step": wide.index, "value": wide.array}
    )


def _settings(info: Identity) -> str:
    """The same for runs that differ in nothing but chance and speed; a loop of one's own tells no settings."""
    if not info.config or info.probe:
        return info.run_id
    same = [info.method, info.rule, info.scope, settings_without(info, INDIFFERENT)]
    return json.dumps(same, sort_keys=True)
