"""Heatmaps: which tasks agree, who is projected against whom, and in which layers since when."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from analysis import theme
from analysis.statistics import Floats
from analysis.words import layer_name, span

_CELL = 44  # height of a row in a matrix of tasks, in pixels


class _Cell(NamedTuple):
    value: float
    hover: str


def task_heatmap(
    frame: pd.DataFrame,
    tasks: Sequence[str],
    value: Literal["cosine", "rate", "corrected"] = "cosine",
    *,
    noise: pd.DataFrame | None = None,
    limit: float = 1.0,
    dark: bool = False,
) -> go.Figure:
    """How each pair of tasks agrees: columns branch A and B, rows before and after projection.

    Args:
        frame: of `queries.task_matrix`.
        tasks: in the order of rows and columns.
        value: mean cosine; share of negative cosines; or cosine corrected for batch noise, before projection only.
        noise: of `queries.noise`; writes each task's cosine with itself, between half batches, on the diagonal of the
            cosines before projection.
        limit: colours of cosines span -limit to limit.
        dark: for a dark page.
    """
    theme.need_rows(frame)
    shown = {
        "cosine": [("cos_before", "measured", ", before"), ("cos_after", "measured_after", ", after")],
        "rate": [("rate_before", "measured", ", before"), ("rate_after", "measured_after", ", after")],
        "corrected": [("corrected", "measured", "")],
    }[value]
    branches = sorted(frame["branch"].unique())
    height = _matrix_height(len(tasks), len(shown))
    figure = theme.panels(
        [f"branch {branch}{when}" for _, _, when in shown for branch in branches],
        len(shown),
        len(branches),
        vertical_spacing=40 / height,
    )
    for (row, (column, count, _)), (col, branch) in product(enumerate(shown, 1), enumerate(branches, 1)):
        cells = {}
        for pair in frame[frame["branch"] == branch].to_dict("records"):
            one, other = pair["task_i"], pair["task_j"]
            number = pair[column]
            hover = f"<b>{one} – {other}</b>, branch {branch}<br>" + _pair_words(pair, value, column, count)
            cells[one, other] = cells[other, one] = _Cell(number, hover)
        diagonal = {}
        if noise is not None and column == "cos_before":
            own = noise[noise["branch"] == branch].dropna(subset="same_task_cosine")
            diagonal = dict(zip(own["task"], own["same_task_cosine"], strict=True))
        _matrix(figure, row, col, tasks, cells, ".0%" if value == "rate" else "z.2f", diagonal, dark)
    rate = value == "rate"
    bar = {
        "cosine": "mean cosine",
        "rate": "share of conflicts",
        "corrected": "corrected cosine",
    }[value]
    figure.update_layout(
        coloraxis={
            "colorscale": theme.CONFLICT_RATE if rate else theme.AGREEMENT,
            "cmin": 0 if rate else -limit,
            "cmax": 1 if rate else limit,
            "colorbar": _colour_bar(bar)
            | (
                {"tickvals": [0, 0.25, 0.5, 0.75, 1], "ticktext": ["0%", "25%", "50%<br>chance", "75%", "100%"]}
                if rate
                else {}
            ),
        }
    )
    return theme.finish(figure, dark=dark, height=height)


def projection_pairs(frame: pd.DataFrame, tasks: Sequence[str], *, dark: bool = False) -> go.Figure:
    """How often each task (row) was projected against each other one (column), branch by branch.

    Args:
        frame: of `queries.projection_by_pair`.
        tasks: in the order of rows and columns.
        dark: for a dark page.
    """
    theme.need_rows(frame)
    branches = sorted(frame["branch"].unique())
    figure = theme.panels([f"branch {branch}" for branch in branches], 1, len(branches))
    for col, branch in enumerate(branches, 1):
        cells = {}
        for pair in frame[frame["branch"] == branch].to_dict("records"):
            removed = "" if pd.isna(pair["removed"]) else f"<br>each alone removes {pair['removed']:.1%} of the norm"
            hover = (
                f"<b>{pair['task']}</b> projected against <b>{pair['against']}</b>, branch {branch}<br>"
                f"in {pair['frequency']:.1%} of {pair['measured']:,} measurements{removed}"
                if pair["measured"]
                else _not_measured(f"{pair['task']} against {pair['against']}, branch {branch}")
            )
            cells[pair["task"], pair["against"]] = _Cell(pair["frequency"], hover)
        _matrix(figure, 1, col, tasks, cells, ".0%", {}, dark)
        figure.update_xaxes(title_text="against", title_standoff=4, row=1, col=col)
    figure.update_yaxes(title_text="projected task", row=1, col=1)
    figure.update_layout(
        coloraxis={
            "colorscale": theme.AMOUNT,
            "cmin": 0,
            "cmax": 1,
            "colorbar": _colour_bar("share of steps and blocks") | {"tickformat": ".0%"},
        }
    )
    return theme.finish(figure, dark=dark, height=_matrix_height(len(tasks), 1) + 20)


def layer_step_heatmap(
    frame: pd.DataFrame, pair: tuple[str, str], *, limit: float = 1.0, dark: bool = False
) -> go.Figure:
    """Where and since when a pair conflicts: layers by steps, columns branch A and B, rows before and after.

    Args:
        frame: of `queries.layer_step`.
        pair: for the words.
        limit: colours span -limit to limit.
        dark: for a dark page.
    """
    theme.need_rows(frame)
    shown = [("cos_before", "before"), ("cos_after", "after")]
    branches = sorted(frame["branch"].unique())
    layers = sorted(frame["layer"].unique())
    bins = frame[["step", "step_end"]].drop_duplicates().sort_values("step")
    titles = [f"branch {branch}, {when}" for _, when in shown for branch in branches]
    figure = theme.panels(titles, 2, len(branches), horizontal_spacing=0.05)
    for (row, (column, when)), (col, branch) in product(enumerate(shown, 1), enumerate(branches, 1)):
        wide = (
            frame[frame["branch"] == branch]
            .pivot(index="layer", columns="step", values=[column, "measured"])
            .reindex(index=layers)
        )
        z = wide[column].reindex(columns=bins["step"]).to_numpy(np.float64)
        measured = wide["measured"].reindex(columns=bins["step"]).to_numpy(np.float64)
        hover = np.empty(z.shape, dtype=object)
        for (r, layer), (c, (first, last)) in product(
            enumerate(layers), enumerate(bins.itertuples(index=False, name=None))
        ):
            where = f"layer {layer_name(layer)}, {span(first, last)}, branch {branch}"
            hover[r, c] = (
                _not_measured(where)
                if np.isnan(z[r, c])
                else f"{where}<br>mean cosine {when} {z[r, c]:+.3f}<br>{measured[r, c]:,.0f} measured"
            )
        _heatmap(figure, row, col, z, hover, x=_edges(bins), y=[layer_name(layer) for layer in layers], dark=dark)
        figure.update_yaxes(type="category", row=row, col=col)
    figure.update_yaxes(title_text="layer", col=1)
    figure.update_xaxes(title_text="step", row=2)
    figure.update_layout(
        coloraxis={
            "colorscale": theme.AGREEMENT,
            "cmin": -limit,
            "cmax": limit,
            "colorbar": _colour_bar(f"mean cosine {pair[0]} – {pair[1]}"),
        }
    )
    return theme.finish(figure, dark=dark, height=2 * min(max(110, 20 * len(layers)), 300) + 110)


def _not_measured(where: str) -> str:
    return f"{where}<br>not measured: a gradient is zero, or nothing is recorded yet"


def _pair_words(pair: Mapping[str, Any], value: str, column: str, count: str) -> str:
    """What the hover says of a pair's cell."""
    if value == "corrected":
        if pd.isna(pair[column]):
            return "no corrected cosine: too little signal above the batch noise, or the tasks share their texts"
        low, high = pair["corrected_low"], pair["corrected_high"]
        interval = "" if pd.isna(low) else f"<br>95% interval {low:+.3f} to {high:+.3f}"
        return f"corrected for batch noise {pair[column]:+.3f}{interval}<br>raw mean cosine {pair['cos_before']:+.3f}"
    if not pair[count]:
        return "not measured: a gradient is zero in every step"
    name, style = ("cos", "+.3f") if value == "cosine" else ("rate", ".1%")
    low, high = pair[f"{name}_low"], pair[f"{name}_high"]
    interval = (
        f"<br>95% interval {low:{style}} to {high:{style}}" if column.endswith("before") and not pd.isna(low) else ""
    )
    what = "mean cosine" if value == "cosine" else "share of negative cosines"
    return f"{what} {pair[column]:{style}}{interval}<br>{pair[count]:,} measured"


def _matrix(
    figure: go.Figure,
    row: int,
    col: int,
    tasks: Sequence[str],
    cells: Mapping[tuple[str, str], _Cell],
    style: str,
    diagonal: Mapping[str, float],
    dark: bool,
) -> None:
    """Draw a matrix of tasks; a pair without a cell counts as not measured."""
    z = np.full((len(tasks), len(tasks)), np.nan)
    hover = np.full(z.shape, "", dtype=object)
    for (i, one), (j, other) in product(enumerate(tasks), repeat=2):
        if i != j:
            z[i, j], hover[i, j] = cells.get((one, other), _Cell(np.nan, _not_measured(f"{one} – {other}")))
    text = np.array([["" if np.isnan(number) else f"{number:{style}}" for number in line] for line in z])
    blank = np.eye(len(tasks), dtype=bool)
    _heatmap(figure, row, col, z, hover, x=tasks, y=tasks, dark=dark, text=text, blank=blank)
    for task, number in diagonal.items():
        figure.add_annotation(
            x=task,
            y=task,
            text=f"<i>{number:z.2f}</i>",
            font={"size": 10 if len(tasks) > 6 else 12},
            showarrow=False,
            hovertext=f"two half batches of {task} agree with a cosine of {number:+.3f}",
            row=row,
            col=col,
        )
    figure.update_xaxes(showgrid=False, tickangle=-35, row=row, col=col)
    figure.update_yaxes(showgrid=False, autorange="reversed", row=row, col=col)


def _heatmap(
    figure: go.Figure,
    row: int,
    col: int,
    z: Floats,
    hover: NDArray[np.object_],
    *,
    x: Sequence[Any],
    y: Sequence[Any],
    dark: bool,
    text: NDArray[np.str_] | None = None,
    blank: NDArray[np.bool_] | None = None,
) -> None:
    """Draw z on the shared colours, and its missing cells, but for `blank` ones, in grey with a hover of their own."""
    gap = 0 if text is None else 2
    text_size = 10 if len(x) > 6 else 12
    missing = np.where(np.isnan(z) & ~(False if blank is None else blank), 1.0, np.nan)
    figure.add_heatmap(
        z=z,
        x=x,
        y=y,
        text=text,
        textfont={"size": text_size},
        texttemplate=None if text is None else "%{text}",
        hovertext=hover,
        hoverinfo="text",
        hoverongaps=False,
        coloraxis="coloraxis",
        xgap=gap,
        ygap=gap,
        row=row,
        col=col,
    )
    grey = theme.unmeasured(dark)
    figure.add_heatmap(
        z=missing,
        x=x,
        y=y,
        text=None if text is None else np.where(np.isnan(missing), "", "–"),
        textfont={"size": text_size},
        texttemplate=None if text is None else "%{text}",
        hovertext=hover,
        hoverinfo="text",
        hoverongaps=False,
        colorscale=[[0, grey], [1, grey]],
        showscale=False,
        xgap=gap,
        ygap=gap,
        row=row,
        col=col,
    )


def _edges(bins: pd.DataFrame) -> list[float]:
    """Borders of the bins of steps, one more than bins."""
    return [*bins["step"].tolist(), int(bins["step_end"].iloc[-1]) + 1]


def _colour_bar(title: str) -> dict[str, Any]:
    return {
        "title": {"text": title, "side": "right", "font": {"size": theme.FONT_SIZE}},
        "thickness": 12,
        "outlinewidth": 0,
    }


def _matrix_height(tasks: int, rows: int) -> int:
    return rows * (max(tasks, 3) * _CELL + 40) + 90
