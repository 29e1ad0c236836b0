"""Frames as the text of a table."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

MOST_ROWS = 1500
"""Of a table in a report: more are for an export."""

_MISSING = "–"


@dataclass(frozen=True)
class Table:
    """Text of its cells; a column of numbers is set to the right."""

    columns: tuple[str, ...]
    numbers: tuple[bool, ...]
    rows: tuple[tuple[str, ...], ...]
    total: int  # rows of the frame, which may be more than are shown


def table_of(frame: pd.DataFrame) -> Table:
    """The first rows of a frame; floats to four digits, 1.0 as 1, a dash for a null."""
    numbers = tuple(pd.api.types.is_numeric_dtype(dtype) for dtype in frame.dtypes)
    rows = frame.head(MOST_ROWS).itertuples(index=False, name=None)
    return Table(tuple(map(str, frame.columns)), numbers, tuple(tuple(map(cell, row)) for row in rows), len(frame))


def cell(value: Any) -> str:
    """One value as text."""
    if isinstance(value, list | tuple):
        return ", ".join(map(cell, value)) or _MISSING
    if value is None or pd.isna(value):
        return _MISSING
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else f"{value:#.4g}"
    return str(value)
