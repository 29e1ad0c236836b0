"""How much room labels take at the edges of a figure.

Plotly finds it out by itself (`automargin`), and then draws the whole figure a second time; where there is room
already, it need not. What is told here may be a few pixels too much; what is too little costs time, but hides nothing.
"""

from collections.abc import Iterator
from html import unescape
from math import cos, radians, sin
from typing import Any

import plotly.graph_objects as go

_LETTER = 6.7
"""Pixels of a letter at `theme.FONT_SIZE`, at most in the mean of a label."""
_WIDEST = 200.0
"""Of a label that room is made for; what is longer is left to plotly, which knows how wide the figure is."""
_LINE = 17
_NUMBER = "−0.05"
"""As wide as most numbers at an axis."""
_LEGEND = 32
"""Of one line below the axes."""
_BAR = 104
"""Of a colour bar with numbers and a title."""


def room(figure: go.Figure) -> dict[str, int]:
    """Margins that hold the labels and titles of all axes at the left and lower edge, and colour bars at the right one.

    Returns:
        l, b and r in pixels; those of figures without axes or bars are 0.
    """
    axes = {axis.plotly_name: axis for axis in (*figure.select_xaxes(), *figure.select_yaxes())}
    left = below = 0.0
    for name, axis in axes.items():
        letter, number = name[0], name[5:]
        across = axes.get(f"{'y' if letter == 'x' else 'x'}axis{number}")
        if axis.visible is False or (across is not None and across.domain and across.domain[0] > 0.01):
            continue  # it has none, or lies further inside
        labels = (len(unescape(label)) for label in _labels(figure, axis, letter, number))
        widest = min(max(labels, default=0) * _LETTER, _WIDEST)
        title = _LINE if axis.title.text else 0
        if letter == "y":
            left = max(left, widest + 20 + title + 3 * bool(title))
        else:
            angle = radians(abs(axis.tickangle or 0))
            high = widest * sin(angle) + _LINE * cos(angle) if widest else 0
            below = max(below, high + 21 + title)
    if below and _has_legend(figure):
        below += _LEGEND
    return {"l": round(left), "b": round(below), "r": _BAR if _has_bar(figure) else 0}


def _labels(figure: go.Figure, axis: Any, letter: str, number: str) -> Iterator[str]:
    """Beside the ticks of an axis."""
    if axis.showticklabels is False:
        return
    found = list(axis.ticktext or ())
    if not found:
        for trace in figure.data:
            values = getattr(trace, letter, None)
            if values is not None and (getattr(trace, f"{letter}axis", None) or letter) == f"{letter}{number}":
                found += [value for value in values if isinstance(value, str)]
    yield from found or [_NUMBER]


def _has_legend(figure: go.Figure) -> bool:
    named = [trace for trace in figure.data if trace.showlegend is not False]
    entries = sum(trace.showlegend is True or trace.type != "heatmap" for trace in named)
    asked = figure.layout.showlegend
    return entries > 0 and (entries > 1 if asked is None else bool(asked))


def _has_bar(figure: go.Figure) -> bool:
    scales = [getattr(trace, "marker", trace) for trace in figure.data]
    of_traces = any(getattr(scale, "showscale", None) or _is_set(scale) for scale in scales)
    return of_traces or any(_is_set(axis) and axis.showscale is not False for axis in figure.select_coloraxes())


def _is_set(scale: Any) -> bool:
    return bool(getattr(scale, "colorbar", None) and scale.colorbar.to_plotly_json())
