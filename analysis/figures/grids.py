"""Differences in metrics as heatmaps, red where they are harm: between tasks, and over two axes of a study."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from analysis.figures import theme
from analysis.outcomes.units import scale

_CELL = 46  # height of a row, in pixels


def transfer_heatmap(frame: pd.DataFrame, tasks: Sequence[str], *, dark: bool = False) -> go.Figure:
    """What each task (row) gains or loses when it is trained with one other (column): red hurts; bold: beyond noise.

    Args:
        frame: of `transfer.transfer_matrix`, of one condition.
        tasks: in the order of rows and columns.
    """
    cells = {}
    for row in frame.to_dict("records"):
        task, beside, metric = (theme.label(row[name]) for name in ("task", "beside", "metric"))
        said = f"{metric} {row['together']:.3f}, alone {row['alone']:.3f}"
        cells[row["task"], row["beside"]] = (row, "transfer", f"<b>{task}</b> beside {beside}", said)
    return _grid(frame, cells, tasks, tasks, ("task", "trained beside"), dark)


def gain_grid(
    frame: pd.DataFrame, axes: tuple[str, str], labels: tuple[Sequence[str], Sequence[str]], *, dark: bool = False
) -> go.Figure:
    """What a method gains over the baseline at each place of two axes: red hurts; bold: beyond noise.

    Args:
        frame: of `axes.over_axes`, of one method, at one place of every other axis.
        axes: of rows, of columns.
        labels: of each, in order.
    """
    cells = {}
    for row in frame.dropna(subset="gain").to_dict("records"):
        cosine = "" if pd.isna(row["cosine"]) else f"mean cosine {row['cosine']:+.3f}"
        head = f"<b>{theme.label(row['method'])}</b> at {theme.label(row['condition'])}"
        cells[row[axes[0]], row[axes[1]]] = (row, "gain", head, cosine)
    return _grid(frame, cells, *labels, axes, dark)


def _grid(
    frame: pd.DataFrame,
    cells: dict[tuple[str, str], tuple[dict[str, Any], str, str, str]],
    rows: Sequence[str],
    columns: Sequence[str],
    titles: tuple[str, str],
    dark: bool,
) -> go.Figure:
    """A heatmap of differences: by row and column their record, its column, what they are of, and what else to say."""
    theme.need_rows(frame)
    shape = (len(rows), len(columns))
    values, texts, hovers = np.full(shape, np.nan), np.full(shape, "", object), np.full(shape, "", object)
    ends: list[float] = []
    for (one, other), (row, column, head, said) in cells.items():
        place, factor = (rows.index(one), columns.index(other)), scale(row["metric"])
        known = not pd.isna(row["low"])
        values[place] = factor * row[column]
        ends += [factor * row["low"], factor * row["high"]]
        number = f"{values[place]:+.1f}" if factor == 100 else f"{values[place]:+.3g}"
        texts[place] = f"<b>{number}</b>" if known and not row["low"] <= 0 <= row["high"] else number
        between = f", 95% {factor * row['low']:+.2f} to {factor * row['high']:+.2f}" if known else ""
        hovers[place] = f"{head}: {number}{between}, {row['seeds']} seeds<br>{said}"
    # Colours reach as far as the intervals, so that what may be noise stays pale.
    limit = float(np.nanmax(np.abs([*values.ravel(), *ends]), initial=1e-9))
    figure = go.Figure()
    figure.add_heatmap(
        x=[theme.label(name) for name in columns],
        y=[theme.label(name) for name in rows],
        z=values,
        text=texts,
        hovertext=hovers,
        texttemplate="%{text}",
        textfont={"size": 12},
        hoverinfo="text",
        hoverongaps=False,
        colorscale=theme.AGREEMENT,
        zmin=-limit,
        zmax=limit,
        xgap=2,
        ygap=2,
        colorbar=theme.colour_bar("points (harm below 0)"),
    )
    figure.update_xaxes(title_text=theme.label(titles[1]), type="category", showgrid=False)
    figure.update_yaxes(title_text=theme.label(titles[0]), type="category", showgrid=False, autorange="reversed")
    return theme.finish(figure, dark=dark, height=_CELL * max(len(rows), 3) + 130, margin_t=10)
