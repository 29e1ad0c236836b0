"""What a run's snapshots say of its pairs: cosines of mean gradients, seen through the noise of batches."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from analysis.library.names import WHOLE as WHOLE
from analysis.reading.database import Selection, ask_once
from analysis.reading.rollups import SNAPSHOT_CELLS
from ortho_lora.record import snapshots
from ortho_lora.record.jackknife import Floats
from ortho_lora.record.judge import LEVEL, TOLD, Estimates, judge, times_needed
from ortho_lora.record.products import cosines
from ortho_lora.record.schema import read_run
from ortho_lora.record.snapshots import METRICS, MetricName, metric_of

By = Literal["branch", "layer", "module"]

COLUMNS = ("task_i", "task_j", "cosine", "low", "high", "p", "q", "verdict")
_BLOCK = ("branch", "layer", "module", "task_i", "task_j")


def own_metric(run: Path) -> MetricName:
    """The metric of the run's optimizer."""
    return metric_of(read_run(run).config.get("optimizer"))


def snapshot_steps(run: Path) -> list[int]:
    """After which steps its snapshots were taken."""
    return _known(run)["step"].drop_duplicates().tolist()


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
    frames = [cells.frame() for cells in _cells(run, selection, metric, by)]
    if not frames:
        types = {"step": "int64", **dict.fromkeys((*by, "task_i", "task_j", "verdict"), "str")}
        return pd.DataFrame({name: pd.Series(dtype=types.get(name, "float64")) for name in ("step", *by, *COLUMNS)})
    return pd.concat(frames, ignore_index=True)


def snapshot_table(run: Path, selection: Selection | None = None) -> pd.DataFrame:
    """`snapshot_pairs` of the whole model and of each branch, in both metrics; branch `both`: of the whole model."""
    frames = []
    for metric in METRICS:
        whole = snapshot_pairs(run, selection, metric)
        whole.insert(1, "branch", WHOLE)
        for frame in (whole, snapshot_pairs(run, selection, metric, ("branch",))):
            frame.insert(1, "metric", metric)
            frames.append(frame)
    return pd.concat([frame for frame in frames if len(frame)] or frames[:1], ignore_index=True)


def snapshot_matrix(
    run: Path, selection: Selection | None = None, metric: MetricName | None = None, at: int | None = None
) -> pd.DataFrame:
    """What the snapshots of a run say of each pair, of the whole model and of each branch.

    Args:
        run: directory of the run.
        selection: which blocks; of its steps those snapshots count that were taken before, at or right after the last.
        metric: None: that of the run's optimizer.
        at: the step of one snapshot; None: all together (`together`).

    Returns:
        branch (`both`, where none is selected, `A`, `B`), task_i, task_j; snapshot: step of the last that counts;
        metric; cosine, cosine_low, cosine_high, q, verdict: as in `snapshot_pairs`, those on the whole model judged
        among themselves; more: batches of every task until there is a verdict, if they go on like these, NaN: not
        known, or more than a thousand times as many; steps: 0.
    """
    selection, metric = selection or Selection(), metric or own_metric(run)
    counted = together(run, selection) if at is None else [step for step in _steps_of(run, selection) if step == at]
    cells_of: tuple[tuple[By, ...], ...] = (("branch",),) if selection.branches else ((), ("branch",))
    frames = []
    for by in cells_of if counted else ():
        cells = _together(run, selection, metric, by, counted)
        frame = cells.frame().assign(more=cells.more())
        if not by:
            frame["branch"] = WHOLE
        frames.append(frame)
    columns = {"step": "snapshot", "low": "cosine_low", "high": "cosine_high"}
    if not frames:
        names = ["branch", *(columns.get(name, name) for name in ("step", *COLUMNS)), "metric", "more", "steps"]
        return pd.DataFrame({name: pd.Series(dtype="float64") for name in names})
    found = pd.concat(frames, ignore_index=True).rename(columns=columns)
    return found.assign(metric=metric, steps=0)


def over_snapshots(run: Path, selection: Selection | None = None, metric: MetricName | None = None) -> pd.DataFrame:
    """`snapshot_matrix` of each snapshot by itself, below each other; a run has one at least."""
    return pd.concat([snapshot_matrix(run, selection, metric, at) for at in snapshot_steps(run)], ignore_index=True)


def together(run: Path, selection: Selection | None = None) -> list[int]:
    """The steps of the snapshots that count together (`ortho_lora.record.snapshots.together`); none: there are none."""
    known = _known(run)
    known = known[known["step"].isin(_steps_of(run, selection or Selection()))]
    rows = list(zip(known["step"].tolist(), known["task"], known["groups"], strict=True))
    return snapshots.together(rows, of_training=bool(read_run(run).config.get("snapshots")))


def _steps_of(run: Path, selection: Selection) -> list[int]:
    first, last = selection.steps or (0, np.inf)
    return [step for step in snapshot_steps(run) if first <= step <= last + 1]


def snapshot_blocks(run: Path, selection: Selection | None = None) -> pd.DataFrame:
    """What the snapshots of `snapshot_matrix` say of each pair on each block, and where the verdict on it shows.

    Returns:
        branch, layer, module, task_i, task_j, cosine, low, high, q: among all blocks and pairs; verdict: on the pair
        and branch; clear: whether q is at most `judge.LEVEL`, on the verdict's side. No rows without a snapshot.
    """
    matrix = snapshot_matrix(run, selection)
    if matrix.empty:
        return pd.DataFrame(columns=[*_BLOCK, "cosine", "low", "high", "q", "verdict", "clear"])
    keys, chosen = ["branch", "task_i", "task_j"], selection or Selection()
    cells = _together(run, chosen, own_metric(run), ("branch", "layer", "module"), together(run, chosen))
    found = cells.frame().drop(columns="verdict")
    found = found.merge(matrix[[*keys, "verdict"]], how="left", on=keys)
    sides = {"conflict": found["high"] <= 0, "aligned": found["low"] >= 0}
    there = np.logical_or.reduce([(found["verdict"] == verdict) & side for verdict, side in sides.items()])
    found["clear"] = (found["q"] <= LEVEL) & there
    return found[[*_BLOCK, "cosine", "low", "high", "q", "verdict", "clear"]]


def snapshot_layers(run: Path, selection: Selection | None = None) -> pd.DataFrame:
    """What each snapshot says of each pair on each layer, in the metric of the run's optimizer.

    Returns:
        step, branch, layer, task_i, task_j, cosine, low, high, q, verdict: as of `snapshot_pairs`, among the layers and
        pairs of the snapshot; clear: whether that is conflict or aligned.
    """
    found = snapshot_pairs(run, selection, own_metric(run), ("branch", "layer"))
    return found.drop(columns="p").assign(clear=found["verdict"].isin(TOLD))


def layers_together(run: Path) -> pd.DataFrame:
    """The same of the snapshots that count together: branch, layer, and the columns of `snapshot_layers`."""
    steps = together(run)
    if not steps:
        return snapshot_layers(run).drop(columns="step")
    found = _together(run, Selection(), own_metric(run), ("branch", "layer"), steps).frame()
    return found.drop(columns=["step", "p"]).assign(clear=found["verdict"].isin(TOLD))


def snapshot_norms(run: Path) -> pd.DataFrame:
    """Of the whole model by the snapshots of `snapshot_matrix`, in the gradients' own space.

    Returns:
        task_i, task_j, cosine; ratio: of the true gradients' norms, i to j. NaN where a norm is not clear of noise.
    """
    if not (steps := together(run)):
        return pd.DataFrame(columns=["task_i", "task_j", "cosine", "ratio"])
    cells = _together(run, Selection(), "plain", (), steps)
    return cells.frame()[["task_i", "task_j", "cosine"]].assign(ratio=np.where(cells.clear, cells.ratio, np.nan))


class _Cells:
    """Cells of one snapshot: their products, [1 + m, cells, T, T], and what these say of each pair i < j."""

    def __init__(self, rows: pd.DataFrame, by: Sequence[By], known: pd.DataFrame) -> None:
        """Take rows in the order of cells, of pairs by name, and of groups, all of them before those without one."""
        self.names = known["task"].astype(str).to_numpy()
        self.batches = known["batches"].to_numpy(np.float64)
        self.cells = rows[["step", *by]].drop_duplicates(ignore_index=True)
        size = len(self.names)
        i, j = np.transpose(
            sorted(zip(*np.triu_indices(size), strict=True), key=lambda pair: tuple(self.names[[*pair]]))
        )
        of_pairs = rows["product"].to_numpy().reshape(len(self.cells), len(i), -1)  # [cells, pairs, 1 + m]
        products = np.empty((of_pairs.shape[-1], len(self.cells), size, size))
        products[:, :, i, j] = products[:, :, j, i] = np.moveaxis(of_pairs, -1, 0)
        self.i, self.j = np.triu_indices(size, 1)
        pairs = (np.arange(len(self.cells))[:, None] * size**2 + self.i * size + self.j).ravel()
        self.cosines = cosines(products, known["groups"].to_numpy(np.int64)).at(pairs)
        self.clear = ~np.isnan(self.cosines.value)
        power = np.diagonal(products[0], axis1=-2, axis2=-1)  # [cells, T]
        with np.errstate(invalid="ignore", divide="ignore"):
            self.ratio = np.sqrt(power[:, self.i] / power[:, self.j]).ravel()

    def frame(self) -> pd.DataFrame:
        known = Estimates.of_snapshot(self.cosines)
        found = judge(known)
        frame = self.cells.loc[np.repeat(np.arange(len(self.cells)), len(self.i))].reset_index(drop=True)
        of_pair = {"task_i": np.tile(self.names[self.i], len(self.cells))}
        of_pair["task_j"] = np.tile(self.names[self.j], len(self.cells))
        return frame.assign(**of_pair, cosine=self.cosines.value, **known._asdict(), q=found.q, verdict=found.verdict)

    def more(self) -> Floats:
        """As of `snapshot_matrix`."""
        times = times_needed(self.cosines, lambda times: self.cosines.freedom)
        batches = np.tile(np.minimum(self.batches[self.i], self.batches[self.j]), len(self.cells))
        return np.ceil(batches * (np.where(np.isinf(times) | self.cosines.absent, np.nan, times) - 1))


def _cells(run: Path, selection: Selection | None, metric: MetricName, by: tuple[By, ...]) -> list[_Cells]:
    """Of each snapshot."""
    rows, known = _rows(run, selection or Selection(), metric, ("step", *by)), _known(run)
    return [_Cells(of_step, by, known[known["step"] == step]) for step, of_step in rows.groupby("step")]


def _together(run: Path, selection: Selection, metric: MetricName, by: tuple[By, ...], steps: list[int]) -> _Cells:
    """Of several snapshots, which are consecutive, added up."""
    rows, known = _rows(run, replace(selection, steps=(steps[0], steps[-1])), metric, by), _known(run)
    return _Cells(rows.assign(step=steps[-1]), by, known[known["step"] == steps[-1]])


def _rows(run: Path, selection: Selection, metric: MetricName, by: tuple[str, ...]) -> pd.DataFrame:
    table = "snapshots" if "module" in by else SNAPSHOT_CELLS
    keys = ", ".join((*by, "task_i", "task_j", '"group"'))
    # The order of rows stands for pairs and groups: to hand so many names over takes longer than to add products up.
    sql = f"""
        SELECT {", ".join((*by, "sum(product) AS product"))} FROM {table} WHERE NOT target AND metric = $metric
        GROUP BY {keys} ORDER BY {keys} NULLS FIRST
    """
    return ask_once(run, (table,), sql, selection, {"metric": metric}, "by_layer")


def _known(run: Path) -> pd.DataFrame:
    sql = "SELECT step, task, groups, batches FROM snapshot_tasks WHERE NOT target"
    return ask_once(run, ("snapshot_tasks",), sql, Selection(), {}, "by_layer")
