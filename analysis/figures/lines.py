"""Lines: projection, weights, cosines, metrics and losses over the steps, and projection over the layers."""

from collections.abc import Iterator, Mapping, Sequence

import pandas as pd
import plotly.graph_objects as go

from analysis import theme
from analysis.words import layer_name
from ortho_lora.schema import RunInfo

_PLOT = 240  # height of a plot, in pixels
_PROJECTION = [("frequency", "pairs projected"), ("removed", "norm removed")]


def projection_steps(frame: pd.DataFrame, *, dark: bool = False) -> go.Figure:
    """How often (above), and by how much of the norm (below), gradients are projected over the steps.

    Args:
        frame: of `queries.projection_over_steps`.
        dark: for a dark page.
    """
    theme.need_rows(frame)
    figure = theme.panels(["", ""], 2, 1)
    for row, (column, words) in enumerate(_PROJECTION, 1):
        for index, (branch, rows) in enumerate(_series(frame, "branch")):
            _line(figure, row, 1, rows, column, index, f"branch {branch}", f"{words} %{{y:.1%}}", dark)
        figure.update_yaxes(title_text=words, tickformat=".0%", rangemode="tozero", row=row, col=1)
    figure.update_xaxes(title_text="step", row=2)
    return _with_legend(figure, 2, dark=dark, height=2 * 200 + 90)


def projection_layers(frame: pd.DataFrame, *, dark: bool = False) -> go.Figure:
    """How often (left), and by how much of the norm (right), gradients are projected in each layer.

    Args:
        frame: of `queries.projection_by_layer`.
        dark: for a dark page.
    """
    theme.need_rows(frame)
    figure = theme.panels(["", ""], 1, 2, shared_yaxes=False, horizontal_spacing=0.12)
    for col, (column, words) in enumerate(_PROJECTION, 1):
        for index, (branch, rows) in enumerate(_series(frame, "branch")):
            figure.add_scatter(
                x=[layer_name(layer) for layer in rows["layer"]],
                y=rows[column],
                mode="lines+markers",
                line=theme.line(index, dark),
                marker={"symbol": theme.symbol(index), "size": 9},
                name=f"branch {branch}",
                legendgroup=branch,
                showlegend=col == 1,
                hovertemplate=f"branch {branch}, layer %{{x}}<br>{words} %{{y:.1%}}<extra></extra>",
                row=1,
                col=col,
            )
        figure.update_yaxes(title_text=words, tickformat=".0%", rangemode="tozero", row=1, col=col)
    figure.update_xaxes(title_text="layer", type="category")
    return _with_legend(figure, 2, dark=dark, height=_PLOT + 90)


def weights_over_steps(frame: pd.DataFrame, *, dark: bool = False) -> go.Figure:
    """The weight of each task's gradient in the update, mean over blocks, beside the plain sum's 1.

    Args:
        frame: of `queries.weights`.
        dark: for a dark page.
    """
    theme.need_rows(frame)
    branches = sorted(frame["branch"].unique())
    figure = theme.panels([f"branch {branch}" for branch in branches], 1, len(branches))
    places = {task: index for index, task in enumerate(dict.fromkeys(frame["task"]))}
    for col, branch in enumerate(branches, 1):
        for task, rows in _series(frame[frame["branch"] == branch], "task"):
            words = f"branch {branch}: weight %{{y:.3f}}"
            _line(figure, 1, col, rows, "weight", places[task], task, words, dark)
        _reference(figure, 1, col, 1.0, "plain sum", dark)
    figure.update_xaxes(title_text="step")
    figure.update_yaxes(title_text="effective weight", row=1, col=1)
    return _with_legend(figure, len(places), dark=dark, height=_PLOT + 90)


def pair_lines(frame: pd.DataFrame, pair: tuple[str, str], *, dark: bool = False) -> go.Figure:
    """The cosine of a pair over the steps, before and after projection; the band spans all blocks and steps of a bin.

    Args:
        frame: of `queries.pair_over_steps`.
        pair: for the words.
        dark: for a dark page.
    """
    theme.need_rows(frame)
    branches = sorted(frame["branch"].unique())
    figure = theme.panels([f"branch {branch}" for branch in branches], 1, len(branches))
    for col, branch in enumerate(branches, 1):
        rows = frame[frame["branch"] == branch]
        colour = theme.line(0, dark)["color"]
        for column in ("low", "high"):
            figure.add_scatter(
                x=rows["step"],
                y=rows[column],
                mode="lines",
                line={"width": 0, "color": colour},
                fill="tonexty" if column == "high" else None,
                fillcolor=theme.translucent(colour),
                name="lowest to highest before",
                legendgroup="band",
                showlegend=col == 1 and column == "high",
                hovertemplate=f"{column}est before %{{y:+.3f}}<extra></extra>",
                row=1,
                col=col,
            )
        for index, when in enumerate(("before", "after")):
            words = f"{pair[0]} – {pair[1]}: mean cosine {when} %{{y:+.3f}}"
            _line(figure, 1, col, rows, f"cos_{when}", index, f"mean {when}", words, dark)
        _reference(figure, 1, col, 0.0, None, dark)
    figure.update_xaxes(title_text="step")
    figure.update_yaxes(title_text="cosine (conflict below 0)", row=1, col=1)
    return _with_legend(figure, 3, dark=dark, height=_PLOT + 90)


def metric_lines(
    frame: pd.DataFrame, infos: Mapping[str, RunInfo], split: str = "validation", *, dark: bool = False
) -> go.Figure:
    """Each task's primary metric over the steps, a line a run, beside always answering with the majority.

    Args:
        frame: of `queries.metrics`; its first run has the first colour.
        infos: identity of each run in the frame.
        split: evaluation split.
        dark: for a dark page.

    Raises:
        ValueError: there are no primary metrics of this split.
    """
    primary = {(run, task.name): task.metrics[0] for run, info in infos.items() for task in info.tasks}
    keys = zip(frame["run"], frame["task"], strict=True)
    wanted = frame[(frame["split"] == split) & (frame["metric"] == [primary.get(key) for key in keys])]
    theme.need_rows(wanted)
    tasks = dict.fromkeys(task.name for info in infos.values() for task in info.tasks)
    metrics = dict(zip(wanted["task"], wanted["metric"], strict=True))
    titles = {task: f"{task}: {metrics[task]}" for task in tasks if task in metrics}
    figure, cells = _grid(titles)
    places = {run: index for index, run in enumerate(dict.fromkeys(frame["run"]))}
    for task, (row, col) in cells.items():
        for run, rows in _series(wanted[wanted["task"] == task], "run"):
            _line(figure, row, col, rows, "value", places[run], run, f"{titles[task]} %{{y:.3f}}", dark, marks=True)
        baselines = sorted(_majorities(infos, task, split))
        for baseline in baselines:
            _reference(figure, row, col, baseline, f"majority {baseline:.2f}", dark)
        figure.update_yaxes(
            range=_room([*wanted[wanted["task"] == task]["value"].dropna(), *baselines]), row=row, col=col
        )
    if wanted["step"].nunique() == 1:  # plotly would number the room around it
        figure.update_xaxes(tickvals=[int(wanted["step"].iloc[0])])
    return _with_legend(figure, len(places), dark=dark, height=_grid_height(cells))


def loss_lines(frame: pd.DataFrame, *, dark: bool = False) -> go.Figure:
    """The training loss of each task over the steps, a panel a task and a line a run.

    Args:
        frame: of `queries.losses`; its first run has the first colour.
        dark: for a dark page.
    """
    theme.need_rows(frame)
    figure, cells = _grid({task: task for task in dict.fromkeys(frame["task"])})
    places = {run: index for index, run in enumerate(dict.fromkeys(frame["run"]))}
    for task, (row, col) in cells.items():
        for run, rows in _series(frame[frame["task"] == task], "run"):
            _line(figure, row, col, rows, "loss", places[run], run, f"{task}: loss %{{y:.3f}}", dark)
    figure.update_yaxes(rangemode="tozero")
    figure.update_yaxes(title_text="training loss", col=1)
    return _with_legend(figure, len(places), dark=dark, height=_grid_height(cells))


def _grid(titles: Mapping[str, str]) -> tuple[go.Figure, dict[str, tuple[int, int]]]:
    """Panels with axes of their own, at most three side by side, and the row and column of each from 1."""
    columns = 2 if len(titles) == 4 else min(3, len(titles))
    rows = -(-len(titles) // columns)
    spacing = {"horizontal_spacing": 0.07, "vertical_spacing": 0.25 / rows}
    figure = theme.panels(list(titles.values()), rows, columns, shared_xaxes=False, shared_yaxes=False, **spacing)
    cells = {name: (index // columns + 1, index % columns + 1) for index, name in enumerate(titles)}
    for row, col in list(cells.values())[-columns:]:  # the lowest panel of each column
        figure.update_xaxes(title_text="step", row=row, col=col)
    return figure, cells


def _room(values: Sequence[float]) -> list[float] | None:
    """Limits that leave room around the values, which plotly leaves out around lines that are no traces."""
    if not values:
        return None
    low, high = min(values), max(values)
    margin = 0.1 * (high - low) or 0.05
    return [low - margin, high + margin]


def _grid_height(cells: Mapping[str, tuple[int, int]]) -> int:
    return max(row for row, _ in cells.values()) * _PLOT + 90


def _series(frame: pd.DataFrame, key: str) -> Iterator[tuple[str, pd.DataFrame]]:
    for name, rows in frame.groupby(key, sort=False):
        yield str(name), rows


def _majorities(infos: Mapping[str, RunInfo], task: str, split: str) -> set[float]:
    """What the majority baseline reaches; runs may have evaluated different examples."""
    found = set()
    for info in infos.values():
        for described in info.tasks:
            if described.name == task and (scores := described.majority.get(split)):
                found.add(round(scores[described.metrics[0]], 3))
    return found


def _line(
    figure: go.Figure,
    row: int,
    col: int,
    rows: pd.DataFrame,
    column: str,
    index: int,
    name: str,
    words: str,
    dark: bool,
    *,
    marks: bool = False,
) -> None:
    """Draw one series over the steps; one legend entry for its lines in all panels."""
    shown_before = any(trace.legendgroup == name for trace in figure.data)
    figure.add_scatter(
        x=rows["step"],
        y=rows[column],
        mode="lines+markers" if marks or len(rows) == 1 else "lines",
        line=theme.line(index, dark),
        marker={"symbol": theme.symbol(index), "size": 7},
        name=name,
        legendgroup=name,
        showlegend=not shown_before,
        hovertemplate=f"<b>{name}</b>, step %{{x}}<br>{words}<extra></extra>",
        row=row,
        col=col,
    )


def _reference(figure: go.Figure, row: int, col: int, level: float, label: str | None, dark: bool) -> None:
    """A dashed grey line across a panel, with a label at its right end."""
    colour = theme.muted(dark)
    words = {
        "annotation_text": label,
        "annotation_font": {"color": colour, "size": 11},
        "annotation_position": "bottom right",
    }
    line = {"color": colour, "dash": "dash", "width": 1.2}
    figure.add_hline(y=level, line=line, row=row, col=col, **(words if label else {}))


def _with_legend(figure: go.Figure, entries: int, *, dark: bool, height: int) -> go.Figure:
    """Finish a figure of lines; without a legend where there is one series only."""
    lines = -(-entries // 3)
    figure = theme.finish(figure, dark=dark, height=height + 20 * lines, showlegend=entries > 1)
    return figure.update_layout(margin_b=70 + 20 * lines)
