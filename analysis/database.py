"""DuckDB over the parts of one run's record."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pandas as pd
from duckdb import ColumnExpression, ConstantExpression

from analysis.parts import sound_parts
from ortho_lora.errors import OrthoLoraError
from ortho_lora.schema import TABLES, part_files


@dataclass(frozen=True)
class Selection:
    """The part of a record that is asked; None: all of it."""

    steps: tuple[int, int] | None = None  # inclusive
    layers: tuple[int, ...] | None = None
    modules: tuple[str, ...] | None = None
    branches: tuple[str, ...] | None = None


ATTEMPTS = 3
"""At a question, where the parts of the record are others each time."""

_UNREADABLE = (duckdb.IOException, duckdb.InvalidInputException, duckdb.BinderException)

# Bins start at a recorded step and span whole multiples of the distance between recorded steps, so none is empty.
BINNED = """
    recorded AS (SELECT DISTINCT step FROM chosen),
    gaps AS (SELECT min(gap) AS gap FROM (SELECT lead(step) OVER (ORDER BY step) - step AS gap FROM recorded)),
    bins AS (
        SELECT min(step) AS first, max(step) AS last,
            coalesce(any_value(gap), 1)
                * CAST(ceil(((max(step) - min(step)) / coalesce(any_value(gap), 1) + 1) / $bins) AS INTEGER) AS width
        FROM recorded, gaps
    ),
    binned AS (
        SELECT chosen.* REPLACE (bins.first + (step - bins.first) // width * width AS step),
            least(bins.first + ((step - bins.first) // width + 1) * width - 1, bins.last) AS step_end
        FROM chosen, bins
    )
"""


def ask(
    run: Path,
    tables: Sequence[str],
    sql: str,
    selection: Selection | None = None,
    parameters: Mapping[str, object] | None = None,
) -> pd.DataFrame:
    """Answer `sql` over the selected rows of `tables`, which it may name; parts that are missing or torn are left out.

    Raises:
        OrthoLoraError: a part cannot be read though it looks whole.
    """
    for _ in range(ATTEMPTS):
        parts = {table: part_files(run, table) for table in tables}
        try:
            return _answer(parts, sql, selection, parameters)
        except _UNREADABLE:
            # A run that was resumed a moment ago has other parts by now, and has removed some of these.
            if parts == {table: part_files(run, table) for table in tables}:
                break
    try:  # `open_run` names what is left out
        return _answer({table: sound_parts(run, table) for table in tables}, sql, selection, parameters)
    except _UNREADABLE as error:
        raise OrthoLoraError(f"{run}: a part of its record cannot be read ({error}).") from error


def _answer(
    parts: Mapping[str, Sequence[Path]],
    sql: str,
    selection: Selection | None,
    parameters: Mapping[str, object] | None,
) -> pd.DataFrame:
    with duckdb.connect(config={"autoinstall_known_extensions": False}) as connection:
        for table, of_table in parts.items():
            _create_view(connection, of_table, table, selection or Selection())
        return connection.execute(sql, dict(parameters or {})).df()


def _create_view(
    connection: duckdb.DuckDBPyConnection, parts: Sequence[Path], table: str, selection: Selection
) -> None:
    rows = (
        connection.read_parquet([str(part) for part in parts])
        if parts
        else connection.from_arrow(TABLES[table].empty_table())
    )
    if selection.steps is not None:
        rows = rows.filter(ColumnExpression("step").between(*map(ConstantExpression, selection.steps)))
    for column, values in (
        ("layer", selection.layers),
        ("module", selection.modules),
        ("branch", selection.branches),
    ):
        if values is not None:
            # An empty choice selects nothing; isin takes at least one value.
            wanted = [ConstantExpression(value) for value in values] or [ConstantExpression(None)]
            rows = rows.filter(ColumnExpression(column).isin(*wanted))
    rows.create_view(table)
