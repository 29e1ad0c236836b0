"""Dot plots: what of the conflicts remains after projection, and what other methods would have done."""

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from analysis.figures import theme

MOST = 30
"""Pairs that are drawn."""
_ROW = 32  # height of a row of dots, in pixels


def remaining_conflicts(frame: pd.DataFrame, *, dark: bool = False) -> go.Figure:
    """Each pair's conflict rate before and after projection, branch A and B side by side.

    Of more than MOST pairs those that conflict most after it, on either branch.

    Args:
        frame: of `queries.task_matrix`.
    """
    theme.need_rows(frame)
    most = frame.fillna({"rate_after": 0.0}).groupby(["task_i", "task_j"])["rate_after"].max().nlargest(MOST)
    frame = frame[pd.MultiIndex.from_frame(frame[["task_i", "task_j"]]).isin(most.index)]
    branches = sorted(frame["branch"].unique())
    height = _ROW * max(int(frame.groupby("branch").size().max()), 3) + 140
    titles = [f"branch {branch}" for branch in branches]
    # On a phone, 100% of one panel would stand on 0% of the next.
    figure = theme.panels(titles, 1, len(branches), shared_yaxes="rows", horizontal_spacing=0.12)
    for col, branch in enumerate(branches, 1):
        pairs = frame[frame["branch"] == branch]
        names = [_pair(pair.task_i, pair.task_j) for pair in pairs.itertuples()]
        before, after = pairs["rate_before"], pairs["rate_after"]
        figure.add_scatter(
            x=[value for two in zip(before, after, strict=True) for value in (*two, None)],
            y=[name for name in names for _ in range(3)],
            mode="lines",
            line={"color": theme.muted(dark), "width": 1.5},
            hoverinfo="skip",
            showlegend=False,
            row=1,
            col=col,
        )
        for index, (when, values, symbol) in enumerate(
            (("before", before, "circle-open"), ("after", after, "diamond"))
        ):
            figure.add_scatter(
                x=values,
                y=names,
                mode="markers",
                marker={"symbol": symbol, "size": 10, "color": theme.line(index, dark)["color"], "line_width": 2},
                name=f"{when} projection",
                legendgroup=when,
                showlegend=col == 1,
                hovertemplate=f"<b>%{{y}}</b>, branch {branch}<br>conflict rate {when} %{{x:.0%}}<extra></extra>",
                row=1,
                col=col,
            )
        figure.add_vline(x=0.5, line=theme.reference(dark), row=1, col=col)  # by chance
    figure.update_xaxes(title_text="conflict rate", tickformat=".0%", range=[-0.05, 1.05])
    figure.update_yaxes(type="category", autorange="reversed")
    return theme.finish(figure, dark=dark, height=height, margin_b=60)


def replayed_methods(frame: pd.DataFrame, tasks: Sequence[str], taken: str | None, *, dark: bool = False) -> go.Figure:
    """What each method would have done: pairs projected, how far it turns a block's update, agreement with the update
    taken, steps that raise a task's loss.

    Args:
        frame: of `output.data.replay_frame` with `method`, the name of each.
        tasks: in the order of their colours.
        taken: the method of the run, marked; None: it is none of them.
    """
    theme.need_rows(frame)
    names = {
        method: f"<b>{method}</b> (taken)" if method == taken else method for method in dict.fromkeys(frame["method"])
    }
    titles = ["pairs projected", "direction", "agreement", "tasks harmed"]
    words = [
        "directed pairs projected",
        "mean cosine of a block's update with its plain sum",
        "mean cosine with the update taken",
    ]
    height = _ROW * len(names) + 150
    figure = theme.panels(titles, 1, 4, shared_xaxes=False, horizontal_spacing=0.04)
    once = frame.drop_duplicates("method")
    for col, (column, style) in enumerate((("projected", ".1%"), ("direction", ".3f"), ("agreement", ".3f")), 1):
        figure.add_scatter(
            x=once[column],
            y=[names[method] for method in once["method"]],
            mode="markers",
            marker={"size": 10, "color": theme.ink(dark)},
            cliponaxis=False,
            showlegend=False,
            hovertemplate=f"<b>%{{y}}</b><br>{words[col - 1]} %{{x:{style}}}<extra></extra>",
            row=1,
            col=col,
        )
    for index, task in enumerate(tasks):
        rows = frame[frame["task"] == task]
        figure.add_scatter(
            x=rows["task_conflict"],
            y=[names[method] for method in rows["method"]],
            mode="markers",
            marker={"size": 10, "symbol": theme.symbol(index), "color": theme.line(index, dark)["color"]},
            cliponaxis=False,
            orientation="h",
            offsetgroup=task,
            name=theme.label(task),
            customdata=rows["task_cosine"],
            hovertemplate=f"<b>%{{y}}</b><br>{theme.label(task)}: its loss raised in %{{x:.1%}} of the steps"
            "<br>mean cosine with the update %{customdata:+.3f}<extra></extra>",
            row=1,
            col=4,
        )
    figure.update_xaxes(nticks=4)
    figure.update_xaxes(tickformat=".0%", rangemode="tozero", col=1)
    figure.update_xaxes(tickformat=".0%", rangemode="tozero", col=4)
    figure.update_yaxes(type="category", autorange="reversed")
    return theme.finish(figure, dark=dark, height=height, margin_b=70, scattermode="group", scattergap=0.4)


def _pair(one: str, other: str) -> str:
    return f"{theme.label(one)} – {theme.label(other)}"


def known_cosine(frame: pd.DataFrame, truth: float, *, dark: bool = False) -> go.Figure:
    """What several ways to read a cosine make of the same batches, with 95% intervals, beside the true one.

    Args:
        frame: of `conflict.noise.estimates`.
        truth: the true cosine.
    """
    theme.need_rows(frame)
    figure = go.Figure()
    low, high = frame["low"].clip(-1, 1), frame["high"].clip(-1, 1)
    middle = frame["cosine"].fillna((low + high) / 2)
    known = frame["cosine"].notna()
    figure.add_scatter(
        x=middle,
        y=frame["estimate"],
        mode="markers",
        marker={
            "size": 11,
            "symbol": ["diamond" if of else "line-ns-open" for of in known],
            "color": theme.line(0, dark)["color"],
        },
        error_x=theme.errors(middle, low.fillna(middle), high.fillna(middle), color=theme.line(0, dark)["color"]),
        customdata=frame[["low", "high"]],
        hovertemplate="<b>%{y}</b>: %{x:+.2f}<br>95% interval %{customdata[0]:+.2f} to %{customdata[1]:+.2f}"
        "<extra></extra>",
        showlegend=False,
    )
    figure.add_vline(x=0, line=theme.reference(dark))
    figure.add_vline(x=truth, line={"color": theme.CHOSEN, "width": 3}, annotation_text="true")
    figure.update_xaxes(title_text="cosine of two tasks' gradients", range=[-1.05, 1.05], tickformat="+~g")
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False)
    return theme.finish(figure, dark=dark, height=44 * len(frame) + 110)
