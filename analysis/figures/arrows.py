"""What a conflict is: two tasks' gradients as arrows at the angle that their cosine says, and what projection does."""

import math

import plotly.graph_objects as go

from analysis.figures import theme

_Vector = tuple[float, float]


def conflict_arrows(cosine: float, names: tuple[str, str], *, dark: bool = False) -> go.Figure:
    """Two gradients of equal length and their sum: as they are, and, where they conflict, projected against each other.

    Args:
        cosine: of the two.
        names: of the tasks.
    """
    half = math.acos(max(-1.0, min(1.0, cosine))) / 2
    one, other = (-math.sin(half), math.cos(half)), (math.sin(half), math.cos(half))
    degrees = round(2 * math.degrees(half))
    conflict = cosine < 0
    titles = [f"as they are<br>{degrees}° apart, cosine {cosine:+.2f}"]
    if conflict:
        titles.append("projected<br>neither undoes the other")
    figure = theme.panels(titles, 1, len(titles), shared_yaxes=False)
    _draw(figure, 1, (one, other), names, dark)
    arc = [(0.25 * math.sin(turn * half / 20), 0.25 * math.cos(turn * half / 20)) for turn in range(-20, 21)]
    figure.add_scatter(
        x=[x for x, _ in arc],
        y=[y for _, y in arc],
        mode="lines",
        line={"color": theme.against(dark) if conflict else theme.along(dark), "width": 3},
        showlegend=False,
        hoverinfo="skip",
        row=1,
        col=1,
    )
    if conflict:
        projected = _without(one, other), _without(other, one)
        for before, after in zip((one, other), projected, strict=True):
            figure.add_scatter(
                x=[before[0], after[0]],
                y=[before[1], after[1]],
                mode="lines",
                line={"color": theme.against(dark), "width": 2, "dash": "dot"},
                name="removed",
                showlegend=before is one,
                legendgroup="removed",
                hovertemplate="what pointed against the other<extra></extra>",
                row=1,
                col=2,
            )
        _draw(figure, 2, projected, names, dark)
    figure.update_xaxes(visible=False, range=[-1.1, 1.1], constrain="domain")
    figure.update_yaxes(visible=False, range=[-0.1, 2.05 if cosine > 0.3 else 1.7])
    for col in range(1, len(titles) + 1):
        figure.update_yaxes(scaleanchor="x" if col == 1 else "x2", row=1, col=col)
    return theme.finish(figure, dark=dark, height=350)


def _draw(figure: go.Figure, col: int, vectors: tuple[_Vector, _Vector], names: tuple[str, str], dark: bool) -> None:
    total = (vectors[0][0] + vectors[1][0], vectors[0][1] + vectors[1][1])
    series = [
        (vectors[0], theme.label(names[0]), theme.line(0, dark)),
        (vectors[1], theme.label(names[1]), theme.line(2, dark)),
        (total, "their sum, the update", {"color": theme.ink(dark), "dash": "solid"}),
    ]
    for (x, y), name, line in series:
        figure.add_scatter(
            x=[0, x],
            y=[0, y],
            mode="lines+markers",
            line=line | {"width": 3},
            marker={"symbol": "arrow", "angleref": "previous", "size": [0, 16], "opacity": 1},
            name=name,
            legendgroup=name,
            showlegend=col == 1,
            hovertemplate=f"{name}<br>length {math.hypot(x, y):.2f} of one gradient's<extra></extra>",
            row=1,
            col=col,
        )


def _without(one: _Vector, other: _Vector) -> _Vector:
    """`one` less what of it points along `other`, of length 1."""
    product = one[0] * other[0] + one[1] * other[1]
    return one[0] - product * other[0], one[1] - product * other[1]
