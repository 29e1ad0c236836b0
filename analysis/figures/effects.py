"""Heatmap of what each task does to each other's validation loss."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from analysis.figures import theme
from analysis.figures.hatching import draw_cells
from analysis.figures.heatmaps import WITH_NUMBERS, matrix_height
from analysis.figures.order import side_by_side
from analysis.library.names import interval, nats_unit, number
from analysis.transfer.words import unit_of

Part = Literal["nats", "pull", "crowding", "odd", "even"]
TITLES: dict[Part, str] = {
    "nats": "with the source minus without it",
    "pull": "of it pull",
    "crowding": "and crowding",
    "odd": "of it the first order",
    "even": "and what noise costs",
}


def effect_heatmap(
    frame: pd.DataFrame,
    *,
    parts: Sequence[Part] = ("nats", "pull", "crowding"),
    moment: str = "a step",
    dark: bool = False,
) -> go.Figure:
    """Sources in columns, targets in rows; red harms, and what is not sure is pale and not bold.

    Of many tasks those that help each other stand side by side. `customdata` of a cell is source and target.

    Args:
        frame: of `predicted.transfer_matrix`, or of `realized.realized_matrix`.
        parts: the panels, of which the frame has the columns.
        moment: what nats are of.
    """
    theme.need_rows(frame)
    many = max(frame["source"].nunique(), frame["target"].nunique()) > WITH_NUMBERS
    frame = _clustered(frame) if many else frame
    sources, targets = (list(dict.fromkeys(frame[name])) for name in ("source", "target"))
    factor, unit = unit_of(frame)
    figure = theme.panels([TITLES[part] for part in parts], 1, len(parts))
    x, y = ([theme.label(name) for name in of] for of in (sources, targets))
    shape = len(targets), len(sources)
    rows = frame.to_dict("records")
    pairs = np.full(len(rows), None)
    pairs[:] = [(row["source"], row["target"]) for row in rows]
    for col, part in enumerate(parts, 1):
        cells = [_cell(row, part, factor, f"{unit} {moment}") for row in rows]
        values = np.array([cell.value for cell in cells]).reshape(shape)
        sure = np.array([cell.sure for cell in cells]).reshape(shape)
        hover = np.array([cell.hover for cell in cells], dtype=object).reshape(shape)
        style = "+.1f" if np.nanmax(np.abs(values), initial=0.0) >= 10 else "+.2f"
        shown = ["" if many or np.isnan(cell.value) else number(cell.value, style) for cell in cells]
        text = [f"<b>{of}</b>" if cell.sure and of else of for of, cell in zip(shown, cells, strict=True)]
        missing = np.isnan(values)
        drawn = {"texttemplate": "%{text}", "textfont": {"size": 10 if len(sources) > 6 else 12}}
        drawn |= {"hovertext": hover, "hoverinfo": "text", "customdata": pairs.reshape(shape)}
        draw_cells(
            figure, 1, col, np.where(sure, values, _PALE * values), missing, x, y,
            drawn | {"text": np.array(text, dtype=object).reshape(shape)},
            drawn | {"text": np.where(missing, "–", "")}, gap=1 if many else 2, lines=1 if many else 3,
            coloraxis="coloraxis", dark=dark,
        )  # fmt: skip
        axis: dict[str, Any] = {"type": "category", "showgrid": False, "dtick": 1, "row": 1, "col": col}
        figure.update_xaxes(tickangle=-90 if many else -35, range=[-0.5, len(x) - 0.5], **axis)
        figure.update_yaxes(range=[len(y) - 0.5, -0.5], **axis)
    figure.update_yaxes(title_text="target", row=1, col=1)
    figure.update_layout(
        coloraxis=_colours(frame, factor, f"{unit} {moment}"),
        hovermode="closest",
        dragmode="pan",
    )
    return theme.finish(figure, dark=dark, height=matrix_height(len(targets), 1))


def effects_over_run(frame: pd.DataFrame, *, most: int = 6, dark: bool = False) -> go.Figure:
    """The same at each snapshot, small and without numbers, on common colours.

    Args:
        frame: of `predicted.over_transfer`.
        most: snapshots that are drawn, evenly chosen with the first and the last.
    """
    theme.need_rows(frame)
    steps = sorted(frame["step"].unique())
    chosen = [steps[place] for place in np.unique(np.linspace(0, len(steps) - 1, min(most, len(steps))).astype(int))]
    sources, targets = (list(dict.fromkeys(frame[name])) for name in ("source", "target"))
    factor, unit = unit_of(frame)
    figure = theme.panels([f"step {step}" for step in chosen], 1, len(chosen))
    x, y = ([theme.label(name) for name in of] for of in (sources, targets))
    for col, step in enumerate(chosen, 1):
        rows = frame[frame["step"] == step].to_dict("records")
        cells = [_cell(row, "nats", factor, f"{unit} a step") for row in rows]
        values, sure, hover = (
            np.array([cell[place] for cell in cells], dtype=of).reshape(len(targets), len(sources))
            for place, of in enumerate((np.float64, bool, object))
        )
        drawn = {"hovertext": hover, "hoverinfo": "text"}
        missing = np.isnan(values)
        draw_cells(
            figure, 1, col, np.where(sure, values, _PALE * values), missing, x, y, drawn, drawn, gap=1, lines=1,
            coloraxis="coloraxis", dark=dark,
        )  # fmt: skip
    figure.update_xaxes(type="category", showgrid=False, showticklabels=False)
    figure.update_yaxes(type="category", showgrid=False, range=[len(y) - 0.5, -0.5])
    figure.update_layout(coloraxis=_colours(frame, factor, f"{unit} a step"), hovermode="closest")
    return theme.finish(figure, dark=dark, height=min(max(26 * len(targets), 80), 320) + 70)


def _clustered(frame: pd.DataFrame) -> pd.DataFrame:
    """Its rows in an order of tasks in which those that help each other stand side by side."""
    tasks = list(dict.fromkeys([*frame["source"], *frame["target"]]))
    order = side_by_side(tasks, zip(frame["source"], frame["target"], frame["nats"], strict=True))
    place = {task: index for index, task in enumerate(order)}
    return frame.sort_values(["target", "source"], key=lambda names: names.map(place), kind="stable")


def _colours(frame: pd.DataFrame, factor: float, unit: str) -> dict[str, Any]:
    """As far as what tasks do to others: a task on itself would outshine them."""
    size = frame["nats"].abs()
    others = size[frame["source"] != frame["target"]].max()
    limit = factor * float(others if others > 0 else size.max())
    return {"colorscale": theme.HARM, "cmin": -limit, "cmax": limit, "colorbar": theme.colour_bar(unit)}


def progress_dots(mixtures: Mapping[str, pd.DataFrame], *, dark: bool = False) -> go.Figure:
    """How each target's validation loss moves a step in some mixtures, with 95% intervals; left of 0 it falls.

    Args:
        mixtures: by name, of `predicted.target_progress`; the same targets in all.
    """
    first = next(iter(mixtures.values()))
    theme.need_rows(first)
    factor, unit = nats_unit(max(float(frame["nats"].abs().max()) for frame in mixtures.values()))
    figure = go.Figure()
    targets = [theme.label(target) for target in first["target"]]
    middle = (len(mixtures) - 1) / 2
    for place, (name, frame) in enumerate(mixtures.items()):
        value, low, high = (factor * frame[column] for column in ("nats", "low", "high"))
        figure.add_scatter(
            x=value,
            y=np.arange(len(targets)) + 0.18 * (place - middle),
            name=theme.label(name),
            mode="markers",
            marker={"size": 9, "color": theme.line(place, dark)["color"]},
            error_x={"type": "data", "symmetric": False, "array": high - value, "arrayminus": value - low, "width": 0},
            text=targets,
            hovertemplate=f"<b>%{{text}}</b>, {theme.label(name)}: %{{x:+.3g}} {unit} a step<extra></extra>",
        )
    figure.add_vline(0, line=theme.reference(dark))
    figure.update_xaxes(title_text=f"{unit} of validation loss a step: left of 0 it falls", tickformat="+~g")
    ticks = np.arange(len(targets))
    figure.update_yaxes(tickvals=ticks, ticktext=targets, range=[len(targets) - 0.5, -0.5], showgrid=False)
    return theme.finish(figure, dark=dark, height=max(220, 44 * len(targets) + 110))


class _Cell(NamedTuple):
    value: float
    sure: bool
    hover: str


def _cell(row: Mapping[Any, Any], part: Part, factor: float, unit: str) -> _Cell:
    """What is said of one source and target."""
    prefix = "" if part == "nats" else f"{part}_"
    value, low, high = (factor * row[name] for name in (part, f"{prefix}low", f"{prefix}high"))
    names = f"<b>{theme.label(row['source'])}</b> on <b>{theme.label(row['target'])}</b>"
    hover = f"{names}<br>{number(value)} {unit}, 95% interval {interval(low, high)}"
    if part != "nats":
        return _Cell(value, bool(low > 0 or high < 0), hover)
    share = "" if np.isnan(row.get("share", np.nan)) else f", {100 * row['share']:+.0f}% of its own progress alone"
    return _Cell(value, row["verdict"] != "not sure", f"{hover}<br>{row['verdict']}{share}")


_PALE = 0.15
"""Of the colour that a number would have if it were sure."""
