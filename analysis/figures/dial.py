"""How a run answers to the conflict dial."""

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from analysis.figures import theme
from analysis.figures.lines import add_line

_TITLES = ("cosine of the two", "what pcgrad would do", "accuracy at the end")


def dial_lines(frame: pd.DataFrame, rho: float, *, dark: bool = False) -> go.Figure:
    """Cosine, projection and metrics over the share of flipped labels, with one position of the dial marked.

    Args:
        frame: of `dial.answers`.
        rho: the position.
    """
    theme.need_rows(frame)
    figure = theme.panels(_TITLES, 1, 3, shared_yaxes=False, horizontal_spacing=0.08)
    figure.add_scatter(
        x=[0, 1],
        y=[1, -1],
        name="1 - 2ρ",
        mode="lines",
        line={"color": theme.muted(dark), "dash": "dot", "width": 1.5},
        hoverinfo="skip",
        row=1,
        col=1,
    )
    frame = frame.rename(columns={"rho": "ρ"})
    shown: dict[str, Any] = {"dark": dark, "x": "ρ", "marks": True}
    for index, (branch, rows) in enumerate(frame.groupby("branch")):
        error = theme.errors(rows["cosine"], rows["low"], rows["high"], thickness=1)
        add_line(figure, 1, 1, rows, "cosine", index, f"cosine on branch {branch}", "%{y:.2f}", error_y=error, **shown)
    once = frame.drop_duplicates("ρ")
    for col, named in (
        (2, {"projected": "gradients projected", "removed": "norm removed"}),
        (3, {"original": "the task", "twin": "its twin"}),
    ):
        for index, (column, words) in enumerate(named.items(), 2 * (col - 1)):
            add_line(figure, 1, col, once, column, index, words, "%{y:.2f}", **shown)
    figure.add_vline(x=rho, line={"color": theme.muted(dark), "width": 8}, opacity=0.25)
    figure.update_xaxes(title_text="labels flipped, ρ", tickvals=sorted(once["ρ"]), range=[-0.06, 1.06])
    figure.update_yaxes(range=[-1.1, 1.1], row=1, col=1)
    figure.update_yaxes(tickformat=".0%", range=[-0.05, 1.05], row=1, col=2)
    figure.update_yaxes(tickformat=".0%", range=[0.25, 1.0], row=1, col=3)
    return theme.finish(figure, dark=dark, height=360)
