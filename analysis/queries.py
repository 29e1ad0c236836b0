"""Questions to the record of a run, answered by DuckDB as frames; a null or NaN says that nothing was measured.

A cosine is taken on one *block* (the `A` or the `B` matrix of one adapted layer) in one step. All functions raise
OrthoLoraError where a part of the record cannot be read, and return an empty frame where there are no rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis.agreement import batches_needed, configured, noise, shares_texts, task_matrix, windows
from analysis.database import BINNED, Selection, ask
from ortho_lora.schema import read_run

__all__ = [
    "Extent",
    "Selection",
    "batches_needed",
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
    "windows",
]

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
    ).sort_values(["branch", "task", "against"], key=configured(run), ignore_index=True)


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
    ).sort_values(["branch", "task", "step"], key=configured(run), ignore_index=True)


def metrics(runs: Sequence[Path]) -> pd.DataFrame:
    """Run, step (steps done before the evaluation), split, task, metric, value, examples."""
    columns = ["run", "step", "split", "task", "metric", "value", "examples"]
    sql = "SELECT $run AS run, step, split, task, metric, value, examples FROM metrics"
    frames = [
        ask(run, ["metrics"], sql, parameters={"run": run.name}).sort_values(
            ["step", "split", "task", "metric"], key=configured(run)
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
            ["task", "step"], key=configured(run)
        )
        for run in runs
    ]
    return _stack(frames, columns)


def _stack(frames: list[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    full = [frame for frame in frames if len(frame)]
    return pd.concat(full, ignore_index=True) if full else pd.DataFrame(columns=columns)
