"""Tasks as a graph: arrows from what is trained on to what it does good or harm to."""

from typing import NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from analysis.conflict.snapshots import WHOLE
from analysis.figures import theme
from analysis.figures.order import side_by_side
from analysis.library.names import interval, number
from analysis.transfer.words import unit_of
from ortho_lora.record.jackknife import Floats
from ortho_lora.record.judge import TOLD

UNSURE_UP_TO = 8
"""Tasks of which arrows that are not sure are drawn too: of more they would hide the others."""
MOST = 60
"""Arrows: more are a tangle; the largest are drawn."""
_BEND = 0.16
"""Of an arrow, by its length: so that two opposite ones do not lie on each other."""
_NODE = 0.1
"""Radius around a task that arrows keep clear of, on a circle of radius 1."""
_WIDEST = 7.0
_HEIGHT, _TASK = 330, 8  # in pixels; of each task more than six


class _Edge(NamedTuple):
    source: str
    target: str
    harm: float  # above 0 it harms; the largest is 1 in size
    sure: bool
    words: str


def transfer_graph(frame: pd.DataFrame, *, chosen: tuple[str, str] | None = None, dark: bool = False) -> go.Figure:
    """An arrow from each source to each other target: red harms, blue helps, wide is large, dotted is not sure.

    Invisible markers amid the arrows take clicks; their `customdata` is source and target.

    Args:
        frame: of `predicted.transfer_matrix`.
        chosen: two tasks whose arrows are outlined.
    """
    theme.need_rows(frame)
    factor, unit = unit_of(frame)
    edges = [
        _Edge(
            row["source"], row["target"], row["nats"], row["verdict"] != "not sure",
            f"<b>{theme.label(row['source'])}</b> on <b>{theme.label(row['target'])}</b><br>"
            f"{number(factor * row['nats'])} {unit} a step, 95% interval "
            f"{interval(factor * row['low'], factor * row['high'])}<br>{row['verdict']}",
        )
        for row in frame.to_dict("records")
        if row["source"] != row["target"] and not np.isnan(row["nats"])
    ]  # fmt: skip
    return _graph(edges, list(dict.fromkeys(frame["source"])), chosen, directed=True, dark=dark)


def cosine_graph(frame: pd.DataFrame, *, chosen: tuple[str, str] | None = None, dark: bool = False) -> go.Figure:
    """A line between the tasks of each pair whose cosine is known: red conflict, blue aligned, dotted no verdict.

    Args:
        frame: of `queries.task_matrix`; of the whole model, where it tells of it, else the mean of the branches.
        chosen: the pair whose line is outlined.
    """
    theme.need_rows(frame)
    tasks = list(dict.fromkeys([*frame["task_i"], *frame["task_j"]]))
    if (frame["branch"] == WHOLE).any():
        frame = frame[frame["branch"] == WHOLE]
    edges = []
    for (one, other), rows in frame.groupby(["task_i", "task_j"], sort=False):
        cosine, told = rows["cosine"].mean(), rows["verdict"].isin(TOLD)
        verdicts = ", ".join(dict.fromkeys(rows["verdict"]))
        words = f"<b>{theme.label(one)}</b> and <b>{theme.label(other)}</b><br>cosine {number(cosine)}<br>{verdicts}"
        if not np.isnan(cosine):
            edges.append(_Edge(one, other, -cosine, bool(told.any()), words))
    return _graph(edges, tasks, chosen, directed=False, dark=dark)


def _graph(
    edges: list[_Edge], tasks: list[str], chosen: tuple[str, str] | None, *, directed: bool, dark: bool
) -> go.Figure:
    largest = max((abs(edge.harm) for edge in edges), default=1.0) or 1.0
    edges = [edge._replace(harm=edge.harm / largest) for edge in edges]
    order = side_by_side(tasks, [(edge.source, edge.target, edge.harm) for edge in edges])
    places = dict(zip(order, _circle(len(order)), strict=True))
    figure = go.Figure()
    shown = [edge for edge in edges if edge.sure or len(tasks) <= UNSURE_UP_TO]
    shown = sorted(shown, key=lambda edge: (edge.sure, abs(edge.harm)))[-MOST:]  # what counts lies on top
    paths = [_path(places[edge.source], places[edge.target], bent=directed) for edge in shown]
    for edge, path in zip(shown, paths, strict=True):
        outlined = chosen is not None and {edge.source, edge.target} == set(chosen)
        if outlined:
            _draw(figure, path, theme.CHOSEN, 1.0 + _WIDEST * abs(edge.harm) + 5.0, head=False)
        colour = theme.against(dark) if edge.harm > 0 else theme.along(dark)
        width = 1.0 + (_WIDEST - 1.0) * abs(edge.harm)
        _draw(figure, path, colour, width, head=directed, sure=edge.sure)
    if shown:
        middle = np.array([path[_AMID] for path in paths])
        figure.add_scatter(
            x=middle[:, 0], y=middle[:, 1], mode="markers", marker={"size": 22, "color": "rgba(0, 0, 0, 0)"},
            customdata=[[edge.source, edge.target] for edge in shown], hovertext=[edge.words for edge in shown],
            hoverinfo="text",
        )  # fmt: skip
    at = np.array([places[task] for task in tasks])
    figure.add_scatter(
        x=at[:, 0], y=at[:, 1], mode="markers",
        marker={"size": 12, "color": theme.ink(dark)}, hovertext=[theme.label(task) for task in tasks],
        hoverinfo="text",
    )  # fmt: skip
    for task in tasks:
        x, y = places[task]
        figure.add_annotation(
            x=1.12 * x, y=1.12 * y, text=f"<b>{theme.label(task)}</b>", showarrow=False, font={"size": 13},
            xanchor="center" if abs(x) < 0.3 else "left" if x > 0 else "right",
            yanchor="middle" if abs(x) >= 0.3 else "bottom" if y > 0 else "top",
        )  # fmt: skip
    away = {"visible": False, "fixedrange": True}
    figure.update_xaxes(range=[-1.9, 1.9], **away)
    figure.update_yaxes(range=[-1.3, 1.3], scaleanchor="x", **away)
    figure.update_layout(showlegend=False, hovermode="closest")
    return theme.finish(figure, dark=dark, height=_HEIGHT + _TASK * max(len(tasks) - 6, 0))


def _draw(figure: go.Figure, path: Floats, colour: str, width: float, *, head: bool, sure: bool = True) -> None:
    """One arrow."""
    line = {"color": colour, "width": width, "dash": "solid" if sure else "dot"}
    drawn = path[: -1 - int(width > 4)] if head else path  # a wide line would hide its head
    figure.add_scatter(
        x=drawn[:, 0], y=drawn[:, 1], mode="lines", line=line, opacity=1 if sure else 0.4, hoverinfo="skip"
    )
    if head:
        sizes = [0.0, 9.0 + 1.6 * width]
        marker = {"symbol": "arrow", "angleref": "previous", "size": sizes, "color": colour, "opacity": 1}
        figure.add_scatter(
            x=path[-2:, 0], y=path[-2:, 1], mode="markers", marker=marker, opacity=1 if sure else 0.4, hoverinfo="skip"
        )


_POINTS = 24
_AMID = 10  # nearer to the source: arrows that meet in a target are apart there


def _path(source: Floats, target: Floats, *, bent: bool) -> Floats:
    """Points of an arrow, [n, 2]: bent to its left, and short of both tasks."""
    along = target - source
    length = float(np.hypot(*along))
    bend = _BEND * length * np.array([-along[1], along[0]]) / length if bent else np.zeros(2)
    share = np.linspace(_NODE / length, 1 - _NODE / length, _POINTS)[:, None]
    return np.asarray(source + share * along + 4 * share * (1 - share) * bend, dtype=np.float64)


def _circle(count: int) -> Floats:
    """So many places, the first on top, clockwise; [count, 2]."""
    angles = np.pi / 2 - 2 * np.pi * np.arange(count) / count
    if count == 2:  # side by side
        angles = angles + np.pi / 2
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)
