"""Lines: projection, weights and cosines over the steps, and projection over the layers."""

from collections.abc import Iterator
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from analysis.figures import theme
from ortho_lora.record.layers import layer_name

PLOT = 240  # height of a plot, in pixels
_PROJECTION = [("frequency", "pairs projected"), ("removed", "norm removed")]


def projection_steps(frame: pd.DataFrame, *, dark: bool = False) -> go.Figure:
    """How often (above), and by how much of the norm (below), gradients are projected over the steps.

    Args:
        frame: of `queries.projection_over_steps`.
    """
    theme.need_rows(frame)
    figure = theme.panels(["", ""], 2, 1)
    for row, (column, words) in enumerate(_PROJECTION, 1):
        for index, (branch, rows) in enumerate(series_of(frame, "branch")):
            add_line(figure, row, 1, rows, column, index, f"branch {branch}", f"{words} %{{y:.1%}}", dark)
        figure.update_yaxes(title_text=words, tickformat=".0%", rangemode="tozero", row=row, col=1)
    figure.update_xaxes(title_text="step", row=2)
    return with_legend(figure, 2, dark=dark, height=2 * 200 + 90)


def projection_layers(frame: pd.DataFrame, *, dark: bool = False) -> go.Figure:
    """How often (left), and by how much of the norm (right), gradients are projected in each layer.

    Args:
        frame: of `queries.projection_by_layer`.
    """
    theme.need_rows(frame)
    named = frame.assign(layer=frame["layer"].map(layer_name))
    figure = theme.panels(["", ""], 1, 2, shared_yaxes=False, horizontal_spacing=0.12)
    for col, (column, words) in enumerate(_PROJECTION, 1):
        for index, (branch, rows) in enumerate(series_of(named, "branch")):
            said = f"{words} %{{y:.1%}}"
            add_line(figure, 1, col, rows, column, index, f"branch {branch}", said, dark, x="layer", marks=True)
        figure.update_yaxes(title_text=words, tickformat=".0%", rangemode="tozero", row=1, col=col)
    figure.update_xaxes(title_text="layer", type="category")
    return with_legend(figure, 2, dark=dark, height=PLOT + 90)


def weights_over_steps(frame: pd.DataFrame, *, dark: bool = False) -> go.Figure:
    """The weight of each task's gradient in the update, mean over blocks, beside the plain sum's 1.

    Args:
        frame: of `queries.weights`.
    """
    figure, panels = theme.branches(frame)
    places = {task: index for index, task in enumerate(dict.fromkeys(frame["task"]))}
    for col, branch, of_branch in panels:
        for task, rows in series_of(of_branch, "task"):
            words = f"branch {branch}: weight %{{y:.3f}}"
            add_line(figure, 1, col, rows, "weight", places[task], task, words, dark)
        add_reference(figure, 1, col, 1.0, "plain sum", dark)
    figure.update_xaxes(title_text="step")
    figure.update_yaxes(title_text="effective weight", row=1, col=1)
    return with_legend(figure, len(places), dark=dark, height=PLOT + 90)


def pair_lines(frame: pd.DataFrame, pair: tuple[str, str], step: int | None = None, *, dark: bool = False) -> go.Figure:
    """The cosine of a pair over the steps, before and after projection; the band spans all blocks and steps of a bin.

    Args:
        frame: of `queries.pair_over_steps`.
        pair: for the words.
        step: where a line stands; of many it is chosen by a click, `customdata` of a marker is its own.
    """
    figure, panels = theme.branches(frame)
    for col, _, rows in panels:
        colour = theme.line(0, dark)["color"]
        for column in ("low", "high") if (rows["high"] > rows["low"]).any() else ():
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
            words = f"{theme.label(pair[0])} – {theme.label(pair[1])}: mean cosine {when} %{{y:+.3f}}"
            add_line(
                figure, 1, col, rows, f"cos_{when}", index, f"mean {when}", words, dark,
                marks=step is not None, customdata=rows["step"],
            )  # fmt: skip
        add_reference(figure, 1, col, 0.0, None, dark)
    if step is not None:
        figure.add_vline(x=step, line={"color": theme.CHOSEN, "width": 2})
        figure.update_layout(hovermode="closest")
    figure.update_xaxes(title_text="step")
    figure.update_yaxes(title_text="cosine (conflict below 0)", row=1, col=1)
    return with_legend(figure, 3, dark=dark, height=PLOT + 90)


def series_of(frame: pd.DataFrame, key: str) -> Iterator[tuple[str, pd.DataFrame]]:
    for name, rows in frame.groupby(key, sort=False):
        yield str(name), rows


def add_line(
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
    x: str = "step",
    marks: bool = False,
    **options: Any,
) -> None:
    """Draw one series over a column, with options of plotly; one legend entry for its lines in all panels."""
    shown_before = any(trace.legendgroup == name and trace.showlegend for trace in figure.data)
    figure.add_scatter(
        x=rows[x],
        y=rows[column],
        mode="lines+markers" if marks or len(rows) == 1 else "lines",
        line=theme.line(index, dark),
        marker={"symbol": theme.symbol(index), "size": 7},
        name=theme.label(name),
        legendgroup=name,
        showlegend=not shown_before,
        hovertemplate=f"<b>{theme.label(name)}</b>, {x} %{{x}}<br>{words}<extra></extra>",
        row=row,
        col=col,
        **options,
    )


def add_reference(figure: go.Figure, row: int, col: int, level: float, label: str | None, dark: bool) -> None:
    """A dashed grey line across a panel, with a label at its right end."""
    words = {
        "annotation_text": label,
        "annotation_font": {"color": theme.muted(dark), "size": 11},
        "annotation_position": "bottom right",
    }
    figure.add_hline(y=level, line=theme.reference(dark), row=row, col=col, **(words if label else {}))


def with_legend(figure: go.Figure, entries: int, *, dark: bool, height: int) -> go.Figure:
    """Finish a figure of lines; without a legend where there is one series only."""
    lines = -(-entries // 3)
    figure = theme.finish(figure, dark=dark, height=height + 20 * lines, showlegend=entries > 1)
    return figure.update_layout(margin_b=70 + 20 * lines)
