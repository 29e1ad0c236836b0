"""Whether what is measured tells what tasks do to each other."""

import pandas as pd
import plotly.graph_objects as go

from analysis.figures import theme
from analysis.library.names import nats_unit


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


def predicted_and_realized(frame: pd.DataFrame, *, dark: bool = False) -> go.Figure:
    """What a snapshot predicted that tasks do to each other, and what real steps did; on the diagonal both agree.

    Args:
        frame: of `compared.compared`, of one part; a task on itself is left out.
    """
    frame = frame[frame["source"] != frame["target"]].dropna(subset=["predicted", "realized"])
    theme.need_rows(frame)
    factor, unit = nats_unit(float(frame[["predicted", "realized"]].abs().max().max()))
    figure = go.Figure()
    numbers = ["predicted", "predicted_low", "predicted_high", "realized", "low", "high"]
    reach = float((factor * frame[numbers]).abs().max().max())
    figure.add_scatter(x=[-reach, reach], y=[-reach, reach], mode="lines", line=theme.reference(dark), hoverinfo="skip")
    for sure, place in ((False, 7), (True, 0)):
        rows = frame[frame["sure"] == sure]
        x, left, right, y, low, high = (factor * rows[name] for name in numbers)
        pairs = zip(rows["source"], rows["target"], strict=True)
        colour = theme.line(place, dark)["color"]
        faint = theme.muted(dark)
        figure.add_scatter(
            x=x, y=y, mode="markers", name="predicted for sure" if sure else "not sure",
            marker={"size": 9 if sure else 7, "color": colour, "symbol": "circle" if sure else "circle-open"},
            error_x=theme.errors(x, left, right, width=0, color=faint),
            error_y=theme.errors(y, low, high, width=0, color=faint),
            text=[theme.label(f"{source} on {target}") for source, target in pairs],
            hovertemplate=f"<b>%{{text}}</b><br>predicted %{{x:+.3g}}, came %{{y:+.3g}} {unit}<extra></extra>",
        )  # fmt: skip
    figure.data[0].showlegend = False
    figure.update_xaxes(title_text=f"predicted, {unit}", tickformat="+~g")
    figure.update_yaxes(title_text=f"came, {unit}", tickformat="+~g")
    return theme.finish(figure, dark=dark, height=420)
