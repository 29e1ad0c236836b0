"""How tasks fare over training: curves of metrics and losses, seeds put together, smoothed; what of a gap is recovered.

A frame of curves has a row a point: series (a run, or runs that differ in their seed alone), task, step, value.
"""

import json
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from analysis.estimates import FEWEST_SEEDS
from analysis.outcomes import INDIFFERENT, Outcome
from analysis.scores import LOWER_IS_BETTER, SPLIT
from ortho_lora.schema import Identity, TaskInfo

MEAN = "mean of the tasks"
"""Stands for a task where a curve is the mean over all of them but twins."""


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


def gap_recovery(outcomes: Iterable[Outcome], tasks: Sequence[TaskInfo]) -> pd.DataFrame:
    """What of the gap between joint and single-task training each method recovers: (method - joint)/(single - joint).

    Args:
        outcomes: of `analysis.outcomes`, the gains over joint training.
        tasks: of the run; twins are left out of `MEAN`, the gain of the mean metric over that of `single`.

    Returns:
        method, task (`MEAN` too), metric (null for `MEAN`), gap (single - joint) and gain (method - joint), positive
        where better; recovered: gain / gap, null where there is no gap to recover or none is known; seeds: of which
        these are means; in words: what to make of it.
    """
    known = {task.name: task for task in tasks}
    found = list(outcomes)
    single = {outcome.task: outcome for outcome in found if outcome.method == "single"}
    rows = []
    for method in dict.fromkeys(outcome.method for outcome in found if outcome.method != "single"):
        gains = [outcome for outcome in found if outcome.method == method]
        errors = {gain.task: _resolution(gain, known) for gain in gains}
        rows += [
            _recovery(method, gain.task, gain.metric, [gain], [single.get(gain.task)], errors[gain.task])
            for gain in gains
        ]
        counted = [gain for gain in gains if known[gain.task].twin_of is None]
        if len(counted) > 1 and len({gain.metric in LOWER_IS_BETTER for gain in counted}) == 1:
            of_mean = float(np.linalg.norm([errors[gain.task] for gain in counted])) / len(counted)
            rows.append(_recovery(method, MEAN, None, counted, [single.get(gain.task) for gain in counted], of_mean))
    columns = ["method", "task", "metric", "gap", "gain", "recovered", "seeds", "in words"]
    return pd.DataFrame(rows, columns=columns).astype({"gap": "float64", "recovered": "float64"})


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
    config = {name: value for name, value in info.config.items() if name not in INDIFFERENT}
    tasks = [task.model_dump(exclude={"majority"}) for task in info.tasks]  # its value is of the seed's examples
    same = [info.method, info.rule, info.scope, config, tasks]
    return json.dumps(same, sort_keys=True)


def _recovery(
    method: str,
    task: str,
    metric: str | None,
    gains: Sequence[Outcome],
    gaps: Sequence[Outcome | None],
    resolution: float,
) -> dict[str, object]:
    """A row of `gap_recovery`: of one task, or of the mean of several."""
    known = [gap for gap in gaps if gap is not None]
    gain = float(np.mean([one.difference for one in gains]))
    gap = float(np.mean([one.difference for one in known])) if len(known) == len(gains) else None
    seeds = min(len(one.seeds) for one in [*gains, *known])
    recovered = None
    words = _no_gap(known, gap, resolution)
    if gap is not None and not words:
        recovered = gain / gap
        few = f", from {seeds} seed{'' if seeds == 1 else 's'}: may be chance" if seeds < FEWEST_SEEDS else ""
        words = f"recovers {recovered:.0%} of the gap{few}"
    return {
        "method": method,
        "task": task,
        "metric": metric,
        "gap": gap,
        "gain": gain,
        "recovered": recovered,
        "seeds": seeds,
        "in words": words,
    }


def _no_gap(gaps: Sequence[Outcome], gap: float | None, resolution: float) -> str:
    """Why there is no gap to recover, if so."""
    if gap is None:
        return "unknown: no finished single run of this seed"
    if gap <= 0:
        return "no gap to recover: single is not better than joint"
    if gap < resolution:
        return f"no gap to recover: below {resolution:.3f}, what so few examples can tell"
    if len(gaps) == 1 and gaps[0].low is not None and not gaps[0].clear:
        return "no gap to recover: single and joint do not clearly differ"
    return ""


def _resolution(gain: Outcome, tasks: Mapping[str, TaskInfo]) -> float:
    """The largest standard error of a difference of two shares of the evaluated examples, sqrt(2 / (4 n)); else 0."""
    task = tasks[gain.task]
    examples = task.evaluation_examples.get(SPLIT, 0)
    if gain.metric in LOWER_IS_BETTER or task.kind != "classification" or not examples:
        return 0.0
    return float(np.sqrt(1 / (2 * examples)))
