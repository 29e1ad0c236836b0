"""Metrics and losses over the steps or the seconds of training, a panel a task and a line a series."""

from collections.abc import Collection, Mapping, Sequence
from typing import Literal, TypeAlias

import pandas as pd
import plotly.graph_objects as go

from analysis.figures import theme
from analysis.figures.lines import PLOT, add_line, add_reference, series_of, with_legend
from analysis.outcomes.scores import MEAN
from analysis.outcomes.trajectories import loss_curves, metric_curves
from ortho_lora.record.schema import Identity

Axis: TypeAlias = Literal["step", "seconds"]
Steps: TypeAlias = tuple[int, int | None]
"""The first one and the last; None: no end."""

_AXES: dict[Axis, str] = {"step": "step", "seconds": "seconds of training"}
_Cells: TypeAlias = Mapping[str, tuple[int, int]]


def metric_trajectories(
    curves: pd.DataFrame,
    series: Sequence[str],
    infos: Mapping[str, Identity],
    split: str = "validation",
    *,
    finals: Collection[str] = (),
    axis: Axis = "step",
    steps: Steps | None = None,
    dark: bool = False,
) -> go.Figure:
    """A metric of each task, beside always answering with the majority.

    Args:
        curves: of `trajectories.metric_curves`, or of seeds put together.
        series: all of them, in the order of their colours, which so stay the same beside other figures.
        infos: identity of each run, for the majority and for the order of the tasks.
        split: evaluation split.
        finals: series whose last value is drawn across the panel, as single-task training's.
        axis: what is equal where lines stand above each other.
        steps: first and last that are seen on an axis of steps; the others are there when the reader zooms out.
    """
    theme.need_rows(curves)
    described = {task.name: task for info in infos.values() for task in info.tasks}
    metrics = dict(zip(curves["task"], curves["metric"], strict=True))
    tasks = [task for task in (MEAN, *described) if task in metrics]
    twins = {task for task in tasks if task in described and described[task].twin_of}
    titles = {task: f"{task}{' (a twin)' if task in twins else ''}: {metrics[task]}" for task in tasks}
    figure, cells = _grid(titles, axis)
    for task, (row, col) in cells.items():
        rows = curves[curves["task"] == task]
        _draw(figure, row, col, rows, series, theme.label(titles[task]), axis, dark, marks=True)
        levels = [*rows[[name for name in ("value", "low", "high") if name in rows.columns]].stack()]
        for name, own in series_of(rows[rows["series"].isin(finals)].dropna(subset="value"), "series"):
            colour = theme.line(series.index(name), dark)["color"]
            figure.add_hline(
                y=own["value"].iloc[-1], line={"color": colour, "dash": "dot", "width": 1.5}, row=row, col=col
            )
        majorities = sorted(_majorities(infos, task, metrics[task], split))
        for level in majorities:
            name = " to ".join(dict.fromkeys(f"{one:.2f}" for one in (majorities[0], majorities[-1])))
            add_reference(figure, row, col, level, f"majority {name}" if level == majorities[0] else None, dark)
        levels += majorities
        figure.update_yaxes(range=_room(levels), row=row, col=col)
    if curves["step"].nunique() == 1 and axis == "step":  # plotly would number the room around it
        figure.update_xaxes(tickvals=[int(curves["step"].iloc[0])])
    _zoom(figure, curves, steps, axis)
    return with_legend(figure, len(series), dark=dark, height=_height(cells))


def loss_trajectories(
    curves: pd.DataFrame,
    series: Sequence[str],
    *,
    axis: Axis = "step",
    steps: Steps | None = None,
    dark: bool = False,
) -> go.Figure:
    """The training loss of each task, smoothed lines over the faint ones that they come from.

    Args:
        curves: of `trajectories.loss_curves`, or of seeds put together, with or without `smoothed`.
        series, axis, steps: as in `metric_trajectories`.
    """
    theme.need_rows(curves)
    figure, cells = _grid({task: task for task in dict.fromkeys(curves["task"])}, axis)
    for task, (row, col) in cells.items():
        words = f"{theme.label(task)}: loss"
        _draw(figure, row, col, curves[curves["task"] == task], series, words, axis, dark)
    figure.update_yaxes(rangemode="tozero")
    _zoom(figure, curves, steps, axis)
    figure.update_yaxes(title_text="training loss", col=1)
    return with_legend(figure, len(series), dark=dark, height=_height(cells))


def _zoom(figure: go.Figure, curves: pd.DataFrame, steps: Steps | None, axis: Axis) -> None:
    if steps and axis == "step":
        first, last = steps
        figure.update_xaxes(range=[first - 0.5, (curves["step"].max() if last is None else last) + 0.5])


def metric_lines(
    frame: pd.DataFrame, infos: Mapping[str, Identity], split: str = "validation", *, dark: bool = False
) -> go.Figure:
    """Each task's primary metric over the steps, a line a run, beside always answering with the majority.

    Args:
        frame: of `queries.metrics`; its first run has the first colour.
        infos: identity of each run in the frame.
        split: evaluation split.

    Raises:
        ValueError: there are no primary metrics of this split.
    """
    curves = metric_curves(frame, infos, split)
    of_tasks = curves[curves["task"] != MEAN]
    return metric_trajectories(of_tasks, list(dict.fromkeys(frame["run"])), infos, split, dark=dark)


def loss_lines(frame: pd.DataFrame, *, dark: bool = False) -> go.Figure:
    """The training loss of each task over the steps, a panel a task and a line a run.

    Args:
        frame: of `queries.losses`; its first run has the first colour.
    """
    return loss_trajectories(loss_curves(frame), list(dict.fromkeys(frame["run"])), dark=dark)


def _draw(
    figure: go.Figure,
    row: int,
    col: int,
    curves: pd.DataFrame,
    series: Sequence[str],
    words: str,
    axis: Axis,
    dark: bool,
    *,
    marks: bool = False,
) -> None:
    """The curves of one panel: band, faint raw line, line."""
    for name, rows in series_of(curves, "series"):
        index = series.index(name)
        style = theme.line(index, dark)
        shared = {"x": rows[axis], "legendgroup": name, "row": row, "col": col}
        quiet = {"mode": "lines", "showlegend": False, "hoverinfo": "skip"}
        if "low" in rows and (rows["runs"] > 1).any():
            fill = {"fill": "tonexty", "fillcolor": theme.translucent(style["color"])}
            for column in ("low", "high"):
                edge = fill if column == "high" else {}
                figure.add_scatter(y=rows[column], line={"width": 0}, **edge, **quiet, **shared)
        smoothed = "smoothed" in rows
        if smoothed:
            raw = {"color": theme.translucent(style["color"], 0.35), "width": 1}
            figure.add_scatter(y=rows["value"], line=raw, **quiet, **shared)
        between = "<br>seeds %{customdata[0]:.3f} to %{customdata[1]:.3f}" if "low" in rows else ""
        mean = "smoothed " if smoothed else ""
        column, said = "smoothed" if smoothed else "value", f"{words} {mean}%{{y:.3f}}{between}"
        ends = rows[["low", "high"]] if "low" in rows else None
        add_line(figure, row, col, rows, column, index, name, said, dark, x=axis, marks=marks, customdata=ends)


def _grid(titles: Mapping[str, str], axis: Axis) -> tuple[go.Figure, dict[str, tuple[int, int]]]:
    """Panels with axes of their own, at most three side by side, and the row and column of each from 1."""
    columns = 2 if len(titles) == 4 else min(3, len(titles))
    rows = -(-len(titles) // columns)
    spacing = {"horizontal_spacing": 0.07, "vertical_spacing": 0.25 / rows}
    shown = [theme.label(title) for title in titles.values()]
    figure = theme.panels(shown, rows, columns, shared_xaxes=False, shared_yaxes=False, **spacing)
    cells = {name: (index // columns + 1, index % columns + 1) for index, name in enumerate(titles)}
    for row, col in list(cells.values())[-columns:]:  # the lowest panel of each column
        figure.update_xaxes(title_text=_AXES[axis], row=row, col=col)
    return figure, cells


def _room(values: Sequence[float]) -> list[float] | None:
    """Limits that leave room around the values, which plotly leaves out around lines that are no traces."""
    if not values:
        return None
    low, high = min(values), max(values)
    margin = 0.1 * (high - low) or 0.05
    return [low - margin, high + margin]


def _height(cells: _Cells) -> int:
    return max(row for row, _ in cells.values()) * PLOT + 90


def _majorities(infos: Mapping[str, Identity], task: str, metric: str, split: str) -> set[float]:
    """What the majority baseline reaches; runs may have evaluated different examples."""
    found = set()
    for info in infos.values():
        for described in info.tasks:
            scores = described.majority.get(split, {})
            if described.name == task and metric in scores:
                found.add(round(scores[metric], 3))
    return found
