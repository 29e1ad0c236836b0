"""What the verdicts on pairs rest on: cosines with their intervals, of all steps and by window of steps."""

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from analysis import theme
from analysis.verdicts import MARKS, Verdict

_ROW = 34  # height of a row, in pixels
_NARROWEST = 0.2  # the axis shows cosines from minus to plus this at least
_KINDS = [("cosine", "raw", "circle-open", -0.15), ("corrected", "corrected for noise", "diamond", 0.15)]


def strengths(frame: pd.DataFrame, *, dark: bool = False) -> go.Figure:
    """The cosine of each pair on each branch with its 95% interval, raw and corrected for batch noise.

    Args:
        frame: of `export.verdict_table`; the first row is on top.
        dark: for a dark page.
    """
    theme.need_rows(frame)
    names = frame["task_i"].map(theme.label) + " – " + frame["task_j"].map(theme.label)
    rows = frame.assign(place=range(len(frame)), names=names)
    both = frame["corrected"].notna().any()
    figure = go.Figure()
    for verdict, mark in MARKS.items():
        for column, kind, symbol, lift in _KINDS:
            shown = rows[rows["verdict"] == verdict].dropna(subset=column)
            if shown.empty:
                continue
            low, high = f"{column}_low", f"{column}_high"
            figure.add_scatter(
                x=shown[column],
                y=shown["place"] + (lift if both else 0),
                error_x=_errors(shown[high] - shown[column], shown[column] - shown[low]),
                mode="markers",
                marker={"symbol": symbol, "size": 10, "color": _colour(verdict, dark), "line": {"width": 2}},
                name=f"{mark} {verdict}, {kind}",
                customdata=shown[["names", "branch", low, high]],
                hovertemplate=(
                    f"<b>%{{customdata[0]}}</b>, branch %{{customdata[1]}}: {verdict}<br>cosine, {kind}: %{{x:+.3f}}, "
                    "95% %{customdata[2]:+.3f} to %{customdata[3]:+.3f}<extra></extra>"
                ),
            )
    ends = frame[[f"{column}{end}" for column, *_ in _KINDS for end in ("", "_low", "_high")]].abs().max().max()
    reach = min(1.08 * max(_NARROWEST, ends if pd.notna(ends) else 0.0), 1.05)
    figure.add_vrect(-reach, 0, **_shade(dark))
    figure.add_vline(0, line={"color": theme.muted(dark), "width": 1})
    figure.update_xaxes(title_text="cosine (conflict below 0)", range=[-reach, reach], tickformat="+.2f")
    marks = frame["verdict"].map(MARKS)
    figure.update_yaxes(
        tickvals=rows["place"],
        ticktext=[f"{name}, {branch} {mark}" for name, branch, mark in zip(names, frame.branch, marks, strict=True)],
        range=[len(rows) - 0.4, -0.6],
        showgrid=False,
    )
    return theme.finish(figure, dark=dark, height=_ROW * len(rows) + 130, margin={"l": 10, "r": 10, "t": 10, "b": 10})


def windows(frame: pd.DataFrame, *, dark: bool = False) -> go.Figure:
    """The mean cosine of a pair in windows of steps, each with its own 95% interval.

    Args:
        frame: branch, first and last step, cosine, low, high; a row a window.
        dark: for a dark page.
    """
    theme.need_rows(frame)
    figure = go.Figure()
    for index, (branch, rows) in enumerate(frame.groupby("branch")):
        figure.add_scatter(
            x=(rows["first"] + rows["last"]) / 2,
            y=rows["cosine"],
            error_y=_errors(rows["high"] - rows["cosine"], rows["cosine"] - rows["low"]),
            mode="lines+markers",
            line=theme.line(index, dark),
            marker={"symbol": theme.symbol(index), "size": 8},
            name=f"branch {branch}",
            customdata=rows[["first", "last", "low", "high"]],
            hovertemplate=(
                f"branch {branch}, steps %{{customdata[0]}} to %{{customdata[1]}}<br>cosine %{{y:+.3f}}, 95% "
                "%{customdata[2]:+.3f} to %{customdata[3]:+.3f}<extra></extra>"
            ),
        )
    lowest = min(float(frame[["cosine", "low"]].min().min()) * 1.15, -0.05)
    highest = max(float(frame[["cosine", "high"]].max().max()) * 1.15, 0.05)
    figure.add_hrect(lowest, 0, **_shade(dark))
    figure.add_hline(0, line={"color": theme.muted(dark), "width": 1})
    figure.update_xaxes(title_text="step")
    figure.update_yaxes(title_text="mean cosine", range=[lowest, highest], tickformat="+.2f")
    return theme.finish(figure, dark=dark, height=250, margin={"l": 10, "r": 10, "t": 10, "b": 10})


def _colour(verdict: Verdict, dark: bool) -> str:
    """Red is conflict, blue agreement, grey neither."""
    known = {"conflict": theme.against(dark), "aligned": theme.along(dark)}
    return known.get(verdict, theme.muted(dark))


def _errors(above: pd.Series, below: pd.Series) -> dict[str, Any]:
    return {"symmetric": False, "array": above, "arrayminus": below, "thickness": 2, "width": 4}


def _shade(dark: bool) -> dict[str, Any]:
    """Of the side where conflict is."""
    return {"fillcolor": theme.against(dark), "opacity": 0.07, "line_width": 0, "layer": "below"}
