"""Where in the model a pair of tasks conflicts, and since when: maps over layers, modules and steps, and one block."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from analysis.figures import theme
from analysis.figures.hatching import draw_cells
from analysis.figures.heatmaps import WORDS, When, cosine_colours, outline
from analysis.library.names import branch_name, interval, number
from ortho_lora.record.judge import MARKS
from ortho_lora.record.layers import layer_name

Block = tuple[str, int, str]
"""Branch, layer and module."""

_ROW = 18  # height of a layer, in pixels
_COLUMNS = 4  # modules side by side, at most


def layer_step_heatmap(
    frame: pd.DataFrame,
    *,
    when: Sequence[When] = ("before", "after"),
    limit: float = 1.0,
    dark: bool = False,
) -> go.Figure:
    """Where and since when a pair conflicts: layers by steps, columns branch A and B, zoomed together.

    Args:
        frame: of `queries.layer_step`.
        when: the rows: before and after projection, and what it changes.
        limit: colours span -limit to limit.
    """
    theme.need_rows(frame)
    branches = sorted(frame["branch"].unique())
    panels = {
        f"branch {branch}, {WORDS[moment]}": (frame[frame["branch"] == branch], moment)
        for moment in when
        for branch in branches
    }
    height = min(max(110, _ROW * frame["layer"].nunique()), 560 if len(when) == 1 else 320)
    return _maps(panels, len(branches), limit=limit, dark=dark, height=height)


def module_heatmaps(frame: pd.DataFrame, *, when: When = "before", limit: float = 1.0, dark: bool = False) -> go.Figure:
    """The same for each kind of module on each branch, small.

    Args:
        frame: of `queries.module_layer_step`.
        limit: as in `layer_step_heatmap`.
        when: before or after projection, or what it changes.
    """
    theme.need_rows(frame)
    panels = {
        f"{theme.label(module)} {branch}": (rows, when)
        for (module, branch), rows in frame.groupby(["module", "branch"], sort=False)
    }
    panels = dict(sorted(panels.items()))
    height = min(max(90, 8 * frame["layer"].nunique()), 200)
    return _maps(panels, min(_COLUMNS, len(panels)), limit=limit, dark=dark, height=height)


def block_heatmap(
    frame: pd.DataFrame,
    *,
    when: When = "before",
    chosen: Block | None = None,
    limit: float = 1.0,
    dark: bool = False,
) -> go.Figure:
    """The mean cosine of a pair on every block: modules by layers, columns branch A and B.

    A block that shows the verdict on its pair by itself has the verdict's mark. `customdata` of a cell is branch, layer
    and module.

    Args:
        frame: of `queries.module_layer`, with the columns clear and verdict of `queries.blocks` where they are known.
        when: before or after projection, or what it changes.
        chosen: the block that is outlined.
        limit: colours span -limit to limit.
    """
    theme.need_rows(frame)
    frame = _with_value(frame, when)
    branches, modules = sorted(frame["branch"].unique()), sorted(frame["module"].unique())
    layers = sorted(frame["layer"].unique())
    figure = theme.panels([f"branch {branch}, {WORDS[when]}" for branch in branches], 1, len(branches))
    names, numbers = [theme.label(module) for module in modules], [layer_name(layer) for layer in layers]
    for col, branch in enumerate(branches, 1):
        rows = frame[frame["branch"] == branch]
        z = _grid(rows, "value", layers, modules)
        clear = _grid(rows, "clear", layers, modules) == 1 if "clear" in rows else np.full(z.shape, False)
        text = np.where(clear & (when == "before"), np.where(z < 0, MARKS["conflict"], MARKS["aligned"]), "")
        told = rows.assign(
            words=[_block_words(row, when) for row in rows.to_dict("records")],
            block=[(branch, int(row.layer), row.module) for row in rows.itertuples()],
        )
        words, of = (_cells(told, name, layers, modules) for name in ("words", "block"))
        cell = {"hovertext": words, "hoverinfo": "text", "customdata": of}
        marks = {"text": text, "texttemplate": "%{text}", "textfont": {"size": 12}}
        draw_cells(figure, 1, col, z, np.isnan(z), names, numbers, cell | marks, cell, gap=1, lines=3, dark=dark)
        if chosen and chosen[0] == branch and chosen[1] in layers and chosen[2] in modules:
            outline(figure, 1, col, modules.index(chosen[2]), layers.index(chosen[1]))
    figure.update_xaxes(type="category", showgrid=False, range=[-0.5, len(modules) - 0.5])
    figure.update_yaxes(type="category", showgrid=False, range=[-0.5, len(layers) - 0.5])
    figure.update_yaxes(title_text="layer", col=1)
    figure.update_layout(coloraxis=cosine_colours("batch cosine", limit), hovermode="closest", dragmode="pan")
    return theme.finish(figure, dark=dark, height=max(140, 20 * len(layers)) + 110)


def snapshot_map(frame: pd.DataFrame, *, limit: float = 1.0, dark: bool = False) -> go.Figure:
    """The cosine of a pair's mean gradients: layers by snapshots, or by modules, a panel a branch.

    A cell with a verdict of conflict or aligned has its mark; one of which only the interval is known is hatched.

    Args:
        frame: of `queries.snapshot_layers` or `queries.snapshot_blocks`, of one pair.
        limit: colours span -limit to limit.
    """
    figure, panels = theme.branches(frame)
    by = "module" if "module" in frame else "step"
    layers, columns = sorted(frame["layer"].unique()), sorted(frame[by].unique())
    names, numbers = [theme.label(str(column)) for column in columns], [layer_name(layer) for layer in layers]
    for col, _, rows in panels:
        z = _grid(rows, "cosine", layers, columns, by)
        marked = rows.assign(mark=np.where(rows["clear"], np.where(rows["high"] <= 0, -1, 1), 0))
        mark = _grid(marked, "mark", layers, columns, by)
        text = np.select([mark < 0, mark > 0], [MARKS["conflict"], MARKS["aligned"]], "")
        what = f", {'module' if by == 'module' else 'snapshot at step'} "
        told = rows.assign(words=[_words(row, what + theme.label(str(row[by]))) for row in rows.to_dict("records")])
        words = pd.DataFrame(_cells(told, "words", layers, columns, by))
        cell = {"text": text, "texttemplate": "%{text}", "textfont": {"size": 12}}
        cell |= {"hovertext": words.fillna("not measured").to_numpy(), "hoverinfo": "text"}
        draw_cells(figure, 1, col, z, np.isnan(z), names, numbers, cell, cell, gap=1, lines=3, dark=dark)
    figure.update_xaxes(type="category", showgrid=False, title_text=by)
    figure.update_yaxes(type="category", showgrid=False, nticks=12)
    figure.update_yaxes(title_text="layer", row=1, col=1)
    figure.update_layout(coloraxis=cosine_colours("cosine", limit), hovermode="closest")
    return theme.finish(figure, dark=dark, height=min(max(110, _ROW * len(layers)), 560) + 130)


def layer_strip(frame: pd.DataFrame, *, dark: bool = False) -> go.Figure:
    """Where a pair of tasks agrees, at a glance: a row a branch, a column a layer; colours go as far as its cosines.

    Args:
        frame: of `queries.layer_by_layer`.
    """
    theme.need_rows(frame)
    layers, branches = sorted(frame["layer"].unique()), sorted(frame["branch"].unique())
    z, clear, high = (_grid(frame, name, layers, branches, "branch").T for name in ("cosine", "clear", "high"))
    text = np.where(clear == 1, np.where(high <= 0, MARKS["conflict"], MARKS["aligned"]), "")
    told = frame.assign(words=[_words(row) for row in frame.to_dict("records")])
    words = _cells(told, "words", layers, branches, "branch").T
    cell = {"text": text, "texttemplate": "%{text}", "hovertext": words, "hoverinfo": "text"}
    figure = theme.panels([], 1, 1)
    names, rows = [layer_name(layer) for layer in layers], [branch_name(branch) for branch in branches]
    draw_cells(figure, 1, 1, z, np.isnan(z), names, rows, cell, cell, gap=2, lines=3, dark=dark)
    figure.update_xaxes(type="category", showgrid=False, title_text="layer")
    figure.update_yaxes(type="category", showgrid=False, range=[len(rows) - 0.5, -0.5])
    reach = float(np.nanmax(np.abs(z), initial=0.0)) or 1.0
    title = "cosine" if frame["low"].notna().any() else "batch cosine"
    figure.update_layout(coloraxis=cosine_colours(title, reach), hovermode="closest")
    return theme.finish(figure, dark=dark, height=34 * len(rows) + 120)


def _words(row: Mapping[Any, Any], what: str = "") -> str:
    """What is said of a layer's cell, or of a module's or a snapshot's in it."""
    said = f"<b>layer {layer_name(row['layer'])}</b>, {branch_name(row['branch'])}{what}<br>"
    if pd.isna(row["cosine"]):
        return f"{said}not measured"
    if pd.isna(row["low"]):
        return f"{said}mean batch cosine {number(row['cosine'], '+.3f')}"
    return f"{said}cosine {number(row['cosine'], '+.3f')}, 95% interval {interval(row['low'], row['high'], '+.3f')}"


def _maps(
    panels: Mapping[str, tuple[pd.DataFrame, When]],
    columns: int,
    *,
    limit: float,
    dark: bool,
    height: int,
) -> go.Figure:
    """Maps of layers by bins of steps, `height` pixels each, on linked axes."""
    rows = -(-len(panels) // columns)
    everything = pd.concat([frame for frame, _ in panels.values()])
    layers = sorted(everything["layer"].unique())
    bins = everything[["step", "step_end"]].drop_duplicates("step").sort_values("step")
    whole = rows * (height + 40) + 90
    figure = theme.panels(
        list(panels), rows, columns, shared_xaxes="all", shared_yaxes="all", vertical_spacing=40 / whole
    )
    edges = [*bins["step"].tolist(), int(bins["step_end"].iloc[-1]) + 1]
    for index, (frame, when) in enumerate(panels.values()):
        row, col = index // columns + 1, index % columns + 1
        frame = _with_value(frame, when)
        of_bins = list(bins["step"])
        z = _grid(frame, "value", layers, of_bins, "step")
        first, last = (np.broadcast_to(bins[name].to_numpy(np.float32), z.shape) for name in ("step", "step_end"))
        said = [_grid(frame, name, layers, of_bins, "step") for name in ("low", "high", "measured")]
        hover = {
            "customdata": np.stack([first, last, *said], axis=-1),
            "hovertemplate": f"layer %{{y}}, steps %{{customdata[0]:.0f}} to %{{customdata[1]:.0f}}<br>"
            f"{_SENTENCES[when]} %{{z:+.3f}}<br>"
            f"before: lowest %{{customdata[2]:+.3f}}, highest %{{customdata[3]:+.3f}}<br>"
            "%{customdata[4]:,.0f} measured<extra></extra>",
        }
        names = [layer_name(layer) for layer in layers]
        draw_cells(figure, row, col, z, np.isnan(z), edges, names, hover, _UNMEASURED, dark=dark)
    figure.update_xaxes(showgrid=False)
    figure.update_yaxes(type="category", showgrid=False, nticks=12)
    for row in range(1, rows + 1):
        figure.update_yaxes(title_text="layer", row=row, col=1)
    for col in range(1, columns + 1):
        lowest = rows if (rows - 1) * columns + col <= len(panels) else rows - 1
        figure.update_xaxes(title_text="step", showticklabels=True, row=lowest, col=col)
    figure.update_layout(coloraxis=cosine_colours("batch cosine", limit))
    return theme.finish(figure, dark=dark, height=whole)


_UNMEASURED = {"hovertemplate": "layer %{y}<br>not measured: a gradient is zero, or nothing is recorded<extra></extra>"}
_SENTENCES = {"before": "mean batch cosine before", "after": "mean batch cosine after", "change": "after less before"}


def _with_value(frame: pd.DataFrame, when: When) -> pd.DataFrame:
    values = frame["cos_after"] - frame["cos_before"] if when == "change" else frame[f"cos_{when}"]
    return frame.assign(value=values)


def _grid(
    frame: pd.DataFrame, value: str, layers: Sequence[int], columns: Sequence[Any], column: str = "module"
) -> NDArray[np.float32]:
    return _cells(frame, value, layers, columns, column).astype(np.float32)


def _cells(
    frame: pd.DataFrame, value: str, layers: Sequence[int], columns: Sequence[Any], column: str = "module"
) -> NDArray[Any]:
    wide = frame.pivot(index="layer", columns=column, values=value).reindex(index=layers, columns=columns)
    return wide.to_numpy()


def _block_words(block: Mapping[Any, Any], when: When) -> str:
    where = f"<b>{theme.label(block['module'])}</b>, layer {layer_name(block['layer'])}, branch {block['branch']}<br>"
    if pd.isna(block["value"]):
        return where + "not measured: a gradient is zero in every step"
    lines = [f"{_SENTENCES[when]} {block['value']:+.3f}"]
    if "verdict" in block and not pd.isna(block["verdict"]):
        lines.append(f"the pair: {block['verdict']}{', and so on this block alone' if block['clear'] else ''}")
    lines.append(f"{block['measured']:,} measured")
    return where + "<br>".join(lines)
