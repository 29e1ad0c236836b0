"""Whether measured conflict tells what tasks do to each other."""

import pandas as pd
import plotly.graph_objects as go

from analysis.figures import theme


def conflict_and_transfer(frame: pd.DataFrame, *, dark: bool = False) -> go.Figure:
    """Each pair's measured conflict against what training together did to its tasks; bars: to each of the two.

    Args:
        frame: of `transfer.pair_conflicts`, of one condition.
    """
    known = frame.dropna(subset="cosine")
    theme.need_rows(known)
    names = [theme.label(f"{one} – {other}") for one, other in zip(known["task_i"], known["task_j"], strict=True)]
    shown = 100 * known[["transfer", "transfer_i", "transfer_j"]]
    ends = shown[["transfer_i", "transfer_j"]]
    figure = go.Figure()
    figure.add_scatter(
        x=known["cosine"],
        y=shown["transfer"],
        error_y=theme.errors(shown["transfer"], ends.min(axis=1), ends.max(axis=1), width=0, color=theme.muted(dark)),
        mode="markers+text",
        text=names,
        textposition="top center",
        cliponaxis=False,
        marker={
            "size": 10,
            "color": [theme.against(dark) if value < 0 else theme.along(dark) for value in shown["transfer"]],
            "symbol": ["diamond" if value < 0 else "circle" for value in shown["transfer"]],
        },
        hovertemplate="<b>%{text}</b><br>%{x:+.3f}; together %{y:+.2f} points<extra></extra>",
    )
    line = theme.reference(dark)
    figure.add_vline(0, line=line)
    figure.add_hline(0, line=line)
    values = known["cosine"]
    room = 0.25 * max(float(values.max() - values.min()), 0.02)
    low, high = min(values.min(), 0) - room, max(values.max(), 0) + room
    figure.update_xaxes(title_text="mean cosine (conflict below 0)", range=[low, high])
    lowest, highest = min(shown.min().min(), 0), max(shown.max().max(), 0)
    above = 0.15 * max(highest - lowest, 0.1)  # for the names
    figure.update_yaxes(
        title_text="points together less alone", tickformat="+~g", range=[lowest - above / 2, highest + above]
    )
    return theme.finish(figure, dark=dark, height=380, margin_t=10)
