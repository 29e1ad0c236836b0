"""The figures of a study, by name."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeAlias

import pandas as pd

from analysis import figures
from analysis.figures.standalone import CONFIG, Drawn
from analysis.outcomes.boards import SINGLE, name_of
from analysis.study.findings import Findings
from ortho_lora.errors import OrthoLoraError

Draw: TypeAlias = Callable[..., Drawn]
"""Takes `dark`, for a dark page."""


def drawings(findings: Findings) -> dict[str, Draw]:
    """Those that have something to show, of each axis and of each condition."""
    methods, baseline = findings.methods, findings.baseline
    found: dict[str, Draw] = dict(_curves(findings)) | dict(grids(findings))
    for name, rows in by_condition("gains", findings.gains[~findings.gains["twin"].astype(bool)]):
        found[name] = partial(figures.method_gains, rows, methods, baseline)
    for name, rows in by_condition("cost", scores_with_cost(findings)):
        found[name] = partial(figures.cost_and_score, rows, methods, baseline)
    for name, rows in by_condition("transfer", findings.transfer):
        found[name] = partial(figures.transfer_heatmap, rows, list(dict.fromkeys(rows["task"])))
    for name, rows in by_condition("conflict and transfer", findings.pair_conflicts):
        found[name] = partial(figures.conflict_and_transfer, rows)
    return found


def grids(findings: Findings) -> Iterator[tuple[str, Draw]]:
    """What each method gains at every place of two axes, where a study has just two; single-task training last."""
    axes = [axis for axis, labels in findings.axes.items() if len(labels) > 1]
    gains = findings.over_axes.dropna(subset="gain")
    if len(axes) == 2:
        one, other = axes
        labels = (findings.axes[one], findings.axes[other])
        known = sorted(dict.fromkeys(gains["method"]), key=lambda method: method == SINGLE)
        for method, rows in ((method, gains[gains["method"] == method]) for method in known):
            yield f"gain of {method}", partial(figures.gain_grid, rows, (one, other), labels)


def by_condition(kind: str, frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The rows of each condition, under a name like `gains at rho=0.5`."""
    for condition, rows in frame.groupby("condition", sort=False):
        yield _named(kind, str(condition)), rows


def scores_with_cost(findings: Findings) -> pd.DataFrame:
    """The headline metric of each method with `relative`, what its steps cost."""
    costs = findings.costs.loc[findings.costs["relative"].notna(), ["condition", "method", "relative"]]
    return findings.over_axes.merge(costs, on=["condition", "method"])


def write_figures(findings: Findings, folder: Path) -> list[Path]:
    """Write every figure as a page that works offline, beside plotly's script.

    Raises:
        OrthoLoraError: the folder cannot be written.
    """
    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, draw in drawings(findings).items():
            paths.append(folder / f"{''.join(c if c.isalnum() or c in '.=-' else '-' for c in name)}.html")
            config = dict(CONFIG)  # plotly takes entries out of it
            draw(dark=False).write_html(paths[-1], include_plotlyjs="directory", config=config)
    except OSError as error:
        raise OrthoLoraError(f"{folder}: cannot be written ({error.strerror}); give another --figures.") from error
    return paths


def _curves(findings: Findings) -> Iterator[tuple[str, Draw]]:
    """Over each axis with several labels, at every place of the others."""
    frame = findings.over_axes
    for axis, labels in findings.axes.items():
        if len(labels) < 2 or frame.empty:
            continue
        others = [other for other in findings.axes if other != axis]
        for place, rows in frame.groupby(others, sort=False) if others else [((), frame)]:
            condition = name_of(tuple(zip(others, place, strict=True)))
            draw = partial(figures.axis_curves, rows, axis, labels, findings.methods, findings.baseline)
            yield _named(f"over {axis}", condition), draw


def _named(kind: str, condition: str) -> str:
    return f"{kind} at {condition}" if condition else kind
