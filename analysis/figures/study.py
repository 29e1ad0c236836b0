"""What a study shows: gains of methods, curves over what was varied, and what they cost."""

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from analysis.figures import theme
from analysis.outcomes.scores import MEAN
from analysis.outcomes.units import scale

_ROW = 22  # height of a method's row within a task, in pixels
_GAP = 22  # between tasks
_PANEL = 250


def method_gains(frame: pd.DataFrame, methods: Sequence[str], baseline: str, *, dark: bool = False) -> go.Figure:
    """How much better each method is than the baseline on each task, with 95% intervals; filled: more than noise.

    Args:
        frame: of `comparison.gains`, of one condition.
        methods: of the study, in the order of their colours.
        baseline: the method that others are compared with.
    """
    theme.need_rows(frame)
    tasks, shown = list(dict.fromkeys(frame["task"])), list(dict.fromkeys(frame["method"]))
    labels = {task: f"<b>{task}</b>" if task == MEAN else theme.label(task) for task in tasks}
    figure = go.Figure()
    for place, method in enumerate(shown):
        rows = _scaled(frame[frame["method"] == method])
        index = methods.index(method)
        symbols = [theme.symbol(index) + ("" if clear else "-open") for clear in rows["clear"]]
        colour = theme.line(index, dark)["color"]
        offset = (place - (len(shown) - 1) / 2) * _ROW / (_ROW * len(shown) + _GAP)
        figure.add_scatter(
            x=rows["gain"],
            y=rows["task"].map(tasks.index) + offset,
            error_x=theme.errors(rows["gain"], rows["low"], rows["high"]),
            mode="markers",
            name=theme.label(method),
            marker={"symbol": symbols, "size": 10, "color": colour, "line": {"width": 2, "color": colour}},
            customdata=rows[["task", "low", "high", "seeds"]].assign(task=rows["task"].map(theme.label)),
            hovertemplate=f"<b>{theme.label(method)}</b> against {theme.label(baseline)}, %{{customdata[0]}}<br>"
            "%{x:+.2f}, 95% %{customdata[1]:+.2f} to %{customdata[2]:+.2f}, %{customdata[3]} seeds<extra></extra>",
        )
    figure.add_vline(0, line={"color": theme.muted(dark), "width": 1.5})
    figure.update_xaxes(title_text=f"{_unit(frame)} above {theme.label(baseline)}", tickformat="+~g")
    figure.update_yaxes(
        tickvals=list(range(len(tasks))), ticktext=list(labels.values()), range=[len(tasks) - 0.5, -0.5], showgrid=False
    )
    for edge in range(1, len(tasks)):
        figure.add_hline(edge - 0.5, line={"color": theme.faint(dark), "width": 1})
    height = len(tasks) * (_ROW * len(shown) + _GAP) + 110
    return theme.finish(figure, dark=dark, height=height, margin_t=10, margin_b=70)


def axis_curves(
    frame: pd.DataFrame, axis: str, labels: Sequence[str], methods: Sequence[str], baseline: str, *, dark: bool = False
) -> go.Figure:
    """Metric, gain over the baseline, mean cosine and share of projected pairs, over what a study varies.

    Args:
        frame: of `axes.over_axes`, at one place of every other axis.
        axis: its name.
        labels: of the axis, in order; drawn to scale where all are numbers.
        methods: of the study, in the order of their colours.
        baseline: the method that others are compared with.
    """
    theme.need_rows(frame)
    unit, metric = _unit(frame), theme.label(str(frame["metric"].iloc[0]))
    task = theme.label(str(frame["task"].iloc[0]))
    panels = {
        "mean": (f"{task}: {metric}", ".2f"),
        "gain": (f"{unit} above {theme.label(baseline)}, 95%", "+~g"),
        "cosine": ("mean cosine (conflict below 0)", "+.1f"),
        "projected": ("share of pairs projected", ".0%"),
    }
    figure = theme.panels(
        [title for title, _ in panels.values()],
        2,
        2,
        shared_yaxes=False,
        horizontal_spacing=0.09,
        vertical_spacing=0.16,
    )
    numbers = _numbers(labels)
    for index, method in enumerate(methods):
        rows = _scaled(frame[frame["method"] == method])
        rows = rows.assign(place=rows[axis].map(numbers)).sort_values("place")
        for number, (column, (title, style)) in enumerate(panels.items()):
            known = rows.dropna(subset=column)
            if known.empty:
                continue
            errors = theme.errors(known["gain"], known["low"], known["high"]) if column == "gain" else None
            if column == "mean":
                errors = {"array": known["spread"], "thickness": 1.5, "width": 3}
            figure.add_scatter(
                x=known["place"],
                y=known[column],
                error_y=errors,
                mode="lines+markers",
                name=theme.label(method),
                legendgroup=method,
                showlegend=not any(trace.legendgroup == method and trace.showlegend for trace in figure.data),
                line=theme.line(index, dark),
                marker={"symbol": theme.symbol(index), "size": 8},
                customdata=known[axis].map(theme.label),
                hovertemplate=f"<b>{theme.label(method)}</b>, {theme.label(axis)} %{{customdata}}<br>"
                f"{title}: %{{y:{style}}}<extra></extra>",
                row=number // 2 + 1,
                col=number % 2 + 1,
            )
            figure.update_yaxes(tickformat=style, row=number // 2 + 1, col=number % 2 + 1)
    for row, col in ((1, 2), (2, 1)):
        figure.add_hline(y=0, line=theme.reference(dark), row=row, col=col)
    figure.update_xaxes(tickvals=list(numbers.values()), ticktext=[theme.label(label) for label in labels])
    figure.update_xaxes(title_text=theme.label(axis), row=2)
    return theme.finish(figure, dark=dark, height=2 * _PANEL + 120, margin_b=80)


def cost_and_score(frame: pd.DataFrame, methods: Sequence[str], baseline: str, *, dark: bool = False) -> go.Figure:
    """What a step of each method costs against the metric that it reached: up and to the left is better.

    Args:
        frame: of `axes.over_axes` with `relative` of `cost.costs`, of one condition.
        methods: of the study, in the order of their colours.
        baseline: whose cost is 1.
    """
    theme.need_rows(frame)
    figure = go.Figure()
    for row in frame.dropna(subset="relative").to_dict("records"):
        index = methods.index(row["method"])
        spread = None if pd.isna(row["spread"]) else {"array": [row["spread"]], "thickness": 1.5, "width": 3}
        figure.add_scatter(
            x=[row["relative"]],
            y=[row["mean"]],
            error_y=spread,
            mode="markers",
            name=theme.label(row["method"]),
            showlegend=True,
            marker={"size": 11, "symbol": theme.symbol(index), "color": theme.line(index, dark)["color"]},
            hovertemplate=f"<b>{theme.label(row['method'])}</b><br>%{{x:.2f}} times the time of a step<br>%{{y:.3f}}"
            "<extra></extra>",
        )
    figure.add_vline(1, line=theme.reference(dark))
    figure.update_xaxes(title_text=f"time of a step, {theme.label(baseline)} is 1")
    title = f"{theme.label(str(frame['task'].iloc[0]))}: {theme.label(str(frame['metric'].iloc[0]))}"
    spreads = frame["spread"].fillna(0)
    low, high = float((frame["mean"] - spreads).min()), float((frame["mean"] + spreads).max())
    room = max(0.08 * (high - low), 0.005)
    figure.update_yaxes(title_text=title, tickformat=".2f", range=[low - room, high + room])
    return theme.finish(figure, dark=dark, height=_PANEL + 110, margin_t=10, margin_b=70)


def _numbers(labels: Sequence[str]) -> dict[str, float]:
    """Where each label stands: at its number, or at its place where not all are numbers."""
    try:
        return {label: float(label) for label in labels}
    except ValueError:
        return {label: float(place) for place, label in enumerate(labels)}


def _scaled(rows: pd.DataFrame) -> pd.DataFrame:
    """Differences in the unit that they are told in."""
    factors = rows["metric"].map(scale)
    return rows.assign(**{name: rows[name] * factors for name in ("gain", "low", "high")})


def _unit(frame: pd.DataFrame) -> str:
    scales = set(frame["metric"].map(scale))
    return "points" if scales == {100} else "metric" if scales == {1} else "points, errors as they are,"
