"""What a run's snapshots say of its pairs: cosines of mean gradients, seen through the noise of batches."""

from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from analysis.reading.database import Selection, ask_once
from analysis.reading.rollups import SNAPSHOT_CELLS
from ortho_lora.record.judge import Estimates, judge
from ortho_lora.record.products import cosines
from ortho_lora.record.snapshots import METRICS, MetricName

By = Literal["branch", "layer", "module"]

COLUMNS = ("task_i", "task_j", "cosine", "low", "high", "p", "q", "verdict")


def snapshot_pairs(
    run: Path, selection: Selection | None = None, metric: MetricName = "adamw", by: tuple[By, ...] = ()
) -> pd.DataFrame:
    """A row a snapshot, cell and pair: the cosine with its 95% interval, and the verdict among those of the snapshot.

    Args:
        run: directory of the run.
        selection: which snapshots and blocks.
        metric: `adamw`, what the optimizer makes of the gradients, or `plain`.
        by: what cells are told apart by; all blocks of a cell count together.

    Returns:
        `step`, `by` and COLUMNS, in the order of the tasks; cosine NaN where a gradient is not clear of its noise, low
        and high too where there is no gradient or too little text.
    """
    places = ", ".join(("step", *by))
    table = "snapshots" if "module" in by else SNAPSHOT_CELLS
    sql = f"""
        SELECT {places}, task_i, task_j, coalesce("group", -1) AS "group", sum(product) AS product
        FROM {table} WHERE NOT target AND metric = $metric GROUP BY ALL ORDER BY ALL
    """
    rows = ask_once(run, (table,), sql, selection or Selection(), {"metric": metric}, "by_layer")
    of_tasks = "SELECT step, task, groups FROM snapshot_tasks WHERE NOT target"
    known = ask_once(run, ("snapshot_tasks",), of_tasks, Selection(), {}, "by_layer")
    found = []
    for where, cell in rows.groupby(["step", *by], sort=False, observed=True):
        of_step = known[known["step"] == where[0]]
        names = of_step["task"].astype(str).tolist()
        products = _products(cell, names)
        estimated = cosines(products, of_step["groups"].to_numpy(np.int64))
        i, j = np.triu_indices(len(names), 1)
        chosen = i * len(names) + j
        low, high = estimated.interval()
        frame = pd.DataFrame(
            {
                "task_i": np.array(names)[i],
                "task_j": np.array(names)[j],
                "cosine": estimated.value[chosen],
                "low": low[chosen],
                "high": high[chosen],
                "p": estimated.p_value()[chosen],
            }
        )
        frame.loc[estimated.absent[chosen], ["low", "high", "p"]] = np.nan
        for place, name in enumerate(("step", *by)):
            frame.insert(place, name, where[place])
        found.append(frame)
    if not found:
        types = {"step": "int64", **dict.fromkeys((*by, "task_i", "task_j", "verdict"), "str")}
        return pd.DataFrame({name: pd.Series(dtype=types.get(name, "float64")) for name in ("step", *by, *COLUMNS)})
    return pd.concat([_judged(of_step) for _, of_step in pd.concat(found).groupby("step")], ignore_index=True)


def snapshot_table(run: Path, selection: Selection | None = None) -> pd.DataFrame:
    """`snapshot_pairs` of the whole model and of each branch, in both metrics; branch `both`: of the whole model."""
    frames = []
    for metric in METRICS:
        whole = snapshot_pairs(run, selection, metric)
        whole.insert(1, "branch", "both")
        for frame in (whole, snapshot_pairs(run, selection, metric, ("branch",))):
            frame.insert(1, "metric", metric)
            frames.append(frame)
    return pd.concat([frame for frame in frames if len(frame)] or frames[:1], ignore_index=True)


def _products(cell: pd.DataFrame, names: list[str]) -> np.ndarray:
    """[1 + m, T, T], all groups before those without one."""
    place = {name: index for index, name in enumerate(names)}
    i, j = (cell[name].astype(str).map(place).to_numpy() for name in ("task_i", "task_j"))
    group = cell["group"].to_numpy() + 1
    products = np.full((group.max() + 1, len(names), len(names)), np.nan)
    products[group, i, j] = products[group, j, i] = cell["product"]
    return products


def _judged(frame: pd.DataFrame) -> pd.DataFrame:
    found = judge(Estimates(*(frame[name].to_numpy() for name in ("low", "high", "p"))))
    return frame.assign(q=found.q, verdict=found.verdict)
