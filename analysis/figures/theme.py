"""Colours, line styles and layout of every figure, for light and dark pages."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from analysis.figures.contrast import make_legible
from analysis.figures.margins import room
from analysis.library.names import branch_name, branches_of

# Okabe and Ito's palette, told apart with any colour vision; a dash or marker says the same a second time. On white,
# orange and sky blue are darker, for a contrast of 3.
_LIGHT = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#C17F00", "#3A97CF", "#000000", "#8C8C8C")
_DARK = ("#56B4E9", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#F0E442", "#FFFFFF", "#A6A6A6")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
SYMBOLS = ("circle", "square", "diamond", "cross", "triangle-up", "star")

AGREEMENT = "RdBu"
"""Diverging: low is red and means conflict, high is blue and means agreement, white is neither."""
CONFLICT_RATE = "RdBu_r"
"""Diverging: high is red and means conflict; white is the half that chance gives."""
HARM = "RdBu_r"
"""Diverging: high is red, the loss rises; low is blue, it falls."""
AMOUNT = "YlOrBr"
"""Sequential: more is darker."""

CHOSEN = "#E69F00"
"""Colour of the border of what is chosen, on red, blue, white and grey."""

FONT = '"Source Sans", "Source Sans Pro", "Open Sans", Arial, sans-serif'
"""The pages' own, where it is there."""
FONT_SIZE = 13


def ink(dark: bool) -> str:
    """Colour of text."""
    return "#FAFAFA" if dark else "#262730"


def faint(dark: bool) -> str:
    """Colour of grid lines."""
    return "rgba(250, 250, 250, 0.15)" if dark else "rgba(38, 39, 48, 0.12)"


def muted(dark: bool) -> str:
    """Colour of references, such as a baseline."""
    return "#A6A6A6" if dark else "#6E6E6E"


def against(dark: bool) -> str:
    """Colour of conflict, the red end of AGREEMENT."""
    return "#F4826B" if dark else "#B2182B"


def along(dark: bool) -> str:
    """Colour of agreement, its blue end."""
    return "#67A9CF" if dark else "#2166AC"


def unmeasured(dark: bool) -> str:
    """Colour of a cell that holds no measurement; on none of the scales."""
    return "#4A4D57" if dark else "#D5D5D8"


def label(name: str) -> str:
    """A name as text of a figure: shown as it is, never read as a tag, an entity or a template of plotly."""
    return "".join({"&": "&amp;", "<": "&lt;", ">": "&gt;", "%": "&#37;"}.get(letter, letter) for letter in name)


def line(index: int, dark: bool) -> dict[str, Any]:
    """Colour and dash of the series with this place."""
    palette = _DARK if dark else _LIGHT
    return {"color": palette[index % len(palette)], "dash": DASHES[index % len(DASHES)], "width": 2}


def reference(dark: bool) -> dict[str, Any]:
    """The line of what a number is read against, such as 0."""
    return {"color": muted(dark), "dash": "dash", "width": 1.2}


def errors(value: pd.Series, low: pd.Series, high: pd.Series, **style: Any) -> dict[str, Any]:
    """Error bars from an interval."""
    return {"symmetric": False, "array": high - value, "arrayminus": value - low, "thickness": 2, "width": 4} | style


def colour_bar(title: str) -> dict[str, Any]:
    """Beside a heatmap."""
    return {
        "title": {"text": title, "side": "right", "font": {"size": FONT_SIZE}},
        "thickness": 12,
        "outlinewidth": 0,
    }


def symbol(index: int) -> str:
    """Marker of the series with this place."""
    return SYMBOLS[index % len(SYMBOLS)]


def translucent(colour: str, opacity: float = 0.18) -> str:
    """A `#RRGGBB` colour to fill a band with."""
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, {opacity})"


def need_rows(frame: pd.DataFrame) -> None:
    """Raise ValueError where there is nothing to draw."""
    if frame.empty:
        raise ValueError("nothing to draw: the frame has no rows; say so on the page instead.")


def panels(titles: Sequence[str], rows: int, columns: int, **options: Any) -> go.Figure:
    """Small multiples with these titles, row by row, sharing their axes unless the options of plotly say otherwise."""
    known = {"shared_xaxes": True, "shared_yaxes": True, "horizontal_spacing": 0.03, "vertical_spacing": 0.1}
    figure = make_subplots(rows, columns, subplot_titles=[f"<b>{title}</b>" for title in titles], **known | options)
    return figure.update_annotations(font_size=FONT_SIZE)


def branches(frame: pd.DataFrame) -> tuple[go.Figure, list[tuple[int, str, pd.DataFrame]]]:
    """A panel a branch, side by side, and of each the column, the branch and its rows; ValueError: there are none."""
    need_rows(frame)
    names = branches_of(frame["branch"])
    figure = panels([branch_name(name) for name in names], 1, len(names))
    return figure, [(col, name, frame[frame["branch"] == name]) for col, name in enumerate(names, 1)]


def finish(figure: go.Figure, *, dark: bool, height: int, **layout: Any) -> go.Figure:
    """Give a figure its height, transparent background, text colours, a legend below the plot, and legible cells."""
    grid = {
        "gridcolor": faint(dark),
        "zerolinecolor": faint(dark),
        "linecolor": faint(dark),
        "tickcolor": faint(dark),
        "title_font_size": FONT_SIZE,
        "automargin": True,
    }
    axes = {axis.plotly_name: grid | {"zeroline": False} for axis in figure.select_xaxes()}
    # Without it plotly writes titles over long labels.
    axes |= {axis.plotly_name: grid | {"title_standoff": 10} for axis in figure.select_yaxes()}
    settled = {
        "height": height,
        "font": {"color": ink(dark), "size": FONT_SIZE, "family": FONT},
        "paper_bgcolor": "rgba(0, 0, 0, 0)",
        "plot_bgcolor": "rgba(0, 0, 0, 0)",
        "margin": {"l": 10, "r": 10, "t": 44, "b": 10},
        "legend": {
            "itemwidth": 45,
            "orientation": "h",
            "yref": "container",
            "y": 0,
            "yanchor": "bottom",
            "x": 0,
            "xanchor": "left",
        },
        "hoverlabel": {"align": "left"},
        "modebar": {"bgcolor": "rgba(0, 0, 0, 0)", "color": muted(dark), "activecolor": ink(dark)},
    }
    figure.update_layout(settled | axes, **layout)  # at once: plotly takes as long for one value as for many
    make_legible(figure)
    given = figure.layout.margin
    return figure.update_layout(margin={side: max(given[side], needed) for side, needed in room(figure).items()})
