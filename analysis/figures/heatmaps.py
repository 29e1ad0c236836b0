"""Heatmaps: which tasks agree, who is projected against whom, and in which layers since when."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from analysis.conflict.snapshots import WHOLE
from analysis.diagnosis.verdicts import Agreement
from analysis.figures import theme
from analysis.figures.hatching import draw_cells
from analysis.library.names import branch_name, branches_of
from ortho_lora.record.judge import MARKS, TOLD

_CELL = 44  # height of a row in a matrix of tasks, in pixels
WITH_NUMBERS = 12  # tasks up to which a cell has room for its number

View = Literal["cosine", "batch", "rate"]
When = Literal["before", "after", "change"]
WORDS: dict[When, str] = {"before": "before", "after": "after", "change": "difference"}


class _Cell(NamedTuple):
    value: float
    hover: str
    text: str = ""
    mark: str = ""  # of a verdict of conflict or aligned
    pair: tuple[str, str] | None = None  # of a cell that is clicked, as the frame names it


def task_heatmap(
    frame: pd.DataFrame,
    tasks: Sequence[str],
    value: View = "batch",
    *,
    when: Sequence[When] = ("before", "after"),
    noise: pd.DataFrame | None = None,
    chosen: tuple[str, str] | None = None,
    limit: float = 1.0,
    dark: bool = False,
) -> go.Figure:
    """How each pair of tasks agrees: rows branch A and B, columns before and after projection, and what it changes.

    The cosine that the verdict is on has one row: the whole model, where a snapshot tells of it, and the branches.

    Before projection a pair in conflict or aligned is in bold, or among many tasks its mark stands alone.
    `customdata` of a cell is the pair, as the frame names it.

    Args:
        frame: of `queries.task_matrix`.
        tasks: in the order of rows and columns.
        value: the cosine that the verdict is on, before projection only; mean cosine of batches; or share of negative
            ones.
        when: the columns; one alone has the branches side by side.
        noise: of `queries.noise`; writes each task's cosine with itself, between half batches, on the diagonal of the
            cosines before projection.
        chosen: the pair whose cells are outlined.
        limit: colours of cosines span -limit to limit.
    """
    theme.need_rows(frame)
    shown: list[When] = ["before"] if value == "cosine" else list(when)
    if value != "cosine":  # a rule sees branches
        frame = frame[frame["branch"] != WHOLE]
    branches = branches_of(frame["branch"])
    places = [(branch, moment) for branch in branches for moment in shown]
    titles = [branch_name(branch) if value == "cosine" else f"branch {branch}, {WORDS[m]}" for branch, m in places]
    columns = len(branches) if len(shown) == 1 else len(shown)
    rows = len(places) // columns
    height = matrix_height(len(tasks), rows)
    figure = theme.panels(titles, rows, columns, vertical_spacing=40 / height)
    for index, (branch, moment) in enumerate(places):
        row, col = index // columns + 1, index % columns + 1
        cells = {}
        for pair in frame[frame["branch"] == branch].to_dict("records"):
            one, other = pair["task_i"], pair["task_j"]
            cells[one, other] = cells[other, one] = _pair_cell(pair, value, moment)
        diagonal = {}
        if noise is not None and value == "batch" and moment == "before":
            own = noise[noise["branch"] == branch].dropna(subset="same_task_cosine")
            diagonal = dict(zip(own["task"], own["same_task_cosine"], strict=True))
        axis = "coloraxis2" if value == "rate" and moment == "change" else "coloraxis"
        _matrix(figure, row, col, tasks, cells, diagonal, dark, axis)
        for one, other in (chosen, chosen[::-1]) if chosen else ():
            width = 3 if len(tasks) <= WITH_NUMBERS else 2
            outline(figure, row, col, tasks.index(other), tasks.index(one), width)
    figure.update_layout(
        coloraxis=_rate_colours() if value == "rate" else cosine_colours(_BARS[value], limit),
        # A rate that falls is less conflict.
        coloraxis2={"colorscale": theme.CONFLICT_RATE, "cmin": -1, "cmax": 1, "showscale": False},
        hovermode="closest",
        dragmode="pan",
    )
    return theme.finish(figure, dark=dark, height=height)


def projection_pairs(
    frame: pd.DataFrame,
    tasks: Sequence[str],
    value: Literal["frequency", "removed"] = "frequency",
    *,
    dark: bool = False,
) -> go.Figure:
    """How often, or how far, each task (row) was projected against each other one (column), branch by branch.

    Args:
        frame: of `queries.projection_by_pair`.
        tasks: in the order of rows and columns.
        value: share of the measurements, or of the norm that each projection alone removes.
    """
    figure, panels = theme.branches(frame)
    for col, branch, rows in panels:
        cells = {}
        for pair in rows.to_dict("records"):
            removed = "" if pd.isna(pair["removed"]) else f"<br>each alone removes {pair['removed']:.1%} of the norm"
            task, against = theme.label(pair["task"]), theme.label(pair["against"])
            hover = (
                f"<b>{task}</b> projected against <b>{against}</b>, branch {branch}<br>"
                f"in {pair['frequency']:.1%} of {pair['measured']:,} measurements{removed}"
                if pair["measured"]
                else _not_measured(f"{task} against {against}, branch {branch}")
            )
            cells[pair["task"], pair["against"]] = _Cell(pair[value], hover, _number(pair[value], ".0%"))
        _matrix(figure, 1, col, tasks, cells, {}, dark)
        figure.update_xaxes(title_text="against", title_standoff=4, row=1, col=col)
    figure.update_yaxes(title_text="projected task", row=1, col=1)
    figure.update_layout(
        coloraxis={
            "colorscale": theme.AMOUNT,
            "cmin": 0,
            "cmax": 1 if value == "frequency" else max(0.01, frame["removed"].max(skipna=True)),
            "colorbar": theme.colour_bar("share of steps and blocks" if value == "frequency" else "share of the norm")
            | {"tickformat": ".0%"},
        }
    )
    return theme.finish(figure, dark=dark, height=matrix_height(len(tasks), 1) + 20)


def gram_heatmap(frame: pd.DataFrame, tasks: Sequence[str], *, dark: bool = False) -> go.Figure:
    """The cosines of one block in one step, before and after projection; the diagonal has the norms before.

    Args:
        frame: of `queries.one_step`, of one block.
        tasks: in the order of rows and columns.
    """
    theme.need_rows(frame)
    figure = theme.panels(["before", "after"], 1, 2)
    norms = {row[f"task_{side}"]: row[f"norm_{side}"] for row in frame.to_dict("records") for side in "ij"}
    for col, moment in enumerate(("before", "after"), 1):
        cells = {}
        for pair in frame.to_dict("records"):
            one, other, cosine = pair["task_i"], pair["task_j"], pair[f"cos_{moment}"]
            for task, against, projected in (
                (one, other, pair["projected_ij"]),
                (other, one, pair["projected_ji"]),
            ):
                names = f"<b>{theme.label(task)} – {theme.label(against)}</b>"
                words = (
                    _not_measured(names)
                    if pd.isna(cosine)
                    else f"{names}<br>cosine {moment} {cosine:+.3f}<br>norms before {norms[task]:.3g} and "
                    f"{norms[against]:.3g}{'<br>projected against it' if projected else ''}"
                )
                cells[task, against] = _Cell(cosine, words, _number(cosine, "z.2f"))
        _matrix(figure, 1, col, tasks, cells, {}, dark)
    for task, norm in norms.items() if len(tasks) <= WITH_NUMBERS else ():
        said = f"norm of {theme.label(task)}'s gradient before projection: {norm:.3g}"
        _on_diagonal(figure, 1, 1, task, f"<i>‖{norm:.2g}‖</i>", said, len(tasks))
    figure.update_layout(coloraxis=cosine_colours("cosine", 1.0))
    return theme.finish(figure, dark=dark, height=matrix_height(len(tasks), 1))


_BARS = {"cosine": "cosine", "batch": "batch cosine", "rate": "share negative"}


def cosine_colours(title: str, limit: float) -> dict[str, Any]:
    """The colour axis of cosines: red is conflict."""
    return {
        "colorscale": theme.AGREEMENT,
        "cmin": -limit,
        "cmax": limit,
        "colorbar": theme.colour_bar(title) | {"tickformat": ".2~f"},
    }


def _rate_colours() -> dict[str, Any]:
    ticks = {"tickvals": [0, 0.25, 0.5, 0.75, 1], "ticktext": ["0%", "25%", "50%<br>chance", "75%", "100%"]}
    bar = theme.colour_bar(_BARS["rate"]) | ticks
    return {"colorscale": theme.CONFLICT_RATE, "cmin": 0, "cmax": 1, "colorbar": bar}


def _pair_cell(pair: Mapping[Any, Any], value: View, when: When) -> _Cell:
    """What a cell shows of a row of `queries.task_matrix`."""
    names, two = f"{theme.label(pair['task_i'])} – {theme.label(pair['task_j'])}", (pair["task_i"], pair["task_j"])
    where = f"<b>{names}</b>, {branch_name(pair['branch'])}<br>"
    judged = Agreement.of(pair)
    if not judged.measured:
        always = " in every step" if judged.snapshot is None else ""
        return _Cell(np.nan, f"{where}not measured: a gradient is zero{always}", pair=two)
    number = pair["cosine"] if value == "cosine" else pair[f"{'cos' if value == 'batch' else 'rate'}_{when}"]
    mark = MARKS[judged.verdict] if when == "before" and judged.verdict in TOLD else ""
    lines = [f"{judged.verdict}: cosine {_range(judged.cosine, judged.cosine_low, judged.cosine_high)}"]
    if judged.snapshot is not None:
        lines[0] += f", by snapshots up to step {judged.snapshot}"
    elif pair["shares_texts"]:
        lines.append("of the batches themselves, as the tasks draw the same texts")
    if judged.steps:
        lines += [_seen(pair, name, when) for name in ("cos", "rate")]
        count = pair["measured" if when == "before" else "measured_after"]
        lines.append(f"{count:,} measured")
    shown = _number(number, ".0%" if value == "rate" else "z.2f") or mark
    return _Cell(number, where + "<br>".join(lines), shown, mark, two)


def _seen(pair: Mapping[Any, Any], name: Literal["cos", "rate"], when: When) -> str:
    """What the batches' cosines were."""
    number, bounds = pair[f"{name}_{when}"], name if when == "before" else f"{name}_{when}"
    style = "+.3f" if name == "cos" else "+.1%" if when == "change" else ".1%"
    what = "mean batch cosine" if name == "cos" else "negative"
    moment = "after less before" if when == "change" else when
    return f"{what} {moment} {_range(number, pair[f'{bounds}_low'], pair[f'{bounds}_high'], style)}"


def _range(value: float | None, low: float | None, high: float | None, style: str = "+.3f") -> str:
    said = "not known" if pd.isna(value) else f"{value:{style}}"
    return said if pd.isna(low) else f"{said}, 95% interval {low:{style}} to {high:{style}}"


def _number(number: float, style: str) -> str:
    return "" if pd.isna(number) else f"{number:{style}}"


def _matrix(
    figure: go.Figure,
    row: int,
    col: int,
    tasks: Sequence[str],
    cells: Mapping[tuple[str, str], _Cell],
    diagonal: Mapping[str, float],
    dark: bool,
    coloraxis: str = "coloraxis",
) -> None:
    """Draw a matrix of tasks; a pair without a cell counts as not measured."""
    size = (len(tasks), len(tasks))
    z = np.full(size, np.nan)
    hover, text, pairs = np.full(size, "", dtype=object), np.full(size, "", dtype=object), np.full(size, None)
    for (i, one), (j, other) in product(enumerate(tasks), repeat=2):
        if i != j:
            missing = _Cell(np.nan, _not_measured(f"{theme.label(one)} – {theme.label(other)}"))
            cell = cells.get((one, other), missing)
            z[i, j], hover[i, j], pairs[i, j] = cell.value, cell.hover, cell.pair
            if len(tasks) > WITH_NUMBERS:
                text[i, j] = cell.mark
            else:
                text[i, j] = f"<b>{cell.text}</b>" if cell.mark else cell.text
    names, many = [theme.label(task) for task in tasks], len(tasks) > WITH_NUMBERS
    missing = np.isnan(z) & ~np.eye(len(tasks), dtype=bool)
    cell_of = {"texttemplate": "%{text}", "textfont": {"size": 10 if len(tasks) > 6 else 12}}
    cell_of |= {"hovertext": hover, "hoverinfo": "text"}
    if any(cell.pair for cell in cells.values()):
        cell_of["customdata"] = pairs
    draw_cells(
        figure,
        row,
        col,
        z,
        missing,
        names,
        names,
        cell_of | {"text": text},
        cell_of | {"text": np.where(text == "", "" if many else "–", text)},
        gap=1 if many else 2,
        lines=1 if many else 3,
        coloraxis=coloraxis,
        dark=dark,
    )
    for task, number in diagonal.items() if len(tasks) <= WITH_NUMBERS else ():
        said = f"two half batches of {theme.label(task)} agree with a cosine of {number:+.3f}"
        _on_diagonal(figure, row, col, task, f"<i>{number:z.2f}</i>", said, len(tasks))
    small = {"tickfont": {"size": 9}} if len(tasks) > WITH_NUMBERS else {}
    # A task may be named like a number or a date.
    angle = -90 if small else -35
    ends = [-0.5, len(tasks) - 0.5]  # markers would have room around them
    figure.update_xaxes(
        type="category", showgrid=False, tickangle=angle, range=ends, dtick=1, row=row, col=col, **small
    )
    figure.update_yaxes(type="category", showgrid=False, range=ends[::-1], dtick=1, row=row, col=col, **small)


def _on_diagonal(figure: go.Figure, row: int, col: int, task: str, text: str, hover: str, tasks: int) -> None:
    figure.add_annotation(
        x=theme.label(task),
        y=theme.label(task),
        text=text,
        font={"size": 10 if tasks > 6 else 12},
        showarrow=False,
        hovertext=hover,
        row=row,
        col=col,
    )


def outline(figure: go.Figure, row: int, col: int, x: int, y: int, width: int = 3) -> None:
    """Draw a border around a cell."""
    line = {"color": theme.CHOSEN, "width": width}
    figure.add_shape(type="rect", x0=x - 0.5, x1=x + 0.5, y0=y - 0.5, y1=y + 0.5, line=line, row=row, col=col)


def _not_measured(where: str) -> str:
    return f"{where}<br>not measured: a gradient is zero, or nothing is recorded yet"


def _cell(tasks: int) -> int:
    """Height of a row in pixels: less where there are many."""
    return _CELL if tasks <= WITH_NUMBERS else max(15, _CELL * WITH_NUMBERS // tasks)


def matrix_height(tasks: int, rows: int) -> int:
    return rows * (max(tasks, 3) * _cell(tasks) + 40) + 90
