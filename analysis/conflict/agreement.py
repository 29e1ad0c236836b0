"""How each pair of tasks agrees, with intervals: over a selection, by window of steps, and how much more it takes.

A row of the frames is one pair on one branch. Its `cosine` is that of the tasks' mean gradients (`statistics.cosines`),
and the verdict of `record.judge` is on it. Mean cosines of single batches, `cos`, are what a rule saw: noise pulls
them to 0.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.conflict.snapshots import WHOLE, snapshot_matrix
from analysis.conflict.steps import BySteps, means_of_bins
from analysis.reading.database import BINNED, Selection, ask, ask_once
from analysis.statistics.cosines import groups_of, of_steps, pooled
from analysis.statistics.series import FEWEST_STEPS, Floats, clear_mean, means, p_in_part, rate_interval, row_means
from ortho_lora.record.jackknife import Cosines
from ortho_lora.record.judge import Estimates, judge, times_needed
from ortho_lora.record.schema import RunInfo, TaskInfo, read_run

PAIR = ["branch", "task_i", "task_j"]
_TOLD = ["cosine", "cosine_low", "cosine_high", "q", "verdict", "more"]
_TASK_COLUMNS = {"task", "task_i", "task_j", "against"}


def task_matrix(run: Path, selection: Selection) -> pd.DataFrame:
    """How each pair of tasks agrees, over all steps and blocks selected.

    Returns:
        branch, task_i, task_j;
        cos_before, cos_after: mean cosine;
        rate_before, rate_after: share of the measured cosines that are negative, 0 to 1;
        measured, measured_after: number of cosines measured;
        similarity: mean magnitude similarity 2 n_i n_j / (n_i^2 + n_j^2) of the two norms on a block, 0 to 1 (alike);
        cos_low, cos_high, rate_low, rate_high: 95% interval of cos_before and rate_before (`statistics.series`),
        null with fewer than 8 steps; cos_after_low, cos_after_high, rate_after_low, rate_after_high: the same after;
        cos_change, rate_change: after less before; with _low, _high: interval of the change from step to step;
        steps, cosine, cosine_low, cosine_high, q, verdict, more: as in `agreement`, or of a snapshot (`with_snapshot`);
        snapshot: its step, null without one;
        shares_texts: whether the two tasks draw the same texts.
    """
    by_step = _sums(run, selection)
    series = BySteps(by_step, PAIR)
    sums = {name: np.nansum(series[name], axis=1) for name in _SUMS}
    frame = series.keys
    for name, above, below in (
        ("cos_before", "cosines", "measured"),
        ("cos_after", "cosines_after", "measured_after"),
        ("rate_before", "conflicts", "measured"),
        ("rate_after", "conflicts_after", "measured_after"),
        ("similarity", "similarity", "measured"),
    ):
        frame[name] = sums[above] / np.where(sums[below] > 0, sums[below], np.nan)
    for name in ("measured", "measured_after"):
        frame[name] = sums[name].astype(np.int64)
    of_steps, info = _means(by_step), read_run(run)
    _add_after(frame, BySteps(of_steps, PAIR))
    found = agreement(of_steps, info)
    columns = ["cos_low", "cos_high", "rate_low", "rate_high", *_TOLD, "steps"]
    frame = with_snapshot(frame.merge(found[[*PAIR, *columns]], how="left", on=PAIR), run, selection)
    frame["shares_texts"] = [
        shares_texts(info.tasks, one, other) for one, other in zip(frame["task_i"], frame["task_j"], strict=True)
    ]
    return frame.sort_values(PAIR, key=configured(run), ignore_index=True)


def with_snapshot(frame: pd.DataFrame, run: Path, selection: Selection) -> pd.DataFrame:
    """Have a snapshot, where there is one of what is selected, say what is told of each pair: it sees through noise.

    Args:
        frame: with PAIR, cosine, cosine_low, cosine_high, q, verdict, more, and counts of steps or measurements.
        run, selection: as of `snapshots.snapshot_matrix`.

    Returns:
        The frame with the column snapshot, and a row for each of the snapshot's: of the branch `both` there are no
        steps. Its pairs have no verdict but the snapshot's.
    """
    found = snapshot_matrix(run, selection)
    if found.empty:
        return frame.assign(snapshot=pd.Series(pd.NA, index=frame.index, dtype="Int64"))
    counts = [name for name in ("steps", "measured", "measured_after") if name in frame]
    told = found[[*PAIR, *_TOLD, "snapshot"]].astype({"snapshot": "Int64"})
    every = frame.drop(columns=_TOLD).merge(told, how="outer", on=PAIR)
    every["verdict"] = every["verdict"].fillna("not enough data")
    return every.fillna(dict.fromkeys(counts, 0)).astype(dict.fromkeys(counts, np.int64))


def _add_after(frame: pd.DataFrame, series: BySteps) -> None:
    """Add to the rows of `series` the intervals after projection, and the change that it makes."""
    low, high = means(series["cos_after"]).interval()
    bounds = {
        "cos_after": (np.maximum(low, -1.0), np.minimum(high, 1.0)),
        "rate_after": rate_interval(series["rate_after"]),
    }
    for name in ("cos", "rate"):
        frame[f"{name}_change"] = frame[f"{name}_after"] - frame[f"{name}_before"]
        bounds[f"{name}_change"] = means(series[f"{name}_after"] - series[name]).interval()
    for name, (low, high) in bounds.items():
        frame[f"{name}_low"], frame[f"{name}_high"] = low, high


def noise(run: Path, selection: Selection) -> pd.DataFrame:
    """What two halves of one task's own batches agree on: the floor to read cosines between tasks against.

    Returns:
        branch, task;
        same_task_cosine: cosine of the gradients of two half batches, sum h / sum (2 norm^2 - h) over the selection,
        from <g^a, g^b> = h and |g^a + g^b|^2 = 4 norm^2;
        signal: mean over steps of the sum of h over blocks, an estimate of the squared norm of the gradient without
        batch noise; null unless it exceeds three standard errors over at least 8 steps;
        measured: number of half products.
    """
    by_step = task_steps(run, selection)
    keys = ["branch", "task"]
    series = BySteps(by_step, keys)
    frame = series.keys
    for name in ("half", "whole", "measured"):
        frame[name] = np.nansum(series[name], axis=1)
    frame["measured"] = frame["measured"].astype(np.int64)
    frame["same_task_cosine"] = frame["half"] / frame["whole"].where(frame["whole"] > 0)
    frame["signal"] = clear_mean(series["half"])
    frame = frame[[*keys, "same_task_cosine", "signal", "measured"]]
    return frame.sort_values(keys, key=configured(run), ignore_index=True)


def task_steps(run: Path, selection: Selection) -> pd.DataFrame:
    """Each task in each recorded step (as in `pair_steps`), over the blocks selected.

    Returns:
        branch, task, step; half, whole: sums of h and of 2 norm^2 - h as in `noise`; null: none; measured: number of h;
        squares: sum of norm^2; shared: half / whole where every block with a gradient is halved.
    """
    return ask_once(
        run,
        ["norm_cells"],
        f"""
        WITH {_unit("norm_cells")}
        SELECT branch, task, {_STEP},
            CASE WHEN sum(halved) > 0 THEN sum(half) END AS half,
            CASE WHEN sum(halved) > 0 THEN sum(whole) END AS whole, CAST(sum(halved) AS BIGINT) AS measured,
            sum(squares) AS squares,
            CASE WHEN sum(halved) >= sum(with_gradient) THEN sum(half) / nullif(sum(whole), 0) END AS shared
        FROM norm_cells, unit GROUP BY ALL ORDER BY ALL
        """,
        selection,
        {"most": MOST_STEPS},
        level="by_step",
    )


def pair_steps(run: Path, selection: Selection) -> pd.DataFrame:
    """Each pair in each recorded step, over the blocks selected.

    Of more than `MOST_STEPS` steps, and in a record of more than `rollups.RAW_ROWS` rows, asked about some layers or
    modules, a step stands for a bin of steps, and has their mean: intervals hold, and an effective sample size is
    too small rather than too large.

    Returns:
        branch, task_i, task_j, step;
        cos, cos_after: mean cosine of the blocks; rate, rate_after: share of them that is negative; null: none;
        whole: cosine of the gradients on all these blocks together; half_i, half_j: of those of two halves of each
        task's batch, null where a block has none; steps: how many it stands for.
    """
    frame = _means(_sums(run, selection))
    return frame.sort_values([*PAIR, "step"], key=configured(run), ignore_index=True)


MOST_STEPS = 500
"""Steps, or bins of steps, that means and their intervals are told from."""
_STEP = "unit.origin + (step - unit.origin) // unit.width * unit.width AS step"


def _unit(cells: str) -> str:
    """The steps in a bin, so that there are not too many; never less than a cell has."""
    return f"""
        unit AS (
            SELECT any_value(origin) AS origin,
                greatest(any_value(width), CAST(ceil((max(step_end) - min(step) + 1) / $most) AS INTEGER)) AS width
            FROM {cells}, cell
        )
    """


_SUMS = ["measured", "measured_after", "cosines", "cosines_after", "conflicts", "conflicts_after", "similarity"]


def _sums(run: Path, selection: Selection) -> pd.DataFrame:
    """Of each pair in each step or bin of steps, what means are made of."""
    added = ", ".join(f"CAST(sum({name}) AS DOUBLE) AS {name}" for name in _SUMS)
    sums = ask_once(
        run,
        ["joint_cells"],
        f"""
        WITH {_unit("joint_cells")}
        SELECT branch, task_i, task_j, {_STEP}, {added}, sum(inner_product) AS inner_product,
            CAST(count(DISTINCT step) AS DOUBLE) AS steps
        FROM joint_cells, unit GROUP BY ALL
        """,
        selection,
        {"most": MOST_STEPS},
        level="by_step",
    )
    of_tasks = task_steps(run, selection).set_index(["branch", "task", "step"])[["squares", "shared"]]
    for side in "ij":
        rows = pd.MultiIndex.from_frame(sums[["branch", f"task_{side}", "step"]])
        sums[[f"square_{side}", f"half_{side}"]] = of_tasks.reindex(rows).to_numpy()
    scale = np.sqrt(sums["square_i"] * sums["square_j"])
    return sums.assign(whole=sums["inner_product"] / scale.where(scale > 0))


def _means(sums: pd.DataFrame) -> pd.DataFrame:
    before, after = (sums[name].where(sums[name] > 0) for name in ("measured", "measured_after"))
    return pd.DataFrame(
        {
            **{name: sums[name] for name in (*PAIR, "step")},
            "cos": sums["cosines"] / before,
            "cos_after": sums["cosines_after"] / after,
            "rate": sums["conflicts"] / before,
            "rate_after": sums["conflicts_after"] / after,
            **{name: sums[name] for name in ("whole", "half_i", "half_j", "steps")},
        }
    )


def model_steps(run: Path) -> pd.DataFrame:
    """Each pair in each recorded step, its gradients on all blocks taken as one.

    Returns:
        task_i, task_j, step; square_i, square_j: squared norms; signal_i, signal_j: sums of half products, null where
        there are none; cos, rate: the cosine, and 1 where it is negative; whole, half_i, half_j, steps: as in
        `pair_steps`.
    """
    frame = ask(
        run,
        ["joint_cells"],
        """
        SELECT task_i, task_j, step, sum(square_i) AS square_i, sum(square_j) AS square_j,
            CASE WHEN sum(halved) > 0 THEN sum(half_i) END AS signal_i,
            CASE WHEN sum(halved) > 0 THEN sum(half_j) END AS signal_j, 1.0 AS steps,
            sum(inner_product) / nullif(sqrt(sum(square_i) * sum(square_j)), 0) AS whole,
            sum(halved) >= sum(measured) AS all_halved,
            CASE WHEN all_halved THEN signal_i / nullif(2 * sum(square_i) - signal_i, 0) END AS half_i,
            CASE WHEN all_halved THEN signal_j / nullif(2 * sum(square_j) - signal_j, 0) END AS half_j
        FROM joint_cells GROUP BY ALL ORDER BY ALL
        """,
        level="by_step",
    )
    return frame.assign(cos=frame["whole"], rate=(frame["whole"] < 0).astype(float).where(frame["whole"].notna()))


def agreement(by_step: pd.DataFrame, info: RunInfo, keys: Sequence[str] = PAIR) -> pd.DataFrame:
    """What `pair_steps` of a run says of each pair in all its steps, with 95% intervals and a verdict.

    Returns:
        `keys`, by default branch, task_i, task_j;
        steps: steps with a cosine;
        cos, cos_low, cos_high: mean over steps of the blocks' mean cosine, as the batches had it;
        rate, rate_low, rate_high: mean share of negative cosines, 0 to 1;
        cosine, cosine_low, cosine_high: of the tasks' mean gradients, as of `statistics.cosines`; the first is null
        where only its interval is known; p: two-sided, of its being 0;
        q, verdict: of `judge`, on all these rows together; more: further steps until it has one, if they go on like
        these: 0 where it has, null: not known, or more than a thousand times as many.
    """
    series = BySteps(by_step, keys)
    cosines = _cosines(series, info)
    frame = _with(_measured(series), cosines)
    found = judge(Estimates.of(cosines))
    frame["q"], frame["verdict"] = found.q, found.verdict
    steps = (~np.isnan(series["whole"])).sum(axis=1)  # or bins of them

    def freedom(times: float) -> Floats:
        later = np.rint(times * steps).astype(np.int64)
        return np.asarray(groups_of(later) - 1, dtype=np.float64)

    times = times_needed(cosines, freedom)
    frame["more"] = np.ceil(frame["steps"] * (np.where(np.isinf(times), np.nan, times) - 1))
    return frame


def _measured(series: BySteps) -> pd.DataFrame:
    frame = series.keys
    batches = means(series["cos"])
    frame["steps"] = np.where(np.isnan(series["whole"]), 0.0, series["steps"]).sum(axis=1).astype(np.int64)
    frame["cos"] = batches.value
    low, high = batches.interval()
    frame["cos_low"], frame["cos_high"] = np.maximum(low, -1.0), np.minimum(high, 1.0)
    rates = series["rate"]
    frame["rate"] = row_means(rates)
    frame["rate_low"], frame["rate_high"] = rate_interval(rates)
    return frame


def _cosines(series: BySteps, info: RunInfo) -> Cosines:
    pairs = series.keys[["task_i", "task_j"]].itertuples(index=False, name=None)
    shared = np.array([shares_texts(info.tasks, *pair) for pair in pairs], dtype=bool)
    values = [series[name] for name in ("whole", "half_i", "half_j")]
    return of_steps(*values, shares_texts=shared)


def _with(frame: pd.DataFrame, cosines: Cosines) -> pd.DataFrame:
    low, high = cosines.interval()
    return frame.assign(cosine=cosines.value, cosine_low=low, cosine_high=high, p=cosines.p_value())


def windows(run: Path, selection: Selection, count: int = 8) -> pd.DataFrame:
    """How each pair agrees in each of up to `count` windows of as many recorded steps, of at least 8.

    Returns:
        step, step_end (first and last recorded step of the window); the columns of `agreement` up to p, with the errors
        of its cosines pooled over the windows; same_task_i, same_task_j: cosine of the two half batches of each task,
        as in `noise`, null where not halved.
    """
    frame = by_window(pair_steps(run, selection), read_run(run), count)
    if frame.empty:
        return frame.assign(same_task_i=np.float64(), same_task_j=np.float64())
    of_tasks = task_steps(run, selection)
    begins = np.unique(frame["step"])
    of_tasks["step"] = begins[np.searchsorted(begins, of_tasks["step"], side="right") - 1]
    sums = of_tasks.groupby(["branch", "task", "step"])[["half", "whole"]].sum(min_count=1)
    same = sums["half"] / sums["whole"].where(sums["whole"] > 0)
    for side in "ij":
        rows = pd.MultiIndex.from_frame(frame[["branch", f"task_{side}", "step"]])
        frame[f"same_task_{side}"] = same.reindex(rows).to_numpy()
    return frame.sort_values([*PAIR, "step"], key=configured(run), ignore_index=True)


def by_window(by_step: pd.DataFrame, info: RunInfo, count: int) -> pd.DataFrame:
    """The same from the rows of `pair_steps`, in their order."""
    every = BySteps(by_step, PAIR)
    count = min(count, max(len(every.steps) // FEWEST_STEPS, 1))
    parts = [every.part(columns) for columns in np.array_split(np.arange(len(every.steps)), count)]
    frames = []
    for part, cosines in zip(parts, pooled([_cosines(part, info) for part in parts]), strict=True):
        frame = _with(_measured(part), cosines)
        frame.insert(0, "step", part.steps[0] if len(part.steps) else 0)
        frame.insert(1, "step_end", part.steps[-1] if len(part.steps) else 0)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def block_cosines(run: Path, selection: Selection, bins: int = 64) -> pd.DataFrame:
    """The mean cosine of each pair on each block, from the means of up to `bins` bins of steps.

    Returns:
        branch, layer, module, task_i, task_j; cos: mean over bins; p: as of `p_in_part`, three windows.
    """
    keys = ["branch", "layer", "module", "task_i", "task_j"]
    binned = ask(
        run,
        ["pair_cells"],
        f"""
        WITH chosen AS (SELECT * FROM pair_cells), {BINNED}
        SELECT {", ".join(keys)}, list(step) AS steps, list(coalesce(cosines, 0)) AS sums, list(measured) AS counts
        FROM binned GROUP BY ALL
        """,
        selection,
        {"bins": bins},
    )
    cosines = means_of_bins(binned)
    found = binned[keys].assign(cos=means(cosines).value, p=p_in_part(cosines, min(3, cosines.shape[1] // 20)))
    return found.sort_values(keys, key=configured(run), ignore_index=True)


def batches_needed(run: Path, selection: Selection) -> pd.DataFrame:
    """How many more recorded steps, a batch of every task each, it takes until a pair has a verdict.

    Returns:
        branch, task_i, task_j, steps, verdict, more: as in `agreement`.
    """
    return task_matrix(run, selection)[[*PAIR, "steps", "verdict", "more"]]


def shares_texts(tasks: Sequence[TaskInfo], one: str, other: str) -> bool:
    """Whether the batches of two tasks hold the same texts: one is the other's twin, or both are of a third."""
    drawn_by = {task.name: task.twin_of or task.name for task in tasks}
    return drawn_by.get(one, one) == drawn_by.get(other, other)


def configured(run: Path) -> Callable[[pd.Series], pd.Series]:
    """Key for `sort_values` that puts tasks in the order of the configuration, and the whole model before branches."""
    place = {name: index for index, name in enumerate(read_run(run).task_names)}

    def key(column: pd.Series) -> pd.Series:
        if column.name == "branch":
            return column.where(column != WHOLE, "")  # first
        return column.map(place) if column.name in _TASK_COLUMNS else column

    return key
