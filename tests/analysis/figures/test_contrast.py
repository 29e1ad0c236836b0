"""Colours of figures against what they lie on: WCAG 2.1 AA, by plotly's own scales and by hand."""

import re

import numpy as np
import plotly.graph_objects as go
import pytest
from plotly.colors import sample_colorscale, unlabel_rgb

from analysis.figures import theme
from analysis.figures.contrast import contrast

PAGE = {False: "#FFFFFF", True: "#12151C"}  # of app/.streamlit/config.toml


def rgb(colour: str) -> np.ndarray:
    if colour.startswith("rgb"):
        return np.array(unlabel_rgb(colour))
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    return np.array([int(digits[place : place + 2], 16) for place in (0, 2, 4)])


def ratio(one: str, other: str) -> float:
    """WCAG's definition, channel by channel."""
    lights = []
    for colour in (one, other):
        parts = [part / 255 for part in rgb(colour)]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        lights.append(0.2126 * red + 0.7152 * green + 0.0722 * blue)
    return (max(lights) + 0.05) / (min(lights) + 0.05)


def test_contrast_is_that_of_wcag() -> None:
    assert contrast(rgb("#000"), rgb("#fff")) == pytest.approx(21)
    rng = np.random.default_rng(0)
    for one, other in rng.integers(0, 256, (50, 2, 3)):
        names = [f"rgb({','.join(map(str, colour))})" for colour in (one, other)]
        assert contrast(one, other) == pytest.approx(ratio(*names))


@pytest.mark.parametrize("dark", [False, True])
def test_text_and_lines_stand_out_from_the_page(dark: bool) -> None:
    for text in (theme.ink(dark), theme.muted(dark), theme.against(dark), theme.along(dark)):
        assert ratio(text, PAGE[dark]) >= 4.5
    for place in range(8):
        assert ratio(theme.line(place, dark)["color"], PAGE[dark]) >= 3  # 1.4.11, of what is not text


@pytest.mark.parametrize("scale", [theme.AGREEMENT, theme.HARM, theme.AMOUNT])
def test_text_stands_out_from_every_cell(scale: str) -> None:
    figure = go.Figure()
    values = np.linspace(-1, 1, 201)
    text = np.array([f"<b>{value:.2f}</b>" for value in values])
    figure.add_heatmap(z=values[None], text=text[None], texttemplate="%{text}", coloraxis="coloraxis")
    axis = {"colorscale": scale, "cmin": -1, "cmax": 1}
    theme.finish(figure, dark=False, height=300, coloraxis=axis)
    changed = 0
    for value, shown, before in zip(values, figure.data[0].text[0], text, strict=True):
        cell = sample_colorscale(scale, [(value + 1) / 2])[0]
        own = re.fullmatch(r'<span style="color:(#\w+)">(.*)</span>', shown)
        assert (own[2] if own else shown) == before
        bright = rgb(cell) @ [0.299, 0.587, 0.114] >= 128  # how plotly chooses
        assert ratio(own[1] if own else "#444" if bright else "#fff", cell) >= 4.5
        changed += own is not None
    assert 0 < changed < len(values) / 2  # else nothing was needed, or plotly was not asked


def test_a_missing_cell_stays_as_it_is() -> None:
    figure = go.Figure()
    figure.add_heatmap(z=[[np.nan, 0.5]], text=[["–", "0.5"]], texttemplate="%{text}", coloraxis="coloraxis")
    theme.finish(figure, dark=False, height=300, coloraxis={"colorscale": theme.AGREEMENT, "cmin": -1, "cmax": 1})
    assert figure.data[0].text[0][0] == "–"
