"""What the verdicts on pairs rest on: cosines with their intervals, of all steps and by window of steps."""

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from analysis.conflict.snapshots import WHOLE
from analysis.figures import theme
from analysis.library.names import branch_name, branches_of
from ortho_lora.record.judge import MARKS, WORTH

_ROW = 34  # height of a row, in pixels


def strengths(frame: pd.DataFrame, *, dark: bool = False) -> go.Figure:
    """The cosine of each pair on each branch with its 95% interval, and beside it the mean cosine of batches.

    Args:
        frame: of `output.data.verdict_table`; the first row is on top.
    """
    theme.need_rows(frame)
    names = frame["task_i"].map(theme.label) + " – " + frame["task_j"].map(theme.label)
    rows = frame.assign(place=range(len(frame)), names=names)
    middle = (rows["cosine_low"] + rows["cosine_high"]) / 2
    rows["x"] = rows["cosine"].fillna(middle)  # where only the interval is known it has no marker
    colours: dict[str, str] = {"conflict": theme.against(dark), "aligned": theme.along(dark)}
    figure = go.Figure()
    for verdict, mark in MARKS.items():
        shown = rows[rows["verdict"] == verdict].dropna(subset="x")
        if shown.empty:
            continue
        colour = colours.get(verdict, theme.muted(dark))
        figure.add_scatter(
            x=shown["x"],
            y=shown["place"],
            error_x=theme.errors(shown["x"], shown["cosine_low"], shown["cosine_high"]),
            mode="markers",
            marker={"symbol": "diamond", "size": 10.0 * shown["cosine"].notna(), "color": colour},
            name=f"{mark} {verdict}",
            customdata=[
                f"<b>{row.names}</b>, {branch_name(row.branch)}: {verdict}<br>"
                f"cosine {'not known' if pd.isna(row.cosine) else f'{row.cosine:+.3f}'}, "
                f"95% {row.cosine_low:+.3f} to {row.cosine_high:+.3f}"
                for row in shown.itertuples()
            ],
            hovertemplate="%{customdata}<extra></extra>",
        )
    if rows["batch_cosine"].notna().any():
        figure.add_scatter(
            x=rows["batch_cosine"],
            y=rows["place"],
            mode="markers",
            marker={"symbol": "line-ns", "size": 12, "line": {"width": 2, "color": theme.ink(dark)}},
            name="batch cosine",
            hovertemplate="mean batch cosine %{x:+.3f}: what the rule saw<extra></extra>",
        )
    figure.add_vrect(-1.05, -WORTH, **_shade(dark))
    figure.add_vline(0, line={"color": theme.muted(dark), "width": 1})
    figure.update_xaxes(title_text=f"cosine (shaded: below -{WORTH:g})", range=[-1.05, 1.05], tickformat="+.2f")
    marks = frame["verdict"].map(MARKS)
    figure.update_yaxes(
        tickvals=rows["place"],
        ticktext=[
            f"{name} {mark}" if branch == WHOLE else f"{name}, {branch} {mark}"
            for name, branch, mark in zip(names, frame.branch, marks, strict=True)
        ],
        range=[len(rows) - 0.4, -0.6],
        showgrid=False,
    )
    return theme.finish(figure, dark=dark, height=_ROW * len(rows) + 130, margin={"l": 10, "r": 10, "t": 10, "b": 10})


def over_snapshots(frame: pd.DataFrame, *, dark: bool = False) -> go.Figure:
    """The cosine of a pair at each snapshot, on the whole model and each branch, with its 95% interval.

    Args:
        frame: of `queries.over_snapshots`, of the pair.
    """
    theme.need_rows(frame)
    figure = go.Figure()
    branches = branches_of(frame["branch"])
    apart = (frame["snapshot"].max() - frame["snapshot"].min()) / 80
    for index, branch in enumerate(branches):
        rows = frame[frame["branch"] == branch]
        beside = rows["snapshot"] + (index - (len(branches) - 1) / 2) * apart
        figure.add_scatter(
            x=beside,
            y=rows["cosine"],
            error_y=theme.errors(rows["cosine"], rows["cosine_low"], rows["cosine_high"]),
            mode="lines+markers",
            line=theme.line(index, dark),
            marker={"symbol": theme.symbol(index), "size": 8},
            name=branch_name(branch),
            customdata=rows[["snapshot", "cosine_low", "cosine_high"]],
            hovertemplate=(
                f"{branch_name(branch)}, step %{{customdata[0]}}<br>cosine %{{y:+.3f}}, 95% "
                "%{customdata[1]:+.3f} to %{customdata[2]:+.3f}<extra></extra>"
            ),
        )
        only = rows[rows["cosine"].isna() & rows["cosine_low"].notna()]
        half = (only["cosine_high"] - only["cosine_low"]) / 2
        figure.add_scatter(
            x=beside[only.index],
            y=only["cosine_low"] + half,
            error_y={"array": half, "thickness": 2, "width": 4, "color": theme.line(index, dark)["color"]},
            mode="markers",
            marker={"opacity": 0},
            showlegend=False,
            hovertemplate=f"{branch_name(branch)}: only its interval is known<extra></extra>",
        )
    figure.add_hrect(-1.05, -WORTH, **_shade(dark))
    figure.add_hline(0, line={"color": theme.muted(dark), "width": 1})
    figure.update_xaxes(title_text="step")
    figure.update_yaxes(title_text="cosine", range=[-1.05, 1.05], tickformat="+.2f")
    return theme.finish(figure, dark=dark, height=250, margin={"l": 10, "r": 10, "t": 10, "b": 10})


def _shade(dark: bool) -> dict[str, Any]:
    """Of the side where conflict is."""
    return {"fillcolor": theme.against(dark), "opacity": 0.07, "line_width": 0, "layer": "below"}
