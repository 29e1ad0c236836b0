"""Cells, and diagonal lines over those that hold no measurement: grey alone may be taken for a value near 0."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from analysis.figures import theme

MOST = 1000
"""Cells of a panel that get lines of their own; of more, every so many diagonals of cells do."""


def draw_cells(
    figure: go.Figure,
    row: int,
    col: int,
    z: NDArray[np.floating],
    missing: NDArray[np.bool_],
    x: Sequence[Any],
    y: Sequence[str],
    shown: Mapping[str, Any],
    unmeasured: Mapping[str, Any],
    *,
    gap: int = 0,
    lines: int = 1,
    coloraxis: str = "coloraxis",
    dark: bool,
) -> None:
    """Draw cells on the shared colours, and over the missing ones hatched grey.

    Args:
        z: [rows, columns].
        missing: the same shape.
        x: of the columns, categories or where each begins and the last one ends.
        y: of the rows.
        shown, unmeasured: what else plotly's heatmap takes of the two; of what tells of each cell only its own.
        gap: between cells, in pixels.
        lines: as of `hatch`.
    """
    at = {"x": x, "y": y, "xgap": gap, "ygap": gap, "hoverongaps": False, "row": row, "col": col}
    figure.add_heatmap(z=z, coloraxis=coloraxis, **_of(shown, ~missing), **at)
    if missing.any():
        grey = [[0, theme.unmeasured(dark)], [1, theme.unmeasured(dark)]]
        over = np.where(missing, 1.0, np.nan).astype(np.float32)
        figure.add_heatmap(z=over, colorscale=grey, showscale=False, **_of(unmeasured, missing), **at)
        hatch(figure, row, col, missing, edges=x if len(x) > z.shape[1] else None, lines=lines, dark=dark)


def _of(told: Mapping[str, Any], cells: NDArray[np.bool_]) -> dict[str, Any]:
    return {
        name: np.where(cells, value, "") if isinstance(value, np.ndarray) and value.shape == cells.shape else value
        for name, value in told.items()
    }


def hatch(
    figure: go.Figure,
    row: int,
    col: int,
    missing: NDArray[np.bool_],
    *,
    edges: Sequence[float] | None = None,
    lines: int = 1,
    dark: bool = False,
) -> None:
    """Draw lines over the missing cells of a panel, as one shape.

    Args:
        missing: rows by columns of the panel; rows are categories.
        edges: where on the x axis columns begin, and the last one ends; None: columns are categories.
        lines: in each cell.
    """
    places = np.argwhere(missing)
    apart = -(-len(places) // MOST) if len(places) else 1
    ends = edges if edges is not None else np.arange(missing.shape[1] + 1) - 0.5
    offsets = np.linspace(-1, 1, lines + 2)[1:-1]
    path = [
        _line(float(offset), ends[column], ends[column + 1], place - 0.5)
        for place, column in places
        if (column - place) % apart == 0  # these continue each other
        for offset in offsets
    ]
    if path:
        line = {"color": theme.muted(dark), "width": 1}
        figure.add_shape(type="path", path="".join(path), line=line, name="not measured", row=row, col=col)


def _line(offset: float, left: float, right: float, bottom: float) -> str:
    """The part of a line y = x + offset that lies in a cell, of which both count from 0 to 1; as an SVG path."""
    begin, end = max(0.0, -offset), min(1.0, 1.0 - offset)
    (x0, y0), (x1, y1) = ((left + (right - left) * x, bottom + x + offset) for x in (begin, end))
    return f"M{x0:.8g},{y0:.8g}L{x1:.8g},{y1:.8g}"
