"""Questions to the record of a run, answered by DuckDB as frames; a null or NaN says that nothing was measured.

A cosine is taken on one *block* (the `A` or the `B` matrix of one adapted layer) in one step. All functions raise
OrthoLoraError where a part of the record cannot be read, and return an empty frame where there are no rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.conflict.agreement import PAIR, block_cosines, configured
from analysis.conflict.agreement import batches_needed as batches_needed
from analysis.conflict.agreement import noise as noise
from analysis.conflict.agreement import task_matrix as task_matrix
from analysis.conflict.agreement import windows as windows
from analysis.conflict.snapshots import layers_together, snapshot_steps
from analysis.conflict.snapshots import over_snapshots as over_snapshots
from analysis.conflict.snapshots import snapshot_blocks as snapshot_blocks
from analysis.conflict.snapshots import snapshot_layers as snapshot_layers
from analysis.conflict.snapshots import snapshot_matrix as snapshot_matrix
from analysis.conflict.snapshots import together as together
from analysis.reading.damage import counted
from analysis.reading.database import BINNED, ask
from analysis.reading.database import Selection as Selection
from analysis.reading.rollups import Level
from ortho_lora.record.judge import LEVEL, false_discovery

_IS_PAIR = "(task_i = $one AND task_j = $other) OR (task_i = $other AND task_j = $one)"
_FREQUENCY = "(sum(projected_ij) + sum(projected_ji)) / 2 / nullif(sum(measured), 0)"
_REMOVED = "sum(removed) / nullif(sum(with_gradient), 0)"
_MEANS = """
    sum(cosines) / nullif(sum(measured), 0) AS cos_before,
    sum(cosines_after) / nullif(sum(measured_after), 0) AS cos_after
"""
_EXTREMES = "CAST(min(cosine_low) AS DOUBLE) AS low, CAST(max(cosine_high) AS DOUBLE) AS high"
_MEASURED = "CAST(sum(measured) AS BIGINT) AS measured"


@dataclass(frozen=True)
class Extent:
    """What a run has recorded of gradients; `first` and `last` step are None before anything is."""

    first: int | None
    last: int | None
    layers: tuple[int, ...] = ()
    modules: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()
    snapshots: tuple[int, ...] = ()  # their steps
    of_steps: bool = False  # whether steps are recorded, not snapshots alone


def extent(run: Path) -> Extent:
    """Steps, layers, modules, tasks and pairs (each in configuration order, as far as run.json names it)."""
    parts = counted(run).of("norms")
    snapshots = tuple(snapshot_steps(run))
    names = ask(run, ["norm_cells"], "SELECT DISTINCT layer, module, task FROM norm_cells ORDER BY ALL")
    if names.empty:
        return _of_snapshots(run, snapshots)
    found = ask(run, ["pair_cells"], "SELECT DISTINCT task_i, task_j FROM pair_cells", level="by_step")
    key = configured(run)
    return Extent(
        min(part.first for part in parts),
        max(part.last for part in parts),
        tuple(map(int, names["layer"].unique())),
        tuple(names["module"].unique()),
        tuple(names.sort_values("task", key=key)["task"].unique()),
        tuple(found.sort_values(["task_i", "task_j"], key=key).itertuples(index=False, name=None)),
        snapshots,
        of_steps=True,
    )


def _of_snapshots(run: Path, snapshots: tuple[int, ...]) -> Extent:
    """Of a run, or a probe, that has no steps."""
    if not snapshots:
        return Extent(None, None)
    sql = "SELECT DISTINCT layer, module FROM snapshots ORDER BY ALL"
    names, matrix = ask(run, ["snapshots"], sql), snapshot_matrix(run)
    pairs = tuple(matrix[["task_i", "task_j"]].drop_duplicates().itertuples(index=False, name=None))
    return Extent(
        snapshots[0],
        snapshots[-1],
        tuple(map(int, names["layer"].unique())),
        tuple(names["module"].unique()),
        tuple(dict.fromkeys(task for pair in pairs for task in pair)),
        pairs,
        snapshots,
    )


def layer_step(run: Path, pair: tuple[str, str], selection: Selection, bins: int = 120) -> pd.DataFrame:
    """The mean cosine of a pair by layer and bin of steps.

    Returns:
        branch, layer, step (first of the bin), step_end (last), cos_before, cos_after (means), low, high (extremes of
        cos_before), measured (cosines before).
    """
    columns = f"branch, layer, step, step_end, {_MEANS}, {_EXTREMES}, {_MEASURED}"
    return _binned(run, "pair_cells", columns, selection, bins, "by_layer", pair)


def module_layer_step(run: Path, pair: tuple[str, str], selection: Selection, bins: int = 30) -> pd.DataFrame:
    """The same for each module: branch, module, and the columns of `layer_step`."""
    columns = f"branch, module, layer, step, step_end, {_MEANS}, {_EXTREMES}, {_MEASURED}"
    return _binned(run, "pair_cells", columns, selection, bins, "by_block", pair)


def module_layer(run: Path, pair: tuple[str, str], selection: Selection) -> pd.DataFrame:
    """The mean cosine of a pair on each block.

    Returns:
        branch, layer, module, cos_before, cos_after (means), low, high (extremes of cos_before), measured (cosines
        before).
    """
    return ask(
        run,
        ["pair_cells"],
        f"""
        SELECT branch, layer, module, {_MEANS}, {_EXTREMES}, {_MEASURED}
        FROM pair_cells WHERE {_IS_PAIR} GROUP BY ALL ORDER BY ALL
        """,
        selection,
        {"one": pair[0], "other": pair[1]},
    )


def layer_by_layer(run: Path, pair: tuple[str, str]) -> pd.DataFrame:
    """Where a pair of tasks agrees: by the snapshots that count together, or without one by batches of all steps.

    Returns:
        branch, layer, cosine: of mean gradients, or mean of the batches' cosines before projection; low, high: its 95%
        interval, NaN of batches; clear: conflict or aligned among the layers and pairs, False of batches.
    """
    columns = ["branch", "layer", "cosine", "low", "high", "clear"]
    told = layers_together(run)
    if len(told):
        ours = set(pair)
        return told[[{*two} == ours for two in zip(told["task_i"], told["task_j"], strict=True)]][columns].reset_index(
            drop=True
        )
    found = layer_step(run, pair, Selection(), bins=1).rename(columns={"cos_before": "cosine"})
    return found.assign(low=np.nan, high=np.nan, clear=False)[columns]


def pair_over_steps(run: Path, pair: tuple[str, str], selection: Selection, bins: int = 120) -> pd.DataFrame:
    """The cosine of a pair by bin of steps.

    Returns:
        branch, step (first of the bin), step_end, cos_before, cos_after (means), low, high (extremes of cos_before).
    """
    columns = f"branch, step, step_end, {_MEANS}, {_EXTREMES}"
    return _binned(run, "pair_cells", columns, selection, bins, "by_step", pair)


def projection_over_steps(run: Path, selection: Selection, bins: int = 120) -> pd.DataFrame:
    """How often, and how far, gradients were projected, by bin of steps.

    Returns:
        branch, step (first of the bin), step_end;
        frequency: share of the measured directed pairs that were projected, 0 to 1;
        removed: mean of 1 - norm_after / norm_before over tasks and blocks with a gradient.
    """
    often, far = (
        _binned(run, cells, f"branch, step, step_end, {value}", selection, bins)
        for cells, value in (("pair_cells", f"{_FREQUENCY} AS frequency"), ("norm_cells", f"{_REMOVED} AS removed"))
    )
    keys = ["branch", "step", "step_end"]
    return often.merge(far, how="outer", on=keys).sort_values(keys, ignore_index=True)


def projection_by_layer(run: Path, selection: Selection) -> pd.DataFrame:
    """Branch, layer, and frequency and removed as in `projection_over_steps`."""
    often, far = (
        ask(run, [cells], f"SELECT branch, layer, {value} FROM {cells} GROUP BY ALL", selection, level="by_layer")
        for cells, value in (("pair_cells", f"{_FREQUENCY} AS frequency"), ("norm_cells", f"{_REMOVED} AS removed"))
    )
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
        ["pair_cells"],
        """
        WITH directed AS (
            SELECT branch, task_i AS task, task_j AS against, measured, projected_ij AS projected, removed_ij AS removed
            FROM pair_cells
            UNION ALL
            SELECT branch, task_j AS task, task_i AS against, measured, projected_ji AS projected, removed_ji AS removed
            FROM pair_cells
        )
        SELECT branch, task, against, sum(projected) / nullif(sum(measured), 0) AS frequency,
            sum(removed) / nullif(sum(projected), 0) AS removed, CAST(sum(measured) AS BIGINT) AS measured
        FROM directed GROUP BY ALL
        """,
        selection,
        level="by_step",
    ).sort_values(["branch", "task", "against"], key=configured(run), ignore_index=True)


def weights(run: Path, selection: Selection, bins: int = 120) -> pd.DataFrame:
    """Branch, task, step (first of the bin), step_end, weight: mean effective weight of the gradient in the update."""
    columns = "branch, task, step, step_end, sum(weights) / nullif(sum(reached), 0) AS weight"
    found = _binned(run, "norm_cells", columns, selection, bins)
    return found.sort_values(["branch", "task", "step"], key=configured(run), ignore_index=True)


def norms_over_steps(run: Path, selection: Selection, bins: int = 120) -> pd.DataFrame:
    """The size of each task's gradient on a block, by bin of steps.

    Returns:
        branch, task, step (first of the bin), step_end;
        norm_before, norm_after: mean over blocks; norm_high: greatest norm_before.
    """
    columns = """
        branch, task, step, step_end, sum(norms) / nullif(sum(reached), 0) AS norm_before,
        sum(norms_after) / nullif(sum(reached), 0) AS norm_after, CAST(max(norm_high) AS DOUBLE) AS norm_high
        """
    found = _binned(run, "norm_cells", columns, selection, bins)
    return found.sort_values(["branch", "task", "step"], key=configured(run), ignore_index=True)


def worst_blocks(run: Path, selection: Selection, count: int = 20) -> pd.DataFrame:
    """Where which pair conflicts most: of all pairs and blocks those with the lowest mean cosine, the lowest first.

    Returns:
        as `blocks`.
    """
    return blocks(run, selection).nsmallest(count, "cos").reset_index(drop=True)


def blocks(run: Path, selection: Selection) -> pd.DataFrame:
    """The mean cosine of each pair on each block, and where the verdict on the pair shows.

    Returns:
        branch, layer, module, task_i, task_j, cos: as of `block_cosines`; q: its p by Benjamini and Hochberg's
        procedure over all pairs and blocks; verdict: on the pair and branch, as of `task_matrix`; clear: whether q is
        at most `judge.LEVEL` and cos on the side of a verdict of conflict or aligned.
    """
    found = block_cosines(run, selection)
    found["q"] = false_discovery(found.pop("p").to_numpy())
    verdicts = task_matrix(run, selection)[[*PAIR, "verdict"]]
    found = found.merge(verdicts, how="left", on=PAIR)
    side = found["verdict"].map({"conflict": -1.0, "aligned": 1.0})
    return found.assign(clear=(found["q"] <= LEVEL) & (np.sign(found["cos"]) == side))


def one_step(run: Path, step: int, selection: Selection = Selection()) -> pd.DataFrame:  # noqa: B008  # frozen
    """All that is recorded of pairs in one step; its Gram matrices follow from it.

    Returns:
        layer, module, branch, task_i, task_j, cos_before, cos_after, projected_ij, projected_ji; norm_i, norm_j:
        norms before; similarity: 2 n_i n_j / (n_i^2 + n_j^2), null where both are 0. No rows where it has no record.
    """
    return ask(
        run,
        ["pairs", "norms"],
        """
        SELECT pairs.* EXCLUDE (step), i.norm_before AS norm_i, j.norm_before AS norm_j,
            2 * norm_i * norm_j / nullif(norm_i ** 2 + norm_j ** 2, 0) AS similarity
        FROM pairs
            LEFT JOIN norms AS i ON (i.layer, i.module, i.branch, i.task)
                = (pairs.layer, pairs.module, pairs.branch, task_i)
            LEFT JOIN norms AS j ON (j.layer, j.module, j.branch, j.task)
                = (pairs.layer, pairs.module, pairs.branch, task_j)
        """,
        replace(selection, steps=(step, step)),
    ).sort_values(["layer", "module", "branch", "task_i", "task_j"], key=configured(run), ignore_index=True)


def metrics(runs: Sequence[Path]) -> pd.DataFrame:
    """Run, step (steps done before the evaluation), split, task, metric, value, examples."""
    sql = "SELECT $run AS run, step, split, task, metric, value, examples FROM metrics"
    return _of_runs(runs, "metrics", sql, ["step", "split", "task", "metric"])


def losses(runs: Sequence[Path], bins: int = 400) -> pd.DataFrame:
    """Run, task, step (first of the bin), step_end, loss and learning_rate (means), run by run."""
    sql = f"""
        WITH chosen AS (SELECT *, step AS step_end FROM steps), {BINNED}
        SELECT $run AS run, task, step, step_end, avg(loss) AS loss, avg(learning_rate) AS learning_rate
        FROM binned GROUP BY ALL
        """
    return _of_runs(runs, "steps", sql, ["task", "step"], bins=bins)


def elapsed(runs: Sequence[Path], bins: int = 400) -> pd.DataFrame:
    """The time that training took, without evaluations and without the pauses of a run that was resumed.

    Returns:
        run, step (steps done), seconds (that they took; a step that is not recorded counts as the others of its bin).
    """
    sql = f"""
        WITH chosen AS (SELECT step, step AS step_end, max(seconds) AS seconds FROM steps GROUP BY step), {BINNED},
        each AS (SELECT step, max(step_end) + 1 AS done, avg(seconds) AS seconds FROM binned GROUP BY step)
        SELECT $run AS run, done AS step,
            sum(seconds * (done - coalesce(before, 0))) OVER (ORDER BY done) AS seconds
        FROM (SELECT *, lag(done) OVER (ORDER BY done) AS before FROM each)
        """
    return _of_runs(runs, "steps", sql, ["step"], bins=bins)


def _of_runs(runs: Sequence[Path], table: str, sql: str, by: Sequence[str], **parameters: object) -> pd.DataFrame:
    """The answers of several runs, at least one, each sorted by these columns, below each other."""
    frames = [
        ask(run, [table], sql, parameters={"run": run.name, **parameters}).sort_values(list(by), key=configured(run))
        for run in runs
    ]
    return pd.concat([frame for frame in frames if len(frame)] or frames[:1], ignore_index=True)


def _binned(
    run: Path,
    cells: str,
    columns: str,
    selection: Selection,
    bins: int,
    level: Level = "by_step",
    pair: tuple[str, str] | None = None,
) -> pd.DataFrame:
    """Columns of cells, of one pair or all, by bin of steps and by those columns that are no sums; in their order."""
    where = ""
    parameters: dict[str, object] = {"bins": bins}
    if pair is not None:
        where = f"WHERE {_IS_PAIR}"
        parameters |= {"one": pair[0], "other": pair[1]}
    sql = f"""
        WITH chosen AS (SELECT * FROM {cells} {where}), {BINNED}
        SELECT {columns} FROM binned GROUP BY ALL ORDER BY ALL
        """
    return ask(run, [cells], sql, selection, parameters, level=level)
