"""How each pair of tasks agrees, with intervals: over a selection, by window of steps, and how much more it takes.

A row of the frames is one pair on one branch. Raw cosines are those of single batches, averaged: noise pulls them to
zero. Corrected ones estimate the cosine of the gradients without batch noise, from half products (see `noise`).
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.database import BINNED, Selection, ask
from analysis.statistics import (
    FEWEST_STEPS,
    Floats,
    clear_mean,
    cosine_interval,
    cosine_of_sums,
    means,
    p_in_part,
    rate_interval,
    steps_for_width,
)
from ortho_lora.schema import TaskInfo, read_run

PAIR = ["branch", "task_i", "task_j"]
_TASK_COLUMNS = {"task", "task_i", "task_j", "against"}


def task_matrix(run: Path, selection: Selection) -> pd.DataFrame:
    """How each pair of tasks agrees, over all steps and blocks selected.

    Returns:
        branch, task_i, task_j;
        cos_before, cos_after: mean cosine;
        rate_before, rate_after: share of the measured cosines that are negative, 0 to 1;
        measured, measured_after: number of cosines measured;
        cos_low, cos_high, rate_low, rate_high: 95% interval of cos_before and rate_before (`analysis.statistics`),
        null with fewer than 8 steps;
        effective: effective sample size, the independent steps that cos_before is worth; null with fewer than 8;
        corrected, corrected_low, corrected_high: as in `agreement`.
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
    found = agreement(pair_steps(run, selection), read_run(run).tasks)
    columns = ["cos_low", "cos_high", "rate_low", "rate_high", "effective"]
    columns += ["corrected", "corrected_low", "corrected_high"]
    frame = frame.merge(found[[*PAIR, *columns]], how="left", on=PAIR)
    return frame.sort_values(PAIR, key=configured(run), ignore_index=True)


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
    frame["signal"] = clear_mean(series(by_step, ["branch", "task"], "half", frame))
    frame = frame[["branch", "task", "same_task_cosine", "signal", "measured"]]
    return frame.sort_values(["branch", "task"], key=configured(run), ignore_index=True)


def pair_steps(run: Path, selection: Selection) -> pd.DataFrame:
    """Each pair in each recorded step, over the blocks selected.

    Returns:
        branch, task_i, task_j, step;
        cos, cos_after: mean cosine of the blocks; rate, rate_after: share of them that is negative; null: none;
        inner: sum of <g_i, g_j>; square_i, square_j: sums of squared norms;
        product, half_i, half_j: sums of <g_i, g_j> and of each task's half products, over the blocks that have both.
    """
    return ask(
        run,
        ["pairs", "norms"],
        """
        WITH blocks AS (
            SELECT pairs.*, coalesce(cos_before, 0) * CAST(i.norm_before AS DOUBLE) * j.norm_before AS inner_product,
                CAST(i.norm_before AS DOUBLE) ** 2 AS of_i, CAST(j.norm_before AS DOUBLE) ** 2 AS of_j,
                CAST(i.half_product AS DOUBLE) AS h_i, CAST(j.half_product AS DOUBLE) AS h_j,
                h_i IS NOT NULL AND h_j IS NOT NULL AS halved
            FROM pairs
                LEFT JOIN norms AS i ON i.step = pairs.step AND i.layer = pairs.layer AND i.module = pairs.module
                    AND i.branch = pairs.branch AND i.task = task_i
                LEFT JOIN norms AS j ON j.step = pairs.step AND j.layer = pairs.layer AND j.module = pairs.module
                    AND j.branch = pairs.branch AND j.task = task_j
        )
        SELECT branch, task_i, task_j, step,
            avg(cos_before) AS cos, avg(cos_after) AS cos_after,
            avg(CAST(cos_before < 0 AS INTEGER)) AS rate, avg(CAST(cos_after < 0 AS INTEGER)) AS rate_after,
            sum(inner_product) AS inner, sum(of_i) AS square_i, sum(of_j) AS square_j,
            sum(inner_product) FILTER (halved) AS product,
            sum(h_i) FILTER (halved) AS half_i, sum(h_j) FILTER (halved) AS half_j
        FROM blocks GROUP BY ALL ORDER BY ALL
        """,
        selection,
    )


def agreement(by_step: pd.DataFrame, tasks: Sequence[TaskInfo], keys: Sequence[str] = PAIR) -> pd.DataFrame:
    """What `pair_steps` says of each pair in all its steps, with 95% intervals.

    Returns:
        `keys`, by default branch, task_i, task_j;
        steps: steps with a cosine; effective: independent steps that these are worth, null with fewer than 8;
        cos, cos_low, cos_high: mean over steps of the blocks' mean cosine; p: two-sided, of its being 0;
        rate, rate_low, rate_high: mean share of negative cosines, 0 to 1;
        corrected: sum <g_i, g_j> / sqrt(sum h_i sum h_j) with the half products h, the cosine of the gradients without
        their batch noise, so of more steps and blocks and weighted by their norms; null unless both sums exceed
        three standard errors, and for tasks that draw the same texts: their noise is shared, their raw cosine the
        right one; corrected_low, corrected_high: its interval by Fieller's theorem.
    """
    keys = list(keys)
    frame = by_step[keys].drop_duplicates(ignore_index=True)
    cosines = means(series(by_step, keys, "cos", frame))
    frame["steps"], frame["effective"], frame["cos"] = cosines.steps, cosines.effective, cosines.value
    low, high = cosines.interval()
    frame["cos_low"], frame["cos_high"] = np.maximum(low, -1.0), np.minimum(high, 1.0)
    frame["p"] = cosines.p_value()
    rates = series(by_step, keys, "rate", frame)
    frame["rate"], (frame["rate_low"], frame["rate_high"]) = means(rates).value, rate_interval(rates)

    sums = [series(by_step, keys, column, frame) for column in ("product", "half_i", "half_j")]
    low, high = cosine_interval(*sums)
    clear = ~np.isnan(clear_mean(sums[1])) & ~np.isnan(clear_mean(sums[2])) & ~np.isnan(low)
    twins = [shares_texts(tasks, one, other) for one, other in zip(frame["task_i"], frame["task_j"], strict=True)]
    usable = clear & ~np.array(twins, dtype=bool)
    found = {"": cosine_of_sums(*sums), "_low": np.maximum(low, -1.0), "_high": np.minimum(high, 1.0)}
    for name, values in found.items():
        frame[f"corrected{name}"] = np.where(usable, values, np.nan)
    return frame


def windows(run: Path, selection: Selection, count: int = 8) -> pd.DataFrame:
    """How each pair agrees in each of up to `count` windows of as many recorded steps, of at least 8.

    Returns:
        step, step_end (first and last recorded step of the window); the columns of `agreement`; same_task_i,
        same_task_j: cosine of the two half batches of each task, null where not halved.
    """
    return by_window(pair_steps(run, selection), read_run(run).tasks, count).sort_values(
        [*PAIR, "step"], key=configured(run), ignore_index=True
    )


def by_window(by_step: pd.DataFrame, tasks: Sequence[TaskInfo], count: int) -> pd.DataFrame:
    """The same from the rows of `pair_steps`, in their order."""
    steps = np.unique(by_step["step"])
    frames = []
    for chosen in np.array_split(steps, min(count, max(len(steps) // FEWEST_STEPS, 1))) if len(steps) else [steps]:
        part = by_step[by_step["step"].isin(chosen)]
        frame = agreement(part, tasks)
        frame.insert(0, "step", chosen[0] if len(chosen) else 0)
        frame.insert(1, "step_end", chosen[-1] if len(chosen) else 0)
        sums = part.groupby(PAIR, observed=True)[["half_i", "half_j", "square_i", "square_j"]].sum(min_count=1)
        sums = sums.reindex(pd.MultiIndex.from_frame(frame[PAIR]))
        for side in "ij":
            half, square = sums[f"half_{side}"].to_numpy(), sums[f"square_{side}"].to_numpy()
            frame[f"same_task_{side}"] = half / np.where(2 * square > half, 2 * square - half, np.nan)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def block_cosines(run: Path, selection: Selection, bins: int = 64) -> pd.DataFrame:
    """The mean cosine of each pair on each block, from the means of up to `bins` bins of steps.

    Returns:
        branch, layer, module, task_i, task_j; cos: mean over bins; p: as of `p_in_part`, three windows.
    """
    binned = ask(
        run,
        ["pairs"],
        f"""
        WITH chosen AS (SELECT * FROM pairs), {BINNED}
        SELECT branch, layer, module, task_i, task_j, step, avg(cos_before) AS cos FROM binned GROUP BY ALL ORDER BY ALL
        """,
        selection,
        {"bins": bins},
    )
    keys = ["branch", "layer", "module", "task_i", "task_j"]
    frame = binned[keys].drop_duplicates(ignore_index=True)
    cosines = series(binned, keys, "cos", frame)
    return frame.assign(cos=means(cosines).value, p=p_in_part(cosines, min(3, cosines.shape[1] // 20)))


def batches_needed(run: Path, selection: Selection, half_width: float = 0.05) -> pd.DataFrame:
    """How many more recorded steps, a batch of every task each, a pair needs, if these go on like those recorded.

    The error of a mean falls with the root of the number of steps.

    Args:
        run, selection: as everywhere.
        half_width: wanted half width of the 95% intervals.

    Returns:
        branch, task_i, task_j, steps, effective: as in `agreement`;
        half_width, corrected_half_width: of the interval now; null where there is none;
        to_exclude_zero, corrected_to_exclude_zero: more steps until the interval of a cosine as found excludes 0; 0: it
        does; null: not known, or the cosine is 0;
        to_width, corrected_to_width: more steps until it is as narrow as wanted.
    """
    frame = needed(agreement(pair_steps(run, selection), read_run(run).tasks), half_width)
    return frame.sort_values(PAIR, key=configured(run), ignore_index=True)


def needed(found: pd.DataFrame, half_width: float = 0.05) -> pd.DataFrame:
    """The same from a frame of `agreement`."""
    frame = found[[*PAIR, "steps", "effective"]].copy()
    steps = found["steps"].to_numpy(np.float64)
    for prefix, name in (("", "cos"), ("corrected_", "corrected")):
        value, low, high = (found[column].to_numpy(np.float64) for column in (name, f"{name}_low", f"{name}_high"))
        now = (high - low) / 2
        excluded = np.where(np.abs(value) > 0, np.abs(value), np.nan)
        frame[f"{prefix}half_width"] = now
        for goal, wanted in (("to_exclude_zero", excluded), ("to_width", np.full(len(found), half_width))):
            more = steps_for_width(steps, now, wanted) - steps
            frame[f"{prefix}{goal}"] = np.maximum(more, 0)
        frame.loc[(low > 0) | (high < 0), f"{prefix}to_exclude_zero"] = 0
    return frame


def shares_texts(tasks: Sequence[TaskInfo], one: str, other: str) -> bool:
    """Whether the batches of two tasks hold the same texts: one is the other's twin, or both are of a third."""
    drawn_by = {task.name: task.twin_of or task.name for task in tasks}
    return drawn_by.get(one, one) == drawn_by.get(other, other)


def configured(run: Path) -> Callable[[pd.Series], pd.Series]:
    """Key for `sort_values` that puts tasks in the order of the configuration, and leaves other columns."""
    place = {name: index for index, name in enumerate(read_run(run).task_names)}
    return lambda column: column.map(place) if column.name in _TASK_COLUMNS else column


def series(by_step: pd.DataFrame, keys: list[str], value: str, rows: pd.DataFrame) -> Floats:
    """The values by step, [rows, steps], in the order of `rows`."""
    wide = by_step.pivot(index=keys, columns="step", values=value)
    values: Floats = wide.reindex(pd.MultiIndex.from_frame(rows[keys])).to_numpy(np.float64)
    return values
