"""DuckDB over the parts of one run's record."""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import duckdb
import pandas as pd
from duckdb import ColumnExpression, ConstantExpression

from analysis.reading.cache import remembered
from analysis.reading.connection import asking
from analysis.reading.damage import counted, sound
from analysis.reading.rollups import RAW, SNAPSHOT_CELLS, TABLE_OF, Level, Steps, plan, snapshot_source
from ortho_lora.errors import OrthoLoraError
from ortho_lora.record.manifest import Manifest
from ortho_lora.record.tables import SCHEMAS, SNAPSHOTS_BY_LAYER


@dataclass(frozen=True)
class Selection:
    """The part of a record that is asked; None: all of it."""

    steps: Steps | None = None  # inclusive
    layers: tuple[int, ...] | None = None
    modules: tuple[str, ...] | None = None
    branches: tuple[str, ...] | None = None


ATTEMPTS = 3
"""At a question, where the parts of the record are others each time."""

_UNREADABLE = duckdb.Error  # a torn page is told by whatever its bytes happen to mean

# Bins start at a recorded step and span whole multiples of the distance between recorded steps, so none is empty; with
# cells of several steps each they span whole cells. `cell` is the view that tells how many.
BINNED = """
    recorded AS (SELECT DISTINCT step FROM chosen),
    gaps AS (SELECT min(gap) AS gap FROM (SELECT lead(step) OVER (ORDER BY step) - step AS gap FROM recorded)),
    spans AS (
        SELECT any_value(origin) + (min(step) - any_value(origin)) // any_value(width) * any_value(width) AS first,
            max(step_end) AS last, greatest(coalesce(any_value(gap), 1), any_value(width)) AS unit
        FROM chosen, gaps, cell
    ),
    bins AS (
        SELECT first, last, unit * CAST(ceil(((last - first) // unit + 1) / $bins) AS INTEGER) AS width FROM spans
    ),
    binned AS (
        SELECT chosen.* REPLACE (
                bins.first + (step - bins.first) // width * width AS step,
                least(bins.first + ((step - bins.first) // width + 1) * width - 1, bins.last) AS step_end
            )
        FROM chosen, bins
    )
"""


def ask(
    run: Path,
    tables: Sequence[str],
    sql: str,
    selection: Selection | None = None,
    parameters: Mapping[str, object] | None = None,
    *,
    level: Level = "by_block",
) -> pd.DataFrame:
    """Answer `sql` over the selected rows of `tables`, which it may name; parts that are missing or torn are left out.

    Args:
        run: directory of the run.
        tables: of a record, or of `analysis.reading.rollups`, of which one question may use one.
        sql: the question.
        selection: which rows.
        parameters: of the question.
        level: to which `sql` tells cells apart; finer ones are read where the selection asks for them.

    Raises:
        OrthoLoraError: a part cannot be read though it looks whole.
    """
    chosen = selection or Selection()
    if chosen.layers is not None and level == "by_step":
        level = "by_layer"
    if chosen.modules is not None:
        level = "by_block"
    read = _read_for(tables)
    for _ in range(ATTEMPTS):
        manifest = counted(run)
        try:  # `open_run` names what is left out
            whole = sound(run, manifest, read)
            if whole is manifest or manifest == counted(run):
                return _answer(run, whole, tables, sql, chosen, parameters, level)
        except _UNREADABLE:
            # Small parts that were put together, or a run that was resumed: other parts count by now.
            if manifest == counted(run):
                break
    try:  # a part has its columns, and torn pages
        return _answer(run, sound(run, counted(run), read, deep=True), tables, sql, chosen, parameters, level)
    except _UNREADABLE as error:
        raise OrthoLoraError(f"{run}: a part of its record cannot be read ({error}).") from error


def ask_once(
    run: Path, tables: Sequence[str], sql: str, selection: Selection, parameters: Mapping[str, object], level: Level
) -> pd.DataFrame:
    """As `ask`, for sums that several questions are put to: the last few are remembered until the record changes.

    Args:
        run, tables, sql, selection, parameters, level: as of `ask`; all values hashable.
    """
    found = _asked(run, tuple(tables), sql, selection, tuple(parameters.items()), level)
    return found.copy(deep=False)  # pandas copies what somebody writes to


@remembered("manifest.json", most=8)
def _asked(
    run: Path,
    tables: tuple[str, ...],
    sql: str,
    selection: Selection,
    parameters: tuple[tuple[str, object], ...],
    level: Level,
) -> pd.DataFrame:
    return ask(run, tables, sql, selection, dict(parameters), level=level)


def _read_for(tables: Sequence[str]) -> list[str]:
    """The tables and roll-ups in which `tables` may look."""
    of_cells = any(table in TABLE_OF for table in tables)
    tables = [*tables, *(["snapshots", SNAPSHOTS_BY_LAYER] if SNAPSHOT_CELLS in tables else [])]
    return [name for name in SCHEMAS if name in tables or (of_cells and ("pairs" in name or "norms" in name))]


def _answer(
    run: Path,
    manifest: Manifest,
    tables: Sequence[str],
    sql: str,
    selection: Selection,
    parameters: Mapping[str, object] | None,
    level: Level,
) -> pd.DataFrame:
    with asking() as connection:
        connection.execute("CREATE VIEW cell AS SELECT 0 AS origin, 1 AS width")
        for table in tables:
            if table in TABLE_OF:
                _create_cells(connection, run, manifest, table, selection, level)
            else:
                of_snapshots = table == SNAPSHOT_CELLS
                source = snapshot_source(manifest, whole_layers=selection.modules is None) if of_snapshots else table
                steps = None if selection.steps is None else [selection.steps]
                _create_view(connection, run, manifest, source, steps, selection, name=table)
        return connection.execute(sql, dict(parameters or {})).df()


def _create_cells(
    connection: duckdb.DuckDBPyConnection, run: Path, manifest: Manifest, view: str, selection: Selection, level: Level
) -> None:
    found = plan(manifest, TABLE_OF[view], level, selection.steps)
    connection.execute(
        f"CREATE OR REPLACE VIEW cell AS SELECT {found.bins.first} AS origin, {found.bins.width} AS width"
    )
    for table in ("pairs", "norms"):
        _create_view(connection, run, manifest, table, found.raw, selection)
    if found.rolled is None:
        connection.execute(f"CREATE VIEW {view} AS {RAW[view]}")
        return
    _create_view(connection, run, manifest, found.rollup, [found.rolled], selection, name="rolled")
    edges = f"UNION ALL BY NAME {RAW[view]}" if found.raw else ""
    # Roll-ups of layers and blocks have products of halved batches only.
    lacks = view == "joint_cells" and level != "by_step"
    product = ", CASE WHEN halved > 0 THEN product END AS inner_product" if lacks else ""
    connection.execute(f"CREATE VIEW {view} AS SELECT *{product} FROM rolled {edges}")


def _create_view(
    connection: duckdb.DuckDBPyConnection,
    run: Path,
    manifest: Manifest,
    table: str,
    ranges: Sequence[Steps] | None,
    selection: Selection,
    *,
    name: str | None = None,
) -> None:
    """The selected rows of some ranges of steps, or of all steps."""
    parts = manifest.of(table)
    if ranges is not None:
        parts = tuple(
            part for part in parts if any(part.first <= last and part.last >= first for first, last in ranges)
        )
    rows = (
        connection.read_parquet([str(run / table / part.name) for part in parts])
        if parts
        else connection.from_arrow(SCHEMAS[table].empty_table())
    )
    if ranges:
        steps = [ColumnExpression("step").between(*map(ConstantExpression, steps)) for steps in ranges]
        rows = rows.filter(reduce(operator.or_, steps))
    for column, values in (
        ("layer", selection.layers),
        ("module", selection.modules),
        ("branch", selection.branches),
    ):
        if values is not None and column in SCHEMAS[table].names:
            # An empty choice selects nothing; isin takes at least one value.
            wanted = [ConstantExpression(value) for value in values] or [ConstantExpression(None)]
            rows = rows.filter(ColumnExpression(column).isin(*wanted))
    rows.create_view(name or table)
