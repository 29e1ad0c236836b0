"""How a pair of tasks agrees in each window of training, with what is known of the error."""

import pandas as pd
import plotly.graph_objects as go

from analysis.figures import theme
from analysis.library.names import span

_SERIES = {"cosine": "cosine", "cos": "batch cosine"}


def window_intervals(frame: pd.DataFrame, pair: tuple[str, str], *, dark: bool = False) -> go.Figure:
    """A pair's cosine and its mean batch cosine in each window, with 95% intervals, a panel a branch.

    Beside them, in grey, what two half batches of each task agree on.

    Args:
        frame: of `queries.windows`, of the pair.
        pair: for the words.
    """
    figure, panels = theme.branches(frame)
    shown = [column for column in _SERIES if frame[column].notna().any()]
    for col, _, rows in panels:
        middle, width = (rows["step"] + rows["step_end"]) / 2, rows["step_end"] - rows["step"] + 1
        where = [span(first, last) for first, last in zip(rows["step"], rows["step_end"], strict=True)]
        for index, column in enumerate(shown):
            line = theme.line(index, dark)
            value, low, high = (rows[name] for name in (column, f"{column}_low", f"{column}_high"))
            figure.add_scatter(
                x=middle + (index - (len(shown) - 1) / 2) * width / 12,
                y=value,
                error_y=theme.errors(value, low, high),
                mode="markers+lines",
                line=line | {"width": 1},
                marker={"symbol": theme.symbol(index), "size": 9},
                name=_SERIES[column],
                legendgroup=column,
                showlegend=col == 1,
                customdata=[
                    f"{steps}<br>{_SERIES[column]} {number:+.3f}{_interval(*ends)}"
                    for steps, number, *ends in zip(where, value, low, high, strict=True)
                ],
                hovertemplate="%{customdata}<extra></extra>",
                row=1,
                col=col,
            )
        only = rows[rows["cosine"].isna()]
        half = (only["cosine_high"] - only["cosine_low"]) / 2
        figure.add_scatter(
            x=middle[only.index],
            y=only["cosine_low"] + half,
            error_y={"array": half, "thickness": 2, "width": 4, "color": theme.line(0, dark)["color"]},
            mode="markers",
            marker={"opacity": 0},
            name="only the cosine's interval is known",
            showlegend=False,
            hovertemplate="only its interval is known<extra></extra>",
            row=1,
            col=col,
        )
        for index, side in enumerate("ij"):
            colour = theme.muted(dark)
            figure.add_scatter(
                x=middle,
                y=rows[f"same_task_{side}"],
                mode="markers",
                marker={"symbol": ("x-thin", "cross-thin")[index], "size": 8, "line": {"width": 2, "color": colour}},
                name=f"{theme.label(pair[index])} with itself",
                legendgroup=side,
                showlegend=col == 1,
                hovertemplate=f"two half batches of {theme.label(pair[index])} agree with a cosine of "
                "%{y:+.3f}<extra></extra>",
                row=1,
                col=col,
            )
        figure.add_hline(y=0, line=theme.reference(dark), row=1, col=col)
    figure.update_xaxes(title_text="step", range=[frame["step"].min() - 0.5, frame["step_end"].max() + 0.5])
    figure.update_yaxes(title_text="cosine (conflict below 0)", row=1, col=1)
    return theme.finish(figure, dark=dark, height=350, hovermode="closest").update_layout(margin_b=110)


def _interval(low: float, high: float) -> str:
    return "<br>no interval: fewer than 8 steps" if pd.isna(low) else f"<br>95% interval {low:+.3f} to {high:+.3f}"
