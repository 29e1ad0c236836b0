"""Questions to the record of a run, answered by DuckDB as frames; a null or NaN says that nothing was measured.

A cosine is taken on one *block* (the `A` or the `B` matrix of one adapted layer) in one step. All functions raise
OrthoLoraError where a part of the record cannot be read, and return an empty frame where there are no rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.database import BINNED, Selection, ask
from analysis.statistics import Floats, clear_mean, cosine_interval, cosine_of_sums, interval
from ortho_lora.schema import TaskInfo, read_run

__all__ = [
    "Extent",
    "Selection",
    "extent",
    "layer_step",
    "losses",
    "metrics",
    "noise",
    "pair_over_steps",
    "projection_by_layer",
    "projection_by_pair",
    "projection_over_steps",
    "shares_texts",
    "task_matrix",
    "weights",
]

_PAIR = ["branch", "task_i", "task_j"]
_TASK_COLUMNS = {"task", "task_i", "task_j", "against"}
_IS_PAIR = "(task_i = $one AND task_j = $other) OR (task_i = $other AND task_j = $one)"
_FREQUENCY = """
    avg((CAST(projected_ij AS INTEGER) + CAST(projected_ji AS INTEGER)) / 2) FILTER (cos_before IS NOT NULL)
"""
_REMOVED = "avg(1 - norm_after / norm_before) FILTER (norm_before > 0)"


@dataclass(frozen=True)
class Extent:
    """What a run has recorded of gradients; `first` and `last` step are None before anything is."""

    first: int | None
    last: int | None
    layers: tuple[int, ...]
    modules: tuple[str, ...]
    tasks: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]


def extent(run: Path) -> Extent:
    """Steps, layers, modules, tasks and pairs (each in configuration order, as far as run.json names it)."""
    blocks = ask(
        run,
        ["norms"],
        "SELECT min(step) AS first, max(step) AS last, list_sort(list(DISTINCT layer)) AS layers FROM norms",
    ).iloc[0]
    if pd.isna(blocks["first"]):
        return Extent(None, None, (), (), (), ())
    modules = ask(run, ["norms"], "SELECT module FROM norms GROUP BY module ORDER BY min(layer), module")["module"]
    tasks = ask(run, ["norms"], "SELECT DISTINCT task FROM norms")["task"].tolist()
    pairs = ask(run, ["pairs"], "SELECT DISTINCT task_i, task_j FROM pairs").itertuples(index=False, name=None)
    place = {name: index for index, name in enumerate(read_run(run).task_names)}
    return Extent(
        int(blocks["first"]),
        int(blocks["last"]),
        tuple(map(int, blocks["layers"])),
        tuple(modules),
        tuple(sorted(tasks, key=place.__getitem__)),
        tuple(sorted(pairs, key=lambda pair: (place[pair[0]], place[pair[1]]))),
    )


def task_matrix(run: Path, selection: Selection) -> pd.DataFrame:
    """How each pair of tasks agrees, over all steps and blocks selected.

    Returns:
        branch, task_i, task_j;
        cos_before, cos_after: mean cosine;
        rate_before, rate_after: share of the measured cosines that are negative, 0 to 1;
        measured, measured_after: number of cosines measured;
        cos_low, cos_high, rate_low, rate_high: 95% interval of cos_before and rate_before by batch means over steps,
        null with fewer than 8 steps;
        corrected: sum of <g_i, g_j> / sqrt(sum h_i sum h_j) with the half products h, the cosine of the gradients
        without their batch noise, so of more steps and blocks and weighted by their norms; null where a signal is
        (see `noise`), and for tasks that draw the same texts: their noise is shared, their raw cosine the right one;
        corrected_low, corrected_high: its 95% interval by the jackknife over batches of steps.
    """
    frame = ask(
        run,
        ["pairs"],
        """
        SELECT branch, task_i, task_j,
            avg(cos_before) AS cos_before, avg(cos_after) AS cos_after,
            avg(CAST(cos_before < 0 AS INTEGER)) AS rate_before, avg(CAST(cos_after < 0 AS INTEGER)) AS rate_after,
            count(cos_before) AS measured, count(cos_after) AS measured_after
        FROM pairs GROUP BY ALL ORDER BY ALL
        """,
        selection,
    )
    by_step = ask(
        run,
        ["pairs"],
        """
        SELECT branch, task_i, task_j, step, avg(cos_before) AS cos, avg(CAST(cos_before < 0 AS INTEGER)) AS rate
        FROM pairs GROUP BY ALL ORDER BY ALL
        """,
        selection,
    )
    for name, lowest in (("cos", -1.0), ("rate", 0.0)):
        series = _series(by_step, _PAIR, name, frame)
        low, high = interval(series)
        frame[f"{name}_low"], frame[f"{name}_high"] = np.maximum(low, lowest), np.minimum(high, 1.0)
    frame = frame.merge(_corrected(run, selection), how="left", on=_PAIR)
    return frame.sort_values(_PAIR, key=_configured(run), ignore_index=True)


def noise(run: Path, selection: Selection) -> pd.DataFrame:
    """What two halves of one task's own batches agree on: the floor to read cosines between tasks against.

    Returns:
        branch, task;
        same_task_cosine: cosine of the gradients of two half batches, sum h / sum (2 norm^2 - h) over the selection,
        from <g^a, g^b> = h and |g^a + g^b|^2 = 4 norm^2;
        signal: mean over steps of the sum of h over blocks, an estimate of the squared norm of the gradient without
        batch noise; null unless it exceeds two standard errors over at least 8 steps;
        measured: number of half products.
    """
    frame = ask(
        run,
        ["norms"],
        """
        SELECT branch, task,
            sum(CAST(half_product AS DOUBLE)) AS half,
            sum(2 * CAST(norm_before AS DOUBLE) ** 2 - half_product) FILTER (half_product IS NOT NULL) AS whole,
            count(half_product) AS measured
        FROM norms GROUP BY ALL ORDER BY ALL
        """,
        selection,
    )
    by_step = ask(
        run,
        ["norms"],
        """
        SELECT branch, task, step, sum(CAST(half_product AS DOUBLE)) AS half
        FROM norms GROUP BY ALL ORDER BY ALL
        """,
        selection,
    )
    frame["same_task_cosine"] = frame["half"] / frame["whole"].where(frame["whole"] > 0)
    frame["signal"] = clear_mean(_series(by_step, ["branch", "task"], "half", frame))
    frame = frame[["branch", "task", "same_task_cosine", "signal", "measured"]]
    return frame.sort_values(["branch", "task"], key=_configured(run), ignore_index=True)


def layer_step(run: Path, pair: tuple[str, str], selection: Selection, bins: int = 120) -> pd.DataFrame:
    """The mean cosine of a pair by layer and bin of steps.

    Returns:
        branch, layer, step (first of the bin), step_end (last), cos_before, cos_after, measured (cosines before).
    """
    return ask(
        run,
        ["pairs"],
        f"""
        WITH chosen AS (SELECT * FROM pairs WHERE {_IS_PAIR}), {BINNED}
        SELECT branch, layer, step, step_end, avg(cos_before) AS cos_before, avg(cos_after) AS cos_after,
            count(cos_before) AS measured
        FROM binned GROUP BY ALL ORDER BY ALL
        """,
        selection,
        {"bins": bins, "one": pair[0], "other": pair[1]},
    )


def pair_over_steps(run: Path, pair: tuple[str, str], selection: Selection, bins: int = 120) -> pd.DataFrame:
    """The cosine of a pair by bin of steps.

    Returns:
        branch, step (first of the bin), step_end, cos_before, cos_after (means), low, high (extremes of cos_before).
    """
    return ask(
        run,
        ["pairs"],
        f"""
        WITH chosen AS (SELECT * FROM pairs WHERE {_IS_PAIR}), {BINNED}
        SELECT branch, step, step_end, avg(cos_before) AS cos_before, avg(cos_after) AS cos_after,
            CAST(min(cos_before) AS DOUBLE) AS low, CAST(max(cos_before) AS DOUBLE) AS high
        FROM binned GROUP BY ALL ORDER BY ALL
        """,
        selection,
        {"bins": bins, "one": pair[0], "other": pair[1]},
    )


def projection_over_steps(run: Path, selection: Selection, bins: int = 120) -> pd.DataFrame:
    """How often, and how far, gradients were projected, by bin of steps.

    Returns:
        branch, step (first of the bin), step_end;
        frequency: share of the measured directed pairs that were projected, 0 to 1;
        removed: mean of 1 - norm_after / norm_before over tasks and blocks with a gradient.
    """
    parameters = {"bins": bins}
    often = ask(
        run,
        ["pairs"],
        f"""
        WITH chosen AS (SELECT * FROM pairs), {BINNED}
        SELECT branch, step, step_end, {_FREQUENCY} AS frequency FROM binned GROUP BY ALL
        """,
        selection,
        parameters,
    )
    far = ask(
        run,
        ["norms"],
        f"""
        WITH chosen AS (SELECT * FROM norms), {BINNED}
        SELECT branch, step, step_end, {_REMOVED} AS removed FROM binned GROUP BY ALL
        """,
        selection,
        parameters,
    )
    keys = ["branch", "step", "step_end"]
    return often.merge(far, how="outer", on=keys).sort_values(keys, ignore_index=True)


def projection_by_layer(run: Path, selection: Selection) -> pd.DataFrame:
    """Branch, layer, and frequency and removed as in `projection_over_steps`."""
    often = ask(run, ["pairs"], f"SELECT branch, layer, {_FREQUENCY} AS frequency FROM pairs GROUP BY ALL", selection)
    far = ask(run, ["norms"], f"SELECT branch, layer, {_REMOVED} AS removed FROM norms GROUP BY ALL", selection)
    keys = ["branch", "layer"]
    return often.merge(far, how="outer", on=keys).sort_values(keys, ignore_index=True)


def projection_by_pair(run: Path, selection: Selection) -> pd.DataFrame:
    """Who was projected, and against whom: two rows a pair.

    Returns:
        branch, task (the projected one), against;
        frequency: share of the measured cosines where it was projected, 0 to 1;
        removed: mean of -cos_before where projected, the share of the norm that this projection alone removes;
        measured: number of cosines.
    """
    return ask(
        run,
        ["pairs"],
        """
        WITH directed AS (
            SELECT branch, task_i AS task, task_j AS against, cos_before, projected_ij AS projected FROM pairs
            UNION ALL
            SELECT branch, task_j AS task, task_i AS against, cos_before, projected_ji AS projected FROM pairs
        )
        SELECT branch, task, against,
            avg(CAST(projected AS INTEGER)) FILTER (cos_before IS NOT NULL) AS frequency,
            avg(-cos_before) FILTER (projected) AS removed,
            count(cos_before) AS measured
        FROM directed GROUP BY ALL
        """,
        selection,
    ).sort_values(["branch", "task", "against"], key=_configured(run), ignore_index=True)


def weights(run: Path, selection: Selection, bins: int = 120) -> pd.DataFrame:
    """Branch, task, step (first of the bin), step_end, weight: mean effective weight of the gradient in the update."""
    return ask(
        run,
        ["norms"],
        f"""
        WITH chosen AS (SELECT * FROM norms), {BINNED}
        SELECT branch, task, step, step_end, avg(weight) AS weight FROM binned GROUP BY ALL
        """,
        selection,
        {"bins": bins},
    ).sort_values(["branch", "task", "step"], key=_configured(run), ignore_index=True)


def metrics(runs: Sequence[Path]) -> pd.DataFrame:
    """Run, step (steps done before the evaluation), split, task, metric, value, examples."""
    columns = ["run", "step", "split", "task", "metric", "value", "examples"]
    sql = "SELECT $run AS run, step, split, task, metric, value, examples FROM metrics"
    frames = [
        ask(run, ["metrics"], sql, parameters={"run": run.name}).sort_values(
            ["step", "split", "task", "metric"], key=_configured(run)
        )
        for run in runs
    ]
    return _stack(frames, columns)


def losses(runs: Sequence[Path], bins: int = 400) -> pd.DataFrame:
    """Run, task, step (first of the bin), step_end, loss and learning_rate (means), run by run."""
    columns = ["run", "task", "step", "step_end", "loss", "learning_rate"]
    sql = f"""
        WITH chosen AS (SELECT * FROM steps), {BINNED}
        SELECT $run AS run, task, step, step_end, avg(loss) AS loss, avg(learning_rate) AS learning_rate
        FROM binned GROUP BY ALL
        """
    frames = [
        ask(run, ["steps"], sql, parameters={"run": run.name, "bins": bins}).sort_values(
            ["task", "step"], key=_configured(run)
        )
        for run in runs
    ]
    return _stack(frames, columns)


def shares_texts(tasks: Sequence[TaskInfo], one: str, other: str) -> bool:
    """Whether the batches of two tasks hold the same texts: one is the other's twin, or both are of a third."""
    drawn_by = {task.name: task.twin_of or task.name for task in tasks}
    return drawn_by.get(one, one) == drawn_by.get(other, other)


def _corrected(run: Path, selection: Selection) -> pd.DataFrame:
    """Branch, task_i, task_j, corrected, corrected_low, corrected_high."""
    by_step = ask(
        run,
        ["pairs", "norms"],
        """
        SELECT branch, task_i, task_j, step,
            sum(coalesce(cos_before, 0) * CAST(i.norm_before AS DOUBLE) * j.norm_before) AS product,
            sum(CAST(i.half_product AS DOUBLE)) AS half_i, sum(CAST(j.half_product AS DOUBLE)) AS half_j
        FROM pairs
            JOIN norms AS i USING (step, layer, module, branch)
            JOIN norms AS j USING (step, layer, module, branch)
        WHERE i.task = task_i AND j.task = task_j AND i.half_product IS NOT NULL AND j.half_product IS NOT NULL
        GROUP BY ALL
        """,
        selection,
    )
    clear = noise(run, selection).dropna(subset="signal")
    has_signal = set(zip(clear["branch"], clear["task"], strict=True))
    tasks = read_run(run).tasks
    frame = by_step[_PAIR].drop_duplicates(ignore_index=True)
    usable = np.array(
        [
            {(branch, one), (branch, other)} <= has_signal and not shares_texts(tasks, one, other)
            for branch, one, other in frame.itertuples(index=False, name=None)
        ],
        dtype=bool,
    )
    sums = [_series(by_step, _PAIR, column, frame) for column in ("product", "half_i", "half_j")]
    low, high = cosine_interval(*sums)
    for name, values in (("", cosine_of_sums(*sums)), ("_low", np.maximum(low, -1)), ("_high", np.minimum(high, 1))):
        frame[f"corrected{name}"] = np.where(usable, values, np.nan)
    return frame


def _configured(run: Path) -> Callable[[pd.Series], pd.Series]:
    """Key for `sort_values` that puts tasks in the order of the configuration, and leaves other columns."""
    place = {name: index for index, name in enumerate(read_run(run).task_names)}
    return lambda column: column.map(place) if column.name in _TASK_COLUMNS else column


def _series(by_step: pd.DataFrame, keys: list[str], value: str, rows: pd.DataFrame) -> Floats:
    """The values by step, [rows, steps], in the order of `rows`."""
    wide = by_step.pivot(index=keys, columns="step", values=value)
    values: Floats = wide.reindex(pd.MultiIndex.from_frame(rows[keys])).to_numpy(np.float64)
    return values


def _stack(frames: list[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    full = [frame for frame in frames if len(frame)]
    return pd.concat(full, ignore_index=True) if full else pd.DataFrame(columns=columns)
