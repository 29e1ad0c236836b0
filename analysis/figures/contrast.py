"""Text on the cells of a heatmap, in black or white where plotly's own choice is too faint on a cell's colour.

Plotly writes `#444` on cells with a brightness above 128, which on the middle of a red scale has a contrast of 2.6.
"""

from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.colors import convert_colors_to_same_type, unlabel_rgb

LEAST = 4.5
"""Contrast of text, by WCAG 2.1 AA (1.4.3)."""
_GREY, _BRIGHT = 68.0, 128.0

Colours = NDArray[np.float64]
"""[..., 3], red, green and blue, 0 to 255."""


def luminance(colours: Colours) -> NDArray[np.float64]:
    """Relative luminance, 0 to 1 [...]; WCAG 2.1."""
    part = np.asarray(colours) / 255
    linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
    return linear @ np.array([0.2126, 0.7152, 0.0722])


def contrast(one: Colours, other: Colours) -> NDArray[np.float64]:
    """The contrast of two colours, 1 to 21 [...]; WCAG 2.1."""
    low, high = np.sort(np.broadcast_arrays(luminance(one), luminance(other)), axis=0)
    return (high + 0.05) / (low + 0.05)


def make_legible(figure: go.Figure) -> None:
    """Give the texts that are too faint on their cell a colour of their own."""
    for trace in figure.select_traces({"type": "heatmap"}):
        if trace.coloraxis and trace.texttemplate and trace.text is not None:
            cells = _colours(np.asarray(trace.z, dtype=np.float64), figure.layout[trace.coloraxis])
            white = cells @ np.array([0.299, 0.587, 0.114]) < _BRIGHT  # plotly's own measure
            plain = np.where(white[..., None], 255.0, _GREY)
            faint = contrast(cells, plain * np.ones(3)) < LEAST
            if faint.any():
                dark = contrast(cells, np.zeros(3)) > contrast(cells, np.full(3, 255.0))
                text = np.array(trace.text, dtype=object)
                for place in zip(*np.nonzero(faint & (text != "")), strict=True):
                    text[place] = f'<span style="color:{"#000" if dark[place] else "#fff"}">{text[place]}</span>'
                trace.text = text


def _colours(values: NDArray[np.float64], axis: Any) -> Colours:
    """Of cells; NaN where there is none."""
    places = np.array([place for place, _ in axis.colorscale])
    names, _ = convert_colors_to_same_type([colour for _, colour in axis.colorscale], "rgb")
    scale = np.array([unlabel_rgb(name) for name in names])
    low = np.nanmin(values) if axis.cmin is None else axis.cmin
    high = np.nanmax(values) if axis.cmax is None else axis.cmax
    at = np.clip((values - low) / ((high - low) or 1.0), 0, 1)
    return np.stack([np.interp(at, places, scale[:, part]) for part in range(3)], axis=-1)
