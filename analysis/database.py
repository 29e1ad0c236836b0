"""DuckDB over the parts of one run's record."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pandas as pd
from duckdb import ColumnExpression, ConstantExpression

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
    """Answer `sql` over the selected rows of `tables`, which it may name.

    Raises:
        OrthoLoraError: a part is missing, torn, or not of the record.
    """
    for attempt in range(1, ATTEMPTS + 1):
        parts = {table: part_files(run, table) for table in tables}
        try:
            with duckdb.connect(config={"autoinstall_known_extensions": False}) as connection:
                for table in tables:
                    _create_view(connection, parts[table], table, selection or Selection())
                return connection.execute(sql, dict(parameters or {})).df()
        except (duckdb.IOException, duckdb.InvalidInputException, duckdb.BinderException) as error:
            # A run that was resumed a moment ago has other parts by now, and has removed some of these.
            if attempt == ATTEMPTS or parts == {table: part_files(run, table) for table in tables}:
                raise OrthoLoraError(f"{run}: a part of its record cannot be read ({error}).") from error
    raise AssertionError("the last attempt returns or raises")


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
